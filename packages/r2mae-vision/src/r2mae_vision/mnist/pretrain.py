"""Pretraining of the MLP masked autoencoders: one stack of models, a ratio sampler and a seed for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from r2mae_core import (
    BatchOrder,
    Curriculum,
    MaskDraw,
    MaskedModule,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    Tracker,
    UserError,
    check_output,
    check_tracker,
    device_name,
    fit,
    nested_masks,
    open_run,
    page_line,
    pasteable,
    resolve_device,
    resolved,
    sampler_from_config,
    sampler_to_config,
    say,
    scheme_name,
    stamped,
    whole_folder,
    with_seed,
)
from r2mae_vision.mnist.data import ImageData, load_digits_or_mnist
from r2mae_vision.mnist.evaluate import loss_records
from r2mae_vision.mnist.model import MLPAutoencoder, model_file
from r2mae_vision.mnist.options import PretrainMLP


@dataclass(frozen=True)
class Member:
    """One model of a stack."""

    scheme: str
    """Its name in tables."""
    sampler: RatioSampler
    seed: int
    """Seed for initialisation, masks and data order; members that share it differ in the scheme alone."""


class StackedOrder:
    """The batch orders of several seeds, (n_seeds, batch_size) indices a step."""

    def __init__(self, n_samples: int, batch_size: int, seeds: Sequence[int]) -> None:
        self.orders = [BatchOrder(n_samples, batch_size, seed) for seed in seeds]

    def n_batches(self, world_size: int = 1) -> int:
        """Return the batches of an epoch."""
        return self.orders[0].n_batches(world_size)

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the sample indices of every seed's batch."""
        return np.stack([order.batch(position, rank, world_size) for order in self.orders])


class StackedPretraining(MaskedModule):
    """The Lightning module of a stack: each member has its own ratio, its seed's masks, and its own loss.

    The members' losses are summed; no parameter is shared, so every member trains as if it were alone. Batches are
    (n_seeds, B, pixels) in [0, 1].
    """

    remedies = "lower the learning rate (--lr of pretrain-mlp and demo)"

    def __init__(self, model: MLPAutoencoder, members: Sequence[Member], lr: float) -> None:
        super().__init__(members[0].sampler)
        self.model, self.members, self.lr = model, tuple(members), lr
        self.member_seeds = list(dict.fromkeys(member.seed for member in members))
        self.of_member = [self.member_seeds.index(member.seed) for member in members]
        self.of_seed = [[i for i, own in enumerate(self.of_member) if own == k] for k in range(len(self.member_seeds))]
        # Which position of the seed-by-seed concatenation each member has.
        order = [i for group in self.of_seed for i in group]
        self.unsort = None if order == sorted(order) else np.argsort(order).tolist()

    def losses(self, batch: Tensor, masks: Tensor) -> Tensor:
        """Return every member's loss on its seed's images, (M,), with masks (M, B, pixels)."""
        return self.model.masked_errors(batch[self.of_member], masks)

    @override
    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        """Return the sum of the members' losses if all of them hide the same positions."""
        mask = nested_masks(batch.shape[1:], [draw.mean_ratio], generator=draw.generator)
        return self.losses(batch, mask.expand(len(self.members), -1, -1)).sum()

    def masks(self, shape: Sequence[int], ratios: Sequence[float], batch_idx: int) -> Tensor:
        """Return masks (M, B, pixels): members of one seed share their scores, so their masks are nested."""
        parts = []
        for seed, group in zip(self.member_seeds, self.of_seed, strict=True):
            generator = self.generator_for(seed, "mask", self.global_step, self.shard(batch_idx))
            parts.append(nested_masks(shape, [ratios[i] for i in group], generator=generator))
        masks = torch.cat(parts)
        return masks if self.unsort is None else masks[self.unsort]

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Take one step of every member, each with the ratio that its scheme draws."""
        step, total = self.ratio_step()
        ratios = [member.sampler.sample(step, total) for member in self.members]
        losses = self.losses(batch, self.masks(batch.shape[1:], ratios, batch_idx))
        loss = losses.sum()
        self.watch(loss)
        if self.is_log_step():
            self.check_finite()
            metrics: dict[str, float | Tensor] = {}
            for member, ratio, value in zip(self.members, ratios, losses.tolist(), strict=True):
                metrics[f"{member.scheme}/seed{member.seed}/mask_ratio"] = ratio
                metrics[f"{member.scheme}/seed{member.seed}/loss"] = value
            self.log_now(metrics)
        return loss

    @override
    def describe_step(self, step: int) -> str:
        return f"step {step}"

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam; it is elementwise, so the members do not interact in it."""
        return torch.optim.Adam(self.model.parameters(), lr=self.lr, fused=True)


