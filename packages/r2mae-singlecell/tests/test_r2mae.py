import anndata
import lightning.pytorch as pl
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch
from scipy.stats import nbinom

from r2mae_core import Curriculum, Fixed, Uniform, UserError, quiet_lightning
from r2mae_singlecell import R2MAE
from r2mae_singlecell.masking import gene_folds
from r2mae_singlecell.plan import as_sampler

FULL_SETUP = {
    "batch_key": "batch",
    "labels_key": "kind",
    "categorical_covariate_keys": ["chemistry"],
    "continuous_covariate_keys": ["percent_mito"],
}


def proportions(model, adata, columns=None):
    """The decoder's output, step by step in numpy."""
    module = model.module
    x = adata.X.toarray().copy()
    if columns is not None:
        x[:, columns] = 0
    batch = np.eye(2)[(adata.obs["batch"] == "y").to_numpy(int)]

    def layer(h, block):
        linear, norm = block[0], block[1]
        h = h @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        scale = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
        return np.maximum((h - norm.running_mean.numpy()) * scale + norm.bias.detach().numpy(), 0)

    h = np.concatenate([np.log1p(x), batch], axis=1)
    for block in module.encoder.fc_layers:
        h = layer(h, block)
    z = h @ module.to_latent.weight.detach().numpy().T + module.to_latent.bias.detach().numpy()
    h = layer(np.concatenate([z, batch], axis=1), module.decoder.fc_layers[0])
    logits = h @ module.to_genes.weight.detach().numpy().T + module.to_genes.bias.detach().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    return z, p / p.sum(1, keepdims=True)


def test_network_is_the_one_of_the_paper(trained):
    z, p = proportions(trained, trained.adata)
    assert np.allclose(trained.get_latent_representation(), z, atol=1e-4)
    assert np.allclose(trained.get_normalized_expression(return_numpy=True), p, atol=1e-5)
    assert len(trained.module.encoder.fc_layers) == 2  # and the projection: three layers
    assert len(trained.module.decoder.fc_layers) == 1


def test_training_beats_the_mean_profile(trained):
    """Hidden genes are predicted from the others: better than by the average cell, as a broken encoder would."""
    adata = trained.adata
    mean = np.asarray(adata.X.sum(0)).ravel()
    truth = np.log1p(adata.X.toarray())
    guess = np.log1p(trained.get_reconstruction(mask_ratio=0.25, library_size="latent").to_numpy())
    plain = np.log1p(mean / mean.sum() * np.asarray(adata.X.sum(1)))
    assert ((truth - guess) ** 2).mean() < 0.9 * ((truth - plain) ** 2).mean()


def test_usual_workflow_of_scvi_tools(adata, train):
    adata.layers["counts"] = adata.X.copy()
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray()))
    model = train(adata, setup={"layer": "counts", **FULL_SETUP}, max_epochs=20, check_val_every_n_epoch=1)
    assert model.is_trained
    assert {"train_loss", "validation_loss", "reconstruction_loss_validation"} <= set(model.history)
    assert len(model.history["train_loss"]) == 20
    assert model.history["validation_loss"].iloc[-1, 0] < model.history["validation_loss"].iloc[0, 0]
    assert len(model.validation_indices) + len(model.train_indices) == 120
    adata.obsm["X_r2mae"] = model.get_latent_representation()
    assert adata.obsm["X_r2mae"].shape == (120, 8)
    part = adata[adata.obs["kind"] == "a"].copy()
    assert np.allclose(
        model.get_latent_representation(part), adata.obsm["X_r2mae"][adata.obs["kind"] == "a"], atol=1e-5
    )
    assert np.allclose(model.get_latent_representation(indices=[5, 2]), adata.obsm["X_r2mae"][[5, 2]], atol=1e-5)
    model.view_anndata_setup()
    assert model.registry["setup_args"]["layer"] == "counts"
    assert "n_latent: 8" in model._model_summary_string


@pytest.mark.slow
def test_scanpy_goes_on_from_the_latent(trained):
    import scanpy as sc

    adata = anndata.AnnData(trained.get_latent_representation(), trained.adata.obs.copy())
    sc.pp.neighbors(adata, use_rep="X", n_neighbors=10)
    sc.tl.umap(adata, maxiter=20)
    assert adata.obsm["X_umap"].shape == (120, 2)


