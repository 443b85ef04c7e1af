"""AdamW, which parameters decay, and the learning rate over the training."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Schedule = Callable[[int, int, float], float]
"""(step, total steps, share of warm-up) → factor on the learning rate."""


def decay_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    weight_decay: float,
    free: Callable[[str], bool] = lambda name: False,
) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: matrices decay; vectors do not, nor what `free` names.

    Args:
        named_parameters: of the model.
        weight_decay: of the first group.
        free: whether the parameter of this name never decays.
    """
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups[parameter.ndim < 2 or free(name)]["params"].append(parameter)
    return groups


def cosine(step: int, total: int, warmup: float, end: float = 0.0) -> float:
    """Return the factor on the learning rate: up over the first `warmup` share of steps, then down as a half cosine."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = min((step - rising) / max(total - rising, 1), 1.0)
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))


def linear(step: int, total: int, warmup: float) -> float:
    """Return the factor on the learning rate: up over the first `warmup` share of steps, then straight down to zero."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(total - step, 0) / max(total - rising, 1)


def adamw(
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    weight_decay: float,
    total_steps: int | None,
    warmup: float,
    schedule: Schedule = cosine,
    betas: tuple[float, float] = (0.9, 0.999),
    free: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Return AdamW and its schedule, as Lightning's `configure_optimizers` takes them.

    Args:
        named_parameters: of the model; see `decay_groups`.
        lr: peak learning rate.
        weight_decay: of matrices.
        total_steps: optimizer steps of the training.
        warmup: share of the steps in which the rate rises, between 0 and 1.
        schedule: `cosine` or `linear`.
        betas: AdamW's.
        free: whether the parameter of this name never decays.
    """
    optimizer = torch.optim.AdamW(decay_groups(named_parameters, weight_decay, free), lr=lr, betas=betas, fused=True)
    return with_schedule(optimizer, total_steps, warmup, schedule)


def with_schedule(
    optimizer: torch.optim.Optimizer, total_steps: int | None, warmup: float, schedule: Schedule = cosine
) -> dict[str, Any]:
    """Return an optimizer whose rate follows a schedule, as Lightning's `configure_optimizers` takes it."""
    total = total_steps or 1
    factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, total, warmup))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}
