"""Checkpoints: written completely or not at all, and read as weights only, whether a file or a folder of shards."""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import atomic_path
from r2mae_core.lab.sealed import check_checksums
from r2mae_core.train.tensor_files import load_torch


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes Lightning's checkpoints completely or not at all, also when the disk is full.

    Lightning writes to the system's temporary folder and moves: across disks that is a copy, which can stop half way.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file."""
        content = io.BytesIO()  # torch's own writer turns a full disk into an internal error
        torch.save(checkpoint, content)
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(content.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a file as tensors, numbers and strings, whatever `weights_only` is.

        Raises:
            UserError: it is damaged, or holds more than that.
        """
        return load_torch(Path(path), map_location, "; remove it to start again")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the module's whole state of a checkpoint, a file or a folder of shards, on the CPU.

    Raises:
        UserError: the checkpoint is damaged, or holds more than tensors, numbers and strings.
    """
    if path.is_file():
        try:
            return load_torch(path)["state_dict"]
        except (KeyError, TypeError):
            raise UserError(f"{path} is not a checkpoint of a training") from None
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    check_shards(path)
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


def check_shards(path: Path) -> None:
    """Check a folder of shards before torch reads it: its checksums, and that its index would run no code.

    Raises:
        UserError: it is damaged, or is not what this program writes.
    """
    check_checksums(path)
    refuse_code(path)


def refuse_code(path: Path) -> None:
    """Check that the index of a folder of shards, a pickle, names nothing but what such an index is made of.

    The shards themselves are read as weights only.

    Raises:
        UserError: it is damaged, would run code, or is of another Python.
    """
    try:
        with (path / ".metadata").open("rb") as file:
            _IndexOnly(file).load()
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} was written by another version of Python (it names {error.name}); go on with that one"
        ) from None
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise UserError(
            f"{path} is damaged, or is not a checkpoint that this program wrote ({error}); remove it to start again"
        ) from None


_PLAIN = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # the name of the same in Python 3.13, which 3.12 does not know
    ("torch.serialization", "_get_layout"),
}


class _IndexOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Find what the index of torch's distributed checkpoints is made of, and nothing else."""
        of_index = module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
        if of_index or (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
