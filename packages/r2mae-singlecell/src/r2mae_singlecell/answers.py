"""What `SCVI` has and this model has not: each is answered by one error that names the alternative."""

from typing import Any

from scvi.model.base import BaseModelClass

from r2mae_core import UserError


class NotInThisModelError(UserError, NotImplementedError):
    """A method or an argument of `SCVI` that has no meaning here."""


_POINT = "each cell's latent is a point, not a distribution"
_LIKELIHOOD = "the likelihood is a negative binomial with one dispersion per gene"
_DATA = "it follows from the data that setup_anndata registered"
_ARGUMENTS: dict[str, tuple[tuple[Any, ...] | None, str]] = {
    "gene_likelihood": (("nb",), _LIKELIHOOD),
    "dispersion": (("gene",), _LIKELIHOOD),
    "latent_distribution": (("normal",), f"{_POINT}, and unbounded"),
    "use_observed_lib_size": ((True,), "the library size is the sum of a cell's counts, or size_factor_key"),
    "library_log_means": ((None,), "the library size is the sum of a cell's counts, or size_factor_key"),
    "library_log_vars": ((None,), "the library size is the sum of a cell's counts, or size_factor_key"),
    "log_variational": ((True,), "the encoder sees log1p of the counts"),
    "encode_covariates": ((True,), "covariates enter encoder and decoder, in the first layer of each"),
    "deeply_inject_covariates": ((False,), "covariates enter encoder and decoder, in the first layer of each"),
    "batch_representation": (("one-hot",), "batches enter as one-hot columns"),
    "batch_embedding_kwargs": ((None,), "batches enter as one-hot columns"),
    "use_batch_norm": (("both",), "the hidden layers of encoder and decoder have batch norm"),
    "use_layer_norm": (("none",), "the hidden layers of encoder and decoder have batch norm"),
    "use_size_factor_key": ((None,), "give size_factor_key to setup_anndata"),
    "var_activation": ((None,), _POINT),
    "extra_payload_autotune": ((False,), "`r2mae-singlecell sweep` searches mask ratios"),
    "extra_encoder_kwargs": ((None, {}), "n_hidden, n_latent, n_layers and dropout_rate shape the network"),
    "extra_decoder_kwargs": ((None, {}), "n_hidden, n_latent, n_layers and dropout_rate shape the network"),
    "n_input": ((), _DATA),
    "n_batch": ((), _DATA),
    "n_labels": ((), _DATA),
    "n_continuous_cov": ((), _DATA),
    "n_cats_per_cov": ((), _DATA),
    "give_mean": ((True, None), f"{_POINT}; leave give_mean=True, or draw counts by posterior_predictive_sample()"),
    "mc_samples": (None, ""),
    "return_dist": ((False,), f"{_POINT}: get_latent_representation() is its mean, and the variance is 0"),
    "n_samples": ((1, None), f"{_POINT}; posterior_predictive_sample(n_samples=...) draws counts"),
    "n_samples_overall": ((None,), "choose cells with indices="),
    "weights": ((None, "uniform"), _POINT),
    "return_mean": (None, ""),
    "silent": (None, ""),
    "data_loader_kwargs": ((None, {}), "batch_size is the only option of the loader"),
    "load_sparse_tensor": (None, ""),
}
"""Argument of `SCVI` → values that mean here what they mean there (None: any), and what to do instead of others."""


def check_arguments(method: str, **given: Any) -> None:
    """Refuse arguments of `SCVI` whose value has no meaning here; those that change nothing are accepted.

    Args:
        method: how the message calls what was called.
        **given: name → value.

    Raises:
        NotInThisModelError: with the argument and the alternative.
        TypeError: neither `SCVI` nor this model knows the argument.
    """
    for name, value in given.items():
        if name not in _ARGUMENTS:
            raise TypeError(f"{method} has no argument {name!r}")
        harmless, instead = _ARGUMENTS[name]
        if harmless is None or any(value is other or (type(value) is type(other) and value == other)
                                   for other in harmless):  # fmt: skip
            continue
        raise NotInThisModelError(f"{method}({name}={value!r}) has no meaning in R2MAE: {instead}")


