"""Every format gives the counts that anndata's, scanpy's or scipy's own readers give, block by block."""

import gzip
import json
import shutil
import warnings
import zipfile
from importlib import resources
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell.data import rows
from r2mae_singlecell.data.readers import open_counts
from r2mae_singlecell.data.whole import Rounded, selected

N_CELLS, N_GENES = 57, 23
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return rng.poisson(0.5, (N_CELLS, N_GENES)).astype(np.float32)


@pytest.fixture
def adata(counts):
    rng = np.random.default_rng(1)
    found = anndata.AnnData(sp.csr_matrix(counts))
    found.obs_names, found.var_names = [f"c{i}" for i in range(N_CELLS)], [f"g{i}" for i in range(N_GENES)]
    found.obs["batch"] = pd.Categorical(rng.choice(["a", "b"], N_CELLS))
    found.obs["age"] = rng.normal(size=N_CELLS)
    found.obsm["X_pca"] = rng.normal(size=(N_CELLS, 3)).astype(np.float32)
    found.obsm["table"] = pd.DataFrame({"a": np.arange(N_CELLS)}, index=found.obs_names)
    return found


def read(path, place=None, block=10, **more):
    with open_counts(path, place) as file:
        parts = list(file.blocks(block, **more))
        starts = [start for start, _ in parts]
        assert starts == sorted(starts)
        whole = sp.vstack([part for _, part in parts]) if parts else sp.csr_matrix((0, file.shape[1]))
        assert all(part.dtype == np.int32 and part.has_sorted_indices and part.data.all() for _, part in parts)
        embeddings = {name: item[3:9] for name, item in file.obsm.items()}
        return whole.toarray(), file.obs, file.var, embeddings, file.left_out


def stored(adata, kind):
    """Return the data with its counts stored in another way."""
    X = adata.X
    adata = adata.copy()
    adata.X = {
        "csr": lambda: X,
        "csc": lambda: sp.csc_matrix(X),
        "dense": lambda: X.toarray(),
        "float64": lambda: X.astype(np.float64),
        "uint16": lambda: X.astype(np.uint16),
        "bool": lambda: X.astype(bool).toarray(),
        "float16": lambda: X.toarray().astype(np.float16),
        "big-endian": lambda: X.toarray().astype(">f4"),
        "fortran": lambda: np.asfortranarray(X.toarray()),
    }[kind]()
    return adata


@pytest.mark.parametrize(
    "kind", ["csr", "csc", "dense", "float64", "uint16", "bool", "float16", "big-endian", "fortran"]
)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_h5ad(adata, counts, kind, compression, tmp_path):
    stored(adata, kind).write_h5ad(tmp_path / "a.h5ad", compression=compression)
    found, obs, var, embeddings, _ = read(tmp_path / "a.h5ad")
    assert np.array_equal(found, counts.astype(bool) if kind == "bool" else counts)
    pd.testing.assert_frame_equal(obs, adata.obs)
    assert list(var.index) == list(adata.var_names)
    assert list(embeddings) == ["X_pca"]  # the table is no embedding
    assert np.array_equal(embeddings["X_pca"], adata.obsm["X_pca"][3:9])


