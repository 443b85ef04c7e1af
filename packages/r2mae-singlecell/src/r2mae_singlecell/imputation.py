"""What the model predicts: expression, imputation, likelihood, samples."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from torch import Tensor

from r2mae_core import UserError
from r2mae_singlecell.answers import AnswersMixin, check_arguments
from r2mae_singlecell.checks import check_counts, check_genes, check_setup_columns, naming_unknown_categories
from r2mae_singlecell.data.counts import CountMatrix, SparseRows
from r2mae_singlecell.data.datamodules import check_order
from r2mae_singlecell.data.foreign_batches import ForeignBatches
from r2mae_singlecell.data.splitter import batch_maker, covariate_tensors
from r2mae_singlecell.masking import gene_folds
from r2mae_singlecell.measured import mean_nll, measured_in_data

BATCH_SIZE = 1024
"""Cells at a time if the caller gives no number."""


class ImputationMixin(AnswersMixin):
    """Methods of `R2MAE` that decode."""

    module: Any
    missing_genes_: Any
    summary_stats: Any

    def batches(
        self, adata: AnnData | None, indices: Any, batch_size: int | None, dataloader: Any = None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield batches of checked data in its order, and put the network into evaluation mode.

        Raises:
            UserError: the genes are not the model's, or a category (such as a batch) was not in its training data; a
                data loader shuffles, or gives what `ForeignBatches` refuses.
        """
        self.module.eval()
        if dataloader is not None:
            check_order(dataloader)
            foreign = self.foreign_batches(type(dataloader).__name__)
            for tensors in dataloader:
                foreign.check(tensors)
                yield self._with_dense_counts(tensors)
            return
        if adata is not None:
            check_genes(adata, self._genes)
            registry: Any = self.registry_ or {}
            setup = registry.get("setup_args", {})
            check_counts(adata, setup.get("layer"), warn=False)
            check_setup_columns(adata, setup)
        with naming_unknown_categories():
            adata = self._validate_anndata(adata)
        manager: Any = self.get_anndata_manager(adata, required=True)
        cells = np.arange(adata.n_obs) if indices is None else _as_positions(indices)
        fetch = batch_maker(CountMatrix(manager.get_from_registry(REGISTRY_KEYS.X_KEY)), covariate_tensors(manager))
        size = batch_size or BATCH_SIZE
        for start in range(0, len(cells), size):  # all of them on every rank that asks
            yield self._with_dense_counts(fetch(cells[start : start + size]))

    def foreign_batches(self, who: str) -> ForeignBatches:
        """Return what batches of a data module, or of a data loader, must hold for this model."""
        registry: Any = self.registry_ or {}
        fields, stats = registry.get("field_registries", {}), self.summary_stats
        categories = fields.get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {}).get("n_cats_per_key", ())
        return ForeignBatches(
            who,
            list(self._genes),
            int(stats.n_batch),
            tuple(map(int, categories)),
            int(stats.get("n_extra_continuous_covs", 0)),
            self.module.takes_size_factor,
        )

    def _with_dense_counts(self, tensors: dict[str, Any]) -> dict[str, Tensor]:
        x, device = tensors[REGISTRY_KEYS.X_KEY], self.module.device
        if isinstance(x, SparseRows):
            x = x.to(device).dense(self.module.n_input)
        elif x.layout != torch.strided:
            x = x.to_dense()
        others = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}  # no names of cells
        covariates = {key: value.to(device) for key, value in others.items() if key != REGISTRY_KEYS.X_KEY}
        return {REGISTRY_KEYS.X_KEY: x.to(device), **covariates}

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Any = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1.0,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: Literal["uniform", "importance"] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        silent: bool = True,
        dataloader: Any = None,
        data_loader_kwargs: dict[str, Any] | None = None,
    ) -> pd.DataFrame | np.ndarray:
        """Return the decoded expression of cells, with no gene hidden.

        Args:
            adata: data with the same genes; None: the training data.
            indices: which cells; None: all.
            transform_batch: decode every cell as one of this batch; several: their average; None: its own batch.
            gene_list: genes to return; None: all.
            library_size: what a cell's expression sums to over all genes; "latent": its observed library size.
            n_samples: SCVI's; there is nothing to sample, so 1.
            n_samples_overall: SCVI's; None.
            weights: SCVI's; there is nothing to weigh.
            batch_size: cells at a time.
            return_mean: SCVI's; the mean of one value is that value.
            return_numpy: return an array, not a data frame.
            silent: SCVI's; no bar is shown.
            dataloader: batches of a data module, in place of `adata`; then an array is returned.
            data_loader_kwargs: SCVI's; None.

        Raises:
            UserError: a batch or gene is unknown, or an argument of SCVI has no meaning here.
        """
        check_arguments(
            "get_normalized_expression",
            n_samples=n_samples,
            n_samples_overall=n_samples_overall,
            weights=weights,
            data_loader_kwargs=data_loader_kwargs,
        )
        genes = self._positions(gene_list)
        codes = self._batch_codes(transform_batch)
        rows = [
            sum(self._decoded(tensors, None, code, library_size)[:, genes] for code in codes) / len(codes)
            for tensors in self.batches(adata, indices, batch_size, dataloader)
        ]
        values = np.concatenate([np.asarray(row) for row in rows])
        return values if return_numpy or dataloader is not None else self._frame(values, adata, indices, genes)

    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        mask_ratio: float | None = None,
        genes: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1.0,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Impute genes from the others: no returned value was computed from the count that it stands for.

        Args:
            adata: data with the same genes; None: the training data.
            indices: which cells; None: all.
            mask_ratio: return every gene; in each pass a random group of about this fraction is hidden, until all
                have been.
            genes: or hide exactly these, together, and return them.
            library_size: as in `get_normalized_expression`. The size itself is counted from all genes.
            seed: seed for the groups.
            batch_size: cells at a time.

        Raises:
            UserError: not exactly one of `mask_ratio` and `genes` is given, or a gene is unknown.
        """
        if (mask_ratio is None) == (genes is None):
            raise UserError("give either mask_ratio (impute every gene) or genes (hide and impute these)")
        wanted = self._positions(genes)
        folds = [torch.from_numpy(wanted)] if mask_ratio is None else _folds(self.module.n_input, mask_ratio, seed)
        rows = []
        for tensors in self.batches(adata, indices, batch_size):
            row = np.empty((len(tensors[REGISTRY_KEYS.X_KEY]), self.module.n_input), dtype=np.float32)
            for fold in folds:
                row[:, fold] = self._decoded(tensors, fold, None, library_size)[:, fold]
            rows.append(row[:, wanted])
        return self._frame(np.concatenate(rows), adata, indices, wanted)

    def get_masked_nll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        per: Literal["cell", "gene"] = "cell",
        mask_ratio: float = 0.25,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> pd.Series:
        """Return the negative log-likelihood of every count given the genes that are not hidden with it.

        Every gene is hidden once, in a random group of about `mask_ratio` of all. Genes that a query lacks
        (`prepare_query_anndata`), or that the file of a cell lacks (`prepare --genes union`), are in no mean: for a
        gene that was never measured the result is NaN.

        Args:
            adata: data with the same genes; None: the training data.
            indices: which cells; None: all.
            per: mean over the genes of each cell, or over the cells for each gene.
            mask_ratio: fraction hidden in one pass; 0.25 is the paper's default ratio.
            seed: seed for the groups.
            batch_size: cells at a time.
        """
        if per not in ("cell", "gene"):
            raise UserError(f"per must be 'cell' or 'gene', got {per!r}")
        data: Any = self.adata if adata is None else adata
        own = self.missing_genes_ if data is self.adata else None
        measured = measured_in_data(data, own, self.module.n_input)
        batches = ((tensors, measured.of(tensors)) for tensors in self.batches(adata, indices, batch_size))
        cells, genes = mean_nll(self.module, batches, _folds(self.module.n_input, mask_ratio, seed), measured)
        if per == "cell":
            return pd.Series(cells, self._cell_names(adata, indices), name="masked_nll")
        return pd.Series(genes, self._genes, name="masked_nll")

    def predict_proportions(self, cells: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Return the predicted gene proportions of cells of the model's data, with some genes hidden.

        Args:
            cells: (n,) positions in the data.
            hidden: (n_hidden,) positions of the genes to hide.

        Returns:
            (n, genes), rows summing to 1.
        """
        columns = torch.from_numpy(hidden)
        return np.concatenate(
            [self._decoded(tensors, columns, None, 1.0) for tensors in self.batches(None, cells, None)]
        )

    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Any = None,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
        dataloader: Any = None,
        silent: bool = True,
        seed: int = 0,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        """Draw counts from the likelihood given each cell's latent, which is deterministic in this model.

        Args:
            adata: data with the same genes; None: the training data.
            indices: which cells; None: all.
            transform_batch: draw for every cell as one of this batch; None: its own batch.
            n_samples: draws per cell.
            gene_list: genes to return; None: all.
            batch_size: cells at a time.
            dataloader: batches of a data module, in place of `adata`.
            silent: SCVI's; no bar is shown.
            seed: seed for the draws.
            **data_loader_kwargs: SCVI's; none.

        Returns:
            (cells, genes), or (cells, genes, n_samples) for several.
        """
        for name, value in data_loader_kwargs.items():
            check_arguments("posterior_predictive_sample", data_loader_kwargs={name: value})
        genes = self._positions(gene_list)
        (code, *others) = self._batch_codes(transform_batch)
        if others:
            raise UserError("draw from one transform_batch at a time: a draw has no average over batches")
        batches = self.batches(adata, indices, batch_size, dataloader)
        draws = (self._sample(tensors, n_samples, seed + i, code) for i, tensors in enumerate(batches))
        return np.concatenate([draw[:, genes] for draw in draws])

    def _sample(self, tensors: dict[str, Tensor], n_samples: int, seed: int, batch: int | None) -> np.ndarray:
        return self.module.sample(tensors, n_samples, seed=seed, transform_batch=batch).numpy()

    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int | None = 1,
        give_mean: bool | None = False,
        batch_size: int | None = None,
        dataloader: Any = None,
        **data_loader_kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Return the parameters of each count's negative binomial, with no gene hidden.

        Args:
            adata: data with the same genes; None: the training data.
            indices: which cells; None: all.
            n_samples: SCVI's; there is nothing to sample, so 1.
            give_mean: SCVI's; the mean of one value is that value.
            batch_size: cells at a time.
            dataloader: batches of a data module, in place of `adata`.
            **data_loader_kwargs: SCVI's; none.

        Returns:
            "mean" and "dispersions" (θ; the variance is μ + μ²/θ), each (cells, genes).
        """
        check_arguments("get_likelihood_parameters", n_samples=n_samples, data_loader_kwargs=data_loader_kwargs)
        batches = self.batches(adata, indices, batch_size, dataloader)
        mean = np.concatenate([self._decoded(tensors, None, None, "latent") for tensors in batches])
        theta = self.module.log_theta.detach().exp().cpu().numpy()
        return {"mean": mean, "dispersions": np.broadcast_to(theta, mean.shape).copy()}

    @torch.inference_mode()
    def _decoded(
        self, tensors: dict[str, Tensor], columns: Tensor | None, batch: int | None, library_size: float | str
    ) -> np.ndarray:
        """Return (cells, genes) expression, with `columns` hidden from the encoder."""
        hidden = columns.to(self.module.device) if columns is not None else None
        inference = self.module.inference(**self.module._get_inference_input(tensors), columns=hidden)
        inputs = self.module._get_generative_input(tensors, inference)
        px = self.module.generative(**inputs, transform_batch=batch)["px"]
        expression = px.mu if library_size == "latent" else px.scale * float(library_size)
        return expression.cpu().numpy()

    @property
    def _genes(self) -> pd.Index:
        return pd.Index(np.asarray(self.get_var_names()))

    def _positions(self, names: Sequence[str] | None) -> np.ndarray:
        known = self._genes
        if names is None:
            return np.arange(len(known))
        positions = known.get_indexer(list(names))
        if (positions < 0).any():
            unknown = [name for name, at in zip(names, positions, strict=True) if at < 0]
            raise UserError(f"{len(unknown)} genes are unknown to the model, such as {unknown[0]!r}")
        return positions

    def _batch_codes(self, transform_batch: Any) -> list[int | None]:
        if transform_batch is None:
            return [None]
        registry: Any = self.registry_
        state = registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
        known = list(state["categorical_mapping"])
        several = isinstance(transform_batch, list | tuple | np.ndarray)
        wanted = list(transform_batch) if several else [transform_batch]
        if unknown := [batch for batch in wanted if batch not in known]:
            raise UserError(f"unknown batch {unknown[0]!r}; the model knows {known}")
        return [known.index(batch) for batch in wanted]

    def _cell_names(self, adata: AnnData | None, indices: Sequence[int] | None) -> pd.Index:
        data: Any = adata if adata is not None else self.adata
        names = data.obs_names
        return names if indices is None else names[indices]

    def _frame(
        self, values: np.ndarray, adata: AnnData | None, indices: Sequence[int] | None, genes: np.ndarray
    ) -> pd.DataFrame:
        return pd.DataFrame(values, self._cell_names(adata, indices), self._genes[genes])


def _as_positions(indices: Sequence[int]) -> np.ndarray:
    cells = np.asarray(indices)
    return np.flatnonzero(cells) if cells.dtype == bool else cells


def _folds(n_genes: int, ratio: float, seed: int) -> list[Tensor]:
    try:
        return gene_folds(n_genes, ratio, seed)
    except ValueError as error:
        raise UserError(str(error)) from None
