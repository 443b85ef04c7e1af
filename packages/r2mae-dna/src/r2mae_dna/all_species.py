"""`pretrain --targets all`: hidden letters of every species are predicted, not those of the reference alone.

The network is the same, and sees a hidden letter of another species as a letter that is none of "-ACGT": zeros in its
one-hot. What is added is one matrix, from the head's features to the four bases of each species; it is used in
training alone, so scoring, probing and published formats do not change. Gaps are neither hidden nor predicted: most of
them are species without an alignment there.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2mae_core import LossWeight, counted_ratio, exact_mask
from r2mae_dna.data.codes import GAP, MASK, TOKEN_BITS
from r2mae_dna.masking import NEUTRAL, MaskingConfig, hidden_positions, position_weights, turn_strands, turn_tracks
from r2mae_dna.model import INIT_STD, AlignmentModel

MaskOver = Literal["letters", "columns", "rows"]
N_BASES = 4


@dataclass(frozen=True)
class HiddenLetters:
    """What the network sees and what it must predict, at P columns of each of B windows of R rows."""

    codes: Tensor
    """(B, L, R) uint8 tokens, hidden letters corrupted; the reference is row 0."""
    positions: Tensor | None
    """(B, P) int64: the columns with hidden letters; None: all L."""
    labels: Tensor
    """(B, P, R) int64 tokens, those of A, C, G, T where there is a weight."""
    weights: Tensor
    """(B, P, R) float32; 0 where nothing is hidden."""
    total_weight: Tensor
    """Sum of the weights of all letters, hidden or not; scalar."""


def hidden_letters(
    codes: Tensor, ratio: float | Tensor, generator: torch.Generator, over: MaskOver, mean_span: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return which letters are hidden, (B, L, R) bool, and the columns with hidden ones, (B, P), or None for all.

    Exact shares of what is there: of each row's bases ("letters"), of the columns ("columns"), or of the rows that
    have a base in the window ("rows"); at least one each.

    Args:
        codes: (B, L, R) tokens.
        ratio: of all windows, or (B,) on the CPU: of each.
        generator: source of the choice.
        over: see above.
        mean_span: columns in spans; see `MaskingConfig`.
    """
    there = (codes > GAP) & (codes < MASK)
    n, length, rows = codes.shape
    if over == "columns":
        positions = hidden_positions((n, length), ratio, generator, mean_span)
        chosen = torch.zeros(n, length, dtype=torch.bool, device=codes.device)
        places = torch.ones_like(positions, dtype=torch.bool)
        if isinstance(ratio, Tensor):  # surplus places of windows that hide fewer
            counts = (length * ratio.double()).round().long().clamp(min=1).to(codes.device, non_blocking=True)
            places = torch.arange(positions.shape[1], device=codes.device) < counts[:, None]
        return chosen.scatter_(1, positions, places)[..., None] & there, positions
    if over == "rows":
        return exact_mask((n, rows), ratio, generator=generator, valid=there.any(1))[:, None] & there, None
    each = ratio[:, None] if isinstance(ratio, Tensor) else ratio
    return exact_mask((n, rows, length), each, generator=generator, valid=there.transpose(1, 2)).transpose(1, 2), None


