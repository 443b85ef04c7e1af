"""From MAF files to an alignment store: in bounded memory, in parallel, in parts, and going on after an interruption.

The files are read twice. A first, quick pass finds the species and where the reference has blocks (`build_plan`). The
chromosomes are then made in groups (`build_groups`), each a store of its own in a hidden folder beside the output, and
the groups are joined at the end (`merge`). A group's chromosomes are first stretches of a sparse file, mapped into
memory and filled block by block (`canvas`). A process's own memory is that of a few blocks for any number of species;
pages of the mapped file come on top while the system has room for them.
"""

import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r2mae_core import (
    UserError,
    check_output,
    check_space,
    fingerprint,
    in_processes,
    one_writer,
    refuse_changed,
    whole_folder,
)
from r2mae_dna.data.build_groups import (
    Group,
    GroupReport,
    add_up,
    build_group,
    finished_groups,
    new_counter,
    use_counter,
)
from r2mae_dna.data.build_plan import BuildPlan, part_of, plan_build, split_groups
from r2mae_dna.data.genome import Case
from r2mae_dna.data.maf import BlockCounts, Scan, names_in_trees, scan_blocks
from r2mae_dna.data.merge import join_stores
from r2mae_dna.data.new_folders import check_new_folder, digest_of
from r2mae_dna.data.species import SpeciesNames
from r2mae_dna.data.store import SHARD_ROWS, AlignmentStore, StoreInfo, store_entries
from r2mae_dna.sharing import parse_part

MAX_FASTA_MISMATCH = 0.05
COMPRESSED = 1 / 3
"""Share of the letters' bytes for which a build wants space when they are compressed: 0.13 with 30 vertebrates and 0.18
with four apes, as measured, and room."""


@dataclass
class BuildReport:
    """Result of a build."""

    info: StoreInfo | None
    """None: a part without chromosomes, of which there is no store."""
    counts: BlockCounts
    overlaps: int = 0
    """Reference positions that are in more than one block; the first block counts."""
    without_blocks: tuple[str, ...] = ()
    """Requested species that appear in no block."""
    checked: int = 0
    """Reference bases compared with the FASTA file."""
    mismatches: int = 0
    """Of these, how many differ."""
    filled: int = 0
    """Positions without a block whose reference base came from the FASTA file."""
    unchecked: tuple[str, ...] = ()
    """Chromosomes that are not in the FASTA file."""
    nameless: tuple[str, ...] = ()
    """Some sequences that name no species, and are left out."""
    kept: tuple[str, ...] = ()
    """Chromosomes that an interrupted build had finished."""


def build_alignment(
    mafs: Sequence[Path],
    out: Path,
    *,
    reference: str,
    species: Sequence[str] = (),
    fasta: Path | None = None,
    case: Case | None = None,
    workers: int = 1,
    part: str = "",
    overwrite: bool = False,
    progress: bool = False,
) -> BuildReport:
    """Build a store from MAF files. An interrupted build goes on with the chromosomes that it had not finished.

    Args:
        mafs: plain or gzipped; several are joined, such as one per chromosome.
        out: the store's folder.
        reference: species whose coordinates the store has, such as `hg38`.
        species: the others, in the order of the columns, which a model depends on. Empty: every species of the files
            in order of first appearance.
        fasta: the reference genome, FASTA or 2bit; its bases are compared with the alignment's, and fill positions
            without a block.
        case: whose lower-case letters are the soft-masked ones, everywhere; default: the genome's, if it is given.
        workers: processes that share the chromosomes; the store is the same for any number.
        part: such as `2/8`: only the second of eight parts of the chromosomes; `merge_stores` joins the parts.
        overwrite: replace a store that is there.
        progress: show bars.

    Raises:
        UserError: a file is missing, malformed or of another assembly; the reference or all of the species are in no
            block; the store exists; there is not enough space; or more than 5 % of the reference's bases differ from
            the FASTA file.
    """
    case = case_source(case, fasta)
    made = made_from(mafs, reference, species, fasta, case)
    inputs = [*mafs, *([] if fasta is None else [fasta])]
    check_output(out, inputs)
    wanted = parse_part(part) if part else (0, 1)
    with one_writer(out, folder=False):
        check_new_folder(out, store_entries, "an alignment store", overwrite=overwrite)
        scans = _scan_files(mafs, reference, species, workers, progress=progress)
        whole = Scan(SpeciesNames({reference, *species}))
        for scan in scans:
            whole.add(scan)
        plan = plan_build(scans, whole, reference, species, mafs, fills=fasta is not None)
        chromosomes = part_of(plan, *wanted)
        report = BuildReport(None, BlockCounts())
        if chromosomes:
            described = made | ({"part": part, "chromosomes": list(plan.lengths)} if part else {})
            home = _home(out, made, plan, fasta)
            try:
                report = _build(plan, chromosomes, mafs, fasta, home, out, described, workers, progress=progress)
            finally:
                for folder in (home, home.parent):  # stay if they hold a finished group
                    with suppress(OSError):
                        folder.rmdir()
    report.without_blocks = tuple(name for name in plan.columns if name not in whole.species)
    report.nameless = tuple(whole.names.nameless)
    return report


