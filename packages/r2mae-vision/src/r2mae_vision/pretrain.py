"""MAE pretraining with any mask-ratio scheme: the module for Lightning, and one function from options to a run."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from r2mae_core import (
    Curriculum,
    LinearDecay,
    MaskDraw,
    MaskedModule,
    MaskRatioSampler,
    RatioSampler,
    Record,
    RunFolder,
    UserError,
    cosine,
    decay_groups,
    device_name,
    fit,
    gathered_state,
    micro_batch_size,
    open_run,
    out_of_memory,
    precision,
    refuse_options,
    resolve_device,
    resolved,
    sampler_from_config,
    sampler_to_config,
    say,
    scheme_name,
    stamped,
)
from r2mae_vision.callbacks import Speed, UnreadableImages
from r2mae_vision.data.augment import random_resized_crop, resize
from r2mae_vision.data.datasets import HeldOutBatches, n_workers, sample_images, train_loader
from r2mae_vision.data.sources import Source, held_out, open_source
from r2mae_vision.data.store import ImageStore
from r2mae_vision.evaluate import EVALUATION_RATIOS, N_IMAGES, loss_curve
from r2mae_vision.masking import check_visible, pack_patches, split_patches
from r2mae_vision.model import IMAGENET_MEAN, IMAGENET_STD, MAEShape, MaskedAutoencoder
from r2mae_vision.options import Pretrain
from r2mae_vision.weights import load_published, save_mae

EPOCHS, BATCH_SIZE = 150, 4096  # C.5, and MAE's public recipe
ONLY_MLP = {"hidden"}
OF_MLP = {"data", "mask_ratio", "model", "epochs", "batch_size", "lr", "seed", "device", "out", "progress", *ONLY_MLP}
"""Options that the MLP heeds; the others are the ViTs'."""


