"""The finished stretches of a scoring run, beside its output: which a resumed run need not score again."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, atomic_path, reading, write_json
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.variants import STATUS, Result


class Parts:
    """A folder with one file per stretch.

    Args:
        out: the output file.
        settings: everything that the scores depend on: fingerprints of the variants and the store, the model's digest,
            and options. Stretches with other settings lie in another folder, and are never mixed in.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.folder = out.parent / f".{out.name}.parts" / digest_of(settings)

    def _file(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"

    def save(self, i: int, result: Result) -> None:
        """Write a finished stretch."""
        if not (self.folder / "settings.json").exists():  # for who wonders whose these files are
            write_json(self.folder / "settings.json", self.settings)
        with atomic_path(self._file(i)) as temporary:
            np.savez(temporary, llr=result.llr, status=result.status)

    def finished(self, i: int, n: int) -> Result | None:
        """Return a stretch that was finished before, if it is there and whole.

        Args:
            i: which.
            n: its alleles.
        """
        try:
            return self.load(i, n)
        except UserError:
            return None

    def load(self, i: int, n: int) -> Result:
        """Return a finished stretch.

        Raises:
            UserError: it is missing or damaged.
        """
        file = self._file(i)
        with reading(file, "a stretch of scores"), file.open("rb") as content:
            saved = np.load(content, allow_pickle=False)
            llr, status = saved["llr"], saved["status"]
        whole = llr.dtype == np.float32 and status.dtype == np.uint8 and llr.shape == status.shape == (n,)
        if not whole or (status >= len(STATUS)).any():
            raise UserError(f"{file} is damaged; remove it and run the same command again")
        return Result(llr, status)

    def remove(self) -> None:
        """Remove the folder, with what runs with other settings left there."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
