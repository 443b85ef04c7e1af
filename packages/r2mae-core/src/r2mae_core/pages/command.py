"""`report RUN…`: one HTML page of a run, or of several side by side."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r2mae_core.lab.commands import Command
from r2mae_core.lab.comparison import Direction
from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import write_text
from r2mae_core.lab.outputs import check_output
from r2mae_core.lab.terminal import say
from r2mae_core.pages.charts import library
from r2mae_core.pages.examples import Example, figures_of, within_bounds
from r2mae_core.pages.gather import Gathered, gather
from r2mae_core.pages.html import Code, write_html
from r2mae_core.pages.options import Page
from r2mae_core.share.run_summary import RunSummary

PAGE = "report.html"


def _no_examples(run: RunSummary) -> Sequence[Example]:
    return ()


def _no_code(run: RunSummary) -> str | None:
    return None


@dataclass(frozen=True)
class Reporter:
    """What is special to a package's pages."""

    program: str
    """The console script."""
    commands: Mapping[str, Command]
    """Of its command line."""
    rank_by: Mapping[str, Direction]
    """Metrics that decide which scheme is better."""
    examples: Callable[[RunSummary], Sequence[Example]] = _no_examples
    """Examples of a run besides the pictures in its folder. What cannot be shown is a `UserError`."""
    load: Callable[[RunSummary], str | None] = _no_code
    """Python that loads a run's model; None: the run holds none."""


def write_page(config: Page, reporter: Reporter) -> Path:
    """Write the page of runs, and return its path.

    Args:
        config: the options.
        reporter: the package's.

    Raises:
        UserError: a path is no run folder, a package is missing, or the output stands in the way.
    """
    library(reporter.program)
    out = _place(config)
    gathered = gather(config.runs, reporter.commands, reporter.rank_by, reporter.program)
    examples, said = _examples(gathered, reporter) if config.examples else ([], ["Left out (--no-examples)."])
    write_text(out, write_html(gathered, examples, said, _codes(gathered, reporter)))
    return out


def write_page_command(config: Page, reporter: Reporter) -> None:
    """Run a package's `report`."""
    out = write_page(config, reporter)
    say(f"Done: {out} ({out.stat().st_size / 1e6:.1f} MB; open it in a browser)")


def _place(config: Page) -> Path:
    """Return where the page goes: into the folder of the only run, else where the user says."""
    out = config.out
    if out is None:
        out = config.runs[0] / PAGE if len(config.runs) == 1 else Path(PAGE)
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file such as {out / PAGE} with --out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a page's name ends in .html")
    # A page may lie in its run's folder, and an older page may be replaced; nothing else may.
    if os.path.lexists(out) and not _is_page(out):
        check_output(out, (), overwrite=False)
    return out


def _is_page(path: Path) -> bool:
    try:
        head = path.read_bytes()[:400]
    except OSError:
        return False
    return b'name="generator" content="Made by r2mae' in head


def _examples(gathered: Gathered, reporter: Reporter) -> tuple[list[Example], list[str]]:
    found: list[Example] = []
    said: list[str] = []
    several = len(gathered.runs) > 1
    for run in gathered.runs:
        name = gathered.names[run.path]
        found += figures_of(run.path, f"{name}: " if several else "")
        try:
            made = reporter.examples(run)
            found += [replace(one, title=f"{name}: {one.title}") for one in made] if several else made
        except (UserError, OSError) as error:
            said.append(
                f"{name}: no example could be made: {error}." if several else f"No example of the model: {error}."
            )
    kept, left_out = within_bounds(found)
    return kept, [*said, *left_out]


def _codes(gathered: Gathered, reporter: Reporter) -> list[Code]:
    """Return how the models of the runs are loaded; of a grid's, that of its first training."""
    found: dict[Path, Code] = {}
    for run in gathered.runs:
        inside = [
            member.summary
            for member in gathered.members
            if run.path in (member.summary.path, *member.summary.path.parents)
        ]
        for summary in (run, *inside):
            if text := reporter.load(summary):
                name = "/".join((run.path.resolve().name, *summary.path.relative_to(run.path).parts))
                found.setdefault(run.path, Code(name if len(gathered.runs) > 1 or summary is not run else "", text))
    return list(found.values())
