"""A timm model with a head, as Lightning trains it by MAE's recipe: mixup, erasing, layer decay, averaged weights."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import FiniteLoss, cosine, derived_seed, out_of_memory, rank_and_world_size, seed_device, with_schedule
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.mae.encoders import EncoderSpec
from r2mae_vision.mae.options import Finetune
from r2mae_vision.mae.several import mixed_targets, smoothed
from r2mae_vision.mae.shape import pixel_scale


class Classifier(FiniteLoss):
    """A timm model with a head, trained on images (B, C, H, W) uint8 and labels.

    These are (B,), and the loss is the cross-entropy; or (B, classes) of 0 and 1, and it is the mean binary
    cross-entropy over images and classes. Randomness (mixup, erasing, stochastic depth) is a function of (seed, step,
    shard).

    Args:
        model: timm's model.
        spec: states mean and deviation of the pixels.
        config: the options.
        seed: for all randomness in training.
    """

    remedies = "lower the learning rate (--base_lr), clip gradients (--clip), or train in float32 (--precision 32-true)"

    def __init__(self, model: Any, spec: EncoderSpec, config: Finetune, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.mean: Tensor
        self.std: Tensor
        for name, value in zip(("mean", "std"), pixel_scale(spec.shape), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.average = nn.ModuleList()  # filled by `keep_average`, and then part of the checkpoint
        if config.ema is not None:
            from timm.utils.model_ema import ModelEmaV3

            self.average.append(ModelEmaV3(model, decay=config.ema).requires_grad_(False))
        # Not a submodule: a checkpoint holds every weight once, compiled or not.
        object.__setattr__(self, "_forward", torch.compile(model) if config.compile else model)
        self._losses: list[Tensor] = []
        self._mixup, self._erase = _mixup(config, model.num_classes), _erasing(config)
        # Without smoothing, which comes afterwards.
        self._mixup_several = _mixup(replace(config, smoothing=0.0), model.num_classes)

    def normalise(self, images: Tensor) -> Tensor:
        """Return pixels as the network reads them."""
        return (images.float() - self.mean) / self.std

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch[0], batch[1]
        rank, world_size = rank_and_world_size()
        shard = batch_idx % self.trainer.accumulate_grad_batches * world_size + rank
        seed = derived_seed(self.seed, "finetune", self.global_step, shard)
        seed_device(self.device, seed)
        try:
            with seeded_numpy(seed):
                images = self._erase(self.normalise(images), seed)
                if is_multi(labels):
                    return self._noted(self._binary_loss(images, labels.float()))
                if self._mixup is not None:
                    images, targets = self._mixup(images, labels)
                    return self._noted(torch.sum(-targets * F.log_softmax(self._logits(images), dim=-1), dim=-1).mean())
            return self._noted(F.cross_entropy(self._logits(images), labels, label_smoothing=self.config.smoothing))
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "--micro_batch_size") from None

    def _binary_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._mixup_several is not None:
            images, labels = mixed_targets(self._mixup_several, images, labels)
        return F.binary_cross_entropy_with_logits(self._logits(images), smoothed(labels, self.config.smoothing))

    def _logits(self, images: Tensor) -> Tensor:
        return self._forward(images).float()  # pyright: ignore[reportCallIssue]

    def _noted(self, loss: Tensor) -> Tensor:
        self.watch(loss)
        self._losses.append(loss.detach())
        return loss

    @override
    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Take the step, move the average of the weights, and log the mean loss since the last log.

        Here and not in `on_train_batch_end`, which comes after the checkpoint of the step.
        """
        super().optimizer_step(*arguments, **settings)
        if self.average:
            self.average[0].update(self.model)  # pyright: ignore[reportCallIssue]
        step, every = self.global_step + 1, self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if step % every == 0 or step == self.trainer.estimated_stepping_batches:
            self.check_finite()
            loss = float(torch.stack([loss.to(self.device) for loss in self._losses]).mean())
            self._losses = []
            for logger in self.loggers:
                logger.log_metrics({"loss": loss}, step)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["loss_window"] = [float(loss) for loss in self._losses]

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._losses = [torch.tensor(loss) for loss in checkpoint.get("loss_window", [])]

    @override
    def configure_optimizers(self) -> Any:
        """Return AdamW with a learning rate per layer, and its schedule."""
        from timm.optim._param_groups import param_groups_layer_decay

        config = self.config
        lr = config.base_lr * config.batch_size / 256
        skip: Any = self.model.no_weight_decay()
        groups = param_groups_layer_decay(
            self.model, config.weight_decay, no_weight_decay_list=skip, layer_decay=config.layer_decay
        )
        for group in groups:
            group["lr"] = lr * group.pop("lr_scale", 1.0)
            group.pop("param_names", None)  # a checkpoint holds numbers
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        total = int(self.trainer.estimated_stepping_batches)
        return with_schedule(optimizer, total, config.warmup, partial(cosine, end=config.min_lr / lr))


def _mixup(config: Finetune, n_classes: int) -> Any:
    """Return timm's Mixup, or None where neither mixup nor cutmix is on."""
    from timm.data.mixup import Mixup

    if config.mixup == config.cutmix == 0:
        return None
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=n_classes)


def _erasing(config: Finetune) -> Any:
    """Return random erasing of a normalised batch on its device."""
    from timm.data.random_erasing import RandomErasing

    def erase(images: Tensor, seed: int) -> Tensor:
        state = random.getstate()  # timm draws the rectangles from it
        random.seed(seed)
        try:
            return RandomErasing(config.erase, mode="pixel", device=str(images.device))(images)  # pyright: ignore[reportReturnType]
        finally:
            random.setstate(state)

    return erase if config.erase > 0 else lambda images, _seed: images


@contextlib.contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seed numpy's old global generator, from which timm's Mixup draws, and put it back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
