"""Genes that the file of a cell lacks: no loss, gradient or held-out loss depends on what stands in their place."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import nbinom, pearsonr

from r2mae_core import UserError
from r2mae_singlecell import R2MAE
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.embedding import embed
from r2mae_singlecell.imputation import _folds
from r2mae_singlecell.masking import hidden_in_cells
from r2mae_singlecell.measured import measured_in_data
from r2mae_singlecell.options import Embed, Report
from r2mae_singlecell.reconstruction import held_out_loss, left_out, reconstruction_pearson
from r2mae_singlecell.report import read_cells

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
    argv = ["a.h5ad", "b.h5ad", "--genes", "union", "--n_genes", 40, "--batch_column", "batch", "--out", "p.h5ad"]
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


@pytest.mark.parametrize("genes", ["hidden", "all"])
def test_they_are_in_no_correlation(make_adata, genes):
    """Neither what stands in their place nor what is predicted for them; the reference is scipy, cell by cell."""
    adata = union(make_adata, 7)
    X, rows = adata.X.toarray(), (adata.obs["file"] == "b.h5ad").to_numpy()
    present = np.ones((120, 40), bool)
    present[np.ix_(rows, LACKED)] = False
    guesses, cells, asked = np.random.default_rng(1).dirichlet(np.ones(40), 120), np.arange(5, 115), []

    def predict(block, hidden):
        asked.append(hidden)
        return guesses[block]

    (record,) = reconstruction_pearson(
        predict, adata.X, cells, ratios=(0.5,), genes=genes, measured=measured_in_data(adata, None, 40)
    )
    expected = []
    for cell in cells:
        here = np.flatnonzero(present[cell])
        columns = here if genes == "all" else np.intersect1d(asked[0], here)
        truth = np.log1p(X[cell] / X[cell, here].sum() * 1e4)[columns]
        guess = np.log1p(guesses[cell] / guesses[cell, here].sum() * 1e4)[columns]
        expected.append(pearsonr(truth, guess).statistic)
    assert record.value == pytest.approx(np.mean(expected), rel=1e-6)
    assert record.n == 110


def test_a_cell_without_two_measured_genes_has_no_correlation(make_adata):
    adata = union(make_adata)
    adata.varm["r2mae_missing"][1:, 1] = True
    measured, cells = measured_in_data(adata, None, 40), np.arange(120)
    (record,) = reconstruction_pearson(
        lambda block, hidden: np.tile(np.arange(40) / 780, (len(block), 1)), adata.X, cells, ratios=(1.0,),
        measured=measured,
    )  # fmt: skip
    assert record.n == (adata.obs["file"] == "a.h5ad").sum() == 80
    first, second = left_out(measured, cells, [record])
    assert first == ("40 of 120 cells come from files that lack 39 of 40 genes: these are left out of what is computed "
                     "for the cells")  # fmt: skip
    assert second.startswith("pearson@1: 40 of 120 cells have no correlation")


def test_held_out_loss_counts_entries_not_cells(make_adata, trained, tmp_path):
    """A file that has none of the hidden genes has no loss; it was taken for a loss of 0."""
    adata = union(make_adata)
    adata.varm["r2mae_missing"][:, 1] = True
    model = R2MAE.from_export(trained.export(tmp_path / "m"), adata)
    of_a = np.flatnonzero(adata.obs["file"] == "a.h5ad")
    of_b = np.flatnonzero(adata.obs["file"] == "b.h5ad")
    expected = held_out_loss(model, of_a, [1.0])[1.0]
    assert held_out_loss(model, np.arange(120), [1.0])[1.0] == pytest.approx(expected)
    assert np.isnan(held_out_loss(model, of_b, [1.0])[1.0])


def test_commands_leave_them_out_and_say_so(make_adata, call):
    first, second = make_adata(90, 40, seed=5), make_adata(60, 40, seed=6)
    second = second[:, 8:].copy()
    second.obs_names = [f"b{i}" for i in range(60)]
    first.write_h5ad("a.h5ad")
    second.write_h5ad("b.h5ad")
    argv = [
        "a.h5ad",
        "b.h5ad",
        "--genes",
        "union",
        "--n_genes",
        40,
        "--batch_column",
        "batch",
        "--cell_type_column",
        "kind",
    ]
    assert call("prepare", *argv, "--out", "p.h5ad", "--no-progress")[0] == 0
    size = ["--epochs", 1, "--n_hidden", 8, "--n_latent", 4, "--batch_size", 30, "--device", "cpu", "--no-progress"]
    assert call("pretrain", "p.h5ad", "--out", "run", *size)[0] == 0
    code, out, _ = call("reconstruct", "run", "p.h5ad", "--ratios", "[0.5]", "--device", "cpu", "--out", "rec")
    assert code == 0
    n = int((anndata.read_h5ad("p.h5ad").obs["file"].to_numpy()[pretraining_split(150)[1]] == "b.h5ad").sum())
    assert f"Note: {n} of 15 cells come from files that lack 8 of 40 genes" in " ".join(out.split())
    cells, remarks = read_cells(
        Report(Path("run"), Path("p.h5ad")),
        embed(Embed(Path("run"), Path("p.h5ad"), out=Path("z.h5ad"), device="cpu", progress=False)),
    )
    assert set(cells.genes) == set(second.var_names)
    assert "8 of 40 genes are lacked by the file of some cells, so they are left out" in remarks
