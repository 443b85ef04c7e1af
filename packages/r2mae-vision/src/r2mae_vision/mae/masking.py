"""How a ratio becomes a mask of patches (paper, C.5): each image its own patches, the same number in every image.

`ratio_per="sample"` is an experiment beside the paper: a ratio of its own for every image, at a constant number of
visible patches. Images go in pairs whose ratios add up to low + high, so each ratio is uniform on the range and every
pair fills one sequence of one length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from r2mae_core import UserError, n_masked


class PatchSplit(NamedTuple):
    """Which patches of each image are visible and which are hidden."""

    visible: Tensor
    """(B, V) int64: patch numbers, in random order."""
    hidden: Tensor
    """(B, H) int64."""


class PackedPatches(NamedTuple):
    """Visible patches of two images at a time in sequences of one length."""

    patch: Tensor
    """(B/2, S) int64: the patch number of every position."""
    second: Tensor
    """(B/2, S) bool: whether the position belongs to the pair's second image."""
    hidden: Tensor
    """(B, N) bool: the hidden patches of every image."""


def n_hidden(ratio: float, n_patches: int) -> int:
    """Return how many patches a ratio hides: max(1, round(ratio * n)), and one patch at least stays visible."""
    return min(n_masked(ratio, n_patches), n_patches - 1)


def check_visible(low: float, n_patches: int) -> None:
    """Refuse a scheme that always hides everything, and images of a single patch.

    Raises:
        UserError: the smallest ratio leaves no visible patch.
    """
    if n_patches < 2:
        raise UserError("an image of one patch has nothing to predict from; lower the patch size")
    if round(low * n_patches) >= n_patches:
        largest = (n_patches - 1) / n_patches
        raise UserError(
            f"a mask ratio of {low:g} leaves no visible patch of {n_patches}; the largest that leaves one is "
            f"{largest:.4g}"
        )


def split_patches(n_images: int, n_patches: int, ratio: float, generator: torch.Generator) -> PatchSplit:
    """Hide the same number of patches in every image, each image its own (on the generator's device)."""
    scores = torch.rand(n_images, n_patches, generator=generator, device=generator.device)
    order = scores.argsort(dim=1)
    count = n_hidden(ratio, n_patches)
    return PatchSplit(order[:, count:], order[:, :count])


def split_mask(mask: Tensor) -> PatchSplit:
    """Return the split of a given mask (B, N), True = hidden, with equal counts in every row."""
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    count = int(mask[0].sum())
    n_visible = mask.shape[1] - count
    return PatchSplit(order[:, :n_visible], order[:, n_visible:])


def pack_patches(n_images: int, n_patches: int, low: float, high: float, generator: torch.Generator) -> PackedPatches:
    """Draw a ratio for every image, uniform on [low, high], and pack the visible patches of pairs of images.

    The first image of a pair draws r, the second gets low + high - r: together they show a constant number of patches.

    Args:
        n_images: images of the batch, an even number.
        n_patches: patches of an image.
        low: smallest ratio.
        high: largest ratio.
        generator: source of randomness; its device is the result's.

    Raises:
        UserError: the number of images is odd.
    """
    if n_images % 2:
        raise UserError(f"a ratio per sample packs images in pairs, but the batch holds {n_images}; make it even")
    device, pairs = generator.device, n_images // 2
    total = min(max(round((low + high) * n_patches), 2), 2 * n_patches - 2)
    ratio = low + (high - low) * torch.rand(pairs, generator=generator, device=device)
    first = (ratio * n_patches).round().long().clamp(max(1, total - n_patches + 1), min(n_patches - 1, total - 1))
    hidden_counts = torch.stack([first, total - first], dim=1)  # (pairs, 2)
    order = torch.rand(pairs, 2, n_patches, generator=generator, device=device).argsort(dim=2)
    # Ranks below the count are hidden; the visible ones follow in the order of their scores.
    position = torch.arange(2 * n_patches - total, device=device).expand(pairs, -1)
    visible_first = n_patches - hidden_counts[:, :1]
    second = position >= visible_first
    rank = torch.where(second, position - visible_first + hidden_counts[:, 1:], position + hidden_counts[:, :1])
    patch = order.flatten(1).gather(1, rank + second * n_patches)
    ranks = order.argsort(dim=2)
    hidden = (ranks < hidden_counts[:, :, None]).flatten(0, 1)
    return PackedPatches(patch, second, hidden)
