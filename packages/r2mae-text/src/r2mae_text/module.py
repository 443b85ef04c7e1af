"""The module for Lightning: hides tokens on the device, and computes the loss at the hidden positions alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
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
    linear,
    with_schedule,
)
from r2mae_text.evaluate import VALIDATION_RATIO, shown_as_mask
from r2mae_text.isolation import Isolation
from r2mae_text.masking import MaskedTokens, MaskingRule, hidden_counts, mask_tokens
from r2mae_text.model import masked_lm_loss, masked_lm_losses
from r2mae_text.muon import muon


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
        isolation: how the documents of a row are kept apart, in training and validation; None: they see each other.
        optimizer: "adamw" (the paper's), or "muon" for the matrices of the layers; see `r2mae_text.muon`.
        compile: torch.compile the loss.
        seed: of masks and dropout.
        ratio_per: "step", "micro_batch" or "sample": one for each row.
        loss_weight: "none": the mean over the step's hidden tokens; "inverse_ratio": each divided by its row's ratio,
            and the sum by the L - 1 places of every row that could be hidden.
    """

    takes_ratios = True
    takes_loss_weight = True
    _shard, _share = 0, 1.0  # of the micro-batch that was drawn last

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
        optimizer: Literal["adamw", "muon"] = "adamw",
        isolation: Isolation | None = None,
        compile: bool = False,
        seed: int = 0,
        ratio_per: RatioPer = "step",
        loss_weight: LossWeight = "none",
    ) -> None:
        super().__init__(
            mask_ratio,
            seed=seed,
            ratio_per=ratio_per,
            loss_weight=loss_weight,
            validation_ratios=(VALIDATION_RATIO,),
        )
        self.model, self.rule, self.batch_size = model, rule, batch_size
        self.lr, self.warmup, self.weight_decay, self.betas = lr, warmup, weight_decay, betas
        self.optimizer, self.isolation = optimizer, isolation
        # The number of hidden tokens changes from step to step: compiled twice, the second time for any number.
        self._compiled = torch.compile(_network_loss(loss_weight)) if compile else None

    @override
    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        masked, loss = self.mask(batch, draw), _network_loss(draw.loss_weight)
        if self._compiled is not None and self.training and draw.loss_weight == self.loss_weight:
            loss = self._compiled  # validation's shapes are not worth compiling
        context = {} if self.isolation is None else self.isolation.arguments(batch)
        value = loss(self.model, masked.inputs, masked.positions, masked.targets, **context)
        n_rows, length = batch.shape
        if draw.loss_weight == "inverse_ratio":
            row = masked.positions // length
            ratio = draw.ratio if self.rule.count == "bernoulli" else counted_ratio(draw.ratio, length - 1)
            return inverse_ratio_loss(value, ratio, row, n_rows=n_rows, n_positions=length - 1)
        return value * self._share if self.training else value

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
    def draw(self, batch: Tensor, batch_idx: int) -> MaskDraw:
        draw = super().draw(batch, batch_idx)  # seeds dropout per shard
        self._shard, self._share = self.shard(batch_idx), self._share_of_step(batch, draw)
        return replace(draw, generator=self.generator_for(self.seed, "mask", self.global_step))

    def _share_of_step(self, batch: Tensor, draw: MaskDraw) -> float:
        """Return how many tokens a micro-batch hides, divided by the mean over the micro-batches of its step.

        With a ratio for each row micro-batches hide different numbers. A token would count more in one that hides few,
        and the loss would depend on how the step is divided.
        """
        if not isinstance(draw.ratio, Tensor) or len(batch) == self.batch_size:
            return 1.0
        sampler: Any = self.mask_ratio
        n_rows, maskable = batch.shape[0], batch.shape[1] - 1
        whole = torch.from_numpy(sampler.samples(*self.ratio_step(), n=self.batch_size))
        here = int(hidden_counts(draw.ratio, n_rows, maskable).sum()) / n_rows
        return here * self.batch_size / int(hidden_counts(whole, self.batch_size, maskable).sum())

    @override
    def configure_optimizers(self) -> Any:
        if self.optimizer == "muon":
            both = muon(self.model, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)
            return with_schedule(both, self.total_steps(), self.warmup, linear)
        return adamw(
            self.model.named_parameters(),
            lr=self.lr,
            weight_decay=self.weight_decay,
            total_steps=self.total_steps(),
            warmup=self.warmup,
            schedule=linear,
            betas=self.betas,
        )


def _network_loss(loss_weight: LossWeight) -> Callable[..., Tensor]:
    """Return what the network computes: the mean over hidden tokens, or the loss of each where they are weighted."""
    return masked_lm_losses if loss_weight == "inverse_ratio" else masked_lm_loss
