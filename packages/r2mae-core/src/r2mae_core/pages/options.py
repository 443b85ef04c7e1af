"""Options of every `report`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """One HTML page of a run, or of several side by side."""

    runs: tuple[Path, ...]
    """Run folders: what commands leave in --out, such as those of demo or reproduce."""
    out: Path | None = None
    """The page; default RUN/report.html, or report.html here for several runs."""
    examples: bool = True
    """Show pictures of the runs, and examples of their models where there are models."""