def case_source(case: Case | None, fasta: Path | None) -> Case:
    """Return whose lower-case letters are the soft-masked ones.

    Raises:
        UserError: the genome's, and there is none.
    """
    if case == "fasta" and fasta is None:
        raise UserError("--case fasta takes the soft-masked letters from the genome; give it with --fasta")
    return case or ("maf" if fasta is None else "fasta")


def made_from(
    mafs: Sequence[Path], reference: str, species: Sequence[str], fasta: Path | None, case: Case
) -> dict[str, Any]:
    """Return what a store is made from, as its index keeps it.

    Raises:
        UserError: a file is missing.
    """
    inputs = [*mafs, *([] if fasta is None else [fasta])]
    if missing := [file for file in inputs if not file.is_file()]:
        raise UserError(f"no file {missing[0]}")
    files = {"mafs": [file.name for file in mafs], "fasta": None if fasta is None else fasta.name}
    return {"reference": reference, "species": list(species), "case": case, **files, "sources": fingerprint(inputs)}


def _scan_files(
    mafs: Sequence[Path], reference: str, species: Sequence[str], workers: int, *, progress: bool
) -> list[Scan]:
    """Return the first pass over each file."""
    scan = partial(_scan_file, reference, (*species, *names_in_trees(mafs)))
    total, found = sum(path.stat().st_size for path in mafs), dict[Path, Scan]()
    several = workers > 1 and len(set(mafs)) > 1
    with tqdm(desc="first pass", unit="B", unit_scale=True, total=total, disable=not progress, mininterval=0.5) as bar:
        paths = list(dict.fromkeys(mafs))
        for path, result in in_processes(scan, paths, workers) if several else ((path, scan(path)) for path in paths):
            found[path] = result
            bar.update(path.stat().st_size)
    return [found[path] for path in mafs]


def _scan_file(reference: str, species: Sequence[str], path: Path) -> Scan:
    return scan_blocks([path], reference, SHARD_ROWS, species)


def _home(out: Path, made: Mapping[str, Any], plan: BuildPlan, fasta: Path | None) -> Path:
    """Return the folder of the groups, which another build of the same output does not share."""
    depends = {name: value for name, value in made.items() if name != "sources"}
    genome = None if fasta is None else fingerprint(fasta)
    key = digest_of({**depends, "columns": list(plan.columns), "genome": genome})
    return out.parent.absolute() / f".{out.name}.build" / key


def _inputs(plan: BuildPlan, chromosomes: Collection[str]) -> list[int]:
    """Return which files chromosomes are made from, in order."""
    files = {i for name in chromosomes for i in plan.files[name]}
    return sorted(files | {i for i, name in enumerate(plan.counted_by) if name in chromosomes})


def _groups(
    plan: BuildPlan,
    todo: Collection[str],
    mafs: Sequence[Path],
    fasta: Path | None,
    case: Case,
    home: Path,
    workers: int,
) -> list[Group]:
    groups = list[Group]()
    taken = {int(folder.name) for folder in home.glob("[0-9]*")}
    numbers = (i for i in range(len(plan.lengths) + len(taken)) if i not in taken)
    for chromosomes in split_groups(plan, todo, workers):
        files = _inputs(plan, chromosomes)
        groups.append(
            Group(
                home,
                next(numbers),
                tuple(mafs[i] for i in files),
                tuple(plan.counted_by[i] in chromosomes for i in files),
                {name: plan.lengths[name] for name in chromosomes},
                frozenset(plan.lengths) - set(chromosomes),
                plan.columns,
                fasta,
                case,
            )
        )
    return groups


