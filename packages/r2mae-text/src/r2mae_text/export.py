"""`export`: a run, finished or not, as a plain transformers folder; and `fill`, a look at what the model fills in."""

import shutil
from pathlib import Path
from typing import Any

import torch

from r2mae_core import RunFolder, UserError, default_run_path, say
from r2mae_text.data.shards import Corpus
from r2mae_text.options import Export, Fill
from r2mae_text.weights import export_run, load_pretrained, pretraining_run


def export_command(config: Export) -> None:
    """`r2mae-text export`."""
    out = export(config)
    say(f"Done: {out}. In Python: transformers.AutoModelForMaskedLM.from_pretrained('{out}')")


def export(config: Export) -> Path:
    """Write the model of a run, finished or not, as a transformers folder and return the folder.

    Raises:
        UserError: the run holds neither model nor checkpoint, or the folder exists.
    """
    run, out = pretraining_run(config.run), config.out or default_run_path("r2mae-text", "export")
    if out.exists():
        raise UserError(f"{out} exists; name a new folder")
    if (run.path / "model").is_dir():
        shutil.copytree(run.path / "model", out)
    elif run.last_checkpoint is not None:
        _export_checkpoint(run, run.last_checkpoint, out)
    else:
        raise UserError(f"{run.path} holds neither model nor checkpoint yet")
    return out


def _export_checkpoint(run: RunFolder, checkpoint: Path, target: Path) -> None:
    """Export the last checkpoint of a run that has not ended."""
    from r2mae_core import read_weights
    from r2mae_text.options import Pretrain
    from r2mae_text.pretrain import start_model

    corpus = Corpus.open(run.config["corpus"])
    model = start_model(Pretrain(**{**run.config, "corpus": corpus.path}), corpus)
    state = read_weights(checkpoint)
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    export_run(model, corpus.tokenizer, target)


@torch.no_grad()
def fill(model: Any, tokenizer: Any, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each <mask> of a text, the likeliest words with their probabilities.

    Raises:
        UserError: the text has no mask token.
    """
    if tokenizer.mask_token not in text:
        raise UserError(f"the text has no {tokenizer.mask_token}: put one where a word is to be found")
    batch = tokenizer(text, return_tensors="pt")
    places = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    model.eval()
    shares = model(**batch).logits[0, places].softmax(-1)
    best = shares.topk(min(top, shares.shape[-1]))
    return [
        [(tokenizer.decode([i]).strip(), p) for i, p in zip(ids.tolist(), values.tolist(), strict=True)]
        for ids, values in zip(best.indices, best.values, strict=True)
    ]


def fill_command(config: Fill) -> None:
    """`r2mae-text fill`."""
    model, tokenizer = load_pretrained(config.model)
    for words in fill(model, tokenizer, config.text, config.top):
        say("  ".join(f"{word or '(space)'} {share:.1%}" for word, share in words))
