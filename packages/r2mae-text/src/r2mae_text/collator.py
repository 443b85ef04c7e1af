"""A drop-in collator for training loops of your own.

Masks are drawn in the main process, on the device, from (seed, step, micro-batch). A collator that masks in worker
processes cannot be right: workers do not know the step, a change made in the main process never reaches them, and a
seeded one repeats its masks in every epoch. Here the workers only pad.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from r2mae_core import MaskRatioSampler, derived_seed, exact_mask, sampler_from_config
from r2mae_text.masking import IGNORED, MaskingRule, is_special, show


class R2MAECollator:
    """Pads examples into a batch (in any worker), and hides tokens of a batch (in the training loop).

    Args:
        tokenizer: of transformers.
        mask_ratio: a scheme's name ("r2mae", "mdlm", "dynamic" …), a number, or a sampler.
        total_steps: length of the training, for schemes that need it ("dynamic").
        seed: of ratios and masks.
        mask_share: share of hidden tokens shown as the mask token.
        random_share: share shown as a random token.
        pad_to_multiple_of: round the batch's width up, for speed on a GPU.

    Example:
        >>> collator = R2MAECollator(tokenizer, "r2mae", total_steps=1000)
        >>> loader = DataLoader(data, batch_size=32, collate_fn=collator, num_workers=4)
        >>> for step, batch in enumerate(loader):
        ...     loss = model(**collator.mask(batch, step)).loss
    """

    def __init__(
        self,
        tokenizer: Any,
        mask_ratio: "str | float | MaskRatioSampler" = "r2mae",
        *,
        total_steps: int | None = None,
        seed: int = 0,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.tokenizer, self.total_steps, self.seed = tokenizer, total_steps, seed
        self.sampler = sampler_from_config(mask_ratio, "text", seed)  # pyright: ignore[reportArgumentType]
        self.rule = MaskingRule.of(tokenizer, mask_share=mask_share, random_share=random_share)
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, (B, W) int64, padded; other columns are left out."""
        rows = [{"input_ids": list(example["input_ids"])} for example in examples]
        batch = self.tokenizer.pad(rows, return_tensors="pt", pad_to_multiple_of=self.pad_to_multiple_of)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def ratio(self, step: int) -> float:
        """Return the mask ratio of an optimizer step."""
        return self.sampler.sample(step, self.total_steps)

    def mask(
        self, batch: Mapping[str, Tensor], step: int, micro: int = 0, ratio: float | None = None
    ) -> dict[str, Tensor]:
        """Return the batch with hidden tokens and `labels`, -100 where there is no loss.

        Every row hides max(1, round(ratio * its ordinary tokens)); the masks depend on (seed, step, micro) alone.

        Args:
            batch: what this collator made, on any device.
            step: optimizer steps done before.
            micro: which micro-batch of the step (accumulation · ranks).
            ratio: instead of the scheme's.
        """
        tokens = batch["input_ids"]
        generator = torch.Generator(tokens.device).manual_seed(derived_seed(self.seed, "mask", step, micro))
        valid = ~is_special(tokens, self.rule.special_ids)
        share = self.ratio(step) if ratio is None else ratio
        hidden = exact_mask(tokens.shape, share, generator=generator, valid=valid)
        return {
            **batch,
            "input_ids": torch.where(hidden, show(tokens, self.rule, generator), tokens),
            "labels": torch.where(hidden, tokens, IGNORED),
        }
