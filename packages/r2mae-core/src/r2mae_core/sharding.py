"""Training whose weights and optimizer state are divided over the ranks (FSDP2), and its checkpoints in shards.

`--strategy fsdp` is for models that do not fit one device whole; `ddp` is faster where they do.
"""

import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from r2mae_core.errors import UserError

_META = "meta.pt"
"""What Lightning writes last into a folder of shards: it is whole where this file is."""


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
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def is_whole_folder(path: Path) -> bool:
    """Return whether a path is a checkpoint of shards that was written to its end."""
    return (path / _META).exists()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the module's whole state of a checkpoint, a file or a folder of shards, on the CPU.

    Raises:
        UserError: the checkpoint is damaged, or holds more than tensors, numbers and strings.
    """
    if path.is_file():
        return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    refuse_code(path)
    prefix, reader = "state_dict.", FileSystemReader(path)
    known = reader.read_metadata().state_dict_metadata
    state: Any = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it should be: one process reads
        load(state, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): value for name, value in state.items()}


def refuse_code(path: Path) -> None:
    """Check that the index of a folder of shards, a pickle, names nothing but what such an index is made of.

    The shards themselves are read as weights only.

    Raises:
        UserError: it is damaged or would run code.
    """
    try:
        with (path / ".metadata").open("rb") as file:
            _IndexOnly(file).load()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise UserError(
            f"{path} is damaged, or is no checkpoint that this program wrote ({error}); remove it to start again"
        ) from None


_PLAIN = {("collections", "OrderedDict"), ("pathlib", "PosixPath"), ("torch.serialization", "_get_layout")}


class _IndexOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Find what the index of torch's distributed checkpoints is made of, and nothing else."""
        of_index = module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
        if of_index or (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
