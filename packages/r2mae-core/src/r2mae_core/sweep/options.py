"""The options that every `sweep` has. Nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Annotated

from r2mae_core.lab.bounds import Bound, Positive, Seed, Share
from r2mae_core.lab.errors import UserError
from r2mae_core.train.options import RunOptions

Ratio = Annotated[float, Bound(0, 1, above=True)]


@dataclass(frozen=True, kw_only=True)
class SweepOptions(RunOptions):
    """What every `sweep` takes. A package adds its data, its pretraining and its evaluation.

    Raises:
        UserError: an option is out of its bounds, or two contradict each other.
    """

    metric: str | None = None
    """What is compared: a metric of the evaluation; default its first one. A wrong name lists them all."""
    ratios: tuple[Ratio, ...] = (0.05, 0.1, 0.15, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
    """Fixed ratios to try."""
    ranges: tuple[tuple[Share, Share], ...] | None = None
    """Ranges [low, high] to draw the ratio from; default the modality's R2MAE and [0, 1]."""
    budget_runs: Positive | None = None
    """Stop after so many trainings of full length; a shorter one counts as its share. Default 12, if no minutes are
    given."""
    budget_minutes: Positive | None = None
    """Stop before this command has taken so many minutes."""
    storage: str | None = None
    """Where the trials are noted: a journal file or a database (sqlite:///FILE, postgresql://…). The same command with
    one storage, in several processes or on several machines, shares the work. Default RUN/trials.log."""
    seed: Seed = 0
    """The first seed of the trainings, and that of the search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in self.ranges or ():
            if low >= high:
                raise UserError(f"--ranges: [{low:g}, {high:g}] is no range; the first number must be the smaller")
        for name in ("ratios", "ranges"):
            values = getattr(self, name) or ()
            if twice := [value for i, value in enumerate(values) if value in values[:i]]:
                raise UserError(f"--{name} names {twice[0]} twice")
