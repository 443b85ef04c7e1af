"""A drop-in collator for training loops of your own.

Masks are drawn in the main process, on the device, from (seed, step, micro-batch). A collator that masks in worker
processes cannot be right: workers do not know the step, a change made in the main process never reaches them, and a
seeded one repeats its masks in every epoch. Here the workers only pad.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from r2mae_core import (
    Curriculum,
    MaskRatioSampler,
    RatioSampler,
    UserError,
    bernoulli_mask,
    derived_seed,
    exact_mask,
    has_quantile,
    sampler_from_config,
    span_mask,
)
from r2mae_text.masking import IGNORED, MEAN_SPAN, Counting, MaskingRule, Shape, is_special, show
from r2mae_text.words import Words, word_mask


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
        ratio_per: "step", or "sample": a ratio for each row, from (seed, step, the row's place in the step's batch).
        count: "exact", or "bernoulli": each token independently.
        mask_shape: "independent"; "spans": neighbouring tokens together; or "words": whole words.
        mean_span: mean length of the spans in tokens; None: 3.

    Raises:
        UserError: the scheme is unknown or cannot draw per sample, `ratio_per` is another, or the tokenizer does not
            say where words start.
        ValueError: shares, count and shape do not go together.

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
        ratio_per: Literal["step", "sample"] = "step",
        count: Counting = "exact",
        mask_shape: Literal["independent", "spans", "words"] = "independent",
        mean_span: float | None = None,
    ) -> None:
        self.tokenizer, self.total_steps, self.seed = tokenizer, total_steps, seed
        self.sampler = sampler_from_config(mask_ratio, "text", seed)  # pyright: ignore[reportArgumentType]
        self.words = Words(tokenizer) if mask_shape == "words" else None
        shape: Shape = "independent" if mask_shape == "words" else mask_shape
        self.rule = MaskingRule.of(
            tokenizer, mask_share=mask_share, random_share=random_share, count=count, mask_shape=shape,
            mean_span=mean_span,
        )  # fmt: skip
        self.pad_to_multiple_of, self.ratio_per = pad_to_multiple_of, ratio_per
        if isinstance(self.sampler, Curriculum):
            raise UserError("a collator has no learned loss weights (curriculum); choose another scheme than cl")
        if ratio_per not in ("step", "sample"):
            raise UserError(f"ratio_per of a collator must be step or sample, got {ratio_per!r}: it sees no other unit")
        if ratio_per == "sample" and not has_quantile(self.sampler):
            raise UserError(
                f"ratio_per sample needs a sampler with a quantile, not {self.sampler.describe()}; use step"
            )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, (B, W) int64, padded; other columns are left out."""
        rows = [{"input_ids": list(example["input_ids"])} for example in examples]
        batch = self.tokenizer.pad(rows, return_tensors="pt", pad_to_multiple_of=self.pad_to_multiple_of)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def ratio(self, step: int) -> float:
        """Return the mask ratio of an optimizer step.

        Raises:
            UserError: every row has one of its own.
        """
        if self.ratio_per == "sample":
            raise UserError("with ratio_per sample a step has no ratio; its rows have: see R2MAECollator.ratios")
        return self.sampler.sample(step, self.total_steps)

    def ratios(self, step: int, n: int, first: int = 0) -> float | Tensor:
        """Return the ratio of a step, or with `ratio_per="sample"` those of `n` rows, (n,) float64.

        Args:
            step: optimizer steps done before.
            n: how many rows.
            first: place of the first of them in the step's whole batch.
        """
        if self.ratio_per == "step":
            return self.ratio(step)
        return torch.from_numpy(cast("RatioSampler", self.sampler).samples(step, self.total_steps, n=n, first=first))

    def mask(
        self,
        batch: Mapping[str, Tensor],
        step: int,
        micro: int = 0,
        ratio: float | Tensor | None = None,
        *,
        first: int | None = None,
        plain: bool = False,
    ) -> dict[str, Tensor]:
        """Return the batch with hidden tokens and `labels`, -100 where there is no loss.

        Every row hides max(1, round(ratio * its ordinary tokens)), with whole words nearly so. The masks depend on
        (seed, step, micro) alone, and the ratios of rows on (seed, step, place).

        Args:
            batch: what this collator made, on any device.
            step: optimizer steps done before.
            micro: which micro-batch of the step (accumulation · ranks).
            ratio: instead of the scheme's: of the batch, or (B,) of its rows.
            first: place of the first row in the step's whole batch; default micro · B, for micro-batches of one size.
            plain: exact counts and independent places, for an evaluation, whatever the training's are.
        """
        tokens, rule = batch["input_ids"], self.rule.plain() if plain else self.rule
        generator = torch.Generator(tokens.device).manual_seed(derived_seed(self.seed, "mask", step, micro))
        valid = ~is_special(tokens, rule.special_ids)
        n = len(tokens)
        share = self.ratios(step, n, micro * n if first is None else first) if ratio is None else ratio
        if self.words is not None and not plain:
            starts = self.words.starts(tokens)
            hidden = word_mask(starts, share, generator=generator, valid=valid, count=rule.count)
        elif rule.mask_shape == "spans":
            span = MEAN_SPAN if rule.mean_span is None else rule.mean_span
            hidden = span_mask(tokens.shape, share, mean_span=span, generator=generator, valid=valid)
        else:
            mask = bernoulli_mask if rule.count == "bernoulli" else exact_mask
            hidden = mask(tokens.shape, share, generator=generator, valid=valid)
        return {
            **batch,
            "input_ids": torch.where(hidden, show(tokens, rule, generator), tokens),
            "labels": torch.where(hidden, tokens, IGNORED),
        }
