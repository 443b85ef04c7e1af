"""`report`: look at an embedding before reading about it: UMAP, markers, mixing of batches, scib-metrics' table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    check_output,
    derived_seed,
    device_name,
    fingerprint,
    open_run,
    resolve_device,
    resolved,
    say,
    show_table,
    stamped,
)
from r2mae_singlecell import options
from r2mae_singlecell.baselines import log_normalized, pca
from r2mae_singlecell.data.readers import CountsFile, open_content, open_counts
from r2mae_singlecell.embedding import KEY, embed
from r2mae_singlecell.evaluate import notes, write_notes
from r2mae_singlecell.integration import RANK_BY, integration_scores
from r2mae_singlecell.measured import measured_in_file
from r2mae_singlecell.new_cells import if_prepared, is_model
from r2mae_singlecell.plots import plot_columns, plot_markers, plot_mixing

VARIABLE_GENES = 2000
"""Genes of the principal components, by scanpy's default, where the data have more."""
BATCH, LABEL = "batch", "cell_type"
SHOWN = (LABEL, BATCH, "donor", "donor_id", "disease")
"""Columns that the UMAP is coloured by, where the data have them."""
PCA = "PCA of log-norm"


@dataclass
class Cells:
    """What is drawn and measured: some of the cells, or all."""

    expression: Any
    """(cells, genes) log1p of the counts scaled to 10,000."""
    genes: pd.Index
    obs: Any
    """Their table."""
    embeddings: dict[str, np.ndarray]
    """Name → (cells, dimensions)."""


def make_report(config: options.Report, model: Any = None) -> RunFolder:
    """Draw and measure an embedding, and return the run folder.

    Args:
        config: the options; embedding and data may stand in either order.
        model: an `R2MAE` in place of `config.embedding`.

    Returns:
        The run folder: `figures/`, `results.json`, `notes.txt`, and `embedding.h5ad` if a model made it.

    Raises:
        UserError: the embedding's cells are not the data's, a column is missing, what `embed` refuses, or a package is
            missing.
    """
    if model is None and is_model(config.data) and not is_model(config.embedding):
        raise UserError(f"{config.data} is a model; name it first: report RUN DATA")
    inputs = [config.data] if model is not None else [config.embedding, config.data]
    if config.out is not None:
        check_output(config.out, inputs)
    _check_columns(config)
    sources = {**fingerprint(config.data), **({} if model is not None else fingerprint(config.embedding))}
    with open_run("r2mae-singlecell", "report", config.out, resolved(config), sources=sources) as run:
        file = config.embedding
        if model is not None or is_model(config.embedding):
            file = embed(_embed_options(config, run.path / "embedding.h5ad"), model)
        cells, remarks = read_cells(config, file)
        records = _drawn_and_measured(config, run, cells, remarks)
        write_notes(run, remarks)
        run.write_results(stamped(records, device_name("cpu")))
        return run


def report_command(config: options.Report) -> None:
    """Run `r2mae-singlecell report`."""
    resolve_device(config.device)
    run = make_report(config)
    if run.results():
        show_table(run, run.results(), RANK_BY, f"{config.data.name}: scib-metrics, higher is better")
    for note in notes(run):
        say(f"Note: {note}")
    for figure in sorted((run.path / "figures").glob("*.png")):
        say(f"Figure: {figure}")
    say(f"Done: {run.path} (results.json, table.md, figures)")


def _embed_options(config: options.Report, out: Path) -> options.Embed:
    names = ("data", "counts", "batch", "batch_column", "round", "device", "progress")
    given = {name: getattr(config, name) for name in names}
    return options.Embed(run=config.embedding, out=out, overwrite=True, **given)


def _check_columns(config: options.Report) -> None:
    """Refuse columns that the data have not, before anything is computed."""
    with open_counts(config.data, config.counts) as file:
        known = [str(name) for name in file.obs]
    for name in (config.batch_column, config.label_column, *(config.columns or ())):
        if name is not None and name not in known:
            raise UserError(f"{config.data}: obs has no column {name!r}; its columns: {', '.join(known) or 'none'}")


