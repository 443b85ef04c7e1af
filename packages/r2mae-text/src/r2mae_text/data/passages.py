"""Long texts in parts: cut at white space, so that no word is divided and no memory has to hold a whole file."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

PART = 1 << 18
"""Characters that are encoded in one go; a document with more comes in several parts."""
PASSAGE = 1000
"""Characters of a passage: what goes to one side of the split where documents are long or few."""


class Part(NamedTuple):
    """A part of a document."""

    text: str
    last: bool
    """Whether the document ends here."""


def parts(blocks: Iterable[str], size: int = PART) -> Iterator[Part]:
    """Yield a document in parts of at most `size` characters; how it is divided into blocks does not count."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > size:
            end = _cut(rest, start, size)
            yield Part(rest[start:end], last=False)
            start = end
        rest = rest[start:]
    yield Part(rest, last=True)


def _cut(text: str, start: int, size: int) -> int:
    """Return where to cut: before the last white space of the second half, or after `size` where there is none.

    White space goes to the next part, all of it, because tokenizers join it to the word that follows.
    """
    low, high = start + size // 2, start + size
    at = max(text.rfind(" ", low, high + 1), text.rfind("\n", low, high + 1))
    while at > low and text[at - 1].isspace():
        at -= 1
    return at if at > low else high
