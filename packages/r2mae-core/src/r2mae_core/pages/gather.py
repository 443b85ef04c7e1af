"""What the folders hold that a page is made from: runs, the trainings in them, and one table of their results."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r2mae_core.lab.commands import Command
from r2mae_core.lab.comparison import ComparisonTable, Direction, compare_runs
from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import read_text
from r2mae_core.lab.records import Record, read_records
from r2mae_core.lab.sealed import read_json
from r2mae_core.lab.setups import Setup, differences, named_apart, setup_of_pretraining, setups
from r2mae_core.lab.terminal import pasteable
from r2mae_core.pages.curves import Metrics, Training
from r2mae_core.share.run_summary import RunSummary, run_summary

_NOT_TRAININGS = ("checkpoints", "model", "figures")
_IN_ONE_FILE = re.compile(r"(?P<scheme>.+)/seed(?P<seed>\d+)/(?P<metric>.+)$")
_TUNED = re.compile(r"(?:seed|(?P<task>.+)-)(?P<seed>\d+)")
_SHARE = re.compile(r"trials/(?P<arm>[^/]+)-seed(?P<seed>\d+)/(?P<share>[\d.]+)(/|$)")


@dataclass(frozen=True)
class Member:
    """A training: the run itself, one within the run's folder, or one of several in one metrics.csv."""

    training: Training
    summary: RunSummary
    """Of the folder that its metrics.csv lies in."""
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Gathered:
    """All that a page tells."""

    runs: tuple[RunSummary, ...]
    """As the user named them."""
    names: Mapping[Path, str]
    """Folder of a run → what the page calls it."""
    members: tuple[Member, ...]
    tables: tuple[tuple[str, ComparisonTable], ...]
    """(title, table); a title where there is more than one."""
    answers: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """(run, answer) of sweeps."""
    verdict: tuple[str, ...] = ()
    differing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Option → its value in each run, where the runs differ."""
    notices: tuple[str, ...] = ()
    """What a reader must know before comparing anything."""


def gather(
    paths: Sequence[Path], commands: Mapping[str, Command], rank_by: Mapping[str, Direction], program: str
) -> Gathered:
    """Read run folders.

    Args:
        paths: run folders of any command of one package.
        commands: verb → command of the package.
        rank_by: the package's metrics that decide which scheme is better.
        program: the package's console script.

    Raises:
        UserError: a path is no run folder, is named twice, or holds a damaged file; or the runs are another package's.
    """
    seen: dict[Path, Path] = {}
    for path in paths:
        if (place := path.resolve()) in seen:
            raise UserError(f"{path} is named twice; leave out the repeat")
        seen[place] = path
    runs = tuple(run_summary(path, commands) for path in paths)
    for run in runs:
        if run.program not in (None, program):
            raise UserError(f"{run.path} is a run of {run.program}; call {run.program} report {pasteable(run.path)}")
        if run.command == "prepare":
            raise UserError(f"{run.path} holds prepared data, not a run; name what a training or an evaluation wrote")
    runs = tuple(replace(run, program=program) for run in runs)  # an older run does not note it
    names = _names([run.path for run in runs])
    members = [member for run in runs for member in _members(run, commands)]
    if len(runs) > 1:
        members = [
            replace(member, training=replace(member.training, run=names[run.path], pool=_pool(run, member, names)))
            for run in runs
            for member in members
            if run.path in (member.summary.path, *member.summary.path.parents)
        ]
        members = _named_apart(members, {run.path for run in runs})
    tables, unlike = _tables(runs, names, rank_by)
    differing, other_data = _differing(runs)
    answers = [
        (names[run.path], read_json(run.path / "sweep.json")) for run in runs if (run.path / "sweep.json").exists()
    ]
    verdict = [
        line
        for run in runs
        if (run.path / "verdict.txt").exists()
        for line in read_text(run.path / "verdict.txt").splitlines()
    ]
    notices = [
        *_copies(runs, names),
        *other_data,
        *unlike,
        *(_unfinished(run, members) for run in runs if not _finished(run)),
    ]
    return Gathered(
        runs, names, tuple(members), tuple(tables), tuple(answers), tuple(verdict), differing, tuple(notices)
    )


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of the paths that tell them apart."""
    whole = {path: path.resolve().parts for path in paths}
    for n in range(1, max(map(len, whole.values())) + 1):
        ends = {path: "/".join(parts[-n:]) for path, parts in whole.items()}
        if len(set(ends.values())) == len(paths):
            return ends
    return {path: str(path) for path in paths}


