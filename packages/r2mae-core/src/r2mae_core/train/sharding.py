"""Training whose weights and optimizer state are divided over the ranks (FSDP2).

`--strategy fsdp` is for models that do not fit one device whole; `ddp` is faster where they do.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def sharded_strategy(n_ranks: int) -> Any:
    """Return Lightning's strategy that divides the model over all ranks; `MaskedModule.configure_model` does it."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(data_parallel_size=n_ranks, tensor_parallel_size=1, save_distributed_checkpoint=True)


def shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: Any, method: str) -> None:
    """Divide a module's weights over the ranks of a mesh, in place.

    Args:
        module: the whole; the weights outside of the blocks are together while `method` runs and its gradients come.
        blocks: submodules, called by their forward, whose weights are together only while they are computed.
        mesh: a one-dimensional device mesh.
        method: the module's method that computes the loss.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, method)


def gathered_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's whole weights on the CPU; every rank must call it, and only rank 0 gets them.

    A module that is not sharded gives its state on every rank.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    if not is_sharded(module):
        return module.state_dict()
    whole: Any = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return whole


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's weights are divided over ranks."""
    from torch.distributed.fsdp import FSDPModule

    # Not by its parameters: between a validation and the next step those of the root are whole.
    return isinstance(module, FSDPModule)
