"""What a model says of unchanged images, and how often a classifier is right."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from r2mae_core import (
    UserError,
    end_with_caller,
)
from r2mae_vision.data.augment import CentreCrop
from r2mae_vision.data.datasets import (
    AugmentedImages,
    check_channels,
    check_range,
    collate,
    from_workers,
)
from r2mae_vision.data.sizes import pair
from r2mae_vision.data.sources import Source
from r2mae_vision.data.store import ImageStore
from r2mae_vision.mae.encoders import EncoderSpec
from r2mae_vision.mae.several import class_scores, means, write_classes
from r2mae_vision.mae.shape import pixel_scale


def crop_pct(asked: float | None, spec: EncoderSpec) -> float:
    """Return the share of the picture's side that the model sees: what was asked for, or MAE's."""
    return asked if asked is not None else 0.875 if min(spec.shape.size) <= 224 else 1.0


def eval_transform(size: int | tuple[int, int], crop_pct: float, source: Source | None = None) -> Any:
    """Return timm's validation transform: resize, crop the centre; PIL image → (C, H, W) uint8.

    Of a source that keeps the numbers of its files: (H, W, C) → (C, H, W) float32.
    """
    if isinstance(source, ImageStore) and source.span is not None:
        return CentreCrop(size, crop_pct)
    from timm.data.transforms_factory import create_transform

    return create_transform(pair(size), use_prefetcher=True, interpolation="bicubic", crop_pct=crop_pct)


def eval_batches(
    source: Source, spec: EncoderSpec, crop_pct: float, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield unchanged images (B, C, H, W) uint8, labels (B,) or (B, classes), and how many could not be read.

    Prepared images of the model's own size are returned as they are; others go through timm's transform.
    """
    shape = spec.shape
    check_range(source, shape.pixel_range)
    if isinstance(source, ImageStore) and source.span is not None:
        check_channels(source, shape.in_chans)
    if isinstance(source, ImageStore) and source.size == shape.size and crop_pct == 1.0:
        check_channels(source, shape.in_chans)
        for first in range(0, len(source), batch_size):
            yield *source.fetch(np.arange(first, min(first + batch_size, len(source)))), 0
        return
    dataset = AugmentedImages(
        source, eval_transform(shape.size, crop_pct, source), shape.in_chans, seed=0, least=2 * max(shape.size)
    )
    keys: Any = [(i, 0) for i in range(len(source))]
    settings: Any = {"num_workers": workers, "worker_init_fn": end_with_caller}
    loader = DataLoader(dataset, batch_size, sampler=keys, collate_fn=collate, **settings)
    for images, labels, bad in from_workers(loader):
        yield images, labels, bad.numel()


@torch.no_grad()
def logits_of(
    model: nn.Module,
    spec: EncoderSpec,
    source: Source,
    *,
    crop_pct: float,
    device: str,
    bf16: bool = False,
    batch_size: int = 256,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield a model's answers (B, classes), the labels, and the number of images that could not be read."""
    mean, std = pixel_scale(spec.shape, device)
    model.to(device).eval()
    for images, labels, bad in eval_batches(source, spec, crop_pct, batch_size, workers):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model((images.to(device).float() - mean) / std)
        yield logits, labels.to(device), bad


def accuracy(answers: Iterable[tuple[Tensor, Tensor, int]]) -> dict[str, float]:
    """Return top-1 and top-5 accuracy and the number of images that could not be read, of what `logits_of` yields."""
    right, unreadable, n = 0, 0, 0
    for logits, labels, bad in answers:
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        right = right + torch.stack([best[:, 0].sum(), best.any(1).sum()])
        unreadable, n = unreadable + bad, n + len(labels)
    return {"top1": float(right[0]) / n, "top5": float(right[1]) / n, "unreadable": float(unreadable)}  # pyright: ignore[reportIndexIssue]


def precision_of_classes(
    answers: Iterable[tuple[Tensor, Tensor, int]], classes: Sequence[str], file: Path
) -> dict[str, float]:
    """Return the means over classes of images that may have several, and write a table of all classes."""
    parts = [(logits.float().cpu(), labels.cpu(), bad) for logits, labels, bad in answers]
    scores, labels = torch.cat([part[0] for part in parts]).numpy(), torch.cat([part[1] for part in parts]).numpy()
    if not np.isfinite(scores).all():
        raise UserError("the model's answers are NaN or infinite; lower --base_lr or use --precision 32-true")
    found = class_scores(scores, labels, classes)
    write_classes(file, found)
    return {**means(found), "unreadable": float(sum(bad for _, _, bad in parts))}
