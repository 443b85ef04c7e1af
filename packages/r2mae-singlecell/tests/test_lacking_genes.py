"""Genes that the file of a cell lacks: no loss, gradient or held-out loss depends on what stands in their place."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import nbinom

from r2mae_core import UserError
from r2mae_singlecell import R2MAE
from r2mae_singlecell.imputation import _folds
from r2mae_singlecell.masking import hidden_in_cells
from r2mae_singlecell.reconstruction import held_out_loss

LACKED = [3, 7, 8, 21]


def union(make_adata, fill=0):
    """Cells of two files, the second of which lacks some genes, in whose place `fill` stands."""
    adata = make_adata()
    files = np.array(["a.h5ad", "b.h5ad"])[(np.arange(120) % 3 == 0).astype(int)]
    X = adata.X.toarray()
    X[np.ix_(files == "b.h5ad", LACKED)] = fill
    adata.X = sp.csr_matrix(X)
    adata.obs["file"] = pd.Categorical(files)
    adata.varm["r2mae_missing"] = np.array([[False, gene in LACKED] for gene in range(40)])
    adata.uns["r2mae"] = {"files": np.array(["a.h5ad", "b.h5ad"])}
    return adata


@pytest.mark.parametrize(
    "plan",
    [{}, {"ratio_per": "sample"}, {"loss_weight": "inverse_ratio"},
     {"ratio_per": "sample", "loss_weight": "inverse_ratio"}],
)  # fmt: skip
def test_what_stands_in_their_place_is_in_no_loss(make_adata, train, plan):
    """Wrong counts in their place change nothing."""

    def trained(fill):
        adata = union(make_adata, fill)
        adata.obs["size"] = 100.0
        model = train(adata, setup={"batch_key": "batch", "size_factor_key": "size"},
                      plan_kwargs=plan, check_val_every_n_epoch=1)  # fmt: skip
        return model, held_out_loss(model, model.validation_indices, [1.0])

    (first, loss), (second, same) = trained(0), trained(5)
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert np.array_equal(first.history["validation_loss"], second.history["validation_loss"])
    assert loss == same


def test_they_are_hidden_and_not_counted():
    present = torch.ones(4, 40, dtype=torch.bool)
    present[1::2, LACKED] = False
    mask, n = hidden_in_cells(40, torch.full((4,), 0.5), torch.Generator().manual_seed(0), present=present)
    assert mask.sum(1).tolist() == [20, 18, 20, 18]  # half of those that are there
    assert not (mask & ~present).any()
    assert int(n) == 76


def test_another_table_is_another_training(make_adata, train, tmp_path):
    train(union(make_adata), max_epochs=1, resume=tmp_path / "run")
    other = union(make_adata)
    other.varm["r2mae_missing"][0, 1] = True
    with pytest.raises(UserError, match="another missing_genes"):
        train(other, max_epochs=2, resume=tmp_path / "run")


def by_hand(model, X, obs, var, present, batch_size=1024):
    """The loss of each count from scipy's negative binomial, the library shared by the genes that were measured."""
    data = anndata.AnnData(sp.csr_matrix(np.where(present, X, 0)), obs=obs.copy(), var=var.copy())
    theta, nll = model.module.log_theta.detach().exp().numpy(), np.full(X.shape, np.nan)
    for fold in _folds(40, 0.25, 0):
        with torch.inference_mode():
            parts = [model._decoded(tensors, fold, None, 1.0) for tensors in model.batches(data, None, None)]
        share = np.concatenate(parts) * present
        mean = share / share.sum(1, keepdims=True) * np.where(present, X, 0).sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            nll[:, fold] = -nbinom.logpmf(X, theta, theta / (theta + mean))[:, fold]
    return np.where(present, nll, np.nan)


@pytest.mark.parametrize("where", ["training data", "other data"])
def test_they_are_in_no_mean(make_adata, trained, where, tmp_path):
    """Whatever stands in their place."""
    adata = union(make_adata, 7)
    X, rows = adata.X.toarray(), (adata.obs["file"] == "b.h5ad").to_numpy()
    present = np.ones((120, 40), bool)
    present[np.ix_(rows, LACKED)] = False
    present[:, 39] = False  # lacked by both
    adata.varm["r2mae_missing"][39] = True
    expected = by_hand(trained, X, adata.obs, adata.var, present)
    given, model = adata, trained
    if where == "training data":
        given, model = None, R2MAE.from_export(trained.export(tmp_path / "m"), adata)
    of_cells = model.get_masked_nll(given).to_numpy()
    of_genes = model.get_masked_nll(given, per="gene").to_numpy()
    assert of_cells == pytest.approx(np.nanmean(expected, axis=1), rel=1e-4)
    assert np.isnan(of_genes[39])
    assert of_genes[:39] == pytest.approx(np.nanmean(expected[:, :39], axis=0), rel=1e-4)


def test_they_are_in_no_mean_of_a_file(make_adata, trained, call):
    """Of a store that `prepare` made of two files, whose genes come in another order than the model's."""
    first, second = make_adata(60, 40, seed=5), make_adata(50, 40, seed=6)
    lacked = [f"gene{i}" for i in LACKED]
    first[:, ::-1].copy().write_h5ad("a.h5ad")
    second[:, ~second.var_names.isin(lacked)].copy().write_h5ad("b.h5ad")
    argv = ["a.h5ad", "b.h5ad", "--genes", "union", "--n_genes", 40, "--batch", "batch", "--out", "p.h5ad"]
    assert call("prepare", *argv, "--no-progress")[0] == 0
    prepared = anndata.read_h5ad("p.h5ad")
    found = anndata.read_h5ad(trained.surprise_file("p.h5ad", "s.h5ad"))
    prepared = prepared[:, trained.adata.var_names].copy()
    present = np.ones((110, 40), bool)
    present[np.ix_(prepared.obs["file"] == "b.h5ad", LACKED)] = False
    expected = by_hand(trained, prepared.X.toarray(), prepared.obs, prepared.var, present)
    assert found.obs["masked_nll"].to_numpy() == pytest.approx(np.nanmean(expected, axis=1), rel=1e-4)
    of_genes = found.var["masked_nll"][prepared.var_names]
    assert of_genes.to_numpy() == pytest.approx(np.nanmean(expected, axis=0), rel=1e-4)


def test_a_querys_missing_genes_are_in_no_mean(make_adata, trained, tmp_path):
    query = make_adata(30, 40, seed=4)
    query.obs["batch"] = "new"
    query = query[:, [i for i in range(40) if i not in (4, 11)]].copy()
    R2MAE.prepare_query_anndata(query, trained)
    model = R2MAE.load_query_data(query, trained)
    present = np.ones((30, 40), bool)
    present[:, [4, 11]] = False
    expected = by_hand(model, query.X.toarray(), query.obs, query.var, present)
    assert model.get_masked_nll().to_numpy() == pytest.approx(np.nanmean(expected, axis=1), rel=1e-4)
    of_genes = model.get_masked_nll(per="gene")
    assert list(of_genes.index[of_genes.isna()]) == ["gene4", "gene11"]
    query.write_h5ad("q.h5ad")  # with the mark of the missing ones
    found = anndata.read_h5ad(model.surprise_file("q.h5ad", tmp_path / "s.h5ad"))
    assert found.obs["masked_nll"].to_numpy() == pytest.approx(np.nanmean(expected, axis=1), rel=1e-4)
