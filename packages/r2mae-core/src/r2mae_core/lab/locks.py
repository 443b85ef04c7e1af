"""One writer for each output: a second command on the same folder or file is refused while the first runs."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import host_name, process_lives, remove_leftovers
from r2mae_core.lab.terminal import first_rank


class BusyError(UserError):
    """Another process writes to the same place."""


_held: dict[str, int] = {}
"""Lock file → how often this process holds it: a command's parts may lock what the command has locked."""


@contextmanager
def one_writer(target: Path, *, folder: bool = True, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to the same place while the block runs.

    The ranks of one training belong together: the first one holds the lock for all. The system lets go of the lock when
    the process ends, however that happens; where a file system has no locks, the process that the file names decides.
    What a killed process left hidden in the folder is removed.

    Args:
        target: an output folder, made if it is not there; or an output file.
        folder: whether it is a folder.
        wait: wait for another process to end, instead of an error.

    Raises:
        BusyError: another process writes there.
    """
    home = target if folder else target.parent
    made = _missing(home)
    home.mkdir(parents=True, exist_ok=True)
    file = home / ".lock" if folder else home / f".{target.name}.lock"
    key = str(file.resolve())
    if not first_rank() or key in _held:
        _held[key] = _held.get(key, 0) + 1
        try:
            yield
        finally:
            _held[key] -= 1
            if not _held[key]:
                del _held[key]
        return
    while True:
        try:
            handle = _take(file, target)
            break
        except BusyError:
            if not wait:
                raise
            time.sleep(0.5)
    _held[key] = 1
    try:
        if folder:
            remove_leftovers(home)
        yield
    finally:
        del _held[key]
        with contextlib.suppress(OSError):
            file.unlink()  # while it is still held
        os.close(handle)
        for place in made:  # what was made for nothing
            with contextlib.suppress(OSError):
                place.rmdir()


def _missing(folder: Path) -> list[Path]:
    """Return the folders that are not there yet, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _take(file: Path, target: Path) -> int:
    """Open and lock the file, and write into it who holds it."""
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            error.filename = str(target)
            raise
        try:
            if not _locked(handle):
                raise BusyError(_refusal(target, _holder(file)))
            if not _is_same(handle, file):  # its holder has just removed it
                os.close(handle)
                continue
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps(_ourselves()).encode(), 0)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(handle)
            raise
        return handle


def _locked(handle: int) -> bool:
    """Lock an open file, and return whether that succeeded.

    Of the two kinds of locks, the one that belongs to the process alone: a worker that outlives it holds nothing.
    """
    try:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):  # Windows, or a file system without locks
        there = _parsed(os.pread(handle, 10_000, 0)) if hasattr(os, "pread") else {}
        return not there or (there.get("host") == host_name() and not process_lives(int(there["pid"])))
    return True


def _is_same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _ourselves() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200] if sys.argv else ""
    return {"host": host_name(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command}


def _holder(file: Path) -> dict[str, Any]:
    try:
        return _parsed(file.read_bytes())
    except OSError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else {}


def _refusal(target: Path, holder: dict[str, Any]) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if holder.get("host") else "another process"
    since = f" since {holder['since']}" if holder.get("since") else ""
    return f"{target} is being written by {who}{since}; wait until it has ended, or name another place with --out"
