"""How long to train: steps, tokens or minutes, always turned into a number of steps before the first one."""

import copy
import itertools
import json
from typing import Any

import torch

from r2mae_core import MaskDraw, RunFolder, StepOrder, UserError, seconds_of, write_text
from r2mae_text.options import Pretrain

PAPER_TOKENS = 10e9


def n_steps(config: Pretrain, run: RunFolder, module: Any, rows: Any, order: StepOrder, device: str) -> int:
    """Return the optimizer steps of the training.

    A budget in minutes is turned into steps by timing a few, once; the number is kept in the run folder, so that the
    schedule of a resumed run is the same.

    Raises:
        UserError: there is more than one budget, or it is not positive.
    """
    budgets = {name: getattr(config, name) for name in ("steps", "tokens", "minutes")}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"give one of --steps, --tokens and --minutes, not {' and '.join(given)}")
    if any(not value > 0 for value in given.values()):
        raise UserError(f"a budget must be positive, got {given}")
    if config.steps is not None:
        return config.steps
    if config.minutes is None:
        tokens = config.tokens if config.tokens is not None else PAPER_TOKENS
        return max(round(tokens / (config.batch_size * config.length)), 1)
    kept = run.path / "budget.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))["steps"]
    if config.world_size > 1:
        raise UserError("a budget in minutes is timed in one process; with several devices use --steps or --tokens")
    seconds = order.micro_batches() * seconds_per_micro_batch(module, rows, order.micro_size, device)
    steps = max(int(config.minutes * 60 / seconds), 1)
    write_text(kept, json.dumps({"steps": steps, "seconds_per_step": seconds}) + "\n")
    return steps


def seconds_per_micro_batch(module: Any, rows: Any, micro: int, device: str, repeats: int = 5) -> float:
    """Return the time of a micro-batch's forward and backward pass and an optimizer step, on a copy."""
    trial = copy.deepcopy(module).to(device).train()
    optimizer = torch.optim.AdamW(trial.model.parameters(), lr=1e-6, fused=True)
    generator = torch.Generator(device)
    ratio, turns = module.mask_ratio.mean(0, 1), itertools.count()
    trial._shard = 0

    def step() -> None:
        i = next(turns)
        batch = torch.from_numpy(rows[torch.arange(i * micro, (i + 1) * micro).numpy() % len(rows)]).to(device)
        optimizer.zero_grad()
        trial.masked_loss(batch, MaskDraw(ratio, generator.manual_seed(i))).backward()
        optimizer.step()

    with torch.random.fork_rng(devices=[]), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        return seconds_of(step, device, repeats)
