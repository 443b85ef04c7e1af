"""The formats of counts: what lies where in h5ad, h5mu and zarr, in Cell Ranger's files, and in loom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from r2mae_core import UserError, reading
from r2mae_singlecell.data.rows import DenseRows, Rows, SparseRows, TransposedRows

READABLE = "h5ad, h5mu, zarr, Cell Ranger's h5 and mtx, loom"


@dataclass(frozen=True)
class Content:
    """The tables of a file, and how its matrices and embeddings are read."""

    obs: pd.DataFrame
    var: pd.DataFrame
    raw_var: pd.DataFrame | None
    """Genes of what lies under "raw/", where they are others."""
    places: Mapping[str, Callable[[Path], Rows]]
    """Place of counts → what opens them, given a folder for scratch files."""
    obsm: Mapping[str, Any]
    """Name → array of two dimensions in the file."""
    not_read: tuple[str, ...] = ()
    """Names under `obsm` that are no dense arrays of numbers with a row for each cell."""


def content_of(file: Any, source: Path) -> Content:
    """Return what an open HDF5 file or zarr store holds.

    Raises:
        UserError: it is damaged, or of no known format.
    """
    with reading(source, f"one of {READABLE}"):
        if "mod" in file and "obs" in file:
            return _anndata(_rna(file, source), source)
        if "obs" in file and "var" in file:
            return _anndata(file, source)
        if "matrix" in file and "row_attrs" in file:
            return _loom(file)
        if genomes := [name for name in file if hasattr(file[name], "keys") and "barcodes" in file[name]]:
            return _tenx(file, genomes)
    missing = "obs" if "obs" not in file else "var"
    raise UserError(f"{source} is not an AnnData file: it has no {missing}; what can be read: {READABLE}")


def _rna(file: Any, source: Path) -> Any:
    known = sorted(file["mod"])
    if "rna" not in known:
        raise UserError(f"{source} has no modality 'rna', but {', '.join(known)}; write the one with counts as h5ad")
    return file["mod/rna"]


def _anndata(file: Any, source: Path) -> Content:
    var = _table(file, "var", source)
    raw = next((name for name in ("raw/", "raw.") if f"{name}X" in file), None)  # anndata below 0.7 wrote "raw.X"
    found = {"X": "X"} if "X" in file else {}
    if raw is not None:
        found["raw/X"] = f"{raw}X"
    found |= {f"layers/{name}": f"layers/{name}" for name in file.get("layers", ())}
    places = {place: _opener(file[name]) for place, name in found.items() if _is_matrix(file[name])}
    raw_var = _table(file, f"{raw}var", source) if raw is not None else None
    obs = _table(file, "obs", source)
    obsm = dict(_obsm(file.get("obsm", {})))
    dense = {name: item for name, item in obsm.items() if _is_embedding(item, len(obs))}
    return Content(obs, var, raw_var, places, dense, tuple(name for name in obsm if name not in dense))


def _table(file: Any, name: str, source: Path) -> pd.DataFrame:
    from anndata.io import read_elem

    if name not in file:
        raise UserError(f"{source} is not an AnnData file: it has no {name}")
    with reading(source, f"an AnnData file with a table {name}"):
        element = file[name]
        if isinstance(element, h5py.Dataset) and element.dtype.names:
            return _old_table(element, file.get("uns", {}))
        table: Any = read_elem(element)
        if not isinstance(table, pd.DataFrame):
            raise TypeError(f"{name} is no table")
    table.index = table.index.astype(str)
    return table


def _old_table(element: h5py.Dataset, uns: Any) -> pd.DataFrame:
    """Read a table as anndata below 0.7 wrote it: records, whose categories lie in `uns`."""
    records: Any = element[()]

    def text(values: np.ndarray) -> np.ndarray:
        if values.dtype.kind not in "SO":
            return values
        return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], dtype=object)

    columns: dict[str, Any] = {}
    for name in records.dtype.names[1:]:
        values = text(records[name])
        if values.ndim == 1 and f"{name}_categories" in uns and values.dtype.kind in "iu":
            known = text(np.atleast_1d(uns[f"{name}_categories"][()]))
            values = pd.Categorical.from_codes(values.astype(np.int64), categories=pd.Index(known))
        if values.ndim == 1:
            columns[name] = values
    return pd.DataFrame(columns, index=pd.Index(text(records[records.dtype.names[0]]).astype(str)))


def _is_matrix(element: Any) -> bool:
    return "indptr" in element if hasattr(element, "keys") else len(getattr(element, "shape", ())) == 2


def _opener(element: Any) -> Callable[[Path], Rows]:
    """Return what opens a matrix of AnnData: dense, by cells, or by genes."""
    if not hasattr(element, "keys"):
        return lambda _: DenseRows(element)

    def sparse(scratch: Path) -> Rows:
        about = dict(element.attrs)
        form = str(about.get("encoding-type", about.get("h5sparse_format", "csr")))
        n_cells, n_genes = (int(n) for n in about.get("shape", about.get("h5sparse_shape", ())))
        parts = element["data"], element["indices"], element["indptr"], (n_cells, n_genes)
        return TransposedRows(*parts, scratch) if form.startswith("csc") else SparseRows(*parts)

    return sparse


class _Field:
    """One field of records, read by rows."""

    def __init__(self, records: h5py.Dataset, name: str) -> None:
        self.records, self.name = records, name
        self.dtype = records.dtype[name].base
        self.shape = (*records.shape, *records.dtype[name].shape)

    def __getitem__(self, rows: Any) -> np.ndarray:
        part: Any = self.records[rows]
        return part[self.name]


def _obsm(group: Any) -> Mapping[str, Any]:
    if isinstance(group, h5py.Dataset):  # anndata below 0.7
        return {name: _Field(group, name) for name in group.dtype.names or ()}
    return {name: group[name] for name in group}


def _is_embedding(item: Any, n_cells: int) -> bool:
    shape = getattr(item, "shape", ())
    return len(shape) == 2 and shape[0] == n_cells and not hasattr(item, "keys") and item.dtype.kind in "fiu"


def _tenx(file: Any, genomes: list[str]) -> Content:
    """Cell Ranger's h5: genes × cells by cells, so that it is read like a matrix of cells by rows."""

    def text(values: Any) -> np.ndarray:
        return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values[:]], object)

    first = file[genomes[0]]
    obs = pd.DataFrame(index=pd.Index(text(first["barcodes"])))
    tables = {}
    for genome in genomes:
        group = file[genome]
        if "features" in group:  # version 3
            features = group["features"]
            table = pd.DataFrame({"gene_symbols": text(features["name"])}, index=pd.Index(text(features["id"])))
            table["feature_types"] = text(features["feature_type"])
            if "genome" in features:
                table["genome"] = text(features["genome"])
        else:
            table = pd.DataFrame({"gene_symbols": text(group["gene_names"])}, index=pd.Index(text(group["genes"])))
            table["genome"] = genome
        tables[genome] = table
    if len(genomes) > 1:
        raise UserError(
            f"the file holds several genomes ({', '.join(genomes)}), each with cells of its own; write the one that "
            "you want as h5ad: scanpy.read_10x_h5(FILE, genome=GENOME).write_h5ad(…)"
        )

    def rows(_: Path) -> Rows:
        n_genes, n_cells = (int(n) for n in first["shape"][:])
        return SparseRows(first["data"], first["indices"], first["indptr"], (n_cells, n_genes))

    return Content(obs, tables[genomes[0]], None, {"X": rows}, {})