class AnswersMixin(BaseModelClass):
    """Methods of `SCVI` that `R2MAE` has only to say what to use in their place."""

    minified_data_type = None
    """What scvi-tools asks: the data are never minified."""

    def differential_expression(self, *args: Any, **kwargs: Any) -> None:
        """Raise: there is no posterior to compare."""
        raise _no_posterior("differential_expression", "scanpy.tl.rank_genes_groups on get_normalized_expression()")

    def differential_abundance(self, *args: Any, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raise: there is no aggregated posterior of a sample."""
        raise _no_posterior("differential_abundance", "pertpy's Milo on get_latent_representation()")

    def get_aggregated_posterior(self, *args: Any, **kwargs: Any) -> None:
        """Raise: there is no posterior to aggregate."""
        raise _no_posterior("get_aggregated_posterior", "a density estimate on get_latent_representation()")

    def get_importance_weights(self, *args: Any, **kwargs: Any) -> None:
        """Raise: there is no posterior to sample from."""
        raise _no_posterior("get_importance_weights", "the plain mean over cells")

    def get_latent_library_size(self, *args: Any, **kwargs: Any) -> None:
        """Raise: the library size is observed, not inferred."""
        raise _no_posterior("get_latent_library_size", "the sum of a cell's counts, which is what the model uses")

    def get_elbo(self, *args: Any, **kwargs: Any) -> None:
        """Raise: the model has no evidence lower bound."""
        raise _no_posterior("get_elbo", "get_masked_nll()")

    def get_marginal_ll(self, *args: Any, **kwargs: Any) -> None:
        """Raise: the model has no marginal likelihood."""
        raise _no_posterior("get_marginal_ll", "get_masked_nll()")

    def get_reconstruction_error(self, *args: Any, **kwargs: Any) -> None:
        """Raise: an error of counts that the encoder has seen says nothing about a masked model."""
        raise _no_posterior("get_reconstruction_error", "get_masked_nll(), whose counts are hidden from the encoder")

    def get_feature_correlation_matrix(self, *args: Any, **kwargs: Any) -> None:
        """Raise: it needs draws of the latent."""
        instead = "numpy.corrcoef on get_normalized_expression(), or on posterior_predictive_sample()"
        raise _no_posterior("get_feature_correlation_matrix", instead)

    def get_batch_representation(self, *args: Any, **kwargs: Any) -> None:
        """Raise: batches have no embedding."""
        raise NotInThisModelError(
            "batches enter R2MAE as one-hot columns, so there is no get_batch_representation; "
            "get_normalized_expression(transform_batch=...) shows what a batch changes"
        )

    def minify_adata(self, *args: Any, **kwargs: Any) -> None:
        """Raise: there is no latent distribution to keep in place of the counts."""
        instead = "adata.obsm with get_latent_representation(), without the counts (`r2mae-singlecell embed` writes it)"
        raise _no_posterior("minify_adata", instead)

    def _check_if_trained(self, warn: bool = True, message: str = "", **kwargs: Any) -> None:
        if "scvi model" in message:  # SCANVI.from_scvi_model says so, before it reads anything of the model
            raise NotInThisModelError(
                "SCANVI continues SCVI's network, which R2MAE does not have; train SCANVI by itself, or predict labels "
                "from get_latent_representation(), such as with sklearn's LogisticRegression"
            )
        super()._check_if_trained(warn, **({"message": message} if message else {}), **kwargs)


def _no_posterior(method: str, instead: str) -> NotInThisModelError:
    return NotInThisModelError(f"R2MAE has no posterior over latents, so {method} is undefined; use {instead}")
