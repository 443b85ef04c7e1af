"""The base class of every modality's pretraining module, where the sampler meets Lightning.

Ratio, masks, dropout and data order are functions of (seed, optimizer step, shard), so a resumed run equals an
uninterrupted one bit for bit, and two ranks equal one process that accumulates two batches.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core.lab.errors import UserError
from r2mae_core.ratio.protocol import MaskRatioSampler, RatioSampler
from r2mae_core.ratio.randomness import derived_seed
from r2mae_core.ratio.samplers import Curriculum, has_quantile
from r2mae_core.train.finite_loss import FiniteLoss
from r2mae_core.train.options import LossWeight, RatioPer
from r2mae_core.train.ranks import rank_and_world_size
from r2mae_core.train.sharding import is_sharded, shard

N_RATIO_BINS = 10
MIXED = -1
"""The bin of a loss over samples of several ratios."""


@dataclass(frozen=True)
class MaskDraw:
    """What `masked_loss` is given: everything random about one micro-batch."""

    ratio: float | Tensor
    """Fraction to hide; or (B,) float64 on the CPU: one for each sample. The masks of core take either."""
    generator: torch.Generator
    """Source of the masks, on the module's device; depends on (seed, step, shard)."""
    column: int = 0
    """Column of the curriculum weights that belongs to the ratio."""
    multiplier: float = 0.0
    """Factor on the gradient of the curriculum head; 0: frozen, every weight is 1."""
    loss_weight: LossWeight = "none"
    """How hidden positions are weighted; "none" in validation, so that all schemes are compared by one loss."""

    @property
    def mean_ratio(self) -> float:
        """The fraction to hide, over the samples of the micro-batch."""
        return float(self.ratio.mean()) if isinstance(self.ratio, Tensor) else self.ratio


