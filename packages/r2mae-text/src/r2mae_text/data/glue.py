"""Labelled tasks: GLUE's table of columns and labels, and readers of its layouts (paper, C.6).

Two layouts are read from a folder: TASK/train.* and TASK/validation.* (.parquet, .jsonl, .tsv, as the hub has them),
and the original zip files' (MNLI/train.tsv, dev_matched.tsv …, with names for labels).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r2mae_core import UserError, file_digest, left_out
from r2mae_text.data.conll import CONLL, read_conll
from r2mae_text.data.labels import class_names, class_number, names_of, score_of, several_names
from r2mae_text.data.movies import DATA, read_movies
from r2mae_text.data.tables import read_table

Kind = Literal["classification", "regression", "multi_label", "token_classification"]
"""What is predicted: one class of a text, a score, any number of labels, or the class of every word."""


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
    """What decides, besides accuracy: accuracy, f1, mcc, macro_f1, micro_f1, entity_f1 or spearman."""
    zip_folder: str = ""
    """Folder in the original zip files."""
    zip_columns: tuple[str, ...] = ()
    """Columns there, if they have other names; numbers if the file has no header."""
    zip_label: str = "label"
    label_column: str = "label"
    """Column of the labels."""
    tags: bool = False
    """Whether every word has a label, and a text is a list of words."""
    several: bool = False
    """Whether a text may have any number of labels."""

    @property
    def kind(self) -> Kind:
        """What is predicted."""
        if self.tags:
            return "token_classification"
        return "multi_label" if self.several else "classification" if self.labels else "regression"


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

    texts: tuple[list[Any], ...]
    """One list per column; of texts, or of lists of words."""
    labels: np.ndarray
    """(N,) int64 classes or float32 scores; (N, labels) float32, 0 or 1; (all words,) int64, one after another."""
    skipped: dict[str, int]
    """Rows left out, by reason."""
    rows: tuple[int, ...] = ()
    """Number of each in its file, from 1; empty: all are there."""

    def __len__(self) -> int:
        return len(self.texts[0])

    def numbers(self) -> tuple[int, ...]:
        """Return the number of each in its file, from 1."""
        return self.rows or tuple(range(1, len(self) + 1))


def load_task(
    name: str,
    data: str = "hub",
    columns: tuple[str, ...] = (),
    *,
    kind: Kind = "classification",
    label_column: str = "label",
) -> tuple[Task, dict[str, Examples]]:
    """Load a task: its description, and its splits ("train" and those to evaluate on).

    Args:
        name: of GLUE, "movies" (bundled), or of a folder in `data`.
        data: a folder, or "hub".
        columns: text columns of a task that is not GLUE's.
        kind: of a task that is not GLUE's.
        label_column: of a task that is not GLUE's.

    Raises:
        UserError: unknown task; files or columns missing; a label that is
            unknown; fewer than two classes; damaged tables.
    """
    check_task(name, columns, kind, label_column)
    if name == "movies":
        splits = read_movies()
        found = {
            split: Examples(([text for text, _ in rows],), np.array([label for _, label in rows]), {})
            for split, rows in splits.items()
        }
        return Task(("sentence",), ("negative", "positive")), found
    task = _described(name, data, columns, kind, label_column)
    damaged = {split: Counter[str]() for split in ("train", *task.splits)}
    tables = {split: _read_split(name, task, split, data, count) for split, count in damaged.items()}
    if name not in TASKS and kind != "regression":
        labels = [row.get(label_column) for row in tables["train"]]
        one_each = kind == "classification"
        task = replace(task, labels=(class_names if one_each else names_of)(labels, f"{name}, train"))
    return task, {split: _examples(rows, task, name, split, damaged[split]) for split, rows in tables.items()}


def _described(name: str, data: str, columns: tuple[str, ...], kind: Kind, label_column: str) -> Task:
    """Return a task without the names of its classes, if it is not GLUE's."""
    if name in TASKS:
        return TASKS[name]
    metric = {"classification": "macro_f1", "multi_label": "micro_f1", "token_classification": "entity_f1"}
    task = Task(
        columns or ("tokens",), (), metric=metric.get(kind, "spearman"), label_column=label_column,
        tags=kind == "token_classification", several=kind == "multi_label",
    )  # fmt: skip
    held_out = any((Path(data) / name).glob("test.*")) or any((Path(data) / name).glob("test-*-of-*.parquet"))
    return replace(task, splits=("validation", "test")) if held_out else task


Tests = dict[str, tuple["Examples", tuple[str, ...]]]
"""Split → (texts in the file's order, the index of each)."""


