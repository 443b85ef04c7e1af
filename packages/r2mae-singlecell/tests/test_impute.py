"""`impute` and `surprise` on files: the same values as the methods in memory, with genes that the file lacks."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import nbinom

from r2mae_singlecell.imputation import _folds

DEVICE = ("--device", "cpu", "--no-progress")


@pytest.fixture
def folder(trained, tmp_path):
    trained.export(tmp_path / "m")
    return Path("m")


def test_imputed_as_in_memory(call, trained, folder, make_adata):
    query = make_adata(50, 40, seed=4)[:, ::-1].copy()
    query.write_h5ad("q.h5ad")
    code, _, err = call("impute", folder, "q.h5ad", "--out", "i.h5ad", "--library_size", 1e4, "--seed", 3, *DEVICE)
    assert code == 0, err
    found = anndata.read_h5ad("i.h5ad")
    again = query[:, trained.adata.var_names].copy()
    wanted = trained.get_reconstruction(again, mask_ratio=0.25, library_size=1e4, seed=3)
    assert list(found.var_names) == list(wanted.columns)
    assert list(found.obs_names) == list(wanted.index)
    assert np.array_equal(found.X, wanted.to_numpy())
    code, _, _ = call("impute", "q.h5ad", folder, "--genes", "[gene7,gene3]", "--out", "two.h5ad", *DEVICE)
    two = anndata.read_h5ad("two.h5ad")
    assert list(two.var_names) == ["gene7", "gene3"]
    assert np.array_equal(two.X, trained.get_reconstruction(again, genes=["gene7", "gene3"]).to_numpy())


def test_a_gene_that_the_file_lacks_is_imputed(call, trained, folder, make_adata):
    whole = make_adata(50, 40, seed=4)
    whole[:, [i for i in range(40) if i != 6]].copy().write_h5ad("q.h5ad")
    assert call("impute", folder, "q.h5ad", "--genes", "[gene6]", "--out", "i.h5ad", *DEVICE)[0] == 0
    found = anndata.read_h5ad("i.h5ad")
    assert found.X[:, 0] == pytest.approx(trained.get_reconstruction(whole, genes=["gene6"]).to_numpy()[:, 0], rel=1e-6)
    assert list(found.var["measured"]) == [False]


def test_unknown_genes_are_named(folder, make_adata, refused):
    make_adata(20, 40).write_h5ad("q.h5ad")
    refused(["impute", folder, "q.h5ad", "--genes", "[CD3E]"], "the model does not know 'CD3E'; it names genes like")
    refused(["impute", folder, "q.h5ad", "--genes", "[gene1,gene1]"], "more than once")


def test_surprise_as_in_memory(call, trained, folder, make_adata):
    query = make_adata(50, 40, seed=4)
    query.write_h5ad("q.h5ad")
    assert call("surprise", folder, "q.h5ad", "--out", "s.h5ad", "--seed", 2, *DEVICE)[0] == 0
    found = anndata.read_h5ad("s.h5ad")
    for table, per in ((found.obs, "cell"), (found.var, "gene")):
        wanted = trained.get_masked_nll(query, per=per, seed=2)
        assert list(table.index) == list(wanted.index)
        assert table["masked_nll"].to_numpy() == pytest.approx(wanted.to_numpy(), rel=1e-5)
    for what in ("cells", "genes"):
        argv = ["surprise", folder, "q.h5ad", "--out", f"{what}.tsv", "--table", what, "--seed", 2, *DEVICE]
        assert call(*argv)[0] == 0
        table = pd.read_csv(f"{what}.tsv", sep="\t", index_col=0)
        both = found.obs if what == "cells" else found.var
        assert table["masked_nll"].to_numpy() == pytest.approx(both["masked_nll"].to_numpy(), rel=1e-6)


def test_absent_genes_are_no_surprise(trained, make_adata):
    """Their zeros are no observations: by scipy, with the library shared by the genes that are there."""
    absent, query = [4, 11, 30], make_adata(30, 40, seed=4)
    present = [i for i in range(40) if i not in absent]
    query[:, present].copy().write_h5ad("q.h5ad")
    trained.surprise_file("q.h5ad", "s.h5ad", mask_ratio=0.3, seed=1)
    found = anndata.read_h5ad("s.h5ad")
    assert np.flatnonzero(found.var["masked_nll"].isna()).tolist() == absent
    x = query.X.toarray()
    x[:, absent] = 0
    data = anndata.AnnData(sp.csr_matrix(x), obs=query.obs.copy(), var=query.var.copy())
    theta, nll = trained.module.log_theta.detach().exp().numpy(), np.zeros((30, 40))
    for fold in _folds(40, 0.3, 1):
        with torch.inference_mode():
            share = np.concatenate([trained._decoded(t, fold, None, 1.0) for t in trained.batches(data, None, None)])
        share = share / share[:, present].sum(1, keepdims=True)
        mean = share * x.sum(1, keepdims=True)
        nll[:, fold] = -nbinom.logpmf(x, theta, theta / (theta + mean))[:, fold]
    assert found.obs["masked_nll"].to_numpy() == pytest.approx(nll[:, present].mean(1), rel=1e-4)
    assert found.var["masked_nll"].to_numpy()[present] == pytest.approx(nll[:, present].mean(0), rel=1e-4)


@pytest.mark.parametrize("command", ["embed", "impute", "surprise"])
def test_a_name_that_promises_another_format(folder, make_adata, refused, command):
    make_adata(20, 40).write_h5ad("q.h5ad")
    refused([command, folder, "q.h5ad", "--out", "i.zarr"], r"--out i\.zarr: name a file that ends in \.h5ad")
    assert not Path("i.zarr").exists()
