"""Which chromosomes of a build are made together, by which part, from which files, and what that takes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from r2mae_core import UserError
from r2mae_dna.data.maf import Scan, read_blocks
from r2mae_dna.data.species import SpeciesNames, is_of
from r2mae_dna.data.store import SHARD_ROWS


@dataclass(frozen=True)
class BuildPlan:
    """What the first pass over the files says of a build."""

    columns: dict[str, int]
    """Species → column; the reference first."""
    lengths: dict[str, int]
    """Chromosome → its length, in the store's order."""
    bases: dict[str, int]
    """Chromosome → bases in blocks."""
    scratch: dict[str, int]
    """Chromosome → bytes of its letters before they are compressed."""
    files: dict[str, tuple[int, ...]]
    """Chromosome → which files have blocks of it, ascending."""
    counted_by: tuple[str, ...]
    """File → the chromosome with which its blocks without the reference are counted."""


def plan_build(
    scans: Sequence[Scan], whole: Scan, reference: str, species: Sequence[str], mafs: Sequence[Path], *, fills: bool
) -> BuildPlan:
    """Plan a build.

    Args:
        scans: one per file.
        whole: all of them together.
        reference: species whose coordinates the store has.
        species: the others, as the user names them; none: all.
        mafs: the files, for messages.
        fills: whether a genome fills what no block covers.

    Raises:
        UserError: the reference or all of the species are in no block, or a name is of several assemblies.
    """
    columns = _columns(whole.names, reference, species, mafs)
    if not whole.lengths:
        for path in mafs:
            for _ in read_blocks(path, partial(is_of, reference, columns)):
                pass  # says what is wrong with the reference's rows
        raise UserError(f"no block of {', '.join(map(str, mafs))} has a base of the reference {reference!r}")
    positions = {
        name: length if fills else min(len(whole.stretches[name]) * SHARD_ROWS, length)
        for name, length in whole.lengths.items()
    }
    return BuildPlan(
        columns,
        dict(whole.lengths),
        dict(whole.bases),
        {name: n * (len(columns) + 1) for name, n in positions.items()},
        {name: tuple(i for i, scan in enumerate(scans) if name in scan.lengths) for name in whole.lengths},
        tuple(next(iter(scan.lengths or whole.lengths)) for scan in scans),
    )


def _columns(names: SpeciesNames, reference: str, species: Sequence[str], mafs: Sequence[Path]) -> dict[str, int]:
    files, found = ", ".join(map(str, mafs)), list(names.found)
    if reference not in found:
        known = ", ".join(found[:10]) + (" …" if len(found) > 10 else "")
        more = f"; without a species: {', '.join(names.nameless)}" if names.nameless else ""
        raise UserError(f"the reference {reference!r} is in no block of {files}; its species: {known or 'none'}{more}")
    names.check(reference, species, files)
    others = list(species) or [name for name in found if name != reference]
    if reference in others or len(set(others)) != len(others):
        raise UserError("list each species once, and without the reference")
    if not set(others) & set(found):
        raise UserError(
            f"none of the species {', '.join(others[:5])} is in {files}" if others else f"only one species in {files}"
        )
    return {name: i for i, name in enumerate([reference, *others])}


def part_of(plan: BuildPlan, part: int, n_parts: int) -> list[str]:
    """Return the chromosomes of one of some parts: neighbours, with about the same number of bases in each part."""
    return _runs(list(plan.lengths), plan.bases, n_parts)[part]


def _runs(names: Sequence[str], weights: Mapping[str, int], n: int) -> list[list[str]]:
    """Cut names into n runs of about the same weight; some may be empty."""
    runs, total, before = [list[str]() for _ in range(n)], sum(weights[name] for name in names), 0
    for name in names:
        middle = before + weights[name] / 2
        runs[min(int(middle * n / max(total, 1)), n - 1)].append(name)
        before += weights[name]
    return runs


_GROUPS = 16
"""Groups for each worker: what an interruption loses is about one of them, and each reads the genome once."""


def split_groups(plan: BuildPlan, chromosomes: Collection[str], workers: int) -> list[list[str]]:
    """Cut chromosomes into groups that are made together.

    Chromosomes that share a file are in one group, as each group reads its files once; with several workers they may be
    in as many groups as there are workers. Neighbours without a file in common are together if they are small.
    """
    wanted = set(chromosomes)
    names = [name for name in plan.lengths if name in wanted]
    total, groups, last = sum(plan.bases[name] for name in names), list[list[str]](), 0
    for home in _linked(names, plan.files):
        weight = sum(plan.bases[name] for name in home)
        if workers > 1 and len(home) > 1 and weight * 2 * workers > total:
            groups += [run for run in _runs(home, plan.bases, workers) if run]
            last = total
        elif groups and (last + weight) * _GROUPS * workers < total:
            groups[-1] += home
            last += weight
        else:
            groups.append(home)
            last = weight
    return groups


def _linked(names: Sequence[str], files: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Return the names in groups that have no file in common, in order of their first names."""
    parent = {i: i for name in names for i in files[name]}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for name in names:
        for i in files[name][1:]:
            parent[root(i)] = root(files[name][0])
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(root(files[name][0]), []).append(name)
    return list(groups.values())
