"""Metrics of a probe's predictions: over cells, and over donors (C.8)."""

from typing import Any

import numpy as np
import pandas as pd


def balanced_accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall over the classes of `y`."""
    return float(np.mean([(predicted[y == label] == label).mean() for label in np.unique(y)]))


def macro_auroc(y: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean one-vs-rest area under the ROC curve over the classes in `y`.

    Args:
        y: (n,) true classes.
        probabilities: (n, classes), columns as in `classes`. A class that was never trained on has probability 0.
        classes: what the columns are.

    Returns:
        NaN if `y` has one class only.
    """
    from sklearn.metrics import roc_auc_score

    present = np.unique(y)
    if len(present) < 2:
        return float("nan")
    columns = {label: probabilities[:, i] for i, label in enumerate(classes)}
    nothing = np.zeros(len(y))
    return float(np.mean([roc_auc_score(y == label, columns.get(label, nothing)) for label in present]))


def macro_f1(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 over the classes of `y`."""
    from sklearn.metrics import f1_score

    return float(f1_score(y, predicted, average="macro", labels=np.unique(y), zero_division=0.0))  # pyright: ignore[reportArgumentType]


def spearman_of_cells_and_donors(
    y: np.ndarray, predicted: np.ndarray, donors: np.ndarray
) -> dict[str, tuple[float, int]]:
    """Return metric → (value, n): the rank correlation over cells, and over the means of the donors."""
    from scipy.stats import spearmanr

    table = pd.DataFrame({"y": y, "predicted": predicted}).groupby(donors).mean()

    def rho(a: Any, b: Any) -> float:
        if np.ptp(a) == 0 or np.ptp(b) == 0:  # a constant has no order
            return 0.0
        result: Any = spearmanr(a, b)
        return float(result.statistic)

    return {
        "spearman_cell": (rho(y, predicted), len(y)),
        "spearman_donor": (rho(table["y"], table["predicted"]), len(table)),
    }


def auroc_of_cells_and_donors(
    y: np.ndarray, probabilities: np.ndarray, classes: np.ndarray, donors: np.ndarray
) -> dict[str, tuple[float, int]]:
    """Return metric → (value, n): the macro AUROC over cells, and over the donors' mean probabilities."""
    table = pd.DataFrame(probabilities).groupby(donors).mean()
    first = pd.Series(y).groupby(donors).first().loc[table.index].to_numpy()
    return {
        "auroc_cell": (macro_auroc(y, probabilities, classes), len(y)),
        "auroc_donor": (macro_auroc(first, table.to_numpy(), classes), len(first)),
    }
