"""The jobs of each package: its smallest real commands, what they read, and what the user brings."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tools.reliability.job import Job
from tools.reliability.jobs import dna, singlecell, text, theory, vision

PACKAGES: Mapping[str, tuple[Callable[[Path], None], Callable[[], list[Job]]]] = {
    "text": (text.materials, text.jobs),
    "dna": (dna.materials, dna.jobs),
    "vision": (vision.materials, vision.jobs),
    "singlecell": (singlecell.materials, singlecell.jobs),
    "theory": (theory.materials, theory.jobs),
}
"""Package → what writes the user's files, and the jobs, in an order in which each can read what those before made."""
