"""Files that are either complete or absent."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` to write to, and rename it when the block ends without an error.

    The name keeps the suffix, because libraries choose the format by it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp is private; a result file is as open as any other
        temporary.replace(target)
    except OSError as error:
        error.filename = error.filename or str(target)  # of a write to a full disk, which names none
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def as_json(content: Any, *, indent: int = 1, ensure_ascii: bool = True) -> str:
    """Return JSON text that ends in a newline. JSON has no NaN and no infinity: they become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