def read_cells(config: options.Report, embedding: Path) -> tuple[Cells, list[str]]:
    """Read the cells that are drawn: all, or as many random ones as `max_cells` says. Memory is bounded by these.

    Returns:
        The cells, and remarks.

    Raises:
        UserError: the embedding's cells are not the data's, or it has no such key.
    """
    remarks: list[str] = []
    with open_counts(config.data, config.counts) as file:
        n_cells = file.shape[0]
        if n_cells < 3:
            raise UserError(f"{config.data} has {n_cells} cells, which are too few to draw")
        chosen = np.arange(n_cells)
        if n_cells > config.max_cells:
            rng = np.random.default_rng(derived_seed(config.seed, "cells of a report"))
            chosen = np.sort(rng.choice(n_cells, config.max_cells, replace=False))
            remarks.append(f"{len(chosen):,} random cells of {n_cells:,} are drawn and measured (--max_cells)")
        z = _embedding_of(embedding, config, file.obs.index, chosen)
        counts = _chosen_counts(file, chosen, config.round)
        obs, genes = file.obs.iloc[chosen].copy(), file.var.index.astype(str)
        everywhere = _measured_everywhere(config.data, file.var, chosen, remarks)
    counts, genes = counts[:, everywhere], genes[everywhere]
    if (empty := int((np.diff(counts.indptr) == 0).sum())) > 0:
        remarks.append(f"{empty:,} of the cells have no counts")
    expression = sp.csr_matrix(log_normalized(counts))  # scanpy takes no sparse arrays
    variable = _variable(expression, remarks)
    components = pca(expression[:, variable], 50, config.seed)
    rng = np.random.default_rng(derived_seed(config.seed, "shuffled embedding"))
    embeddings = {"embedding": z, PCA: components, "shuffled": z[rng.permutation(len(z))]}
    return Cells(expression, genes, obs, embeddings), remarks


