"""What a fine-tuning leaves: the model, its predictions, a confusion table, its epochs, GLUE's submission files."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import atomic_path, write_checksums, write_json
from r2mae_text.batching import Encoded
from r2mae_text.classifier import DESCRIPTION
from r2mae_text.data.glue import Examples, Task
from r2mae_text.metrics import confusion, predicted_of
from r2mae_text.tuning import Tuned
from r2mae_text.weights import save_model

SUBMISSION = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "stsb": "STS-B", "mnli": "MNLI-m",
    "mnli mismatched": "MNLI-mm", "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI",
}  # fmt: skip
"""The names that GLUE's server asks for; of its files only AX is not made, which has no training set of its own."""


def write_tuned(folder: Path, task: Task, splits: dict[str, Examples], tuned: Tuned) -> None:
    """Write epochs.csv, and for each split predictions-SPLIT.csv and confusion-SPLIT.csv."""
    rows = [
        [row["epoch"], f"{row['loss']:.6g}", split, metric, f"{value:.6g}", int(row["epoch"] == tuned.kept)]
        for row in tuned.epochs
        for split, values in row["scores"].items()
        for metric, value in values.items()
    ]
    write_csv(folder / "epochs.csv", ["epoch", "training loss", "split", "metric", "value", "kept"], rows)
    for split, logits in tuned.logits.items():
        header, rows = prediction_rows(task, logits, splits[split], tuned.encoded[split], truth=True)
        write_csv(folder / f"predictions-{split}.csv", header, rows)
        if task.kind != "regression":
            header, rows = confusion_rows(task, logits, tuned.encoded[split])
            write_csv(folder / f"confusion-{split}.csv", header, rows)


def save_tuned(folder: Path, name: str, task: Task, tuned: Tuned, max_length: int) -> None:
    """Write the model as a transformers folder with the names of its labels, and what its inputs are."""
    folder.mkdir()
    save_model(tuned.model, tuned.tokenizer, folder)
    told = {"task": name, "kind": task.kind, "text_columns": list(task.columns), "max_length": max_length}
    write_json(folder / DESCRIPTION, told)
    write_checksums(folder)


def prediction_rows(
    task: Task, logits: np.ndarray, examples: Examples, data: Encoded, *, truth: bool
) -> tuple[list[str], list[list[Any]]]:
    """Return (header, rows): the row in its file, the label if `truth`, the prediction, and what each class has.

    Of words there is one row for each; a word without a token has no prediction.
    """
    names, predicted = np.array([*task.labels, ""]), predicted_of(task, logits)
    labels = data.labels.numpy()
    if data.words is not None:
        spoken = {(i, w): names[c] for (i, w), c in zip(_places(data), predicted.tolist(), strict=True)}
        given = iter(examples.labels.tolist())
        body = [
            [number, w + 1, word, *([names[next(given)]] if truth else []), spoken.get((i, w), "")]
            for i, (number, words) in enumerate(zip(examples.numbers(), examples.texts[0], strict=True))
            for w, word in enumerate(words)
        ]
        return ["row", "word", "text", *(["label"] if truth else []), "prediction"], body
    header = ["row", *(["label"] if truth else []), "prediction"]
    if task.kind == "regression":
        columns = [*([labels.tolist()] if truth else []), [f"{value:.6g}" for value in predicted.tolist()]]
        return header, [list(row) for row in zip(examples.numbers(), *columns, strict=True)]

    def said(values: np.ndarray) -> list[str]:
        if task.kind == "multi_label":
            return [",".join(names[:-1][row > 0]) for row in values]
        return names[values].tolist()

    shares = 1 / (1 + np.exp(-logits.clip(-80, 80))) if task.kind == "multi_label" else softmax(logits)
    columns = [*([said(labels)] if truth else []), said(predicted), *shares.T.tolist()]
    rows = zip(examples.numbers(), *columns, strict=True)
    return [*header, *(f"p({name})" for name in task.labels)], [
        [f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows
    ]


def _places(data: Encoded) -> list[tuple[int, int]]:
    """Return (sentence, word) of each word that has a token, in order."""
    assert data.words is not None
    sentences = np.repeat(np.arange(len(data)), data.lengths())
    there = data.words >= 0
    return list(zip(sentences[there].tolist(), data.words[there].tolist(), strict=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of classes, (N, classes)."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def confusion_rows(task: Task, logits: np.ndarray, data: Encoded) -> tuple[list[str], list[list[Any]]]:
    """Return (header, rows): the true class in rows, the predicted one in columns; several labels one by one."""
    predicted, labels = predicted_of(task, logits), data.labels.numpy()
    if task.kind == "multi_label":
        truth = labels.astype(np.int64)
        tables = [confusion(predicted[:, i], truth[:, i], 2).ravel().tolist() for i in range(len(task.labels))]
        header = ["label", "true negative", "false positive", "false negative", "true positive"]
        return header, [[name, *counts] for name, counts in zip(task.labels, tables, strict=True)]
    counts = confusion(predicted, labels[labels >= 0], len(task.labels)).tolist()
    return ["true", *task.labels], [[name, *row] for name, row in zip(task.labels, counts, strict=True)]


def submission_name(task: str, split: str) -> str:
    """Return the file of a test split for GLUE's server."""
    return SUBMISSION["mnli mismatched" if split.endswith("mismatched") else task] + ".tsv"


def submission_rows(name: str, task: Task, logits: np.ndarray, indices: Sequence[str]) -> list[list[Any]]:
    """Return (index, answer) of every row: names of classes, 0 and 1, or scores within the scale, 0 to 5."""
    predicted = predicted_of(task, logits)
    answers = [f"{v:.3f}" for v in predicted.clip(0, 5)] if name == "stsb" else [task.labels[i] for i in predicted]
    return [[index, answer] for index, answer in zip(indices, answers, strict=True)]


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> None:
    """Write a table."""
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
