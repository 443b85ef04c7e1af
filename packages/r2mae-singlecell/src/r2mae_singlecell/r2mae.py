"""`R2MAE`: the masked autoencoder behind scvi-tools' interface."""

import contextlib
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich.pretty  # noqa: F401  scvi-tools' view_anndata_setup uses it and does not import it
import scvi
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from r2mae_core import (
    Curriculum,
    MaskRatioSampler,
    RatioSampler,
    ResumableLoader,
    UserError,
    one_writer,
    sampler_to_config,
)
from r2mae_singlecell.answers import check_arguments
from r2mae_singlecell.checkpoints import resumable
from r2mae_singlecell.checks import check_counts, check_numbers, check_setup_columns, refuse_unknown
from r2mae_singlecell.data.datamodules import as_of_anndata, check_takes, identity
from r2mae_singlecell.data.splitter import CountSplitter, lacking_genes
from r2mae_singlecell.files import FilesMixin
from r2mae_singlecell.gene_sets import GeneSets, find_gene_sets
from r2mae_singlecell.imputation import ImputationMixin
from r2mae_singlecell.masking import hidden_columns
from r2mae_singlecell.model import MaskedAutoencoder
from r2mae_singlecell.plan import MaskedPlan, as_sampler
from r2mae_singlecell.push import SharedMixin
from r2mae_singlecell.query import QueryMixin
from r2mae_singlecell.saved import SavedMixin
from r2mae_singlecell.training_config import plan_options, trainer_options
from r2mae_singlecell.training_history import History
from r2mae_singlecell.weights import ExportMixin

logger = logging.getLogger(__name__)

TRAINING_BATCH = 400
"""Cells of a step if the caller gives no number (paper, C.8)."""
_NOT_OPTIONS = ("registry", "datamodule", "candidates", "lacking", "callbacks", "groups", "foreign")
_DEFAULTS = {
    "gene_sets": "",
    "shuffle": "exact",
    "drop_last": "True",
    **{
        name: str(parameter.default)
        for name, parameter in inspect.signature(MaskedPlan).parameters.items()
        if parameter.default is not parameter.empty and name not in _NOT_OPTIONS
    },
}
"""What the plan does where a training, or the checkpoint of one, does not say it."""
_OWN = {"module", "candidates", "lacking", "groups", "foreign"}
"""What `train` itself gives the plan."""
_OF_PLAN = {*inspect.signature(MaskedPlan).parameters, "mask_shape", "gene_sets"} - _OWN
_OF_TRAIN = ("max_epochs", "accelerator", "devices", "precision", "early_stopping")
_ADAM = "it trains with Adam (lr, weight_decay, eps)"
_NO_KL = "it has no KL term"
_NOT_OF_PLAN = {
    **dict.fromkeys(("optimizer", "optimizer_creator", "fused_optimizer"), _ADAM),
    **dict.fromkeys(
        ("n_steps_kl_warmup", "n_epochs_kl_warmup", "max_kl_weight", "min_kl_weight", "loss_kwargs"), _NO_KL
    ),
    **dict.fromkeys(("compile", "compile_kwargs"), "`r2mae-singlecell pretrain --compile` compiles the network"),
    "update_only_decoder": "load_query_data freezes what a query does not train",
    **dict.fromkeys(("candidates", "lacking"), "it follows from the genes that the data lack"),
    "groups": "give mask_shape='groups' and gene_sets",
}


