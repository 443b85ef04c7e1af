"""The Lightning module of a masked autoencoder."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    LossWeight,
    MaskDraw,
    MaskedModule,
    MaskRatioSampler,
    RatioPer,
    adamw,
    counted_ratio,
    inverse_ratio_loss,
)
from r2mae_vision.data.augment import resize
from r2mae_vision.mae.evaluate import EVALUATION_RATIOS
from r2mae_vision.mae.masking import hidden_counts, pack_patches, patch_order, split_order
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.options import MaskShape


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