def test_latent_separates_the_cell_types(trained):
    z, kind = trained.get_latent_representation(), trained.adata.obs["kind"].to_numpy()
    centres = {name: z[kind == name].mean(0) for name in "ab"}
    nearer = np.linalg.norm(z - centres["a"], axis=1) < np.linalg.norm(z - centres["b"], axis=1)
    assert (nearer == (kind == "a")).mean() > 0.9


def test_expression_options(trained):
    whole = trained.get_normalized_expression()
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-5)
    assert list(whole.columns) == list(trained.adata.var_names)
    some = trained.get_normalized_expression(gene_list=["gene7", "gene3"], library_size=1e4, indices=[0, 9])
    assert np.allclose(some, whole.iloc[[0, 9]][["gene7", "gene3"]] * 1e4, rtol=1e-4)
    latent = trained.get_normalized_expression(library_size="latent")
    assert np.allclose(latent.sum(axis=1), np.asarray(trained.adata.X.sum(1)).ravel(), rtol=1e-4)
    x, y = (trained.get_normalized_expression(transform_batch=b, return_numpy=True) for b in "xy")
    own = (trained.adata.obs["batch"] == "y").to_numpy()
    assert np.allclose(np.where(own[:, None], y, x), whole, atol=1e-6)
    both = trained.get_normalized_expression(transform_batch=["x", "y"], return_numpy=True)
    assert np.allclose(both, (x + y) / 2, atol=1e-6)
    with pytest.raises(UserError, match="unknown batch 'z'; the model knows"):
        trained.get_normalized_expression(transform_batch="z")
    with pytest.raises(UserError, match="1 genes are unknown to the model, such as 'TP53'"):
        trained.get_normalized_expression(gene_list=["gene1", "TP53"])


def test_imputed_genes_are_not_computed_from_their_own_counts(trained):
    changed = trained.adata.copy()
    X = changed.X.toarray()
    X[:, 5] = np.random.default_rng(0).poisson(50, len(X))
    changed.X = sp.csr_matrix(X)
    before, after = (trained.get_reconstruction(a, genes=["gene5"]) for a in (trained.adata, changed))
    assert np.array_equal(before, after)
    everything = [trained.get_reconstruction(a, mask_ratio=0.2, seed=3)["gene5"] for a in (trained.adata, changed)]
    assert np.array_equal(*everything)
    fold = next(fold for fold in gene_folds(40, 0.2, 3) if 5 in fold)
    assert np.allclose(everything[0], proportions(trained, trained.adata, fold.numpy())[1][:, 5], atol=1e-5)
    with pytest.raises(UserError, match="either mask_ratio"):
        trained.get_reconstruction()
    with pytest.raises(UserError, match="mask_ratio must be in"):
        trained.get_reconstruction(mask_ratio=0.0)


def test_masked_nll_equals_scipy(trained):
    theta, x = trained.module.log_theta.exp().detach().numpy(), trained.adata.X.toarray()
    expected = np.empty_like(x)
    for fold in gene_folds(40, 0.25, 0):
        mu = proportions(trained, trained.adata, fold.numpy())[1] * x.sum(1, keepdims=True)
        expected[:, fold] = -nbinom.logpmf(x, theta, theta / (theta + mu))[:, fold]
    per_cell, per_gene = trained.get_masked_nll(), trained.get_masked_nll(per="gene")
    assert np.allclose(per_cell, expected.mean(1), rtol=1e-4)
    assert np.allclose(per_gene, expected.mean(0), rtol=1e-4)
    assert list(per_gene.index) == list(trained.adata.var_names)


def test_samples_have_the_mean_and_spread_of_the_likelihood(trained):
    draws = trained.posterior_predictive_sample(indices=[0, 1], n_samples=4000)
    assert draws.shape == (2, 40, 4000)
    mu = trained.get_normalized_expression(indices=[0, 1], library_size="latent", return_numpy=True)
    theta = trained.module.log_theta.exp().detach().numpy()
    deviation = np.sqrt((mu + mu**2 / theta) / 4000)
    assert np.abs(draws.mean(-1) - mu).max() < 5 * deviation.max()
    assert np.allclose(draws.var(-1).sum(), (mu + mu**2 / theta).sum(), rtol=0.1)
    assert trained.posterior_predictive_sample(gene_list=["gene1"]).shape == (120, 1)


def test_methods_of_a_posterior_name_the_alternative(trained):
    for method, instead in {
        "differential_expression": "rank_genes_groups",
        "get_elbo": "get_masked_nll",
        "get_latent_library_size": "sum of a cell's counts",
    }.items():
        with pytest.raises(NotImplementedError, match=instead):
            getattr(trained, method)()


