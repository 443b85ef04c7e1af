import os

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata.io import sparse_dataset

from r2mae_core import UserError
from r2mae_singlecell import CountMatrix
from r2mae_singlecell.checks import check_values
from r2mae_singlecell.data.counts import SparseRows, _compact
from r2mae_singlecell.data.sources import Buffers, Mapped, Sliced


@pytest.fixture
def X():
    return sp.random(50, 30, 0.2, format="csr", random_state=0, dtype=np.float32)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "csr_array", "dense"])
def test_rows_of_any_form(X, form):
    given = X.toarray() if form == "dense" else getattr(sp, form)(X)
    cells = np.array([7, 3, 3, 49])
    assert np.array_equal(CountMatrix(given).rows(cells).dense(30).numpy(), X[cells].toarray())


@pytest.mark.parametrize("values", [np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("indices", [np.int32, np.int64])
def test_rows_are_those_of_scipy_in_any_type(values, indices):
    X = sp.random(40, 12, 0.3, format="csr", random_state=1)
    X = sp.csr_matrix(((9 * X.data).astype(values), X.indices, X.indptr), X.shape)
    X.indices, X.indptr = X.indices.astype(indices), X.indptr.astype(indices)
    cells = np.random.default_rng(0).integers(0, 40, 100)
    rows, expected = CountMatrix(X).rows(cells), X[cells]
    assert np.array_equal(rows.lengths, np.diff(expected.indptr))
    assert np.array_equal(rows.columns, expected.indices)
    assert np.array_equal(rows.values, expected.data)
    assert rows.values.numpy().dtype == values
    assert not np.shares_memory(rows.values.numpy(), X.data)
    assert rows.columns.dtype == torch.int16
    with pytest.raises(IndexError):
        CountMatrix(X).rows(np.array([3, 40]))


@pytest.mark.parametrize(("n_genes", "dtype"), [(2**15, torch.int16), (2**15 + 1, torch.int32)])
def test_columns_fit_their_type(n_genes, dtype):
    X = sp.csr_matrix(([5.0], ([1], [n_genes - 1])), (3, n_genes))
    rows = CountMatrix(X).rows(np.array([2, 1]))
    assert rows.columns.dtype == dtype
    assert np.array_equal(rows.dense(n_genes), X[[2, 1]].toarray())
    assert torch.equal(rows._scattered(2, n_genes, 1), rows.dense(n_genes))


def test_no_cells(X):
    assert CountMatrix(X).rows(np.array([], dtype=np.int64)).dense(30).shape == (0, 30)


def test_memory_is_shared_not_copied(X):
    assert np.shares_memory(CountMatrix(X).csr.data, X.data)


def test_device_path_gathers_the_same(X):
    counts = CountMatrix(X)
    columns, values = (torch.from_numpy(part) for part in _compact(X))
    cells = np.array([0, 49, 12, 12])
    rows = counts._gathered(cells, columns, values)
    assert columns.dtype == torch.int16
    assert torch.equal(rows.dense(30), counts.rows(cells).dense(30))
    assert torch.equal(rows._scattered(4, 30, len(rows.columns)), rows.dense(30))


@pytest.mark.parametrize(
    ("highest", "dtype"), [(255, np.uint8), (256, np.int16), (40_000, np.int32), (0.5, np.float32)]
)
def test_smallest_type_that_holds_the_counts(highest, dtype):
    assert _compact(sp.csr_matrix(np.array([[0, 1, highest]], dtype=np.float32)))[1].dtype == dtype


def test_empty_rows():
    rows = CountMatrix(sp.csr_matrix((4, 6), dtype=np.float32)).rows(np.array([1, 2]))
    assert isinstance(rows, SparseRows)
    assert rows.dense(6).eq(0).all()


def test_a_mapped_file_of_more_values_than_an_int32_counts(tmp_path):
    """The file's columns are int32 and its places int64: 2³¹ values and more, of which a few are written."""
    n, per_row = 6, 2**29
    with h5py.File(tmp_path / "large.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n, 2**29)})
        group["indptr"] = np.arange(n + 1, dtype=np.int64) * per_row
        for name, dtype in (("indices", np.int32), ("data", np.uint8)):
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # a file with holes
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            space = h5py.h5s.create_simple((n * per_row,))
            h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(dtype), space, plist)
            group[name][5 * per_row - 2 : 5 * per_row] = [3, 7]
    with h5py.File(tmp_path / "large.h5ad", "r") as file:
        arrays = CountMatrix(sparse_dataset(file["X"])).csr
        assert arrays.indptr[-1] == n * per_row > 2**31
        first = int(arrays.indptr[5])
        assert arrays.data[first - 2 : first].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (-1.0, "a negative value, -1"),
        (np.nan, "a missing value"),
        (np.inf, "an infinite value"),
        (3e9, r"3e\+09 is more"),
        (2.5, "2.5 is fractional"),
    ],
)
@pytest.mark.parametrize("form", ["mapped", "gzip", "dense"])
def test_what_is_no_count_is_named_wherever_it_is_read(X, tmp_path, bad, what, form):
    X.data = np.ceil(9 * X.data) * np.float32(1 + 5e-7)  # whole up to rounding
    X.data[X.indptr[31]] = bad
    if form == "mapped":
        with h5py.File(tmp_path / "c.h5ad", "w") as file:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": X.shape})
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(X, name)
        file = h5py.File(tmp_path / "c.h5ad")
        counts = CountMatrix(sparse_dataset(file["X"]))
        assert isinstance(counts.source, Mapped)
    else:
        X = X.toarray() if form == "dense" else X
        anndata.AnnData(X).write_h5ad(tmp_path / "c.h5ad", compression="gzip")
        counts = CountMatrix(anndata.read_h5ad(tmp_path / "c.h5ad", backed="r").X)
        assert isinstance(counts.source, Sliced)
    message = rf"c.h5ad: {what}.* \(cell 31, counted from 0\), so it is no count; raw counts are needed"
    with pytest.raises(UserError, match=message):
        counts.rows(np.array([3, 31, 5]))
    with pytest.raises(UserError, match=message):
        counts.source.read([(2, 4), (30, 33)], Buffers())
    counts.rows(np.array([2, 3, 30, 32]) if form == "mapped" else np.array([2, 3]))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_rows_of_a_file_larger_than_memory_are_the_same(X, tmp_path, share, monkeypatch):
    """Then they are read by several threads, else through a memory map."""
    with h5py.File(tmp_path / "c.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": X.shape})
        for name in ("indptr", "indices", "data"):
            group[name] = np.ceil(9 * X.data) if name == "data" else getattr(X, name)
    X.data = np.ceil(9 * X.data)
    monkeypatch.setattr("r2mae_singlecell.data.sources.MEMORY_SHARE", share)
    seen = []
    monkeypatch.setattr(Mapped, "read", lambda *a, read=Mapped.read: seen.append(a[1]) or read(*a))
    source = CountMatrix(sparse_dataset(h5py.File(tmp_path / "c.h5ad")["X"])).source
    cells = np.concatenate([[7, 3, 3, 49, 10, 11, 12], np.random.default_rng(0).integers(0, 50, 40)])
    for wanted in (cells, cells[:1], cells[:0]):
        lengths, columns, values = source.rows(wanted)
        assert np.array_equal(lengths, np.diff(X[wanted].indptr))
        assert np.array_equal(columns, X[wanted].indices)
        assert np.array_equal(values, X[wanted].data)
        assert columns.dtype == np.int16
    assert bool(seen) == (share == 0)
    assert not seen or (10, 13) in seen[0]  # neighbours in one piece
    with pytest.raises(IndexError):
        source.rows(np.array([3, 50]))


def test_a_file_that_is_cut_off(X, tmp_path):
    with h5py.File(tmp_path / "c.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": X.shape})
        for name in ("indptr", "indices", "data"):
            group[name] = getattr(X, name)
    file = h5py.File(tmp_path / "c.h5ad")
    source = CountMatrix(sparse_dataset(file["X"])).source
    end = file["X/data"].id.get_offset() + 4 * X.nnz
    os.truncate(tmp_path / "c.h5ad", end - 8)
    with pytest.raises(UserError, match=r"c.h5ad is cut off"):
        source.read([(40, 50)], Buffers())


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_the_place_of_a_wrong_value_in_a_sparse_matrix(adata, form):
    """Found in the matrix as it is: another copy of a large one might not fit."""
    X = adata.X.tolil()
    X[17, 23] = -4.0
    adata.X = X.asformat("csr")
    with pytest.raises(UserError, match=r"cell 'cell17', gene 'gene23': a negative value, -4"):
        check_values(X.asformat(form), "X", adata.obs_names, adata.var_names)
