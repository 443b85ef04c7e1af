"""R2MAE trains on whatever scvi-tools trains on, and no differently: wherever the counts lie, the weights are equal."""

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
from anndata.experimental import AnnCollection, read_elem_lazy
from anndata.io import sparse_dataset
from scvi.dataloaders import CollectionAdapter

from r2mae_core import UserError, quiet_lightning
from r2mae_singlecell import CountMatrix
from r2mae_singlecell.data import sources
from r2mae_singlecell.data.sources import InMemory, Sliced

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2.*", "ignore:Training will be faster when sparse.*")


def written(adata, path, form=lambda X: X, **kwargs):
    adata.X = form(adata.X)
    adata.write_h5ad(path, **kwargs)
    return anndata.read_h5ad(path, backed="r")


def around(adata, X):
    return anndata.AnnData(X=X, obs=adata.obs, var=adata.var)


def from_zarr(adata, path):
    zarr = pytest.importorskip("zarr")
    adata.write_zarr(path)
    return around(adata, sparse_dataset(zarr.open(str(path))["X"]))


def from_dask(adata, path, form=lambda X: X):
    array = pytest.importorskip("dask.array")
    return around(adata, array.from_array(form(adata.X), chunks=(50, adata.n_vars)))


def lazy(adata, path):
    pytest.importorskip("dask")
    adata.write_h5ad(path)
    return around(adata, read_elem_lazy(h5py.File(path)["X"]))


def collection(adata, path, backed):
    adata.layers["counts"] = adata.X
    parts = []
    for i, part in enumerate((adata[:60].copy(), adata[60:].copy())):
        parts.append(written(part, f"{path}{i}") if backed else part)
    return CollectionAdapter(AnnCollection(parts, join_vars="inner", join_obs="inner"))


FORMS = {
    "csc": lambda a, path: around(a, a.X.tocsc()),
    "dense": lambda a, path: around(a, a.X.toarray()),
    "float64": lambda a, path: around(a, a.X.astype(np.float64)),
    "uint16": lambda a, path: around(a, a.X.astype(np.uint16)),
    "float16": lambda a, path: around(a, a.X.toarray().astype(np.float16)),
    "other byte order": lambda a, path: around(a, a.X.toarray().astype(np.dtype(np.float32).newbyteorder())),
    "copy of a view": lambda a, path: a[np.arange(a.n_obs)].copy(),
    "backed": written,
    "backed, compressed": lambda a, path: written(a, path, compression="gzip"),
    "backed, int64": lambda a, path: written(a, path, lambda X: X.astype(np.int64)),
    "backed, by genes": lambda a, path: written(a, path, sp.csc_matrix),
    "backed, dense": lambda a, path: written(a, path, lambda X: X.toarray()),
    "backed, dense, compressed": lambda a, path: written(a, path, lambda X: X.toarray(), compression="gzip"),
    "sparse_dataset": lambda a, path: (a.write_h5ad(path), around(a, sparse_dataset(h5py.File(path)["X"])))[1],
    "zarr": from_zarr,
    "dask, dense": lambda a, path: from_dask(a, path, lambda X: X.toarray()),
    "dask, sparse": from_dask,
    "dask from a file": lazy,
    "collection": lambda a, path: collection(a, path, False),
    "backed collection": lambda a, path: collection(a, path, True),
}
NOT_IN_SCVI = ("dask, sparse", "dask from a file")  # scvi-tools 1.4 and 1.5 do not turn numpy's matrix into a tensor


@pytest.fixture(scope="module")
def in_memory(make_adata, train):
    return train(make_adata())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.*small size.*", "ignore:.*does not contain unnormalized count.*")
def test_wherever_the_counts_lie(form, make_adata, train, in_memory, same_weights, tmp_path):
    setup = {"batch_key": "batch", "layer": "counts" if "collection" in form else None}
    if form not in NOT_IN_SCVI:
        with quiet_lightning():
            theirs = FORMS[form](make_adata(), tmp_path / "theirs")
            scvi.model.SCVI.setup_anndata(theirs, **setup)
            other = scvi.model.SCVI(theirs, n_hidden=8, n_latent=2)
            other.train(max_epochs=1, batch_size=40, accelerator="cpu", enable_progress_bar=False)
    adata = FORMS[form](make_adata(), tmp_path / "ours")
    model = train(adata, setup=setup)
    assert same_weights(model, in_memory)
    assert np.array_equal(model.get_latent_representation(), in_memory.get_latent_representation())
    some = [77, 3, 3, 119]
    assert np.array_equal(
        model.get_latent_representation(indices=some), in_memory.get_latent_representation(indices=some)
    )


def changed(make_adata, value):
    """Data with one value that is another, as float64, the type that holds all of them."""
    adata = make_adata()
    adata.X = adata.X.astype(np.float64)
    adata.X.data[adata.X.indptr[77]] = value
    return adata


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("uint16", "float16", "backed, int64")])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_count_trains_nowhere(form, make_adata, train, tmp_path):
    setup = {"batch_key": "batch", "layer": "counts" if "collection" in form else None}
    for value, message in ((0.5, "0.5 is fractional.*prepare --round"), (np.inf, "infinite"), (3e9, "is more than")):
        with pytest.raises(UserError, match=message):
            train(FORMS[form](changed(make_adata, value), tmp_path / f"{value}"), setup=setup)


@pytest.mark.parametrize("form", ["csc", "dense", "backed, compressed", "zarr", "dask, dense", "collection"])
def test_counts_that_are_whole_up_to_rounding_are_taken(form, make_adata, train, tmp_path, recwarn):
    setup = {"batch_key": "batch", "layer": "counts" if "collection" in form else None}
    plain = train(changed(make_adata, 3.0))
    close = train(FORMS[form](changed(make_adata, 3 - 1e-9), tmp_path / "a"), setup=setup)
    z, other = plain.get_latent_representation(), close.get_latent_representation()
    assert np.allclose(z, other, atol=1e-4)
    assert not [w for w in recwarn if "unnormalized count data" in str(w.message)]


@pytest.mark.parametrize("form", ["backed, compressed", "backed, dense", "zarr", "dask, sparse", "collection"])
def test_rows_are_read_without_the_rest(form, make_adata, tmp_path):
    adata, X = FORMS[form](make_adata(), tmp_path / "a"), make_adata().X
    counts = CountMatrix(adata.layers["counts"] if form == "collection" else adata.X)
    assert isinstance(counts.source, Sliced)
    assert counts.shape == X.shape
    exact = X.data.nbytes + X.indices.nbytes
    assert 0.5 * exact < counts.nbytes < 2 * exact
    for cells in ([5, 119, 5, 0, 64], [], [60]):
        rows = counts.rows(np.array(cells, dtype=np.int64))
        assert np.array_equal(rows.dense(40).numpy(), X[cells].toarray())
    with pytest.raises(IndexError):
        counts.rows(np.array([120]))
    whole = counts.loaded()
    assert isinstance(whole.source, InMemory)
    assert np.array_equal(sp.csr_matrix(tuple(whole.csr[i] for i in (2, 1, 0)), X.shape).toarray(), X.toarray())


def test_a_file_by_genes_that_does_not_fit_into_memory(adata, tmp_path, monkeypatch):
    backed = written(adata, tmp_path / "c.h5ad", sp.csc_matrix)
    monkeypatch.setattr(sources, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"c\.h5ad are stored by genes.*r2mae-singlecell prepare"):
        CountMatrix(backed.X)
