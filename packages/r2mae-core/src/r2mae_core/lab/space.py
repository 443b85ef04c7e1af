"""Space on the disk: asked for before it is needed, and named when it is missing."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r2mae_core.lab.errors import UserError

_SIGNS = (
    # HDF5, safetensors (Rust) and torch put the system's error into a text of their own.
    *("no space left", "errno = 28", "os error 28", "code: 28", "storagefull"),
    *("quota exceeded", "os error 122"),
    *("file too large", "os error 27"),
    "unexpected pos",
)


@contextmanager
def saying_disk_full(target: Path) -> Iterator[None]:
    """Turn a library's way to report a full disk or quota into one message; other OSErrors get the file's name.

    Raises:
        UserError: there is no space left.
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            home = next(folder for folder in target.absolute().parents if folder.exists())
            free = as_bytes(shutil.disk_usage(home).free)
            # What is being written lies in a temporary folder, whose name tells nobody anything.
            shown = re.sub(r"\.partial-([^/\\]*)-[\w.]+-\d+-\w+", r"\1", str(target))
            full = "the disk or the quota is full, or the file too large for it"
            message = f"cannot write {shown}: {full} ({free} free); make space and run it again"
            raise UserError(message) from None
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(target)
        raise


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error of any library means that there is no space left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)


def as_bytes(n: float) -> str:
    """Return a size for people, such as "1.5 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}" if unit != "bytes" else f"{n:.0f} bytes"
        n /= 1000
    return f"{n:.3g} TB"


def reserve(file: Path, n_bytes: int) -> None:
    """Make a file of this size whose space is really there.

    A memory map over a file with holes ends the process when the disk is full.

    Raises:
        UserError: there is not enough space; the file is removed.
    """
    try:
        with file.open("r+b" if file.exists() else "wb") as handle:
            if hasattr(os, "posix_fallocate") and n_bytes:
                os.posix_fallocate(handle.fileno(), 0, n_bytes)
            handle.truncate(n_bytes)
    except OSError as error:
        file.unlink(missing_ok=True)
        if not is_disk_full(error):
            raise
        check_space(file.parent, n_bytes, file.name)
        raise UserError(f"{file} needs {as_bytes(n_bytes)}, which the disk or the quota does not have") from None


def check_space(folder: Path, n_bytes: float, what: str) -> None:
    """Refuse to start what does not fit.

    Args:
        folder: where it will lie; need not exist.
        n_bytes: what it needs.
        what: how the message calls it.

    Raises:
        UserError: with what is needed and what is there.
    """
    home = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(home).free
    if n_bytes > free:
        raise UserError(
            f"{what} needs {as_bytes(n_bytes)} in {folder}, where {as_bytes(free)} are free; make space, or name a "
            "folder on another disk with --out"
        )
