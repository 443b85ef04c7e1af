"""Files that are either complete or absent, and that are named when they cannot be read."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.space import saying_disk_full


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` to write to, and rename it when the block ends without an error.

    The name keeps the suffix, because libraries choose the format by it. What a killed process left of the same target
    is removed.

    Raises:
        UserError: the disk or the quota is full; nothing is left of the file, and an older one is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_temporary_prefix(target), suffix=target.suffix)
    except OSError as error:
        error.filename = str(target)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        with saying_disk_full(target):
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp is private; a result file is as open as any other
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside `target`, and rename it when the block ends without an error.

    An older folder is replaced, and lost at no moment.

    Raises:
        UserError: the disk or the quota is full; nothing is left of the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target)
    previous = target.with_name(f".previous-{target.name}")
    if previous.exists() and not target.exists():  # killed between the two renames
        previous.rename(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_temporary_prefix(target)))
    try:
        with saying_disk_full(target):
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            if target.exists():
                target.rename(previous)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)


def _temporary_prefix(target: Path) -> str:
    return f".partial-{target.stem}-{host_name()}-{os.getpid()}-"


def host_name() -> str:
    """Return this machine's name, as it may stand in a file's name."""
    return re.sub(r"[^\w.]", "_", socket.gethostname())


def remove_leftovers(folder: Path, target: Path | None = None) -> None:
    """Remove the temporary files that killed processes of this machine left in a folder.

    Args:
        folder: where; not its subfolders.
        target: those of this file alone.
    """
    for file in folder.glob(".partial-*"):
        found = re.fullmatch(r"\.partial-(.*)-([\w.]+)-(\d+)-\w+", file.name[: len(file.name) - len(file.suffix)])
        if found is None or (target is not None and found[1] != target.stem):
            continue
        if found[2] == host_name() and not process_lives(int(found[3])):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def process_lives(pid: int) -> bool:
    """Return whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


@contextmanager
def reading(file: Path | str, kind: str = "") -> Iterator[None]:
    """Answer whatever a reader raises about a damaged file with one line; keep the block to the reader alone.

    Args:
        file: what is read.
        kind: what it should be, such as "a text shard".

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{file} is not there{f'; {kind} is needed' if kind else ''}") from None
    except MemoryError:
        raise UserError(f"{file} does not fit the memory, or is damaged") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        should = f"it is damaged, or not {kind}" if kind else "it is damaged"
        raise UserError(f"{file} cannot be read: {should} ({type(error).__name__}: {reason})") from None


def read_text(file: Path) -> str:
    """Return a UTF-8 file's text.

    Raises:
        UserError: it is missing, or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start})") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file} is not there") from None


def write_text(target: Path, text: str) -> None:
    r"""Write a text file atomically, as UTF-8; a byte of a file name that is not UTF-8 becomes \udcXX."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