def _build(
    plan: BuildPlan,
    chromosomes: Sequence[str],
    mafs: Sequence[Path],
    fasta: Path | None,
    home: Path,
    out: Path,
    made: Mapping[str, Any],
    workers: int,
    *,
    progress: bool,
) -> BuildReport:
    """Make the groups that are not there yet, and join all."""

    def inputs_of(names: Collection[str]) -> list[Path]:
        return [*(mafs[i] for i in _inputs(plan, names)), *([] if fasta is None else [fasta])]

    _remove_others(home)
    there = finished_groups(home, {name: plan.lengths[name] for name in chromosomes}, inputs_of)
    kept = [name for store in there for name in store.chromosomes]
    groups = _groups(plan, [name for name in chromosomes if name not in kept], mafs, fasta, made["case"], home, workers)
    check_space(out.parent, _bytes_needed(plan, groups, workers), f"building {out.name}")
    home.mkdir(parents=True, exist_ok=True)
    with _progress(plan, chromosomes, kept, show=progress) as counter:
        if workers > 1 and len(groups) > 1:
            for _ in in_processes(build_group, groups, workers, setup=partial(use_counter, counter)):
                pass
        else:
            use_counter(counter)
            for group in groups:
                build_group(group)
    stores = there + [AlignmentStore(group.folder) for group in groups]
    report = add_up(stores)
    try:
        inputs = [*mafs, *([] if fasta is None else [fasta])]
        refuse_changed(
            out, made["sources"], fingerprint(inputs), "it was changed while it was read: run the command again"
        )
        if fasta is not None:
            _refuse_other_genome(report, chromosomes, fasta, whole="part" not in made)
    except UserError:
        shutil.rmtree(home)
        raise
    with whole_folder(out) as folder:
        info = join_stores(stores, folder, chromosomes, made, move=True)
    shutil.rmtree(home)
    check = report.check
    absent = tuple(name for name in chromosomes if name in check.absent)
    return BuildReport(
        info, report.counts, report.overlaps, (), check.checked, check.mismatches, check.filled, absent, (), tuple(kept)
    )


def _remove_others(home: Path) -> None:
    """Remove what interrupted builds of other species or options left for the same output."""
    for folder in home.parent.iterdir() if home.parent.is_dir() else []:
        if folder != home:
            shutil.rmtree(folder)


def _bytes_needed(plan: BuildPlan, groups: Sequence[Group], workers: int) -> int:
    """Return what the largest groups that are made at once take, and all of them when they are compressed."""
    each = sorted((sum(plan.scratch[name] for name in group.lengths) for group in groups), reverse=True)
    return sum(each[:workers]) + int(sum(each[workers:]) * COMPRESSED)


def _refuse_other_genome(report: GroupReport, chromosomes: Sequence[str], fasta: Path, *, whole: bool) -> None:
    check = report.check
    if check.mismatches > MAX_FASTA_MISMATCH * check.checked:
        raise UserError(
            f"{check.mismatches} of {check.checked} reference bases differ between the alignment and {fasta}; "
            "wrong genome build?"
        )
    if whole and set(check.absent) == set(chromosomes):
        raise UserError(f"{fasta} contains none of the alignment's chromosomes: {', '.join(chromosomes[:5])}")


@contextmanager
def _progress(plan: BuildPlan, chromosomes: Sequence[str], kept: Sequence[str], *, show: bool) -> Iterator[Any]:
    """Show a bar of reference bases, and give the counter that moves it; None without a bar."""
    if not show:
        yield None
        return
    counter, ended = new_counter(), threading.Event()
    before = sum(plan.bases[name] for name in kept)
    total = sum(plan.bases[name] for name in chromosomes)
    with tqdm(desc="bases", unit="b", unit_scale=True, total=total, initial=before, mininterval=0.5) as bar:

        def move() -> None:
            while not ended.wait(0.5):
                bar.update(before + counter.value - bar.n)

        mover = threading.Thread(target=move, daemon=True)
        mover.start()
        try:
            yield counter
        finally:
            ended.set()
            mover.join()
            bar.update(before + counter.value - bar.n)
