"""Files of weights: safetensors written, and safetensors or plain torch files read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2mae_core import UserError, atomic_path

State = dict[str, Tensor]


def save_tensors(state: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, atomically."""
    from safetensors.torch import save_file

    with atomic_path(file) as temporary:
        save_file({name: value.detach().contiguous().cpu().clone() for name, value in state.items()}, temporary)


def read_tensors(file: Path) -> State:
    """Read a state dict from safetensors, or from a torch file that holds nothing but tensors and plain data.

    Raises:
        UserError: the file is missing, damaged, or a pickle of more than that.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"no weights at {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is damaged or not a file of weights ({reason})") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{file} holds more than tensors and plain data, so loading it could run foreign code; if you trust it, "
            "convert it once: torch.save(torch.load(FILE, weights_only=False)['model'], 'weights.pth')"
        ) from None
    for key in ("model", "state_dict", "model_ema"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state dict")
    return state
