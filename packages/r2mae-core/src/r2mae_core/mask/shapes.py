"""Structured masks: hidden positions that belong together, in the exact number of `exact_mask`.

Every shape is a score: the units (spans, blocks, groups) get a random order, each position the place of its unit, and
the first `max(1, round(ratio * n))` positions are hidden. So the last unit is cut where the count is reached, and no
ratio and no row is an exception.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from r2mae_core.mask.counts import check_shape
from r2mae_core.mask.masks import Device, _device, hide_lowest, row_counts

ASPECT = 0.3
"""Blocks are at most 1 / 0.3 times as long as they are wide, as BEiT's."""


def span_mask(
    shape: Sequence[int],
    ratio: float | Tensor,
    *,
    mean_span: float = 3.0,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
    device: Device = None,
) -> Tensor:
    """Hide whole spans of neighbouring positions, with the exact count of every row.

    A row is divided into spans of geometric lengths; spans are hidden in a random order. Two neighbouring ones may both
    be hidden, and the last is cut. The row's end goes on at its beginning, so that every position is equally likely.

    Args:
        shape: (…, n): rows of n positions.
        ratio: as in `exact_mask`.
        mean_span: mean length of the spans before they are cut; T5 has 3, SpanBERT 3.8. 1 is `exact_mask`.
        generator: source of randomness, on the mask's device.
        valid: as in `exact_mask`.
        device: as in `exact_mask`.

    Returns:
        bool tensor of `shape`.

    Raises:
        ValueError: what `exact_mask` refuses, or the mean length is below 1.
    """
    shape, device = check_shape(shape), _device(device, valid, generator)
    counts = row_counts(shape, ratio, valid, device)
    return hide_lowest(span_scores(shape, mean_span, generator=generator, device=device), counts, valid)


def span_scores(
    shape: Sequence[int], mean_span: float, *, generator: torch.Generator | None = None, device: Device = None
) -> Tensor:
    """Return the scores of `span_mask`, float64 of `shape` in [0, 1): by spans, and within a span by position.

    For who draws them for a whole batch and hides a part of its rows.

    Raises:
        ValueError: the mean length is below 1.
    """
    if not 1.0 <= mean_span < float("inf"):
        raise ValueError(f"mean_span must be at least 1 position, got {mean_span!r}")
    device = _device(device, None, generator)
    n = shape[-1]
    draws = torch.rand(tuple(shape), generator=generator, device=device)
    # One start at least; and the row is a ring, or spans at its ends would be shorter, and hidden more often.
    starts = (draws < 1.0 / mean_span) | (draws == draws.amin(-1, keepdim=True))
    position = torch.arange(n, device=device).expand(draws.shape)
    span = starts.long().cumsum(-1)
    span = torch.where(span == 0, span[..., -1:], span) - 1
    start = torch.where(starts, position, -1).cummax(-1).values
    within = torch.where(start < 0, position + n - start[..., -1:], position - start)
    order = torch.rand(tuple(shape), generator=generator, device=device).gather(-1, span)
    return ((order * 2**24).double() * n + within) / (2**24 * n)  # a span that is cut keeps its beginning


def block_mask(
    n: int,
    height: int,
    width: int,
    ratio: float | Tensor,
    *,
    block_area: tuple[float, float] = (0.08, 0.3),
    inverse: bool = False,
    generator: torch.Generator | None = None,
    device: Device = None,
) -> Tensor:
    """Hide rectangles of a grid of patches, or all but rectangles, with the exact count of every image.

    Args:
        n: images.
        height: rows of patches.
        width: patches of a row.
        ratio: as in `exact_mask`, for each image.
        block_area: smallest and largest area of a block, as fractions of the picture (BEiT's smallest is 16 of 196).
        inverse: what is visible is in blocks, and the rest is hidden (data2vec 2.0's inverse blocks).
        generator: source of randomness, on the mask's device.
        device: as in `exact_mask`.

    Returns:
        bool tensor (n, height · width), by rows of patches.

    Raises:
        ValueError: what `exact_mask` refuses, or the areas are not increasing fractions.
    """
    shape = check_shape((n, height * width))
    device = _device(device, None, generator)
    counts = row_counts(shape, ratio, None, device)
    scores = block_scores(n, height, width, block_area, generator=generator, device=device)
    return ~hide_lowest(scores, shape[1] - counts) if inverse else hide_lowest(scores, counts)


def block_scores(
    n: int,
    height: int,
    width: int,
    block_area: tuple[float, float] = (0.08, 0.3),
    *,
    generator: torch.Generator | None = None,
    device: Device = None,
) -> Tensor:
    """Return the scores of `block_mask`, (n, height · width) in [0, 1): the place of a patch's first block.

    Arguments and errors are those of `block_mask`.
    """
    if not 0.0 < block_area[0] <= block_area[1] <= 1.0:
        raise ValueError(f"block_area must be two increasing fractions in (0, 1], got {block_area!r}")
    device = _device(device, None, generator)
    first = _first_block((n, height, width), block_area, generator, device)
    # What no block covers comes after all blocks, in a random order.
    n_blocks, rest = _n_blocks(block_area), torch.rand(n, height * width, generator=generator, device=device)
    return torch.where(first < 0, (n_blocks + rest) / (n_blocks + 1), first / (n_blocks + 1))