@pytest.mark.parametrize("dtype", [">i4", ">f8", "<f2", "<i8", "<u8", "|u1"])
def test_sparse_arrays_of_other_number_formats(adata, counts, dtype, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for name, kind in (("data", dtype), ("indices", ">i8"), ("indptr", ">i4")):
            values = file["X"][name][:]
            del file["X"][name]
            file["X"].create_dataset(name, data=values.astype(kind))
    assert np.array_equal(read(tmp_path / "a.h5ad")[0], counts)


def test_places(adata, counts, tmp_path):
    adata.layers["three"] = sp.csc_matrix(adata.X * 3)
    adata.raw = adata
    part = adata[:, :5].copy()
    part.X = part.X * 2
    part.write_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(read(tmp_path / "a.h5ad")[0], counts[:, :5] * 2)
    raw, _, var, _, _ = read(tmp_path / "a.h5ad", "raw/X")
    assert np.array_equal(raw, counts)
    assert len(var) == N_GENES
    assert np.array_equal(read(tmp_path / "a.h5ad", "layers/three")[0], counts[:, :5] * 3)
    with pytest.raises(UserError, match=r"no counts at layers/x.*\(there are X, raw/X, layers/three\)"):
        read(tmp_path / "a.h5ad", "layers/x")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_zarr(adata, counts, kind, version, zipped, tmp_path):
    anndata.settings.zarr_write_format, before = version, anndata.settings.zarr_write_format
    try:
        stored(adata, kind).write_zarr(tmp_path / "a.zarr")
    finally:
        anndata.settings.zarr_write_format = before
    path = tmp_path / "a.zarr"
    if zipped:
        path = shutil.make_archive(str(path), "zip", path)
    found, obs, _, embeddings, _ = read(Path(path))
    assert np.array_equal(found, counts)
    pd.testing.assert_frame_equal(obs, adata.obs, check_categorical=False)
    assert np.array_equal(embeddings["X_pca"], adata.obsm["X_pca"][3:9])


def test_a_zipped_store_runs_no_code(adata, tmp_path):
    anndata.settings.zarr_write_format, before = 2, anndata.settings.zarr_write_format
    adata.write_zarr(tmp_path / "a.zarr")
    anndata.settings.zarr_write_format = before
    meta = tmp_path / "a.zarr" / "X" / "data" / ".zarray"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "filters": [{"id": "pickle"}]}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for file in (tmp_path / "a.zarr").rglob("*"):
            packed.write(file, file.relative_to(tmp_path / "a.zarr"))
    with pytest.raises(UserError, match="uses the codec 'pickle', which can run code"):
        read(Path(tmp_path / "a.zip"))


def test_old_anndata(tmp_path):
    with resources.as_file(resources.files("scanpy.datasets") / "10x_pbmc68k_reduced.h5ad") as path:
        reference = sc.read_h5ad(path)
        with open_counts(path) as file:
            assert list(file.obs.columns) == list(reference.obs.columns)
            assert file.obs["bulk_labels"].astype(str).tolist() == reference.obs["bulk_labels"].astype(str).tolist()
            assert np.array_equal(file.obs["n_counts"], reference.obs["n_counts"])
            assert list(file.obs.index) == list(reference.obs_names)
            assert list(file.at("raw/X").var.index) == list(reference.raw.var_names)
            assert np.array_equal(file.obsm["X_pca"][5:9], reference.obsm["X_pca"][5:9])
            assert np.allclose(file.at("raw/X").rows().read(3, 8).toarray(), reference.raw.X[3:8].toarray())
        with pytest.raises(UserError, match=r"raw/X, cell 0 'AAAGCCTGGCTAAC-1', gene \d+ '.*' .*is fractional"):
            read(path, "raw/X")


def tenx_h5(path, counts, version, kinds=None):
    by_cell = sp.csc_matrix(counts.T.astype(np.int32))
    names = [f"c{i}".encode() for i in range(len(counts))]
    ids, symbols = ([f"{stem}{i}".encode() for i in range(counts.shape[1])] for stem in ("ENSG", "S"))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(by_cell, name)
        group["shape"], group["barcodes"] = by_cell.shape, names
        if version == 3:
            features = group.create_group("features")
            features["id"], features["name"] = ids, symbols
            features["feature_type"] = [kind.encode() for kind in kinds]
            features["genome"] = [b"GRCh38"] * len(ids)
        else:
            group["genes"], group["gene_names"] = ids, symbols
    return path


