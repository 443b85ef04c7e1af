"""What something was made from: noted when it is made, and compared when it is used again."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from r2mae_core.lab.errors import UserError

_NAMED = 1000
"""Files of a folder that are noted one by one; more of them are noted together."""


def fingerprint(paths: Iterable[Path] | Path) -> dict[str, str]:
    """Return what names files and folders as they are now: their sizes and the times of their last change.

    Args:
        paths: files and folders; of a folder, everything in it. They need not be in an order.

    Returns:
        Name → what it is. Each file and each subfolder right under a path has an entry; the files of a large folder
        share one. The place of the paths does not count: data may be moved as a whole.
    """
    if isinstance(paths, Path):
        paths = [paths]
    found: dict[str, str] = {}
    for number, path in enumerate(sorted({Path(path) for path in paths}, key=lambda path: (path.name, str(path)))):
        name = path.name if path.name not in found else f"{path.name} ({number})"
        if not path.is_dir():
            found[name] = _of_files(path.parent, [path])
            continue
        entries = sorted(path.iterdir(), key=lambda entry: entry.name)
        entries = [entry for entry in entries if not entry.name.startswith((".lock", ".partial-"))]
        files = [entry for entry in entries if not entry.is_dir()]
        if len(files) > _NAMED:
            found[f"{name}/*"] = _of_files(path, files)
        else:
            found.update({f"{name}/{file.name}": _of_files(path, [file]) for file in files})
        found.update(
            {f"{name}/{folder.name}/": _of_files(folder, _all_in(folder)) for folder in entries if folder.is_dir()}
        )
    return found


def _all_in(folder: Path) -> list[Path]:
    return sorted(Path(home) / name for home, _, names in os.walk(folder) for name in names)


def _of_files(root: Path, files: list[Path]) -> str:
    size, digest = 0, hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
            size += status.st_size
        except OSError:  # a link that leads nowhere
            state = "missing"
        digest.update(f"{file.relative_to(root).as_posix()} {state}\n".encode("utf-8", "surrogateescape"))
    count = "" if len(files) == 1 else f"{len(files):,} files, "
    return f"{count}{size:,} bytes, {digest.hexdigest()[:16]}"


def refuse_changed(made: Path, then: Mapping[str, str], now: Mapping[str, str], remedy: str) -> None:
    """Refuse to go on with what was made from other sources.

    Args:
        made: what was made, for the message.
        then: `fingerprint` of the sources when it was made.
        now: that of the sources as they are.
        remedy: what to do, such as "name another folder with --out".

    Raises:
        UserError: they differ; with the names of what is new, gone or changed.
    """
    differences = [f"{name} is new" for name in now if name not in then]
    differences += [f"{name} is gone" for name in then if name not in now]
    differences += [
        f"{name} was {_shown(then[name])} and is {_shown(now[name])}"
        if _shown(then[name]) != _shown(now[name])
        else f"{name} was changed since"
        for name in now
        if name in then and then[name] != now[name]
    ]
    if differences:
        more = f" (and {len(differences) - 4} more)" if len(differences) > 4 else ""
        raise UserError(f"{made} was made from other data: {'; '.join(differences[:4])}{more}; {remedy}")


def _shown(entry: str) -> str:
    return str(entry).rpartition(", ")[0] or str(entry)
