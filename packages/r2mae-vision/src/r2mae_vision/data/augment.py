"""Augmentation of a whole batch on its device, from uint8: random resized crop and flip."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_vision.data.sizes import covering, pair

_TRIES = 10
PROPORTIONS = (3 / 4, 4 / 3)
"""Width over height of random crops, relative to that of what they become; of squares torchvision's."""


class Rectangles(NamedTuple):
    """One rectangle per image, as fractions of the image, and whether it is mirrored; each (B,)."""

    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor
    mirrored: Tensor


def random_resized_crop(
    images: Tensor,
    size: int | tuple[int, int],
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = PROPORTIONS,
    flip: bool = True,
) -> Tensor:
    """Cut a random rectangle out of every image, resize it (bicubic) and flip half of them.

    As torchvision's RandomResizedCrop, with proportions around those of the result, not around a square: a rectangle
    that does not fit is drawn again, ten times at most. On a GPU all images are cut at once, with borders between
    pixels and without antialiasing, so give images that are at most about twice as large as the result. On a CPU each
    is cut at whole pixels and resized with antialiasing.

    Args:
        images: (B, C, H, W), uint8 or float.
        size: side of the result, or its height and width.
        generator: source of randomness, on the images' device.
        scale: range of the rectangle's area, as a fraction of the image's.
        ratio: range of its width over its height, relative to the result's.
        flip: mirror each with probability 1/2.

    Returns:
        (B, C, height, width), 0 … 255: float32 from a GPU, the images' own type from a CPU.
    """
    height, width = images.shape[2], images.shape[3]
    rectangles = draw_rectangles(len(images), height / width, generator, scale, proportions(size, ratio), flip)
    cut = cut_each if images.device.type == "cpu" else cut_together
    return cut(images, rectangles, size)


def proportions(size: int | tuple[int, int], ratio: tuple[float, float] = PROPORTIONS) -> tuple[float, float]:
    """Return the range of width over height of random crops that become images of a size."""
    height, width = pair(size)
    return ratio[0] * (width / height), ratio[1] * (width / height)


def draw_rectangles(
    n: int,
    height_over_width: float,
    generator: torch.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
) -> Rectangles:
    """Draw a rectangle for each of n images (on the generator's device)."""
    tries = torch.rand(2, _TRIES, n, generator=generator, device=generator.device)
    draws = torch.rand(3, n, generator=generator, device=generator.device)
    area = scale[0] + (scale[1] - scale[0]) * tries[0]
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * tries[1]) * height_over_width
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    # The first that fits (1e-6: the whole picture does); if none does, the last, cut to the picture.
    fits = (width <= 1 + 1e-6) & (height <= 1 + 1e-6)
    fits[-1] = True
    first = fits.to(torch.uint8).argmax(dim=0, keepdim=True)
    width, height = (part.gather(0, first)[0].clamp(max=1.0) for part in (width, height))
    mirrored = (draws[2] < 0.5) & flip
    return Rectangles((1 - width) * draws[0], (1 - height) * draws[1], width, height, mirrored)


def cut_together(images: Tensor, rectangles: Rectangles, size: int | tuple[int, int]) -> Tensor:
    """Cut all images at once: one grid of sampling points for the batch."""
    left, top, width, height, mirrored = rectangles
    # Rows of the 2 × 3 matrices that map the result's coordinates, -1 … 1, to the image's.
    zero, sign = torch.zeros_like(width), torch.where(mirrored, -1.0, 1.0)
    centre_x, centre_y = 2 * left + width - 1, 2 * top + height - 1
    matrices = torch.stack([width * sign, zero, centre_x, zero, height, centre_y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, [len(images), images.shape[1], *pair(size)], align_corners=False)
    crops = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return crops.clamp_(0, 255)


def cut_each(images: Tensor, rectangles: Rectangles, size: int | tuple[int, int]) -> Tensor:
    """Cut image by image at whole pixels; on a CPU up to seven times as fast as all at once."""
    full_height, full_width = images.shape[2], images.shape[3]
    size = pair(size)
    left, top, width, height = (part.double() for part in rectangles[:4])
    widths = (width * full_width).round().clamp(min=1).int()
    heights = (height * full_height).round().clamp(min=1).int()
    lefts = torch.minimum((left * full_width).round().int(), full_width - widths)
    tops = torch.minimum((top * full_height).round().int(), full_height - heights)
    boxes = torch.stack([tops, lefts, heights, widths, rectangles.mirrored.int()], dim=1).tolist()
    out = torch.empty(len(images), images.shape[1], *size, dtype=images.dtype)
    for i, (y, x, h, w, mirrored) in enumerate(boxes):
        crop = F.interpolate(images[i : i + 1, :, y : y + h, x : x + w], size, mode="bicubic", antialias=True)[0]
        out[i] = crop.flip(2) if mirrored else crop
    return out if out.dtype == torch.uint8 else out.clamp_(0, 255)


class RandomCrop:
    """`random_resized_crop` of one picture, in a process that decodes.

    A PIL image, or an array (H, W, C), becomes (C, height, width). Several times as fast as Pillow's crop and
    resize.

    Args:
        size: side of the result, or its height and width.
        scale: range of the rectangle's area, as a fraction of the picture's.
        flip: mirror with probability 1/2.
    """

    def __init__(self, size: int | tuple[int, int], scale: tuple[float, float], flip: bool) -> None:
        self.size, self.scale, self.flip = size, scale, flip

    def __call__(self, picture: Any, generator: torch.Generator) -> np.ndarray:
        """Return a crop of the picture."""
        whole = picture if isinstance(picture, np.ndarray) and picture.ndim == 3 else np.atleast_3d(np.array(picture))
        pixels = torch.from_numpy(whole).permute(2, 0, 1)[None]
        ratio = pixels.shape[2] / pixels.shape[3]
        rectangle = draw_rectangles(1, ratio, generator, self.scale, proportions(self.size), self.flip)
        return cut_each(pixels, rectangle, self.size)[0].numpy()


class CentreCrop:
    """Resizing and the middle, of (H, W, C) float32 arrays of 0 … 255, as timm's evaluation does of pictures.

    Args:
        size: side of the result, or its height and width.
        crop_pct: share of the picture's side that is kept, of the one of which less is cut off.
    """

    def __init__(self, size: int | tuple[int, int], crop_pct: float) -> None:
        self.size, self.crop_pct = pair(size), crop_pct

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Return (C, height, width) float32."""
        images = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        return centre_crop(images, self.size, self.crop_pct)[0].numpy()


def centre_crop(images: Tensor, size: int | tuple[int, int], crop_pct: float = 1.0) -> Tensor:
    """Return the middle of images (B, C, H, W) as (B, C, height, width) float32 of 0 … 255, without distortion.

    They are first made as small as covers the size over `crop_pct`.
    """
    height, width = pair(size)
    whole = max(height, int(height / crop_pct)), max(width, int(width / crop_pct))
    resized = resize(images, covering(whole, images.shape[2], images.shape[3]))
    top, left = round((resized.shape[2] - height) / 2), round((resized.shape[3] - width) / 2)
    return resized[:, :, top : top + height, left : left + width]


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return images (B, C, height, width) float32 of 0 … 255, the whole picture, bicubic with antialiasing."""
    size = pair(size)
    if images.shape[2:] == size:
        return images.float()
    return F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp_(0, 255)
