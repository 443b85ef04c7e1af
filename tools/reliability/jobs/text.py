"""Jobs of r2mae-text."""

import json
import random
from pathlib import Path

from tools.reliability.job import Job
from tools.reliability.jobs.changes import put, remove, reverse_words, write

_TRAIN = "--model tiny --length 32 --batch_size 16 --micro_batch_size 8"
_OFTEN = "--steps 24 --checkpoint_every 7 --validate_every 6 --log_every 5 --no-progress"
_TUNE = "--task_data tasks --tasks [topic] --text_columns [text] --epochs 2 --batch_size 8 --no-progress"
_PREPARE = "--vocab_size 300 --validation_share 0.2 --no-progress --workers"


def materials(folder: Path) -> None:
    """Write documents of made-up words, and a task."""
    words = [a + b for a in ("ka", "lo", "mi", "ner", "tu", "sa") for b in ("ra", "pen", "dol", "ti", "gu", "zem")]
    draw = random.Random(0)
    for name in ("texts", "other-texts"):
        (folder / name).mkdir()
        for i in range(24):
            text = " ".join(draw.choices(words, weights=range(1, len(words) + 1), k=400))
            (folder / name / f"document-{i:02}.txt").write_text(text)
    (folder / "tasks" / "topic").mkdir(parents=True)
    for part, n in (("train", 24), ("validation", 12)):
        halves = words[18:], words[:18]
        rows = [{"text": " ".join(draw.choices(halves[i % 2], k=6)), "label": i % 2} for i in range(n)]
        (folder / "tasks" / "topic" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        rows = [{"sentence": row["text"], "label": row["label"]} for row in rows]  # as GLUE calls it
        (folder / "tasks" / "sst2").mkdir(exist_ok=True)
        (folder / "tasks" / "sst2" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def jobs() -> list[Job]:
    """Return what is tried."""
    documents = {
        "a file that sorts first": write("texts/a-new.txt", "a wholly new document " * 300),
        "a file less": remove("texts/document-03.txt"),
        "a file of the same size": reverse_words("texts/document-05.txt"),
    }
    reproduce = (
        "reproduce fig1f --data corpus --ratios [0.15,0.3,0.4,0.8] --models [tiny] --length 32 --tokens 6000 "
        "--batch_size 16 --micro_batch_size 8 --task_data tasks --tasks [sst2] --epochs 1 --seeds [0] --no-progress"
    )
    return [
        Job("text", "prepare", f"prepare texts {_PREPARE} 1", ("texts",), "corpus", "--validation_share 0.5",
            documents, ("--vocab_size 3", "--validation_share 2"), kills=5, disk=True),
        Job("text", "prepare with workers", f"prepare texts {_PREPARE} 2", ("texts",), "corpus2", kills=3, cold=True,
            damage=False),
        Job("text", "prepare other texts", f"prepare other-texts {_PREPARE} 1", ("other-texts",), "other-corpus",
            maker=True),
        Job("text", "pretrain", f"pretrain corpus {_TRAIN} {_OFTEN}", ("corpus",), "run", "--seed 1",
            {"another corpus": put("corpus", "other-corpus")},
            ("--mask_ratio nonsense", "--micro_batch_size 5", "--device cuda"), kills=10, disk=True),
        Job("text", "pretrain on two devices", f"pretrain corpus {_TRAIN} {_OFTEN} --devices 2", ("corpus",), "run2",
            kills=3, cold=True, damage=False),
        Job("text", "pretrain another", f"pretrain corpus {_TRAIN} {_OFTEN} --seed 7", ("corpus",), "other-run",
            maker=True),
        Job("text", "finetune", f"finetune run {_TUNE} --seeds [0,1,2]", ("run", "tasks"), "tuned", "--lr 1e-2",
            {"a file of the same size": reverse_words("tasks/topic/train.jsonl"),
             "another model": put("run", "other-run")}, ("--tasks [missing]",), kills=4, disk=True),
        Job("text", "export", "export run", ("run",), "plain", changes={"another model": put("run", "other-run")},
            disk=True),
        Job("text", "reproduce", reproduce, ("corpus", "tasks"), "figure",
            changes={"another corpus": put("corpus", "other-corpus")}, kills=2, damage=False),
        Job("text", "fill", "fill run 'kara <mask> mipen'", ("run",)),
        Job("text", "compare", "compare run tuned", ("run", "tuned")),
    ]  # fmt: skip
