"""Examples of a page: pictures that the runs drew, and what a modality adds, such as words that its model fills in."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 4_000_000
"""Of all pictures of a page together; those after it are named instead."""


@dataclass(frozen=True)
class Example:
    """A picture, or a piece of HTML."""

    title: str
    png: bytes | None = None
    html: str = ""
    """What stands in the page as it is: whoever makes it escapes what came out of files (`html.escape`)."""
    caption: str = ""
    wide: bool = False
    """Give it the page's whole width."""

    @property
    def image(self) -> str:
        """The picture as a URL that holds it; "" if there is none."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}" if self.png else ""


def figures_of(path: Path, prefix: str = "") -> list[Example]:
    """Return the pictures that a run drew, in the order of their names."""
    found = sorted((path / "figures").glob("*.png"))
    return [Example(f"{prefix}{file.stem.replace('_', ' ')}", file.read_bytes(), wide=_is_wide(file)) for file in found]


def _is_wide(file: Path) -> bool:
    head = file.read_bytes()[16:24]  # width and height of a PNG
    width, height = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
    return width > 1200 or (height > 0 and width > 2 * height)


def within_bounds(examples: Iterable[Example]) -> tuple[list[Example], list[str]]:
    """Return the examples whose pictures fit the page, and a line that names the others."""
    kept: list[Example] = []
    left_out: list[str] = []
    total = 0
    for example in examples:
        size = len(example.png or b"") + len(example.html)
        if total + size > MAX_BYTES:
            left_out.append(example.title)
            continue
        total += size
        kept.append(example)
    return kept, _named(left_out)


def _named(left_out: Sequence[str]) -> list[str]:
    return [f"Left out, so that the page stays small: {', '.join(left_out)}."] if left_out else []
