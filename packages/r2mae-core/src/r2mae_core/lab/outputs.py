"""Where a command may write: never over what it reads, and over somebody's file only when told to."""

import os
from collections.abc import Iterable
from pathlib import Path

from r2mae_core.lab.errors import UserError


def check_output(out: Path, inputs: Iterable[Path | str | None], *, overwrite: bool | None = None) -> None:
    """Refuse an output that is an input, lies inside one, or stands where a file is already.

    Args:
        out: the file or folder that will be written.
        inputs: what the command reads; None and what is not there do not count.
        overwrite: `--overwrite` of a command that writes a single file; None: the output is a folder whose content is
            checked elsewhere.

    Raises:
        UserError: with the path that is in the way.
    """
    for given in inputs:
        if given in (None, "") or not (source := Path(given)).exists():  # pyright: ignore[reportArgumentType]
            continue
        if _same(out, source):
            raise UserError(f"{out} is an input of this command and would be overwritten; name another output")
        if source.is_dir() and _inside(out, source):
            raise UserError(f"{out} lies inside the input {source}, which would then hold it; name another output")
        if _inside(source, out) and overwrite is not None:
            raise UserError(f"{out} is a folder that holds the input {source}; name a file as the output")
    if overwrite is not None and out.is_dir():
        raise UserError(f"{out} is a folder; name a file as the output")
    if overwrite is False and os.path.lexists(out):
        raise UserError(f"{out} is there already; give --overwrite to replace it, or name another output")


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, through whatever links."""
    if one.exists() and one.samefile(other):
        return True
    return os.path.realpath(one) == os.path.realpath(other)  # not resolve: a link to itself is no error here


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