class MaskedImageModule(MaskedModule):
    """Lightning's view of a masked autoencoder: augments on the device, hides patches, takes the loss there alone.

    Args:
        model: the masked autoencoder.
        mask_ratio: the scheme.
        scope: "batch": one ratio for the step's images; "sample": a ratio for each image.
        augment: images (B, C, H, W) of 0 … 255 and a generator → (B, C, side, side); None: resize to the model's side.
        lr: peak learning rate.
        warmup: share of the steps in which it rises; it then falls to zero as a cosine.
        weight_decay: on matrices.
        betas: AdamW's.
        compile: torch.compile the model.
        seed: of masks and augmentation.
        ratio_per: "step" or "micro_batch".
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        mask_ratio: MaskRatioSampler,
        *,
        scope: Literal["batch", "sample"] = "batch",
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        lr: float,
        warmup: float = 1 / 15,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        compile: bool = False,
        seed: int = 0,
        ratio_per: Literal["step", "micro_batch"] = "step",
    ) -> None:
        super().__init__(mask_ratio, seed=seed, ratio_per=ratio_per, validation_ratios=EVALUATION_RATIOS)
        self.model, self.scope, self.augment = model, scope, augment
        self.lr, self.warmup, self.weight_decay, self.betas = lr, warmup, weight_decay, betas
        # The number of visible patches changes from step to step: compiled twice, the second time for any number.
        # Not a submodule: a checkpoint holds every weight once, compiled or not.
        object.__setattr__(self, "_forward", torch.compile(model) if compile else model)
        self._packed_loss = torch.compile(model.packed_loss) if compile else model.packed_loss

    def masked_loss(self, batch: Any, draw: MaskDraw) -> Tensor:
        """Return the loss of (images (B, C, H, W) of 0 … 255, …) on the hidden patches."""
        try:
            images = self.prepared(batch[0], draw.generator)
            if self.scope == "sample" and self.training:
                low, high = self.mask_ratio.bounds(*self.ratio_step())
                packed = pack_patches(len(images), self.model.n_patches, low, high, draw.generator)
                return self._packed_loss(images, packed)
            split = split_patches(len(images), self.model.n_patches, draw.ratio, draw.generator)
            forward = self._forward if self.training else self.model  # validation is too short to compile for
            return forward(images, split)[0]  # pyright: ignore[reportCallIssue]
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "--micro_batch_size") from None

    def sharded_blocks(self) -> Iterable[nn.Module]:
        """Return the blocks that are called whole; of the decoder's last one, weights are read by themselves."""
        return [*self.model.encoder.blocks, *self.model.decoder.blocks[:-1]]

    def draw(self, batch_idx: int) -> MaskDraw:
        """Return ratio and masks' generator; with a ratio per image, the batch's mean ratio."""
        draw = super().draw(batch_idx)
        if self.scope == "sample":
            low, high = self.mask_ratio.bounds(*self.ratio_step())
            return replace(draw, ratio=(low + high) / 2)
        return draw

    def prepared(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented (in training) and normalised images."""
        if self.augment is not None and self.training:
            images = self.augment(images, generator)
        return self.model.normalise(resize(images, self.model.shape.image_size))

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule; biases, norms and tokens do not decay."""
        groups = decay_groups(self.model.named_parameters(), self.weight_decay, never_decays)
        fused = self.device.type in ("cpu", "cuda", "mps")
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
        total = self.total_steps() or 1
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def never_decays(name: str) -> bool:
    """Return whether a parameter is a token or positions, which do not decay."""
    return name.endswith(("_token", "pos_embed"))


def shape_of(config: Pretrain, source: Source) -> MAEShape:
    """Return the form of the model that the config describes."""
    in_chans = config.in_chans or (source.in_chans if isinstance(source, ImageStore) else 3)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if in_chans == 3 else ((0.5,) * in_chans, (0.5,) * in_chans)
    names = ("model", "image_size", "patch_size", "decoder_dim", "decoder_depth", "decoder_heads", "norm_pix_loss")
    chosen = {name: getattr(config, name) for name in names}
    return MAEShape(
        **chosen, in_chans=in_chans, model_args=config.model_args, positions=config.positions, mean=mean, std=std
    )


def scheme_sampler(config: Pretrain) -> RatioSampler:
    """Return the scheme; a linear decay goes down in one step per epoch, as in the paper's ViT runs.

    Raises:
        UserError: the scheme is unknown or needs curriculum weights.
    """
    sampler = sampler_from_config(config.mask_ratio, "vision", config.seed)
    if isinstance(sampler, Curriculum):
        raise UserError("image models have no curriculum weights; choose another scheme than cl")
    if config.model != "mlp" and isinstance(sampler, LinearDecay) and sampler.stages is None:
        return replace(sampler, stages=config.epochs or EPOCHS)
    return sampler


def pretrain_vit(config: Pretrain) -> RunFolder:
    """Pretrain a masked autoencoder on a timm ViT and return the run folder: `model/`, metrics, checkpoints, results.

    Goes on from the folder's last checkpoint if there is one.

    Raises:
        UserError: data, model, scheme or device do not serve, memory is full, or the run was interrupted.
    """
    if config.compile and config.strategy == "fsdp":
        raise UserError("--compile together with --strategy fsdp is not tested; choose one")
    device, world = resolve_device(config.device), config.devices * config.nodes
    epochs, batch_size = config.epochs or EPOCHS, config.batch_size or BATCH_SIZE
    source, (judged, part) = open_source(config.data, "train"), held_out(config.data)
    sampler = scheme_sampler(config)
    model = MaskedAutoencoder(shape_of(config, source), config.seed)
    check_visible(sampler.bounds(0, epochs)[0], model.n_patches)
    largest = 256 if device == "cuda" else 64
    micro = micro_batch_size(config.micro_batch_size, batch_size, world, largest, even=config.scope == "sample")
    settings = {**resolved(config), "mask_ratio": sampler_to_config(sampler), "epochs": epochs}
    # A step's masks depend on how it is divided, so a run goes on in the same parts.
    settings |= {"batch_size": batch_size, "micro_batch_size": micro}
    run = open_run("r2mae-vision", "pretrain", config.out, settings, n_processes=world, free=("validate_every",))
    if (run.path / "model" / "mae.json").exists() and run.results():
        return run
    if config.start is not None and (missing := load_published(config.start, model)):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        say(f"{config.start} has no {missing[0]}{more}: drawn anew")
    lr = config.lr if config.lr is not None else config.base_lr * batch_size / 256
    warmup = (config.warmup_epochs if config.warmup_epochs is not None else epochs / 15) / epochs
    module = MaskedImageModule(
        model,
        sampler,
        scope=config.scope,
        augment=_device_augmentation(config) if isinstance(source, ImageStore) else None,
        lr=lr,
        warmup=warmup,
        weight_decay=config.weight_decay,
        betas=config.betas,
        compile=config.compile,
        seed=config.seed,
        ratio_per=config.ratio_per,
    )
    loader = train_loader(
        source,
        None if isinstance(source, ImageStore) else worker_transform(config),
        batch_size=batch_size,
        micro_batch_size=micro,
        in_chans=model.shape.in_chans,
        seed=config.seed,
        num_workers=n_workers(config.workers),
        device=device,
    )
    if isinstance(source, ImageStore) and device == "cuda" and source.side > 2 * config.image_size:
        say(
            f"{config.data} holds images of {source.side} pixels for a model of {config.image_size}: crops on the GPU "
            f"are not antialiased; prepare them at {config.image_size} to {2 * config.image_size} pixels"
        )
    images = sample_images(judged, N_IMAGES, model.shape.image_size, model.shape.in_chans)
    steps = len(source) // batch_size * epochs
    callbacks: list[pl.Callback] = [Speed(batch_size, config.peak_tflops)]
    if not isinstance(source, ImageStore):
        callbacks.append(UnreadableImages(source, run.path / "skipped.txt"))
    trainer = fit(
        module,
        loader,
        run,
        max_epochs=epochs,
        device=device,
        devices=config.devices,
        strategy=config.strategy,
        num_nodes=config.nodes,
        precision=precision(config.precision, device),
        accumulate_grad_batches=batch_size // (micro * world),
        gradient_clip_val=config.clip,
        checkpoint_every=config.checkpoint_every,
        validation_loader=HeldOutBatches(images, max(min(micro, len(images) // world), 1)),
        validate_every=config.validate_every or max(steps // 10, 1),
        log_every=config.log_every,
        callbacks=callbacks,
        progress=config.progress,
    )
    state = gathered_state(module)  # by every rank
    if trainer.is_global_zero:
        whole = MaskedAutoencoder(model.shape)
        whole.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
        save_mae(whole, run.path / "model")
        losses = loss_curve(whole.to(device).eval(), images.to(device))
        scheme = scheme_name(sampler, "vision") + (" per image" if config.scope == "sample" else "")
        records = [
            Record(judged.name, f"loss@{ratio:g}", loss, scheme, config.seed, len(images), part)
            for ratio, loss in zip(EVALUATION_RATIOS, losses, strict=True)
        ]
        run.write_results(stamped(records, device_name(device)))
    trainer.strategy.barrier()
    return run


def _device_augmentation(config: Pretrain) -> Callable[[Tensor, torch.Generator], Tensor] | None:
    """Return random resized crop and flip on the device, for prepared images."""
    if config.augment == "none":
        return None

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        return random_resized_crop(images, config.image_size, generator, scale=config.crop_scale, flip=config.flip)

    return augment


def worker_transform(config: Pretrain) -> Any:
    """Return timm's transform for images that are decoded in training: PIL image → (C, H, W) uint8."""
    from timm.data.transforms_factory import create_transform

    size = (config.image_size, config.image_size)
    if config.augment == "none":
        return create_transform(size, use_prefetcher=True, interpolation="bicubic", crop_pct=1.0, crop_mode="squash")
    return create_transform(
        size,
        is_training=True,
        use_prefetcher=True,
        scale=config.crop_scale,
        ratio=(3 / 4, 4 / 3),
        hflip=0.5 if config.flip else 0.0,
        color_jitter=0.0,
        interpolation="bicubic",
    )


def refuse_foreign_options(config: Pretrain) -> None:
    """Raise a UserError if an option differs from its default that the model would ignore."""
    of_vits = {f.name for f in fields(config)} - OF_MLP
    foreign = dict.fromkeys(of_vits, "a ViT") if config.model == "mlp" else dict.fromkeys(ONLY_MLP, "--model mlp")
    refuse_options(config, foreign, f"--model {config.model}")


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain what the config describes: a masked autoencoder on a timm ViT, or the paper's MLP (C.3).

    Raises:
        UserError: an option was given that the model has no use for; and as `pretrain_vit`.
    """
    refuse_foreign_options(config)
    if config.model == "mlp":
        from r2mae_vision.mnist.pretrain import pretrain_mlp

        return pretrain_mlp(config)
    return pretrain_vit(config)


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-vision pretrain`."""
    refuse_foreign_options(config)
    device, sampler = resolve_device(config.device), scheme_sampler(config)
    say(f"Pretraining {config.model} on {config.data}, ratio {sampler.describe()}, on {device_name(device)}")
    run = pretrain(config)
    records = run.results()
    losses = ", ".join(f"{record.value:.4f} at {record.metric.removeprefix('loss@')}" for record in records)
    say(f"Loss on {records[0].split} images with fixed masks: {losses}")
    verbs = "probe" if config.model == "mlp" else "reconstruct, probe, finetune or export"
    say(f"Done: {run.path} (results.json, model/). Next: r2mae-vision {verbs} {run.path}")