def test_cell_rangers_h5(counts, tmp_path):
    kinds = ["Antibody Capture" if i in (2, 7, 22) else "Gene Expression" for i in range(N_GENES)]
    path = tenx_h5(tmp_path / "f.h5", counts, 3, kinds)
    reference = sc.read_10x_h5(path)
    found, obs, var, _, left_out = read(path)
    assert np.array_equal(found, reference.X.toarray())
    assert list(var.index) == list(reference.var["gene_ids"])
    assert list(var["gene_symbols"]) == list(reference.var_names)
    assert list(obs.index) == list(reference.obs_names)
    assert left_out == {"features of the kind Antibody Capture": 3}
    old = tenx_h5(tmp_path / "old.h5", counts, 2)
    assert np.array_equal(read(old)[0], sc.read_10x_h5(old).X.toarray())
    with h5py.File(old, "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(UserError, match=r"several genomes \(GRCh38, mm10\)"):
        read(old)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_cell_rangers_mtx(counts, version, packed, prefix, tmp_path):
    def write(name, text):
        path = tmp_path / f"{prefix}{name}{'.gz' if packed else ''}"
        (gzip.open if packed else open)(path, "wt").write(text)

    end = "\tGene Expression" if version == 3 else ""
    write("features.tsv" if version == 3 else "genes.tsv", "".join(f"ENSG{i}\tS'{i}{end}\n" for i in range(N_GENES)))
    write("barcodes.tsv", "".join(f"c{i}-1\n" for i in range(N_CELLS)))
    scipy.io.mmwrite(tmp_path / "m.mtx", sp.coo_matrix(counts.T.astype(int)))
    write("matrix.mtx", (tmp_path / "m.mtx").read_text())
    (tmp_path / "m.mtx").unlink()
    found, obs, var, _, _ = read(tmp_path)
    assert np.array_equal(found, counts)
    assert obs.index[3] == "c3-1"
    assert (var.index[3], var["gene_symbols"].iloc[3]) == ("ENSG3", "S'3")
    if packed == (version == 3):  # scanpy reads these two
        reference = sc.read_10x_mtx(tmp_path, prefix=prefix, var_names="gene_ids")
        assert np.array_equal(reference.X.toarray(), found)
        assert list(reference.obs_names) == list(obs.index)
        assert list(reference.var_names) == list(var.index)
    next(tmp_path.glob("*barcodes*")).unlink()
    with pytest.raises(UserError, match=r"has a matrix\.mtx, but no .*barcodes\.tsv"):
        read(tmp_path)


def test_loom(adata, counts, tmp_path):
    loompy = pytest.importorskip("loompy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loompy.create(
            str(tmp_path / "a.loom"), {"": counts.T, "spliced": counts.T * 2},
            {"Gene": np.array([f"S{i}" for i in range(N_GENES)]), "Accession": np.array(adata.var_names)},
            {"CellID": np.array(adata.obs_names), "batch": np.array(adata.obs["batch"].astype(str)),
             "X_pca": adata.obsm["X_pca"]},
        )  # fmt: skip
        reference = anndata.io.read_loom(tmp_path / "a.loom", var_names="Accession", X_name="", sparse=False)
    found, obs, var, embeddings, _ = read(tmp_path / "a.loom")
    assert np.array_equal(found, reference.X)
    assert list(obs.index) == list(reference.obs_names)
    assert obs["batch"].tolist() == reference.obs["batch"].tolist()
    assert list(var.index) == list(reference.var_names)
    assert np.array_equal(read(tmp_path / "a.loom", "layers/spliced")[0], counts * 2)
    assert np.allclose(embeddings["X_pca"], adata.obsm["X_pca"][3:9])


def test_h5mu(adata, counts, tmp_path):
    mudata = pytest.importorskip("mudata")
    other = anndata.AnnData(np.ones((N_CELLS, 2)), obs=pd.DataFrame(index=adata.obs_names))
    mudata.MuData({"rna": adata, "prot": other}).write(tmp_path / "a.h5mu")
    found, obs, var, _, _ = read(tmp_path / "a.h5mu")
    assert np.array_equal(found, counts)
    assert list(var.index) == list(adata.var_names)
    assert "batch" in obs
    mudata.MuData({"prot": other}).write(tmp_path / "b.h5mu")
    with pytest.raises(UserError, match="no modality 'rna', but prot"):
        read(tmp_path / "b.h5mu")


def test_blocks_are_bounded_whatever_the_order_on_disk(adata, counts, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "VALUES", 40)
    for kind in ("csr", "csc", "dense"):
        stored(adata, kind).write_h5ad(tmp_path / f"{kind}.h5ad")
        with open_counts(tmp_path / f"{kind}.h5ad", scratch=tmp_path) as file:
            parts = [part for _, part in file.blocks(10)]
            assert max(part.nnz for part in parts) <= 40
            assert np.array_equal(sp.vstack(parts).toarray(), counts)
            assert np.array_equal(sp.vstack([part for _, part in file.blocks(4)]).toarray(), counts)  # a second pass
    assert not list(tmp_path.glob(".r2mae*"))


def test_genes_are_moved_left_out_and_added_up(adata, counts, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    columns = np.full(N_GENES, -1)
    columns[[4, 2, 9]] = [0, 2, 0]
    found = read(tmp_path / "a.h5ad", columns=columns, n_columns=3)[0]
    assert np.array_equal(found, np.stack([counts[:, 4] + counts[:, 9], counts[:, 0] * 0, counts[:, 2]], 1))


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "a missing value"),
        (np.inf, "an infinite value"),
        (-1, "a negative value, -1"),
        (-0.25, "a negative value, -0.25"),
        (3e9, r"3e\+09 is more than a count can be"),
        (0.5, "0.5 is fractional.*--round makes them whole"),
        (1000.25, "1000.25 is fractional"),
    ],
)
def test_what_is_no_count_is_named(adata, kind, value, message, tmp_path):
    X = adata.X.astype(np.float64).toarray()
    X[31, 7] = value
    adata.X = sp.csr_matrix(X)
    stored(adata, kind).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(UserError, match=rf"a.h5ad: X, cell 31 'c31', gene 7 'g7' \(counted from 0\): {message}"):
        read(tmp_path / "a.h5ad")


