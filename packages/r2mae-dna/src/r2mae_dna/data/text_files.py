"""Lines of a user's text files, plain or gzipped; what cannot be read is named with its place."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from r2mae_core import UserError

MAX_LENGTH = 10**11
"""Longest sequence that is believed: ten times the longest chromosome known."""

BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

_PACKED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-zip",
}
_UTF8_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of each line of a plain or gzipped file.

    Raises:
        UserError: it is missing, or damaged or cut off; with the last line that could be read.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    refuse_cut_bgzf(path)
    _refuse_packed(path)
    number = 0
    try:
        with open_bytes(path) as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
                yield number, line.removeprefix(_UTF8_MARK) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged or cut off after line {number}: {error}") from None


def _refuse_packed(path: Path) -> None:
    """Refuse a file that is compressed in another way than by gzip, whatever its name says.

    Raises:
        UserError: it is one.
    """
    with path.open("rb") as content:
        head = content.read(6)
    if kind := next((kind for start, kind in _PACKED.items() if head.startswith(start)), None):
        raise UserError(f"{path} is a {kind} file, which is not read here; unpack it, or compress it by bgzip")


def open_bytes(path: Path) -> BinaryIO:
    """Open a plain or gzipped file for reading bytes; whether it is gzipped is seen from its first bytes."""
    with path.open("rb") as start:
        zipped = start.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


def open_to_write(path: Path) -> Any:
    """Open for writing bytes; `.gz` and `.bgz` are compressed in bgzip's blocks, which tabix can index."""
    if path.suffix.lower() not in (".gz", ".bgz"):
        return path.open("wb")
    import pysam

    return pysam.BGZFile(str(path), "wb", None)


def is_bgzf(path: Path) -> bool:
    """Return whether a file is compressed in bgzip's blocks."""
    with path.open("rb") as content:
        head = content.read(18)
    return head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC"


def refuse_cut_bgzf(path: Path) -> None:
    """Refuse a file of bgzip's without its end mark: cut off between two of its blocks, it reads as if it were whole.

    Raises:
        UserError: it is one.
    """
    if not is_bgzf(path):
        return
    with path.open("rb") as content:
        content.seek(max(path.stat().st_size - len(BGZF_END), 0))
        if content.read() != BGZF_END:
            raise UserError(f"{path} is damaged or cut off: bgzip's mark of the end is missing; compress it again")


def whole_number(text: str | bytes) -> int:
    """Return the number that a text of ASCII digits is; Python's `int` takes much more for one.

    Raises:
        ValueError: it is none, or has more than 18 digits.
    """
    if not (text.isdigit() and text.isascii() and len(text) <= 18):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)
