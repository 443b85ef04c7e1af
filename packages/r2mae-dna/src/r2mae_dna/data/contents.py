"""The files of a folder of ours: their sizes and checksums, noted in its index, and compared when it is opened."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r2mae_core import UserError, as_json, file_digest, refuse_changed

CHECKED_BYTES = 1 << 30
"""A folder of at most so many bytes is read whole when it is opened; of a larger one the sizes are compared."""
Contents = dict[str, dict[str, Any]]
"""Name of a file in the folder → its "bytes" and "sha256"."""


def note_contents(folder: Path, skip: str = "") -> Contents:
    """Return the sizes and checksums of the files in a folder and its subfolders, by name.

    Args:
        folder: where.
        skip: name of a file that is left out, such as the index that will hold them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / skip)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }


def check_contents(folder: Path, noted: Contents, within: str = "") -> None:
    """Compare files with what is noted of them: sizes always, checksums if the folder is small (`CHECKED_BYTES`).

    Args:
        folder: where.
        noted: what `note_contents` returned.
        within: only the files whose names begin like this.

    Raises:
        UserError: a file is missing, or is not what was written.
    """
    whole = sum(file["bytes"] for file in noted.values()) <= CHECKED_BYTES
    for name, file in noted.items():
        if not name.startswith(within):
            continue
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; copy the whole folder {folder}, or make it again")
        if (size := path.stat().st_size) != file["bytes"]:
            raise UserError(f"{path} is damaged: it has {size:,} bytes instead of {file['bytes']:,}; make it again")
        if whole and file_digest(path) != file["sha256"]:
            raise UserError(f"{path} is damaged: its checksum is another; restore it, or make the folder again")


def digest_of(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name plain data."""
    return hashlib.sha256(as_json(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]


_REMEDY = "give --overwrite to replace it, or name another --out"


def refuse_other(out: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to take a folder that is there for what a command would make.

    Args:
        out: the folder.
        there: what its index says that it was made with: options, and "sources" as `fingerprint` names them.
        here: the same of the command.

    Raises:
        UserError: they differ; with what differs.
    """
    if not there:
        raise UserError(f"{out} exists, of an earlier version that did not note what it was made from; {_REMEDY}")
    for name, value in here.items():
        if name != "sources" and as_json(there.get(name)) != as_json(value):
            raise UserError(f"{out} exists, and {name} was {there.get(name)!r} there and is {value!r} here; {_REMEDY}")
    refuse_changed(out, there["sources"], here["sources"], _REMEDY)


def check_new_folder(out: Path, own: Callable[[Path], set[str]], what: str, *, overwrite: bool) -> None:
    """Refuse to write a folder over another, unless it is of the same kind and may be replaced.

    Args:
        out: the folder to write.
        own: names of what a folder of this kind holds; none if it is of another kind.
        what: how messages call it, such as "an alignment store".
        overwrite: whether one of the kind may be replaced.

    Raises:
        UserError: there is something that would be lost.
    """
    if not out.is_dir():
        if out.exists() or out.is_symlink():
            raise UserError(f"{out} exists and is no folder; name another --out")
        return
    there = {entry.name for entry in out.iterdir()}
    if not there:
        return
    if foreign := there - own(out):
        raise UserError(f"{out} exists and holds {min(foreign)}, which is not of {what}; name another --out")
    if not overwrite:
        raise UserError(f"{out} exists and holds {what}; {_REMEDY}")
