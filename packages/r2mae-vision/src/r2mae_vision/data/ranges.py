"""Which pixel values of deep images are black and white: from the files' type and from what a sample of them holds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from r2mae_core import UserError, say
from r2mae_vision.data.decoding import DEEP, Reading, UnreadableImageError, deep_pixels, open_image
from r2mae_vision.data.oddities import remarks

SURVEYED = 32
"""Images that are looked at."""
_STEPS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""The largest values of 8, 10, 12, 14 and 16 bits."""


@dataclass(frozen=True)
class Survey:
    """What a sample of a set's images holds."""

    n_deep: int = 0
    """Images of more than eight bits."""
    low: float = 0.0
    high: float = 0.0
    floats: bool = False
    n_cut: int = 0
    """Images of several channels with 16 bits each, of which Pillow keeps the upper eight."""
    brightest: int = 0
    """The largest value that is left of those."""
    n: int = 0
    """Images that could be looked at."""
    odd: Mapping[str, int] = field(default_factory=dict)
    """What is lost of some → of how many."""


def survey(n: int, read: Callable[[int], object], max_pixels: int) -> Survey:
    """Look at images spread evenly over a set.

    Args:
        n: how many images there are.
        read: number → the file, open; may raise anything.
        max_pixels: larger ones are left out, as when they are read.
    """
    n_seen = n_deep = n_cut = brightest = 0
    odd = Counter[str]()
    lows, highs, floats = [], [], False
    for index in np.unique(np.linspace(0, n - 1, min(n, SURVEYED)).round().astype(int)):
        try:
            file = read(int(index))
            try:
                deep, remarked = _deep(file, max_pixels)
            finally:
                if hasattr(file, "close"):
                    file.close()  # pyright: ignore[reportAttributeAccessIssue]
        except MemoryError:
            raise
        except Exception:  # it is counted and named when it is read for good
            continue
        n_seen += 1
        odd.update(remarked)
        if deep is None:
            continue
        if deep.ndim == 3:
            n_cut, brightest = n_cut + 1, max(brightest, int(deep.max()))
            continue
        n_deep, floats = n_deep + 1, floats or deep.dtype.kind == "f"
        lows.append(float(deep.min()))
        highs.append(float(deep.max()))
    return Survey(n_deep, min(lows, default=0.0), max(highs, default=0.0), floats, n_cut, brightest, n_seen, odd)


def _deep(file: object, max_pixels: int) -> tuple[np.ndarray | None, list[str]]:
    """Return the pixels of a deep image, and remarks on it.

    The pixels are (H, W, C) uint8 of one that Pillow has cut to eight bits, and None of one that is not deep.
    """
    from PIL import Image

    with Image.open(file) as head:  # pyright: ignore[reportArgumentType]  only its first bytes are read
        tiles, found = str(getattr(head, "tile", "")), remarks(head)
        cut = head.mode not in DEEP and ";16" in tiles
        if head.mode not in DEEP and not cut:
            return None, found
    file.seek(0)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        image = open_image(file, max_pixels, frames="first")
        return np.atleast_3d(np.asarray(image)) if cut else deep_pixels(image), found
    except UnreadableImageError:
        return None, found


@cache
def say_once(line: str) -> None:
    """Print a line, if there is one, once in a process: a command opens its data more than once."""
    if line:
        say(line)


def ranged(how: Reading, n: int, read: Callable[[int], object], name: str) -> Reading:
    """Return how images are read, with a range for deep ones: the given one, or what a sample suggests.

    Args:
        how: as the user asked.
        n: how many images there are.
        read: number → the file, open; may raise anything.
        name: of the set, for messages.

    Raises:
        UserError: the sample suggests no range.
    """
    if how.depth == "file":
        from r2mae_vision.data.arrays import settled

        how = settled(how, n, read, name)
        low, high = how.span or (0, 0)
        say_once(f"{name}: {how.dtype} numbers, as they are; the range {low:g} … {high:g} is what 0 … 1 stands for")
        return how
    found = survey(n, read, how.max_pixels)
    odd = "; ".join(f"{count} {what}" for what, count in found.odd.items())
    say_once(f"{name}: of {found.n} images looked at, {odd}" if odd else "")
    if how.span is None:
        span, line = span_of(found, name)
        how = replace(how, span=span)
        say_once(line)
    if how.span is not None:
        say_once(unused(found, how.span))
    return how


def span_of(found: Survey, name: str) -> tuple[tuple[float, float] | None, str]:
    """Return the range that a survey suggests, and the line that says so; None and "" where no image is deep.

    Raises:
        UserError: no range can be told from the data.
    """
    if found.n_cut and found.brightest < 64:
        raise UserError(
            f"{name} has images of several channels with 16 bits each, of which the reader keeps the upper eight: "
            f"nothing brighter than {found.brightest} of 255 is left. Scale them to their full range first"
        )
    if not found.n_deep:
        return None, ""
    held = f"{name}: {found.n_deep} deep images of a sample hold pixels from {found.low:g} to {found.high:g}"
    steps: Sequence[float] = (1.0, 255.0, 65535.0) if found.floats else _STEPS
    if found.low < 0 or found.high > steps[-1]:
        raise UserError(f"{held}: state what is black and white with prepare --range '[LOW,HIGH]'")
    top = next(step for step in steps if found.high <= step)
    return (0.0, top), f"{held}; 0 … {top:g} is taken for black to white (prepare --range for another)"


def unused(found: Survey, span: tuple[float, float]) -> str:
    """Return a warning if a sample uses less than a quarter of a range; else nothing."""
    if not found.n_deep or span[1] <= span[0]:
        return ""
    used = (min(found.high, span[1]) - max(found.low, span[0])) / (span[1] - span[0])
    if used >= 0.25:
        return ""
    return (
        f"Warning: pixels from {found.low:g} to {found.high:g} use {max(used, 0):.1%} of the range "
        f"{span[0]:g} … {span[1]:g}: the images will be almost flat; see prepare --range"
    )
