"""Weights in and out: our folder, and everybody's files of weights under their own names.

Everything that is written is safetensors + JSON. How other people's names become ours: `layouts`; what fits: `fitting`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from r2mae_core import UserError, check_checksums, read_json, save_tensors, write_json
from r2mae_vision.data.digests import identity_of_arrays
from r2mae_vision.data.tensors import State, read_tensors
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.shape import MAEShape


def save_mae(model: MaskedAutoencoder, folder: Path) -> Path:
    """Write `model.safetensors` and `mae.json` (the shape) into a folder and return it."""
    save_tensors(model.state_dict(), folder / "model.safetensors")
    write_json(folder / "mae.json", model.shape.plain(), indent=2)
    return folder


def load_mae(folder: Path) -> MaskedAutoencoder:
    """Read what `save_mae` wrote; `folder` may also be a run folder of `pretrain`.

    Raises:
        UserError: there is no finished model, or its files are damaged.
    """
    home = folder / "model" if (folder / "model" / "mae.json").exists() else folder
    if not (home / "mae.json").exists():
        raise UserError(
            f"no mae.json in {folder} or {folder / 'model'}; give a folder that r2mae-vision pretrain has finished"
        )
    check_checksums(home)
    try:
        shape = MAEShape.of(read_json(home / "mae.json"))
    except UserError as error:
        raise UserError(f"{home / 'mae.json'} is damaged: {error}") from None
    model = MaskedAutoencoder(shape)
    file = home / "model.safetensors"
    state, own = read_tensors(file), model.state_dict()
    if missing := sorted(set(own) ^ set(state)):
        raise UserError(f"{file} does not fit {home / 'mae.json'}: {missing[0]} is in one of them alone")
    check_sizes(state, own, file)
    model.load_state_dict(state)
    return model.eval()


def weights_files(place: Path) -> list[Path]:
    """Return the files of weights of a run folder, a folder of a model (whole or in shards), or a file itself.

    Raises:
        UserError: an index of shards is damaged.
    """
    if not place.is_dir():
        return [place]
    for folder in (place, place / "model", place / "timm"):
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (folder / name).exists():
                return [folder / name]
            if (folder / f"{name}.index.json").exists():
                index = folder / f"{name}.index.json"
                shards = read_json(index).get("weight_map")
                if (
                    not isinstance(shards, dict)
                    or not shards
                    or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards.values())
                ):
                    raise UserError(f"{index} is damaged: it does not say which shard holds which tensor")
                return [folder / shard for shard in sorted(set(shards.values()))]
    return [place / "model.safetensors"]


def read_weights(place: Path) -> State:
    """Return all tensors of a file, a folder of a model, or its shards, under their own names.

    Raises:
        UserError: a file is missing, damaged, or a pickle of more than tensors.
    """
    files = weights_files(place)
    if place.is_dir():
        check_checksums(files[0].parent)
    return {name: value for file in files for name, value in read_tensors(file).items()}


def only_encoder(state: Mapping[str, Tensor]) -> State:
    """Return the encoder's tensors under timm's names."""
    return {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}


def identity_of_weights(state: Mapping[str, Tensor]) -> str:
    """Return a digest of weights: it names them wherever their file lies."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {identity_of_arrays(value.detach().cpu().float().numpy())}\n".encode())
    return digest.hexdigest()[:16]


def check_sizes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path | str) -> None:
    """Refuse tensors of another size than the model's.

    Raises:
        UserError: the first that differs is named.
    """
    for name, value in state.items():
        if value.shape != own[name].shape:
            where = f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} here"
            raise UserError(f"{file} is a checkpoint of another size: {where}; {_size_hint(name, value, own[name])}")


def _size_hint(name: str, there: Tensor, here: Tensor) -> str:
    if name.endswith("patch_embed.proj.weight") and there.dim() == here.dim() == 4:
        if there.shape[1] != here.shape[1]:
            return f"it reads images of {there.shape[1]} channels, these have {here.shape[1]}"
        if there.shape[0] == here.shape[0]:
            return f"its patches are {there.shape[2]} x {there.shape[3]} pixels: --patch_size"
    return "choose the model, patch size and decoder that it was made with"
