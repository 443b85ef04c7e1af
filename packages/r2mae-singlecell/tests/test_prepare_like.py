"""`prepare --like`: the genes of a model or a store, in its order, by name or Ensembl id; what is missing is hidden."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell import prepare_atlas
from r2mae_singlecell.data.prepared import missing_genes, read_prepared
from r2mae_singlecell.options import Embed, Prepare, Pretrain
from r2mae_singlecell.pretrain import pretrain

pytestmark = pytest.mark.filterwarnings("ignore")


def lab(store, drop=(), seed=3, n_cells=50, by="feature_name", version=""):
    """Counts of the store's genes but some, and of ten others, in another order, named by another column."""
    rng = np.random.default_rng(seed)
    names = store.var_names if by == "index" else store.var[by].astype(str)
    kept = [f"{name}{version}" for i, name in enumerate(names) if i not in drop] + [f"other{i}" for i in range(10)]
    order = rng.permutation(len(kept))
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(1.0, (n_cells, len(kept))).astype(np.float32)))
    adata.var_names, adata.obs_names = np.array(kept)[order], [f"s{seed}c{i}" for i in range(n_cells)]
    adata.obs["batch"] = "new"
    return adata


def like(pattern, *adatas, **options):
    paths = [Path(f"lab{i}.h5ad") for i in range(len(adatas))]
    for path, adata in zip(paths, adatas, strict=True):
        adata.write_h5ad(path)
    found = prepare_atlas(paths, Path("like.h5ad"), like=Path(pattern), progress=False, overwrite=True, **options)
    return read_prepared(found.path).to_memory(), found


@pytest.mark.parametrize("pattern", ["run", "p.h5ad", "run/model"])
@pytest.mark.parametrize(("by", "version"), [("feature_name", ""), ("index", ".7")])
def test_the_same_genes_in_the_same_order(pattern, by, version, here):
    reference = read_prepared(Path("p.h5ad")).to_memory()
    adata = lab(reference, drop=(2, 11), by=by, version=version)
    store, found = like(pattern, adata)
    assert list(store.var_names) == list(reference.var_names)
    assert list(store.var["feature_name"]) == list(reference.var["feature_name"])
    names = reference.var_names if by == "index" else reference.var["feature_name"].astype(str)
    theirs = adata.to_df()
    for i, name in enumerate(names):
        expected = 0 if i in (2, 11) else theirs[f"{name}{version}"]
        assert np.array_equal(store.X[:, i].toarray().ravel(), np.broadcast_to(expected, 50))
    assert {file: positions.tolist() for file, positions in missing_genes(store).items()} == {"lab0.h5ad": [2, 11]}
    counted = found.table.set_index("reason")["n"]
    assert counted["genes that it lacks, hidden in its cells"] == 2
    assert counted["genes that --like has not"] == 10
    assert any("28 of 30 genes found" in note for note in found.notes)


def test_a_training_leaves_the_missing_genes_out_of_its_loss(here):
    reference = read_prepared(Path("p.h5ad")).to_memory()
    like("run", lab(reference, drop=(2, 11)), lab(reference, drop=(5,), seed=4))
    options = {"n_hidden": 24, "n_latent": 6, "batch_size": 36, "device": "cpu", "progress": False, "epochs": 2}
    run = pretrain(Pretrain(data=Path("like.h5ad"), out=Path("again"), **options))
    model = run.path / "model"
    assert model.is_dir()
    store, _ = like("again", lab(reference, seed=5))
    assert list(store.var_names) == list(reference.var_names)
    from r2mae_singlecell.embedding import embed

    out = embed(Embed(run=Path("again"), data=Path("like.h5ad"), out=Path("z.h5ad"), device="cpu", progress=False))
    assert np.isfinite(anndata.read_h5ad(out).obsm["X_r2mae"]).all()


def test_too_few_genes_and_several_of_a_name(here, refused):
    reference = read_prepared(Path("p.h5ad")).to_memory()
    few = lab(reference, drop=range(18))
    with pytest.raises(UserError, match=r"lab0.h5ad has 12 of the 30 genes .*40%.*--min_genes_found"):
        like("run", few)
    assert like("run", few, min_genes_found=0.3)[0].n_vars == 30
    twice = lab(reference)
    names = list(twice.var_names)
    i, j = names.index(reference.var["feature_name"].iloc[4]), names.index("other3")
    names[j] = names[i]
    twice.var_names = names
    with pytest.raises(UserError, match=r"1 genes of run are several genes there, such as 'ENSG.*--duplicates: sum"):
        like("run", twice)
    both = twice.X[:, [i, j]].toarray()
    assert np.array_equal(like("run", twice, duplicates="sum")[0].X[:, 4].toarray().ravel(), both.sum(axis=1))
    assert np.array_equal(like("run", twice, duplicates="first")[0].X[:, 4].toarray().ravel(), both[:, int(j < i)])
    lab(reference).write_h5ad("lab.h5ad")
    Path("empty").mkdir()
    for words, message in (
        (("--like", "lab.h5ad"), "lab.h5ad was not prepared"),
        (("--like", "empty"), "neither a run folder of pretrain, nor a folder that export wrote, nor a prepared file"),
        (("--like", "run", "--n_genes", "7"), "leave out --n_genes"),
        (("--like", "run", "--genes", "union"), "leave out --genes union"),
        (("--like", "x.h5ad", "--overwrite"), "x.h5ad"),
    ):
        refused(("prepare", "lab.h5ad", "--out", "x.h5ad", *words), message)


def test_the_column_that_is_named_is_compared(here):
    reference = read_prepared(Path("p.h5ad")).to_memory()
    adata = lab(reference, by="index")
    adata.var["mine"] = adata.var_names
    adata.var_names = [f"row{i}" for i in range(adata.n_vars)]
    with pytest.raises(UserError, match="has 0 of the 30 genes"):
        like("run", adata)
    assert not missing_genes(like("run", adata, gene_column="mine")[0])


def test_counts_that_were_rounded_are_counted_once(here):
    reference = read_prepared(Path("p.h5ad")).to_memory()
    adata = lab(reference)
    adata.X = adata.X.astype(np.float64) * (1 - 1e-12)
    _, found = like("run", adata)
    n = found.table.set_index("reason")["n"]["counts that were whole up to rounding, rounded"]
    mine = adata[:, [not name.startswith("other") for name in adata.var_names]]
    assert n == mine.X.nnz
    assert isinstance(found.table, pd.DataFrame)
    assert Prepare(source=(Path("a"),)).like is None
