"""The masked autoencoder of gene expression (paper, C.8): the network alone, also an scvi-tools module."""

from collections.abc import Sequence
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from scvi.nn import FCLayers
from torch import Tensor, nn

from r2mae_core import CurriculumWeights
from r2mae_singlecell.likelihood import negative_binomial_nll
from r2mae_singlecell.sparse_input import SparseInputLinear

CURRICULUM_HIDDEN = (128, 256)  # A.3
CURRICULUM_OFFSET = 1e-9


class MaskedAutoencoder(BaseModuleClass):
    """Corrupted counts and covariates → latent → negative binomial of every gene.

    Encoder: log1p → `n_layers` hidden layers → a linear projection to `n_latent`. Decoder: one hidden layer → softmax
    over the genes, times the observed library size; one inverse dispersion per gene. Batch norm and ReLU in the hidden
    layers of both. Categorical covariates enter the first layer of both as one-hot columns.

    Args:
        n_input: genes.
        n_batch: batches.
        n_cats_per_cov: categories of each further categorical covariate.
        n_continuous_cov: continuous covariates.
        n_hidden: width of the hidden layers.
        n_latent: width of the latent space.
        n_layers: hidden layers of the encoder; the paper's three-layer encoder has two and the projection.
        dropout_rate: dropout in the hidden layers; the paper names none.
        n_columns: columns K of the curriculum weights; 0: no weight head.
    """

    def __init__(
        self,
        n_input: int,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] | None = None,
        n_continuous_cov: int = 0,
        n_hidden: int = 1024,
        n_latent: int = 512,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        n_columns: int = 0,
    ) -> None:
        super().__init__()
        self.n_input, self.n_latent, self.takes_size_factor = n_input, n_latent, True
        covariates: dict[str, Any] = {"n_cat_list": [n_batch, *(n_cats_per_cov or ())], "inject_covariates": False}
        common: dict[str, Any] = {"n_hidden": n_hidden, "dropout_rate": dropout_rate, **covariates}
        self.encoder = FCLayers(n_input + n_continuous_cov, n_hidden, n_layers=n_layers, **common)
        first: Any = self.encoder.fc_layers[0]
        first[0] = SparseInputLinear(first[0])
        self.to_latent = nn.Linear(n_hidden, n_latent)
        self.decoder = FCLayers(n_latent + n_continuous_cov, n_hidden, n_layers=1, **common)
        self.to_genes = nn.Linear(n_hidden, n_input)
        self.log_theta = nn.Parameter(torch.zeros(n_input))
        # Last, so that every other weight starts the same with and without it.
        self.curriculum = (
            CurriculumWeights(
                n_input, n_columns, n_features=n_input, hidden=CURRICULUM_HIDDEN, offset=CURRICULUM_OFFSET
            )
            if n_columns
            else None
        )

    def encode(self, x: Tensor, *covariates: Any, cont: Tensor | None = None) -> Tensor:
        """Return the latent of counts as they are, (cells, n_latent)."""
        x = x.log1p()
        return self.to_latent(self.encoder(x if cont is None else torch.cat([x, cont], dim=-1), *covariates))

    def logits(self, z: Tensor, *covariates: Any, cont: Tensor | None = None) -> Tensor:
        """Return the unnormalised logarithms of the gene proportions, (cells, genes)."""
        return self.to_genes(self.decoder(z if cont is None else torch.cat([z, cont], dim=-1), *covariates))

    def hidden_nll(self, tensors: dict[str, Tensor], columns: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the loss of the hidden genes, elementwise.

        Args:
            tensors: a batch; `X` holds the uncorrupted counts, from which the library size is taken.
            columns: (n_hidden,) the genes to hide.
            present: (genes,) or (cells, genes) bool, the genes that were measured; None: all. The library size was
                counted from these alone, so their means sum to it. `X` must be 0 elsewhere.

        Returns:
            (cells, n_hidden) negative log-likelihoods, float32.
        """
        x = tensors[REGISTRY_KEYS.X_KEY].float()
        logits, log_total, log_library = self._decoded(tensors, x.index_fill(1, columns, 0.0))
        if present is not None:
            log_total = logits.masked_fill(~present, -torch.inf).logsumexp(1, keepdim=True)
        log_mu = logits.index_select(1, columns) - log_total + log_library
        return negative_binomial_nll(log_mu, self.log_theta[columns], x.index_select(1, columns))

    def masked_nll(self, tensors: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Return the loss of the genes that are hidden in each cell, elementwise.

        Args:
            tensors: as in `hidden_nll`.
            mask: (cells, genes) bool, True = hidden.

        Returns:
            (cells, genes) negative log-likelihoods, float32; 0 where a gene is visible.
        """
        x = tensors[REGISTRY_KEYS.X_KEY].float()
        logits, log_total, log_library = self._decoded(tensors, x.masked_fill(mask, 0.0))
        return negative_binomial_nll(logits - log_total + log_library, self.log_theta, x) * mask

    def _decoded(self, tensors: dict[str, Tensor], visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of visible counts, (cells, genes), their logsumexp and the log library size, (cells, 1).

        The library size is that of the uncorrupted counts in `tensors`.
        """
        inputs = self._get_inference_input(tensors)
        covariates, cont = inputs["covariates"], inputs["cont_covs"]
        z = self.encode(visible, *covariates, cont=cont)
        logits = self.logits(z, *covariates, cont=cont).float()
        return logits, logits.logsumexp(1, keepdim=True), inputs["log_library"]

    # From here on: what scvi-tools' models expect of a module.

    def _covariates(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        batch, cats = tensors[REGISTRY_KEYS.BATCH_KEY], tensors.get(REGISTRY_KEYS.CAT_COVS_KEY)
        batch = batch if batch.is_floating_point() and batch.shape[1] > 1 else batch.long()  # shares of several, or one
        return batch, *(torch.split(cats.long(), 1, dim=1) if cats is not None else ())

    def _get_inference_input(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, tensors: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Any]:
        x = tensors[REGISTRY_KEYS.X_KEY].float()
        size = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY) if self.takes_size_factor else None
        # At least one count: an empty cell would have a library of log 0.
        library = x.sum(1, keepdim=True).clamp_min(1.0) if size is None else size.float()
        return {
            "x": x,
            "log_library": library.log(),
            "covariates": self._covariates(tensors),
            "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        }

    @auto_move_data
    def inference(
        self,
        x: Tensor,
        log_library: Tensor,
        covariates: tuple[Tensor, ...],
        cont_covs: Tensor | None = None,
        columns: Tensor | None = None,
        n_samples: int = 1,
    ) -> dict[str, Tensor]:
        """Return the latent of cells whose `columns` (none by default) are hidden. There is nothing to sample."""
        del n_samples
        hidden = x if columns is None else x.index_fill(1, columns, 0.0)
        return {"z": self.encode(hidden, *covariates, cont=cont_covs), "log_library": log_library}

    def _get_generative_input(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Any]:
        return {
            "z": inference_outputs["z"],
            "log_library": inference_outputs["log_library"],
            "covariates": self._covariates(tensors),
            "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        }

    @auto_move_data
    def generative(
        self,
        z: Tensor,
        log_library: Tensor,
        covariates: tuple[Tensor, ...],
        cont_covs: Tensor | None = None,
        transform_batch: int | Tensor | None = None,
    ) -> dict[str, Any]:
        """Return the distribution of the counts; `transform_batch` decodes every cell as one of that batch."""
        if transform_batch is not None:
            one = torch.full_like(covariates[0][:, :1], int(transform_batch), dtype=torch.long)
            covariates = (one, *covariates[1:])
        scale = self.logits(z, *covariates, cont=cont_covs).float().softmax(-1)
        theta = self.log_theta.exp()
        return {"px": NegativeBinomial(mu=log_library.exp() * scale, theta=theta, scale=scale)}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], generative_outputs: dict[str, Any]
    ) -> LossOutput:
        """Return the loss of every gene, none of them hidden: what scvi-tools calls the reconstruction loss."""
        del inference_outputs
        px = generative_outputs["px"]
        nll = negative_binomial_nll(px.mu.clamp_min(1e-30).log(), self.log_theta, tensors[REGISTRY_KEYS.X_KEY])
        return LossOutput(loss=nll.mean(), reconstruction_loss=nll.sum(-1))

    @torch.inference_mode()
    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tensors: dict[str, Tensor],
        n_samples: int = 1,
        columns: Tensor | None = None,
        seed: int = 0,
        transform_batch: int | None = None,
    ) -> Tensor:
        """Draw counts given the latent: (cells, genes), or (cells, genes, n_samples) for several, on the CPU."""
        inference = self.inference(**self._get_inference_input(tensors), columns=columns)
        inputs = self._get_generative_input(tensors, inference)
        px = self.generative(**inputs, transform_batch=transform_batch)["px"]
        generator = torch.Generator(px.mu.device).manual_seed(seed)
        theta = px.theta.expand(n_samples, *px.mu.shape)
        rate = torch._standard_gamma(theta, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        rate = rate * px.mu / px.theta
        counts = torch.poisson(rate.clamp_max(1e8), generator=generator).movedim(0, -1).cpu()
        return counts.squeeze(-1) if n_samples == 1 else counts
