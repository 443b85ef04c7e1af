"""What a command has made, in a form in which two runs can be compared."""

import csv
import gzip
import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

# Where the run happened and how fast: these differ between two runs of the same command.
_NOT_COMPARED = re.compile(r"(^|/)(checkpoints/.*|versions\.json|facts\.json|SHA256SUMS|figures/.*|.*\.(png|pdf|svg))$")
_CHANGING_KEYS = {"seconds", "git", "device", "argv", "time", "date", "sha256", "host", "made"}
_SPEED = re.compile(r"per_second|tflops|mfu|memory|seconds")


def result(path: Path) -> dict[str, str]:
    """Return a digest for each file of an output (a file or folder), without what may differ between two runs."""
    if not path.exists():
        return {}
    if path.is_file():
        return {path.name: _digest(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    named = {file.relative_to(path).as_posix(): file for file in files}
    return {name: _digest(file) for name, file in named.items() if compared(name)}


def compared(name: str) -> bool:
    """Return whether a file belongs to the result: not hidden, not a picture, not about the machine."""
    return not _NOT_COMPARED.search(name) and not any(part.startswith(".") for part in Path(name).parts)


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the names of the files that are not the same."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def raw(path: Path) -> dict[str, str]:
    """Return a digest of the bytes of every file, as they are."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def snapshot(folder: Path) -> frozenset[tuple[str, int, int, int]]:
    """Return name, size, time and inode of all that lies in a folder: it changes whenever a command writes there."""
    found: list[tuple[str, int, int, int]] = []
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        stat = entry.stat(follow_symlinks=False)
                        found.append((entry.path, stat.st_size, stat.st_mtime_ns, stat.st_ino))
        except FileNotFoundError:  # it was just replaced
            continue
    return frozenset(found)


def hidden(folder: Path) -> list[str]:
    """Return what is hidden in a folder: nothing, after a command has ended well."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob(".*"))


def _digest(file: Path) -> str:
    data = file.read_bytes()
    try:
        if file.suffix == ".gz":
            data = gzip.decompress(data)
        elif file.suffix == ".json":
            data = json.dumps(_lasting(json.loads(data)), sort_keys=True).encode()
        elif file.suffix == ".yaml":
            data = b"\n".join(line for line in data.splitlines() if not line.startswith(b"#"))
            data = re.sub(rb"\b(place|elsewhere)/[\w.-]+", b"OUT", data)  # where a moved folder lay
        elif file.name == "metrics.csv":
            data = _lasting_lines(data)
        elif file.suffix == ".safetensors":
            size = 8 + int.from_bytes(data[:8], "little")
            data = json.dumps(json.loads(data[8:size]), sort_keys=True).encode() + data[size:]  # whose order is free
        elif file.suffix == ".h5ad":
            data = _hdf5(file)
    except (ValueError, OSError):
        pass  # damaged: compared as it is
    return hashlib.sha256(data).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _CHANGING_KEYS}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _lasting_lines(data: bytes) -> bytes:
    rows = list(csv.reader(io.StringIO(data.decode())))
    return repr([row for row in rows if not _SPEED.search(row[1])]).encode()


def _hdf5(file: Path) -> bytes:
    import h5py

    parts: list[bytes] = []

    def add(name: str, item: Any) -> None:
        parts.append(f"{name} {sorted((key, str(value)) for key, value in item.attrs.items())}".encode())
        if isinstance(item, h5py.Dataset):
            content = item[()]
            parts.append(
                content.tobytes()
                if getattr(content, "dtype", None) not in (None, object)
                else repr(content if isinstance(content, bytes) else content.tolist()).encode()
            )

    with h5py.File(file) as opened:
        opened.visititems(add)
    return b"\n".join(parts)
