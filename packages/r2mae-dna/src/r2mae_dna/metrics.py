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
    """A value, with the middle 95 % of its bootstrap resamples or with a standard error."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    """Standard error."""
    n: int | None = None
    """What the error is taken over: chromosomes, or groups."""
    left_out: int = 0
    """Chromosomes or groups without both labels."""


def auprc_by_chromosome(
    labels: np.ndarray, damage: np.ndarray, chromosomes: np.ndarray, n_resamples: int, seed: int
) -> Interval:
    """Return the mean over chromosomes of the average precision, weighted by their rows: TraitGym's main metric.

    As `AUPRC_by_chrom_weighted_average` of songlab-cal/TraitGym is computed; its standard error is the standard
    deviation over resampled chromosomes. Chromosomes without both labels have no average precision and are left out.

    Args:
        labels: (n,) bool.
        damage: (n,) scores that grow with the probability of a positive label.
        chromosomes: (n,) names.
        n_resamples: 0 for no standard error.
        seed: seed for the resamples.
    """
    names, n_rows, values = np.unique(chromosomes), list[int](), list[float]()
    for name in names:
        rows = chromosomes == name
        if 0 < labels[rows].sum() < rows.sum():
            n_rows.append(int(rows.sum()))
            values.append(auprc(labels[rows], damage[rows]))
    n, weights, precision = len(values), np.array(n_rows, float), np.array(values)
    if n == 0:
        return Interval(float("nan"), n=0, left_out=len(names))
    error = None
    if n_resamples > 1 and n > 1:
        chosen = np.random.Generator(np.random.Philox(key=[seed, 0])).integers(n, size=(n_resamples, n))
        resampled = (weights[chosen] * precision[chosen]).sum(1) / weights[chosen].sum(1)
        error = float(resampled.std(ddof=1))
    return Interval(float((weights * precision).sum() / weights.sum()), error=error, n=n, left_out=len(names) - n)


def pairwise_accuracy(labels: np.ndarray, damage: np.ndarray, groups: np.ndarray) -> Interval:
    """Return how often a positive scores above a negative of its group, ties counting half.

    The mean over groups (one positive and its matched negatives each, in TraitGym) of the share of pairs in order; the
    standard error is that of this mean. Groups without both labels are left out.

    Args:
        labels: (n,) bool.
        damage: (n,) scores that grow with the probability of a positive label.
        groups: (n,) names.
    """
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
    shares = list[float]()
    for rows in parts:
        positive, negative = damage[rows][labels[rows]], damage[rows][~labels[rows]]
        if len(positive) and len(negative):
            difference = positive[:, None] - negative
            shares.append(float(((difference > 0) + 0.5 * (difference == 0)).mean()))
    n = len(shares)
    if n == 0:
        return Interval(float("nan"), n=0, left_out=len(parts))
    error = float(np.std(shares, ddof=1) / np.sqrt(n)) if n > 1 else None
    return Interval(float(np.mean(shares)), error=error, n=n, left_out=len(parts) - n)


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
