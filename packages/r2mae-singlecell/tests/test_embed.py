"""`embed` on files that were never prepared: genes by name or id, batches by name, block by block."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from r2mae_core import UserError, read_json, write_checksums, write_json
from r2mae_singlecell import R2MAE, new_cells
from r2mae_singlecell.genes import match_genes

IDS = [f"ENSG{i:011d}" for i in range(40)]


@pytest.fixture(scope="module")
def reference(train, make_adata):
    """A model that knows its genes by name and by id, and the batches x and y."""
    data = make_adata()
    data.var["gene_ids"] = IDS
    return train(data, max_epochs=2)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    return reference.export(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def query(make_adata):
    """New cells, with the genes in another order, and one that the model does not know."""
    data = make_adata(70, 40, seed=3)
    extra = anndata.AnnData(sp.csr_matrix(np.ones((70, 1), np.float32)), var=pd.DataFrame(index=["other"]))
    extra.obs_names = data.obs_names
    both = anndata.concat([data, extra], axis=1, merge="same")
    both.obs = data.obs
    return both[:, np.random.default_rng(0).permutation(41)].copy()


def expected(model, query, names=None):
    """The embedding by scvi-tools' way: a table with the model's genes, absent ones zero."""
    names = list(query.var_names) if names is None else names
    x = np.zeros((query.n_obs, 40), np.float32)
    for i, name in enumerate(names):
        if name in set(model.get_var_names()):
            x[:, list(model.get_var_names()).index(name)] += query.X[:, i].toarray().ravel()
    data = anndata.AnnData(sp.csr_matrix(x), obs=query.obs.copy(), var=pd.DataFrame(index=list(model.get_var_names())))
    return model.get_latent_representation(data)


def embedded(call, argv, expect=0):
    code, out, err = call("embed", *argv, "--device", "cpu", "--no-progress", "--out", "e.h5ad", "--overwrite")
    assert code == expect, err
    return anndata.read_h5ad("e.h5ad") if not code else None, out


def test_genes_by_name_in_any_order(call, reference, folder, query, tmp_path):
    query.write_h5ad("q.h5ad")
    found, out = embedded(call, [folder, "q.h5ad"])
    assert np.array_equal(found.obsm["X_r2mae"], expected(reference, query))
    assert list(found.obs_names) == list(query.obs_names)
    assert list(found.obs["chemistry"]) == list(query.obs["chemistry"])
    about = found.uns["r2mae_new_data"]
    assert (about["n_genes_found"], about["n_genes_missing"], about["genes_matched_by"]) == (40, 0, "index")
    assert about["model"] == new_cells.weights_digest(reference)
    assert "40 of the model's 40 genes found by the names of the rows of the data" in out
    assert "1 genes of the data not used" in out
    other, _ = embedded(call, ["q.h5ad", folder])  # either order
    assert np.array_equal(other.obsm["X_r2mae"], found.obsm["X_r2mae"])


@pytest.mark.parametrize("column", ["index", "gene_ids", "ensembl_id", "Accession"])
@pytest.mark.parametrize("version", ["", ".12"])
def test_genes_by_id(call, reference, folder, query, column, version):
    known = dict(zip((f"gene{i}" for i in range(40)), IDS, strict=True))
    ids = [known.get(name, "ENSG99") + version for name in query.var_names]
    wanted = expected(reference, query)
    if column == "index":
        query.var_names = ids
    else:
        query.var_names = [f"row{i}" for i in range(41)]
        query.var[column] = ids
    query.write_h5ad("q.h5ad")
    found, _ = embedded(call, [folder, "q.h5ad"])
    assert np.array_equal(found.obsm["X_r2mae"], wanted)
    assert found.uns["r2mae_new_data"]["genes_matched_by"] == column


def test_a_symbol_with_a_dot_is_no_version(reference):
    """RP11-34P13.7 and RP11-34P13.8 are two genes."""
    names = ["RP11-34P13.7", "RP11-34P13.8", "ENSG00000000003.5"]
    match = match_genes(names, {}, pd.DataFrame(index=["RP11-34P13.8", "ENSG00000000003.14", "RP11-34P13"]))
    assert match.columns.tolist() == [1, 2, -1]
    assert match.missing.tolist() == [0]


def test_missing_genes_are_hidden_and_said(call, reference, folder, query):
    part = query[:, [name not in ("gene4", "gene7") for name in query.var_names]].copy()
    part.write_h5ad("q.h5ad")
    found, out = embedded(call, [folder, "q.h5ad"])
    assert np.array_equal(found.obsm["X_r2mae"], expected(reference, part))
    about = found.uns["r2mae_new_data"]
    assert (about["n_genes_missing"], list(about["missing_genes"])) == (2, ["gene4", "gene7"])
    assert "2 hidden" in out


def test_too_few_genes_are_refused(call, folder, query, refused):
    part = query[:, [name in ("gene4", "gene7", "gene9") for name in query.var_names]].copy()
    part.write_h5ad("q.h5ad")
    refused(["embed", folder, "q.h5ad"], r"q.h5ad has 3 of the 40 genes of the model \(8%\); at least 50% are needed")
    embedded(call, [folder, "q.h5ad", "--min_genes_found", 0.05])
    query.var_names = [name.upper() for name in query.var_names]
    query.write_h5ad("q.h5ad")
    refused(["embed", folder, "q.h5ad"], "40 would agree but for upper and lower case")
    refused(["embed", folder, "q.h5ad", "--min_genes_found", 0], "has 0 of the 40 genes")


@pytest.mark.parametrize("duplicates", ["hide", "first", "sum"])
def test_genes_standing_twice(call, reference, folder, query, duplicates):
    at = {name: list(query.var_names).index(name) for name in ("other", "gene5")}
    query.var["symbol"] = ["gene5" if name == "other" else name for name in query.var_names]
    query.var_names = [f"row{i}" for i in range(41)]
    query.write_h5ad("q.h5ad")
    found, out = embedded(call, [folder, "q.h5ad", "--duplicates", duplicates])
    names = list(query.var["symbol"])
    for i in at.values():
        keep = {"hide": False, "first": i == min(at.values()), "sum": True}[duplicates]
        names[i] = "gene5" if keep else "nothing"
    assert np.array_equal(found.obsm["X_r2mae"], expected(reference, query, names))
    assert "1 of several genes of that name" in out


def test_unknown_batches(call, reference, folder, query, refused):
    query.obs["batch"] = np.where(np.arange(70) < 20, "new", query.obs["batch"])
    query.write_h5ad("q.h5ad")
    refused(["embed", folder, "q.h5ad"], "20 cells are of batches new to the model.*'new'.*'x', 'y'")
    as_x, as_y = query.copy(), query.copy()
    for data, name in ((as_x, "x"), (as_y, "y")):
        data.obs["batch"] = np.where(np.arange(70) < 20, name, query.obs["batch"])
    found, out = embedded(call, [folder, "q.h5ad", "--batch", "x"])
    assert np.array_equal(found.obsm["X_r2mae"], expected(reference, as_x))
    assert "20 cells of batches that the model does not know are taken as of 'x'" in out
    mean, out = embedded(call, [folder, "q.h5ad", "--batch", "mean"])
    z = mean.obsm["X_r2mae"]
    assert z[20:] == pytest.approx(expected(reference, as_x)[20:], abs=1e-5)  # known ones keep their own
    assert "the mean of its 2 batches" in out
    assert not np.allclose(z[:20], expected(reference, as_x)[:20], atol=1e-4)
    assert z[:20] == pytest.approx(mean_by_hand(reference, as_x, as_y)[:20], abs=1e-5)
    refused(["embed", folder, "q.h5ad", "--batch", "z"], "--batch z: the model knows 'x', 'y'")


def mean_by_hand(model, as_x, as_y):
    """The first layer's result averaged over the batches, and then the rest of the encoder."""
    import torch

    first = model.module.encoder.fc_layers[0][0]
    kept = []
    for data in (as_x, as_y):
        hook = first.register_forward_hook(lambda layer, inputs, output: kept.append(output.clone()))
        expected(model, data)
        hook.remove()
    mean = torch.stack(kept).mean(0)
    hook = first.register_forward_hook(lambda layer, inputs, output: mean)
    z = expected(model, as_x)
    hook.remove()
    return z


