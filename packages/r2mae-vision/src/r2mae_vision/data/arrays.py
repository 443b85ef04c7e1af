"""Images of any channels and depth, as the numbers in their files: multispectral and microscopy TIFF, `.npy`.

They are (H, W, C) arrays of uint8, uint16 or float32 from file to model. A set has one of these types and one range,
low … high, which the model sees as 0 … 255; mean and deviation of each channel normalise them.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from r2mae_core import UserError
from r2mae_vision.data.decoding import NPY, TIFF, OutsideRangeError, Reading, UnreadableImageError, open_image
from r2mae_vision.data.oddities import WHITE_IS_ZERO
from r2mae_vision.data.sizes import middle, pair

TYPES = {
    "uint8": ("images.u8", (0.0, 255.0)),
    "uint16": ("images.u16", (0.0, 65535.0)),
    "float32": ("images.f32", None),
}
"""Type → the file in a store, and the range; None: it depends on the data."""
FLOAT_TOPS = (1.0, 255.0, 65535.0)
SURVEYED = 32
_SEVERAL = {"Z": "planes", "T": "times", "I": "pages", "Q": "pages", "R": "pages"}


@dataclass(frozen=True)
class Stack:
    """The numbers of a file, and what their axes are: Y, X, C (channels), others of TIFF, or ? where unknown."""

    values: np.ndarray
    axes: str


def read_stack(file: Any, max_pixels: int) -> Stack:
    """Return the numbers of a TIFF, a `.npy`, or another image.

    Raises:
        UnreadableImageError: it is damaged, too large, or holds no numbers.
        UserError: tifffile is missing.
    """
    content = file if isinstance(file, bytes) else file.read()
    if content.startswith(NPY):
        stack = _npy(content)
    elif content.startswith(TIFF):
        stack = _tiff(content, max_pixels)
    else:
        image = open_image(content, max_pixels)
        if image.mode in ("P", "PA", "1") or (";16" in str(getattr(image, "tile", "")) and image.mode != "I;16"):
            raise UnreadableImageError(f"its colours (mode {image.mode}) are no channels, or it has 16 bits a channel")
        stack = Stack(np.asarray(image), "YXC" if np.asarray(image).ndim == 3 else "YX")
    return replace(stack, values=_typed(stack.values))


def _npy(content: bytes) -> Stack:
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UnreadableImageError(" ".join(str(error).split())) from None
    if values.ndim not in (2, 3):
        raise UnreadableImageError(f"an array of shape {values.shape}; (H, W), (H, W, C) or (C, H, W) is needed")
    return Stack(values, "YX" if values.ndim == 2 else "???")


def _tiff(content: bytes, max_pixels: int) -> Stack:
    try:
        import tifffile
    except ImportError:
        raise UserError("TIFF of any channels needs tifffile: pip install 'r2mae-vision[tiff]'") from None
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as opened:
            series = opened.series
            if len(series) > 1:
                raise UnreadableImageError(f"it holds {len(series)} pictures of several sizes or kinds; split it")
            first = series[0]
            sizes = dict(zip(first.axes, first.shape, strict=True))
            if sizes.get("Y", 0) * sizes.get("X", 0) > max_pixels:
                raise UnreadableImageError(f"more than {max_pixels:,} pixels; prepare with a larger --max_pixels")
            page = first.keyframe
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                raise UnreadableImageError(WHITE_IS_ZERO)
            if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
                raise UnreadableImageError("its colours (a palette) are no channels")
            values, orientation = first.asarray(), int(page.tags.valueof("Orientation", 1))
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs raise many kinds
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from None
    kept = [k for k, n in enumerate(values.shape) if n > 1 or first.axes[k] in "YX"]
    axes = "".join(first.axes[k] for k in kept).replace("S", "C")
    return Stack(_upright(values.reshape([values.shape[k] for k in kept]), axes, orientation), axes)


def _upright(values: np.ndarray, axes: str, orientation: int) -> np.ndarray:
    """Return numbers turned and mirrored as TIFF's orientation 1 … 8 says, as Pillow does with pictures."""
    if orientation == 1:
        return values
    rows, columns = axes.index("Y"), axes.index("X")
    turned = values.swapaxes(rows, columns) if orientation in (5, 6, 7, 8) else values
    mirrored = (rows,) * (orientation in (3, 4, 7, 8)) + (columns,) * (orientation in (2, 3, 6, 7))
    return np.flip(turned, mirrored) if mirrored else turned


