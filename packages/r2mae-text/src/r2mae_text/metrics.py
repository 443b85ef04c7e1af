"""GLUE's metrics on arrays."""

import numpy as np

from r2mae_text.data.glue import Task


def metrics_of(task: Task) -> tuple[str, ...]:
    """Return what `score` measures of a task: of classes accuracy and the task's own."""
    if not task.labels:
        return "spearman", "pearson"
    return tuple(dict.fromkeys(("accuracy", task.metric)))


def score(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return metric → value: accuracy (classes) and the task's own.

    Args:
        task: its `metric` is the one besides accuracy.
        logits: (N, classes), or (N, 1) scores.
        labels: (N,).
    """
    if not task.labels:
        return {"spearman": spearman(logits[:, 0], labels), "pearson": float(np.corrcoef(logits[:, 0], labels)[0, 1])}
    predicted = logits.argmax(1)
    values = {"accuracy": float((predicted == labels).mean())}
    if task.metric == "f1":
        values["f1"] = f1(predicted, labels)
    if task.metric == "mcc":
        values["mcc"] = matthews(predicted, labels)
    return values


def majority(labels: np.ndarray) -> float:
    """Return the accuracy of naming the most frequent class always; what a score has to beat."""
    return float(np.bincount(labels).max() / len(labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 of class 1; 0 if it is neither predicted nor present."""
    hits, found, there = int((predicted * labels).sum()), int(predicted.sum()), int(labels.sum())
    return 2 * hits / (found + there) if found + there else 0.0


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the correlation of two classes; 0 if one of them is constant."""
    if predicted.std() == 0 or labels.std() == 0:
        return 0.0
    return float(np.corrcoef(predicted, labels)[0, 1])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the rank correlation, with mean ranks for ties."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])
