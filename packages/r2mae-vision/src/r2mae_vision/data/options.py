"""The options of `prepare`. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Prepare:
    """Decode images once, into a store that training reads as bytes."""

    source: str
    """Folder of class folders (with train and val inside, or see --validation), .tar of it, hfds/NAME, wds/PATTERN."""
    validation: str | None = None
    """Validation images, if they are elsewhere."""
    image_size: int = 256
    """Side of the stored squares; training crops them further."""
    fit: Literal["crop", "squash"] = "crop"
    """crop: the central square of the picture; squash: all of it, with its sides made equal."""
    in_chans: int = 3
    """3 (colour) or 1 (grey)."""
    workers: int | None = None
    """Processes that decode images; default one per core."""
    out: Path | None = None
    """Folder of the store; default runs/r2mae-vision-prepare-TIME. An interrupted run resumes there."""
    progress: bool = True
    """Show a progress bar."""
