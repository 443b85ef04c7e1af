"""The options of every `push`. Nothing heavy is imported here."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path


@dataclass(frozen=True)
class PushOptions:
    """What every `push` takes."""

    run: Path
    """Run folder of a finished training."""
    name: str
    """Where on the hub: OWNER/NAME, or NAME for your own account."""
    _: KW_ONLY
    license: str | None = None
    """Licence of the weights, as the hub writes it, such as mit, apache-2.0 or cc-by-4.0; needed. other: see
    --license_name."""
    license_name: str | None = None
    """Name of another licence, with --license other."""
    note: str | None = None
    """A paragraph for the card: what a reader must know of the data."""
    private: bool = False
    """Make the new repository private."""
    update: bool = False
    """The name exists and is to hold this model; its older revisions stay."""
    revision: str | None = None
    """Branch to push to; made if it is not there. Default: main."""
    dry_run: bool = False
    """Write what would be sent, and contact nothing."""
    out: Path | None = None
    """Where to write it; default with --dry_run: runs/PROGRAM-push-TIME, else nowhere."""
