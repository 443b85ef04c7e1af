"""The loss of a masked autoencoder at fixed ratios."""

from collections.abc import Sequence

import torch
from torch import Tensor

from r2mae_vision.mae.masking import split_patches
from r2mae_vision.mae.model import MaskedAutoencoder

EVALUATION_RATIOS = (0.25, 0.5, 0.75, 0.9)
N_IMAGES = 1024


@torch.no_grad()
def held_out_loss(
    model: MaskedAutoencoder, images: Tensor, ratios: Sequence[float] = EVALUATION_RATIOS, batch_size: int = 128
) -> dict[float, float]:
    """Return ratio → mean loss on hidden patches, with the same masks for every model.

    Args:
        model: in evaluation mode, on the images' device.
        images: (B, C, H, W) uint8 of the model's size.
        ratios: fractions hidden.
        batch_size: images at once.
    """
    losses = {}
    for ratio in ratios:
        generator, total = torch.Generator(images.device).manual_seed(0), 0.0
        for part in images.split(batch_size):
            split = split_patches(len(part), model.n_patches, ratio, generator)
            total += model(model.normalise(part), split)[0].item() * len(part)
        losses[ratio] = total / len(images)
    return losses
