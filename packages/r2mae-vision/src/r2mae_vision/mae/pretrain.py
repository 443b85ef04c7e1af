"""MAE pretraining with any mask-ratio scheme: what is special to it, and the module for Lightning."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from r2mae_core import (
    HeldOutLoss,
    InOrder,
    LinearDecay,
    MaskedModule,
    Modality,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    StepOrder,
    UserError,
    check_output,
    file_digest,
    micro_batch_size,
    pasteable,
    run_pretraining,
    say,
    without_prefix,
)
from r2mae_vision.data.augment import RandomCrop, proportions, random_resized_crop
from r2mae_vision.data.datasets import check_channels, least_side, n_workers, sample_images, train_loader
from r2mae_vision.data.pairs import held_out, identity
from r2mae_vision.data.sizes import pair, shown
from r2mae_vision.data.sources import Source, how_to_open, open_source
from r2mae_vision.data.store import ImageStore
from r2mae_vision.mae.callbacks import UnreadableImages
from r2mae_vision.mae.evaluate import N_IMAGES, held_out_loss
from r2mae_vision.mae.fitting import load_published
from r2mae_vision.mae.flops import train_flops
from r2mae_vision.mae.judge import Judge, Judged, images_to_judge
from r2mae_vision.mae.masking import check_visible
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.module import MaskedImageModule
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.shape import IMAGENET_MEAN, IMAGENET_STD, MAEShape
from r2mae_vision.mae.weights import save_mae, weights_files


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain a masked autoencoder on a timm ViT; see `run_pretraining`."""
    return run_pretraining(VisionModality, config)


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-vision pretrain`."""
    run_pretraining(VisionModality, config, talk=True)


class VisionModality(Modality[Pretrain, MaskedAutoencoder]):
    """Pretraining on images."""

    program, name, unit = "r2mae-vision", "vision", "images"
    # Data and start are compared by content: they may have been moved.
    marker, free = "mae.json", ("validate_every", "data", "labels", "start")

    def __init__(self, config: Pretrain) -> None:
        super().__init__(config)
        if config.out is not None:
            check_output(config.out, [config.data, config.labels, config.start])
        how = how_to_open(config)
        self.source, (held_out_source, self.part) = open_source(config.data, "train", how), held_out(config.data, how)
        self.held_out_source = held_out_source
        self.n_samples = len(self.source)
        self.model = MaskedAutoencoder(shape_of(config, self.source), config.seed)
        if isinstance(self.source, ImageStore):
            check_channels(self.source, self.model.shape.in_chans)
        self.missing = [] if config.start is None else load_published(config.start, self.model)
        shape, self.task = self.model.shape, held_out_source.name
        self.images = sample_images(held_out_source, N_IMAGES, shape.size, shape.in_chans)
        self.judged = None if config.judge_every is None else self._images_to_judge(config.judge_every)

    def _images_to_judge(self, every: int) -> tuple[Judged, Judged]:
        config, sampler = self.config, self.sampler()
        steps = config.epochs * (self.n_samples // config.batch_size)
        if every > steps:
            raise UserError(f"--judge_every {every} is more than the {steps} steps of the training")
        ratio = float(np.mean([sampler.mean(step, steps) for step in range(0, steps, max(steps // 100, 1))]))
        return images_to_judge(
            self.model, self.source, self.held_out_source, apart=self.part != "train",
            every=every, batch_size=config.batch_size, ratio=ratio,
        )  # fmt: skip

    @override
    def sampler(self) -> RatioSampler:
        """Return the scheme; a linear decay takes one step down per epoch, as in the paper's ViT runs."""
        sampler, epochs = super().sampler(), self.config.epochs
        check_visible(sampler.bounds(0, epochs)[0], self.model.n_patches)
        if isinstance(sampler, LinearDecay) and sampler.stages is None:
            return replace(sampler, stages=epochs)
        return sampler

    @override
    def micro_batch_size(self, device: str) -> int:
        config, largest = self.config, 256 if device == "cuda" else 64
        return micro_batch_size(config.micro_batch_size, config.batch_size, config.world_size, largest)

    @override
    def settings(self, micro_batch_size: int) -> dict[str, Any]:
        # A step's masks depend on how it is divided, so a run resumes in the same parts.
        return {"micro_batch_size": micro_batch_size}

    @override
    def sources(self) -> dict[str, str]:
        found = identity(self.source, self.held_out_source)
        start = self.config.start
        if start is None:
            return found
        digests = ", ".join(file_digest(file)[:16] for file in weights_files(start))
        return {**found, "start": f"weights, {digests}"}

    @override
    def build(self, sampler: RatioSampler) -> MaskedModule:
        config = self.config
        if self.missing:
            more = f" and {len(self.missing) - 1} more" if self.missing[1:] else ""
            say(f"{config.start} has no {self.missing[0]}{more}: newly initialised")
        return MaskedImageModule(
            self.model,
            sampler,
            ratio_per=config.ratio_per,
            loss_weight=config.loss_weight,
            mask_shape=config.mask_shape,
            block_area=config.block_area,
            augment=device_augmentation(config) if isinstance(self.source, ImageStore) else None,
            lr=config.lr if config.lr is not None else config.base_lr * config.batch_size / 256,
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            decay_tokens=config.decay_tokens,
            betas=config.betas,
            compile=config.compile,
            seed=config.seed,
        )

    @override
    def title(self, module: Any) -> str:
        return f"{self.config.model} on {self.config.data}"

    @override
    def loader(self, order: StepOrder, device: str) -> ResumableLoader:
        config, source, prepared = self.config, self.source, isinstance(self.source, ImageStore)
        there, here = source.size if isinstance(source, ImageStore) else (0, 0), self.model.shape.size
        if device == "cuda" and any(a > 2 * b for a, b in zip(there, here, strict=True)):
            say(
                f"{config.data} holds images of {shown(there)} pixels for a model of {shown(here)}: crops on the "
                "GPU are not antialiased; prepare them at no more than twice the model's size"
            )
        return train_loader(
            source,
            None if prepared else worker_transform(config, own=getattr(source, "prepared", False)),
            order,
            in_chans=self.model.shape.in_chans,
            num_workers=n_workers(config.workers),
            device=device,
            least=least_side(config.image_size, config.crop_scale[0] if config.augment == "crop" else 0.5),
        )

    @override
    def held_out(self, micro_batch_size: int) -> InOrder:
        return InOrder(range(len(self.images)), micro_batch_size, lambda rows: (self.images[rows],))

    @override
    def flops(self, module: Any, mask_ratio: float) -> float:
        return train_flops(self.model, mask_ratio)

    @override
    def callbacks(self, run: RunFolder) -> list[pl.Callback]:
        config, found = self.config, list[pl.Callback]()
        if not isinstance(self.source, ImageStore):
            found.append(UnreadableImages(self.source, run.path / "skipped.txt"))
        if self.judged is not None and config.judge_every is not None:
            found.append(Judge(*self.judged, config.judge_every, config.judge_patience, run))
        return found

    @override
    def trained(self, state: dict[str, Tensor], run: RunFolder) -> MaskedAutoencoder:
        whole = MaskedAutoencoder(self.model.shape)
        whole.load_state_dict(without_prefix(state, "model."))
        return whole.eval()

    @override
    def evaluate(self, model: MaskedAutoencoder, device: str) -> HeldOutLoss:
        losses = held_out_loss(model.to(device), self.images.to(device))
        return HeldOutLoss(self.task, losses, len(self.images), self.part)

    @override
    def save(self, model: MaskedAutoencoder, folder: Path) -> None:
        save_mae(model, folder)

    @override
    def next_command(self, run: RunFolder) -> str:
        return f"{self.program} reconstruct, probe, finetune or export {pasteable(run.path)}"


def shape_of(config: Pretrain, source: Source) -> MAEShape:
    """Return the shape of the model that the config describes."""
    in_chans = config.in_chans or source.in_chans
    if isinstance(source, ImageStore) and source.span is not None and source.mean and source.std:
        if in_chans != source.in_chans:
            check_channels(source, in_chans)
        measured = {"mean": source.mean, "std": source.std, "pixel_range": source.span}
        return MAEShape(**chosen_of(config), in_chans=in_chans, **measured)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if in_chans == 3 else ((0.5,) * in_chans, (0.5,) * in_chans)
    return MAEShape(**chosen_of(config), in_chans=in_chans, mean=mean, std=std)


def chosen_of(config: Pretrain) -> dict[str, Any]:
    """Return what the options say of the model's shape."""
    names = ("model", "image_size", "patch_size", "decoder_dim", "decoder_depth", "decoder_heads", "norm_pix_loss")
    return {name: getattr(config, name) for name in (*names, "model_args", "positions")}


def device_augmentation(config: Pretrain) -> Callable[[Tensor, torch.Generator], Tensor] | None:
    """Return random resized crop and flip on the device, for prepared images: (images, generator) → images."""
    if config.augment == "none":
        return None
    crop = partial(random_resized_crop, scale=config.crop_scale, flip=config.flip)
    return lambda images, generator: crop(images, config.image_size, generator)


def worker_transform(config: Pretrain, *, own: bool = False) -> Any:
    """Return the transform for images that are decoded in training: PIL image → (C, H, W) uint8.

    Args:
        config: the options.
        own: of the images of a compressed store, ours; else timm's.
    """
    if own and config.augment == "crop":
        return RandomCrop(config.image_size, config.crop_scale, config.flip)
    from timm.data.transforms_factory import create_transform

    size: Any = {"input_size": pair(config.image_size), "use_prefetcher": True, "interpolation": "bicubic"}
    if config.augment == "none":
        return create_transform(**size, crop_pct=1.0, crop_mode="squash")
    hflip = 0.5 if config.flip else 0.0
    ratio = proportions(config.image_size)
    return create_transform(
        **size, is_training=True, scale=config.crop_scale, ratio=ratio, hflip=hflip, color_jitter=0.0
    )