def test_columns_of_batches(call, reference, folder, query, refused):
    wanted = expected(reference, query)
    query.obs = query.obs.rename(columns={"batch": "sample"})
    query.write_h5ad("q.h5ad")
    refused(["embed", folder, "q.h5ad"], "have no column 'batch', by which the model knows its batches.*--batch_column")
    found, _ = embedded(call, [folder, "q.h5ad", "--batch_column", "sample"])
    assert np.array_equal(found.obsm["X_r2mae"], wanted)
    refused(["embed", folder, "q.h5ad", "--batch_column", "lane"], "obs has no column 'lane'")
    embedded(call, [folder, "q.h5ad", "--batch", "y"])
    query.obs["sample"] = query.obs["sample"].where(np.arange(70) > 3)
    query.write_h5ad("q.h5ad")
    refused(["embed", folder, "q.h5ad", "--batch_column", "sample"], "4 cells are of batches.*cells without a batch")


def test_a_model_without_batches(call, train, make_adata, query, refused):
    model = train(make_adata(), setup={}, max_epochs=1)
    model.export("plain")
    query.write_h5ad("q.h5ad")
    found, _ = embedded(call, ["plain", "q.h5ad"])
    assert np.array_equal(found.obsm["X_r2mae"], expected(model, query))
    refused(["embed", "plain", "q.h5ad", "--batch", "mean"], "the model was trained without batches")


