"""Standard input and output in the place of files."""

import shutil
import sys
import zlib
from pathlib import Path

from r2mae_core import UserError, saying_disk_full

STREAM = Path("-")


def spool_stdin(folder: Path) -> Path:
    """Copy standard input into a file, whose suffix tells what it holds; a file can be read twice.

    Raises:
        UserError: there is nothing, or the disk is full.
    """
    file = folder / "stdin"
    with saying_disk_full(file), file.open("wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)
    with file.open("rb") as source:
        head = source.read(65_536)
    if not head:
        raise UserError("standard input is empty")
    zipped = head[:2] == b"\x1f\x8b"
    try:
        text = zlib.decompressobj(31).decompress(head) if zipped else head
    except zlib.error as error:
        raise UserError(f"standard input is damaged: {error}") from None
    kind = (
        ".bcf" if text[:3] == b"BCF" else ".vcf" if text.startswith((b"##fileformat", b"#CHROM\tPOS\tID")) else ".tsv"
    )
    return file.rename(file.with_name(f"stdin{kind}{'.gz' if zipped and kind != '.bcf' else ''}"))


def write_stdout(file: Path) -> None:
    """Copy a file to standard output."""
    sys.stdout.flush()
    with file.open("rb") as source:
        shutil.copyfileobj(source, sys.stdout.buffer)
    sys.stdout.buffer.flush()
