"""Stores joined into one: the parts of a build, or stores of different chromosomes of one alignment."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r2mae_core import (
    UserError,
    check_contents,
    check_output,
    check_space,
    contents_of,
    default_run_path,
    one_writer,
    pasteable,
    refuse_changed,
    say,
    whole_folder,
)
from r2mae_dna.data.build_groups import OVERLAPS
from r2mae_dna.data.maf import BlockCounts
from r2mae_dna.data.new_folders import check_new_folder
from r2mae_dna.data.store import (
    AlignmentStore,
    SpeciesCount,
    StoreInfo,
    array_name,
    content_digest,
    seal_store,
    store_entries,
)
from r2mae_dna.options import MsaMerge

PARTS = ("part", "chromosomes")
"""What a part's description has beside that of the whole build."""


def join_stores(
    stores: Sequence[AlignmentStore], folder: Path, order: Sequence[str], made: Mapping[str, Any], *, move: bool
) -> StoreInfo:
    """Write a store of the chromosomes of several.

    Args:
        stores: of the same species, and of different chromosomes.
        folder: an empty one.
        order: the chromosomes in the new store's order.
        made: what the new store is made from.
        move: take the stores' files, which are lost; else they are copied, and the copies compared with the checksums.

    Raises:
        UserError: the species, or whose case the soft-masked letters have, are not the same; a chromosome is in two
            stores; or a store is of an earlier version, or damaged.
    """
    import zarr

    home = _home_of_each(stores)
    first = _info(stores[0])
    for store in stores[1:]:
        for what, ours, theirs in (
            ("species", first.species, _info(store).species),
            ("source of the soft-masked letters", first.case, _info(store).case),
        ):
            if ours != theirs:
                raise UserError(
                    f"{store.path} has another {what} than {stores[0].path}: {_shown(theirs)} and {_shown(ours)}"
                )
    group = zarr.open_group(folder, mode="w-", zarr_format=3)
    files = {}
    of_array: dict[str, dict[str, Any]] = {}
    for store in stores:
        for file, entry in _info(store).files.items():
            of_array.setdefault(file.partition("/")[0], {})[file] = entry
    for chromosome in order:
        store, name = home[chromosome], array_name(chromosome)
        (shutil.move if move else shutil.copytree)(store.path / name, folder / name)
        files |= of_array[name]
    files = dict(sorted(files.items()))
    if not move and contents_of(folder, list(files)) != files:
        check_contents(folder, files, "copy or make the part again")  # names the file, if it is small
        raise UserError("a part is damaged: its files have other checksums than its index says; make it again")
    infos = [_info(store) for store in stores]
    digests = {name: _info(home[name]).digests[name] for name in order}
    info = StoreInfo(
        first.species,
        {name: _info(home[name]).covered[name] for name in order},
        sum(info.soft_masked for info in infos),
        tuple(
            SpeciesCount(sum(count.aligned for count in counts), sum(count.identical for count in counts))
            for counts in zip(*(info.counts for info in infos), strict=True)
        ),
        tuple(sum(depths) for depths in zip(*(info.depth for info in infos), strict=True)),
        {name: _info(home[name]).shards[name] for name in order},
        content_digest(first.species, digests),
        _sum_of_left_out([info.left_out for info in infos]),
        dict(made),
        files,
        first.case,
        digests,
    )
    seal_store(group, info)
    return info


def _home_of_each(stores: Sequence[AlignmentStore]) -> dict[str, AlignmentStore]:
    home: dict[str, AlignmentStore] = {}
    for store in stores:
        for name in store.chromosomes:
            if name in home:
                raise UserError(
                    f"{name} is in {home[name].path} and in {store.path}; a chromosome must be in one store"
                )
            home[name] = store
    return home


def _info(store: AlignmentStore) -> StoreInfo:
    if store.info is None or not store.info.digests or not store.info.files:
        raise UserError(
            f"{store.path} is not of this version of r2mae-dna msa-build, and cannot be joined; build it again"
        )
    return store.info


def _shown(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) < 200 else f"{text[:200]} …"


def _sum_of_left_out(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums, in the order in which a build of one group has them."""
    own = list(BlockCounts().left_out())
    reasons = {reason for each in counts for reason in each}

    def rank(reason: str) -> tuple[int, str]:
        return (own.index(reason) if reason in own else len(own) + (reason == OVERLAPS)), reason

    return {reason: sum(each.get(reason, 0) for each in counts) for reason in sorted(reasons, key=rank)}


def merge_stores(paths: Sequence[Path], out: Path, *, overwrite: bool = False) -> StoreInfo:
    """Join stores: the parts of a build into what it would be in one go, or any of different chromosomes.

    Args:
        paths: the stores, in the order that their chromosomes shall have; of parts, any.
        out: the folder of the new one.
        overwrite: replace a store that is there.

    Raises:
        UserError: see `join_stores`; or the parts are of different builds, or some are missing; or the output exists.
    """
    if not paths:
        raise UserError("name the stores to join")
    check_output(out, list(paths))
    with one_writer(out, folder=False):
        check_new_folder(out, store_entries, "an alignment store", overwrite=overwrite)
        stores = [AlignmentStore(path) for path in paths]
        order, made = _plan(stores)
        n_bytes = sum(entry["bytes"] for store in stores for entry in _info(store).files.values())
        check_space(out.parent, n_bytes, f"joining {len(stores)} stores")
        with whole_folder(out) as folder:
            return join_stores(stores, folder, order, made, move=False)


def _plan(stores: Sequence[AlignmentStore]) -> tuple[list[str], dict[str, Any]]:
    """Return the order of the chromosomes, and what the new store is made from."""
    home = _home_of_each(stores)
    if not any("part" in store.made for store in stores):
        return list(home), {"joined": {store.path.name: store.digest for store in stores}, "sources": {}}
    first = stores[0]
    for store in stores:
        if "part" not in store.made:
            raise UserError(f"{store.path} is no part of a build, and the others are; join parts with parts")
        for name in [name for name in first.made if name not in ("part", "sources")]:
            if first.made[name] != store.made.get(name):
                raise UserError(
                    f"{store.path} and {first.path} are parts of different builds: {name} was "
                    f"{_shown(store.made.get(name))} and {_shown(first.made[name])}"
                )
        refuse_changed(first.path, first.made["sources"], store.made["sources"], f"{store.path} was built from others")
    order = list(first.made["chromosomes"])
    if missing := [name for name in order if name not in home]:
        there = ", ".join(sorted(store.made["part"] for store in stores))
        more = " …" if len(missing) > 5 else ""
        raise UserError(f"not all parts are there (only {there}): {', '.join(missing[:5])}{more} missing")
    return order, {name: value for name, value in first.made.items() if name not in PARTS}


def merge_command(config: MsaMerge) -> None:
    """`r2mae-dna msa-merge`."""
    out = config.out or default_run_path("r2mae-dna", "msa-merge")
    info = merge_stores(config.parts, out, overwrite=config.overwrite)
    n = len(info.covered)
    say(f"{len(config.parts)} stores, {len(info.species)} species, {n} chromosome{'s' if n > 1 else ''}")
    place = pasteable(out)
    say(f"Done: {out}, digest {info.digest}. Next: r2mae-dna msa-info {place}, or r2mae-dna prepare {place}")
