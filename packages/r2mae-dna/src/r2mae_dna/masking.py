"""Masking of alignments: which bases of the reference are hidden, and what is shown in their place."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import UserError, exact_mask, n_masked, row_counts, span_mask
from r2mae_dna.data.codes import MASK, SOFT_MASK, TOKEN_BITS
from r2mae_dna.model import complement

SMOOTHING = 7
"""Bases over which GPN-MSA takes the largest phastCons."""
NEUTRAL = 0.1
"""phastCons below which a label may be flipped."""
MEAN_SPAN = 3.0
"""Mean length of hidden spans where none is given: T5's."""


@dataclass(frozen=True)
class MaskingConfig:
    """How hidden bases are shown and weighted (GPN-MSA's recipe).

    Raises:
        UserError: a share, probability or weight is out of range.
    """

    mask_share: float = 0.8
    """Share that shows the mask."""
    random_share: float = 0.1
    """Share that shows a random base; the rest shows its own."""
    soft_mask_weight: float = 0.1
    """Loss weight of lower-case bases."""
    conservation_weights: bool = True
    """Weight by max(phyloP, 1) · (0.1 + phastCons)."""
    label_flip: float = 0.5
    """Probability of a random label where phastCons is below 0.1."""
    mean_span: float | None = None
    """Hide spans of this mean length; None: each base for itself."""

    def __post_init__(self) -> None:
        mask, random = self.mask_share, self.random_share
        if not (mask >= 0 and random >= 0 and mask + random <= 1):
            raise UserError(f"--mask_share and --random_share are at most 1 together, got {mask} and {random}")
        if not 0 <= self.label_flip <= 1 or self.soft_mask_weight < 0:
            raise UserError(f"label_flip must be in [0, 1] and soft_mask_weight at least 0, got {self}")
        if self.mean_span is not None and not 1 <= self.mean_span < float("inf"):
            raise UserError(f"mean_span must be at least 1 base, got {self.mean_span}")


@dataclass(frozen=True)
class MaskedBatch:
    """What the network sees and what it must predict, for at most P hidden positions of each of B windows.

    A window with fewer than P hidden positions has surplus places at its end: positions that are not hidden, with
    weight 0.
    """

    codes: Tensor
    """(B, L, 1 + S) uint8 tokens, the reference corrupted."""
    positions: Tensor
    """(B, P) int64, the hidden ones ascending."""
    labels: Tensor
    """(B, P) int64."""
    weights: Tensor
    """(B, P) float32."""
    total_weight: Tensor
    """Sum of the weights of all bases of all windows, hidden or not; scalar."""
    places: Tensor | None = None
    """(N,) int64, ascending: which of the B · P places are hidden; None: all of them."""

    def hidden(self, values: Tensor) -> Tensor:
        """Return the values (B, P) of the hidden positions, (N,)."""
        return values.flatten() if self.places is None else values.flatten().index_select(0, self.places)


def turn_strands(codes: Tensor, reverse: Tensor) -> Tensor:
    """Return windows (B, L, 1 + S) with those of `reverse` (B,) on their other strand, in every row."""
    return torch.where(reverse[:, None, None], complement(codes).flip(1), codes)


def turn_tracks(batch: dict[str, Tensor]) -> Tensor | None:
    """Return the tracks of a batch, (B, 2, L), in the direction of its windows' strands; None without tracks."""
    tracks = batch.get("conservation")
    return None if tracks is None else torch.where(batch["reverse"][:, None, None], tracks.flip(2), tracks)


def hidden_positions(
    shape: tuple[int, int], ratio: float | Tensor, generator: torch.Generator, mean_span: float | None = None
) -> Tensor:
    """Return which positions are hidden, (B, P) int64 ascending.

    Args:
        shape: (B, L).
        ratio: of all rows, or (B,) on the CPU: of each.
        generator: source of the choice.
        mean_span: see `MaskingConfig`.

    Returns:
        P is the largest number of hidden positions in a row, known on the CPU. A row with fewer has others of its
        positions, ascending, after them.
    """
    if mean_span is None:
        mask = exact_mask(shape, ratio, generator=generator)
    else:
        mask = span_mask(shape, ratio, mean_span=mean_span, generator=generator)
    largest = int(row_counts(shape, ratio, None, "cpu").max()) if isinstance(ratio, Tensor) else None
    order = mask.byte().argsort(dim=1, descending=True, stable=True)
    return order[:, : n_masked(ratio, shape[1]) if largest is None else largest]  # pyright: ignore[reportArgumentType]