def _members(run: RunSummary, commands: Mapping[str, Command]) -> Iterator[Member]:
    """Find the trainings of a run: those of a grid lie in its cells' folders."""
    found = list(_folders(run.path))
    swept = _full_length(run.path, found)
    for folder in found:
        if folder in swept and not swept[folder]:
            continue
        summary = run if folder == run.path else run_summary(folder, commands)
        inner = _split(summary.metrics)
        if inner:
            yield from (Member(Training(scheme, seed, metrics), summary) for (scheme, seed), metrics in inner.items())
            continue
        records = tuple(_records(folder))
        if tuning := _fine_tuning(folder, run.path):
            part = folder.parent.parent / "parts" / f"{folder.name}.json"  # where the log lies apart from the model
            records = records or (tuple(read_records(part)) if part.exists() else ())
            yield Member(replace(tuning, metrics=summary.metrics), summary, records)
            continue
        scheme, seed = _identity(folder, run.path, summary, found)
        yield Member(Training(scheme, seed, summary.metrics), summary, records)


def _fine_tuning(folder: Path, root: Path) -> Training | None:
    """Return what the page calls a fine-tuning, without its metrics: after the pretraining whose model it tunes.

    Args:
        folder: of the training: seed0, or task-0 where there are several tasks.
        root: of the run that it lies in.
    """
    inside = [place for place in (folder, *folder.parents) if place == root or root in place.parents]
    for place in inside:
        facts = read_json(place / "facts.json") if (place / "facts.json").exists() else {}
        if (command := facts.get("command")) is None:
            continue
        match = _TUNED.fullmatch(folder.name)
        if command != "finetune" or match is None:
            return None
        noted = {str(model["scheme"]) for model in facts.get("models") or ()}
        known = noted or {record.scheme for record in _records(place)}
        scheme = known.pop() if len(known) == 1 else "model not recorded"
        task = f" on {match['task']}" if match["task"] else ""
        return Training(scheme, int(match["seed"]), {}, kind=f"fine-tuning{task}")
    return None


