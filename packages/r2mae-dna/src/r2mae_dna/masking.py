"""Masking of alignments: which bases of the reference are hidden, and what is shown in their place."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import UserError, exact_mask, n_masked
from r2mae_dna.data.codes import MASK, SOFT_MASK, TOKEN_BITS
from r2mae_dna.model import complement

SMOOTHING = 7
"""Bases over which GPN-MSA takes the largest phastCons."""
NEUTRAL = 0.1
"""phastCons below which a label may be flipped."""


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

    def __post_init__(self) -> None:
        mask, random = self.mask_share, self.random_share
        if not (mask >= 0 and random >= 0 and mask + random <= 1):
            raise UserError(f"--mask_share and --random_share are at most 1 together, got {mask} and {random}")
        if not 0 <= self.label_flip <= 1 or self.soft_mask_weight < 0:
            raise UserError(f"label_flip must be in [0, 1] and soft_mask_weight at least 0, got {self}")


@dataclass(frozen=True)
class MaskedBatch:
    """What the network sees and what it must predict, for P hidden positions of each of B windows."""

    codes: Tensor
    """(B, L, 1 + S) uint8 tokens, the reference corrupted."""
    positions: Tensor
    """(B, P) int64, ascending."""
    labels: Tensor
    """(B, P) int64."""
    weights: Tensor
    """(B, P) float32."""


def turn_strands(codes: Tensor, reverse: Tensor) -> Tensor:
    """Return windows (B, L, 1 + S) with those of `reverse` (B,) on their other strand, in every row."""
    return torch.where(reverse[:, None, None], complement(codes).flip(1), codes)


def hidden_positions(shape: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """Return which positions are hidden, (B, P) int64 ascending; P is the same in every row, and known on the CPU."""
    mask = exact_mask(shape, ratio, generator=generator)
    order = mask.byte().argsort(dim=1, descending=True, stable=True)
    return order[:, : n_masked(ratio, shape[1])]


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
    batch: dict[str, Tensor], ratio: float, generator: torch.Generator, config: MaskingConfig
) -> MaskedBatch:
    """Turn strands, choose the hidden positions, corrupt the reference there, and return labels and weights.

    Args:
        batch: of `WindowSet.batch`, on the generator's device; every base of the reference is A, C, G or T.
        ratio: fraction of the reference's bases that is hidden.
        generator: source of all choices.
        config: what is shown in place of hidden bases.
    """
    codes = turn_strands(batch["codes"], batch["reverse"])
    conservation = batch.get("conservation")
    if conservation is not None:
        conservation = torch.where(batch["reverse"][:, None, None], conservation.flip(2), conservation)
    weights, phastcons = position_weights(codes, conservation, config)
    codes = codes & TOKEN_BITS
    positions = hidden_positions((codes.shape[0], codes.shape[1]), ratio, generator)

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
    corrupted = torch.cat([reference.scatter(1, positions, shown)[..., None], codes[..., 1:]], -1)
    labels = own
    if phastcons is not None and config.label_flip:
        flipped = (draw() < config.label_flip) & (phastcons.gather(1, positions) < NEUTRAL)
        labels = torch.where(flipped, random_base(), labels)
    return MaskedBatch(corrupted, positions, labels.long(), weights.gather(1, positions))
