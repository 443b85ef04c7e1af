"""Labelled tasks: GLUE's table of columns and labels, and readers of its layouts (paper, C.6).

Two layouts are read from a folder: TASK/train.* and TASK/validation.* (.parquet, .jsonl, .tsv, as the hub has them),
and the original zip files' (MNLI/train.tsv, dev_matched.tsv …, with names for labels).
"""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError
from r2mae_text.data.movies import read_movies


@dataclass(frozen=True)
class Task:
    """The columns and labels of a task's files."""

    columns: tuple[str, ...]
    """One text or two, as the hub names them."""
    labels: tuple[str, ...]
    """Class names, by number; empty: a score (regression)."""
    splits: tuple[str, ...] = ("validation",)
    """Splits that models are evaluated on."""
    metric: str = "accuracy"
    """GLUE's own metric, besides accuracy: accuracy, f1, mcc or spearman."""
    zip_folder: str = ""
    """Folder in the original zip files."""
    zip_columns: tuple[str, ...] = ()
    """Columns there, if they have other names; numbers if the file has no header."""
    zip_label: str = "label"


_NLI = ("entailment", "neutral", "contradiction")
_YES_NO = ("entailment", "not_entailment")
TASKS: dict[str, Task] = {
    "mnli": Task(
        ("premise", "hypothesis"), _NLI, ("validation_matched", "validation_mismatched"), "accuracy", "MNLI",
        ("sentence1", "sentence2"), "gold_label",
    ),
    "qqp": Task(("question1", "question2"), ("0", "1"), metric="f1", zip_folder="QQP", zip_label="is_duplicate"),
    "sst2": Task(("sentence",), ("0", "1"), zip_folder="SST-2"),
    "qnli": Task(("question", "sentence"), _YES_NO, zip_folder="QNLI"),
    "rte": Task(("sentence1", "sentence2"), _YES_NO, zip_folder="RTE"),
    "wnli": Task(("sentence1", "sentence2"), ("0", "1"), zip_folder="WNLI"),
    "mrpc": Task(
        ("sentence1", "sentence2"), ("0", "1"), ("validation",), "f1", "MRPC", ("#1 String", "#2 String"), "Quality"
    ),
    "cola": Task(("sentence",), ("0", "1"), ("validation",), "mcc", "CoLA", ("3",), "1"),
    "stsb": Task(("sentence1", "sentence2"), (), ("validation",), "spearman", "STS-B", (), "score"),
}  # fmt: skip
_ZIP_SPLITS = {
    "train": "train",
    "validation": "dev",
    "validation_matched": "dev_matched",
    "validation_mismatched": "dev_mismatched",
}


@dataclass(frozen=True)
class Examples:
    """One split of a task."""

    texts: tuple[list[str], ...]
    """One list per column."""
    labels: np.ndarray
    """(N,) int64 classes, or float32 scores."""
    skipped: dict[str, int]
    """Rows left out, by reason."""

    def __len__(self) -> int:
        return len(self.labels)


def load_task(name: str, data: str = "hub", columns: tuple[str, ...] = ()) -> tuple[Task, dict[str, Examples]]:
    """Load a task: its description, and its splits ("train" and those to evaluate on).

    Args:
        name: of GLUE, "movies" (bundled), or of a folder in `data`.
        data: a folder, or "hub".
        columns: text columns of a task that is not GLUE's; its label column is "label".

    Raises:
        UserError: unknown task; files or columns missing; labels missing, -1 or unknown everywhere; damaged tables.
    """
    if name == "movies":
        splits = read_movies()
        found = {
            split: Examples(([text for text, _ in rows],), np.array([label for _, label in rows]), {})
            for split, rows in splits.items()
        }
        return Task(("sentence",), ("negative", "positive")), found
    if name not in TASKS and not columns:
        raise UserError(
            f"unknown task {name!r}; known: movies, {', '.join(TASKS)}; for a task of your own, give its text columns "
            "with --text_columns"
        )
    task = TASKS.get(name) or Task(columns, ())
    damaged = {split: Counter[str]() for split in ("train", *task.splits)}
    tables = {split: _read_split(name, task, split, data, count) for split, count in damaged.items()}
    if name not in TASKS:
        names = sorted({str(row.get("label")) for row in tables["train"]} - {"None", "-1"})
        task = Task(columns, tuple(names))
    return task, {split: _examples(rows, task, name, split, damaged[split]) for split, rows in tables.items()}


