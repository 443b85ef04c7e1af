"""Folders that a command makes: what one that is there was made from, and when it may be replaced."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r2mae_core import UserError, as_json, refuse_changed


def digest_of(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name plain data."""
    return hashlib.sha256(as_json(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]


REMEDY = "give --overwrite to replace it, or name another --out"
"""What to do about a folder that is there already."""


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
        raise UserError(f"{out} exists, of an earlier version that did not note what it was made from; {REMEDY}")
    for name, value in here.items():
        if name != "sources" and as_json(there.get(name)) != as_json(value):
            raise UserError(f"{out} exists, and {name} was {there.get(name)!r} there and is {value!r} here; {REMEDY}")
    refuse_changed(out, there["sources"], here["sources"], REMEDY)


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
        raise UserError(f"{out} exists and holds {what}; {REMEDY}")
