"""Bytes and characters of a file, plain or compressed, with bounded memory."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from r2mae_core import UserError, reading

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
LONGEST = 32 << 20
"""Bytes of the longest record (a line, a row, an object) that is read."""
_BLOCK = 1 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"


def open_bytes(file: Path) -> BinaryIO:
    """Open a file for reading; what it was compressed with is told by its ending.

    Raises:
        UserError: it cannot be opened, or a package for its kind is missing.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}
    with reading(file):
        return openers.get(file.suffix.lower(), Path.open)(file, "rb")


def _open_zstd(file: Path, mode: str) -> BinaryIO:
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise UserError(f"{file} needs the package pyarrow: pip install 'r2mae-text[hub]'") from None
    # pyarrow's reader says when a file ends too early; others take that for its end.
    raw: Any = pa.input_stream(str(file), compression="zstd")
    return io.BufferedReader(raw)


def raw_blocks(source: BinaryIO, file: str, n_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of an open file, or so many of them.

    Raises:
        UserError: it is damaged.
    """
    left = n_bytes
    while left is None or left > 0:
        with reading(file, "compressed as its ending says" if file.endswith(COMPRESSIONS) else ""):
            block = source.read(_BLOCK if left is None else min(_BLOCK, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def characters(raw: Iterable[bytes], file: str, at: int = 0) -> Iterator[str]:
    """Yield the text of the bytes of a file that start at byte `at`.

    Raises:
        UserError: they are not UTF-8, with the line.
    """
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1 if at == 0 else line_of(file, at)
    for block in raw:
        content = block
        if at == 0 and content.startswith(_UTF16):
            raise UserError(f"{file} is not UTF-8 but UTF-16; convert it with iconv -f utf-16 -t utf-8 {file}")
        if at == 0 and content.startswith(_BOM):
            at, content = len(_BOM), content[len(_BOM) :]
        yield _decoded(decoder, content, file, at, line)
        at += len(content)
        line += content.count(b"\n")
    _decoded(decoder, b"", file, at, line)


def decoded_line(raw: bytes, file: str, at: int) -> str:
    """Return the text of a line that starts at a byte of a file.

    Raises:
        UserError: it is not UTF-8, with the line.
    """
    if at and b"\0" not in raw:
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode()
    return "".join(characters([raw], file, at))


def _decoded(decoder: codecs.IncrementalDecoder, content: bytes, file: str, at: int, line: int) -> str:
    """Return the text of a block; an empty one is the end."""
    if b"\0" in content:
        where = content.index(b"\0")
        line += content[:where].count(b"\n")
        raise UserError(f"{file} is binary: a zero byte at {at + where:,} (line {line:,}); text must be UTF-8")
    waiting = len(decoder.getstate()[0])
    try:
        return decoder.decode(content, final=not content)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise UserError(
            f"{file}, line {line:,} is not UTF-8: byte 0x{error.object[error.start]:02x} at "
            f"{at - waiting + error.start:,}; convert it, for example with iconv -f latin1 -t utf-8 {file}"
        ) from None


def line_of(file: str, at: int) -> int:
    """Return the number of the line that a byte lies in."""
    with open_bytes(Path(file)) as source:
        return 1 + sum(block.count(b"\n") for block in raw_blocks(source, file, at))


def raw_lines(source: BinaryIO, file: str) -> Iterator[tuple[bytes, bool]]:
    """Yield (line, whether it is whole); of lines above `LONGEST` only the start, and the rest is passed over.

    Raises:
        UserError: the file is damaged, or its lines end as on old Macs.
    """
    first = True
    while True:
        with reading(file, "compressed as its ending says" if file.endswith(COMPRESSIONS) else ""):
            line = source.readline(LONGEST)
        if not line:
            return
        if first and _is_old_mac(line):
            raise UserError(f"{file} has line ends of old Macs (\\r alone); convert it with: tr '\\r' '\\n'")
        first = False
        whole = len(line) < LONGEST or line.endswith(b"\n")
        yield line, whole
        while not whole:
            with reading(file):
                more = source.readline(LONGEST)
            whole = not more or more.endswith(b"\n")


def _is_old_mac(first_line: bytes) -> bool:
    return not first_line.endswith(b"\n") and b"\r" in first_line.rstrip(b"\r")
