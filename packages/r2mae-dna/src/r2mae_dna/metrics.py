"""Ranking metrics of variant scores, and their bootstrap intervals (paper, table 3)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def auroc(labels: np.ndarray, damage: np.ndarray) -> float:
    """Return the area under the ROC curve; `damage` grows with the probability of a positive label."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, damage))


def auprc(labels: np.ndarray, damage: np.ndarray) -> float:
    """Return the average precision, as the paper's AUPRC is computed."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, damage))


def partial_auroc(max_fpr: float) -> Metric:
    """Return the metric "area under the ROC curve up to a false-positive rate", standardised: 0.5 is chance."""

    def metric(labels: np.ndarray, damage: np.ndarray) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(labels, damage, max_fpr=max_fpr))

    return metric


@dataclass(frozen=True)
class Interval:
    """A value and the middle 95 % of its bootstrap resamples."""

    value: float
    low: float | None
    high: float | None


def with_interval(metric: Metric, labels: np.ndarray, damage: np.ndarray, n_resamples: int, seed: int) -> Interval:
    """Return a metric and its bootstrap interval, positives and negatives resampled separately.

    Args:
        metric: what to compute.
        labels: (n,) bool.
        damage: (n,) scores that grow with the probability of a positive label.
        n_resamples: 0 for no interval.
        seed: seed for the resamples.
    """
    value = metric(labels, damage)
    if n_resamples < 1:
        return Interval(value, None, None)
    positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
    values = []
    for i in range(n_resamples):
        generator = np.random.Generator(np.random.Philox(key=[seed, i]))
        rows = np.concatenate([generator.choice(part, len(part)) for part in (positive, negative)])
        values.append(metric(labels[rows], damage[rows]))
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(value, float(low), float(high))
