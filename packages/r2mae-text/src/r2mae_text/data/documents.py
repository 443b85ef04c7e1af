"""The text in a piece of the input, document by document."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, reading
from r2mae_text.data.sources import Piece, open_hub, open_parquet
from r2mae_text.tokenizer import GPT2_ENDOFTEXT

_GPT2_MAGIC, _GPT2_HEADER = 20240520, 1024  # bytes: 256 int32
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def documents(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    """Yield the documents of a piece; `skipped` counts by reason what was left out.

    Raises:
        UserError: a file is binary or not UTF-8, is damaged, or has no such field.
    """
    readers = {"text": _whole_files, "line": _lines, "jsonl": _jsonl, "parquet": _parquet_rows, "hub": _hub_rows}
    for text in readers[piece.kind](piece, text_field, skipped):
        if not text.strip():
            skipped["empty documents"] += 1
        elif not _is_unicode(text):
            skipped["documents with half a character (a lone surrogate)"] += 1
        else:
            yield text


def _is_unicode(text: str) -> bool:
    r"""Return whether a text has UTF-8: JSON may hold "\ud83d" alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(raw: bytes, file: str, offset: int = 0) -> str:
    """Return the text of a file's bytes from an offset on.

    Raises:
        UserError: they are not UTF-8, with the line.
    """
    if offset == 0 and raw[:2] in _UTF16:
        raise UserError(f"{file} is not UTF-8 but UTF-16; convert it with iconv -f utf-16 -t utf-8 {file}")
    if b"\0" in raw:
        at = offset + raw.index(0)
        raise UserError(f"{file} is binary: a zero byte at {at:,} (line {_line(file, at):,}); text must be UTF-8")
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        if offset == 0 and raw.startswith(b"\xef\xbb\xbf"):
            at += 3  # "utf-8-sig" counts from behind the mark
        raise UserError(
            f"{file}, line {_line(file, at):,} is not UTF-8: byte 0x{raw[at - offset]:02x} at {at:,}; convert it, for "
            f"example with iconv -f latin1 -t utf-8 {file}"
        ) from None


def _line(file: str, at: int) -> int:
    """Return the number of the line that a byte lies in."""
    found, block = 1, 1 << 20
    with Path(file).open("rb") as source:
        while at > 0 and (content := source.read(min(at, block))):
            found += content.count(b"\n")
            at -= len(content)
    return found


def _whole_files(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    for file in piece.files:
        yield _decode(Path(file).read_bytes(), file)


def _raw_lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the lines that start in the piece."""
    with Path(piece.files[0]).open("rb") as source:
        if piece.start:
            source.seek(piece.start - 1)
            source.readline()  # the rest of a line that starts in the piece before
        while (at := source.tell()) < piece.end:
            yield at, source.readline()


def _lines(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    for at, raw in _raw_lines(piece):
        yield _decode(raw, piece.files[0], at)


def _jsonl(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    for at, raw in _raw_lines(piece):
        line = _decode(raw, piece.files[0], at)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            skipped["lines that are not JSON"] += 1
            continue
        if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
            skipped[f"lines without a text {text_field!r}"] += 1
            continue
        yield row[text_field]


def _parquet_rows(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    name = piece.files[0]
    file = open_parquet(Path(name))
    if text_field not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise UserError(f"{name} has no column {text_field!r} but {names}; use --text_field NAME")
    for group in range(piece.start, piece.end):
        batches = file.iter_batches(row_groups=[group], columns=[text_field])
        while True:
            with reading(f"{name}, row group {group}", "parquet"):
                batch = next(batches, None)
                values = None if batch is None else batch.column(0).to_pylist()
            if values is None:
                break
            yield from _texts(values, text_field, skipped)


def _hub_rows(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    name, config, split, revision = piece.files
    with reading(f"the data set {name!r}"):
        data = open_hub(name, config, split, revision).shard(num_shards=piece.end, index=piece.start)
    if data.column_names and text_field not in data.column_names:
        raise UserError(
            f"{name} has no column {text_field!r} but {', '.join(data.column_names)}; use --text_field NAME"
        )
    rows = iter(data)
    while True:
        with reading(f"the data set {name!r}, shard {piece.start}"):
            row = next(rows, None)
        if row is None:
            break
        yield from _texts([row.get(text_field)], text_field, skipped)


def _texts(values: Any, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        else:
            skipped[f"rows without a text {text_field!r}"] += 1


def gpt2_ids(piece: Piece) -> np.ndarray:
    """Return the ids of a shard of GPT-2 tokens in the format of llm.c and modded-nanogpt, (n,) uint16.

    Raises:
        UserError: the header is another, the file is truncated, or an id is none of GPT-2's.
    """
    file = Path(piece.files[0])
    size = file.stat().st_size
    header = np.fromfile(file, "<i4", 256) if size >= _GPT2_HEADER else np.zeros(256, "<i4")
    if header[0] != _GPT2_MAGIC or header[1] != 1:
        raise UserError(f"{file} is not a shard of GPT-2 tokens: its header is not {_GPT2_MAGIC}, version 1")
    tokens = (size - _GPT2_HEADER) / 2
    if tokens != header[2]:
        raise UserError(f"{file} is truncated: {tokens:,.0f} tokens, its header says {header[2]:,}; fetch it again")
    ids = np.memmap(file, "<u2", "r", _GPT2_HEADER) if tokens else np.zeros(0, "<u2")
    if len(ids) and ids.max() > GPT2_ENDOFTEXT:
        at = int(np.argmax(ids > GPT2_ENDOFTEXT))
        raise UserError(f"{file} is damaged: token {at:,} is {ids[at]:,}, and GPT-2 has 50,257; fetch it again")
    return ids
