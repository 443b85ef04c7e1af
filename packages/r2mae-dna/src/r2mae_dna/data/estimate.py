"""What a build will take, from the beginning of its files: how much text there is, and the time and disk it needs."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r2mae_core import UserError
from r2mae_dna.data.maf import BlockCounts, names_in_trees, project, read_blocks, scan_blocks
from r2mae_dna.data.store import SHARD_ROWS

SAMPLE = 1 << 24
"""Bytes of text that are read for it, over all files."""
_WRITING = 1.5
"""Time of a whole build over that of its two readings: 1.5 with 30 vertebrates and 0.9 with four apes, as measured."""


@dataclass(frozen=True)
class Estimate:
    """What a build takes."""

    text: float
    """Bytes of all files, without compression."""
    bases: float
    """Reference bases in blocks."""
    letters: float
    """Bytes of all letters before they are compressed."""
    seconds: float
    """Of one process."""

    def line(self, workers: int) -> str:
        """Return it as a line."""
        hours = self.seconds / workers / 3600
        minutes = f"{round(hours * 60)} minutes" if hours * 60 >= 2 else "about a minute or less"
        took = f"{hours:.1f} hours" if hours >= 1 else minutes
        return (
            f"estimate: {self.text / 1e9:.3g} GB of text, {self.bases / 1e6:,.3g} million reference bases, up to "
            f"{self.letters / 1e9:.3g} GB of disk while building, {took} with {workers} "
            f"worker{'s' if workers > 1 else ''}"
        )


def estimate_build(mafs: Sequence[Path], reference: str, species: Sequence[str]) -> Estimate | None:
    """Estimate what a build takes; the files are taken to go on as they begin.

    Args:
        mafs: the files, plain or gzipped.
        reference: species whose coordinates the store has.
        species: the others; empty: all.

    Returns:
        None if the beginning of the files cannot be read, or has no block of the reference.
    """
    text = bases = seconds = 0.0
    found: dict[str, None] = dict.fromkeys(species)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.maf"
        for path in mafs:
            try:
                of_all, of_sample = _cut(path, sample, max(SAMPLE // len(mafs), 1 << 20))
                names = (*species, *names_in_trees([sample]))
                start = time.perf_counter()
                scan = scan_blocks([sample], reference, SHARD_ROWS, names)
                found |= {} if species else dict.fromkeys(scan.species)
                columns = {name: i for i, name in enumerate([reference, *(s for s in found if s != reference)])}
                for rows in read_blocks(sample, lambda _: False):
                    project(rows, columns, BlockCounts())
            except (OSError, EOFError, UserError):
                return None
            seconds += (time.perf_counter() - start) * of_all / of_sample * _WRITING
            bases += sum(scan.bases.values()) * of_all / of_sample
            text += of_all
    return Estimate(text, bases, bases * (len(found | {reference: None}) + 1), seconds) if bases else None


def _cut(path: Path, sample: Path, size: int) -> tuple[float, int]:
    """Write the first blocks of a file, and return how many bytes of text it has all in all, and how many these are."""
    import gzip

    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        content = gzip.GzipFile(fileobj=raw).read(size) if zipped else raw.read(size)
        read = raw.tell()
    total = len(content) * path.stat().st_size / max(read, 1)
    if len(content) == size:
        content = content[: content.rfind(b"\na") + 1] or content
    sample.write_bytes(content)
    return max(total, len(content)), max(len(content), 1)
