"""What a folder states beside its weights and their sizes do not tell: images, pixels, heads, activation, epsilon."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from r2mae_core import UserError, read_json
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sizes import is_size, pair
from r2mae_vision.mae import timm_folder
from r2mae_vision.mae.shape import MAEShape, create_encoder

# transformers' names of activations → ours; those of torch's and timm's classes are in `_activation`.
_ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu", "swish": "silu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"), "gelu_tanh"),
}  # fmt: skip


class Stated(NamedTuple):
    """What features depend on beside weights; None: not stated."""

    file: Path
    heads: int | None = None
    activation: str | None = None
    decoder_heads: int | None = None
    norm_pix_loss: bool | None = None


def stated_size(place: Path) -> tuple[int, int] | None:
    """Return height and width of the images that weights were made for; None where nothing beside them states it.

    Raises:
        UserError: what is stated is no size.
    """
    if not place.is_dir():
        return None
    for file in (place / "mae.json", place / "model" / "mae.json", place / "config.json"):
        if not file.is_file():
            continue
        stated = read_json(file)
        arguments = stated.get("model_args") or {}
        size = stated.get("image_size") or arguments.get("img_size")  # transformers' and ours, or timm's
        size = size or (stated.get("pretrained_cfg") or {}).get("input_size", [None])[1:] or None
        if size is None:
            continue
        if not is_size(size):
            raise UserError(f"{file} is damaged: the size of its images is {size!r}")
        return pair(size)
    return None


def stated_eps(place: Path) -> float | None:
    """Return the epsilon of layer norms that a folder of transformers, or one of ours, states.

    Raises:
        UserError: it is no positive number.
    """
    if (found := _our_shape(place)) is not None:
        return found[1].norm_eps
    config = place / "config.json"
    if not config.is_file():
        return None
    eps = read_json(config).get("layer_norm_eps")
    if eps is not None and not (isinstance(eps, float) and eps > 0):
        raise UserError(f"{config} is damaged: layer_norm_eps is {eps!r}")
    return eps


def check_stated(place: Path, encoder: Any, shape: MAEShape, *, decoder: bool) -> None:
    """Refuse a model that computes otherwise than the one that a folder's weights were made with.

    Args:
        place: the folder; a file states nothing.
        encoder: timm's model, which may lie on the "meta" device.
        shape: of the masked autoencoder.
        decoder: whether the weights have a decoder that is used.

    Raises:
        UserError: heads or activation differ; sizes of tensors do not show either.
    """
    stated = _stated(place)
    if stated is None:
        return
    block = encoder.blocks[0]
    here = {"attention heads": block.attn.num_heads, "activation": _activation(block.mlp.act)}
    there = {"attention heads": stated.heads, "activation": stated.activation}
    if decoder:
        here["attention heads in the decoder"] = shape.decoder_heads
        there["attention heads in the decoder"] = stated.decoder_heads
    for name, value in there.items():
        if value is not None and value != here[name]:
            raise UserError(
                f"{stated.file} states {name}: {value}, the model has {here[name]}; it would compute other features. "
                "Choose the model that the weights were made with"
            )
    if decoder and stated.norm_pix_loss is not None and stated.norm_pix_loss != shape.norm_pix_loss:
        kinds = ("pixels as they are", "pixels normalised within each patch")
        say_once(
            f"{stated.file}: its decoder predicts {kinds[stated.norm_pix_loss]}, here {kinds[shape.norm_pix_loss]}"
        )


def say_other_pixels(place: Path, shape: MAEShape) -> None:
    """Say where weights were trained on pixels of another normalisation than the images here will have."""
    found = _our_shape(place) or _timm_shape(place)
    there = with_processor(shape, place) if found is None else found[1]
    if len(there.mean) != len(shape.mean):
        return  # the first layer is of another size, which is refused
    names = {"mean": "mean", "std": "standard deviation", "pixel_range": "range"}
    default = {"pixel_range": (0.0, 255.0)}
    for name, word in names.items():
        one, other = (getattr(which, name) or default[name] for which in (there, shape))
        if any(abs(a - b) > 0.01 * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)):
            shown = [", ".join(f"{value:.4g}" for value in values) for values in (one, other)]
            say_once(f"{place}: its weights know pixels of {word} {shown[0]}, those here are of {shown[1]}")


def with_processor(shape: MAEShape, place: Path) -> MAEShape:
    """Return the shape with size and normalisation of images that a folder of transformers states.

    Raises:
        UserError: they are no numbers.
    """
    file = place / "preprocessor_config.json"
    if not place.is_dir() or not file.exists():
        return shape
    stated = read_json(file)
    size = stated.get("size")
    size = (size.get("height"), size.get("width")) if isinstance(size, dict) else size
    mean = _numbers(file, "image_mean", stated.get("image_mean"))
    std = _numbers(file, "image_std", stated.get("image_std"))
    if stated.get("do_normalize") is False:
        mean, std = (0.0,) * shape.in_chans, (1.0,) * shape.in_chans
    factor = 1.0 if stated.get("do_rescale") is False else stated.get("rescale_factor") or 1 / 255
    if not isinstance(factor, float) or not factor > 0:
        raise UserError(f"{file}: rescale_factor must be a positive number, got {str(factor)[:60]}")
    found: dict[str, Any] = {"mean": mean, "std": std, "image_size": size if is_size(size) else None}
    if factor < 1 / 255.5:
        found["pixel_range"] = (0.0, round(1 / factor, 6))  # as `export` writes it for more than eight bits
    elif not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        # (x · factor − mean) / std, for x / 255.
        scaled = {"mean": mean or shape.mean, "std": std or shape.std}
        found |= {name: tuple(value / (255 * factor) for value in values) for name, values in scaled.items()}
    return replace(shape, **{name: value for name, value in found.items() if value is not None})


def _numbers(file: Path, name: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(type(number) in (int, float) for number in value):
        raise UserError(f"{file}: {name} must be a list of numbers, got {str(value)[:60]}")
    return tuple(value)


def _stated(place: Path) -> Stated | None:
    """Return what a folder of ours, of timm or of transformers states; None for a file or a bare folder."""
    if not place.is_dir():
        return None
    if (found := _our_shape(place) or _timm_shape(place)) is not None:
        file, shape = found
        with torch.device("meta"):
            block = create_encoder(shape).blocks[0]
        ours = file.name == "mae.json"
        return Stated(
            file,
            block.attn.num_heads,
            _activation(block.mlp.act),
            shape.decoder_heads if ours else None,
            shape.norm_pix_loss if ours else None,
        )
    file = place / "config.json"
    return _of_transformers(file, read_json(file)) if file.is_file() else None


def _of_transformers(file: Path, config: Mapping[str, Any]) -> Stated:
    activation = None if config.get("use_swiglu_ffn") else config.get("hidden_act")
    if activation is not None and activation not in _ACTIVATIONS:
        raise UserError(f"{file} states the activation {str(activation)[:40]}, which is not known here")
    for name in ("num_attention_heads", "decoder_num_attention_heads"):
        if not isinstance(config.get(name), int | None):
            raise UserError(f"{file} is damaged: {name} is {str(config[name])[:40]}")
    return Stated(
        file,
        config.get("num_attention_heads"),
        None if activation is None else _ACTIVATIONS[activation],
        config.get("decoder_num_attention_heads"),
        config.get("norm_pix_loss"),
    )


def _our_shape(place: Path) -> tuple[Path, MAEShape] | None:
    for file in (place / "mae.json", place / "model" / "mae.json"):
        if file.is_file():
            return file, MAEShape.of(read_json(file))
    return None


def _timm_shape(place: Path) -> tuple[Path, MAEShape] | None:
    folder = timm_folder.find(place) if place.is_dir() else None
    return None if folder is None else (folder / timm_folder.CONFIG, timm_folder.read_shape(folder))


def _activation(module: Any) -> str:
    name = type(module).__name__.lower()
    tanh = getattr(module, "approximate", "none") == "tanh"
    return {"gelutanh": "gelu_tanh", "quickgelu": "quick_gelu"}.get(name, "gelu_tanh" if tanh else name)
