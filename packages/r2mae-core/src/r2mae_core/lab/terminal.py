"""What the commands print."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def first_rank() -> bool:
    """Return whether this process prints for its run: rank 0, also before the ranks have connected."""
    return not int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)


def say(message: Any = "") -> None:
    """Print to the terminal, on the first rank alone; the one place where the packages do."""
    if not first_rank():
        return
    from rich.console import Console

    if isinstance(message, str):  # the name of a file need not be UTF-8
        message = message.encode("utf-8", "backslashreplace").decode()

    # Without markup: brackets in a path or in --tasks '[a,b]' are what they are.
    Console(highlight=False, markup=False, soft_wrap=not hasattr(message, "__rich_console__")).print(message)


def pasteable(path: Path | str) -> str:
    """Return a path as a command that is printed for the user must have it: quoted where a shell needs that."""
    return shlex.quote(str(path))


def left_out(counts: Mapping[str, int]) -> str:
    """Return the line that reports what was left out, and why: reason → count."""
    return "left out: " + (", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "nothing")
