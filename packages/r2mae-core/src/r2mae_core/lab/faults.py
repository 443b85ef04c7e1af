"""What the runner answers when a command raises what nobody foresaw: a fault of ours, with a report to send."""

import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

from r2mae_core.lab.stamps import versions


def debugging() -> bool:
    """Return whether the user wants to see where an unforeseen error comes from: `R2MAE_DEBUG=1`."""
    return os.environ.get("R2MAE_DEBUG", "") not in ("", "0")


def report_fault(prog: str, error: BaseException) -> str:
    """Write the report of an unforeseen error and return the line for the terminal.

    The report holds the traceback, the versions and the command line; it goes into the current folder, or where that
    cannot be written into the system's temporary one.
    """
    text = f"{' '.join(sys.argv)}\n{platform.platform()}\n\n{''.join(traceback.format_exception(error))}\n"
    text += "\n".join(f"{name} {version}" for name, version in versions()["packages"].items()) + "\n"
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    said = f"a fault in {prog}, not in what you did: {type(error).__name__}: {reason}"
    name = f"r2mae-fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
        except OSError:
            continue
        return f"{said}. Please report it with {folder / name}; R2MAE_DEBUG=1 shows where it came from"
    return f"{said}. Please report it; R2MAE_DEBUG=1 shows where it came from"