def _folders(root: Path) -> Iterator[Path]:
    """Find the run folders with metrics under a folder, itself among them, in order of their names."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _NOT_TRAININGS and not name.startswith("."))
        if "config.yaml" in files and "metrics.csv" in files:
            yield Path(place)


def _full_length(root: Path, found: Sequence[Path]) -> dict[Path, bool]:
    """Return, for the trainings of a sweep, whether each is the longest of its ratio and seed."""
    marks = {folder: _SHARE.search(folder.relative_to(root).as_posix()) for folder in found}
    longest: dict[tuple[str, str], float] = {}
    for mark in filter(None, marks.values()):
        key = (mark["arm"], mark["seed"])
        longest[key] = max(longest.get(key, 0.0), float(mark["share"]))
    return {
        folder: float(mark["share"]) == longest[mark["arm"], mark["seed"]]
        for folder, mark in marks.items()
        if mark is not None
    }


def _split(metrics: Metrics) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (scheme, seed) → metrics, where one file holds those of several trainings."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for name, points in metrics.items():
        if match := _IN_ONE_FILE.match(name):
            found.setdefault((match["scheme"], int(match["seed"])), {})[match["metric"]] = points
    return found


def _records(folder: Path) -> list[Record]:
    return read_records(folder) if (folder / "results.json").exists() else []


def _identity(folder: Path, root: Path, summary: RunSummary, found: Sequence[Path]) -> tuple[str, int | None]:
    """Return what the tables call a training: as the records of its cell do, else as its config says.

    Args:
        folder: of the training.
        root: of the run that it lies in.
        summary: what the folder says.
        found: the folders of all trainings of the run.
    """
    if mark := _SHARE.search(folder.relative_to(root).as_posix()):  # a sweep names what it tries by the folder
        return mark["arm"], int(mark["seed"])
    seed = summary.seeds[0] if len(summary.seeds) == 1 else None
    place = folder.parent
    while folder != root and place != root and root in place.parents:
        identities = {(record.scheme, record.seed) for record in _records(place)}
        alone = sum(place in other.parents for other in found) == 1
        if alone and len(identities) == 1 and seed in (None, next(iter(identities))[1]):
            return identities.pop()
        place = place.parent
    own = {(record.scheme, record.seed) for record in _records(folder)}
    if len(own) == 1:
        return own.pop()
    return summary.scheme or folder.name, seed


def _pool(run: RunSummary, member: Member, names: Mapping[Path, str]) -> str:
    """Return "" for a run that is one pretraining, whose scheme's name says in what it differs, else the run's name."""
    alone = member.summary.path == run.path and "mask_ratio" in run.options
    return "" if alone else names[run.path]


def _named_apart(members: Sequence[Member], named: Collection[Path]) -> list[Member]:
    """Give pretrainings of one scheme that differ in more than the seed the names that they have in the table."""
    own = {
        member.summary.path: (member.training.scheme, member.training.seed or 0)
        for member in members
        if member.summary.path in named and "mask_ratio" in member.summary.options
    }
    names = named_apart(own)
    return [
        replace(member, training=replace(member.training, scheme=names[member.summary.path][0]))
        if member.summary.path in names
        else member
        for member in members
    ]


def _tables(
    runs: Sequence[RunSummary], names: Mapping[Path, str], rank_by: Mapping[str, Direction]
) -> tuple[list[tuple[str, ComparisonTable]], list[str]]:
    """Return one table of all runs, or, where they cannot be in one, a table for each, and what to say of that."""
    measured = [run.path for run in runs if run.evaluation]
    missing = [names[run.path] for run in runs if not run.evaluation]
    said = [f"No evaluation is recorded of {', '.join(missing)}."] if missing and measured else []
    if not measured:
        return [], said
    try:
        return [("", compare_runs(measured, rank_by))], said
    except UserError as error:
        if len(measured) == 1:
            raise
        return [(names[path], compare_runs([path], rank_by)) for path in measured], [
            *said,
            f"No table of all: {error}.",
        ]


def _setup(run: RunSummary) -> Setup:
    return setup_of_pretraining(run.path) if "mask_ratio" in run.options else setups(run.path).own


def _differing(runs: Sequence[RunSummary]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the options in which runs differ with their values, and what makes their numbers not comparable."""
    if len(runs) < 2:
        return {}, []
    found = [_setup(run) for run in runs]
    table: dict[str, tuple[str, ...]] = {}
    notes = []
    commands = tuple(run.command or "not recorded" for run in runs)
    if len(set(commands)) > 1:
        table["command"] = commands
    schemes = tuple(run.scheme or "none" for run in runs)
    if len(set(schemes)) > 1:
        table["scheme"] = schemes
    for option in differences(found):
        name = option.rpartition(" ")[2]
        if name.partition(".")[0] == "mask_ratio":
            continue  # the scheme's name says it
        table[name] = tuple(
            setup.text(option, exact=True).removeprefix(f"{name} ") if option in setup.options else "–"
            for setup in found
        )
        if name == "data":
            notes.append(
                "These runs cannot be compared number by number: they were made from different data ("
                + "; ".join(dict.fromkeys(table[name]))
                + ")."
            )
    seeds = tuple(", ".join(map(str, run.seeds)) or "not recorded" for run in runs)
    if len(set(seeds)) > 1:
        table["seed"] = seeds
    versions = tuple(str(run.commit) for run in runs)
    if len(set(versions)) > 1:
        table["commit"] = tuple(run.commit or "not recorded" for run in runs)
    return table, notes


def _copies(runs: Sequence[RunSummary], names: Mapping[Path, str]) -> list[str]:
    """Return the notices of runs that stand there twice: they are one training, not two."""
    said = []
    for i, run in enumerate(runs):
        for other in runs[:i]:
            alike = (run.started, run.options, run.metrics) == (other.started, other.options, other.metrics)
            if alike and run.started is not None and (run.metrics or run.evaluation == other.evaluation):
                said.append(f"{names[other.path]} and {names[run.path]} are one run and its copy, not two trainings.")
                break
    return said


def _finished(run: RunSummary) -> bool:
    return run.finished or (run.path / "sweep.json").exists()


def _unfinished(run: RunSummary, members: Sequence[Member]) -> str:
    """Return the notice of a run that was interrupted, or is still going on."""
    steps = [
        points[-1][0]
        for member in members
        if member.summary.path == run.path
        for points in member.training.metrics.values()
        if points
    ]
    where = f"its last logged step is {max(steps):,}" if steps else "nothing was logged yet"
    return f"{run.path.name} has not finished: {where}. What follows is what it holds so far."
