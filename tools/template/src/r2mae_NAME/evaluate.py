"""The loss on held-out rows, and the comparison of runs."""

from collections.abc import Sequence

import numpy as np
import torch

from r2mae_core import Compare, Direction, derived_seed, exact_mask, print_comparison
from r2mae_NAME.model import RowAutoencoder

VALIDATION_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
RANK_BY: dict[str, Direction] = {f"loss@{ratio:g}": "min" for ratio in VALIDATION_RATIOS}
"""The metrics that decide which scheme is better."""


@torch.inference_mode()
def held_out_loss(
    model: RowAutoencoder, rows: np.ndarray, ratios: Sequence[float] = VALIDATION_RATIOS, device: str = "cpu"
) -> dict[float, float]:
    """Return mask ratio → mean squared error of the hidden features, with the same masks for every model."""
    model, held_out, losses = model.to(device).eval(), torch.from_numpy(rows).to(device), {}
    for ratio in ratios:
        mask = exact_mask(rows.shape, ratio, generator=torch.Generator().manual_seed(derived_seed(0, "held out"))).to(
            device
        )
        losses[ratio] = float((model(held_out, mask) - held_out)[mask].square().mean())
    return losses


def compare_command(config: Compare) -> None:
    """Run `r2mae-NAME compare`."""
    print_comparison(config, RANK_BY)