def test_rounding_of_numbers_is_no_fraction_and_fractions_are_rounded_only_where_asked(adata, counts, tmp_path):
    close = adata.copy()
    close.X = sp.csr_matrix(counts.astype(np.float64) * (1 - 1e-9))
    close.write_h5ad(tmp_path / "close.h5ad")
    rounded = Rounded()
    assert np.array_equal(read(tmp_path / "close.h5ad", rounded=rounded)[0], counts)
    assert rounded == Rounded(close=int((counts > 0).sum()))
    soup = adata.copy()
    soup.X = sp.csr_matrix(counts.astype(np.float64) * 0.7)
    soup.write_h5ad(tmp_path / "soup.h5ad")
    rounded = Rounded()
    found = read(tmp_path / "soup.h5ad", rounding=True, rounded=rounded)[0]
    assert np.array_equal(found, np.rint(counts.astype(np.float64) * 0.7))
    assert rounded.fractions == int((counts > 0).sum())
    assert rounded.close == 0


def test_damaged_matrices(adata, tmp_path):
    def damaged(change, match):
        adata.write_h5ad(tmp_path / "a.h5ad")
        with h5py.File(tmp_path / "a.h5ad", "r+") as file:
            change(file["X"])
        with pytest.raises(UserError, match=match):
            read(tmp_path / "a.h5ad")

    def set_value(name, at, value):
        def change(X):
            values = X[name][:]
            values[at] = value
            X[name][:] = values

        return change

    damaged(set_value("indices", 5, N_GENES), "cannot be read.*outside 0 … 22")
    damaged(set_value("indices", 5, -1), "cannot be read.*outside 0 … 22")
    damaged(set_value("indptr", 3, 10**6), "cannot be read.*out of order")
    damaged(lambda X: X.attrs.modify("shape", (N_CELLS, N_GENES + 1)), r"X is \(57, 24\), but there are 57 cells × 23")


def test_an_unknown_format_and_an_empty_file(adata, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="cannot be read: it is damaged, or not an h5ad file"):
        read(tmp_path / "a.csv")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="no obs; what can be read: h5ad, h5mu, zarr"):
        read(tmp_path / "other.h5")
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    assert read(tmp_path / "empty.h5ad")[0].shape == (0, N_GENES)


MTX = "%%MatrixMarket matrix coordinate integer general\n%\n"


def written_mtx(folder, body, head=MTX, n_genes=3, n_cells=4):
    (folder / "features.tsv").write_text("".join(f"g{i}\n" for i in range(n_genes)))
    (folder / "barcodes.tsv").write_text("".join(f"c{i}\n" for i in range(n_cells)))
    (folder / "matrix.mtx").write_text(head + body)


