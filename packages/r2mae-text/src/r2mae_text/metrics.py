"""Metrics of tasks on arrays: GLUE's, and those of one's own tasks."""

import numpy as np

from r2mae_text.data.glue import Task


def metrics_of(task: Task) -> tuple[str, ...]:
    """Return what `score` measures of a task: of classes accuracy and the task's own."""
    if task.kind == "regression":
        return "spearman", "pearson"
    others = {"multi_label": ("micro_f1", "macro_f1"), "token_classification": ("macro_f1", "entity_f1")}
    return tuple(dict.fromkeys(("accuracy", *others.get(task.kind, (task.metric,)))))


def deciding_metric(task: Task) -> str:
    """Return the metric by which epochs are compared."""
    return "spearman" if task.kind == "regression" else task.metric


def predicted_of(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return what logits (N, classes) predict: classes (N,), labels (N, labels) of 0 and 1, or scores (N,)."""
    if task.kind == "multi_label":
        return (logits > 0).astype(np.int64)
    return logits[:, 0] if task.kind == "regression" else logits.argmax(1)


def score(task: Task, logits: np.ndarray, labels: np.ndarray, lengths: np.ndarray | None = None) -> dict[str, float]:
    """Return metric → value: accuracy (classes) and the task's own.

    Args:
        task: its `metric` is the one besides accuracy.
        logits: (N, classes), or (N, 1) scores. Of words: of all, one after another.
        labels: (N,), or (N, labels) of 0 and 1. Accuracy is then the share of texts with every label right.
        lengths: words of each sentence, for entities; they do not run across.
    """
    predicted = predicted_of(task, logits)
    if task.kind == "regression":
        return {"spearman": spearman(predicted, labels), "pearson": _correlation(predicted, labels)}
    if task.kind == "multi_label":
        right, truth = (predicted == labels).all(1), labels.astype(np.int64)
        each = [f1(predicted[:, i], truth[:, i]) for i in range(truth.shape[1])]
        micro = f1(predicted.ravel(), truth.ravel())
        return {"accuracy": float(right.mean()), "micro_f1": micro, "macro_f1": float(np.mean(each))}
    values = {"accuracy": float((predicted == labels).mean())}
    if task.metric == "f1":
        values["f1"] = f1(predicted, labels)
    if task.metric == "mcc":
        values["mcc"] = matthews(predicted, labels)
    if task.metric in ("macro_f1", "entity_f1"):
        values["macro_f1"] = macro_f1(predicted, labels)
    if task.kind == "token_classification":
        bounds = np.cumsum(lengths)[:-1] if lengths is not None else []
        names = np.array(task.labels)
        found, there = (
            [entities(part.tolist()) for part in np.split(names[numbers], bounds)] for numbers in (predicted, labels)
        )
        hits = sum(len(a & b) for a, b in zip(found, there, strict=True))
        both = sum(map(len, found)) + sum(map(len, there))
        values["entity_f1"] = 2 * hits / both if both else 0.0
    return values


def confusion(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the counts of (true class, predicted class), (classes, classes)."""
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 of the classes that are predicted or present."""
    classes = np.union1d(predicted, labels)
    return float(np.mean([f1(predicted == c, labels == c) for c in classes.tolist()]))


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Return the entities of a sentence's tags as (type, first word, last word).

    As conlleval reads B-X, I-X, E-X, S-X and O: an I-X without a B-X before it starts one. Tags without a prefix, such
    as parts of speech, are of one word each.
    """
    found, kind, first = set[tuple[str, int, int]](), None, 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if prefix not in ("B", "I", "E", "S") or not name:
            prefix, name = ("O", "") if tag == "O" else ("S", tag)
        if kind is not None and (prefix in ("O", "B", "S") or name != kind):
            found.add((kind, first, i - 1))
            kind = None
        if kind is None and prefix != "O":
            kind, first = name, i
        if prefix in ("E", "S") and kind is not None:
            found.add((kind, first, i))
            kind = None
    return found


def majority(labels: np.ndarray) -> float:
    """Return the accuracy of naming the most frequent class always; what a score has to beat."""
    return float(np.bincount(labels).max() / len(labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 of class 1; 0 if it is neither predicted nor present."""
    hits, found, there = int((predicted * labels).sum()), int(predicted.sum()), int(labels.sum())
    return 2 * hits / (found + there) if found + there else 0.0


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the correlation of two classes; 0 if one of them is constant."""
    return _correlation(predicted, labels)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation; 0 if one side is constant, such as the scores of a model that has learned nothing."""
    return 0.0 if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the rank correlation, with mean ranks for ties; 0 if one side is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return _correlation(ranks(x), ranks(y))
