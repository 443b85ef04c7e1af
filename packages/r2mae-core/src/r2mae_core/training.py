"""The training seam: the sampler meets Lightning here, and nowhere else.

A modality writes a `MaskedModule` with its own `masked_loss` and calls `train`. Ratio, masks, dropout and data order
are functions of (seed, optimizer step, shard), so a resumed run equals an uninterrupted one bit for bit, and two
ranks equal one process that accumulates two batches.
"""

import contextlib
import logging
import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor
from tqdm import tqdm

from r2mae_core.data_order import ResumableLoader, rank_and_world_size
from r2mae_core.devices import resolve_device
from r2mae_core.errors import UserError
from r2mae_core.metrics_csv import MetricsCSV
from r2mae_core.randomness import derived_seed
from r2mae_core.run_folder import RunFolder
from r2mae_core.samplers import Curriculum, MaskRatioSampler

N_RATIO_BINS = 10
# What Lightning warns of and we mean.
_BY_DESIGN = (
    ".*exists and is not empty.*",  # a run folder that exists is a resume
    ".*GPU available but not used.*",  # the user said cpu
    ".*no `val_dataloader`.*",  # validation is optional
    ".*smaller than the logging interval.*",  # steps are counted over epochs
    ".*does not have many workers.*",  # data in memory needs none
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning 2.6 with torch 2.15, its own code
)


@dataclass(frozen=True)
class MaskDraw:
    """What the seam hands to `masked_loss`: everything random about one micro-batch."""

    ratio: float
    """Fraction to hide."""
    generator: torch.Generator
    """Source of the masks, on the module's device; depends on (seed, step, shard)."""
    column: int = 0
    """Column of the curriculum weights that belongs to the ratio."""
    multiplier: float = 0.0
    """Factor on the gradient of the curriculum head; 0: frozen, every weight is 1."""


