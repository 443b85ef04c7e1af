"""Augmentation of a whole batch where it lies: random resized crop and flip on the GPU, from uint8."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_TRIES = 10


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

    As torchvision's RandomResizedCrop (a rectangle that does not fit is drawn again, ten times at most), but every
    image of the batch at once, and with borders between pixels allowed. There is no antialiasing: give images that are
    at most about twice as large as `side`.

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
    tries = torch.rand(2, _TRIES, n, generator=generator, device=generator.device)
    draws = torch.rand(3, n, generator=generator, device=generator.device)
    area = (scale[0] + (scale[1] - scale[0]) * tries[0]) * height * width
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * tries[1])
    part_x, part_y = (area * aspect).sqrt() / width, (area / aspect).sqrt() / height
    # The first that fits (1e-6: the whole picture does); if none does, the last, cut to the picture.
    fits = (part_x <= 1 + 1e-6) & (part_y <= 1 + 1e-6)
    fits[-1] = True
    first = fits.to(torch.uint8).argmax(dim=0, keepdim=True)
    part_x, part_y = (part.gather(0, first)[0].clamp(max=1.0) for part in (part_x, part_y))
    centre_x, centre_y = (1 - part_x) * (2 * draws[0] - 1), (1 - part_y) * (2 * draws[1] - 1)
    mirror = torch.where(draws[2] < 0.5, -1.0, 1.0) if flip else torch.ones_like(part_x)
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
