"""How ratios become hidden tokens: exact counts per row, specials never, on the device, inside the step.

Nothing here waits for the device: the number of hidden tokens is known on the host, with a ratio for each row too.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from r2mae_core import n_masked, row_counts, span_scores
from r2mae_text.tokenizer import vocabulary_size

IGNORED = -100  # the target of a place without a loss, as in torch and transformers
MEAN_SPAN = 3.0
"""Mean length of hidden spans where the user names none; T5's."""
Counting = Literal["exact", "bernoulli"]
Shape = Literal["independent", "spans"]


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
    count: Counting = "exact"
    mask_shape: Shape = "independent"
    """independent: every choice of tokens is equally likely (the paper's); spans: neighbours are hidden together."""
    mean_span: float | None = None
    """Mean length of the spans in tokens, 1 or more; None: `MEAN_SPAN`."""

    def __post_init__(self) -> None:
        if conflict := shape_conflict(self.mask_shape, self.mean_span, self.count):
            raise ValueError(conflict)
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
        count: Counting = "exact",
        mask_shape: Shape = "independent",
        mean_span: float | None = None,
    ) -> "MaskingRule":
        """Return the rule for a transformers tokenizer; an unknown-word token counts as an ordinary one."""
        special = tuple(sorted(set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}))
        size = vocabulary_size(tokenizer)
        return cls(tokenizer.mask_token_id, special, size, mask_share, random_share, count, mask_shape, mean_span)

    def plain(self) -> "MaskingRule":
        """Return the rule of every evaluation, whatever the training's shape: exact counts, independent places."""
        return replace(self, count="exact", mask_shape="independent", mean_span=None)


def shape_conflict(mask_shape: str, mean_span: float | None, count: str) -> str | None:
    """Return why these options do not go together, in one line; None: they do."""
    if mask_shape not in ("independent", "spans"):
        return f"mask_shape must be independent or spans, got {mask_shape!r}"
    if count not in ("exact", "bernoulli"):
        return f"count must be exact or bernoulli, got {count!r}"
    if mask_shape == "spans" and count == "bernoulli":
        return "count bernoulli hides every token by itself, and mask_shape spans hides neighbours; choose one"
    if mean_span is None:
        return None
    if mask_shape != "spans":
        return f"mean_span {mean_span:g} is of mask_shape spans; leave it out, or choose spans"
    return None if 1 <= mean_span < float("inf") else f"mean_span must be at least 1 token, got {mean_span:g}"


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
    ratio: float | Tensor,
    rule: MaskingRule,
    *,
    generator: torch.Generator | None = None,
    rows: tuple[int, int] | None = None,
    maskable: int | None = None,
) -> MaskedTokens:
    """Hide tokens of every row.

    Args:
        tokens: ids, (B, L) of an integer type. Not changed.
        ratio: fraction hidden, in [0, 1]; at least one token of a row is hidden. Or (B,) on the CPU: one for each row.
        rule: which ids are special, and how hidden tokens are chosen and shown.
        generator: source of randomness, on the tokens' device.
        rows: (first, n) if these rows are part of a batch of n: the noise is drawn for the whole batch and cut, so the
            masks do not depend on how the batch is divided over micro-batches and ranks.
        maskable: how many places of a row the ratio is of; default L - 1, all but <s>: then the count follows from the
            ratio alone, round(ratio * (L - 1)). Rows must not be padded; for those see `R2MAECollator`.

    Returns:
        the masked batch. With exact counts N is their sum over the rows; should a row have fewer ordinary tokens than
        its count (ratios near 1 and </s> inside), the surplus places are left unchanged, with target -100. With
        Bernoulli draws the number is not known beforehand, so all B * L places are returned, -100 where nothing is
        hidden.

    Raises:
        ValueError: a ratio is not in [0, 1], or there is not one for each row, on the CPU.
    """
    n_rows, length = tokens.shape
    check_ratios(ratio, n_rows)
    tokens = tokens.long()
    first, total = rows or (0, n_rows)
    if rule.mask_shape == "spans":
        span = MEAN_SPAN if rule.mean_span is None else rule.mean_span
        scores = span_scores((total, length), span, generator=generator, device=tokens.device)
    else:
        scores = torch.rand(total, length, generator=generator, device=tokens.device)
    scores, special = scores[first : first + n_rows], is_special(tokens, rule.special_ids)
    if rule.count == "exact":
        positions = lowest(scores.masked_fill(special, 2.0), ratio, rule, maskable or length - 1)
        hidden = ~special.flatten()[positions]
    else:
        positions = torch.arange(n_rows * length, device=tokens.device)
        each = ratio.float().to(tokens.device, non_blocking=True)[:, None] if isinstance(ratio, Tensor) else ratio
        hidden = ((scores < each) & ~special).flatten()
    true = tokens.flatten()[positions]
    replaced = show(tokens, rule, generator, (first, total)).flatten()[positions]
    inputs = tokens.flatten().scatter(0, positions, torch.where(hidden, replaced, true)).view(n_rows, length)
    return MaskedTokens(inputs, positions, torch.where(hidden, true, IGNORED))


def check_ratios(ratio: float | Tensor, n_rows: int) -> None:
    """Refuse ratios that are not one in [0, 1], or one for each row on the CPU, where the counts are needed.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(ratio, Tensor):
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio must lie in [0, 1], got {ratio!r}")
        return
    if ratio.shape != (n_rows,) or ratio.device.type != "cpu":
        where = f"shape {tuple(ratio.shape)} on {ratio.device.type}"
        raise ValueError(f"ratios must be one for each of the {n_rows} rows, on the CPU; got {where}")
    if bool((bad := ~((ratio >= 0) & (ratio <= 1))).any()):
        raise ValueError(f"every ratio must lie in [0, 1], got {float(ratio[bad][0])!r}")


def hidden_counts(ratio: float | Tensor, n_rows: int, maskable: int) -> Tensor:
    """Return how many tokens of each row to hide, (n_rows,) int64 on the CPU, by the rule of `n_masked`."""
    return row_counts((n_rows, maskable), ratio, None, "cpu").flatten()


def lowest(scores: Tensor, ratio: float | Tensor, rule: MaskingRule, maskable: int) -> Tensor:
    """Return the places with the lowest scores of every row, in the number of its ratio.

    Args:
        scores: (B, L).
        ratio: of all rows, or (B,) on the CPU.
        rule: the shape of the masks.
        maskable: how many places of a row the ratio is of.

    Returns:
        (N,) int64 into the flattened batch, row after row.
    """
    (n_rows, length), device = scores.shape, scores.device
    if not isinstance(ratio, Tensor) and rule.mask_shape == "independent":
        columns = scores.topk(n_masked(ratio, maskable), dim=1, largest=False, sorted=False).indices
        return (columns + torch.arange(n_rows, device=device)[:, None] * length).flatten()
    order = scores.argsort(dim=1, stable=True)  # the tokens of a span have the same score
    on_host = hidden_counts(ratio, n_rows, maskable)
    total, counts = int(on_host.sum()), on_host.to(device, non_blocking=True)
    # With the sum known here, nothing waits for the device.
    row = torch.repeat_interleave(torch.arange(n_rows, device=device), counts, output_size=total)
    rank = torch.arange(total, device=device) - (counts.cumsum(0) - counts)[row]
    return order[row, rank] + row * length


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