class MaskedModule(pl.LightningModule):
    """Base of every modality's pretraining module.

    Subclasses give `masked_loss` and `configure_optimizers`.

    Args:
        mask_ratio: the scheme.
        seed: of masks and dropout.
        ratio_per: "step": one ratio per optimizer step, shared by ranks and accumulated micro-batches (the paper's
            "every mini-batch"); "micro_batch": a new one for each micro-batch, the same on every rank.
        validation_ratios: validation computes the loss at each of these, with masks that depend on the batch alone,
            so that schemes can be compared.
    """

    def __init__(
        self,
        mask_ratio: MaskRatioSampler,
        *,
        seed: int = 0,
        ratio_per: Literal["step", "micro_batch"] = "step",
        validation_ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    ) -> None:
        super().__init__()
        self.mask_ratio, self.seed, self.ratio_per = mask_ratio, seed, ratio_per
        self.validation_ratios = tuple(validation_ratios)
        self._generator: torch.Generator | None = None
        self._bins = _RatioBins()

    @abstractmethod
    def masked_loss(self, batch: Any, draw: MaskDraw) -> Tensor:
        """Return the scalar loss of a batch on its hidden positions."""

    def total_steps(self) -> int | None:
        """Return the optimizer steps of the whole training, or None where it has no end."""
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if steps != float("inf") else None

    def ratio_step(self) -> tuple[int, int | None]:
        """Return (step, total_steps) as the sampler counts them."""
        step, total = self.global_step, self.total_steps()
        if self.ratio_per == "step":
            return step, total
        per_step = self.trainer.accumulate_grad_batches
        return self.trainer.fit_loop.total_batch_idx, None if total is None else total * per_step

    def shard(self, batch_idx: int) -> int:
        """Return which part of the optimizer step's global batch this micro-batch is.

        Rank r's i-th micro-batch of w ranks is shard i · w + r, so ranks and accumulation are interchangeable.
        """
        rank, world_size = rank_and_world_size()
        return batch_idx % self.trainer.accumulate_grad_batches * world_size + rank

    def generator_for(self, seed: int, *position: int | str) -> torch.Generator:
        """Return the module's generator, set to a state that depends on (seed, position) alone."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        return self._generator.manual_seed(derived_seed(seed, *position))

    def draw(self, batch_idx: int) -> MaskDraw:
        """Return ratio and masks' generator of this micro-batch, and seed dropout."""
        step, total = self.ratio_step()
        position = (self.global_step, self.shard(batch_idx))
        torch.manual_seed(derived_seed(self.seed, "dropout", *position))
        generator = self.generator_for(self.seed, "mask", *position)
        ratio = self.mask_ratio.sample(step, total)
        if isinstance(self.mask_ratio, Curriculum):
            column, multiplier = self.mask_ratio.column(step, total), self.mask_ratio.multiplier(step, total)
            return MaskDraw(ratio, generator, column, multiplier)
        return MaskDraw(ratio, generator)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: D102
        draw = self.draw(batch_idx)
        loss = self.masked_loss(batch, draw)
        self._bins.add(draw.ratio, loss.detach())
        if self.is_log_step():
            self.log_now({"mask_ratio": draw.ratio, **self._bins.flush()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: D102
        rank, world_size = rank_and_world_size()
        for ratio in self.validation_ratios:
            # The module's seed is left out: every scheme and seed is judged on the same masks.
            generator = self.generator_for(0, "validation", batch_idx * world_size + rank)
            loss = self.masked_loss(batch, MaskDraw(ratio, generator))
            self.log(f"val_loss/ratio_{ratio:g}", loss, on_epoch=True, sync_dist=world_size > 1, batch_size=len(batch))

    def is_log_step(self) -> bool:
        """Return whether this optimizer step is one that is logged: every so many, and the last."""
        step, every = self.global_step + 1, self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        return step % every == 0 or step == self.total_steps()

    def log_now(self, metrics: dict[str, float | Tensor]) -> None:
        """Send metrics to every logger. Reading device values waits for the device, so do it at log steps only."""
        values = {name: float(value) for name, value in metrics.items()}
        for logger in self.loggers:
            logger.log_metrics(values, self.global_step)


class _RatioBins:
    """Mean loss per bin of the ratio. Sums stay on the device; counts and bins are known on the host."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def add(self, ratio: float, loss: Tensor) -> None:
        bin_index = min(int(ratio * N_RATIO_BINS), N_RATIO_BINS - 1)
        self.sums[bin_index] = self.sums[bin_index] + loss if bin_index in self.sums else loss
        self.counts[bin_index] = self.counts.get(bin_index, 0) + 1

    def flush(self) -> dict[str, float | Tensor]:
        if not self.counts:
            return {}
        metrics: dict[str, float | Tensor] = {
            f"loss/ratio_{i / N_RATIO_BINS:g}_to_{(i + 1) / N_RATIO_BINS:g}": self.sums[i] / self.counts[i]
            for i in sorted(self.counts)
        }
        metrics["loss"] = torch.stack(list(self.sums.values())).sum() / sum(self.counts.values())
        self.sums, self.counts = {}, {}
        return metrics


class _Position(pl.Callback):
    """Keeps the data loader's position in the checkpoint; Lightning restores it in mid-epoch only."""

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loader.load_state_dict(state_dict)


class _Throughput(pl.Callback):
    """Logs samples per second between two log steps."""

    def __init__(self, samples_per_step: int) -> None:
        self.samples_per_step, self.since = samples_per_step, (0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.since = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        start, step = self.since
        if trainer.global_step % trainer.log_every_n_steps == 0 and trainer.global_step > step:  # pyright: ignore[reportAttributeAccessIssue]
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            rate = (trainer.global_step - step) * self.samples_per_step / (now - start)
            for logger in trainer.loggers:
                logger.log_metrics({"samples_per_second": rate}, trainer.global_step)
            self.since = (now, trainer.global_step)


class _Progress(pl.Callback):
    """One bar over all optimizer steps, with the time that is left; a line every ten seconds where no one watches."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        self.bar = tqdm(
            desc="pretraining",
            total=int(steps) if steps != float("inf") else None,
            initial=trainer.global_step,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            dynamic_ncols=True,
            disable=trainer.global_rank != 0,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.bar.update(trainer.global_step - self.bar.n)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


def train(
    module: pl.LightningModule,
    loader: Iterable[Any],
    run: RunFolder,
    *,
    max_epochs: int | None = None,
    max_steps: int = -1,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: Any = "32-true",
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = None,
    checkpoint_every: int | None = None,
    validation_loader: Iterable[Any] | None = None,
    log_every: int = 50,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[pl.Callback] = (),
    samples_per_step: int | None = None,
    progress: bool = True,
) -> pl.Trainer:
    """Train to the end, from the run folder's last checkpoint if there is one.

    Args:
        module: what to train, most often a `MaskedModule`.
        loader: a `ResumableLoader`, or any iterable that Lightning takes.
        run: where metrics and checkpoints go.
        max_epochs: length in epochs; or
        max_steps: length in optimizer steps.
        device: "auto", "cpu", "cuda", "mps".
        devices: how many of them on this machine.
        strategy: Lightning's name, such as "ddp" or "fsdp".
        num_nodes: machines.
        precision: Lightning's name, such as "bf16-mixed".
        accumulate_grad_batches: micro-batches per optimizer step.
        gradient_clip_val: largest gradient norm; None for no clipping.
        checkpoint_every: optimizer steps between checkpoints; None: at every epoch's end.
        validation_loader: batches for the loss at fixed ratios.
        log_every: optimizer steps between two lines of the log.
        loggers: further Lightning loggers, beside `metrics.csv`.
        callbacks: further Lightning callbacks.
        samples_per_step: samples of the global batch of a step; logs samples per second.
        progress: show a progress bar.

    Returns:
        Lightning's trainer, after the last step.

    Raises:
        UserError: the device is absent, or the run was interrupted (the message says how to resume).
    """
    device = resolve_device(device)
    checkpoint = ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="last",
        save_top_k=1,  # without a monitor: the newest
        every_n_train_steps=checkpoint_every,
        every_n_epochs=None if checkpoint_every else 1,
        save_on_train_epoch_end=None if checkpoint_every else True,
        enable_version_counter=False,
    )
    own: list[pl.Callback] = [checkpoint]
    if isinstance(loader, ResumableLoader):
        own.append(_Position(loader))
    if progress:
        own.append(_Progress())
    if samples_per_step:
        own.append(_Throughput(samples_per_step))
    with _quiet_lightning():
        trainer = _trainer(
            max_epochs=max_epochs,
            max_steps=max_steps,
            accelerator={"cuda": "gpu"}.get(device, device),
            devices=devices,
            strategy=strategy,
            num_nodes=num_nodes,
            precision=precision,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            callbacks=[*own, *callbacks],
            logger=[MetricsCSV(run.metrics_file), *loggers],
            log_every_n_steps=log_every,
            enable_progress_bar=False,  # ours counts optimizer steps, over all epochs
            enable_model_summary=False,
            use_distributed_sampler=False,  # the loader knows its rank
            num_sanity_val_steps=0,
        )
        try:
            with contextlib.suppress(SystemExit):  # Lightning's answer to Ctrl-C
                trainer.fit(module, loader, validation_loader, ckpt_path=run.last_checkpoint, weights_only=True)
        finally:
            if isinstance(loader, ResumableLoader):
                loader.close()
    if trainer.interrupted:
        kept = "its last checkpoint" if run.last_checkpoint else "the beginning (there was no checkpoint yet)"
        raise UserError(
            f"interrupted at step {trainer.global_step}; the same command with --out {run.path} goes on from {kept}"
        )
    return trainer


def _trainer(**arguments: Any) -> pl.Trainer:
    """Build a trainer; what Lightning refuses of the user's options becomes a message."""
    try:
        return pl.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(str(error).strip()) from None


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's banners, tips and the warnings about what we mean: the command says what it does."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for by_design in _BY_DESIGN:
            warnings.filterwarnings("ignore", message=by_design)
        try:
            yield
        finally:
            log.setLevel(level)
