"""`prepare`: an atlas of any size → variable genes, checked counts, standard columns, one h5ad that is memory-mapped.

The file is read in blocks of cells four times: totals, moments of the genes, counts per cell, writing. What is dropped
is counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import (
    UserError,
    atomic_path,
    check_output,
    default_run_path,
    fingerprint,
    left_out,
    one_writer,
    reading,
    refuse_changed,
    say,
)
from r2mae_singlecell import options
from r2mae_singlecell.data.blocks import CountBlocks, dispersion, totals_and_highest
from r2mae_singlecell.data.prepared import content_digest
from r2mae_singlecell.data.presets import PRESETS, AtlasPreset, detect, numeric_age
from r2mae_singlecell.data.stores import new_h5, opened, table_bytes

BLOCK = 20_000


@dataclass(frozen=True)
class Prepared:
    """What `prepare_atlas` did."""

    path: Path
    preset: str
    n_cells: int
    n_genes: int
    left_out: dict[str, int]
    """Reason → how many cells were left out for it; also in the file, under `uns["r2mae"]["left_out"]`."""
    unlabelled: dict[str, int]
    """Standard column → cells without a value there; they are pretrained on, and left out of that task."""


def prepare(config: options.Prepare) -> Prepared:
    """Turn an atlas of any size into training data.

    Raises:
        UserError: what `prepare_atlas` refuses.
    """
    columns = {name: getattr(config, name) for name in ("counts", "donor", "batch", "cell_type", "disease", "age")}
    return prepare_atlas(
        config.source,
        config.out or default_run_path("r2mae-singlecell", "prepare").with_suffix(".h5ad"),
        config.preset,
        columns,
        n_genes=config.n_genes,
        min_genes=config.min_genes,
        target_sum=config.target_sum,
        progress=config.progress,
        overwrite=config.overwrite,
    )


def prepare_command(config: options.Prepare) -> None:
    """Run `r2mae-singlecell prepare`."""
    prepared = prepare(config)
    say(f"{prepared.n_cells:,} cells × {prepared.n_genes:,} genes, laid out as {prepared.preset}")
    say(left_out(prepared.left_out))
    for column, n in prepared.unlabelled.items():
        if n:
            say(f"{n:,} cells have no {column}")
    say(f"Done: {prepared.path}. Next: r2mae-singlecell pretrain {prepared.path}")


def prepare_atlas(
    source: Path,
    target: Path,
    preset: str = "auto",
    columns: dict[str, str | None] | None = None,
    n_genes: int = 5000,
    min_genes: int | None = None,
    target_sum: float | None = None,
    block: int = BLOCK,
    progress: bool = True,
    overwrite: bool = False,
) -> Prepared:
    """Select variable genes and write counts and standard columns.

    Args:
        source: an h5ad file or a zarr store.
        target: the h5ad file to write. Its X holds integer counts, uncompressed, so training maps it into memory.
        preset: "hlca", "seaad", "seaad-allen", "auto" (by the columns), or "none" with `columns`.
        columns: for "none": `donor`, `batch`, `cell_type`, `disease`, `age` → column of `obs`, and `counts` → path
            of the counts; for a preset: what differs from it.
        n_genes: variable genes to keep, by scanpy's default (dispersion of the normalised counts); the paper: 5,000.
        min_genes: drop cells with fewer non-zero variable genes; None: the preset's (20 for HLCA).
        target_sum: total to which cells are normalised for the choice of genes; None: their median, scanpy's default.
        block: cells read at a time.
        progress: show a progress bar.
        overwrite: replace a target that is there.

    Raises:
        UserError: the file is unreadable, fits no preset, or holds no counts where they should be; the target is the
            source, is there already, or does not fit on the disk.
    """
    check_output(target, [source], overwrite=overwrite)
    with opened(source) as file, one_writer(target, folder=False):
        before = fingerprint(source)
        obs, var = _table(file, "obs", source), _table(file, "var", source)
        atlas = _layout(preset, set(obs.columns), columns or {})
        counts = CountBlocks(file, atlas.counts, source, block)
        if counts.in_raw:
            var = _table(file, "raw/var", source)
        _check_tables(obs, var, atlas, counts)
        totals, highest = totals_and_highest(counts, progress)
        if not (totals > 0).any():
            raise UserError(f"{source}: {atlas.counts} holds no counts at all")
        score = dispersion(counts, totals, target_sum, progress)
        genes = np.sort(np.argsort(-score, kind="stable")[: min(n_genes, int(np.isfinite(score).sum()))])
        if not len(genes):
            raise UserError(f"{source}: no gene of {atlas.counts} varies between its {len(obs):,} cells")
        minimum = atlas.min_genes if min_genes is None else min_genes
        n_expressed = np.concatenate([np.diff(part.indptr) for part in counts.blocks(genes, "counting", progress)])
        empty = n_expressed == 0
        keep = ~empty & (n_expressed >= minimum)
        if not keep.any():
            raise UserError(
                f"{source}: no cell has {max(minimum, 1)} of the {len(genes):,} variable genes; lower --min_genes"
            )
        standard = atlas.standard_obs(obs).loc[keep]
        skipped = {
            "cells without a count in the variable genes": int(empty.sum()),
            f"cells with fewer than {minimum} variable genes": int((~keep & ~empty).sum()),
        }
        about = {"preset": atlas.name, "left_out": skipped}
        with atomic_path(target) as temporary:
            tables = standard, var.iloc[genes]
            _write(temporary, target, counts, genes, keep, n_expressed, highest, tables, about, progress)
            refuse_changed(target, before, fingerprint(source), "it changed while it was read: run the command again")
    unlabelled = {name: int(standard[name].isna().sum()) for name in ("cell_type", "disease", "age")}
    return Prepared(target, atlas.name, int(keep.sum()), len(genes), skipped, unlabelled)


def _check_tables(obs: pd.DataFrame, var: pd.DataFrame, atlas: AtlasPreset, counts: CountBlocks) -> None:
    """Refuse tables that do not belong to the counts, or leave open which gene, donor or batch is meant.

    Raises:
        UserError: with the first gene or cell.
    """
    source = counts.source
    if counts.shape != (len(obs), len(var)):
        raise UserError(
            f"{source}: {atlas.counts} is {counts.shape}, but there are {len(obs)} cells × {len(var)} genes"
        )
    twice = var.index[var.index.duplicated()]
    if len(twice):
        raise UserError(
            f"{source}: {len(twice):,} gene names stand twice, such as {twice[0]!r}; make them unique and write the "
            "file again (adata.var_names_make_unique())"
        )
    for option, column in (("donor", atlas.donor), ("batch", atlas.batch)):
        missing = obs.index[obs[column].isna()]
        if len(missing):
            raise UserError(
                f"{source}: {len(missing):,} cells have no value in obs column {column!r}, such as {missing[0]!r}; "
                f"fill it, leave the cells out, or name another column with --{option}"
            )


def _write(
    temporary: Path,
    target: Path,
    counts: CountBlocks,
    genes: np.ndarray,
    keep: np.ndarray,
    n_expressed: np.ndarray,
    highest: int,
    tables: tuple[pd.DataFrame, pd.DataFrame],
    about: dict[str, Any],
    progress: bool,
) -> None:
    """Write an ordinary h5ad whose X is contiguous on disk, with its digest."""
    from anndata.io import write_elem

    obs, var = tables
    indptr = np.concatenate([[0], np.cumsum(n_expressed[keep], dtype=np.int64)])
    index_type = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64
    value_type = np.uint16 if highest <= np.iinfo(np.uint16).max else np.int32
    each = np.dtype(index_type).itemsize + np.dtype(value_type).itemsize
    n_bytes = int(indptr[-1]) * each + indptr.nbytes + table_bytes(obs) + table_bytes(var)
    with new_h5(temporary, n_bytes, target) as out:
        out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(out, "obs", obs)
        write_elem(out, "var", var)
        for empty in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(out, empty, {})
        x = out.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        x.attrs["shape"] = np.array([int(keep.sum()), len(genes)])
        x.create_dataset("indptr", data=indptr.astype(index_type))
        data = x.create_dataset("data", (indptr[-1],), value_type)
        indices = x.create_dataset("indices", (indptr[-1],), index_type)
        at = 0
        for i, part in enumerate(counts.blocks(genes, "writing", progress)):
            part = part[keep[i * counts.block : i * counts.block + part.shape[0]]]
            part.sort_indices()
            data[at : at + part.nnz] = part.data.astype(value_type)
            indices[at : at + part.nnz] = part.indices
            at += part.nnz
        write_elem(out, "uns", {"r2mae": {**about, "digest": content_digest(out)}})


def _layout(preset: str, columns: set[str], named: dict[str, str | None]) -> AtlasPreset:
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if preset == "none":
        needed = ("donor", "batch", "cell_type", "disease", "age")
        if missing := [name for name in needed if name not in given]:
            raise UserError(f"without a preset, give the columns: {', '.join(f'--{name}' for name in missing)}")
        atlas = AtlasPreset(name="none", **{"counts": "X", **given}, parse_age=numeric_age)
    elif preset == "auto":
        atlas = replace(detect(columns), **given)
    elif preset in PRESETS:
        atlas = replace(PRESETS[preset], **given)
    else:
        raise UserError(f"unknown preset {preset!r}; known: auto, none, {', '.join(PRESETS)}")
    if missing := sorted(set(atlas.columns()) - columns):
        raise UserError(f"obs has no column {missing[0]!r} ({atlas.name}); columns: {', '.join(sorted(columns)[:30])}")
    return atlas


def _table(file: Any, name: str, source: Path) -> pd.DataFrame:
    from anndata.io import read_elem

    if name not in file:
        raise UserError(f"{source} is not an AnnData file: it has no {name}")
    with reading(source, f"an AnnData file with a table {name}"):
        table: Any = read_elem(file[name])
        if not isinstance(table, pd.DataFrame):
            raise TypeError(f"{name} is no table")
    return table
