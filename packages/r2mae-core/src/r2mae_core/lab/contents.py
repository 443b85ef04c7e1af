"""The files of a prepared set: noted in its index when they are written, and compared when the set is opened."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.sealed import file_digest

VERIFIED = 2**30
"""Sets of at most so many bytes are read and compared with their digests whenever they are opened."""

Contents = Mapping[str, Mapping[str, Any]]
"""Name of a file → its "bytes" and "sha256"."""


def contents_of(folder: Path, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return what the index of a prepared set keeps of its files.

    Args:
        folder: of the set.
        names: the files; None: all in it and its subfolders.
    """
    if names is None:
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)} for name in names}


def check_contents(folder: Path, contents: Any, remedy: str, within: str = "") -> None:
    """Compare a prepared set's files with its index.

    Sizes are compared always. Of a set of at most `VERIFIED` bytes every file's digest is, too; of a larger one that of
    files that are small themselves: the others would take longer to read than a training takes to start.

    Args:
        folder: of the set.
        contents: what its index holds.
        remedy: what to do about damage.
        within: only the files whose names begin like this.

    Raises:
        UserError: a file is missing or is not what was written.
    """
    if not isinstance(contents, Mapping) or not all(_is_entry(*entry) for entry in contents.items()):
        raise UserError(f"{folder} is damaged: its index does not state its files; {remedy}")
    small = sum(entry["bytes"] for entry in contents.values()) <= VERIFIED
    for name, entry in contents.items():
        if not name.startswith(within):
            continue
        file = folder / name
        if not file.is_file():
            raise UserError(f"{folder} is not whole: it has no {name}; {remedy}")
        if (size := file.stat().st_size) != entry["bytes"]:
            raise UserError(f"{file} is damaged: {size:,} bytes, but {entry['bytes']:,} were written; {remedy}")
        if (small or entry["bytes"] <= VERIFIED // 16) and file_digest(file) != entry["sha256"]:
            raise UserError(f"{file} is damaged: its checksum is not the one that was written; {remedy}")


def _is_entry(name: Any, entry: Any) -> bool:
    inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
    sizes = isinstance(entry, Mapping) and isinstance(entry.get("bytes"), int)
    return inside and sizes and isinstance(entry.get("sha256"), str)


def identity_of_contents(contents: Contents) -> str:
    """Return a digest of a prepared set: it names the data wherever the folder lies."""
    lines = "\n".join(f"{name} {contents[name]['sha256']}" for name in sorted(contents))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