def load_test(name: str, data: str) -> tuple[Tests, dict[str, str]]:
    """Return GLUE's test splits that are there, and of those that are not, why: split → reason.

    Raises:
        UserError: a row is damaged or has no text, so that the answers would not fit their questions.
    """
    found, absent = Tests(), dict[str, str]()
    if name not in TASKS:
        return found, absent
    task = TASKS[name]
    for split in (split.replace("validation", "test") for split in task.splits):
        try:
            damaged = Counter[str]()
            rows = _read_split(name, task, split, data, damaged)
        except UserError as error:
            if data != "hub" and _split_files_or_none(name, task, split, data):
                raise
            absent[split] = str(error)
            continue
        without = [i for i, row in enumerate(rows, 1) if not all(is_text(row.get(c)) for c in task.columns)]
        if damaged["damaged rows"] or without:
            raise UserError(
                f"{name}, {split}: {damaged['damaged rows']:,} damaged rows and {len(without):,} without a text; "
                "the answers to the others would get wrong numbers. Fetch the file again"
            )
        indices = tuple(str(row.get("index", row.get("idx", row.get("id", i)))) for i, row in enumerate(rows))
        texts = tuple([row[column] for row in rows] for column in task.columns)
        found[split] = Examples(texts, np.zeros(len(rows), np.int64), {}), indices
    return found, absent


def _split_files_or_none(name: str, task: Task, split: str, data: str) -> list[Path]:
    try:
        return _split_files(name, task, split, data)[0]
    except UserError:
        return []


def check_task(
    name: str, columns: tuple[str, ...] = (), kind: Kind = "classification", label_column: str = "label"
) -> None:
    """Refuse the name of a task that is unknown, or cannot be a folder.

    Raises:
        UserError: with the known names.
    """
    if not re.fullmatch(r"\w[\w .+-]*", name):
        raise UserError(f"{name!r} is no name of a task: it names a folder in --data")
    if name != "movies" and name not in TASKS and not columns and kind != "token_classification":
        raise UserError(
            f"unknown task {name!r}; known: movies, {', '.join(TASKS)}; for a task of your own, give its text columns "
            "with --text_columns"
        )
    if kind == "token_classification" and len(columns) > 1:
        raise UserError(
            f"--text_columns {', '.join(columns)}: of words with labels there is one column, a list of words"
        )
    if len(set(columns)) < len(columns) or label_column in columns:
        raise UserError(f"--text_columns {', '.join(columns)}: a column is a text once, and the label never")


def task_sources(
    name: str,
    data: str = "hub",
    columns: tuple[str, ...] = (),
    *,
    kind: Kind = "classification",
    label_column: str = "label",
) -> dict[str, str]:
    """Return what names the content of a task's data, file by file.

    Raises:
        UserError: unknown task; files missing.
    """
    check_task(name, columns, kind, label_column)
    if name == "movies":
        return {DATA.name: _content(DATA)}
    if data == "hub":
        return {name: "of the hub"}
    task = _described(name, data, columns, kind, label_column)
    files = [file for split in ("train", *task.splits) for file in _split_files(name, task, split, data)[0]]
    return {file.name: _content(file) for file in files}


def _content(file: Path) -> str:
    return f"{file.stat().st_size:,} bytes, {file_digest(file)[:16]}"


def _read_split(name: str, task: Task, split: str, data: str, damaged: Counter[str]) -> list[dict[str, Any]]:
    if data == "hub":
        return _from_hub(name, split)
    files, original = _split_files(name, task, split, data)
    quoted = name not in TASKS  # GLUE's own have no quoting
    if task.tags and files[0].suffix in CONLL:
        return [row for file in files for row in read_conll(file, task.columns[0], task.label_column)]
    header = not original or name != "cola" or split == "test"  # CoLA's test file alone has one
    rows = [row for file in files for row in read_table(file, damaged, header=header, quoted=quoted)]
    return [_as_on_hub(row, task) for row in rows] if original else rows


def _split_files(name: str, task: Task, split: str, data: str) -> tuple[list[Path], bool]:
    """Return the files of a split in a folder, and whether they are those of the original zip file."""
    folder = Path(data) / name
    for ending in (".parquet", ".jsonl", ".tsv", ".csv", *(CONLL if task.tags else ())):
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
    kinds = ", ".join(ending for ending in (".jsonl", ".tsv", ".csv", *(CONLL if task.tags else ())))
    raise UserError(
        f"no {split} of {name} in {data}: looked for {name}/{split}.parquet ({kinds})"
        + (f" and {task.zip_folder}/{original.name}" if task.zip_folder else "")
    )


def _as_on_hub(row: dict[str, Any], task: Task) -> dict[str, Any]:
    """Rename the columns of the original zip files."""
    zipped = zip(task.columns, task.zip_columns or task.columns, strict=True)
    texts = {column: row.get(there, row.get(column)) for column, there in zipped}
    label = row.get(task.zip_label, row.get("label"))
    index = {name: row[name] for name in ("index", "id") if name in row}
    return {**index, **texts, "label": None if label == "-" else label}  # "-": MNLI's annotators did not agree


def _from_hub(name: str, split: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise UserError(
            f"{name} from the hub needs the package datasets: pip install 'r2mae-text[hub]'; or give the folder of "
            "GLUE's files with --task_data DIR"
        ) from None
    try:
        return list(load_dataset("nyu-mll/glue", name, split=split))  # pyright: ignore[reportReturnType]
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"GLUE's {name} is unavailable from the hub ({reason}); give --task_data DIR with "
            f"{name}/train.parquet and {name}/validation.parquet, or the folder of GLUE's own zip files"
        ) from None