class MaskedModule(FiniteLoss):
    """Base of every modality's pretraining module.

    Subclasses give `masked_loss` and `configure_optimizers`.

    Args:
        mask_ratio: the scheme.
        seed: of masks and dropout.
        ratio_per: "step": one ratio per optimizer step, shared by ranks and accumulated micro-batches (the paper's
            "every mini-batch"); "micro_batch": a new one for each micro-batch, the same on every rank; "sample": one
            for each sample, a function of (seed, step, the sample's place in the global batch).
        loss_weight: "none": the mean over the hidden positions (the paper); "inverse_ratio": divided by the ratio, as
            in masked diffusion; see `inverse_ratio_loss`.
        validation_ratios: validation computes the loss at each of these, with masks that depend on the batch alone,
            so that schemes can be compared.

    Raises:
        UserError: the scheme, `ratio_per` and `loss_weight` do not go together, or `masked_loss` does not know them.
    """

    takes_ratios = False
    """Whether `masked_loss` takes a ratio for each sample (`ratio_per="sample"`)."""
    takes_loss_weight = False
    """Whether `masked_loss` heeds `MaskDraw.loss_weight`."""

    def __init__(
        self,
        mask_ratio: MaskRatioSampler,
        *,
        seed: int = 0,
        ratio_per: RatioPer = "step",
        loss_weight: LossWeight = "none",
        validation_ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    ) -> None:
        super().__init__()
        if ratio_per == "sample" and not self.takes_ratios:
            raise UserError("--ratio_per sample is not available for this model; use step or micro_batch")
        if loss_weight != "none" and not self.takes_loss_weight:
            raise UserError(f"--loss_weight {loss_weight} is not available for this model")
        check_scheme(mask_ratio, ratio_per, loss_weight)
        self.mask_ratio, self.seed, self.ratio_per = mask_ratio, seed, ratio_per
        self.loss_weight: LossWeight = loss_weight
        self.validation_ratios = tuple(validation_ratios)
        self._generator: torch.Generator | None = None
        self._bins = _RatioBins()

    @abstractmethod
    def masked_loss(self, batch: Any, draw: MaskDraw) -> Tensor:
        """Return the scalar loss of a batch on its hidden positions."""

    def sharded_blocks(self) -> Iterable[nn.Module]:
        """Return the submodules that `--strategy fsdp` divides one by one: the elements of every `nn.ModuleList`.

        Each must be called by its forward alone; a module that reads a block's weights otherwise leaves it out here.
        """
        return [block for part in self.modules() if isinstance(part, nn.ModuleList) for block in part]

    def configure_model(self) -> None:
        """Divide the weights over the ranks if the strategy requires it."""
        if self.device_mesh is not None and not is_sharded(self):
            shard(self, self.sharded_blocks(), self.device_mesh["data_parallel"], "masked_loss")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["loss_window"] = self._bins.state()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._bins.load(checkpoint.get("loss_window", {}))

    def n_samples(self, batch: Any) -> int:
        """Return how many samples a batch holds: the first dimension of its first tensor."""
        while not isinstance(batch, Tensor):
            batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
        return batch.shape[0]

    def total_steps(self) -> int | None:
        """Return the optimizer steps of the whole training, or None where it has no end."""
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if steps != float("inf") else None

    def ratio_step(self) -> tuple[int, int | None]:
        """Return (step, total_steps) as the sampler counts them."""
        step, total = self.global_step, self.total_steps()
        if self.ratio_per != "micro_batch":
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

    def draw(self, batch: Any, batch_idx: int) -> MaskDraw:
        """Return ratio and masks' generator of this micro-batch, and seed dropout."""
        step, total = self.ratio_step()
        shard = self.shard(batch_idx)
        seed_device(self.device, derived_seed(self.seed, "dropout", self.global_step, shard))
        generator = self.generator_for(self.seed, "mask", self.global_step, shard)
        ratio: float | Tensor = 0.0
        if self.ratio_per == "sample":
            sampler, n = cast("RatioSampler", self.mask_ratio), self.n_samples(batch)
            ratio = torch.from_numpy(sampler.samples(step, total, n=n, first=shard * n))
        else:
            ratio = self.mask_ratio.sample(step, total)
        if self.loss_weight == "inverse_ratio" and (ratio.min() if isinstance(ratio, Tensor) else ratio) <= 0:
            raise UserError(f"--loss_weight inverse_ratio cannot divide by the mask ratio 0 of step {step}")
        if isinstance(self.mask_ratio, Curriculum):
            column, multiplier = self.mask_ratio.column(step, total), self.mask_ratio.multiplier(step, total)
            return MaskDraw(ratio, generator, column, multiplier)
        return MaskDraw(ratio, generator, loss_weight=self.loss_weight)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        draw = self.draw(batch, batch_idx)
        loss = self.masked_loss(batch, draw)
        self._bins.add(draw.ratio, loss.detach())
        self.watch(loss)
        if self.is_log_step() and self.ends_step(batch_idx):
            self.check_finite()
            self.log_now({"mask_ratio": draw.mean_ratio, **self._bins.flush()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Log the loss at every validation ratio and return their mean."""
        rank, world_size = rank_and_world_size()
        n, losses = self.n_samples(batch), []
        for ratio in self.validation_ratios:
            # The module's seed is left out: every scheme and seed is evaluated on the same masks.
            generator = self.generator_for(0, "validation", batch_idx * world_size + rank)
            loss = self.masked_loss(batch, MaskDraw(ratio, generator))
            self.log(f"val_loss/ratio_{ratio:g}", loss, on_epoch=True, sync_dist=world_size > 1, batch_size=n)
            losses.append(loss)
        return torch.stack(losses).mean()

    @override
    def describe_step(self, step: int) -> str:
        if self.ratio_per != "step":
            return f"step {step}"
        return f"step {step} (mask ratio {self.mask_ratio.sample(step, self.total_steps()):.4g})"

    def is_log_step(self) -> bool:
        """Return whether this optimizer step is one that is logged: every so many, and the last."""
        step, every = self.global_step + 1, self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        return step % every == 0 or step == self.total_steps()

    def ends_step(self, batch_idx: int) -> bool:
        """Return whether the optimizer steps after this micro-batch."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def log_now(self, metrics: dict[str, float | Tensor]) -> None:
        """Send metrics to every logger. Reading device values waits for the device, so do it at log steps only."""
        values = {name: float(value) for name, value in metrics.items()}
        for logger in self.loggers:
            logger.log_metrics(values, self.global_step)


def check_scheme(mask_ratio: MaskRatioSampler, ratio_per: RatioPer, loss_weight: LossWeight) -> None:
    """Refuse a scheme with which the options make no sense.

    Raises:
        UserError: they are named.
    """
    for name, value, known in (("ratio_per", ratio_per, RatioPer), ("loss_weight", loss_weight, LossWeight)):
        if value not in get_args(known):
            raise UserError(f"--{name} must be one of {', '.join(get_args(known))}, got {value!r}")
    if isinstance(mask_ratio, Curriculum) and (ratio_per == "sample" or loss_weight != "none"):
        wrong = "--ratio_per sample" if ratio_per == "sample" else f"--loss_weight {loss_weight}"
        raise UserError(f"{wrong} does not go together with the learned loss weights of a curriculum (cl); choose one")
    if ratio_per == "sample" and not has_quantile(mask_ratio):
        name = type(mask_ratio).__name__
        raise UserError(f"--ratio_per sample needs a sampler with a quantile, and {name} has none; use step")


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the default generator of the device.

    Not `torch.manual_seed`: where torch was built for a GPU that is absent, it keeps a stack trace of every call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


class _RatioBins:
    """Mean loss per bin of the ratio. Sums stay on the device; counts and bins are known on the host."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def add(self, ratio: float | Tensor, loss: Tensor) -> None:
        # The loss of samples with a ratio each belongs to no bin, but counts in the mean.
        bin_index = MIXED if isinstance(ratio, Tensor) else min(int(ratio * N_RATIO_BINS), N_RATIO_BINS - 1)
        if any(total.device != loss.device for total in self.sums.values()):  # they are of a checkpoint
            self.sums = {i: total.to(loss.device) for i, total in self.sums.items()}
        self.sums[bin_index] = self.sums[bin_index] + loss if bin_index in self.sums else loss
        self.counts[bin_index] = self.counts.get(bin_index, 0) + 1

    def state(self) -> dict[str, list[float]]:
        """Return bin → [sum, count], for a checkpoint; reading the sums waits for the device."""
        return {str(i): [float(self.sums[i]), self.counts[i]] for i in self.counts}

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on from a saved state; the first loss that is added says on which device."""
        self.sums = {int(i): torch.tensor(total) for i, (total, _) in state.items()}
        self.counts = {int(i): int(count) for i, (_, count) in state.items()}

    def flush(self) -> dict[str, float | Tensor]:
        if not self.counts:
            return {}
        metrics: dict[str, float | Tensor] = {
            f"loss/ratio_{i / N_RATIO_BINS:g}_to_{(i + 1) / N_RATIO_BINS:g}": self.sums[i] / self.counts[i]
            for i in sorted(self.counts)
            if i != MIXED
        }
        metrics["loss"] = torch.stack(list(self.sums.values())).sum() / sum(self.counts.values())
        self.sums, self.counts = {}, {}
        return metrics
