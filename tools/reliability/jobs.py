"""The jobs of each package: the smallest real commands, and what they read."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

from tools.reliability.trials import Job

_TRAIN = "--batch_size 16 --micro_batch_size 8 --checkpoint_every 7 --validate_every 6 --log_every 5"
_RESUMED = " --no-progress"


def text_materials(folder: Path) -> None:
    """Write documents of made-up words, and a task."""
    words = [a + b for a in ("ka", "lo", "mi", "ner", "tu", "sa") for b in ("ra", "pen", "dol", "ti", "gu", "zem")]
    draw = random.Random(0)
    (folder / "texts").mkdir()
    for i in range(24):
        text = " ".join(draw.choices(words, weights=range(1, len(words) + 1), k=400))
        (folder / "texts" / f"document-{i:02}.txt").write_text(text)
    (folder / "tasks" / "topic").mkdir(parents=True)
    for part, n in (("train", 24), ("validation", 12)):
        rows = [
            {"text": " ".join(draw.choices(words[:18] if i % 2 else words[18:], k=6)), "label": i % 2} for i in range(n)
        ]
        (folder / "tasks" / "topic" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def _write(path: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_text(text)

    return change


def _remove(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).unlink()

    return change


def _reverse_words(path: str) -> Callable[[Path], None]:
    """Replace a text by another of the same size."""

    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        (folder / path).write_text(" ".join(reversed(text.split(" "))))
        assert (folder / path).read_text() != text

    return change


def text() -> list[Job]:
    model = f"--model tiny --length 32 --steps 24 {_TRAIN}{_RESUMED}"
    documents = {
        "a file that sorts first": _write("texts/a-new.txt", "a wholly new document " * 300),
        "a file less": _remove("texts/document-03.txt"),
        "a file of the same size": _reverse_words("texts/document-05.txt"),
    }
    prepare = "prepare texts --vocab_size 300 --validation_share 0.2 --workers"
    tune = "--data tasks --tasks [topic] --text_columns [text] --epochs 2 --batch_size 8 --no-progress"
    return [
        Job("text", "prepare", f"{prepare} 1 --no-progress", ("texts",), "corpus", "--validation_share 0.5",
            documents, ("--vocab_size 3", "--validation_share 2"), 8, disk=True),
        Job("text", "pretrain", f"pretrain corpus {model}", ("corpus",), "run", "--seed 1",
            {}, ("--mask_ratio nonsense", "--micro_batch_size 5", "--device cuda"), 16, disk=True),
        Job("text", "pretrain on two devices", f"pretrain corpus {model} --devices 2", ("corpus",), "run2", "--seed 1",
            kills=4, cold=True, damage=False),
        Job("text", "finetune", f"finetune run {tune} --seeds [0,1,2]", ("run", "tasks"), "tuned", "--lr 1e-2",
            {"a file of the same size": _reverse_words("tasks/topic/train.jsonl")}, ("--tasks [missing]",), 6, disk=True),
        Job("text", "export", "export run", ("run",), "plain", disk=True),
        Job("text", "fill", "fill run 'kara <mask> mipen'", ("run",)),
        Job("text", "compare", "compare run tuned", ("run", "tuned")),
    ]  # fmt: skip


def dna_materials(folder: Path) -> None:
    """Write some blocks of the package's own alignment, and the variants in them."""
    from r2mae_dna.data.samples import APES, VARIANTS, sample_path

    low, high = 50_290_000, 50_330_000
    head, *blocks = gzip.decompress(sample_path(APES).read_bytes()).decode().split("\n\n")
    starts = [int(next(line for line in block.splitlines() if "Hsap" in line).split()[2]) for block in blocks[:-1]]
    kept = [block for block, start in zip(blocks, starts, strict=False) if low <= start < high]
    (folder / "apes.maf").write_text("\n\n".join([head.splitlines()[0], *kept]) + "\n\n")
    lines = gzip.decompress(sample_path(VARIANTS).read_bytes()).decode().splitlines()
    lines = [line for line in lines if line.startswith("#") or int(line.split("\t")[1]) < high]
    (folder / "variants.vcf").write_text("\n".join(lines) + "\n")


def _replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text, f"{path} has no {old}"
        (folder / path).write_text(text.replace(old, new))

    return change


def dna() -> list[Job]:
    small = "--n_hidden 32 --n_layers 1 --n_heads 2 --model tiny"
    train = f"pretrain windows {small} --steps 24 --max_windows 16 --keep best {_TRAIN}{_RESUMED}"
    windows = "prepare store --step 16 --validation_regions chr22:50,310,000-50,315,000"
    return [
        Job("dna", "msa build", "msa build Hsap apes.maf --no-progress", ("apes.maf",), "store", "--species Ptro",
            {"another letter": _replace("apes.maf", "ACGT", "ACGA")}, ("--species Nobody",), 6, disk=True),
        Job("dna", "prepare", windows, ("store",), "windows", "--window 64",
            {}, ("--only chr7:1-2000",), 6, disk=True),
        Job("dna", "pretrain", train, ("windows",), "run", "--seed 1",
            {}, ("--mask_ratio nonsense", "--micro_batch_size 5", "--device cuda"), 16, disk=True),
        Job("dna", "pretrain on two devices", f"{train} --devices 2", ("windows",), "run2", "--seed 1",
            kills=4, cold=True, damage=False),
        Job("dna", "probe", "probe run windows --max_windows 16 --no-progress", ("run", "windows"), "probed",
            "--ratios [0.5]", {}, ("--split test",), 2),
        Job("dna", "score", "score run store variants.vcf --chunk 40 --batch_size 16 --no-progress",
            ("run", "store", "variants.vcf"), "scored.vcf", "--window 64", {},
            ("--min_defined 7",), 8, disk=True),
        Job("dna", "score to parquet", "score frequencies store variants.vcf --chunk 40 --no-progress",
            ("store", "variants.vcf"), "scored.parquet", "--name other", {}, (), 2, damage=False),
        Job("dna", "evaluate", "evaluate scored.vcf --preset rare-common --bootstrap 5", ("scored.vcf",), "evaluated",
            "--seed 1", {}, ("--scores [missing]",)),
        Job("dna", "compare", "compare run probed", ("run", "probed")),
        Job("dna", "msa info", "msa info store", ("store",)),
        Job("dna", "msa show", "msa show store chr22:50,300,100-50,300,150", ("store",)),
    ]  # fmt: skip
