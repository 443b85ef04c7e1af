"""Every public name and argument of scvi-tools' SCVI either works in R2MAE or is answered by one clear error."""

import inspect

import numpy as np
import pytest
import scvi
import torch
from scipy.stats import nbinom

from r2mae_core import UserError
from r2mae_singlecell import R2MAE
from r2mae_singlecell.answers import NotInThisModelError

METHODS = sorted(name for name in dir(scvi.model.SCVI) if not name.startswith("_"))
OPEN = {"args", "kwargs", "self"}


def arguments_of(function):
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in OPEN and parameter.kind is not parameter.VAR_KEYWORD
    }


def takes(function, name):
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_name_of_scvi_is_there_with_its_arguments(name):
    assert hasattr(R2MAE, name), f"SCVI has {name}; R2MAE must have it, or say what to use in its place"
    theirs, ours = getattr(scvi.model.SCVI, name), getattr(R2MAE, name)
    if callable(theirs):
        for argument in arguments_of(theirs):
            assert takes(ours, argument), f"{name}({argument}=...)"


@pytest.mark.parametrize(
    "name",
    [n for n in METHODS if n.startswith(("get_", "posterior")) and callable(getattr(scvi.model.SCVI, n))],
)
def test_arguments_stand_in_scvis_order(name):
    """A call with positions means the same in both."""
    theirs = [n for n, p in arguments_of(getattr(scvi.model.SCVI, name)).items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    ours = [n for n, p in arguments_of(getattr(R2MAE, name)).items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if ours:  # one that only raises takes anything
        assert ours[: len(theirs)] == theirs


ABSENT = {
    "differential_expression": "rank_genes_groups",
    "differential_abundance": "Milo",
    "get_aggregated_posterior": "get_latent_representation",
    "get_importance_weights": "mean",
    "get_latent_library_size": "sum of a cell's counts",
    "get_elbo": "get_masked_nll",
    "get_marginal_ll": "get_masked_nll",
    "get_reconstruction_error": "get_masked_nll",
    "get_feature_correlation_matrix": "corrcoef",
    "get_batch_representation": "transform_batch",
    "minify_adata": "obsm",
}


@pytest.mark.parametrize("name", ABSENT)
def test_methods_without_meaning_name_the_alternative(trained, name):
    for arguments in ({}, {"adata": trained.adata, "batch_size": 3}):
        with pytest.raises(NotInThisModelError, match=ABSENT[name]) as error:
            getattr(trained, name)(**arguments)
        assert isinstance(error.value, UserError)
        assert "\n" not in str(error.value)


def test_every_argument_of_scvis_network_is_answered(trained):
    """Its defaults are not all ours: gene_likelihood is zinb there."""
    names = {**arguments_of(scvi.model.SCVI.__init__), **arguments_of(scvi.module.VAE.__init__)}
    ours = arguments_of(R2MAE.__init__)
    for name in set(names) - set(ours):
        with pytest.raises(NotInThisModelError, match=f"R2MAE\\({name}=.*has no meaning in R2MAE: .{{10}}"):
            R2MAE(trained.adata, **{name: "something else"})
    with pytest.raises(TypeError, match="no argument 'n_hiden'"):
        R2MAE(trained.adata, n_hiden=3)


def test_arguments_that_say_what_the_model_does_are_accepted(adata, tmp_path):
    R2MAE.setup_anndata(adata, batch_key="batch")
    same = {"gene_likelihood": "nb", "dispersion": "gene", "use_observed_lib_size": True, "use_layer_norm": "none"}
    model = R2MAE(adata, n_hidden=8, n_latent=2, **same)
    assert not any(name in str(model.init_params_) for name in same)
    model.save(tmp_path / "m")
    assert R2MAE.load(tmp_path / "m", adata).module.n_latent == 2


def test_values_that_mean_something_else_are_refused(trained):
    z = trained.get_latent_representation(give_mean=True, mc_samples=10, return_dist=False)
    assert np.array_equal(z, trained.get_latent_representation())
    expression = trained.get_normalized_expression(n_samples=1, return_mean=False, silent=False, weights="uniform")
    assert expression.equals(trained.get_normalized_expression())
    for call in (
        lambda: trained.get_latent_representation(give_mean=False),
        lambda: trained.get_latent_representation(return_dist=True),
        lambda: trained.get_latent_representation(num_workers=2),
        lambda: trained.get_normalized_expression(n_samples=25),
        lambda: trained.get_normalized_expression(n_samples_overall=25),
        lambda: trained.get_normalized_expression(weights="importance"),
        lambda: trained.get_likelihood_parameters(n_samples=5),
        lambda: trained.posterior_predictive_sample(num_workers=5),
    ):
        with pytest.raises(UserError, match=r"has no (meaning|argument)"):
            call()
    with pytest.raises(NotInThisModelError, match="n_samples=True"):  # equal to 1, and not meant as it
        trained.get_normalized_expression(n_samples=True)


def test_likelihood_parameters_give_the_likelihood(trained):
    found = trained.get_likelihood_parameters(indices=[3, 5])
    mean, theta = found["mean"], found["dispersions"]
    assert mean.shape == theta.shape == (2, 40)
    x = trained.adata.X[[3, 5]].toarray()
    (tensors,) = trained.batches(None, [3, 5], None)
    with torch.inference_mode():
        inference = trained.module.inference(**trained.module._get_inference_input(tensors))
        px = trained.module.generative(**trained.module._get_generative_input(tensors, inference))["px"]
        ours = px.log_prob(torch.from_numpy(x)).numpy()
    assert ours == pytest.approx(nbinom.logpmf(x, theta, theta / (theta + mean)), rel=1e-4, abs=1e-4)


def test_draws_as_of_another_batch(trained):
    draws = {
        batch: trained.posterior_predictive_sample(transform_batch=batch, n_samples=300, seed=1).mean((0, 2))
        for batch in ("x", "y")
    }
    expected = {
        batch: trained.get_normalized_expression(transform_batch=batch, library_size="latent").to_numpy().mean(0)
        for batch in draws
    }
    for batch, mean in draws.items():
        assert mean == pytest.approx(expected[batch], rel=0.05, abs=0.02)
    assert not np.allclose(draws["x"], draws["y"])
    with pytest.raises(UserError, match="one transform_batch at a time"):
        trained.posterior_predictive_sample(transform_batch=["x", "y"])


def test_scanvi_is_answered(trained):
    with pytest.raises(NotInThisModelError, match="SCANVI continues SCVI's network"):
        scvi.model.SCANVI.from_scvi_model(trained, unlabeled_category="?", labels_key="kind")