def pretrain_members(
    data: ImageData,
    members: Sequence[Member],
    run: RunFolder,
    *,
    hidden: tuple[int, int],
    epochs: int = 15,
    batch_size: int = 128,
    lr: float = 3e-3,
    device: str = "auto",
    progress: bool = True,
    tracker: Tracker = "csv",
) -> MLPAutoencoder:
    """Train one model per member, all together, and return the stack in evaluation mode (paper, C.3).

    Resumes from the run folder's last checkpoint if there is one.

    Args:
        data: the image set.
        members: scheme, sampler and seed of each model.
        run: where metrics and checkpoints go.
        hidden: widths of the two hidden layers.
        epochs: passes over the training images.
        batch_size: images per step.
        lr: Adam's learning rate.
        device: "auto", "cpu", "cuda", "mps".
        progress: show a progress bar.
        tracker: where the log goes besides the run folder's; see `fit`.

    Raises:
        UserError: a member's scheme needs curriculum weights, which this model does not have; a device is
            unavailable; or the run was interrupted.
    """
    refuse_curricula(members)
    device = resolve_device(device)
    data = data.to(device)
    module = StackedPretraining(
        MLPAutoencoder(data.n_pixels, hidden, tuple(member.seed for member in members)), members, lr
    )
    order = StackedOrder(len(data.train_images), batch_size, module.member_seeds)

    def fetch(indices: np.ndarray) -> Tensor:
        return data.scale(data.train_images[torch.from_numpy(indices).to(device)])

    loader = ResumableLoader(order, fetch)  # pyright: ignore[reportArgumentType]
    fit(
        module,
        loader,
        run,
        max_epochs=epochs,
        device=device,
        progress=progress,
        samples_per_step=batch_size,
        tracker=tracker,
        project="r2mae-vision",
    )
    return module.model.to(device).eval()


def refuse_curricula(members: Sequence[Member]) -> None:
    """Refuse schemes that need curriculum weights.

    Raises:
        UserError: they are named.
    """
    if curricula := [member.scheme for member in members if isinstance(member.sampler, Curriculum)]:
        raise UserError(f"the MLP autoencoder has no curriculum weights; leave out {', '.join(curricula)}")


def pretrain_mlp(config: PretrainMLP) -> RunFolder:
    """Pretrain one MLP as the config describes and return the run folder: `model/`, metrics, checkpoints, results.

    Raises:
        UserError: the data is neither the digits nor a folder of MNIST's files; or as `pretrain_members`.
    """
    if config.out is not None:
        check_output(config.out, [config.data])
    check_tracker(config.logger)
    data, device = load_digits_or_mnist(config.data), resolve_device(config.device)
    sampler = sampler_from_config(config.mask_ratio, "vision", config.seed)
    member = Member(scheme_name(sampler, "vision"), with_seed(sampler, config.seed), config.seed)
    refuse_curricula([member])
    settings = {**resolved(config), "mask_ratio": sampler_to_config(sampler)}
    with open_run("r2mae-vision", "pretrain-mlp", config.out, settings, sources=data.identity, free=("data",)) as run:
        if not model_file(run).exists():
            _train(config, data, member, run, device)
        return run


def _train(config: PretrainMLP, data: ImageData, member: Member, run: RunFolder, device: str) -> None:
    """Train the model of a run, evaluate it and save it."""
    model = pretrain_members(
        data,
        [member],
        run,
        hidden=config.n_hidden,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        device=device,
        progress=config.progress,
        tracker=config.logger,
    )
    run.write_results(stamped(loss_records(model, data.to(device), [member.scheme]), device_name(device)))
    with whole_folder(model_file(run).parent) as folder:  # last: with it the run is finished
        model.write_pretrained(folder)


def pretrain_mlp_command(config: PretrainMLP) -> None:
    """`r2mae-vision pretrain-mlp`."""
    device, scheme = resolve_device(config.device), sampler_from_config(config.mask_ratio, "vision").describe()
    say(f"Pretraining the MLP on {config.data}, mask ratio {scheme}, on {device_name(device)}")
    run = pretrain_mlp(config)
    losses = ", ".join(f"{record.value:.4f} at {record.metric.removeprefix('loss@')}" for record in run.results())
    say(f"Loss on held-out data by mask ratio: {losses}")
    say(f"Done: {run.path} (results.json, model/). Next: r2mae-vision probe {pasteable(run.path)}")
    say(page_line("r2mae-vision", run.path))
