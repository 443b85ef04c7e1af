"""One image file → RGB or grey pixels."""

import io
from functools import cache
from typing import Any

import numpy as np

from r2mae_core import UserError

# Formats whose readers are Pillow's own code and libraries. EPS is none: it would run Ghostscript on the file.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip


class UnreadableImageError(Exception):
    """An image file that cannot be decoded; the message states why."""


def decode(file: Any, in_chans: int = 3) -> Any:
    """Return an image file as a PIL image of mode RGB (3 channels) or L (1).

    One-channel, palette, CMYK and 16-bit images are converted; transparency is composited over white.

    Args:
        file: path, bytes, or open binary file.
        in_chans: 3 or 1.

    Raises:
        UnreadableImageError: the file is truncated, damaged, or not an image.
        FileNotFoundError: it is not there.
    """
    from PIL import Image, UnidentifiedImageError

    channel_mode(in_chans)
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with Image.open(source, formats=_formats()) as image:
            image.load()
            return convert(image, in_chans)
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image") from None
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly every kind, also of their libraries
        reason = " ".join(str(error).split())
        raise UnreadableImageError(reason or type(error).__name__) from None


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def convert(image: Any, in_chans: int = 3) -> Any:
    """Return a PIL image in mode RGB or L, whatever mode it has."""
    from PIL import Image

    mode = channel_mode(in_chans)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # PIL would cut off at 255
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image if image.mode == mode else image.convert(mode)


def channel_mode(in_chans: int) -> str:
    """Return PIL's mode for a number of channels.

    Raises:
        UserError: there is none.
    """
    if in_chans not in (1, 3):
        raise UserError(f"images have 1 or 3 channels here, not {in_chans}")
    return "RGB" if in_chans == 3 else "L"


def square(image: Any, side: int, fit: str) -> Any:
    """Return the image as a square of `side` pixels: its middle ("crop"), or all of it ("squash"). Bicubic."""
    from PIL import Image

    if fit == "crop":
        width, height = image.size
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        box = (left, top, left + edge, top + edge)
    else:
        box = (0, 0, *image.size)
    # reducing_gap: large pictures are first made smaller by whole factors, which is much faster and looks the same.
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def pixels(image: Any) -> np.ndarray:
    """Return a PIL image as (H, W, C) uint8."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