def _typed(values: np.ndarray) -> np.ndarray:
    """Return numbers as uint8, uint16 or float32, none of them changed but for float64's last digits.

    Raises:
        UnreadableImageError: that cannot be, or a number is NaN or infinite.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind not in "iuf":
        raise UnreadableImageError(f"it holds {values.dtype}, no numbers of pixels")
    if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
        raise UnreadableImageError(f"{bad:,} of {values.size:,} pixels are NaN or infinite")
    if values.dtype.kind in "iu" and values.size and max(-int(values.min()), int(values.max())) > 2**24:
        raise UnreadableImageError(f"{values.dtype} numbers beyond 2**24, which float32 does not hold")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise UnreadableImageError("numbers beyond float32")
    return single


def channels_last(stack: Stack, in_chans: int) -> np.ndarray:
    """Return the (H, W, C) numbers of a stack with a given number of channels.

    Raises:
        UnreadableImageError: it has another number, or it cannot be told which axis they are.
    """
    values, axes = stack.values, stack.axes
    if axes == "YX":
        if in_chans != 1:
            raise UnreadableImageError(f"it has one channel, not {in_chans}")
        return values[:, :, None]
    if axes == "???":
        first, last = values.shape[0] == in_chans, values.shape[2] == in_chans
        if first == last:
            why = (
                f"either the first or the last axis of {values.shape} may be"
                if first
                else f"{values.shape} has no axis of"
            )
            raise UnreadableImageError(f"{why} {in_chans} channels")
        return values if last else np.moveaxis(values, 0, -1)
    other = axes.replace("Y", "", 1).replace("X", "", 1)
    if len(other) != 1 or len(axes) != 3:
        raise UnreadableImageError(
            f"axes {axes} of {values.shape}: one picture of several channels is needed; split it"
        )
    at = axes.index(other)
    n = values.shape[at]
    # Pages without a meaning are channels where there are as many as were asked for.
    if other in _SEVERAL and not (other in "QI" and n == in_chans):
        raise UnreadableImageError(f"it holds {n} {_SEVERAL[other]} (axes {axes}), not {in_chans} channels; split it")
    if n != in_chans:
        raise UnreadableImageError(f"it has {n} channels, not {in_chans}")
    return np.moveaxis(values, at, -1)


def read_array(file: Any, in_chans: int, how: Reading) -> np.ndarray:
    """Return a file's numbers, (H, W, C) of the set's type.

    Raises:
        UnreadableImageError: it is damaged, of another type, or of other channels.
        OutsideRangeError: numbers lie outside a range that the user did not choose.
    """
    values = channels_last(read_stack(file, how.max_pixels), in_chans)
    if values.dtype != how.dtype:
        raise UnreadableImageError(f"it holds {values.dtype} where other images of the set hold {how.dtype}")
    assert how.span is not None
    low, high = float(values.min()), float(values.max())
    if not (how.chosen or how.span[0] <= low <= high <= how.span[1]):
        suggested = f"{how.span[0]:g} … {how.span[1]:g}, which other images of the set suggest"
        remedy = "state the range with prepare --range '[LOW,HIGH]'"
        raise OutsideRangeError(f"pixels from {low:g} to {high:g}, outside {suggested}; {remedy}")
    return np.clip(values, *(np.asarray(end, values.dtype) for end in bounds(how.span, values.dtype)))


def bounds(span: tuple[float, float], dtype: Any) -> tuple[float, float]:
    """Return the part of a range that a type can hold."""
    if np.dtype(dtype).kind == "f":
        return span
    most = np.iinfo(dtype).max
    return min(max(np.ceil(span[0]), 0), most), max(min(np.floor(span[1]), most), 0)


def settled(how: Reading, n: int, read: Callable[[int], Any], name: str) -> Reading:
    """Return how a set is read, with its type and its range, which a sample of it suggests.

    Raises:
        UserError: no image of the sample can be read, types differ, or the range must be stated.
    """
    types: dict[str, int] = {}
    low, high, why = np.inf, -np.inf, ""
    for index in np.unique(np.linspace(0, n - 1, min(n, SURVEYED)).round().astype(int)):
        try:
            file = read(int(index))
            try:
                values = read_stack(file, how.max_pixels).values
            finally:
                if hasattr(file, "close"):
                    file.close()
        except (MemoryError, UserError):
            raise
        except Exception as error:  # it is counted and named when it is read for good
            why = why or str(error)
            continue
        types[str(values.dtype)] = types.get(str(values.dtype), 0) + 1
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not types:
        raise UserError(f"{name}: none of the images looked at can be read: {why}")
    if len(types) > 1:
        shown = ", ".join(f"{count} of {dtype}" for dtype, count in sorted(types.items()))
        raise UserError(f"{name} mixes types, whose numbers cannot be compared: {shown}; give all images one type")
    dtype = next(iter(types))
    return replace(how, dtype=dtype, span=how.span or _span(dtype, low, high, name))


def _span(dtype: str, low: float, high: float, name: str) -> tuple[float, float]:
    if (known := TYPES[dtype][1]) is not None:
        return known
    if low < 0 or high > FLOAT_TOPS[-1]:
        raise UserError(
            f"{name} holds numbers from {low:g} to {high:g}: state their range with prepare --range '[LOW,HIGH]'"
        )
    return 0.0, next(top for top in FLOAT_TOPS if high <= top)


def reframed_array(values: np.ndarray, size: int | tuple[int, int], fit: str) -> np.ndarray:
    """Return (H, W, C) at a size, as `reframed` does of pictures: bicubic, within the bounds of each channel."""
    import torch
    import torch.nn.functional as F

    size = pair(size)
    if fit == "crop":
        top, left, height, width = middle(size, *values.shape[:2])
        values = values[top : top + height, left : left + width]
    if values.shape[:2] == size:
        return np.ascontiguousarray(values)
    planes = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]
    made = F.interpolate(planes, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    made = np.clip(made, values.min(axis=(0, 1)), values.max(axis=(0, 1)))
    return made.astype(np.float32) if values.dtype.kind == "f" else np.rint(made).astype(values.dtype)


def statistics(images: np.ndarray, span: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel of (N, H, W, C) images, in units of their range; two passes.

    A channel that is the same everywhere has the deviation 1.
    """
    parts = range(0, len(images), max(1, 2**24 // images[0].size))
    size = next(iter(parts[1:]), len(images))
    n = images.size // images.shape[3]
    mean = sum(images[k : k + size].sum(axis=(0, 1, 2), dtype=np.float64) for k in parts) / n
    square = sum(((images[k : k + size] - mean) ** 2).sum(axis=(0, 1, 2), dtype=np.float64) for k in parts) / n
    width = span[1] - span[0]
    deviation = np.sqrt(square) / width
    return ((mean - span[0]) / width).tolist(), np.where(deviation > 0, deviation, 1.0).tolist()
