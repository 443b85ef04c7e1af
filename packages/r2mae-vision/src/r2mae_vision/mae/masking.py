"""How a ratio becomes a mask of patches (paper, C.5): each image its own patches, the same number in every image.

With `ratio_per="sample"` every image has a ratio of its own, and so a number of visible patches of its own. Their
visible patches then share sequences, which attention keeps apart: see `pack_patches`.
"""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from r2mae_core import UserError, block_scores, n_masked

BLOCK_AREA = (0.08, 0.3)
"""Areas of the blocks of a mask, as fractions of the picture, where the user states none (BEiT's)."""


class PatchSplit(NamedTuple):
    """Which patches of each image are visible and which are hidden."""

    visible: Tensor
    """(B, V) int64: patch numbers, in random order."""
    hidden: Tensor
    """(B, H) int64."""


class PackedPatches(NamedTuple):
    """Visible patches of images that show different numbers of them, several images to a sequence.

    A sequence holds the tokens of one image after another: its prefix (class token and registers), then its visible
    patches. All sizes are known on the host.
    """

    patch: Tensor
    """(K, S) int64: which patch of the batch, image · N + patch, each position holds; 0 at prefixes and padding."""
    image: Tensor
    """(K, S) int64: the image that each position belongs to; -1: padding."""
    first: Tensor
    """(B,) int64: where in the K · S positions the tokens of each image begin."""
    order: Tensor
    """(B, N) int64: the patches of each image, the visible ones first."""
    n_visible: Tensor
    """(B,) int64."""
    hidden: Tensor
    """(B, H) bool: which of the last H patches of `order` are hidden; H is the largest number in an image."""


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


def hidden_counts(ratio: Tensor, n_patches: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return how many patches each image's ratio hides, by the rule of `n_hidden`.

    Args:
        ratio: (B,) float64, on the CPU.
        n_patches: patches of an image, at least two.
    """
    return np.array([n_hidden(one, n_patches) for one in ratio.tolist()], dtype=np.int64)


def patch_order(
    n_images: int,
    grid: tuple[int, int],
    generator: torch.Generator,
    shape: str = "independent",
    block_area: tuple[float, float] | None = None,
) -> Tensor:
    """Return the patches of every image in the order in which they are hidden, (B, N) int64.

    Whatever the ratio, the first `n_hidden` of a row are its mask; for a shape of blocks it is that of `block_mask`.

    Args:
        n_images: images of the batch.
        grid: rows of patches, and patches of a row.
        generator: source of randomness; its device is the result's.
        shape: "independent", "blocks" (rectangles are hidden) or "inverse_blocks" (all but rectangles).
        block_area: smallest and largest area of a block; default `BLOCK_AREA`.
    """
    if shape == "independent":
        scores = torch.rand(n_images, grid[0] * grid[1], generator=generator, device=generator.device)
        return scores.argsort(dim=1)
    scores = block_scores(n_images, *grid, block_area or BLOCK_AREA, generator=generator, device=generator.device)
    order = scores.argsort(dim=1, stable=True)  # a block is cut at its end, as by `hide_lowest`
    return order.flip(1) if shape == "inverse_blocks" else order


def split_order(order: Tensor, ratio: float) -> PatchSplit:
    """Hide the first patches of every row of an order (B, N), the same number in each."""
    count = n_hidden(ratio, order.shape[1])
    return PatchSplit(order[:, count:], order[:, :count])


def split_patches(n_images: int, n_patches: int, ratio: float, generator: torch.Generator) -> PatchSplit:
    """Hide the same number of patches in every image, each image its own (on the generator's device)."""
    return split_order(patch_order(n_images, (1, n_patches), generator), ratio)


def split_mask(mask: Tensor) -> PatchSplit:
    """Return the split of a given mask (B, N), True = hidden, with equal counts in every row."""
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    count = int(mask[0].sum())
    n_visible = mask.shape[1] - count
    return PatchSplit(order[:, :n_visible], order[:, n_visible:])


def pack_patches(order: Tensor, counts: "np.ndarray[Any, Any]", n_prefix: int = 1) -> PackedPatches:
    """Hide in every image a number of patches of its own, and pack the visible ones into sequences of one length.

    Nothing waits for the device: the counts are on the host, and every size follows from them.

    Args:
        order: (B, N) int64: the patches of each image in the order in which they are hidden; see `patch_order`.
        counts: (B,): how many each image hides, at least one and at most N - 1; see `hidden_counts`.
        n_prefix: tokens of an image beside its patches.
    """
    device, (n_images, n_patches) = order.device, order.shape
    lengths = n_patches - counts + n_prefix
    places, n_sequences, length = fill_sequences(lengths.tolist())
    first, visible = torch.tensor([places, (n_patches - counts).tolist()]).to(device, non_blocking=True)
    n_positions, longest = n_sequences * length, int(lengths.max())
    order = order.flip(1)  # the visible patches first
    # Each image's tokens in turn; those beyond its own go to one position too many, which is cut off.
    token = torch.arange(longest, device=device)
    own = token < (visible + n_prefix)[:, None]
    position = torch.where(own, first[:, None] + token, n_positions).flatten()
    number = torch.arange(n_images, device=device)[:, None]
    patch = order[:, (token - n_prefix).clamp(min=0)] + number * n_patches
    patch = torch.where(token < n_prefix, 0, patch)

    def place(values: Tensor, empty: int) -> Tensor:
        placed = torch.full((n_positions + 1,), empty, device=device).scatter_(0, position, values.flatten())
        return placed[:-1].view(n_sequences, length)

    image = place(number.expand(-1, longest), -1)
    last = torch.arange(n_patches - int(counts.max()), n_patches, device=device)
    return PackedPatches(place(patch, 0), image, first, order, visible, last >= visible[:, None])


def fill_sequences(lengths: Sequence[int]) -> tuple[list[int], int, int]:
    """Put images of these many tokens into sequences of one length, with little padding.

    The longest image goes first, each into the sequence that is emptiest. How many sequences: of a few numbers the one
    with the fewest positions in all; many short sequences rather than few long ones, because of attention.

    Returns:
        (where each image begins in all positions, number of sequences, their length).
    """
    n, total, longest = len(lengths), sum(lengths), max(lengths)
    numbers = {n, (n + 1) // 2, max(total // longest, 1), -(-total // (2 * longest))}
    by_length = sorted(range(n), key=lambda i: -lengths[i])
    best: tuple[list[tuple[int, int]], int, int] | None = None
    for n_sequences in sorted(numbers, reverse=True):
        filled, places = [(0, k) for k in range(n_sequences)], [(0, 0)] * n
        for i in by_length:
            start, k = filled[0]
            places[i] = (k, start)
            heapq.heapreplace(filled, (start + lengths[i], k))
        length = max(filled)[0]
        if best is None or n_sequences * length < best[1] * best[2]:
            best = places, n_sequences, length
    assert best is not None
    places, n_sequences, length = best
    return [k * length + start for k, start in places], n_sequences, length
