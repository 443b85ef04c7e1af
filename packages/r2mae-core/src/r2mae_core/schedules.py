"""Learning rate over the training, and which parameters decay."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor


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