def hide_letters(
    batch: dict[str, Tensor],
    ratio: float | Tensor,
    generator: torch.Generator,
    config: MaskingConfig,
    species: Tensor,
    over: MaskOver,
) -> HiddenLetters:
    """Turn strands, hide letters of all rows, and return labels and weights.

    Hidden letters are shown, and labels flipped, as those of the reference are in `mask_windows`.

    Args:
        batch: of `WindowSet.batch`, on the generator's device.
        ratio: fraction hidden; or (B,) on the CPU: of each window.
        generator: source of all choices.
        config: what is shown in place of hidden letters.
        species: (R,) float32: weight of each row.
        over: see `hidden_letters`.
    """
    codes = turn_strands(batch["codes"], batch["reverse"])
    weights, phastcons = position_weights(codes, turn_tracks(batch), config)
    codes = codes & TOKEN_BITS
    hidden, positions = hidden_letters(codes, ratio, generator, over, config.mean_span)

    def draw() -> Tensor:
        return torch.rand(codes.shape, generator=generator, device=codes.device)

    def random_base() -> Tensor:
        return (draw() * N_BASES).to(torch.uint8) + 1

    which = draw()
    shown = torch.where(which < config.mask_share, MASK, codes)
    at_random = (which >= config.mask_share) & (which < config.mask_share + config.random_share)
    shown = torch.where(at_random, random_base(), shown)
    there = (codes > GAP) & (codes < MASK)
    letter_weights = weights[..., None] * species * there
    total = letter_weights.sum()
    labels = codes
    if phastcons is not None and config.label_flip:
        flipped = (draw() < config.label_flip) & (phastcons < NEUTRAL)[..., None] & there
        labels = torch.where(flipped, random_base(), labels)
    labels, letter_weights = labels.long(), letter_weights * hidden
    if positions is not None:
        index = positions[..., None].expand(-1, -1, codes.shape[-1])
        labels, letter_weights = labels.gather(1, index), letter_weights.gather(1, index)
    return HiddenLetters(torch.where(hidden, shown, codes), positions, labels, letter_weights, total)


class AllSpecies(nn.Module):
    """The objective: a decoder of the other species' bases, and the weighted loss over all rows.

    Args:
        n_hidden: the network's width.
        species: (1 + S,) float32: weight of each row, the reference first.
        over: see `hidden_letters`.
        seed: seed for the decoder's initial weights.
    """

    weights: Tensor

    def __init__(self, n_hidden: int, species: Tensor, over: MaskOver, seed: int) -> None:
        super().__init__()
        self.over: MaskOver = over
        self.register_buffer("weights", species, persistent=False)
        self.decoder = nn.Linear(n_hidden, N_BASES * (len(species) - 1))
        nn.init.normal_(self.decoder.weight, std=INIT_STD, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.decoder.bias)

    def losses(self, model: AlignmentModel, masked: HiddenLetters) -> Tensor:
        """Return the cross-entropy of every letter, (B, P, R) float32; without meaning where its weight is 0."""
        features = model.head.features(model.encode(masked.codes, masked.positions))
        own = model.head.decoder(features).float()
        others = self.decoder(features).float().unflatten(-1, (-1, N_BASES))
        labels = masked.labels.clamp(min=1)  # a gap has weight 0, and must be some class
        losses = [
            F.cross_entropy(own.flatten(0, 1), labels[..., 0].flatten(), reduction="none"),
            F.cross_entropy(others.flatten(0, 2), labels[..., 1:].flatten() - 1, reduction="none"),
        ]
        shape = labels.shape[:2]
        return torch.cat([losses[0].view(*shape, 1), losses[1].view(*shape, -1)], -1)

    def forward(
        self,
        model: AlignmentModel,
        batch: dict[str, Tensor],
        ratio: float | Tensor,
        generator: torch.Generator,
        config: MaskingConfig,
        loss_weight: LossWeight = "none",
    ) -> Tensor:
        """Return sum(w · CE) / sum(w) over the hidden letters, w = weight of the position · weight of the species.

        With the loss weight "inverse_ratio": sum(w · CE / ratio) over the hidden / sum(w) over all letters.
        """
        if self.over != "columns":
            config = replace(config, mean_span=None)
        masked = hide_letters(batch, ratio, generator, config, self.weights, self.over)
        weighted = masked.weights * self.losses(model, masked)
        if loss_weight == "none":
            return weighted.sum() / masked.weights.sum()
        n = masked.codes.shape[2 if self.over == "rows" else 1]
        each = counted_ratio(ratio, n)
        if isinstance(each, Tensor):
            inverse = (1.0 / each.double()).to(weighted.device, torch.float32, non_blocking=True)
            return (weighted * inverse[:, None, None]).sum() / masked.total_weight
        return weighted.sum() / (each * masked.total_weight)

    def flops(self, n_positions: int) -> int:
        """Return the floating-point operations of the decoder for so many positions."""
        return 2 * n_positions * self.decoder.in_features * self.decoder.out_features