def _examples(rows: list[dict[str, Any]], task: Task, name: str, split: str, skipped: Counter[str]) -> Examples:
    have = dict.fromkeys(column for row in rows for column in row)
    missing = [column for column in (*task.columns, task.label_column) if rows and column not in have]
    if missing:
        have = ", ".join(map(str, have))
        raise UserError(f"{name}, {split}: no column {', '.join(missing)} but {have}")
    if name in TASKS and all(str(row.get("label")) in _NO_LABEL for row in rows):
        raise UserError(
            f"{name}, {split}: none of {len(rows):,} rows has a label; GLUE's test sets have -1 there, so give a "
            "training and a validation file"
        )
    texts: tuple[list[Any], ...] = tuple([] for _ in task.columns)
    labels: list[Any] = []
    kept: list[int] = []
    # GLUE's scores are over all rows, and a few questions of QQP are empty.
    whole = is_words if task.tags else is_text if name in TASKS else has_text
    read = _label_reader(task, by_number=name in TASKS)
    for number, row in enumerate(rows, 1):
        kind = "score" if task.kind == "regression" else "label"
        label = read(row.get(task.label_column), f"{name}, {split}: the {kind} of row {number:,}")
        if label is None:
            skipped["rows without a label"] += 1
        elif not all(whole(row.get(column)) for column in task.columns):
            skipped["rows without a text"] += 1
        else:
            labels.append(label)
            kept.append(number)
            for column, values in zip(task.columns, texts, strict=True):
                values.append(row[column])
    _refuse_one_label(labels, task, f"{name}, {split}", len(rows), skipped)
    if task.tags:
        _refuse_unequal(texts[0], labels, kept, f"{name}, {split}")
        labels = [tag for tags in labels for tag in tags]
    left = {reason: count for reason, count in skipped.items() if count}
    in_classes = task.kind in ("classification", "token_classification")
    return Examples(texts, np.array(labels, np.int64 if in_classes else np.float32), left, tuple(kept))


def _label_reader(task: Task, *, by_number: bool) -> Callable[[Any, str], Any]:
    """Return what reads the label of a row: None where there is none."""
    if task.kind == "regression":
        return score_of
    numbers = {label: i for i, label in enumerate(task.labels)}

    def several(value: Any, where: str) -> list[float] | None:
        names = several_names(value, where)
        found = None if names is None else {class_number(n, numbers, where, by_number=False) for n in names}
        return None if found is None else [float(i in found) for i in range(len(numbers))]

    def of_words(value: Any, where: str) -> list[int | None] | None:
        if value is not None and not isinstance(value, list):
            raise UserError(f"{where} is {str(value)[:60]!r}; of words with labels it is a list, one for each word")
        return None if value is None else [class_number(tag, numbers, where, by_number=False) for tag in value]

    def one(value: Any, where: str) -> int | None:
        return class_number(value, numbers, where, by_number=by_number)

    return of_words if task.tags else several if task.several else one


def _refuse_one_label(labels: list[Any], task: Task, where: str, n_rows: int, skipped: Counter[str]) -> None:
    """Refuse a split in which every row, or word, has the same label."""
    different = {tag for tags in labels for tag in tags} if task.tags else {str(label) for label in labels}
    if len(different) < 2:
        first = labels[0] if labels else None
        only = task.labels[first] if task.kind == "classification" and first is not None else first
        every = f"every row has the label {only!r}" if labels else f"none of {n_rows:,} rows is whole"
        raise UserError(f"{where}: {every}; {_reasons(skipped)}there is nothing to tell apart")


def _refuse_unequal(texts: list[list[str]], labels: list[list[Any]], rows: list[int], where: str) -> None:
    """Refuse a row whose words and labels are not as many, or in which a word has no label."""
    for words, tags, row in zip(texts, labels, rows, strict=True):
        if len(words) != len(tags) or None in tags:
            none = f"word {tags.index(None) + 1} has no label" if None in tags else f"{len(tags)} labels"
            raise UserError(f"{where}: row {row:,} has {len(words)} words, and {none}; every word has one")


def _reasons(skipped: Mapping[str, int]) -> str:
    return f"{left_out(skipped)}; " if any(skipped.values()) else ""


def is_text(value: Any) -> bool:
    """Return whether a value is a text with UTF-8: JSON may hold half a character."""
    return isinstance(value, str) and not any(0xD800 <= ord(c) < 0xE000 for c in value)


def has_text(value: Any) -> bool:
    """Return whether a value is a text with more than white space in it."""
    return is_text(value) and bool(value.strip())


def is_words(value: Any) -> bool:
    """Return whether a value is a list of words."""
    return isinstance(value, list) and len(value) > 0 and all(is_text(word) for word in value)
