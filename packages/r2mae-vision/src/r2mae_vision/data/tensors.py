"""Files of other people's weights, whichever way they wrap them."""

from collections.abc import Mapping
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
    found = _flat(state) if isinstance(state, dict) else {}
    if not found:
        raise UserError(f"{file} holds no state dict: names and their tensors are needed")
    check_finite(found, file)
    return found


def _flat(state: Mapping[Any, Any], above: str = "") -> State:
    """Return the tensors of dictionaries within dictionaries, such as `model` or `teacher`, below one another's names.

    What is no tensor, such as the number of epochs, and what an optimizer holds is no part of a model.
    """
    found: State = {}
    for name, value in state.items():
        if not isinstance(name, str) or name.startswith("optim"):
            continue
        if isinstance(value, Tensor):
            found[f"{above}{name}"] = value
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
    return found


def check_finite(state: State, file: Path | str) -> None:
    """Refuse weights with NaN or infinite numbers.

    Raises:
        UserError: the first such tensor is named.
    """
    for name, value in state.items():
        if value.is_meta or value.layout != torch.strided:
            raise UserError(
                f"{file}: {name} is a tensor without its numbers or in a sparse form; save it as a dense one"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{file}: {name} has NaN or infinite numbers; fetch the file again, or train anew")
