"""transformers' Trainer with any ratio scheme: correct under accumulation, workers, epochs and resuming.

Needs the package accelerate, as every Trainer does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from typing_extensions import override

from r2mae_core import rank_and_world_size
from r2mae_text.collator import R2MAECollator
from r2mae_text.masking import IGNORED
from r2mae_text.model import masked_lm_loss

_EVALUATION_RATIO = 0.15


class R2MAETrainer(Trainer):
    """A Trainer whose `data_collator` is an `R2MAECollator`: it hides the tokens and computes the loss itself.

    The ratio is that of the optimizer step, shared by accumulated micro-batches and ranks; evaluation is at ratio 0.15
    with the same masks every time. On one device the LM head sees hidden positions alone.

    Example:
        >>> collator = R2MAECollator(tokenizer, "r2mae")
        >>> R2MAETrainer(model=model, args=arguments, train_dataset=data, data_collator=collator).train()

    Raises:
        TypeError: the collator is not an `R2MAECollator`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.data_collator, R2MAECollator):
            raise TypeError(f"R2MAETrainer needs an R2MAECollator as data_collator, got {self.data_collator!r}")
        # The Trainer must divide by the accumulation itself; it leaves that out where it has counted labels.
        self.model_accepts_loss_kwargs = False
        self._micro, self._evaluated = (-1, 0), 0

    @override
    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        masked = self._masked(model, inputs)
        # A wrapper such as DDP must see the call, or it does not join the ranks' gradients.
        bare = model is self.accelerator.unwrap_model(model)
        loss = _loss(model, masked) if bare else model(**masked).loss
        return (loss, None) if return_outputs else loss

    def _masked(self, model: nn.Module, inputs: Any) -> dict[str, Tensor]:
        collator: R2MAECollator = self.data_collator  # pyright: ignore[reportAssignmentType]
        rank, world = rank_and_world_size()
        if not model.training:
            self._evaluated += 1
            return collator.mask(inputs, self._evaluated, rank, ratio=_EVALUATION_RATIO)
        if collator.total_steps is None:
            collator.total_steps = self.state.max_steps
        step, micro = self.state.global_step, self._micro[1] + 1 if self._micro[0] == self.state.global_step else 0
        self._micro = (step, micro)
        return collator.mask(inputs, step, micro * world + rank)

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


def _loss(model: nn.Module, masked: dict[str, Tensor]) -> Tensor:
    labels = masked["labels"].flatten()
    positions = (labels != IGNORED).nonzero()[:, 0]
    return masked_lm_loss(model, masked["input_ids"], positions, labels[positions], masked["attention_mask"])
