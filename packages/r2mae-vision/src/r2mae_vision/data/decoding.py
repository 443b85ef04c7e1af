"""One image file → RGB or grey pixels."""

import contextlib
import io
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from r2mae_core import UserError
from r2mae_vision.data.oddities import bands_unread, is_unsigned_32, misread, n_pictures
from r2mae_vision.data.sizes import covering, middle, pair

# Formats whose readers are Pillow's own code and libraries. EPS is none: it would run Ghostscript on the file.
FORMATS = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GIF", "ICNS", "ICO", "IM", "JPEG",
    "JPEG2000", "MPO", "MSP", "PCD", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP",
    "XBM", "XPM",
)  # fmt: skip
NPY, TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ARRAYS = (NPY, *TIFF)
"""How files begin that `arrays` reads."""
MAX_PIXELS = 178_956_970
"""Width times height above which Pillow takes a file for a bomb."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of more than eight bits, all of one channel."""
_OF_TYPE = {"I;16": (0.0, 65535.0), "I;16B": (0.0, 65535.0), "I;16L": (0.0, 65535.0), "I;16N": (0.0, 65535.0)}


class UnreadableImageError(Exception):
    """An image file that cannot be decoded; the message states why."""


class OutsideRangeError(UserError):
    """Pixels outside the range that was taken for black to white."""


@dataclass(frozen=True)
class Reading:
    """How image files are read."""

    span: tuple[float, float] | None = None
    """Pixel values of files of more than eight bits that become 0 and 255; None: that of 16 bits."""
    chosen: bool = False
    """The user named the span: pixels outside become its ends. Otherwise they are an error."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused."""
    frames: Literal["refuse", "first"] = "refuse"
    """Of a file of several pages or frames: refuse it, or read the first."""
    depth: Literal["8", "file"] = "8"
    """8: pictures of eight bits; file: the file's own numbers, (H, W, C); see `arrays`."""
    dtype: str | None = None
    """With depth "file": the type of all images of the set."""

    @property
    def deep_range(self) -> list[float] | None:
        """What a store or a model states of deep pixels that became eight bits: low, high, and 1 if the user chose."""
        return None if self.span is None or self.depth == "file" else [*map(float, self.span), float(self.chosen)]

    @classmethod
    def of_deep_range(cls, stated: Any) -> "Reading":
        """Return how images are read as those of a store or model were that states this; None: it states nothing."""
        return cls() if stated is None else cls((float(stated[0]), float(stated[1])), bool(stated[2]))


def decode(file: Any, in_chans: int = 3, how: Reading = Reading(), least: int | None = None) -> Any:
    """Return an image file as a PIL image of mode RGB (3 channels) or L (1); of depth "file" as (H, W, C) numbers.

    One-channel, palette, CMYK and deeper images are converted; transparency is composited over white, and pictures are
    turned as their EXIF orientation says.

    Args:
        file: path, bytes, or open binary file.
        in_chans: 3 or 1.
        how: range of the pixels and largest image.
        least: what the caller needs of the shorter side, in pixels: a larger JPEG may be decoded at a half, a quarter
            or an eighth of its size, which is several times as fast. None: decode it whole.

    Raises:
        UnreadableImageError: the file is truncated, damaged, too large, or not an image.
        OutsideRangeError: its pixels do not fit the range.
        FileNotFoundError: it is not there.
    """
    if how.depth == "file":
        from r2mae_vision.data.arrays import read_array

        return read_array(file, in_chans, how)
    channel_mode(in_chans)
    image = open_image(file, how.max_pixels, least, how.frames)
    try:
        return convert(image, in_chans, how)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UnreadableImageError(" ".join(str(error).split())) from None


def open_image(
    file: Any, max_pixels: int = MAX_PIXELS, least: int | None = None, frames: Literal["refuse", "first"] = "refuse"
) -> Any:
    """Return an image file as Pillow reads it, in its own mode and upright; `least` as in `decode`.

    Raises:
        UnreadableImageError: the file is truncated, damaged, too large, or not an image; or it holds several pages,
            or bands that Pillow would drop.
        FileNotFoundError: it is not there.
    """
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    source = io.BytesIO(file) if isinstance(file, bytes) else file
    most = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels  # of images inside the file, too; Pillow refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=_formats()) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UnreadableImageError(_too_large(f"{width} x {height} = {width * height:,}", max_pixels))
                _refuse_more(image, frames)
                if least is not None and image.format == "JPEG":
                    image.draft(image.mode, _at_least(least, width, height))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except UnidentifiedImageError:
        raise UnreadableImageError(f"not an image{_is_array(source)}") from None
    except (FileNotFoundError, UnreadableImageError):
        raise
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImageError(_too_large(f"more than {2 * max_pixels:,}", max_pixels)) from None
    except Exception as error:  # Pillow's readers raise nearly every kind, also of their libraries
        reason = " ".join(str(error).split())
        raise UnreadableImageError(reason or type(error).__name__) from None
    finally:
        Image.MAX_IMAGE_PIXELS = most