def _n_blocks(area: tuple[float, float]) -> int:
    return int(4 / area[0]) + 1  # they leave little uncovered, even where all but one patch is hidden


def _first_block(
    shape: tuple[int, int, int], area: tuple[float, float], generator: torch.Generator | None, device: Device
) -> Tensor:
    """Return which of many random rectangles covers each patch first, (n, patches) float32, -1: none does."""
    n, height, width = shape
    n_blocks = _n_blocks(area)

    def draw() -> Tensor:
        return torch.rand(n, n_blocks, generator=generator, device=device)

    size = (area[0] + (area[1] - area[0]) * draw()) * height * width
    aspect = torch.exp((2.0 * draw() - 1.0) * torch.log(torch.tensor(1.0 / ASPECT, device=device)))
    tall = (size * aspect).sqrt().round().clamp(1, height)
    wide = (size / aspect).sqrt().round().clamp(1, width)
    top = (draw() * (height - tall + 1)).floor()
    left = (draw() * (width - wide + 1)).floor()
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= top[..., None]) & (rows < (top + tall)[..., None])
    in_columns = (columns >= left[..., None]) & (columns < (left + wide)[..., None])
    covered = (in_rows[..., :, None] & in_columns[..., None, :]).flatten(2)  # (n, blocks, patches)
    first = covered.to(torch.uint8).argmax(1).float()
    return torch.where(covered.any(1), first, -1.0)


class Groups:
    """Features that are hidden together, such as the genes of a set. A feature may be in several groups, or in none.

    Args:
        groups: the features of each group, as positions.
        n: features in all.

    Raises:
        ValueError: there is no group, one is empty, or a position is out of range.
    """

    def __init__(self, groups: Sequence[Sequence[int]], n: int) -> None:
        if not groups:
            raise ValueError("groups must hold at least one group, got none")
        for i, group in enumerate(groups):
            if not len(group):
                raise ValueError(f"group {i} covers nothing")
            if wrong := [position for position in group if not 0 <= position < n]:
                raise ValueError(f"group {i} names position {wrong[0]}, and there are {n}")
        self.n = n
        alone = sorted(set(range(n)) - {position for group in groups for position in group})
        members = [*(list(group) for group in groups), *([position] for position in alone)]
        self.position = torch.tensor([position for group in members for position in group])
        self.unit = torch.tensor([i for i, group in enumerate(members) for _ in group])
        self.n_units = len(members)

    def scores(self, n_rows: int, generator: torch.Generator | None, device: Device) -> Tensor:
        """Return the place of each feature, (n_rows, n): of the first of its groups in a random order.

        Features of one group are in a random order themselves, so that a group is not always cut at the same end.
        """
        order = torch.rand(n_rows, self.n_units, generator=generator, device=device).argsort(-1)
        places = torch.arange(self.n_units, dtype=torch.float32, device=device).expand(n_rows, -1)
        order = torch.empty_like(places).scatter_(1, order, places)
        if self.position.device != order.device:  # sent once
            self.position, self.unit = self.position.to(order.device), self.unit.to(order.device)
        position, unit = self.position, self.unit
        scores = torch.full((n_rows, self.n), float(self.n_units), device=device)
        scores.scatter_reduce_(1, position.expand(n_rows, -1), order[:, unit], "amin")
        within = torch.rand(n_rows, self.n, generator=generator, device=device)
        return (scores + within) / (self.n_units + 1)


def group_mask(
    shape: Sequence[int],
    ratio: float | Tensor,
    groups: Groups,
    *,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
    device: Device = None,
) -> Tensor:
    """Hide whole groups of features, with the exact count of every row; the last group is cut.

    Groups come in a random order, and a feature in none of them is a group of its own.

    Args:
        shape: (rows, n).
        ratio: as in `exact_mask`.
        groups: which features belong together.
        generator: source of randomness, on the mask's device.
        valid: as in `exact_mask`.
        device: as in `exact_mask`.

    Returns:
        bool tensor of `shape`.

    Raises:
        ValueError: what `exact_mask` refuses, or the groups are of another number of features.
    """
    shape, device = check_shape(shape), _device(device, valid, generator)
    if groups.n != shape[-1]:
        raise ValueError(f"the groups are of {groups.n} features, and the mask has {shape[-1]}")
    counts = row_counts(shape, ratio, valid, device)
    return hide_lowest(groups.scores(shape[0], generator, device), counts, valid)