def _loom(file: Any) -> Content:
    """A loom file: a dense matrix of genes × cells, in chunks, with attributes of both."""

    def table(group: Any, n: int, names: tuple[str, ...]) -> pd.DataFrame:
        columns = {}
        for name in group:
            if group[name].ndim == 1 and len(group[name]) == n:
                values = group[name][:]
                if values.dtype.kind in "SO":
                    values = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], object)
                columns[name] = values
        index = next((columns.pop(name) for name in names if name in columns), np.arange(n))
        return pd.DataFrame(columns, index=pd.Index(np.asarray(index).astype(str)))

    n_genes, n_cells = (int(n) for n in file["matrix"].shape)
    var = table(file["row_attrs"], n_genes, ("Accession", "var_names", "Gene", "id"))
    obs = table(file["col_attrs"], n_cells, ("CellID", "obs_names", "cell_names", "id"))
    places = {"X": file["matrix"]} | {f"layers/{name}": item for name, item in file.get("layers", {}).items()}
    obsm = {name: item for name, item in file["col_attrs"].items() if item.ndim == 2}
    dense = {name: item for name, item in obsm.items() if _is_embedding(item, n_cells)}
    return Content(
        obs, var, None,
        {name: (lambda _, item=item: DenseRows(item, by_genes=True)) for name, item in places.items()},
        dense, tuple(name for name in obsm if name not in dense),
    )  # fmt: skip