class R2MAE(
    SharedMixin,
    SavedMixin,
    ExportMixin,
    QueryMixin,
    ImputationMixin,
    FilesMixin,
    UnsupervisedTrainingMixin,
    BaseModelClass,
):
    """Masked autoencoder of gene expression with any mask-ratio scheme, used like scvi-tools' models.

    Args:
        adata: registered with `R2MAE.setup_anndata`; None for a model that is loaded, or trained with a data module.
        registry: that of a data module, or of a loaded model.
        n_hidden: width of the hidden layers. The paper does not state its widths; 1024 and 512 are our choice.
        n_latent: width of the latent space.
        n_layers: hidden layers of the encoder.
        dropout_rate: dropout in the hidden layers; the paper names none.
        mask_ratio: a scheme's name ("r2mae", "fixed", "mdlm", "dynamic", "r2mae+cl", …), a number, or a sampler.
        curriculum: learn loss weights too: "easy-to-hard" (the paper's CL) or "k0" (its CL (k=0)). A fixed ratio
            becomes CL-MAE, a range becomes R2MAE + CL with ten ratios. A scheme such as "r2mae+cl" has one already.
        datamodule: a data module of scvi-tools, in place of `adata`.
        **scvi_arguments: further ones of `SCVI`, accepted where they say what this model does.

    Raises:
        UserError: an argument of `SCVI` has no meaning here.

    Example:
        >>> R2MAE.setup_anndata(adata, layer="counts", batch_key="batch")  # doctest: +SKIP
        >>> model = R2MAE(adata, mask_ratio="r2mae")  # doctest: +SKIP
        >>> model.train(max_epochs=50)  # doctest: +SKIP
        >>> adata.obsm["X_r2mae"] = model.get_latent_representation()  # doctest: +SKIP
    """

    _module_cls = MaskedAutoencoder
    _training_plan_cls = MaskedPlan

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        n_hidden: int = 1024,
        n_latent: int = 512,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        mask_ratio: MaskRatioSampler | str | float | dict[str, Any] = "r2mae",
        curriculum: Literal["easy-to-hard", "k0"] | None = None,
        datamodule: Any = None,
        **scvi_arguments: Any,
    ) -> None:
        check_arguments("R2MAE", **scvi_arguments)
        scvi_arguments.clear()  # nothing of them is kept with the model
        check_numbers(1, n_hidden=n_hidden, n_latent=n_latent, n_layers=n_layers)
        check_numbers(0, dropout_rate=dropout_rate)
        super().__init__(adata, None if registry is None else as_of_anndata(registry))
        self.mask_ratio = as_sampler(mask_ratio, curriculum, seed=int(scvi.settings.seed or 0))
        if isinstance(mask_ratio, RatioSampler) and hasattr(mask_ratio, "__dataclass_fields__"):
            mask_ratio = sampler_to_config(mask_ratio)  # plain data in the saved model
        stats: Any = self.summary_stats
        n_cats: Any = (
            self.adata_manager.get_state_registry(REGISTRY_KEYS.CAT_COVS_KEY).n_cats_per_key
            if self.adata_manager is not None and REGISTRY_KEYS.CAT_COVS_KEY in self.adata_manager.data_registry
            else self._cats_of_registry()
        )
        self.module = self._module_cls(
            n_input=stats.n_vars,
            n_batch=stats.n_batch,
            n_cats_per_cov=n_cats,
            n_continuous_cov=stats.get("n_extra_continuous_covs", 0),
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            n_columns=self.mask_ratio.n_columns if isinstance(self.mask_ratio, Curriculum) else 0,
        )
        # scvi-tools' module for annbatch gives one that nobody asked for: relative to the mean of its mini-batch.
        registered: Any = self.registry_ or {}
        setup = registered.get("setup_args", {})
        self.module.takes_size_factor = setup.get("size_factor_key") is not None
        self._model_summary_string = (
            f"R2MAE with n_hidden: {n_hidden}, n_latent: {n_latent}, n_layers: {n_layers}, "
            f"mask ratio: {self.mask_ratio.describe()}"
        )
        self.missing_genes_: np.ndarray | None = None
        """Positions of genes that the query lacks: hidden in any case, and left out of the loss."""
        self.is_query_ = False
        """Whether most weights are frozen, by `load_query_data`."""
        self.query_options_: dict[str, bool] | None = None
        """Which of them: the options of `load_query_data`."""
        self.init_params_ = self._get_init_params(locals())

    def _cats_of_registry(self) -> list[int] | None:
        registry: Any = self.registry_ or {}
        fields = registry.get("field_registries", {})
        state = fields.get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {})
        return list(state["n_cats_per_key"]) if "n_cats_per_key" in state else None

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register where counts and covariates are, as for scvi-tools' `SCVI`.

        Args:
            adata: cells × genes.
            layer: key of `adata.layers` with the counts; None: `adata.X`.
            batch_key: column of `adata.obs` with the batch.
            labels_key: column with labels; not used in training.
            size_factor_key: column with size factors; None: the sum of a cell's counts.
            categorical_covariate_keys: further categorical columns.
            continuous_covariate_keys: continuous columns.
            **kwargs: scvi-tools' own, when it transfers a registry.

        Raises:
            UserError: a value is no count (fractional ones are none either), gene names stand twice, or a column is
                missing or has gaps.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        check_counts(adata, layer)
        check_setup_columns(adata, setup_method_args["setup_args"])
        fields = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),  # checked here, and all of them
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def train(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
        early_stopping: bool = False,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        datamodule: Any = None,
        precision: Any = "32-true",
        resume: Path | str | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Args:
            max_epochs: epochs; None: scvi-tools' heuristic by the number of cells. The paper trains for 50.
            accelerator: "auto", "cpu", "gpu", …
            devices: which or how many of them.
            train_size: share of the cells to train on; None: 0.9, the paper's.
            validation_size: share to validate on; None: the rest.
            shuffle_set_split: split at random.
            batch_size: cells a step; None: 400, the paper's, or a data module's own.
            early_stopping: stop when `validation_loss` no longer falls; scvi-tools' options for it apply.
            datasplitter_kwargs: `external_indexing`, as in scvi-tools; `drop_last` (False trains on the last, smaller
                batch too); `shuffle` ("exact", "blocks", or "auto": exact if the counts fit into memory), `chunk` and
                `pool` of `BlockOrder`.
            plan_kwargs: `lr`, `weight_decay`, `eps`, `seed`, `validation_ratios`, `ratio_per` ("step", "micro_batch" or
                "sample": each cell) and `loss_weight` ("none" or "inverse_ratio") of `MaskedPlan`; `mask_shape`
                ("independent", or "groups": the genes of a set are hidden together) and `gene_sets`, a dict of set
                name → gene names. As in scvi-tools: `reduce_lr_on_plateau`, `lr_factor`, `lr_patience`, `lr_threshold`,
                `lr_scheduler_metric` ("validation_loss") and `lr_min`.
            datamodule: a data module of scvi-tools, for a model made without AnnData. It splits and shuffles by
                itself; of annbatch's, the first rows are held out, and several devices each see all cells.
            precision: Lightning's name, such as "bf16-mixed".
            resume: folder for `metrics.csv` and a checkpoint after each epoch; if it holds a checkpoint already,
                training resumes from there, and ends as if it had never stopped. With a data module, whose order
                of the cells is not known, it goes on after the last whole epoch, and a warning says so.
            **trainer_kwargs: of scvi-tools' and Lightning's trainer; and `plan_config` and `trainer_config`, dicts of
                options that those given by name go before.

        Raises:
            UserError: the checkpoint is damaged, or of other data or options; the loss is NaN or infinite; there are
                too few cells; the options of masking do not go together, or no set has a gene of the data; a data
                module does not do what is asked for, or gives what `ForeignBatches` refuses.
        """
        check_numbers(0, max_epochs=max_epochs)  # Lightning takes -1 for a training without end
        check_numbers(2, batch_size=batch_size)  # batch norm
        seed = int(scvi.settings.seed or 0)
        plan_kwargs = plan_options(trainer_kwargs.pop("plan_config", None), plan_kwargs)
        trainer_kwargs = trainer_options(trainer_kwargs.pop("trainer_config", None), trainer_kwargs, _OF_TRAIN)
        refuse_unknown("plan_kwargs", plan_kwargs, _OF_PLAN, _NOT_OF_PLAN)
        if plan_kwargs.get("reduce_lr_on_plateau"):
            trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        plan_kwargs = {"seed": seed, "mask_ratio": self.mask_ratio, **plan_kwargs}
        if self.is_query_:
            plan_kwargs.setdefault("weight_decay", 0.0)
        if self.missing_genes_ is not None and len(self.missing_genes_):
            present = np.setdiff1d(np.arange(self.module.n_input), self.missing_genes_)
            plan_kwargs["candidates"] = torch.from_numpy(present)
        sets = self._gene_sets(plan_kwargs.pop("mask_shape", "independent"), plan_kwargs.pop("gene_sets", None))
        if sets is not None:
            plan_kwargs["groups"] = sets.groups()
        if datamodule is None:
            if self.adata is None:
                raise UserError("this model has no AnnData to train on; give a data module: train(datamodule=...)")
            batch_size = batch_size or TRAINING_BATCH
            plan_kwargs["lacking"] = lacking_genes(self.adata)
            parsed: Any = parse_device_args(accelerator, devices, return_device="torch")
            datamodule = CountSplitter(
                self.adata_manager,
                batch_size=batch_size,
                seed=plan_kwargs["seed"],
                device=parsed[-1],
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                **(datasplitter_kwargs or {}),
            )
            trainer_kwargs.setdefault("use_distributed_sampler", False)  # our loaders know their rank
        else:
            split = {"train_size": train_size, "validation_size": validation_size}
            check_takes(datamodule, datasplitter_kwargs, batch_size=batch_size, **split)
            plan_kwargs["foreign"] = self.foreign_batches(type(datamodule).__name__)
            if batch_size is not None:  # scvi-tools takes 128 for "not given"
                datamodule.set_batch_size(batch_size)
            trainer_kwargs |= {**split, "shuffle_set_split": shuffle_set_split}
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
        with contextlib.ExitStack() as stack:
            if resume is not None:
                stack.enter_context(one_writer(Path(resume)))
                length = {"max_epochs": max_epochs, "batch_size": batch_size, "precision": precision}
                made_from = self._made_from(datamodule, plan_kwargs, sets, **length)
                loader = getattr(datamodule, "train_loader", None)
                if not isinstance(loader, ResumableLoader):
                    logger.warning(
                        "The order of this data module's batches is its own: a training that is interrupted goes on "
                        "after its last whole epoch, and does not end with the weights of one that was not."
                    )
                trainer_kwargs, callbacks = resumable(Path(resume), loader, trainer_kwargs, made_from, _DEFAULTS)
                plan_kwargs["callbacks"] = [*plan_kwargs.get("callbacks", ()), *callbacks]
            self.module.train()  # a loaded model is in evaluation mode
            super().train(
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                early_stopping=early_stopping,
                plan_kwargs=plan_kwargs,
                datamodule=datamodule,
                precision=precision,
                **trainer_kwargs,
            )

    @property
    def history(self) -> History | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Metric → data frame with a row for each epoch; None before the training."""
        return None if self.history_ is None else History(self.history_)

    def _gene_sets(self, mask_shape: str, sets: Any) -> GeneSets | None:
        """Return the gene sets that are hidden together, found among the genes that the data have.

        Raises:
            UserError: shape and sets do not go together, there is no AnnData, or no set has a gene of the data.
        """
        if mask_shape not in ("independent", "groups"):
            raise UserError(f"mask_shape must be 'independent' or 'groups', got {mask_shape!r}")
        if (mask_shape == "groups") != (sets is not None):
            missing = "gene_sets={name: genes}" if sets is None else "mask_shape='groups'"
            raise UserError(f"mask_shape='groups' and gene_sets belong together; give {missing} too in plan_kwargs")
        if sets is None:
            return None
        if self.adata is None:
            raise UserError("gene_sets needs a model that was made with AnnData, whose genes have names")
        missing = self.missing_genes_ if self.missing_genes_ is not None else []
        found = find_gene_sets(sets, self.adata.var, np.setdiff1d(np.arange(self.module.n_input), missing))
        logger.info("%s.", found.describe())
        if found.left_out:
            logger.warning("%d of %d gene sets have no gene of the data.", len(found.left_out), len(sets))
        return found

    def _made_from(
        self, datamodule: Any, plan_kwargs: dict[str, Any], sets: GeneSets | None, **length: Any
    ) -> dict[str, str]:
        """Return what a training depends on, for `EpochCheckpoints`; of a foreign data module, what it says."""
        given = {**self.init_params_["non_kwargs"], **plan_kwargs, **length}
        options = {
            name: value.describe() if isinstance(value, MaskRatioSampler) else str(value)
            for name, value in given.items()
            if name not in _NOT_OPTIONS
        }
        ours = isinstance(datamodule, CountSplitter)
        data = datamodule.digest() if ours else identity(datamodule.registry)
        if ours:
            options |= datamodule.order_options()
        missing = [] if self.missing_genes_ is None else self.missing_genes_.tolist()
        if (lacking := plan_kwargs.get("lacking")) is not None:
            missing = [*missing, lacking.nonzero().tolist()]
        gene_sets = {} if sets is None else {"gene_sets": sets.digest()}
        return {"data": data, "missing_genes": str(missing), **gene_sets, **options}

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int | None = None,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Any = None,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        """Return the latent of every cell, (cells, n_latent), from uncorrupted counts.

        Args:
            adata: data with the same genes; None: the training data.
            indices: which cells; None: all.
            give_mean: SCVI's; the latent is a point, so True.
            mc_samples: SCVI's; nothing is sampled.
            batch_size: cells at a time.
            return_dist: SCVI's; False.
            dataloader: batches of a data module, in place of `adata`.
            **data_loader_kwargs: SCVI's; none.

        Raises:
            UserError: what `batches` refuses, or an argument of SCVI has no meaning here.
        """
        arguments = {"give_mean": give_mean, "return_dist": return_dist, "data_loader_kwargs": data_loader_kwargs}
        check_arguments("get_latent_representation", **arguments)
        return np.concatenate(
            [
                self.module.inference(**self.module._get_inference_input(tensors))["z"].float().cpu().numpy()
                for tensors in self.batches(adata, indices, batch_size, dataloader)
            ]
        )

    @torch.no_grad()
    def recalibrate_batch_norm(self, mask_ratio: float = 0.0, batch_size: int = 400, seed: int = 0) -> None:
        """Recompute the running statistics of batch norm, on the training cells at one mask ratio.

        Training collects them at the ratios of the scheme, but embeddings are made from uncorrupted cells, and genes
        are imputed at other ratios. The paper does not do this; it is off unless you call it.

        Args:
            mask_ratio: fraction hidden; 0 for embeddings.
            batch_size: cells at a time.
            seed: seed for the masks.
        """
        norms = [layer for layer in self.module.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the plain average
        generator = torch.Generator(self.module.device).manual_seed(seed)
        for tensors in self.batches(None, self.train_indices, batch_size):
            self.module.train()
            columns = hidden_columns(self.module.n_input, mask_ratio, generator) if mask_ratio else None
            inference = self.module.inference(**self.module._get_inference_input(tensors), columns=columns)
            self.module.generative(**self.module._get_generative_input(tensors, inference))
        self.module.eval()
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
