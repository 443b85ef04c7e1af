import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from r2mae_core import UserError
from r2mae_singlecell import CountMatrix
from r2mae_singlecell.data.counts import SparseRows, _compact


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


def test_compressed_files_are_refused(X, tmp_path):
    anndata.AnnData(X).write_h5ad(tmp_path / "c.h5ad", compression="gzip")
    backed = anndata.read_h5ad(tmp_path / "c.h5ad", backed="r")
    with pytest.raises(UserError, match=r"compressed.*r2mae-singlecell prepare"):
        CountMatrix(backed.X)
