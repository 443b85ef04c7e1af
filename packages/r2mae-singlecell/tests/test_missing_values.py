"""Messages name the cell, the gene and the column; nothing goes on with values that are none."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell import R2MAE, Simulation, prepare_atlas, probe_embedding, simulate_atlas
from r2mae_singlecell.baselines import BaselineSettings, train_scvi
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.divisions import TASKS

ATLAS = Simulation(n_donors=20, n_cells=120, n_genes=40, unknown=0.0)


def test_missing_values_are_named_where_they_enter(trained, adata, make_adata):
    query = make_adata()
    query.X.data[5] = np.nan
    with pytest.raises(
        UserError, match=r"adata.X, cell 'cell0', gene 'gene\d+': a missing value \(NaN\); raw counts are needed"
    ):
        trained.get_latent_representation(query)
    query.X = query.X.toarray()
    query.X[:] = 1
    query.X[7, 3] = np.inf
    with pytest.raises(UserError, match=r"cell 'cell7', gene 'gene3': an infinite value"):
        trained.get_masked_nll(query)
    adata.obs["size"], adata.obs["word"] = 1.0, "x"
    adata.obs["large"], adata.obs["small"] = 1e300, 1e-300  # infinite and 0 for the network
    adata.obs.loc["cell4", ["percent_mito", "size"]] = np.nan, 0.0
    adata.obs.loc["cell5", "batch"] = None
    for setup, message in (
        ({"continuous_covariate_keys": ["percent_mito"]}, "'percent_mito'] has 1 missing or infinite .* cell 'cell4'"),
        (
            {"size_factor_key": "size"},
            "'size'] has 1 values that are not above 0 or infinite, the first of them in cell 'cell4'",
        ),
        ({"continuous_covariate_keys": ["large"]}, "'large'] has 120 missing or infinite"),
        ({"size_factor_key": "large"}, "'large'] has 120 values that are not above 0 or infinite"),
        ({"size_factor_key": "small"}, "'small'] has 120 values that are not above 0"),
        ({"batch_key": "batch"}, "'batch'] has 1 missing values, the first of them in cell 'cell5'"),
        ({"batch_key": "nothing"}, "no column 'nothing'; its columns: kind"),
        ({"continuous_covariate_keys": ["word"]}, "'word'] is .*, not numbers"),
    ):
        with pytest.raises(UserError, match=message):
            R2MAE.setup_anndata(adata, **setup)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "a missing value"),
        (np.inf, "an infinite value"),
        (3e9, "3e.09 is more"),
        (0.5, "0.5"),
    ],
)
def test_counts_that_are_none_are_named_by_cell_and_gene(here, value, message):
    adata = simulate_atlas(ATLAS)
    X = adata.raw.X.toarray()
    X[23, 11] = value
    adata.layers["c"] = sp.csr_matrix(X)
    adata.write_h5ad("b.h5ad")
    with pytest.raises(
        UserError, match=rf"layers/c, cell 23 'cell23', gene 11 'ENSG\d+' \(counted from 0\): .*{message}"
    ):
        prepare_atlas(Path("b.h5ad"), Path("x.h5ad"), "hlca", {"counts": "layers/c"}, block=10, progress=False)


def test_a_batch_called_nan_is_warned_of(adata):
    adata.obs["lane"] = ["nan"] * 60 + ["one"] * 60
    for setup in ({"batch_key": "lane"}, {"categorical_covariate_keys": ["lane"]}):
        with pytest.warns(UserWarning, match=r"'lane'] is 'nan' in 60 cells, the first of them 'cell0'"):
            R2MAE.setup_anndata(adata, **setup)


def test_fractional_counts_are_refused_with_a_remedy_that_exists(trained, adata):
    adata.X = adata.X * 0.93
    remedy = r"'gene\d+': [\d.]+ is fractional; .*adata.X = numpy.rint\(adata.X\) or `r2mae-singlecell prepare --round`"
    with pytest.raises(UserError, match=remedy):
        R2MAE.setup_anndata(adata)
    with pytest.raises(UserError, match=remedy):
        trained.get_latent_representation(adata)
    adata.X = np.rint(adata.X)
    R2MAE.setup_anndata(adata)


def test_one_word_for_genes_that_stand_twice(trained, adata):
    twice = adata.copy()
    twice.var_names = [*adata.var_names[:-1], "gene0"]
    message = "1 gene names stand twice, such as 'gene0'"
    with pytest.raises(UserError, match=f"{message}.*var_names_make_unique.*--duplicates sum"):
        R2MAE.setup_anndata(twice)
    with pytest.raises(UserError, match=message):
        R2MAE.prepare_query_anndata(twice, trained)
    with pytest.raises(UserError, match=message):
        R2MAE.load_query_data(twice, trained)
    R2MAE.setup_anndata(twice[:, ~twice.var_names.duplicated()].copy())
    twice.var_names_make_unique()
    R2MAE.setup_anndata(twice)


def test_genes_that_stand_twice_are_named_with_a_remedy(here):
    raw = simulate_atlas(ATLAS).raw.to_adata()
    raw.var_names = [*raw.var_names[:-1], raw.var_names[0]]
    raw.write_h5ad("c.h5ad")
    with pytest.raises(UserError, match=r"1 gene names stand twice, such as 'ENSG00000000000'.*--duplicates: sum"):
        prepare_atlas(Path("c.h5ad"), Path("x.h5ad"), "hlca", {"counts": "X"}, progress=False)


def test_data_with_an_unknown_batch_is_named(refused, here):
    with h5py.File("p.h5ad", "r+") as file:
        del file["uns/r2mae/digest"]  # as an older version wrote it: unchecked
        file["obs/batch/categories"][0] = "elsewhere"
    refused(
        ("embed", "run", "p.h5ad", "--out", "x.h5ad"), "batches new to the model, by the column 'batch': 'elsewhere'"
    )


def test_an_embedding_with_gaps_is_not_probed(here):
    obs = read_prepared(Path("p.h5ad")).obs
    z = np.random.default_rng(0).normal(size=(len(obs), 3))
    z[4, 1] = np.nan
    with pytest.raises(
        UserError, match=rf"mine has NaN or infinite values in 1 cells, the first of them '{obs.index[4]}'"
    ):
        probe_embedding(z, obs, TASKS["hlca"], scheme="mine")
    z[4, 1], obs["cell_type"] = 0.0, "one"
    with pytest.raises(
        UserError, match=r"mine: no division can be measured, for instance cell_type, division 0: only one class.*'one'"
    ):
        probe_embedding(z, obs, TASKS["hlca"][:1], scheme="mine")


def test_scvi_trains_also_on_fewer_cells_than_a_batch(make_adata):
    untrained = train_scvi("scvi=2", make_adata(60), BaselineSettings(1, 400, device="cpu")).module.state_dict()
    trained = train_scvi("scvi=2", make_adata(60), BaselineSettings(9, 400, device="cpu")).module.state_dict()
    assert any(not untrained[name].equal(trained[name]) for name in trained)
