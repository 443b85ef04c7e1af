"""A clean run on real counts that are not scanpy's: 559 immune cells without any label (immune_cells/PROVENANCE.md)."""

from pathlib import Path

import anndata
import numpy as np
import pytest

CELLS = Path(__file__).parent / "immune_cells" / "immune_cells.h5ad"
QUIET = ("--device", "cpu", "--no-progress")
TINY = ("--epochs", 60, "--n_hidden", 64, "--n_latent", 32, "--batch_size", 50)


def across_cells(observed, predicted):
    """Correlation of each gene over the cells; the mean profile of the training cells would get 0."""
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(observed.T, predicted.T, strict=True)])


def proportions(counts, totals):
    return np.log1p(1e4 * counts / totals[:, None])


@pytest.fixture(scope="module")
def cells():
    """The cells to pretrain on and 100 that the model never sees, in random order."""
    cells = anndata.read_h5ad(CELLS)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    return cells[order[:-100]].copy(), cells[order[-100:]].copy()


def test_from_counts_without_labels_to_genes_of_unseen_cells(call, cells):
    known, new = cells
    known.write_h5ad("known.h5ad")
    new.write_h5ad("new.h5ad")
    run = (("prepare", "known.h5ad", "--out", "p.h5ad", "--n_genes", 800, "--no-progress"),)
    run += (("pretrain", "p.h5ad", "--out", "run", *TINY, *QUIET),)
    run += tuple((verb, "run", "new.h5ad", "--out", f"{verb}.h5ad", *QUIET) for verb in ("embed", "impute", "surprise"))
    for argv in run:
        code, _, err = call(*argv)
        assert code == 0, (argv, err)

    embedding, imputed = anndata.read_h5ad("embed.h5ad"), anndata.read_h5ad("impute.h5ad")
    assert list(embedding.obs_names) == list(imputed.obs_names) == list(new.obs_names)
    total = np.asarray(new.X).sum(axis=1, dtype=float)
    counts = np.asarray(new[:, imputed.var_names].X, float)
    observed = proportions(counts, total)
    predicted = proportions(np.asarray(imputed.X, float), np.asarray(imputed.X, float).sum(axis=1))
    found = (counts > 0).sum(axis=0) >= 20
    correlation = across_cells(observed[:, found], predicted[:, found])
    assert np.median(correlation) > 0.15
    assert (correlation > 0).mean() > 0.75
    markers = dict(zip(imputed.var_names[found], correlation, strict=True))
    assert min(markers[gene] for gene in ("LYZ", "S100A8", "SPP1", "NKG7")) > 0.35, markers

    code, _, err = call("probe", "run", "p.h5ad", "--held_out", "cells", *QUIET[:2])
    assert code == 1
    assert "cell_type" in err
    assert "Traceback" not in err
