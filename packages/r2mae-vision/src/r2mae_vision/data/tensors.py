"""Files of other people's weights, whichever way they wrap them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2mae_core import UserError, load_tensors

State = dict[str, Tensor]


def read_tensors(file: Path) -> State:
    """Read a state dict from safetensors, or from a torch file that holds nothing but tensors and plain data.

    Raises:
        UserError: the file is missing, damaged, a pickle of more than that, or its weights are not numbers.
    """
    if not file.is_file():
        raise UserError(f"no weights at {file}")
    try:
        state: Any = load_tensors(file)
    except UserError as error:
        if file.suffix == ".safetensors":
            raise
        raise UserError(
            f"{error}; if you trust it, convert it once: "
            "torch.save(torch.load(FILE, weights_only=False)['model'], 'weights.pth')"
        ) from None
    for key in ("model", "state_dict", "model_ema", "module", "teacher", "student"):  # of DINO the teacher is used
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(_is_entry(*entry) for entry in state.items()):
        raise UserError(f"{file} holds no state dict: names and their tensors are needed")
    check_finite(state, file)
    return state


def _is_entry(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def check_finite(state: State, file: Path | str) -> None:
    """Refuse weights with NaN or infinite numbers.

    Raises:
        UserError: the first such tensor is named.
    """
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{file}: {name} has NaN or infinite numbers; fetch the file again, or train anew")
