"""A command that is tried, how it ends undisturbed, and how a trial of it ended."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Verdict = Literal["lost", "silently wrong", "traceback", "other"]
MATERIALS = ".materials"
"""Link to all materials in every trial's folder, from which a change may take another store."""
PLACE = "place"
"""Folder of the output in every trial: alone there, it can be watched, moved, or put on a disk of its own."""


class Failed(Exception):  # noqa: N818  (an outcome)
    """What a command must not do."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        super().__init__(message)
        self.verdict: Verdict = verdict


class NotTried(Exception):  # noqa: N818  (an outcome)
    """The trial could not be made, such as a kill after the command's end."""


@dataclass(frozen=True)
class Job:
    """A command that is tried."""

    package: str
    name: str
    words: str
    """The command without `--out`, with paths relative to the trial's folder."""
    reads: tuple[str, ...]
    """Files and folders that it reads: the user's, or what other jobs made."""
    makes: str = ""
    """Name of its output; "": it only prints."""
    other: str = ""
    """Further words that change the result: the comparison must notice."""
    changes: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Changes to what it reads, each of which changes the result; called with the trial's folder."""
    mistakes: tuple[str, ...] = ()
    """Further words that are wrong, for a start that fails."""
    kills: int = 0
    """How many times it is interrupted, besides the other kinds."""
    disk: bool = False
    """Whether it is tried on a full disk."""
    damage: bool = True
    """Whether what it reads is damaged."""
    maker: bool = False
    """Whether it only makes material for other jobs."""
    cold: bool = False
    """Whether its processes are started anew, such as where it starts processes of its own."""

    @property
    def out(self) -> str:
        """Its output in a trial's folder."""
        return f"{PLACE}/{self.makes}"

    def command(self, out: str | None = None) -> list[str]:
        """Return the words of its command."""
        where = ["--out", out or self.out] if self.makes else []
        return [*shlex.split(self.words), *where]


@dataclass
class Baseline:
    """What a job does when it is left alone."""

    result: dict[str, str]
    """See `outputs.result`."""
    seconds: float
    n_changes: int
    """How often its output's folder was seen to change."""
    n_bytes: int


@dataclass
class Outcome:
    """How a trial ended."""

    package: str
    kind: str
    name: str
    verdict: Verdict | Literal["good", "not tried"]
    message: str = ""
    steps: tuple[str, ...] = ()
    n: int = 1
    """How many trials ended so."""