@pytest.mark.parametrize("with_adata", [True, False])
def test_save_and_load(adata, train, with_adata, tmp_path, make_adata, same_weights):
    model = train(adata, setup=FULL_SETUP, init={"mask_ratio": Uniform(0.2, 0.6)})
    model.save(tmp_path / "m", save_anndata=with_adata)
    loaded = R2MAE.load(tmp_path / "m", None if with_adata else adata)
    assert same_weights(model, loaded)
    assert loaded.mask_ratio == model.mask_ratio
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    without = R2MAE.load(tmp_path / "m", adata=False)
    assert np.allclose(without.get_latent_representation(make_adata()), model.get_latent_representation(), atol=1e-6)


def test_export_holds_numbers_and_text_only(adata, train, tmp_path, make_adata, same_weights):
    model = train(adata, setup=FULL_SETUP, init={"mask_ratio": Fixed(0.3)})
    model.export(tmp_path / "x")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["SHA256SUMS", "model.json", "model.safetensors"]
    fresh = make_adata()
    for loaded in (R2MAE.from_export(tmp_path / "x", fresh), R2MAE.from_export(tmp_path / "x")):
        assert same_weights(model, loaded)
        assert loaded.mask_ratio == Fixed(0.3)
        assert np.array_equal(loaded.get_latent_representation(fresh), model.get_latent_representation())
    with pytest.raises(UserError, match=r"the genes are not those of the model: the order differs"):
        R2MAE.from_export(tmp_path / "x", fresh[:, ::-1].copy())
    (tmp_path / "x" / "model.json").write_text('{"format": 1')
    with pytest.raises(UserError, match="is damaged"):
        R2MAE.from_export(tmp_path / "x")
    with pytest.raises(UserError, match=r"no exported model .* model.json is missing"):
        R2MAE.from_export(tmp_path / "nowhere")


def test_query_with_a_new_batch_and_missing_genes(trained, train, make_adata):
    query = make_adata(90, 40, seed=1)
    query.obs["batch"] = "new"
    query = query[:, [i for i in range(40) if i not in (4, 11)][::-1]].copy()
    with pytest.raises(UserError, match=r"2 are missing and 0 are unknown.*prepare_query_anndata"):
        trained.get_latent_representation(query.copy())
    with pytest.raises(UserError, match=r"2 are missing"):
        R2MAE.load_query_data(query.copy(), trained)
    R2MAE.prepare_query_anndata(query, trained)
    assert list(query.var_names) == list(trained.adata.var_names)
    assert np.flatnonzero(query.var["r2mae_missing"]).tolist() == [4, 11]
    with pytest.raises(UserError, match=r"load_query_data\(adata, model\) returns a model that can learn it"):
        trained.get_latent_representation(query.copy())
    with quiet_lightning():
        model = R2MAE.load_query_data(query, trained)
        before = {key: value.clone() for key, value in model.module.state_dict().items()}
        assert model.missing_genes_.tolist() == [4, 11]
        seen = []
        original = model.module.hidden_nll
        model.module.hidden_nll = lambda t, c: (seen.extend(c.tolist()), original(t, c))[1]
        model.train(max_epochs=5, batch_size=30, accelerator="cpu", enable_progress_bar=False)
    assert set(seen) == set(range(40)) - {4, 11}  # a missing gene has no count to compare with
    after = model.module.state_dict()
    weight = "encoder.fc_layers.Layer 0.0.weight"
    assert torch.equal(after[weight][:, :42], before[weight][:, :42])  # scArches: only the new batch learns
    assert not torch.equal(after[weight][:, 42:], before[weight][:, 42:])
    assert model.get_latent_representation().shape == (90, 8)


def test_missing_gene_is_the_same_as_a_hidden_one(trained):
    """A query that lacks a gene embeds as the full data with that gene hidden."""
    query = trained.adata[:, [i for i in range(40) if i != 6]].copy()
    R2MAE.prepare_query_anndata(query, trained)
    z = trained.get_latent_representation(query)
    tensors = next(trained.batches(None, None, 120))
    inputs = trained.module._get_inference_input(tensors)
    with torch.inference_mode():
        hidden = trained.module.inference(**inputs, columns=torch.tensor([6]))["z"]
    assert np.allclose(z, hidden, atol=1e-6)