def hidden_places(counts: Tensor, device: torch.device) -> Tensor:
    """Return which of the places (B, P) of `hidden_positions` are hidden, (N,) int64 ascending, counted through all.

    Args:
        counts: (B, 1) int64 on the CPU, so that N and P are known without waiting for the device.
        device: of the result.
    """
    n, widest = int(counts.sum()), int(counts.max())
    counts = counts[:, 0].to(device, non_blocking=True)
    row = torch.arange(len(counts), device=device).repeat_interleave(counts, output_size=n)
    first = counts.cumsum(0) - counts  # the number of hidden positions in the rows before
    return row * widest + torch.arange(n, device=device) - first[row]


def position_weights(codes: Tensor, conservation: Tensor | None, config: MaskingConfig) -> tuple[Tensor, Tensor | None]:
    """Return the loss weight of every base, (B, L) float32, and smoothed phastCons, or None without tracks.

    Args:
        codes: (B, L, 1 + S) bytes with the soft-mask bit.
        conservation: (B, 2, L): phastCons and phyloP, NaN where unknown.
        config: which weights count.
    """
    soft = (codes[..., 0] & SOFT_MASK) > 0
    weights = torch.where(soft, config.soft_mask_weight, 1.0)
    if conservation is None:
        return weights, None
    phastcons, phylop = conservation.float().unbind(1)
    smooth = F.max_pool1d(phastcons.nan_to_num(0.0)[:, None], SMOOTHING, 1, SMOOTHING // 2)[:, 0]
    if config.conservation_weights:
        weights = weights * phylop.nan_to_num(1.0).clamp_min(1.0) * (0.1 + smooth)
    return weights, smooth


def mask_windows(
    batch: dict[str, Tensor], ratio: float | Tensor, generator: torch.Generator, config: MaskingConfig
) -> MaskedBatch:
    """Turn strands, choose the hidden positions, corrupt the reference there, and return labels and weights.

    Args:
        batch: of `WindowSet.batch`, on the generator's device; every base of the reference is A, C, G or T.
        ratio: fraction of the reference's bases that is hidden; or (B,) on the CPU: of each window's.
        generator: source of all choices.
        config: what is shown in place of hidden bases.
    """
    codes = turn_strands(batch["codes"], batch["reverse"])
    weights, phastcons = position_weights(codes, turn_tracks(batch), config)
    codes = codes & TOKEN_BITS
    shape = (codes.shape[0], codes.shape[1])
    positions = hidden_positions(shape, ratio, generator, config.mean_span)

    def draw() -> Tensor:
        return torch.rand(positions.shape, generator=generator, device=codes.device)

    def random_base() -> Tensor:
        return (draw() * 4).to(torch.uint8) + 1

    reference = codes[..., 0]
    own = reference.gather(1, positions)
    which = draw()
    shown = torch.where(which < config.mask_share, MASK, own)
    at_random = (which >= config.mask_share) & (which < config.mask_share + config.random_share)
    shown = torch.where(at_random, random_base(), shown)
    total_weight, weights = weights.sum(), weights.gather(1, positions)
    places = None
    if isinstance(ratio, Tensor):
        counts = row_counts(shape, ratio, None, "cpu")
        places = hidden_places(counts, codes.device)
        hidden = torch.arange(positions.shape[1], device=codes.device) < counts.to(codes.device, non_blocking=True)
        shown, weights = torch.where(hidden, shown, own), torch.where(hidden, weights, 0.0)
    corrupted = torch.cat([reference.scatter(1, positions, shown)[..., None], codes[..., 1:]], -1)
    labels = own
    if phastcons is not None and config.label_flip:
        flipped = (draw() < config.label_flip) & (phastcons.gather(1, positions) < NEUTRAL)
        labels = torch.where(flipped, random_base(), labels)
    return MaskedBatch(corrupted, positions, labels.long(), weights, total_weight, places)
