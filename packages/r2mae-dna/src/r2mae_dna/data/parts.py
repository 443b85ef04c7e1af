"""The finished stretches of a scoring run, beside its output: which a resumed run need not score again."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, atomic_path, reading, write_json
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.variants import STATUS, Result


@dataclass(frozen=True)
class Part:
    """A finished stretch."""

    result: Result
    chromosomes: Counter[str]
    """Name of a chromosome in the file → alleles."""


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

    def save(self, i: int, part: Part) -> None:
        """Write a finished stretch."""
        if not (self.folder / "settings.json").exists():  # for who wonders whose these files are
            write_json(self.folder / "settings.json", self.settings)
        with atomic_path(self._file(i)) as temporary:
            np.savez(
                temporary,
                llr=part.result.llr,
                status=part.result.status,
                names=np.array(list(part.chromosomes), np.str_),
                counts=np.array(list(part.chromosomes.values()), np.int64),
            )

    def finished(self, i: int) -> Part | None:
        """Return a stretch that was finished before, if it is there and whole."""
        try:
            return self.load(i)
        except UserError:
            return None

    def load(self, i: int) -> Part:
        """Return a finished stretch.

        Raises:
            UserError: it is missing or damaged.
        """
        file = self._file(i)
        with reading(file, "a stretch of scores"), file.open("rb") as content:
            saved = np.load(content, allow_pickle=False)
            llr, status, names, counts = (saved[name] for name in ("llr", "status", "names", "counts"))
        whole = llr.dtype == np.float32 and status.dtype == np.uint8 and llr.shape == status.shape == (llr.size,)
        whole &= names.shape == counts.shape and int(counts.sum()) == llr.size
        if not whole or (status >= len(STATUS)).any():
            raise UserError(f"{file} is damaged; remove it and run the same command again")
        return Part(Result(llr, status), Counter(dict(zip(names.tolist(), counts.tolist(), strict=True))))

    def remove(self) -> None:
        """Remove the folder, with what runs with other settings left there."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
