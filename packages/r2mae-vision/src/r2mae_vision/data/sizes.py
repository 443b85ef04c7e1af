"""Sizes of images and patches: one number is the side of a square, two are height and width."""

from typing import Annotated, Any

from r2mae_core import Bound

Side = Annotated[int, Bound(1, 16_384)]
"""Height and width of an image or a patch."""
Size = Side | tuple[Side, Side]
"""Side of a square, or height and width."""


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def plain(size: int | tuple[int, int]) -> int | list[int]:
    """Return a size as files hold it: a number for a square, else height and width."""
    height, width = pair(size)
    return height if height == width else [height, width]


def shown(size: int | tuple[int, int]) -> str:
    """Return a size as messages have it: "224", or "224 x 448"."""
    height, width = pair(size)
    return str(height) if height == width else f"{height} x {width}"


def settle_size(config: Any) -> None:
    """Write a square of frozen options as one number, so that [224,224] is no other experiment than 224."""
    if isinstance(config.image_size, tuple | list):
        height, width = config.image_size
        object.__setattr__(config, "image_size", height if height == width else (height, width))


def is_size(value: Any) -> bool:
    """Return whether something out of a file is a size as `plain` writes it: whole numbers above 0."""
    sides = value if isinstance(value, list | tuple) else [value, value]
    return len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)


def covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return (height, width) of the smallest picture with another's proportions that covers a size."""
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * factor)), max(size[1], round(width * factor))


def middle(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the largest rectangle of a size's proportions in the middle of a picture."""
    factor = min(height / size[0], width / size[1])
    inner = min(height, max(1, round(size[0] * factor))), min(width, max(1, round(size[1] * factor)))
    return (height - inner[0]) // 2, (width - inner[1]) // 2, *inner