def test_other_covariates(train, make_adata, query, tmp_path):
    setup = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["chemistry"],
        "continuous_covariate_keys": ["percent_mito"],
        "size_factor_key": "size",
    }
    data = make_adata()
    data.obs["size"], query.obs["size"] = np.arange(1.0, 121), np.arange(1.0, 71)
    model = train(data, setup=setup, max_epochs=1)
    query.write_h5ad("q.h5ad")
    found = anndata.read_h5ad(model.embed_file("q.h5ad", "e.h5ad"))
    assert np.array_equal(found.obsm["X_r2mae"], expected(model, query))
    query.obs["chemistry"] = "v9"
    query.write_h5ad("q.h5ad")
    with pytest.raises(UserError, match=r"'v9' of the column 'chemistry' was not in the model's training data.*'v2'"):
        model.embed_file("q.h5ad", "f.h5ad")
    del query.obs["percent_mito"]
    query.write_h5ad("q.h5ad")
    with pytest.raises(UserError, match="has no column 'percent_mito'"):
        model.embed_file("q.h5ad", "f.h5ad")


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "negative"), (np.nan, "NaN"), (np.inf, "infinite"), (0.5, "fractional.*--round")],
)
def test_values_that_are_no_counts(folder, query, refused, value, message):
    counts = query.X.toarray()
    counts[5, list(query.var_names).index("gene3")] = value
    query.X = sp.csr_matrix(counts)
    query.write_h5ad("q.h5ad")
    refused(["embed", folder, "q.h5ad"], f"cell 5 'cell5', gene .*'gene3'.*{message}")
    assert not Path("runs").exists() or not [*Path("runs").glob("*.h5ad")]


def test_fractions_are_rounded_on_request(call, reference, folder, query):
    wanted = expected(reference, query)
    query.X = sp.csr_matrix(query.X.toarray() + np.float32(0.25) * (query.X.toarray() > 0))
    query.write_h5ad("q.h5ad")
    found, out = embedded(call, [folder, "q.h5ad", "--round"])
    assert np.array_equal(found.obsm["X_r2mae"], wanted)
    assert f"{query[:, query.var_names != 'other'].X.nnz:,} fractional counts were rounded" in out


def test_blocks_do_not_change_the_result(reference, query, monkeypatch):
    query.write_h5ad("q.h5ad")
    whole = anndata.read_h5ad(reference.embed_file("q.h5ad", "a.h5ad")).obsm["X_r2mae"]
    monkeypatch.setattr(new_cells, "BATCH_SIZE", 16)
    parts = anndata.read_h5ad(reference.embed_file("q.h5ad", "b.h5ad")).obsm["X_r2mae"]
    assert parts == pytest.approx(whole, abs=1e-5)


def test_bad_input(folder, query, refused, reference, tmp_path):
    query[:0].write_h5ad("none.h5ad")
    refused(["embed", folder, "none.h5ad"], "none.h5ad has no cells")
    Path("empty.h5ad").touch()
    refused(["embed", folder, "empty.h5ad"], "empty.h5ad")
    refused(["embed", folder, "nothing.h5ad"], "no file nothing.h5ad")
    query.write_h5ad("q.h5ad")
    refused(["embed", "q.h5ad", "q.h5ad"], "q.h5ad is neither a run folder of pretrain nor a folder that export wrote")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("mask_ratio: r2mae\nseed: 0\n")
    refused(["embed", "run", "q.h5ad"], "run")
    refused(["embed", folder, "q.h5ad", "--counts", "layers/raw"], "no counts at layers/raw")
    refused(["embed", folder, "q.h5ad", "--out", "q.h5ad", "--overwrite"], "q.h5ad")


def test_cells_without_counts_are_counted(call, folder, query):
    counts = query.X.toarray()
    counts[[3, 9]] = 0
    query.X = sp.csr_matrix(counts)
    query.write_h5ad("q.h5ad")
    _, out = embedded(call, [folder, "q.h5ad"])
    assert "2 cells have no count in the model's genes" in out


def test_an_older_export_knows_its_names_alone(call, reference, folder, query):
    shutil.copytree(folder, "old")
    described = read_json(Path("old/model.json"))
    del described["gene_columns"], described["query"]
    write_json(Path("old/model.json"), described)
    write_checksums(Path("old"))
    query.write_h5ad("q.h5ad")
    found, _ = embedded(call, ["old", "q.h5ad"])
    assert np.array_equal(found.obsm["X_r2mae"], expected(reference, query))


def test_columns_of_genes_are_kept(reference, folder, tmp_path, make_adata):
    from r2mae_singlecell.genes import kept_gene_columns

    assert kept_gene_columns(R2MAE.from_export(folder)) == {"gene_ids": IDS}
    again = R2MAE.from_export(R2MAE.from_export(folder).export(tmp_path / "again"))
    assert kept_gene_columns(again) == {"gene_ids": IDS}
    reference.save(tmp_path / "saved")
    assert kept_gene_columns(R2MAE.load(tmp_path / "saved", make_adata())) == {"gene_ids": IDS}
