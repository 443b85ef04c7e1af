"""Labelled tasks: GLUE's table of columns and labels, and readers of its layouts (paper, C.6).

Two layouts are read from a folder: TASK/train.* and TASK/validation.* (.parquet, .jsonl, .tsv, as the hub has them),
and the original zip files' (MNLI/train.tsv, dev_matched.tsv …, with names for labels).
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, file_digest, left_out
from r2mae_text.data.labels import class_names, class_number, score_of
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
_NO_LABEL = ("-1", "-1.0", "None", "")  # of GLUE's test files
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
        UserError: unknown task; files or columns missing; a label that is
            unknown; fewer than two classes; damaged tables.
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
        task = Task(columns, class_names((row.get("label") for row in tables["train"]), f"{name}, train"))
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
    if len(set(columns)) < len(columns) or "label" in columns:
        raise UserError(f"--text_columns {', '.join(columns)}: a column is a text once, and the label never")


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
    quoted = name not in TASKS  # GLUE's own have no quoting
    header = not original or name != "cola"
    rows = [row for file in files for row in read_table(file, damaged, header=header, quoted=quoted)]
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
    label = row.get(task.zip_label, row.get("label"))
    return {**texts, "label": None if label == "-" else label}  # "-": MNLI's annotators did not agree


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
    if name in TASKS and all(str(row.get("label")) in _NO_LABEL for row in rows):
        raise UserError(
            f"{name}, {split}: none of {len(rows):,} rows has a label; GLUE's test sets have -1 there, so give a "
            "training and a validation file"
        )
    texts: tuple[list[str], ...] = tuple([] for _ in task.columns)
    labels: list[float] = []
    numbers = {label: i for i, label in enumerate(task.labels)}
    for number, row in enumerate(rows, 1):
        if task.labels:
            where = f"{name}, {split}: the label of row {number:,}"
            label = class_number(row.get("label"), numbers, where, by_number=name in TASKS)
        else:
            label = score_of(row.get("label"), f"{name}, {split}: the score of row {number:,}")
        if label is None:
            skipped["rows without a label"] += 1
        elif not all(_is_text(row.get(column)) for column in task.columns):
            skipped["rows without a text"] += 1
        else:
            labels.append(label)
            for column, values in zip(task.columns, texts, strict=True):
                values.append(row[column])
    if len(set(labels)) < 2:
        only = task.labels[int(labels[0])] if labels and task.labels else labels[:1]
        every = f"every row has the label {only!r}" if labels else f"none of {len(rows):,} rows is whole"
        raise UserError(f"{name}, {split}: {every}; {_reasons(skipped)}there is nothing to tell apart")
    kept = {reason: count for reason, count in skipped.items() if count}
    return Examples(texts, np.array(labels, np.int64 if task.labels else np.float32), kept)


def _reasons(skipped: Mapping[str, int]) -> str:
    return f"{left_out(skipped)}; " if any(skipped.values()) else ""


def _is_text(value: Any) -> bool:
    """Return whether a value is a text with UTF-8: JSON may hold half a character."""
    return isinstance(value, str) and not any(0xD800 <= ord(c) < 0xE000 for c in value)
