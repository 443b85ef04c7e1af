"""`prepare`: an atlas of any size → variable genes, checked counts, standard columns, one h5ad that is memory-mapped.

The file is read in blocks of cells four times: totals, moments of the genes, counts per cell, writing. What is dropped
is counted.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from r2mae_core import UserError, atomic_path, default_run_path, left_out, say
from r2mae_singlecell import options
from r2mae_singlecell.data.presets import PRESETS, AtlasPreset, detect, numeric_age
from r2mae_singlecell.data.variable_genes import normalized_dispersion

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

    Raises:
        UserError: the file is unreadable, fits no preset, or holds no counts where they should be.
    """
    with _opened(source) as file:
        obs, var = _table(file, "obs", source), _table(file, "var", source)
        atlas = _layout(preset, set(obs.columns), columns or {})
        counts = _Counts(file, atlas.counts, source, block)
        if counts.in_raw:
            var = _table(file, "raw/var", source)
        if counts.shape != (len(obs), len(var)):
            raise UserError(
                f"{source}: {atlas.counts} is {counts.shape}, but there are {len(obs)} cells × {len(var)} genes"
            )
        totals, highest = _totals(counts, progress)
        if not (totals > 0).any():
            raise UserError(f"{source}: {atlas.counts} holds no counts at all")
        score = _dispersion(counts, totals, target_sum, progress)
        genes = np.sort(np.argsort(-score, kind="stable")[: min(n_genes, int(np.isfinite(score).sum()))])
        minimum = atlas.min_genes if min_genes is None else min_genes
        n_expressed = np.concatenate([np.diff(part.indptr) for part in counts.blocks(genes, "counting", progress)])
        empty = n_expressed == 0
        keep = ~empty & (n_expressed >= minimum)
        standard = atlas.standard_obs(obs).loc[keep]
        skipped = {
            "cells without a count in the variable genes": int(empty.sum()),
            f"cells with fewer than {minimum} variable genes": int((~keep & ~empty).sum()),
        }
        about = {"preset": atlas.name, "left_out": skipped}
        with atomic_path(target) as temporary:
            _write(temporary, counts, genes, keep, n_expressed, highest, standard, var.iloc[genes], about, progress)
    unlabelled = {name: int(standard[name].isna().sum()) for name in ("cell_type", "disease", "age")}
    return Prepared(target, atlas.name, int(keep.sum()), len(genes), skipped, unlabelled)


def read_prepared(path: Path) -> Any:
    """Return a prepared file as AnnData in backed mode: its counts stay on disk and are memory-mapped.

    Raises:
        UserError: the file is missing, damaged, or was not prepared.
    """
    import anndata

    if not path.exists():
        raise UserError(f"no file {path}; `r2mae-singlecell prepare ATLAS.h5ad --out {path}` makes one")
    try:
        adata = anndata.read_h5ad(path, backed="r")
    except (OSError, KeyError, ValueError, anndata._io.utils.AnnDataReadError) as error:
        raise UserError(f"{path} cannot be read as h5ad; it may be incomplete ({error})") from None
    if "r2mae" not in adata.uns:
        raise UserError(f"{path} was not prepared; run `r2mae-singlecell prepare {path}` first")
    return adata


class _Counts:
    """The counts of a file, block by block."""

    def __init__(self, file: Any, path: str, source: Path, block: int) -> None:
        from anndata.io import sparse_dataset

        if path not in file:
            raise UserError(f"{source} has no counts at {path}; give their place with --counts, such as layers/counts")
        self.source, self.path, self.block = source, path, block
        self.in_raw = path.startswith("raw/")
        element = file[path]
        self.matrix: Any = sparse_dataset(element) if hasattr(element, "keys") else element
        self.shape: tuple[int, int] = (self.matrix.shape[0], self.matrix.shape[1])
        if getattr(self.matrix, "format", "csr") != "csr":
            raise UserError(
                f"{source}: {path} is stored by genes (CSC); rewrite it by cells: adata.X = adata.X.tocsr()"
            )

    def blocks(self, genes: np.ndarray | None, what: str, progress: bool) -> Iterator[Any]:
        """Yield the blocks of cells, with all genes or with some."""
        starts = range(0, self.shape[0], self.block)
        for start in tqdm(starts, desc=what, unit="block", disable=not progress):
            part = sp.csr_matrix(self.matrix[start : start + self.block])
            part.eliminate_zeros()
            yield part if genes is None else part[:, genes]


def _totals(counts: _Counts, progress: bool) -> tuple[np.ndarray, int]:
    """Return the total of every cell and the highest count, and check that they are counts."""
    totals, highest = [], 0
    for i, part in enumerate(counts.blocks(None, "checking", progress)):
        where = f"{counts.source}: {counts.path}, cells {i * counts.block:,} to {i * counts.block + part.shape[0]:,}"
        if part.nnz and not part.data.min() >= 0:
            raise UserError(f"{where}: negative or missing values; raw counts are needed (--counts names their place)")
        if part.nnz and not (part.data == np.floor(part.data)).all():
            raise UserError(
                f"{where}: fractional values such as {part.data[part.data != np.floor(part.data)][0]:g}; these are "
                "normalised, and raw counts are needed (--counts names their place)"
            )
        totals.append(np.asarray(part.sum(axis=1), dtype=np.float64).ravel())
        highest = max(highest, int(part.data.max(initial=0)))
    return np.concatenate(totals), highest


def _dispersion(counts: _Counts, totals: np.ndarray, target_sum: float | None, progress: bool) -> np.ndarray:
    """Return scanpy's normalised dispersion of every gene."""
    aim = float(np.median(totals[totals > 0])) if target_sum is None else target_sum
    factors = np.divide(aim, totals, out=np.zeros_like(totals), where=totals > 0)
    sums, squares = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for i, part in enumerate(counts.blocks(None, "choosing genes", progress)):
        scaled: Any = sp.diags_array(factors[i * counts.block : i * counts.block + part.shape[0]]) @ part.astype(
            np.float64
        )
        sums += np.asarray(scaled.sum(axis=0)).ravel()
        squares += np.asarray(scaled.power(2).sum(axis=0)).ravel()
    n = counts.shape[0]
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0.0) * n / max(n - 1, 1)
    return normalized_dispersion(mean, variance)


def _write(
    path: Path,
    counts: _Counts,
    genes: np.ndarray,
    keep: np.ndarray,
    n_expressed: np.ndarray,
    highest: int,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    about: dict[str, Any],
    progress: bool,
) -> None:
    """Write an ordinary h5ad whose X is contiguous on disk."""
    from anndata.io import write_elem

    indptr = np.concatenate([[0], np.cumsum(n_expressed[keep], dtype=np.int64)])
    index_type = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64
    value_type = np.uint16 if highest <= np.iinfo(np.uint16).max else np.int32
    with h5py.File(path, "w") as out:
        out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(out, "obs", obs)
        write_elem(out, "var", var)
        write_elem(out, "uns", {"r2mae": about})
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
    table: Any = read_elem(file[name])
    return table


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Any]:
    """Open an h5ad file or a zarr store for reading."""
    if not source.exists():
        raise UserError(f"no file {source}")
    if source.is_dir():
        import zarr

        try:
            yield zarr.open(str(source), mode="r")
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{source} is not a zarr store: {error}") from None
        return
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise UserError(f"{source} cannot be read as h5ad; it may be incomplete ({error})") from None
    with file:
        yield file