@pytest.mark.parametrize("order", ["cells", "genes", "none"])
@pytest.mark.parametrize("piece", [3, 2**21])
def test_mtx_in_any_order_is_read_in_pieces(counts, order, piece, tmp_path, monkeypatch):
    """What is sorted is never in memory as a whole: neither scipy's reader nor a table of all lines is made."""
    seen = []
    original, read_csv = scipy.io.mmread, pd.read_csv
    monkeypatch.setattr(scipy.io, "mmread", lambda file: seen.append("whole") or original(file))
    monkeypatch.setattr("r2mae_singlecell.data.mtx.PIECE", piece)
    monkeypatch.setattr(pd, "read_csv", lambda *a, **k: seen.append(k.get("chunksize")) or read_csv(*a, **k))
    cells, genes = np.nonzero(counts)
    places = {"cells": slice(None), "genes": np.argsort(genes, kind="stable"),
              "none": np.random.default_rng(0).permutation(len(cells))}[order]  # fmt: skip
    lines = [
        f"{genes[i] + 1} {cells[i] + 1} {int(counts[cells[i], genes[i]])}\n" for i in np.arange(len(cells))[places]
    ]
    written_mtx(tmp_path, f"{N_GENES} {N_CELLS} {len(lines)}\n" + "".join(lines), MTX, N_GENES, N_CELLS)
    found, _, _, _, _ = read(tmp_path)
    assert np.array_equal(found, counts)
    assert ("whole" in seen) == (order == "none")
    assert piece in seen
    assert not [*tmp_path.glob(".r2mae-*")]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("3 4 3\n1 1 5\n2 2 1\n", "holds 2 values, not the 3 .* cut off"),
        ("3 4 1\n1 1 5\n2 2 1\n", "more than the 1 values"),
        ("3 4 2\n1 1 5\n4 2 1\n", "outside 0 … 2"),
        ("3 4 2\n0 1 5\n2 2 1\n", "outside 0 … 2"),
        ("3 4 2\n1 1 5\n2 5 1\n", "outside 0 … 3"),
        ("3 4 2\n1 1\n2 2\n", "it is damaged"),
        ("3 4 2\n1 1 5 6\n2 2 1 7\n", "more than three numbers"),
        ("3 4 2\n0 1 1 5\n1 2 2 1\n", "more than three numbers"),  # the first number counts the lines
        ("3 4 2\n1 1 5\n2 2 1 7\n", "more than three numbers"),
        ("3 4 2\n1 1 5 6 7\n2 2 1 7 8\n", "more than three numbers"),
        ("3 4 2\n1 1 5\n2 2 x\n", "it is damaged"),
        ("3 4 2\n1 1 5\n2 2 -1\n", "negative"),
        ("3 4 2\n1 1 5\n2 2 5000000000\n", "more than a count can be"),
        ("\n", "it is damaged"),
    ],
)
def test_a_damaged_mtx_is_named(body, message, tmp_path):
    written_mtx(tmp_path, body)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_mtx_with_repeated_places_empty_cells_and_no_value(tmp_path):
    written_mtx(tmp_path, "3 4 3\n1 2 5\n1 2 2\n3 4 1\n")
    assert read(tmp_path)[0].tolist() == [[0, 0, 0], [7, 0, 0], [0, 0, 0], [0, 0, 1]]
    written_mtx(tmp_path, "3 4 0\n")
    assert not read(tmp_path)[0].any()
    written_mtx(tmp_path, "2 2\n1\n0\n3\n4\n", "%%MatrixMarket matrix array integer general\n", 2, 2)
    assert read(tmp_path)[0].tolist() == [[1, 0], [3, 4]]


@pytest.mark.parametrize("meet", [False, True])
def test_selected_columns_are_those_of_a_dense_matrix(meet):
    rng = np.random.default_rng(0)
    for order in (np.arange(30), rng.permutation(30)):
        dense = rng.poisson(0.5, (40, 30))
        dense[[3, 39]] = 0
        columns = np.where(rng.random(30) < 0.5, order // (2 if meet else 1), -1).astype(np.int32)
        expected = np.zeros((40, 30), int)
        for old, new in enumerate(columns):
            if new >= 0:
                expected[:, new] += dense[:, old]
        found = selected(sp.csr_matrix(dense.astype(np.int32)), columns, 30)
        assert (found.toarray() == expected).all()
        assert found.has_sorted_indices
        assert (np.diff(found.indices)[np.diff(np.repeat(np.arange(40), np.diff(found.indptr))) == 0] > 0).all()