def test_samplers_by_name_number_and_curriculum(adata):
    assert as_sampler("r2mae") == Uniform(0.1, 0.5)
    assert as_sampler(0.4) == Fixed(0.4)
    assert as_sampler("r2mae", seed=3) == Uniform(0.1, 0.5, 3)
    with_weights = as_sampler("r2mae", "easy-to-hard")
    assert isinstance(with_weights, Curriculum)
    assert with_weights == as_sampler("r2mae+cl")
    assert as_sampler(0.25, "k0") == as_sampler("cl-k0")
    with pytest.raises(UserError, match="curriculum must be"):
        as_sampler("r2mae", "hard")
    with pytest.raises(UserError, match="unknown mask scheme 'r2d2'"):
        as_sampler("r2d2")
    R2MAE.setup_anndata(adata)
    assert R2MAE(adata, n_hidden=8, n_latent=4, mask_ratio="r2mae+cl").module.curriculum.n_columns == 10
    assert R2MAE(adata, n_hidden=8, n_latent=4).module.curriculum is None


def test_unusable_counts(adata):
    bad = adata.copy()
    bad.X = sp.csr_matrix(bad.X.toarray() - 1)
    with pytest.raises(UserError, match=r"adata.X, cell .*: a negative value, -1; .*setup_anndata\(adata, layer"):
        R2MAE.setup_anndata(bad)
    bad.layers["raw"] = bad.X.copy()
    with pytest.raises(UserError, match=r"adata.layers\['raw'\], cell"):
        R2MAE.setup_anndata(bad, layer="raw")
    with pytest.raises(UserError, match=r"adata.layers\['nothing'\] does not exist; layers: \['raw'\]"):
        R2MAE.setup_anndata(bad, layer="nothing")
    twice = adata.copy()
    twice.var_names = ["gene0"] * 2 + list(adata.var_names[2:])
    with pytest.raises(UserError, match=r"1 gene names stand twice, such as 'gene0'.*var_names_make_unique"):
        R2MAE.setup_anndata(twice)
    nan = adata.copy()
    nan.X.data[0] = np.nan
    with pytest.raises(UserError, match="a missing value"):
        R2MAE.setup_anndata(nan)


def test_cells_without_counts_are_warned_of(adata):
    empty = adata.copy()
    empty.X = sp.csr_matrix(empty.X.toarray() * (np.arange(120) != 3)[:, None])
    with pytest.warns(UserWarning, match=r"1 cells of adata.X have no counts"):
        R2MAE.setup_anndata(empty)
    model = R2MAE(empty, n_hidden=8, n_latent=4)
    model.is_trained_ = True
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.get_masked_nll()).all()


def test_size_factors_replace_the_library(adata):
    adata.obs["size"] = 100.0
    R2MAE.setup_anndata(adata, size_factor_key="size")
    model = R2MAE(adata, n_hidden=8, n_latent=4)
    model.is_trained_ = True
    assert np.allclose(model.get_normalized_expression(library_size="latent").sum(axis=1), 100, rtol=1e-4)


class Cells(pl.LightningDataModule):
    """A data module of the kind that scvi-tools takes in place of AnnData."""

    def __init__(self, adata):
        super().__init__()
        R2MAE.setup_anndata(adata, batch_key="batch")
        manager = R2MAE(adata, n_hidden=8, n_latent=4).adata_manager
        self.registry, self.n_obs = manager.registry, adata.n_obs
        codes = manager.get_from_registry("batch").astype(np.int64)
        x = adata.X.toarray()
        self.rows = [{"X": torch.from_numpy(x[i]), "batch": torch.from_numpy(codes[i])} for i in range(len(x))]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.rows, batch_size=30, shuffle=True)

    def inference_dataloader(self):
        return torch.utils.data.DataLoader(self.rows, batch_size=50)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_data_module_in_place_of_adata(adata, same_weights, tmp_path):
    cells = Cells(adata)
    scvi.settings.seed = 0
    model = R2MAE(registry=cells.registry, n_hidden=32, n_latent=8)
    with quiet_lightning():
        model.train(max_epochs=30, datamodule=cells, accelerator="cpu", enable_progress_bar=False)
    history = model.history["train_loss"].to_numpy(float).ravel()
    assert history[-5:].mean() < history[:5].mean()
    z = model.get_latent_representation(dataloader=cells.inference_dataloader())
    assert z.shape == (120, 8)
    assert np.allclose(z, model.get_latent_representation(adata), atol=1e-5)
    model.save(tmp_path / "m")
    assert same_weights(model, R2MAE.load(tmp_path / "m", adata=False))
