"""The text in a piece of the input, document by document, long ones part by part."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, reading
from r2mae_text.data.archives import archive_texts
from r2mae_text.data.passages import Part, parts
from r2mae_text.data.records import BadRecord, csv_rows, json_lines, json_values, lines, text_of
from r2mae_text.data.sources import Piece, open_hub, open_parquet
from r2mae_text.data.streams import characters, open_bytes, raw_blocks
from r2mae_text.tokenizer import GPT2_ENDOFTEXT

_GPT2_MAGIC, _GPT2_HEADER = 20240520, 1024  # bytes: 256 int32
_ROWS = 64  # of a column that are in memory at once
_NEAR = 1 << 16  # bytes behind a border in which a white space is looked for


@dataclass
class Tally:
    """What became of a piece's records."""

    skipped: Counter[str] = field(default_factory=Counter)
    """Left out, by reason."""
    good: int = 0
    bad: int = 0
    """Of the skipped, those that are faulty: a document may be empty."""
    first_bad: str = ""

    def count_bad(self, bad: BadRecord) -> None:
        """Count a faulty record."""
        self.skipped[bad.reason] += 1
        self.bad += 1
        self.first_bad = self.first_bad or str(bad)


def refuse_bad(bad: int, good: int, max_bad: float, first: str) -> None:
    """Refuse an input of which more than a share is faulty.

    Raises:
        UserError: with the first faulty record.
    """
    if bad > max_bad * (bad + good):
        raise UserError(
            f"{bad:,} of {bad + good:,} records are faulty, more than --max_bad {max_bad:g}; the first: {first}"
        )


def documents(piece: Piece, text_field: str, tally: Tally) -> Iterator[Part]:
    """Yield the documents of a piece, in parts of a bounded size; `tally` counts what was left out.

    Raises:
        UserError: a file is binary or not UTF-8, is damaged, or has no such field.
    """
    if piece.kind == "text":
        yield from _text(piece, tally)
        return
    for record in _records(piece, text_field, tally):
        if isinstance(record, BadRecord):
            tally.count_bad(record)
        elif not record.strip():
            tally.skipped["empty documents"] += 1
        else:
            tally.good += 1
            yield from parts([record])


def _records(piece: Piece, text_field: str, tally: Tally) -> Iterator[str | BadRecord]:
    """Yield the text of every record of a piece."""
    name = piece.files[0]
    if piece.kind == "archive":
        return archive_texts(piece, tally.skipped)
    if piece.kind in ("parquet", "arrow"):
        first, columns = (
            _parquet_column(piece, text_field) if piece.kind == "parquet" else _arrow_column(piece, text_field)
        )
        numbered = enumerate((row for rows in columns for row in rows), first)
        return (text_of(row, text_field, f"{name}, row {number:,}", "rows") for number, row in numbered)
    if piece.kind == "hub":
        return (text_of(row, text_field, name, "rows") for row in _hub_rows(piece, text_field))
    readers: dict[str, Any] = {
        "line": lines,
        "jsonl": json_lines,
        "json": json_values,
        "csv": csv_rows,
        "tsv": csv_rows,
    }
    return readers[piece.kind](piece, text_field)


def _text(piece: Piece, tally: Tally) -> Iterator[Part]:
    """Yield whole files, or the part of a large one, from white space to white space."""
    for name in piece.files:
        start, end = 0, None
        if piece.end:
            start, end = _word_border(name, piece.start), _word_border(name, piece.end)
        with open_bytes(Path(name)) as source:
            if start:
                source.seek(start)
            blocks = characters(raw_blocks(source, name, None if end is None else end - start), name, start)
            found = parts(blocks)
            first = next(found)
            if first.last and not first.text.strip():
                tally.skipped["empty documents"] += piece.start == 0
                continue
            tally.good += piece.start == 0
            yield first
            yield from found


def _word_border(name: str, at: int) -> int:
    """Return the place of the first white space from a byte on; where there is none nearby, that of a character."""
    if at == 0:
        return 0
    with Path(name).open("rb") as source:
        source.seek(at)
        near = source.read(_NEAR)
    for i, byte in enumerate(near):
        if byte in b" \n":
            return at + i
    return at + next((i for i, byte in enumerate(near) if byte & 0xC0 != 0x80), len(near))


def _parquet_column(piece: Piece, text_field: str) -> tuple[int, Iterator[list[Any]]]:
    """Return the number of the first row in its file, from 1, and the rows."""
    name = piece.files[0]
    file = open_parquet(Path(name))
    column = _column(file.schema_arrow.names, text_field, name)
    before = sum(file.metadata.row_group(group).num_rows for group in range(piece.start))
    return before + 1, _row_groups(file, piece, column)


def _row_groups(file: Any, piece: Piece, column: str) -> Iterator[list[Any]]:
    name = piece.files[0]
    for group in range(piece.start, piece.end):
        batches = file.iter_batches(_ROWS, row_groups=[group], columns=[column])
        while True:
            with reading(f"{name}, row group {group}", "parquet"):
                batch = next(batches, None)
                rows = None if batch is None else batch.to_pylist()
            if rows is None:
                break
            yield rows


def _arrow_column(piece: Piece, text_field: str) -> tuple[int, Iterator[list[Any]]]:
    """Return 1, and the rows of an .arrow file, as `datasets` writes it (a stream) or as other programs do (a file)."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise UserError(f"{piece.files[0]} needs the package pyarrow: pip install 'r2mae-text[hub]'") from None
    name = piece.files[0]
    with reading(name, "an arrow file"):
        source: Any = open_bytes(Path(name)) if Path(name).suffix != ".arrow" else pa.memory_map(name)
        try:
            batches: Any = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            opened = pa.ipc.open_file(source)
            batches = _Batches(opened)
    return 1, _batches(batches, name, _column(batches.schema.names, text_field, name).split(".")[0])


def _batches(batches: Any, name: str, column: str) -> Iterator[list[Any]]:
    number = 0
    while True:
        with reading(f"{name}, batch {number}", "an arrow file"):
            batch = next(batches, None)
        if batch is None:
            return
        number += 1
        for first in range(0, batch.num_rows, _ROWS):
            yield batch.select([column]).slice(first, _ROWS).to_pylist()


class _Batches:
    """The batches of an arrow file, one after the other."""

    def __init__(self, file: Any) -> None:
        self.schema, self._batches = file.schema, (file.get_batch(i) for i in range(file.num_record_batches))

    def __next__(self) -> Any:
        return next(self._batches)


def _column(names: Iterable[str], text_field: str, where: str) -> str:
    """Return the column of the text, which may be a field inside of one.

    Raises:
        UserError: there is none.
    """
    if text_field in names or text_field.split(".")[0] in names:
        return text_field
    raise UserError(f"{where} has no column {text_field!r} but {', '.join(names)}; use --text_field NAME")


def _hub_rows(piece: Piece, text_field: str) -> Iterator[dict[str, Any]]:
    name, config, split, revision = piece.files
    with reading(f"the data set {name!r}"):
        data = open_hub(name, config, split, revision).shard(num_shards=piece.end, index=piece.start)
    if data.column_names:
        _column(data.column_names, text_field, name)
    rows = iter(data)
    while True:
        with reading(f"the data set {name!r}, shard {piece.start}"):
            row = next(rows, None)
        if row is None:
            break
        yield row


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
