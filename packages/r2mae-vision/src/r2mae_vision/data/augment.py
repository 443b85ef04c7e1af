"""Augmentation of a whole batch where it lies: random resized crop and flip on the GPU, from uint8."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_resized_crop(
    images: Tensor,
    side: int,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Tensor:
    """Cut a random rectangle out of every image, resize it to a square (bicubic) and flip half of them.

    As torchvision's RandomResizedCrop, but every image of the batch at once, with borders between pixels allowed, and a
    rectangle that is too long for the image is cut to its length instead of drawn again. There is no antialiasing: give
    images that are at most about twice as large as `side`.

    Args:
        images: (B, C, H, W), uint8 or float.
        side: height and width of the result.
        generator: source of randomness, on the images' device.
        scale: range of the rectangle's area, as a fraction of the image's.
        ratio: range of its width over its height.
        flip: mirror each with probability 1/2.

    Returns:
        (B, C, side, side) float32, clipped to 0 … 255.
    """
    n, height, width = len(images), images.shape[2], images.shape[3]
    draws = torch.rand(5, n, generator=generator, device=generator.device)
    area = (scale[0] + (scale[1] - scale[0]) * draws[0]) * height * width
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    part_x = ((area * aspect).sqrt() / width).clamp(max=1.0)
    part_y = ((area / aspect).sqrt() / height).clamp(max=1.0)
    centre_x, centre_y = (1 - part_x) * (2 * draws[2] - 1), (1 - part_y) * (2 * draws[3] - 1)
    mirror = torch.where(draws[4] < 0.5, -1.0, 1.0) if flip else torch.ones_like(part_x)
    # Rows of the 2 × 3 matrices that map the result's coordinates, -1 … 1, to the image's.
    zero = torch.zeros_like(part_x)
    matrices = torch.stack([part_x * mirror, zero, centre_x, zero, part_y, centre_y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrices, [n, images.shape[1], side, side], align_corners=False)
    crops = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return crops.clamp_(0, 255)


def resize(images: Tensor, side: int) -> Tensor:
    """Return images (B, C, side, side) float32 of 0 … 255, the whole picture, bicubic with antialiasing."""
    if images.shape[2] == images.shape[3] == side:
        return images.float()
    return F.interpolate(images.float(), (side, side), mode="bicubic", antialias=True).clamp_(0, 255)
