"""A group of chromosomes of a build: read its files' blocks, compare with the genome, and write a store of its own."""

import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from r2mae_core import UserError, fingerprint, whole_folder
from r2mae_dna.data.canvas import Canvas
from r2mae_dna.data.genome import Case, GenomeCheck
from r2mae_dna.data.maf import BlockCounts, project, read_blocks
from r2mae_dna.data.species import is_of
from r2mae_dna.data.store import AlignmentStore, StoreWriter

OVERLAPS = "reference bases in more than one block (the first is kept)"


@dataclass(frozen=True)
class Group:
    """Chromosomes that are made together."""

    home: Path
    """Where the folders of groups are."""
    number: int
    files: tuple[Path, ...]
    counted: tuple[bool, ...]
    """File → whether its blocks without the reference are counted here."""
    lengths: dict[str, int]
    """Chromosome → its length."""
    elsewhere: frozenset[str]
    """Chromosomes of these files that other groups make."""
    columns: dict[str, int]
    """Species → column; the reference first."""
    genome: Path | None
    case: Case

    @property
    def folder(self) -> Path:
        """Where its store is."""
        return self.home / f"{self.number:04d}"


@dataclass
class GroupReport:
    """What a group found."""

    counts: BlockCounts = field(default_factory=BlockCounts)
    overlaps: int = 0
    check: GenomeCheck = field(default_factory=GenomeCheck)

    def left_out(self) -> dict[str, int]:
        """Return reason → what was skipped."""
        return self.counts.left_out() | {OVERLAPS: self.overlaps}


_bases: Any = None
"""A counter of bases that this process shares with others; None: it counts for nobody."""


def use_counter(counter: Any) -> None:
    """Add the bases that this process places to a counter, a `multiprocessing.Value`."""
    global _bases
    _bases = counter


def build_group(group: Group) -> None:
    """Write the store of a group into its folder.

    Raises:
        UserError: a file is damaged or of another assembly than the genome or an earlier file, or the disk is full.
    """
    report, inputs = GroupReport(), [*group.files, *([] if group.genome is None else [group.genome])]
    before = fingerprint(inputs)
    with whole_folder(group.folder) as folder:
        writer = StoreWriter(folder, list(group.columns))
        scratch = folder / ".scratch"
        scratch.mkdir()
        canvas = Canvas(scratch, group.lengths, len(group.columns))
        for path, counted in zip(group.files, group.counted, strict=True):
            _fill(canvas, group, path, report, counted=counted)
        if group.genome is not None:
            report.check.run(group.genome, canvas.chromosomes, group.case)
        for name in list(canvas.chromosomes):
            chromosome = canvas.chromosomes.pop(name)
            writer.write(name, chromosome.codes, chromosome.shards)
            del chromosome  # the maps, before their files
        report.overlaps = canvas.overlaps
        shutil.rmtree(scratch)
        writer.close(report.left_out(), {"sources": before, "report": _as_data(report)}, group.case)


def _fill(canvas: Canvas, group: Group, path: Path, report: GroupReport, *, counted: bool) -> None:
    reference = next(iter(group.columns))

    def wanted(chromosome: str | None) -> bool:
        return chromosome in group.lengths or (counted and chromosome not in group.elsewhere)

    faults = report.counts if counted else BlockCounts()
    for rows in read_blocks(path, partial(is_of, reference, group.columns), faults):
        piece = project(rows, group.columns, report.counts, wanted)
        if piece is None:
            continue
        canvas.add(piece, path)
        if _bases is not None:
            with _bases.get_lock():
                _bases.value += len(piece.codes)


def _as_data(report: GroupReport) -> dict[str, Any]:
    counts = {**vars(report.counts), "faults": dict(report.counts.faults)}
    return {"counts": counts, "overlaps": report.overlaps, "check": asdict(report.check)}


def _report(data: Mapping[str, Any]) -> GroupReport:
    counts = BlockCounts(**{**data["counts"], "faults": Counter(data["counts"]["faults"])})
    return GroupReport(counts, data["overlaps"], GenomeCheck(**data["check"]))


def add_up(stores: list[AlignmentStore]) -> GroupReport:
    """Return the reports of some groups as one."""
    total = GroupReport()
    for report in (_report(store.made["report"]) for store in stores):
        for ours, theirs in ((total.counts, report.counts), (total.check, report.check)):
            for name, value in vars(theirs).items():  # numbers, a counter, a list
                setattr(ours, name, getattr(ours, name) + value)
        total.overlaps += report.overlaps
    return total


def finished_groups(
    home: Path, lengths: Mapping[str, int], inputs_of: Callable[[Collection[str]], Sequence[Path]]
) -> list[AlignmentStore]:
    """Return the groups of an interrupted build that are whole and whose files are as they were; remove the others.

    Args:
        home: where the folders of groups are.
        lengths: the chromosomes that are wanted.
        inputs_of: tells which files a group of chromosomes is made from.
    """
    found = list[AlignmentStore]()
    for folder in sorted(home.iterdir()) if home.is_dir() else []:
        if folder.name.startswith("."):
            continue
        try:
            store = AlignmentStore(folder)
            sources = store.made["sources"]
        except (UserError, KeyError):
            shutil.rmtree(folder)
            continue
        wanted = all(lengths.get(name) == length for name, length in store.lengths.items())
        if wanted and sources == fingerprint(inputs_of(store.chromosomes)):
            found.append(store)
        else:
            shutil.rmtree(folder)
    return found


def new_counter() -> Any:
    """Return a counter of bases for `use_counter`, in this process and those that it starts."""
    return multiprocessing.get_context("spawn").Value("q", 0)