def _read_split(name: str, task: Task, split: str, data: str, damaged: Counter[str]) -> list[dict[str, Any]]:
    if data == "hub":
        return _from_hub(name, split)
    folder = Path(data) / name
    for ending in (".parquet", ".jsonl", ".tsv", ".csv"):
        if (folder / f"{split}{ending}").exists():
            return read_table(folder / f"{split}{ending}", damaged)
    shards = sorted(folder.glob(f"{split}-*-of-*.parquet"))
    if shards:
        return [row for shard in shards for row in read_table(shard, damaged)]
    original = Path(data) / task.zip_folder / f"{_ZIP_SPLITS.get(split, split)}.tsv"
    if task.zip_folder and original.exists():
        return [_as_on_hub(row, task) for row in read_table(original, damaged, header=name != "cola")]
    raise UserError(
        f"no {split} of {name} in {data}: looked for {name}/{split}.parquet (.jsonl, .tsv, .csv)"
        + (f" and {task.zip_folder}/{original.name}" if task.zip_folder else "")
    )


def _as_on_hub(row: dict[str, Any], task: Task) -> dict[str, Any]:
    """Rename the columns of the original zip files."""
    texts = dict(zip(task.columns, (row.get(c) for c in task.zip_columns or task.columns), strict=True))
    return {**texts, "label": row.get(task.zip_label, row.get("label"))}


def _from_hub(name: str, split: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise UserError(
            f"{name} from the hub needs the package datasets: pip install 'r2mae-text[hub]'; or give the folder of "
            "GLUE's files with --data DIR (reproduce: --glue DIR)"
        ) from None
    try:
        return list(load_dataset("nyu-mll/glue", name, split=split))  # pyright: ignore[reportReturnType]
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"GLUE's {name} is unavailable from the hub ({reason}); give --data DIR (reproduce: --glue DIR) with "
            f"{name}/train.parquet and {name}/validation.parquet, or the folder of GLUE's own zip files"
        ) from None


def read_table(file: Path, damaged: Counter[str], header: bool = True) -> list[dict[str, Any]]:
    """Read a .parquet, .jsonl, .tsv or .csv file as rows.

    Tab-separated files have no quoting, as GLUE's: a lone quote is a character like any other.

    Args:
        file: which.
        damaged: counts the rows that are left out because they have more or fewer cells than the header. GLUE's own
            files have a few.
        header: whether a .tsv's first line names the columns; else they are called "0", "1" …

    Raises:
        UserError: the file is empty, not UTF-8, has bad JSON, or more than one row in a hundred is damaged.
    """
    if file.suffix == ".parquet":
        from r2mae_text.data.sources import _parquet

        return _parquet(file).read().to_pylist()
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start:,}); convert it with iconv") from None
    lines = text.replace("\r\n", "\n").split("\n")
    lines = lines[:-1] if lines and not lines[-1] else lines
    if file.suffix == ".jsonl":
        return [_json_row(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]
    rows = list(csv.reader(lines)) if file.suffix == ".csv" else [line.split("\t") for line in lines]
    if not rows:
        raise UserError(f"{file} is empty")
    names = rows.pop(0) if header else [str(i) for i in range(len(rows[0]))]
    bad = [number for number, row in enumerate(rows, 1 + header) if len(row) != len(names)]
    if len(bad) > len(rows) / 100:
        raise UserError(
            f"{file}: {len(bad):,} of {len(rows):,} rows have more or fewer than the {len(names)} cells of the first "
            f"line (line {bad[0]} for one); tabs or line breaks inside texts? Fetch it again, or use .jsonl or .parquet"
        )
    damaged["damaged rows"] += len(bad)
    rows = [row for row in rows if len(row) == len(names)]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _json_row(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number} is not JSON ({error})") from None


def _examples(rows: list[dict[str, Any]], task: Task, name: str, split: str, skipped: Counter[str]) -> Examples:
    missing = [column for column in (*task.columns, "label") if rows and column not in rows[0]]
    if missing:
        have = ", ".join(map(str, rows[0]))
        raise UserError(f"{name}, {split}: no column {', '.join(missing)} but {have}")
    texts: tuple[list[str], ...] = tuple([] for _ in task.columns)
    labels: list[float] = []
    numbers = {label: i for i, label in enumerate(task.labels)}
    for row in rows:
        label = _label(row["label"], numbers, bool(task.labels))
        if label is None:
            skipped["rows without a label (missing, -1 or unknown)"] += 1
        elif any(not isinstance(row[column], str) for column in task.columns):
            skipped["rows without a text"] += 1
        else:
            labels.append(label)
            for column, values in zip(task.columns, texts, strict=True):
                values.append(row[column])
    if not labels:
        raise UserError(
            f"{name}, {split}: none of {len(rows):,} rows has a label; GLUE's test sets have -1 there, so give a "
            "training and a validation file"
        )
    kept = {reason: count for reason, count in skipped.items() if count}
    return Examples(texts, np.array(labels, np.int64 if task.labels else np.float32), kept)


def _label(value: Any, numbers: dict[str, int], classes: bool) -> int | float | None:
    if value is None or value == "" or str(value) in ("-1", "-"):
        return None
    if not classes:
        try:
            return float(value)
        except ValueError:
            return None
    if str(value) in numbers:
        return numbers[str(value)]
    number = int(value) if str(value).isdigit() else -1
    return number if 0 <= number < len(numbers) else None
