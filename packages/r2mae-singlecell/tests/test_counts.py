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
