"""Web archives: the texts of .wet files, and the main text of the pages of .warc files, as datatrove reads them."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r2mae_core import UserError, reading
from r2mae_text.data.records import BadRecord
from r2mae_text.data.sources import Piece
from r2mae_text.data.streams import open_bytes

_TEXT = ("response", "conversion")  # a page of a .warc, a text of a .wet; others are about the crawl


def archive_texts(piece: Piece, skipped: Counter[str]) -> Iterator[str | BadRecord]:
    """Yield the texts of a web archive; a page without a main text has an empty one.

    Args:
        piece: one file.
        skipped: counts the pictures and other content that is no page.

    Raises:
        UserError: the archive is damaged, or datatrove or what it needs is not installed.
    """
    name = piece.files[0]
    records, content_of, main_text = _readers(name)
    with open_bytes(Path(name)) as source:
        found, number = iter(records(source)), 0
        while True:
            with reading(f"{name}, behind record {number:,}", "a web archive"):
                record = next(found, None)
                content = content_of(record) if record is not None and record.rec_type in _TEXT else None
            if record is None:
                return
            number += 1
            if record.rec_type not in _TEXT:
                continue
            if content is None:
                skipped["records of an archive that are no text or page"] += 1
            elif record.raw_stream.limit > 0:
                raise UserError(f"{name} is damaged: record {number:,} ends too early; fetch it again")
            elif record.rec_type == "conversion":
                yield content["text"]
            else:
                yield _main(main_text, content["text"], f"{name}, record {number:,}")


def _readers(name: str) -> tuple[Callable[..., Any], Callable[..., Any], Callable[[str], str | None]]:
    """Return what yields records, what decodes one, and what takes the main text out of a page."""
    try:
        import cchardet  # noqa: F401  # pyright: ignore[reportMissingImports]  (process_record imports it late)
        import magic  # noqa: F401  # pyright: ignore[reportMissingImports]
        from datatrove.pipeline.extractors import Trafilatura  # pyright: ignore[reportMissingImports]
        from datatrove.pipeline.readers.warc import process_record  # pyright: ignore[reportMissingImports]
        from warcio.archiveiterator import ArchiveIterator  # pyright: ignore[reportMissingImports]

        # Not deduplicate: it remembers earlier pages, and the text would depend on the number of workers.
        return ArchiveIterator, process_record, Trafilatura(deduplicate=False).extract
    except ImportError as error:
        raise UserError(
            f"{name} needs the package datatrove: pip install 'r2mae-text[datatrove]' ({str(error).splitlines()[0]})"
        ) from None


def _main(main_text: Callable[[str], str | None], page: str, where: str) -> str | BadRecord:
    try:
        return main_text(page) or ""
    except Exception as error:  # HTML of any kind
        return BadRecord("pages that cannot be read", f"{where} cannot be read ({type(error).__name__}: {error})")