def _is_array(source: Any) -> str:
    """Return a hint for a file that Pillow does not read and `arrays` does."""
    from pathlib import Path

    with contextlib.suppress(Exception):  # a hint, no more
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                return _is_array(file)
        source.seek(0)
        if source.read(6).startswith(ARRAYS):
            return (
                " that Pillow reads; r2mae-vision prepare FOLDER --depth file --in_chans N makes a store of such files"
            )
    return ""


def _refuse_more(image: Any, frames: str) -> None:
    """Refuse an open file that holds more, or means other numbers, than the picture that would be read."""
    if frames == "refuse" and (n := n_pictures(image)) > 1:
        raise UnreadableImageError(
            f"it holds {n} pages or frames; split it, or read the first of each file: prepare --frames first"
        )
    if n := bands_unread(image):
        raise UnreadableImageError(f"it holds {n} bands, of which {len(image.getbands())} at most would be read")
    if why := misread(image):
        raise UnreadableImageError(why)


def _at_least(side: int, width: int, height: int) -> tuple[int, int]:
    """Return the size (width, height) of a picture whose shorter side is made `side`, but no larger than it is."""
    factor = min(side / min(width, height), 1.0)
    return math.ceil(width * factor), math.ceil(height * factor)


def _too_large(size: str, most: int) -> str:
    return f"{size} pixels, more than {most:,}: it may be a bomb; if you trust it, prepare with a larger --max_pixels"


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of image files that this Pillow reads, in lower case."""
    from PIL import Image

    formats = _formats()
    found = (suffix for suffix, name in Image.registered_extensions().items() if name in formats)
    return frozenset((*found, ".mpo"))  # read as JPEG


def convert(image: Any, in_chans: int = 3, how: Reading = Reading()) -> Any:
    """Return a PIL image in mode RGB or L, whatever mode it has.

    Raises:
        UnreadableImageError: a pixel is NaN or infinite, or no range is known.
        OutsideRangeError: pixels do not fit the range.
    """
    from PIL import Image

    mode = channel_mode(in_chans)
    if image.mode in DEEP:
        values, clear = deep_pixels(image), image.info.get("transparency")
        shown = in_bytes(values, how, _OF_TYPE.get(image.mode))
        image = Image.fromarray(shown if clear is None else np.where(values == clear, np.uint8(255), shown))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image if image.mode == mode else image.convert(mode)


def deep_pixels(image: Any) -> np.ndarray:
    """Return the pixels (H, W) of an image of more than eight bits, as they are.

    Raises:
        UnreadableImageError: a pixel is NaN or infinite.
    """
    values = np.asarray(image)
    if is_unsigned_32(image):
        values = values.view(np.uint32)
    if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
        raise UnreadableImageError(f"{bad:,} of {values.size:,} pixels are NaN or infinite")
    return values


def in_bytes(values: np.ndarray, how: Reading, of_type: tuple[float, float] | None = None) -> np.ndarray:
    """Return pixels of any type as uint8: the range becomes 0 … 255, rounded.

    Args:
        values: of any type.
        how: states the range.
        of_type: that of the file's type, taken where none is stated and the pixels use a quarter of it.

    Raises:
        OutsideRangeError: pixels lie outside a range that the user did not choose.
        UnreadableImageError: there is no range.
    """
    low, high = float(values.min()), float(values.max())
    span, remedy = how.span, "state what is black and white with prepare --range '[LOW,HIGH]'"
    if span is None and of_type is not None and high >= of_type[1] / 4:
        span = of_type
    if span is None:
        raise UnreadableImageError(f"deep pixels from {low:g} to {high:g} and no known range; {remedy}")
    if not (how.chosen or span[0] <= low <= high <= span[1]):
        suggested = f"{span[0]:g} … {span[1]:g}, which other images of the set suggest"
        raise OutsideRangeError(f"pixels from {low:g} to {high:g}, outside {suggested}; {remedy}")
    scaled = (values.astype(np.float64) - span[0]) * (255 / (span[1] - span[0]))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def channel_mode(in_chans: int) -> str:
    """Return PIL's mode for a number of channels.

    Raises:
        UserError: there is none.
    """
    if in_chans not in (1, 3):
        raise UserError(
            f"image files have 1 or 3 channels here, not {in_chans}; prepare them first: "
            f"r2mae-vision prepare FOLDER --in_chans {in_chans}"
        )
    return "RGB" if in_chans == 3 else "L"


def reframed(image: Any, size: int | tuple[int, int], fit: str) -> Any:
    """Return the image at a size: the middle that has its proportions ("crop"), or all of it ("squash"). Bicubic."""
    from PIL import Image

    (height, width), box = pair(size), (0, 0, *image.size)
    if fit == "crop":
        top, left, inner_height, inner_width = middle((height, width), image.height, image.width)
        box = (left, top, left + inner_width, top + inner_height)
    # reducing_gap: large pictures are first made smaller by whole factors, which is much faster and looks the same.
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def fitted(image: Any, size: int | tuple[int, int], fit: str) -> Any:
    """Return an image as a store holds it: `reframed`; with "whole" as small as covers the size, never enlarged."""
    from PIL import Image

    if fit != "whole":
        return reframed(image, size, fit)
    height, width = covering(pair(size), image.height, image.width)
    if height >= image.height:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def pixels(image: Any) -> np.ndarray:
    """Return a PIL image as (H, W, C) uint8."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
