"""`embed --adapt`: batches that a model does not know are learned from their cells, and nothing else changes."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from r2mae_core import file_digest
from r2mae_singlecell import R2MAE

DEVICE = ("--device", "cpu", "--no-progress")


@pytest.fixture
def query(make_adata):
    """Cells of the known batch x and of two new ones, in a file without two of the genes."""
    data = make_adata(90, 40, seed=3)
    data.obs["batch"] = np.array(["x", "new", "newer"])[np.arange(90) % 3]
    data = data[:, [i for i in range(40) if i not in (4, 11)]].copy()
    data.write_h5ad("q.h5ad")
    return data


def test_new_batches_are_learned(call, refused, trained, query, same_weights):
    trained.export("m")
    refused(["embed", "m", "q.h5ad", *DEVICE], "60 cells are of batches new to the model")
    short = ("--adapt", "--adapt_epochs", 3, "--adapt_lr", 0.01)
    for name in ("a", "b"):
        argv = ["embed", "m", "q.h5ad", *short, "--out", f"{name}.h5ad", "--out_model", f"{name}-model", *DEVICE]
        code, out, err = call(*argv)
        assert code == 0, err
    assert "Adapted model: b-model" in out
    one, other = anndata.read_h5ad("a.h5ad"), anndata.read_h5ad("b.h5ad")
    assert np.array_equal(one.obsm["X_r2mae"], other.obsm["X_r2mae"])  # to the bit
    assert file_digest(Path("a-model/model.safetensors")) == file_digest(Path("b-model/model.safetensors"))
    code, _, err = call("embed", "a-model", "q.h5ad", "--out", "again.h5ad", *DEVICE)  # it knows them now
    assert code == 0, err
    assert np.array_equal(anndata.read_h5ad("again.h5ad").obsm["X_r2mae"], one.obsm["X_r2mae"])
    model = R2MAE.from_export("a-model")
    assert model.is_query_
    assert model.missing_genes_.tolist() == [4, 11]
    # What the reference knew is as it was: its genes' weights, and the embedding of cells of its batches.
    before, after = trained.module.state_dict(), model.module.state_dict()
    first = "encoder.fc_layers.Layer 0.0.weight"
    assert np.array_equal(after[first][:, :42], before[first])  # 40 genes, x and y
    assert np.array_equal(after["to_genes.weight"], before["to_genes.weight"])
    known = query[query.obs["batch"] == "x"].copy()
    known.write_h5ad("known.h5ad")
    reference = anndata.read_h5ad(trained.embed_file("known.h5ad", "r.h5ad")).obsm["X_r2mae"]
    assert one.obsm["X_r2mae"][query.obs["batch"] == "x"] == pytest.approx(reference, abs=1e-5)


def test_learning_helps(trained, query):
    """Hidden counts of the new cells are more likely by the model that has seen their batch."""
    model_file = trained.embed_file("q.h5ad", "e.h5ad", adapt=True, out_model="m2", adapt_epochs=30, adapt_lr=0.01)
    assert model_file.name == "e.h5ad"
    learned = R2MAE.from_export("m2")
    values = []
    for model, batch in ((trained, "mean"), (learned, None)):
        table = model.surprise_file("q.h5ad", f"{batch}.tsv", batch=batch)
        values.append(pd.read_csv(table, sep="\t", index_col=0)["masked_nll"][(query.obs["batch"] != "x").to_numpy()])
    assert values[1].mean() < values[0].mean()


def test_what_is_refused(trained, query, refused, train, make_adata):
    trained.export("m")
    argv = ["embed", "m", "q.h5ad", "--adapt", "--out_model", "n", *DEVICE]
    refused(["embed", "m", "q.h5ad", "--adapt", *DEVICE], "--adapt and --out_model FOLDER belong together")
    refused([*argv, "--batch", "x"], "batches are either taken as others or learned; give one")
    refused([*argv, "--batch_column", "lane"], "obs has no column 'lane'")
    refused([*argv[:4], "--out_model", "m", *DEVICE], "m is an input|is there already")
    data = anndata.read_h5ad("q.h5ad")
    data.obs["batch"] = "x"
    data.write_h5ad("old.h5ad")
    refused([*argv[:2], "old.h5ad", *argv[3:]], "0 cells are of batches new to the model")
    data.obs["batch"] = np.where(np.arange(90) == 5, None, "new")
    data.write_h5ad("gap.h5ad")
    refused([*argv[:2], "gap.h5ad", *argv[3:]], "1 cells have no batch in the column 'batch', such as 'cell5'")
    train(make_adata(), setup={}, max_epochs=1).export("plain")
    refused(["embed", "plain", *argv[2:]], "trained without batches; leave it out")
