"""transformers' Trainer with any ratio scheme: correct under accumulation, workers, epochs and resuming.

Needs the package accelerate, as every Trainer does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from typing_extensions import override

from r2mae_core import LossWeight, UserError, inverse_ratio_loss, rank_and_world_size
from r2mae_text.collator import R2MAECollator
from r2mae_text.masking import IGNORED, is_special
from r2mae_text.model import masked_lm_losses

_EVALUATION_RATIO = 0.15
N_RATIO_BINS = 10


class R2MAETrainer(Trainer):
    """A Trainer whose `data_collator` is an `R2MAECollator`: it hides the tokens and computes the loss itself.

    The ratio is that of the optimizer step, shared by accumulated micro-batches and ranks, or each row's own where the
    collator has `ratio_per="sample"`. Evaluation is at ratio 0.15, of independent tokens in exact counts, with the same
    masks every time. The logs have the mean ratio (`mask_ratio`) and the mean loss of hidden tokens by their ratio
    (`loss/ratio_0.1_to_0.2` …). On one device the LM head sees hidden positions alone.

    Args:
        *args: the Trainer's.
        loss_weight: "none": the mean over the hidden tokens; "inverse_ratio": each divided by its row's ratio, and the
            sum by all ordinary tokens (LLaDA, MDLM), for a collator with count="bernoulli".
        **kwargs: the Trainer's.

    Example:
        >>> collator = R2MAECollator(tokenizer, "r2mae")
        >>> R2MAETrainer(model=model, args=arguments, train_dataset=data, data_collator=collator).train()

    Raises:
        TypeError: the collator is not an `R2MAECollator`.
        UserError: `loss_weight` is unknown, or is inverse_ratio and the collator's counts are exact.
    """

    def __init__(self, *args: Any, loss_weight: LossWeight = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.data_collator, R2MAECollator):
            raise TypeError(f"R2MAETrainer needs an R2MAECollator as data_collator, got {self.data_collator!r}")
        collator: R2MAECollator = self.data_collator
        if loss_weight not in ("none", "inverse_ratio"):
            raise UserError(f"loss_weight must be none or inverse_ratio, got {loss_weight!r}")
        if loss_weight == "inverse_ratio" and collator.rule.count == "exact":
            # A row hides one token at least, which 1 / ratio would make count for more than the row.
            raise UserError('loss_weight inverse_ratio needs R2MAECollator(count="bernoulli"), as LLaDA has it')
        self.loss_weight: LossWeight = loss_weight
        # The Trainer must divide by the accumulation itself; it leaves that out where it has counted labels.
        self.model_accepts_loss_kwargs = False
        self._micro, self._evaluated = (-1, 0), 0
        self._bins: Tensor | None = None

    @override
    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        masked, ratio = self._masked(model, inputs)
        losses, positions = self._losses(model, masked)
        if model.training:
            n_rows, length = inputs["input_ids"].shape
            self._count(losses.detach(), positions // length, ratio, n_rows)
        if self.loss_weight == "inverse_ratio" and model.training:
            collator: R2MAECollator = self.data_collator  # pyright: ignore[reportAssignmentType]
            n_rows, length = inputs["input_ids"].shape
            ordinary = (~is_special(inputs["input_ids"], collator.rule.special_ids)).sum()
            row = positions // length
            loss = inverse_ratio_loss(losses, ratio, row, n_rows=n_rows, n_positions=ordinary / n_rows)
        else:
            loss = losses.sum() / max(len(losses), 1)
        return (loss, None) if return_outputs else loss

    def _count(self, losses: Tensor, rows: Tensor, ratio: float | Tensor, n_rows: int) -> None:
        """Add the losses of hidden tokens, (N,), in these rows of the batch, (N,), to the bins of their ratios."""
        each = torch.full_like(losses, ratio) if not isinstance(ratio, Tensor) else ratio.to(losses)[rows]
        bins = (each * N_RATIO_BINS).long().clamp(max=N_RATIO_BINS - 1)
        if self._bins is None:  # (hidden tokens, their losses) of each bin; last (rows, their ratios)
            self._bins = torch.zeros(N_RATIO_BINS + 1, 2, device=losses.device)
        self._bins.index_add_(0, bins, torch.stack([torch.ones_like(losses), losses.float()], 1))
        self._bins[-1, 0] += n_rows
        self._bins[-1, 1] += float(ratio.sum()) if isinstance(ratio, Tensor) else ratio * n_rows

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._bins is not None:
            total: Any = self.accelerator.reduce(self._bins, "sum")
            *bins, (n_rows, ratios) = total.tolist()
            logs["mask_ratio"] = ratios / max(n_rows, 1)
            for i, (n, losses) in enumerate(bins):
                if n:
                    logs[f"loss/ratio_{i / N_RATIO_BINS:g}_to_{(i + 1) / N_RATIO_BINS:g}"] = losses / n
            self._bins = None
        super().log(logs, start_time)

    def _losses(self, model: nn.Module, masked: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of every hidden token, (N,), and its place in the flattened batch."""
        labels = masked["labels"].flatten()
        positions = (labels != IGNORED).nonzero()[:, 0]
        ids, attention = masked["input_ids"], masked["attention_mask"]
        # A wrapper such as DDP must see the call, or it does not join the ranks' gradients.
        if model is self.accelerator.unwrap_model(model):
            return masked_lm_losses(model, ids, positions, labels[positions], attention), positions
        logits = model(input_ids=ids, attention_mask=attention).logits.flatten(0, 1)[positions]
        return nn.functional.cross_entropy(logits.float(), labels[positions], reduction="none"), positions

    def _masked(self, model: nn.Module, inputs: Any) -> tuple[dict[str, Tensor], float | Tensor]:
        """Return the micro-batch with hidden tokens, and the ratio of it or of its rows."""
        collator: R2MAECollator = self.data_collator  # pyright: ignore[reportAssignmentType]
        rank, world = rank_and_world_size()
        if not model.training:
            self._evaluated += 1
            masked = collator.mask(inputs, self._evaluated, rank, ratio=_EVALUATION_RATIO, plain=True)
            return masked, _EVALUATION_RATIO
        if collator.total_steps is None:
            collator.total_steps = self.state.max_steps
        step, micro = self.state.global_step, self._micro[1] + 1 if self._micro[0] == self.state.global_step else 0
        self._micro = (step, micro)
        # Not by this micro-batch's rows: the last of an epoch has fewer.
        shard = micro * world + rank
        ratio = collator.ratios(step, len(inputs["input_ids"]), shard * self._train_batch_size)
        return collator.mask(inputs, step, shard, ratio=ratio), ratio

    @override
    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._evaluated = 0
        return super().evaluation_loop(*args, **kwargs)

    @override
    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None
