"""The module for Lightning: hides tokens on the device, and computes the loss at the hidden positions alone."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from r2mae_core import MaskDraw, MaskedModule, MaskRatioSampler, adamw, linear
from r2mae_text.evaluate import VALIDATION_RATIO, shown_as_mask
from r2mae_text.masking import MaskedTokens, MaskingRule, mask_tokens
from r2mae_text.model import masked_lm_loss


class MaskedLanguageModule(MaskedModule):
    """A masked language model as Lightning trains it.

    Args:
        model: a transformers masked-LM model.
        mask_ratio: the scheme.
        rule: how tokens are hidden.
        batch_size: rows of an optimizer step, over all micro-batches and ranks.
        lr: peak learning rate of AdamW.
        warmup: share of the steps in which it rises; it then falls linearly to zero.
        weight_decay: on matrices.
        betas: AdamW's.
        compile: torch.compile the loss.
        seed: of masks and dropout.
        ratio_per: "step" or "micro_batch".
    """

    def __init__(
        self,
        model: Any,
        mask_ratio: MaskRatioSampler,
        rule: MaskingRule,
        *,
        batch_size: int,
        lr: float,
        warmup: float = 0.03,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        compile: bool = False,
        seed: int = 0,
        ratio_per: Any = "step",
    ) -> None:
        super().__init__(mask_ratio, seed=seed, ratio_per=ratio_per, validation_ratios=(VALIDATION_RATIO,))
        self.model, self.rule, self.batch_size = model, rule, batch_size
        self.lr, self.warmup, self.weight_decay, self.betas = lr, warmup, weight_decay, betas
        # The number of hidden tokens changes from step to step: compiled twice, the second time for any number.
        self._loss = torch.compile(masked_lm_loss) if compile else masked_lm_loss

    @override
    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        masked = self.mask(batch, draw)
        loss = self._loss if self.training else masked_lm_loss  # validation's shapes are not worth compiling
        return loss(self.model, masked.inputs, masked.positions, masked.targets)

    def mask(self, batch: Tensor, draw: MaskDraw) -> MaskedTokens:
        """Return a micro-batch, (B, L) integer ids, with its tokens hidden.

        In training the noise is drawn for the whole optimizer step, and this micro-batch takes its own rows of it. In
        validation every hidden token is shown as <mask>.
        """
        if not self.training:
            return mask_tokens(batch, draw.ratio, shown_as_mask(self.rule), generator=draw.generator)
        rows = (self._shard * len(batch), self.batch_size)
        return mask_tokens(batch, draw.ratio, self.rule, generator=draw.generator, rows=rows)

    @override
    def draw(self, batch_idx: int) -> MaskDraw:
        self._shard = self.shard(batch_idx)
        draw = super().draw(batch_idx)  # seeds dropout per shard
        return replace(draw, generator=self.generator_for(self.seed, "mask", self.global_step))

    @override
    def configure_optimizers(self) -> Any:
        return adamw(
            self.model.named_parameters(),
            lr=self.lr,
            weight_decay=self.weight_decay,
            total_steps=self.total_steps(),
            warmup=self.warmup,
            schedule=linear,
            betas=self.betas,
        )