def _measured_everywhere(data: Path, var: pd.DataFrame, chosen: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Return the genes that the files of all drawn cells have: a gene that one lacks would mark that file's cells.

    Raises:
        UserError: there are fewer than two.
    """
    measured = measured_in_file(if_prepared(data), var, np.arange(len(var)), np.zeros(0, int), len(var))
    everywhere = measured.everywhere(chosen)
    if (n_lacked := int((~everywhere).sum())) > 0:
        remarks.append(f"{n_lacked:,} of {len(var):,} genes are lacked by the file of some cells, so they are left out")
    if everywhere.sum() < 2:
        raise UserError(
            f"{data} has fewer than two genes that the files of all cells have, so there is nothing to draw"
        )
    return everywhere


def _embedding_of(path: Path, config: options.Report, names: pd.Index, chosen: np.ndarray) -> np.ndarray:
    """Return the embedding of the chosen cells, found by their names."""
    with open_content(path) as content:
        key = config.key or (KEY if KEY in content.obsm or len(content.obsm) != 1 else next(iter(content.obsm)))
        if key not in content.obsm:
            known = ", ".join(content.obsm) or "none"
            raise UserError(f"{path} has no embedding {key!r} in obsm; name one with --key (there are: {known})")
        rows = _aligned(content.obs.index, names, path, config.data)[chosen]
        order = np.argsort(rows, kind="stable")
        values = np.empty((len(rows), content.obsm[key].shape[1]), np.float32)
        for at in range(0, len(rows), 4096):
            part = order[at : at + 4096]
            values[part] = _rows(content.obsm[key], rows[part])
    if (bad := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
        raise UserError(
            f"{path}: {key} is NaN or infinite in {len(bad):,} cells, such as {str(names[chosen[bad[0]]])!r}"
        )
    return values


def _rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Return rows in ascending order of an array in a file: as one slice, or one by one where they lie far apart."""
    low, high = int(rows[0]), int(rows[-1]) + 1
    if high - low <= 8 * len(rows):
        return np.asarray(array[low:high])[rows - low]
    return np.stack([np.asarray(array[int(row)]) for row in rows])


def _aligned(theirs: Any, names: Any, path: Path, data: Path) -> np.ndarray:
    """Return the row of the embedding of each cell of the data.

    Raises:
        UserError: the names are not the same ones.
    """
    if len(theirs) == len(names) and (theirs.astype(str) == names.astype(str)).all():
        return np.arange(len(names))
    if len(theirs) == len(names) and theirs.is_unique and names.is_unique:
        rows = theirs.astype(str).get_indexer(names.astype(str))
        if (rows >= 0).all():
            return rows
    common = int(names.astype(str).isin(theirs.astype(str)).sum())
    raise UserError(
        f"the rows of {path} ({len(theirs):,}, such as {str(theirs[0]) if len(theirs) else ''!r}) are not the cells of "
        f"{data} ({len(names):,}, such as {str(names[0])!r}); {common:,} names are in both: embed these data again"
    )


def _chosen_counts(file: CountsFile, chosen: np.ndarray, rounding: bool) -> Any:
    """Return the counts of some cells, (chosen, genes); the file is read once, block by block."""
    parts = []
    for start, block in file.blocks(rounding=rounding):
        n_rows: int = block.shape[0]  # pyright: ignore[reportOptionalSubscript]
        here = chosen[(chosen >= start) & (chosen < start + n_rows)] - start
        parts.append(block[here])
    return sp.csr_matrix(sp.vstack(parts, format="csr"))


def _variable(expression: Any, remarks: list[str]) -> np.ndarray:
    """Return which genes the principal components are made of."""
    import anndata
    import scanpy as sc

    n_genes: int = expression.shape[1]  # pyright: ignore[reportOptionalSubscript]
    if n_genes <= VARIABLE_GENES:
        return np.ones(n_genes, dtype=bool)
    remarks.append(f"the principal components are those of {VARIABLE_GENES:,} variable genes of {n_genes:,}")
    table = sc.pp.highly_variable_genes(anndata.AnnData(expression), n_top_genes=VARIABLE_GENES, inplace=False)
    assert table is not None
    return table["highly_variable"].to_numpy()


def _drawn_and_measured(config: options.Report, run: RunFolder, cells: Cells, remarks: list[str]) -> list[Record]:
    """Draw every figure that the columns allow, and return the records; what cannot be had is added to the remarks."""
    obs = cells.obs
    batch = _useful(obs, config.batch_column or BATCH, "batches", config.batch_column is not None, remarks)
    label = _useful(obs, config.label_column or LABEL, "cell types", config.label_column is not None, remarks)
    columns = list(config.columns or dict.fromkeys(n for n in (label, batch, *SHOWN) if n is not None and n in obs))
    if not columns:
        remarks.append("the UMAP is of one colour: name columns of obs with --columns")
    two = {name: cells.embeddings[name] for name in ("embedding", PCA)}
    points = {name: two_dimensions(z, config.seed) for name, z in two.items()}
    run.save_figure("umap.png", plot_columns(points, obs[columns], config.data.name))
    if label is not None and (found := markers(cells, label, config.n_markers)):
        run.save_figure("markers.png", plot_markers(cells.expression, cells.genes, obs[label], found))
    elif label is not None:
        remarks.append("no markers: no two cell types have two cells each")
    if batch is not None:
        run.save_figure("mixing.png", plot_mixing(cells.embeddings, obs[batch]))
    scores, left_out = integration_scores(
        cells.embeddings,
        None if batch is None else obs[batch],
        None if label is None else obs[label],
        reference=PCA,
        progress=config.progress,
    )
    remarks += left_out
    return [
        Record(config.data.stem, metric, value, name, config.seed, n, "all")
        for name, metric, value, n in scores
    ]  # fmt: skip


def _useful(obs: Any, name: str, what: str, named: bool, remarks: list[str]) -> str | None:
    """Return a column that has two values or more, or say why there is none."""
    if name not in obs:
        option = "--batch_column" if what == "batches" else "--label_column"
        remarks.append(f"obs has no column {name!r} of {what} (name one with {option}), so what needs it is left out")
        return None
    if (n := obs[name].nunique()) < 2:
        remarks.append(f"{name!r} has {n} value, so what compares {what} is left out")
        return None
    if named and pd.api.types.is_float_dtype(obs[name]) and n > 200:
        raise UserError(f"--{'batch' if what == 'batches' else 'label'}_column {name} holds {n:,} different numbers")
    return name


def two_dimensions(z: np.ndarray, seed: int) -> np.ndarray:
    """Return scanpy's UMAP of an embedding, (cells, 2)."""
    import anndata
    import scanpy as sc

    adata = anndata.AnnData(z.astype(np.float32))
    sc.pp.neighbors(adata, n_neighbors=min(15, len(z) - 1), use_rep="X", random_state=seed)
    sc.tl.umap(adata, random_state=seed, init_pos="random" if len(z) < 12 else "spectral")
    return np.asarray(adata.obsm["X_umap"])


def markers(cells: Cells, label: str, n: int) -> dict[str, list[str]]:
    """Return the genes that mark each cell type: scanpy's rank_genes_groups (Wilcoxon), against all others.

    Cell types of one cell are left out; the result is empty where fewer than two are left.
    """
    import anndata
    import scanpy as sc

    types: Any = cells.obs[label].astype("string")
    sizes = types.value_counts()
    keep = types.isin(sizes.index[sizes >= 2]).fillna(False).to_numpy(dtype=bool)
    if types[keep].nunique() < 2:
        return {}
    obs = pd.DataFrame({label: pd.Categorical(types[keep].astype(str))}, index=np.arange(keep.sum()).astype(str))
    var = pd.DataFrame(index=pd.Index(np.arange(len(cells.genes)).astype(str)))  # names may stand twice
    adata = anndata.AnnData(cells.expression[keep], obs=obs, var=var)
    sc.tl.rank_genes_groups(adata, label, method="wilcoxon", n_genes=n)
    names: Any = adata.uns["rank_genes_groups"]["names"]
    return {group: [str(name) for name in names[group]] for group in names.dtype.names}
