"""A broken network for a demo's positive control: trained weights in random order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from r2mae_core.ratio.randomness import derived_seed


def permute_weights(module: nn.Module, seed: int | Sequence[int]) -> nn.Module:
    """Put the numbers of every tensor of a network in random order, in place, and return the network.

    Every tensor keeps its values, and so its scale; what training wrote into their places is lost. Floating-point
    buffers that are saved with the weights (batch norm's running statistics) are permuted too; tensors that share
    memory once. The order is a function of the seed and the tensor's name.

    Args:
        module: the network.
        seed: of the order. Several seeds: the module is a stack of as many networks along the first dimension of every
            tensor, and each is permuted in itself.
    """
    seeds = [seed] if isinstance(seed, int) else list(seed)
    done: set[int] = set()
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or tensor.data_ptr() in done or tensor.numel() == 0:
            continue
        done.add(tensor.data_ptr())
        rows = tensor.reshape(len(seeds), -1)
        new = [
            _permuted(row, derived_seed(own, "permuted weights", name)) for row, own in zip(rows, seeds, strict=True)
        ]
        tensor.copy_(torch.stack(new).view(tensor.shape))
    return module


def _permuted(values: Tensor, seed: int) -> Tensor:
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed))
    return values[order.to(values.device)]
