"""The loss at fixed ratios, how results are ranked, and `compare`, which puts runs into one table."""

from collections.abc import Sequence

import torch
from torch import Tensor

from r2mae_core import Compare, Direction, print_comparison
from r2mae_vision.masking import split_patches
from r2mae_vision.model import MaskedAutoencoder

RANK_BY: dict[str, Direction] = {"probe_accuracy": "max", "linear_top1": "max", "top1": "max"}
EVALUATION_RATIOS = (0.25, 0.5, 0.75, 0.9)
N_IMAGES = 1024


@torch.no_grad()
def loss_curve(
    model: MaskedAutoencoder, images: Tensor, ratios: Sequence[float] = EVALUATION_RATIOS, batch_size: int = 128
) -> list[float]:
    """Return the mean loss on hidden patches at each ratio, with the same masks for every model.

    Args:
        model: in evaluation mode, on the images' device.
        images: (B, C, H, W) uint8 of the model's size.
        ratios: fractions hidden.
        batch_size: images at once.
    """
    losses = []
    for ratio in ratios:
        generator, total = torch.Generator(images.device).manual_seed(0), 0.0
        for part in images.split(batch_size):
            split = split_patches(len(part), model.n_patches, ratio, generator)
            total += model(model.normalise(part), split)[0].item() * len(part)
        losses.append(total / len(images))
    return losses


def compare_command(config: Compare) -> None:
    """`r2mae-vision compare`."""
    print_comparison(config, RANK_BY)
