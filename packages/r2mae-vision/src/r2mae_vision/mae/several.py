"""Images of several classes: how well their classes are told, and the targets that mixup makes of them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from r2mae_core import UserError, say, write_text

SEVERAL = ("map", "auroc")
"""Metrics: the means over classes of the average precision and of the area under the ROC curve."""


class ClassScore(NamedTuple):
    """How well images of a class are told from others."""

    name: str
    n_positive: int
    average_precision: float | None
    """None: all images are of the class, or none is."""
    auroc: float | None


def class_scores(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[ClassScore]:
    """Return average precision and area under the ROC curve of each class, by scikit-learn.

    Args:
        scores: (N, C), large where the class is likely.
        labels: (N, C) of 0 and 1.
        classes: their names.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    found = []
    for name, column, truth in zip(classes, scores.T, labels.T, strict=True):
        n = int(truth.sum())
        told = 0 < n < len(truth)
        values = [float(of(truth, column)) if told else None for of in (average_precision_score, roc_auc_score)]
        found.append(ClassScore(name, n, *values))
    return found


def means(found: Sequence[ClassScore]) -> dict[str, float]:
    """Return metric → mean over the classes that can be told; those that cannot are counted and named.

    Raises:
        UserError: there is no such class.
    """
    kept = [one for one in found if one.average_precision is not None]
    if not kept:
        raise UserError("no class has images with it and images without it among those judged")
    if left := [one.name for one in found if one.average_precision is None]:
        more = ", …" if left[5:] else ""
        say(
            f"{len(left)} of {len(found)} classes are left out of the means, because all of the judged images or none "
            f"are of them: {', '.join(left[:5])}{more}"
        )
    return {
        "map": sum(one.average_precision or 0.0 for one in kept) / len(kept),
        "auroc": sum(one.auroc or 0.0 for one in kept) / len(kept),
    }


def check_judged(labels: np.ndarray, name: str) -> None:
    """Refuse held-out images by which no class can be judged, before anything is trained.

    Raises:
        UserError: every class has all of them or none.
    """
    n = (labels == 1).sum(axis=0)
    if not ((n > 0) & (n < len(labels))).any():
        raise UserError(f"{name}: no class has images with it and images without it, so nothing can be judged")


def write_classes(file: Path, found: Sequence[ClassScore]) -> None:
    """Write a table of all classes."""
    text = io.StringIO()
    rows = [["" if value is None else value for value in one] for one in found]
    csv.writer(text, lineterminator="\n").writerows([["class", "positives", "average_precision", "auroc"], *rows])
    write_text(file, text.getvalue())


def mixed_targets(mix: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return images that timm's Mixup has mixed, and labels (B, C) mixed alike.

    Args:
        mix: timm's Mixup without smoothing. It is given the numbers of the images for classes: what it returns as
            targets is then how much of each image is in each.
        images: (B, C, H, W).
        labels: (B, C) of 0 and 1.
    """
    import torch

    mix.num_classes = len(images)
    images, shares = mix(images, torch.arange(len(images), device=images.device))
    return images, shares @ labels.to(shares.dtype)


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """Return targets (B, C) with label smoothing as timm has it: 1 becomes 1 - s + s / C, 0 becomes s / C."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]
