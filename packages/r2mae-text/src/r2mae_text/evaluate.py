"""What a masked language model has learned, at fixed ratios and with masks that every run shares; and `compare`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from r2mae_core import (
    Compare,
    Direction,
    HeldOutLoss,
    Record,
    RunFolder,
    UserError,
    check_output,
    device_name,
    open_run,
    print_comparison,
    resolve_device,
    resolved,
    say,
    show_table,
    stamped,
)
from r2mae_text.data.shards import Corpus, TokenRows
from r2mae_text.isolation import Isolation
from r2mae_text.masking import MaskingRule, mask_tokens
from r2mae_text.model import masked_lm_loss, usable_positions
from r2mae_text.options import Evaluate

VALIDATION_RATIO = 0.15
"""Where schemes are compared, as MosaicBERT and ModernBERT do."""
RATIOS = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Where trained models are evaluated."""
MAX_ROWS = 1024
RANK_BY: dict[str, Direction] = {"accuracy": "max", "mcc": "max", "spearman": "max"}


def shown_as_mask(rule: MaskingRule) -> MaskingRule:
    """Return the rule of every validation: exact counts, independent places, every hidden token shown as <mask>."""
    return replace(rule.plain(), mask_share=1.0, random_share=0.0)


@torch.no_grad()
def held_out_loss(
    model: Any,
    rows: TokenRows,
    rule: MaskingRule,
    ratios: Sequence[float] = RATIOS,
    *,
    device: str = "cpu",
    max_rows: int = MAX_ROWS,
    batch_size: int = 64,
    isolation: Isolation | None = None,
) -> dict[float, float]:
    """Return ratio → mean cross-entropy of hidden tokens, nats, with every hidden token shown as <mask>.

    The masks depend on the rows and the ratio alone: they are the same for every scheme, seed and machine.

    Args:
        model: a masked-LM model, on `device`.
        rows: of the validation split; the first `max_rows` count.
        rule: which ids are special; its shares are not used.
        ratios: fractions hidden.
        device: where to compute.
        max_rows: how many rows at most.
        batch_size: rows at once; the masks do not depend on it.
        isolation: how the documents of a row are kept apart; None: they see each other.
    """
    rule, training, n = shown_as_mask(rule), model.training, min(len(rows), max_rows)
    model.eval()
    total = torch.zeros(len(ratios), dtype=torch.float64, device=device if device != "mps" else "cpu")
    weight = torch.zeros_like(total)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        for first in range(0, n, batch_size):
            batch = torch.from_numpy(rows[torch.arange(first, min(first + batch_size, n)).numpy()])
            for i, ratio in enumerate(ratios):
                # Drawn on the CPU, so that a GPU has the same masks.
                masked = mask_tokens(batch, ratio, rule, generator=torch.Generator().manual_seed(0), rows=(first, n))
                share = (masked.targets >= 0).sum().to(total.device)
                hidden = [part.to(device) for part in (masked.inputs, masked.positions, masked.targets)]
                context = {} if isolation is None else isolation.arguments(hidden[0])
                total[i] += masked_lm_loss(model, *hidden, **context).to(total.device).double() * share
                weight[i] += share
    model.train(training)
    return dict(zip(ratios, (total / weight).tolist(), strict=True))


def evaluate(config: Evaluate) -> RunFolder:
    """Measure a model on the held-out text of each corpus and return the run folder.

    Raises:
        UserError: a corpus was made with another tokenizer, or has no held-out text; or the model does not fit.
    """
    from r2mae_text.finetune import pretrained_as, scheme_of
    from r2mae_text.tokenizer import digest
    from r2mae_text.weights import load_pretrained, model_digest

    device, corpora = resolve_device(config.device), {folder: Corpus.open(folder) for folder in config.data}
    names = [folder.absolute().name for folder in corpora]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two corpora are called {twice[0]}, and the table could not tell them apart; rename one")
    if config.out is not None:
        check_output(config.out, [Path(config.model), *config.data])
    model, tokenizer = load_pretrained(config.model)
    if config.length > usable_positions(model.config):
        raise UserError(f"{config.model} takes {usable_positions(model.config)} tokens, fewer than --length")
    for folder, corpus in corpora.items():
        if digest(tokenizer) != digest(corpus.tokenizer):
            raise UserError(f"{folder} was prepared with another tokenizer than that of {config.model}")
    facts = {"weights": model_digest(config.model), "corpora": [corpus.digest for corpus in corpora.values()]}
    known, scheme = pretrained_as(config.model), scheme_of(config.model)
    seed = next((seed for _, seed in known.values()), 0)
    with open_run(
        "r2mae-text", "evaluate", config.out, resolved(config), facts=facts, free=("model", "data"), models=known
    ) as run:
        records, rule, start = list[Record](), MaskingRule.of(tokenizer), time.perf_counter()
        for name, corpus in zip(names, corpora.values(), strict=True):
            rows = corpus.rows("validation", config.length)
            losses = held_out_loss(model.to(device), rows, rule, config.ratios, device=device)
            records += HeldOutLoss(name, losses, min(len(rows), MAX_ROWS)).records(scheme, seed)
        run.write_results(stamped(records, device_name(device), time.perf_counter() - start))
        return run


def evaluate_command(config: Evaluate) -> None:
    """`r2mae-text evaluate`."""
    run = evaluate(config)
    show_table(run, run.results(), RANK_BY, f"{config.model} on held-out text, loss in nats")
    say(f"Done: {run.path} (results.json, table.md)")


def compare_command(config: Compare) -> None:
    """`r2mae-text compare`."""
    print_comparison(config, RANK_BY)
