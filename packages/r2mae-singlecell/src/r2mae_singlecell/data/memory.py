"""How much memory this process may still take, and how sizes are written."""

from pathlib import Path

import psutil

_GROUPS = (  # limit, usage, reclaimable file cache within the usage
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def available_memory() -> int:
    """Return the bytes that are available: on the machine, and within the limits of the process's control groups."""
    return min([psutil.virtual_memory().available, *(left for folder in _folders() for left in _left(folder))])


def gigabytes(n_bytes: float) -> str:
    """Return a size for people."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"


def _folders(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Return the process's memory control groups, and all above them, that this machine shows."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []  # not Linux
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        inner = top / path.lstrip("/")
        found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top) and folder.is_dir()]
    return found


def _left(folder: Path) -> list[int]:
    for limit, usage, cache in _GROUPS:
        try:
            most = (folder / limit).read_text().strip()
            if most == "max":
                return []
            used = int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return [max(int(most) - used + int(stat.get(cache, 0)), 0)]
        except (OSError, ValueError):
            continue
    return []
