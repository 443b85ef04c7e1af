"""The records of a text file: lines, JSON objects, rows of CSV. A faulty one is yielded as a `BadRecord`."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from r2mae_core import UserError
from r2mae_text.data.sources import Piece
from r2mae_text.data.streams import LONGEST, characters, decoded_line, line_of, open_bytes, raw_blocks, raw_lines

_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class BadRecord:
    """A record that is left out, and why."""

    reason: str
    """In the plural, as it is counted."""
    where: str
    """The file and place, and what is there."""

    def __str__(self) -> str:
        return self.where


def text_of(row: Any, text_field: str, where: str, things: str) -> str | BadRecord:
    """Return the text of a record; `data.text` is the field text of data, where there is no field of this name."""
    value = row
    for name in [text_field] if isinstance(row, dict) and text_field in row else text_field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        if _is_unicode(value):
            return value
        return BadRecord(
            "documents with half a character (a lone surrogate)",
            f"{where} has half a character (a lone surrogate): {value[:60]!a}",
        )
    return BadRecord(
        f"{things} without a text {text_field!r}", f"{where} has no text {text_field!r}: {str(row)[:60]!a}"
    )


def _is_unicode(text: str) -> bool:
    r"""Return whether a text has UTF-8: JSON may hold "\ud83d" alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(piece: Piece) -> Iterator[tuple[int, str | BadRecord]]:
    """Yield (offset, line) of the lines that start in the piece."""
    name = piece.files[0]
    with open_bytes(Path(name)) as source:
        if piece.start:
            source.seek(piece.start - 1)
            source.readline()  # the rest of a line that starts in the piece before
            at = source.tell()
        else:
            at = 0
        if piece.end and at >= piece.end:
            return
        for raw, whole in raw_lines(source, name):
            if not whole:
                size = f"{LONGEST >> 20} MB"
                yield (
                    at,
                    BadRecord(f"lines longer than {size}", f"{name}, line {line_of(name, at):,} is longer than {size}"),
                )
                at = source.tell()
            else:
                try:
                    yield at, decoded_line(raw, name, at)
                except UserError as error:
                    yield at, BadRecord("lines that are not UTF-8", str(error))
                at += len(raw)
            if piece.end and at >= piece.end:
                return


def lines(piece: Piece, text_field: str) -> Iterator[str | BadRecord]:
    """Yield the lines that start in the piece."""
    for _, line in _lines(piece):
        yield line


def json_lines(piece: Piece, text_field: str) -> Iterator[str | BadRecord]:
    """Yield the text of every line's object."""
    name = piece.files[0]
    for at, line in _lines(piece):
        if isinstance(line, BadRecord):
            yield line
        elif line.strip():
            try:
                row = json.loads(line, object_pairs_hook=once)
            except (ValueError, RecursionError) as error:
                where = f"{name}, line {line_of(name, at):,} is not JSON ({error}): {line[:60]!a}"
                yield BadRecord("lines that are not JSON", where)
                continue
            found = text_of(row, text_field, name, "lines")
            if isinstance(found, BadRecord):
                found = BadRecord(found.reason, f"{name}, line {line_of(name, at):,}{found.where[len(name) :]}")
            yield found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, and refuse one that names something twice.

    Raises:
        ValueError: it does.
    """
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError("it has the same name twice")
    return row


def json_values(piece: Piece, text_field: str) -> Iterator[str | BadRecord]:
    """Yield the text of every object of a .json file: of a list, of one object, or of objects one after the other."""
    name = piece.files[0]
    with open_bytes(Path(name)) as source:
        for number, row in enumerate(_values(characters(raw_blocks(source, name), name), name), 1):
            yield text_of(row, text_field, f"{name}, object {number:,}", "objects")


def _values(blocks: Iterator[str], name: str) -> Iterator[Any]:
    """Yield the values of a list, or of objects one after the other, with no more than one in memory."""
    decode = json.JSONDecoder(object_pairs_hook=once).raw_decode
    rest, line, place, fault = "", 1, "start", "it ends too early"
    for block in chain(blocks, [None]):
        rest, at = rest + (block or ""), 0
        while (at := _after_space(rest, at)) < len(rest) and place != "end":
            if place == "start":
                place, at = ("list", at + 1) if rest[at] == "[" else ("objects", at)
            elif place == "list" and rest[at] == "]":
                place, at = "end", at + 1
            else:
                try:
                    value, after = decode(rest, at)
                except (ValueError, RecursionError) as error:  # or not all of it is there yet
                    fault = str(error)
                    break
                if after == len(rest) and rest[-1] not in "}]" and block is not None:
                    break  # a number may go on
                yield value
                at = after
        line += rest.count("\n", 0, at)
        rest = rest[at:]
        if len(rest) > LONGEST or (rest and place == "end"):
            break
    if rest or place == "list":
        raise UserError(f"{name}, line {line:,}: this is not JSON, or not all of it ({fault}): {rest[:60]!a}")


def _after_space(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return at if found is None else found.end()


def csv_rows(piece: Piece, text_field: str) -> Iterator[str | BadRecord]:
    """Yield the text of every row of a .csv or .tsv file; its first row names the columns."""
    name = piece.files[0]
    csv.field_size_limit(LONGEST)

    def text() -> Iterator[str]:
        at = 0
        for raw, whole in raw_lines(source, name):
            if not whole:
                raise UserError(
                    f"{name}, line {line_of(name, at):,} is longer than {LONGEST >> 20} MB; leave it out, or give the "
                    "text as .jsonl or .parquet"
                )
            yield decoded_line(raw, name, at)
            at += len(raw)

    with open_bytes(Path(name)) as source:
        # strict: else an open quote takes in the rest of the file
        reader = csv.reader(text(), delimiter="\t" if piece.kind == "tsv" else ",", strict=True)
        try:
            if (header := next(reader, None)) is None:
                return  # there is nothing in it
            if text_field not in header or header.count(text_field) > 1:
                state = "no" if text_field not in header else "more than one"
                columns = ", ".join(column[:40] for column in header[:20])
                raise UserError(f"{name} has {state} column {text_field!r}: {columns}; use --text_field NAME")
            place = header.index(text_field)
            for row in reader:
                if len(row) == len(header):
                    yield row[place]
                elif row:
                    where = f"{name}, line {reader.line_num:,} has {len(row)} cells, the first line {len(header)}"
                    yield BadRecord("rows with more or fewer cells than the first", where)
        except csv.Error as error:
            raise UserError(f"{name}, line {reader.line_num:,} is not {piece.kind.upper()} ({error})") from None
