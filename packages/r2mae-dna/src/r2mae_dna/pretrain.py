"""Pretraining on windows: the module, its optimizer, and `pretrain` (paper, C.7; GPN-MSA's recipe)."""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    Curriculum,
    CurriculumWeights,
    MaskDraw,
    MaskedModule,
    RatioSampler,
    Record,
    ResumableLoader,
    RunFolder,
    StepOrder,
    Throughput,
    UserError,
    cosine,
    decay_groups,
    derived_seed,
    device_name,
    fit,
    gathered_state,
    micro_batch_size,
    n_masked,
    open_run,
    operations_metrics,
    precision,
    read_weights,
    resolve_device,
    resolved,
    sampler_from_config,
    sampler_to_config,
    say,
    scheme_name,
    stamped,
    weighted_mean,
)
from r2mae_dna.data.loaders import validation_loader
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.masking import MaskedBatch, MaskingConfig, mask_windows
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Pretrain
from r2mae_dna.probe import held_out_loss
from r2mae_dna.weights import save_model

CURRICULUM_HIDDEN, CURRICULUM_OFFSET = (128, 128), 0.5  # C.7
LARGEST_MICRO_BATCH = 512
"""Windows that a device computes at once unasked, as in the paper."""


class AlignmentPretraining(MaskedModule):
    """Masked prediction of the reference's bases from the rest of the window and the other species.

    Args:
        model: the network.
        mask_ratio: the scheme; a `Curriculum` adds the learned loss weights.
        masking: how hidden bases are shown and weighted.
        lr: AdamW's highest learning rate.
        warmup: share of the steps in which the rate rises, before the cosine to 0.
        weight_decay: of matrices; vectors and the curriculum head have none.
        seed: of masks, dropout, and the curriculum head's start.
        ratio_per: see `MaskedModule`.
        validation_ratios: fixed ratios of the validation loss.
    """

    def __init__(
        self,
        model: AlignmentModel,
        mask_ratio: RatioSampler,
        masking: MaskingConfig,
        *,
        lr: float,
        warmup: float,
        weight_decay: float,
        seed: int,
        validation_ratios: tuple[float, ...],
        ratio_per: Literal["step", "micro_batch"] = "step",
    ) -> None:
        super().__init__(mask_ratio, seed=seed, ratio_per=ratio_per, validation_ratios=validation_ratios)
        self.model, self.masking = model, masking
        self.lr, self.warmup, self.weight_decay = lr, warmup, weight_decay
        self.curriculum: CurriculumWeights | None = None
        if isinstance(mask_ratio, Curriculum):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(seed, "curriculum"))
                self.curriculum = CurriculumWeights(
                    model.config.hidden, mask_ratio.n_columns, hidden=CURRICULUM_HIDDEN, offset=CURRICULUM_OFFSET
                )

    def sharded_blocks(self) -> Iterable[nn.Module]:
        """Return all layers but the last, whose weights are read by themselves: it is computed at some positions."""
        return list(self.model.layers)[:-1]

    def masked_loss(self, batch: dict[str, Tensor], draw: MaskDraw) -> Tensor:
        """Return sum(w · W · CE) / sum(w) over the hidden bases; W is 1 without a curriculum (A.3)."""
        masked = mask_windows(batch, draw.ratio, draw.generator, self.masking)
        hidden = self.model.encode(masked.codes, masked.positions)
        loss = token_losses(self.model, hidden, masked)
        weights = masked.weights.flatten()
        if self.curriculum is None or not self.training:
            return weighted_mean(loss, weights)
        learned = self.curriculum(hidden.flatten(0, 1), draw.column, draw.multiplier)
        if self.is_log_step():
            values = learned.detach()
            self.log_now(
                {
                    "curriculum/multiplier": draw.multiplier,
                    "curriculum/min": values.min(),
                    "curriculum/max": values.max(),
                    "curriculum/log_spread": CurriculumWeights.log_spread(values),
                }
            )
        return weighted_mean(loss, weights, learned)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the network and the curriculum head apart, so that the head never changes the network's step."""
        if gradient_clip_val is not None:
            for part in filter(None, (self.model, self.curriculum)):
                torch.nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine to 0."""
        groups = decay_groups(self.named_parameters(), self.weight_decay, lambda name: name.startswith("curriculum."))
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True)
        total = self.total_steps() or 0
        factor = partial(cosine, total=total, warmup=self.warmup)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def token_losses(model: AlignmentModel, hidden: Tensor, masked: MaskedBatch) -> Tensor:
    """Return the cross-entropy of every hidden base, (B · P,) float32."""
    logits = model.head(hidden).float()
    return F.cross_entropy(logits.flatten(0, 1), masked.labels.flatten(), reduction="none")


class Speed(Throughput):
    """Logs windows and operations per second, and MFU where the device's peak is known.

    Args:
        batch_size: windows of an optimizer step.
        shape: of the network.
        length: bases of a window.
        peak_tflops: the device's peak, where the user gave it.
    """

    def __init__(self, batch_size: int, shape: ModelConfig, length: int, peak_tflops: float | None) -> None:
        super().__init__(batch_size, "windows")
        self.shape, self.length, self.peak_tflops = shape, length, peak_tflops

    @override
    def metrics(self, rate: float, steps: range, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        total = pl_module.total_steps()
        ratio = sum(pl_module.mask_ratio.mean(step, total) for step in steps) / len(steps)
        operations = 3 * rate * self.shape.flops(self.length, n_masked(ratio, self.length))  # backward is twice forward
        return {
            **super().metrics(rate, steps, trainer, pl_module),
            **operations_metrics(operations, trainer, self.peak_tflops),
        }


def _callbacks(config: Pretrain, run: RunFolder) -> list[pl.Callback]:
    ratios = config.validation_ratios
    monitor = f"val_loss/ratio_{ratios[len(ratios) // 2]:g}"
    callbacks: list[pl.Callback] = []
    if config.keep == "best":
        callbacks.append(
            ModelCheckpoint(
                dirpath=run.checkpoints,
                filename="best",
                monitor=monitor,
                save_weights_only=True,
                enable_version_counter=False,
            )
        )
    if config.patience is not None:
        callbacks.append(EarlyStopping(monitor, patience=config.patience, min_delta=0.0))
    return callbacks


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain as the config says and return the run folder: `model/`, metrics, and the loss on validation windows.

    Raises:
        UserError: the windows, the shape, the scheme or the device is wrong, or the run was interrupted.
    """
    start = time.perf_counter()
    device, sampler, masking = resolve_device(config.device), scheme_sampler(config), _masking(config)
    windows = WindowSet(config.windows)
    shape = model_shape(config, windows.info.n_species)
    validated = bool(windows.info.counts.get("validation"))
    _refuse(config, validated)
    world_size = config.devices * config.nodes
    micro = micro_batch_size(config.micro_batch_size, config.batch_size, world_size, LARGEST_MICRO_BATCH)
    order = StepOrder(2 * len(windows), config.batch_size, micro, config.seed)  # both strands of each
    run = open_run(
        "r2mae-dna",
        "pretrain",
        config.out,
        {**resolved(config), "mask_ratio": sampler_to_config(sampler)},
        n_processes=world_size,
        facts={"windows_digest": windows.info.digest},
    )
    if (run.path / "model" / "config.json").exists():
        return run  # finished before
    module = AlignmentPretraining(
        AlignmentModel(shape, derived_seed(config.seed, "start")),
        sampler,
        masking,
        lr=config.lr,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        seed=config.seed,
        validation_ratios=config.validation_ratios,
        ratio_per=config.ratio_per,
    )
    if config.compile:
        module.model.compile_trunk()
    callbacks: list[pl.Callback] = [Speed(config.batch_size, shape, windows.info.window, config.peak_tflops)]
    held_out, validation, tenth = None, None, max(config.steps // 10, 1)
    if validated:
        held_out = WindowSet(config.windows, "validation")
        validation = validation_loader(held_out, micro, config.max_windows, world_size)
        callbacks += _callbacks(config, run)
    trainer = fit(
        module,
        ResumableLoader(order, partial(windows.batch, pin=device == "cuda")),  # pyright: ignore[reportArgumentType]
        run,
        max_steps=config.steps,
        device=device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision=precision(config.precision, device),
        accumulate_grad_batches=order.micro_batches(world_size),
        gradient_clip_val=config.clip,
        checkpoint_every=config.checkpoint_every or tenth,
        validation_loader=validation,
        validate_every=(config.validate_every or tenth) if validated else None,
        log_every=config.log_every,
        callbacks=callbacks,
        progress=config.progress,
    )
    state = gathered_state(module)  # by every rank
    if trainer.is_global_zero:
        best = run.checkpoints / "best.ckpt"
        model = _model_of(read_weights(best) if best.exists() else state, shape)
        if held_out is not None:
            records = _loss_records(model, held_out, config, sampler, device)
            run.write_results(stamped(records, device_name(device), time.perf_counter() - start))
        save_model(model, run.path / "model", windows.info.species)  # last: with it the run is finished
    trainer.strategy.barrier()
    return run


def scheme_sampler(config: Pretrain) -> RatioSampler:
    """Return the scheme of a config, with its seed and its frozen steps."""
    return with_freeze(sampler_from_config(config.mask_ratio, "dna", seed=config.seed), config.freeze_steps)


def with_freeze(sampler: RatioSampler, freeze_steps: int | None) -> RatioSampler:
    """Return a curriculum with another number of frozen steps; any other sampler as it is."""
    if freeze_steps is None or not isinstance(sampler, Curriculum):
        return sampler
    return replace(sampler, freeze_steps=freeze_steps)


def model_shape(config: Pretrain, n_species: int) -> ModelConfig:
    """Return the network's shape for so many species beside the reference."""
    return ModelConfig.sized(
        config.model, n_species, hidden=config.hidden, layers=config.layers, heads=config.heads, dropout=config.dropout
    )


def _masking(config: Pretrain) -> MaskingConfig:
    try:
        return MaskingConfig(
            config.mask_share, config.random_share, config.soft_mask_weight, config.conservation_weights,
            config.label_flip,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from None


def _refuse(config: Pretrain, validated: bool) -> None:
    if not 0 <= config.warmup <= 1:
        raise UserError(f"--warmup is a share of the steps, between 0 and 1, got {config.warmup:g}")
    if config.compile and config.strategy == "fsdp":
        raise UserError("--compile together with --strategy fsdp is not tested; choose one")
    if config.patience is not None and not validated:
        raise UserError(f"--patience needs validation windows, and {config.windows} has none")


def _model_of(state: dict[str, Tensor], shape: ModelConfig) -> AlignmentModel:
    """Return the network of a module's whole state. A compiled model's names are those of its own modules."""
    model, prefix = AlignmentModel(shape), "model."
    model.load_state_dict({name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)})
    return model.eval()


def _loss_records(
    model: AlignmentModel, held_out: WindowSet, config: Pretrain, sampler: RatioSampler, device: str
) -> list[Record]:
    losses = held_out_loss(
        model, held_out, ratios=config.validation_ratios, max_windows=config.max_windows, device=device
    )
    task, name = config.windows.resolve().name, scheme_name(sampler, "dna")
    n = min(config.max_windows, len(held_out))
    return [
        Record(task, f"loss@{ratio:g}", loss, name, config.seed, n, "validation")
        for ratio, loss in zip(config.validation_ratios, losses, strict=True)
    ]


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-dna pretrain`."""
    device, sampler, info = resolve_device(config.device), scheme_sampler(config), WindowSet(config.windows).info
    say(
        f"Pretraining {config.model if config.hidden is None else 'a network'} on {info.counts['train']:,} windows of "
        f"{info.window} bases and {info.n_species} species beside the reference, ratio {sampler.describe()}, "
        f"on {device_name(device)}"
    )
    run = pretrain(config)
    for record in run.results():
        say(f"{record.metric} on {record.n:,} validation windows: {record.value:.4f}")
    made = "results.json, model/" if run.results() else "model/"
    judge = f"r2mae-dna probe {run.path} {config.windows}, or " if run.results() else ""
    say(f"Done: {run.path} ({made}). Next: {judge}r2mae-dna score {run.path} STORE VARIANTS")
