"""Learning rate over the training, and which parameters decay."""

import math
from typing import Any

import torch


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: matrices decay, vectors and tokens do not."""
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            free = parameter.ndim < 2 or name.endswith(("_token", "pos_embed"))
            groups[free]["params"].append(parameter)
    return groups


def cosine(step: int, total: int, warmup: float, end: float = 0.0) -> float:
    """Return the factor on the learning rate: up over the first `warmup` share of steps, then down as a half cosine."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = min((step - rising) / max(total - rising, 1), 1.0)
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))
