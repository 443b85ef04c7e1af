"""Labelled tasks: GLUE's table of columns and labels, and readers of its layouts (paper, C.6).

Two layouts are read from a folder: TASK/train.* and TASK/validation.* (.parquet, .jsonl, .tsv, as the hub has them),
and the original zip files' (MNLI/train.tsv, dev_matched.tsv …, with names for labels).
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, file_digest
from r2mae_text.data.movies import DATA, read_movies
from r2mae_text.data.tables import read_table


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
    check_task(name, columns)
    if name == "movies":
        splits = read_movies()
        found = {
            split: Examples(([text for text, _ in rows],), np.array([label for _, label in rows]), {})
            for split, rows in splits.items()
        }
        return Task(("sentence",), ("negative", "positive")), found
    task = TASKS.get(name) or Task(columns, ())
    damaged = {split: Counter[str]() for split in ("train", *task.splits)}
    tables = {split: _read_split(name, task, split, data, count) for split, count in damaged.items()}
    if name not in TASKS:
        names = sorted({str(row.get("label")) for row in tables["train"] if not _is_missing(row.get("label"))})
        if len(names) == 1:
            raise UserError(f"{name}, train: every row has the label {names[0]!r}; there is nothing to learn")
        task = Task(columns, tuple(names)) if names else Task(columns, ("0", "1"))  # refused below: no row has a label
    return task, {split: _examples(rows, task, name, split, damaged[split]) for split, rows in tables.items()}


def check_task(name: str, columns: tuple[str, ...] = ()) -> None:
    """Refuse the name of a task that is unknown, or cannot be a folder.

    Raises:
        UserError: with the known names.
    """
    if not re.fullmatch(r"\w[\w .+-]*", name):
        raise UserError(f"{name!r} is no name of a task: it names a folder in --data")
    if name != "movies" and name not in TASKS and not columns:
        raise UserError(
            f"unknown task {name!r}; known: movies, {', '.join(TASKS)}; for a task of your own, give its text columns "
            "with --text_columns"
        )


def task_sources(name: str, data: str = "hub", columns: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what names the content of a task's data, file by file.

    Raises:
        UserError: unknown task; files missing.
    """
    check_task(name, columns)
    if name == "movies":
        return {DATA.name: _content(DATA)}
    if data == "hub":
        return {name: "of the hub"}
    task = TASKS.get(name) or Task(columns, ())
    files = [file for split in ("train", *task.splits) for file in _split_files(name, task, split, data)[0]]
    return {file.name: _content(file) for file in files}


def _content(file: Path) -> str:
    return f"{file.stat().st_size:,} bytes, {file_digest(file)[:16]}"


def _read_split(name: str, task: Task, split: str, data: str, damaged: Counter[str]) -> list[dict[str, Any]]:
    if data == "hub":
        return _from_hub(name, split)
    files, original = _split_files(name, task, split, data)
    rows = [row for file in files for row in read_table(file, damaged, header=not original or name != "cola")]
    return [_as_on_hub(row, task) for row in rows] if original else rows


def _split_files(name: str, task: Task, split: str, data: str) -> tuple[list[Path], bool]:
    """Return the files of a split in a folder, and whether they are those of the original zip file."""
    folder = Path(data) / name
    for ending in (".parquet", ".jsonl", ".tsv", ".csv"):
        if (file := folder / f"{split}{ending}").exists():
            return [file], False
    if shards := sorted(folder.glob(f"{split}-*-of-*.parquet")):
        of = {shard.stem.rpartition("-")[2] for shard in shards}
        if not all(number.isdigit() and int(number) == len(shards) for number in of):
            raise UserError(f"{folder}: {len(shards)} files {split}-…-of-{min(of)}.parquet are there; fetch the others")
        return shards, False
    original = Path(data) / task.zip_folder / f"{_ZIP_SPLITS.get(split, split)}.tsv"
    if task.zip_folder and original.exists():
        return [original], True
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


def _examples(rows: list[dict[str, Any]], task: Task, name: str, split: str, skipped: Counter[str]) -> Examples:
    have = dict.fromkeys(column for row in rows for column in row)
    missing = [column for column in (*task.columns, "label") if rows and column not in have]
    if missing:
        have = ", ".join(map(str, have))
        raise UserError(f"{name}, {split}: no column {', '.join(missing)} but {have}")
    texts: tuple[list[str], ...] = tuple([] for _ in task.columns)
    labels: list[float] = []
    numbers = {label: i for i, label in enumerate(task.labels)}
    for number, row in enumerate(rows, 1):
        label = _label(row.get("label"), numbers, bool(task.labels))
        if label is not None and not math.isfinite(label):
            raise UserError(f"{name}, {split}: the score of row {number:,} is {label}, not a finite number")
        if label is None:
            skipped["rows without a label (missing, -1 or unknown)"] += 1
        elif not all(_is_text(row.get(column)) for column in task.columns):
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


def _is_text(value: Any) -> bool:
    """Return whether a value is a text with UTF-8: JSON may hold half a character."""
    return isinstance(value, str) and not any(0xD800 <= ord(c) < 0xE000 for c in value)


def _is_missing(value: Any) -> bool:
    return value is None or str(value) in ("", "-1", "-") or (isinstance(value, float) and math.isnan(value))


def _label(value: Any, numbers: dict[str, int], classes: bool) -> int | float | None:
    if not classes:
        try:
            return None if value is None or str(value) in ("", "-1", "-") else float(value)
        except (ValueError, TypeError, OverflowError):
            return None
    if _is_missing(value):
        return None
    if str(value) in numbers:
        return numbers[str(value)]
    number = int(value) if re.fullmatch(r"[0-9]{1,6}", str(value)) else -1
    return number if 0 <= number < len(numbers) else None
