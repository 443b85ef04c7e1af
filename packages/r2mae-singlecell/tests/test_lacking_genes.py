"""Genes that the file of a cell lacks: no loss, gradient or held-out loss depends on what stands in their place."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from r2mae_core import UserError
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
