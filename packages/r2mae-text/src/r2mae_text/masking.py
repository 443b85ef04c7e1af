"""How a ratio becomes hidden tokens: exact counts per row, specials never, on the device, inside the step.

Nothing here waits for the device: the number of hidden tokens is known on the host.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from r2mae_core import n_masked

IGNORED = -100  # the target of a place without a loss, as in torch and transformers


@dataclass(frozen=True)
class MaskingRule:
    """How tokens are hidden: the special ids of a tokenizer, and the shares that the user chose."""

    mask_id: int
    special_ids: tuple[int, ...]
    """Ids that are never hidden: <s>, </s>, padding …"""
    vocab_size: int
    mask_share: float = 0.8
    """Share of hidden tokens shown as <mask>."""
    random_share: float = 0.1
    """Share shown as a random id of the vocabulary; the rest is shown unchanged."""
    count: Literal["exact", "bernoulli"] = "exact"

    def __post_init__(self) -> None:
        shares = (self.mask_share, self.random_share)
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(f"mask_share and random_share must be in [0, 1] and sum to 1 at most, got {shares}")

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        *,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        count: Literal["exact", "bernoulli"] = "exact",
    ) -> "MaskingRule":
        """Return the rule for a transformers tokenizer; an unknown-word token counts as an ordinary one."""
        special = tuple(sorted(set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}))
        return cls(tokenizer.mask_token_id, special, len(tokenizer), mask_share, random_share, count)


@dataclass(frozen=True)
class MaskedTokens:
    """A batch with hidden tokens."""

    inputs: Tensor
    """What the model sees, (B, L) int64."""
    positions: Tensor
    """Places with a target, (N,) int64 into the flattened batch."""
    targets: Tensor
    """Their true ids, (N,) int64; -100 where a place has no loss."""

    def labels(self) -> Tensor:
        """Return targets in the form of transformers, (B, L) int64 with -100 at all other places."""
        labels = torch.full_like(self.inputs, IGNORED)
        labels.view(-1)[self.positions] = self.targets
        return labels


def mask_tokens(
    tokens: Tensor,
    ratio: float,
    rule: MaskingRule,
    *,
    generator: torch.Generator | None = None,
    rows: tuple[int, int] | None = None,
    maskable: int | None = None,
) -> MaskedTokens:
    """Hide tokens of every row.

    Args:
        tokens: ids, (B, L) of an integer type. Not changed.
        ratio: fraction hidden, in [0, 1]; at least one token of a row is hidden.
        rule: which ids are special, and how hidden tokens are shown.
        generator: source of randomness, on the tokens' device.
        rows: (first, n) if these rows are part of a batch of n: the noise is drawn for the whole batch and cut, so the
            masks do not depend on how the batch is divided over micro-batches and ranks.
        maskable: how many places of a row the ratio is of; default L - 1, all but <s>: then the count is the same in
            every row, round(ratio * (L - 1)). Rows must not be padded; for those see `R2MAECollator`.

    Returns:
        the masked batch. With exact counts N = B * k; should a row have fewer than k ordinary tokens (ratios near 1 and
        </s> inside), the surplus places are left unchanged, with target -100. With Bernoulli draws the number is
        not known beforehand, so all B * L places are returned, -100 where nothing is hidden.

    Raises:
        ValueError: the ratio is not in [0, 1].
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio!r}")
    n_rows, length = tokens.shape
    tokens = tokens.long()
    first, total = rows or (0, n_rows)
    scores = torch.rand(total, length, generator=generator, device=tokens.device)[first : first + n_rows]
    special = is_special(tokens, rule.special_ids)
    if rule.count == "exact":
        k = n_masked(ratio, maskable or length - 1)
        columns = scores.masked_fill(special, 2.0).topk(k, dim=1, largest=False, sorted=False).indices
        hidden = ~special.gather(1, columns)
    else:
        columns = torch.arange(length, device=tokens.device).expand(n_rows, -1)
        hidden = (scores < ratio) & ~special
    true = tokens.gather(1, columns)
    replaced = show(tokens, rule, generator, (first, total)).gather(1, columns)
    inputs = tokens.scatter(1, columns, torch.where(hidden, replaced, true))
    offsets = torch.arange(n_rows, device=tokens.device)[:, None] * length
    return MaskedTokens(inputs, (columns + offsets).flatten(), torch.where(hidden, true, IGNORED).flatten())


def show(
    tokens: Tensor, rule: MaskingRule, generator: torch.Generator | None, rows: tuple[int, int] | None = None
) -> Tensor:
    """Return how every token would be shown if it were hidden, (B, L): as <mask>, as a random id, or unchanged.

    Arguments are those of `mask_tokens`.
    """
    if rule.mask_share == 1.0:
        return torch.full_like(tokens, rule.mask_id)
    first, total = rows or (0, len(tokens))
    here = slice(first, first + len(tokens))
    shape = (total, tokens.shape[1])
    chance = torch.rand(shape, generator=generator, device=tokens.device)[here]
    noise = torch.randint(rule.vocab_size, shape, generator=generator, device=tokens.device)[here]
    shown = torch.where(chance < rule.mask_share + rule.random_share, noise, tokens)
    return torch.where(chance < rule.mask_share, rule.mask_id, shown)


def is_special(tokens: Tensor, special_ids: tuple[int, ...]) -> Tensor:
    """Return where a token is one of the special ids, bool of the same shape."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for special in special_ids:  # two or three; a comparison with a tensor of ids would copy it to the device
        found |= tokens == special
    return found
