"""What a masked language model has learned, at fixed ratios and with masks that every run shares; and `compare`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from r2mae_core import Compare, Direction, MaskRatioSampler, Record, device_name, print_comparison, scheme_name, stamped
from r2mae_text.data.shards import Corpus, TokenRows
from r2mae_text.masking import MaskingRule, mask_tokens
from r2mae_text.model import masked_lm_loss

VALIDATION_RATIO = 0.15
"""Where schemes are compared, as MosaicBERT and ModernBERT do."""
CURVE = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
MAX_ROWS = 1024
RANK_BY: dict[str, Direction] = {"accuracy": "max", "mcc": "max", "spearman": "max"}


def shown_as_mask(rule: MaskingRule) -> MaskingRule:
    """Return the rule of every validation: exact counts, and every hidden token shown as <mask>."""
    return replace(rule, mask_share=1.0, random_share=0.0, count="exact")


@torch.no_grad()
def validation_loss(
    model: Any,
    rows: TokenRows,
    rule: MaskingRule,
    ratio: float = VALIDATION_RATIO,
    *,
    device: str = "cpu",
    max_rows: int = MAX_ROWS,
    batch_size: int = 64,
) -> float:
    """Return the mean cross-entropy of hidden tokens, nats, with every hidden token shown as <mask>.

    The masks depend on the rows and the ratio alone: every scheme, seed and machine is asked the same.

    Args:
        model: a masked-LM model, on `device`.
        rows: of the validation split; the first `max_rows` count.
        rule: which ids are special; its shares are not used.
        ratio: fraction hidden.
        device: where to compute.
        max_rows: how many rows at most.
        batch_size: rows at once; the masks do not depend on it.
    """
    rule = shown_as_mask(rule)
    training, n = model.training, min(len(rows), max_rows)
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device if device != "mps" else "cpu")
    weight = torch.zeros_like(total)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        for first in range(0, n, batch_size):
            batch = torch.from_numpy(rows[torch.arange(first, min(first + batch_size, n)).numpy()])
            # On the CPU, so that a GPU is asked the same.
            masked = mask_tokens(batch, ratio, rule, generator=torch.Generator().manual_seed(0), rows=(first, n))
            share = (masked.targets >= 0).sum()
            loss = masked_lm_loss(
                model, masked.inputs.to(device), masked.positions.to(device), masked.targets.to(device)
            )
            total += loss.double().to(total.device) * share.to(total.device)
            weight += share.to(total.device)
    model.train(training)
    return float(total / weight)


def loss_curve(
    model: Any, rows: TokenRows, rule: MaskingRule, ratios: Sequence[float] = CURVE, *, device: str = "cpu"
) -> dict[float, float]:
    """Return ratio → validation loss, nats."""
    return {ratio: validation_loss(model, rows, rule, ratio, device=device) for ratio in ratios}


def curve_records(
    model: Any, corpus: Corpus, length: int, sampler: MaskRatioSampler, seed: int, device: str
) -> list[Record]:
    """Return one record `loss@r` per ratio of the curve, or none if the corpus has no validation split."""
    if corpus.n_tokens("validation") < length - 1:
        return []
    rows = corpus.rows("validation", length)
    curve = loss_curve(model, rows, MaskingRule.of(corpus.tokenizer), device=device)
    n, name = min(len(rows), MAX_ROWS), scheme_name(sampler, "text")
    records = [
        Record(corpus.path.name, f"loss@{ratio:g}", loss, name, seed, n, "validation") for ratio, loss in curve.items()
    ]
    return stamped(records, device_name(device))


def compare_command(config: Compare) -> None:
    """`r2mae-text compare`."""
    print_comparison(config, RANK_BY)
