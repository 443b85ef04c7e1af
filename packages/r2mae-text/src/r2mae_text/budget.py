"""How long to train: steps, tokens or minutes, always turned into a number of steps before the first one."""

import copy
import itertools
from typing import Any

import torch

from r2mae_core import MaskDraw, RunFolder, StepOrder, UserError, read_json, reading, seconds_of
from r2mae_text.options import Pretrain

PAPER_TOKENS = 10e9


def n_steps(config: Pretrain, run: RunFolder, module: Any, rows: Any, order: StepOrder, device: str) -> int:
    """Return the optimizer steps of the training.

    A budget in minutes is turned into steps by timing a few, once; the number is kept in the run folder, so that the
    schedule of a resumed run is the same.

    Raises:
        UserError: minutes cannot be timed on several devices, or the kept number is damaged.
    """
    if config.steps is not None:
        return config.steps
    if config.minutes is None:
        tokens = config.tokens if config.tokens is not None else PAPER_TOKENS
        return max(round(tokens / (config.batch_size * config.length)), 1)
    kept = run.path / "budget.json"
    if kept.exists():
        content = read_json(kept)
        with reading(kept, "the budget of a training"):
            return max(int(content["steps"]), 1)
    if config.world_size > 1:
        raise UserError("a budget in minutes is timed in one process; with several devices use --steps or --tokens")
    seconds = order.micro_batches() * seconds_per_micro_batch(module, rows, order.micro_size, device)
    steps = max(int(config.minutes * 60 / seconds), 1)
    run.write_json(kept.name, {"steps": steps, "seconds_per_step": seconds})
    return steps


def seconds_per_micro_batch(module: Any, rows: Any, micro: int, device: str, repeats: int = 5) -> float:
    """Return the time of a micro-batch's forward and backward pass and an optimizer step, on a copy."""
    trial = copy.deepcopy(module).to(device).train()
    trial.total_steps = lambda: 10**6  # at a rate near zero
    optimizer = trial.configure_optimizers()["optimizer"]
    generator = torch.Generator(device)
    mean, turns = module.mask_ratio.mean(0, 1), itertools.count()
    ratio = torch.full((micro,), mean, dtype=torch.float64) if module.ratio_per == "sample" else mean

    def step() -> None:
        i = next(turns)
        batch = torch.from_numpy(rows[torch.arange(i * micro, (i + 1) * micro).numpy() % len(rows)]).to(device)
        optimizer.zero_grad()
        draw = MaskDraw(ratio, generator.manual_seed(i), loss_weight=module.loss_weight)
        trial.masked_loss(batch, draw).backward()
        optimizer.step()

    with torch.random.fork_rng(devices=[]), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        return seconds_of(step, device, repeats)
