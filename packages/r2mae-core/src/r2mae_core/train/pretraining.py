"""From a modality and its options to a finished run: the way that every `pretrain` goes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import whole_folder
from r2mae_core.lab.records import Record
from r2mae_core.lab.run_folder import RunFolder, open_run, page_line, resolved
from r2mae_core.lab.sealed import write_checksums
from r2mae_core.lab.stamps import stamped
from r2mae_core.lab.terminal import pasteable, say
from r2mae_core.ratio.config import sampler_from_config, sampler_to_config
from r2mae_core.ratio.naming import scheme_in_words
from r2mae_core.ratio.protocol import RatioSampler
from r2mae_core.ratio.samplers import Curriculum
from r2mae_core.train.callbacks import Throughput
from r2mae_core.train.data_order import ResumableLoader, StepOrder, micro_batch_size
from r2mae_core.train.devices import device_name, out_of_memory, precision, resolve_device
from r2mae_core.train.identities import scheme_in_tables
from r2mae_core.train.in_order import InOrder
from r2mae_core.train.masked_module import MaskedModule, check_scheme
from r2mae_core.train.options import PretrainOptions
from r2mae_core.train.sharding import gathered_state
from r2mae_core.train.trackers import check_tracker
from r2mae_core.train.training import fit

Options = TypeVar("Options", bound=PretrainOptions)
Model = TypeVar("Model")


@dataclass(frozen=True)
class HeldOutLoss:
    """The loss of a trained model on held-out data, at fixed mask ratios and with fixed masks."""

    task: str
    """What the data is called in tables."""
    losses: Mapping[float, float]
    """Mask ratio → loss."""
    n: int
    """Samples that it is computed on."""
    split: str = "validation"

    def records(self, scheme: str, seed: int) -> list[Record]:
        """Return a record for each ratio."""
        return [
            Record(self.task, f"loss@{ratio:g}", loss, scheme, seed, self.n, self.split)
            for ratio, loss in self.losses.items()
        ]


class Modality(ABC, Generic[Options, Model]):
    """What is special to a modality's pretraining. An instance is one pretraining, with its data opened.

    `run_pretraining` calls the methods in the order in which they stand here. The constructor opens the data, and
    refuses what does not fit, before anything is written.

    Args:
        config: the command's options.
    """

    program: ClassVar[str]
    """The console script, such as "r2mae-dna"."""
    name: ClassVar[str]
    """The modality, where schemes find their ratios; see `register_modality`."""
    unit: ClassVar[str]
    """What the speed is counted in, such as "windows"."""
    has_curriculum: ClassVar[bool] = False
    """Whether the model has learned loss weights, which a `Curriculum` needs."""
    free: ClassVar[Sequence[str]] = ()
    """Options that a resumed run may change, besides `run_folder.FREE`."""
    marker: ClassVar[str] = "config.json"
    """The file of a saved model that is written last: with it the run is finished."""

    n_samples: int
    """Training samples; set by the constructor."""

    def __init__(self, config: Options) -> None:
        self.config = config

    @property
    def batch_size(self) -> int:
        """Samples of an optimizer step."""
        return self.config.batch_size

    def sampler(self) -> RatioSampler:
        """Return the scheme, as the run folder keeps it.

        Raises:
            UserError: it is unknown, or the model cannot use it.
        """
        sampler = sampler_from_config(self.config.mask_ratio, self.name, self.config.seed)
        if isinstance(sampler, Curriculum) and not self.has_curriculum:
            raise UserError(f"{self.name} models have no curriculum weights; choose another scheme than cl")
        check_scheme(sampler, self.config.ratio_per, self.config.loss_weight)
        return sampler

    def micro_batch_size(self, device: str) -> int:
        """Return how many samples a device computes at once; see `largest_micro_batch`."""
        config = self.config
        largest = self.largest_micro_batch(device)
        return micro_batch_size(config.micro_batch_size, self.batch_size, config.world_size, largest)

    def largest_micro_batch(self, device: str) -> int:
        """Return the most samples that a device computes at once unasked."""
        return self.batch_size

    def settings(self, micro_batch_size: int) -> dict[str, Any]:
        """Return what the run folder keeps of the options instead of what the user wrote."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what else the run depends on, such as the digest of its data."""
        return {}

    def sources(self) -> dict[str, str] | None:
        """Return the `fingerprint` of the user's files that the run is made from; None: `facts` say it."""
        return None

    @abstractmethod
    def build(self, sampler: RatioSampler) -> MaskedModule:
        """Return the untrained module, compiled if the options ask for that."""

    @abstractmethod
    def title(self, module: Any) -> str:
        """Return what is trained on what, for the first line that the command prints."""

    @abstractmethod
    def loader(self, order: StepOrder, device: str) -> ResumableLoader:
        """Return the training batches in an order."""

    def held_out(self, micro_batch_size: int) -> InOrder | None:
        """Return the batches for the validations during training; None: there is no held-out data."""
        return None

    def n_steps(self, module: Any, order: StepOrder, device: str, run: RunFolder) -> int:
        """Return the optimizer steps of the training: `--steps`, or whole epochs."""
        config: Any = self.config
        return config.steps if hasattr(config, "steps") else config.epochs * (self.n_samples // self.batch_size)

    def flops(self, module: Any, mask_ratio: float) -> float | None:
        """Return the operations of forward and backward for one `unit` at a mask ratio; None: not counted."""
        return None

    def throughput(self, module: Any) -> Throughput:
        """Return what logs the speed."""
        config = self.config
        return Throughput(self.batch_size, self.unit, lambda ratio: self.flops(module, ratio), config.peak_tflops)

    def callbacks(self, run: RunFolder) -> list[pl.Callback]:
        """Return further callbacks, such as early stopping."""
        return []

    @abstractmethod
    def trained(self, state: dict[str, Tensor], run: RunFolder) -> Model:
        """Return the trained model, whole and on the CPU.

        Args:
            state: the module's weights, by their names in the module.
            run: where a better checkpoint than the last may lie.
        """

    @abstractmethod
    def evaluate(self, model: Model, device: str) -> HeldOutLoss | None:
        """Return the loss on held-out data at fixed ratios; None: there is no held-out data."""

    @abstractmethod
    def save(self, model: Model, folder: Path) -> None:
        """Write the model in the format of its ecosystem, `marker` last."""

    def next_command(self, run: RunFolder) -> str:
        """Return what a user may want to call next, with the run's path."""
        return f"{self.program} compare {pasteable(run.path)}"


def run_pretraining(modality: type[Modality[Options, Any]], config: Options, *, talk: bool = False) -> RunFolder:
    """Pretrain with these options and return the run folder: `model/`, `results.json`, metrics and checkpoints.

    Resumes from the folder's last checkpoint if there is one. A finished run is returned as it is.

    Args:
        modality: what is special to it.
        config: the options.
        talk: print what is trained, the held-out losses, and what to call next.

    Raises:
        UserError: data, model, scheme, budget or device do not fit, memory is full, or the run was interrupted.
    """
    start = time.perf_counter()
    refuse_together(config)
    check_tracker(config.logger)
    device = resolve_device(config.device)
    task = modality(config)
    sampler, micro = task.sampler(), task.micro_batch_size(device)
    order = StepOrder(task.n_samples, task.batch_size, micro, config.seed)
    order.micro_batches(config.world_size)  # refuses what cannot be shared
    settings = {**resolved(config), "mask_ratio": sampler_to_config(sampler), **task.settings(micro)}
    with open_run(
        task.program, "pretrain", config.out, settings,
        n_processes=config.world_size, facts=task.facts(), sources=task.sources(), free=task.free,
    ) as run:  # fmt: skip
        if not is_finished(run, task.marker):
            _train(task, config, run, sampler, order, device, talk=talk, start=start)
    if talk:
        _say_done(run, task)
    return run


def _train(
    task: "Modality[Any, Any]",
    config: PretrainOptions,
    run: RunFolder,
    sampler: RatioSampler,
    order: StepOrder,
    device: str,
    *,
    talk: bool,
    start: float,
) -> None:
    """Train what is left of a run, evaluate the model, and save it."""
    module = task.build(sampler)
    for name in ("ratio_per", "loss_weight"):
        if getattr(module, name) != getattr(config, name):
            raise UserError(f"--{name} {getattr(config, name)} is not heeded by {task.program}'s model; leave it out")
    if talk:
        scheme = scheme_in_words(module.mask_ratio, resolved(config))
        say(f"Pretraining {task.title(module)}, mask ratio {scheme}, on {device_name(device)}")
    held_out = task.held_out(order.micro_size)
    try:
        steps = task.n_steps(module, order, device, run)
        tenth = max(steps // 10, 1)
        trainer = fit(
            module,
            task.loader(order, device),
            run,
            max_steps=steps,
            device=device,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=config.strategy,
            precision=precision(config.precision, device),
            accumulate_grad_batches=order.micro_batches(config.world_size),
            gradient_clip_val=config.clip,
            checkpoint_every=config.checkpoint_every or tenth,
            validation_loader=held_out,
            validate_every=(config.validate_every or tenth) if held_out is not None else None,
            log_every=config.log_every,
            tracker=config.logger,
            project=task.program,
            callbacks=[task.throughput(module), *task.callbacks(run)],
            progress=config.progress,
        )
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error, "--micro_batch_size") from None
    state = gathered_state(module)  # on every rank
    if trainer.is_global_zero:
        model = task.trained(state, run)
        if (loss := task.evaluate(model, device)) is not None:
            records = loss.records(scheme_in_tables(sampler, task.name, resolved(config)), config.seed)
            run.write_results(stamped(records, device_name(device), time.perf_counter() - start))
        with whole_folder(run.path / "model") as folder:  # last: with it the run is finished
            task.save(model, folder)
            write_checksums(folder)
    trainer.strategy.barrier()


def refuse_together(config: PretrainOptions) -> None:
    """Refuse options that do not work together.

    Raises:
        UserError: they are named.
    """
    if config.compile and config.strategy == "fsdp":
        raise UserError("--compile together with --strategy fsdp is not tested; choose one")
    # Zero steps would save an untrained model as a finished one, and Lightning takes -1 for a training without end.
    for name in ("steps", "epochs"):
        value = getattr(config, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")


def is_finished(run: RunFolder, marker: str) -> bool:
    """Return whether a run holds a finished model."""
    return (run.path / "model" / marker).exists()


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _say_done(run: RunFolder, task: Modality[Any, Any]) -> None:
    records: Iterable[Record] = run.results()
    losses = [f"{record.value:.4f} at {record.metric.removeprefix('loss@')}" for record in records]
    if losses:
        say(f"Loss on held-out data by mask ratio: {', '.join(losses)}")
    made = "results.json, model/" if losses else "model/"
    say(f"Done: {run.path} ({made}). Next: {task.next_command(run)}")
    say(page_line(task.program, run.path))
