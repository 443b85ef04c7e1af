"""The finished stretches of a scoring run, beside its output: which a resumed run need not score again."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import atomic_path, write_text
from r2mae_dna.data.variants import Result


class Parts:
    """A folder with one file per stretch.

    Args:
        variants: the input file, identified by path, size and time of change.
        out: the output file.
        settings: everything else that the scores depend on; stretches with other settings are never mixed in.
    """

    def __init__(self, variants: Path, out: Path, settings: Mapping[str, Any]) -> None:
        stat = variants.stat()
        file = {"variants": str(variants.resolve()), "bytes": stat.st_size, "changed": stat.st_mtime_ns}
        self.manifest = json.dumps({**settings, **file}, sort_keys=True)
        digest = hashlib.sha256(self.manifest.encode()).hexdigest()[:16]
        self.folder = out.parent / f".{out.name}.parts" / digest

    def _file(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"

    def has(self, i: int) -> bool:
        """Return whether a stretch is finished."""
        return self._file(i).exists()

    def save(self, i: int, result: Result) -> None:
        """Write a finished stretch."""
        if not (self.folder / "manifest.json").exists():
            write_text(self.folder / "manifest.json", self.manifest)
        with atomic_path(self._file(i)) as temporary:
            np.savez(temporary, llr=result.llr, status=result.status)

    def load(self, n: int) -> Iterator[Result]:
        """Yield the first `n` stretches in order."""
        for i in range(n):
            with np.load(self._file(i)) as saved:
                yield Result(saved["llr"], saved["status"])

    def remove(self) -> None:
        """Remove the folder, with what runs with other settings left there."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
