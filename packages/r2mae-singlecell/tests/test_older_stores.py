"""A file that `prepare` wrote before it had a format number is read, trained on and checked as before."""

import hashlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata.io import write_elem

from r2mae_core import UserError
from r2mae_singlecell import prepare_atlas
from r2mae_singlecell.data.prepared import missing_genes, read_prepared
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.pretrain import pretrain

STANDARD = ("donor", "batch", "cell_type", "disease", "age", "is_reference")


def written_as_format_1(path, adata):
    """Write what that version wrote: counts in one piece, six columns, a flat digest, no number."""
    X = adata.X.tocsr()
    X.sort_indices()
    obs = adata.obs[list(STANDARD)]
    found = hashlib.sha256()
    with h5py.File(path, "w") as out:
        out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(out, "obs", obs)
        write_elem(out, "var", adata.var)
        for empty in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(out, empty, {})
        x = out.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": X.shape})
        for name, kind in (("indptr", np.int32), ("indices", np.int32), ("data", np.uint16)):
            part = getattr(X, name).astype(kind)
            x.create_dataset(name, data=part)
            found.update(f"{name} {part.dtype.str} {len(part)}\n".encode() + part.tobytes())
        for name, texts in (("obs", obs.index), ("var", adata.var.index)):
            found.update(f"{name} {len(texts)}\n".encode() + "\0".join(texts).encode())
        for name in STANDARD:
            values = obs[name]
            if name in ("donor", "batch", "cell_type", "disease"):
                texts = list(map(str, values.cat.categories))
                found.update(f"{name} {len(texts)}\n".encode() + "\0".join(texts).encode())
                values = values.cat.codes
            found.update(f"{name} {len(values)}\n".encode() + np.asarray(values, np.float64).tobytes())
        about = {"preset": "hlca", "left_out": {"cells without a count in the variable genes": 0}}
        write_elem(out, "uns", {"r2mae": {**about, "digest": found.hexdigest()}})


@pytest.fixture
def old(here):
    path = Path("old.h5ad")
    written_as_format_1(path, read_prepared(Path("p.h5ad")).to_memory())
    return path


def test_it_is_read_and_trained_on(old):
    new, adata = read_prepared(Path("p.h5ad")).to_memory(), read_prepared(old).to_memory()
    assert np.array_equal(adata.X.toarray(), new.X.toarray())
    assert list(adata.obs) == list(STANDARD)
    assert not missing_genes(adata)
    size = {"n_hidden": 24, "n_latent": 6, "batch_size": 36, "device": "cpu", "progress": False, "epochs": 1}
    one, other = (pretrain(Pretrain(data=path, out=Path(path.stem), **size)) for path in (old, Path("p.h5ad")))
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]
    again = prepare_atlas(Path("a.h5ad"), Path("like.h5ad"), like=old, min_genes=0, progress=False)
    assert list(anndata.read_h5ad(again.path).var_names) == list(new.var_names)


def test_what_was_changed_is_noticed(old):
    with h5py.File(old, "r+") as file:
        file["obs/age"][3] += 1
    with pytest.raises(UserError, match=r"old\.h5ad is damaged or was edited"):
        read_prepared(old)
    with h5py.File(old, "r+") as file:
        file["obs/age"][3] -= 1
        del file["obs/batch"]
    with pytest.raises(UserError, match="has no column 'batch'"):
        read_prepared(old)
