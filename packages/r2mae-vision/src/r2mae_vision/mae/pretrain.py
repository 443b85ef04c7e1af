"""MAE pretraining with any mask-ratio scheme: what is special to it, and the module for Lightning."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    HeldOutLoss,
    InOrder,
    LinearDecay,
    LossWeight,
    MaskDraw,
    MaskedModule,
    MaskRatioSampler,
    Modality,
    RatioPer,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    StepOrder,
    UserError,
    adamw,
    check_output,
    counted_ratio,
    file_digest,
    inverse_ratio_loss,
    micro_batch_size,
    run_pretraining,
    say,
    without_prefix,
)
from r2mae_vision.data.augment import RandomCrop, proportions, random_resized_crop, resize
from r2mae_vision.data.datasets import check_channels, least_side, n_workers, sample_images, train_loader
from r2mae_vision.data.sizes import pair, shown
from r2mae_vision.data.sources import Source, held_out, how_to_open, identity, open_source
from r2mae_vision.data.store import ImageStore
from r2mae_vision.mae.callbacks import UnreadableImages
from r2mae_vision.mae.evaluate import EVALUATION_RATIOS, N_IMAGES, held_out_loss
from r2mae_vision.mae.fitting import load_published
from r2mae_vision.mae.flops import train_flops
from r2mae_vision.mae.judge import Judge, Judged, images_to_judge
from r2mae_vision.mae.masking import check_visible, hidden_counts, pack_patches, patch_order, split_order
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.options import MaskShape, Pretrain
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
        return f"{self.program} reconstruct, probe, finetune or export {run.path}"


class MaskedImageModule(MaskedModule):
    """The Lightning module of a masked autoencoder: augments on the device and predicts hidden patches.

    Args:
        model: the masked autoencoder.
        mask_ratio: the scheme.
        ratio_per: "step", "micro_batch", or "sample": a ratio for each image.
        loss_weight: "none": the mean over the hidden patches; "inverse_ratio": divided by the ratio; see
            `inverse_ratio_loss`.
        mask_shape: of the masks in training: "independent", "blocks" or "inverse_blocks"; see `patch_order`.
            Validation hides independent patches, so that all schemes are compared on the same masks.
        block_area: smallest and largest area of a block, as fractions of the picture.
        augment: images (B, C, H, W) of 0 … 255 and a generator → those of the model's size; None: resize to it.
        lr: peak learning rate.
        warmup: share of the steps in which it rises; it then falls to zero as a cosine.
        weight_decay: on matrices.
        decay_tokens: whether class, mask and register tokens decay too.
        betas: AdamW's.
        compile: torch.compile the model.
        seed: for masks and augmentation.
    """

    takes_ratios = takes_loss_weight = True
    remedies = "lower --lr or --base_lr, clip gradients (--clip), or train in float32 (--precision 32-true)"

    def __init__(
        self,
        model: MaskedAutoencoder,
        mask_ratio: MaskRatioSampler,
        *,
        ratio_per: RatioPer = "step",
        loss_weight: LossWeight = "none",
        mask_shape: MaskShape = "independent",
        block_area: tuple[float, float] | None = None,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        lr: float,
        warmup: float = 1 / 15,
        weight_decay: float = 0.05,
        decay_tokens: bool = False,
        betas: tuple[float, float] = (0.9, 0.95),
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            mask_ratio, seed=seed, ratio_per=ratio_per, loss_weight=loss_weight, validation_ratios=EVALUATION_RATIOS
        )
        self.mask_shape, self.block_area = mask_shape, block_area
        self.model, self.augment = model, augment
        self.lr, self.warmup, self.weight_decay, self.betas = lr, warmup, weight_decay, betas
        self.decay_tokens = decay_tokens
        # The number of visible patches changes from step to step: compiled twice, the second time for any number.
        # Not a submodule: a checkpoint holds every weight once, compiled or not.
        object.__setattr__(self, "_forward", torch.compile(model) if compile else model)
        self._packed_errors = torch.compile(model.packed_errors) if compile else model.packed_errors

    @override
    def masked_loss(self, batch: Any, draw: MaskDraw) -> Tensor:
        """Return the loss of (images (B, C, H, W) of 0 … 255, …) on the hidden patches."""
        images, model = self.prepared(batch[0], draw.generator), self.model
        n_images, n = len(images), model.n_patches
        shape = self.mask_shape if self.training else "independent"
        order = patch_order(n_images, model.grid, draw.generator, shape, self.block_area)
        weighted = draw.loss_weight == "inverse_ratio"
        if isinstance(draw.ratio, Tensor):
            counts = hidden_counts(draw.ratio, n)
            errors = self._packed_errors(images, pack_patches(order, counts, model.encoder.num_prefix_tokens))
            if weighted:
                return inverse_ratio_loss(errors, counted_ratio(draw.ratio, n), n_rows=n_images, n_positions=n)
            return errors.sum() / int(counts.sum())
        split = split_order(order, draw.ratio)
        forward = self._forward if self.training else model  # validation is too short to compile for
        loss = forward(images, split)[0]  # pyright: ignore[reportCallIssue]
        # Of the mean over the hidden patches: what `inverse_ratio_loss` returns, whose denominator is all patches.
        return loss * (split.hidden.shape[1] / (float(counted_ratio(draw.ratio, n)) * n)) if weighted else loss

    @override
    def sharded_blocks(self) -> Iterable[nn.Module]:
        """Return the blocks that are called whole; single weights of the decoder's last one are read directly."""
        return [*self.model.encoder.blocks, *self.model.decoder.blocks[:-1]]

    def prepared(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented (in training) and normalised images."""
        if self.augment is not None and self.training:
            images = self.augment(images, generator)
        return self.model.normalise(resize(images, self.model.shape.size))

    @override
    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule; biases, norms and positions do not decay, and tokens only if asked to."""
        return adamw(
            self.model.named_parameters(),
            lr=self.lr,
            weight_decay=self.weight_decay,
            total_steps=self.total_steps(),
            warmup=self.warmup,
            betas=self.betas,
            free=is_position if self.decay_tokens else never_decays,
        )


def never_decays(name: str) -> bool:
    """Return whether a parameter is a token or a position embedding, which do not decay unless they are asked to."""
    return name.endswith("_token") or is_position(name)


def is_position(name: str) -> bool:
    """Return whether a parameter is a position embedding."""
    return name.endswith("pos_embed")


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
