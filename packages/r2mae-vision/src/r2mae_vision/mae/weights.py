"""Weights in and out: our folder, timm's file, transformers' ViTMAE folder, the files published with MAE.

Everything that is written is safetensors + JSON. Other people's files are matched by name, see `layouts`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from r2mae_core import UserError, as_json, check_checksums, read_json, save_tensors, write_json, write_text
from r2mae_vision.data.digests import identity_of_arrays
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sizes import shown
from r2mae_vision.data.tensors import State, read_tensors
from r2mae_vision.mae.layouts import UnfitError, to_ours, to_transformers
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.positions import fit_encoder_positions, fit_positions, grid_of, stated_size
from r2mae_vision.mae.shape import MAEShape, set_norm_eps


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


def export_timm(model: MaskedAutoencoder, file: Path) -> Path:
    """Write the encoder as `timm.create_model(name, num_classes=0, checkpoint_path=file)` loads it."""
    save_tensors(model.encoder.state_dict(), file)
    return file


def vitmae_state(model: MaskedAutoencoder) -> State:
    """Return the tensors under the names of transformers' ViTMAE.

    Raises:
        UnfitError: the model has what transformers' ViTMAE cannot hold (register tokens, no class token, an odd norm).
    """
    shape, encoder = model.shape, model.encoder
    if model.grid[0] != model.grid[1]:
        raise UnfitError(
            f"transformers' ViTMAE takes squares alone, not images of {shown(shape.image_size)}; timm opens them"
        )
    if encoder.num_prefix_tokens != 1 or encoder.no_embed_class or not model.has_cls:
        raise UnfitError(
            f"transformers' ViTMAE has exactly one class token, unlike {shape.model}; export to timm instead"
        )
    state: State = {}
    for name, value in model.state_dict().items():
        state |= to_transformers(name, value)
    if encoder.blocks[0].attn.qkv.bias is None:
        raise UnfitError(
            f"{shape.model} has no biases in its attention but the decoder has; ViTMAE has one setting for both"
        )
    return state


def export_transformers(model: MaskedAutoencoder, folder: Path) -> Path:
    """Write a folder that `ViTMAEForPreTraining.from_pretrained` and `ViTMAEModel.from_pretrained` load.

    Raises:
        UnfitError: the model has what transformers' ViTMAE cannot hold (register tokens, no class token, an odd norm).
    """
    state, shape, encoder = vitmae_state(model), model.shape, model.encoder
    attention = encoder.blocks[0].attn
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": attention.num_heads,
        "intermediate_size": encoder.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": encoder.norm.eps,
        "image_size": shape.image_size,
        "patch_size": model.patch_size,
        "num_channels": shape.in_chans,
        "qkv_bias": attention.qkv.bias is not None,
        "decoder_num_attention_heads": shape.decoder_heads,
        "decoder_hidden_size": shape.decoder_dim,
        "decoder_num_hidden_layers": shape.decoder_depth,
        "decoder_intermediate_size": shape.decoder_dim * 4,
        "norm_pix_loss": shape.norm_pix_loss,
    }
    low, high = shape.pixel_range or (0.0, 255.0)
    # The processor divides and does not subtract; a range that begins elsewhere goes into its mean.
    mean = [value + low / (high - low) for value in shape.mean]
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": shape.image_size, "width": shape.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / (high - low),
        "do_normalize": True,
        "image_mean": mean,
        "image_std": list(shape.std),
    }
    save_tensors(state, folder / "model.safetensors")
    # Other programs read these two: without a checksum inside.
    write_text(folder / "preprocessor_config.json", as_json(processor, indent=2))
    write_text(folder / "config.json", as_json(config, indent=2))
    return folder


def load_published(place: Path, model: MaskedAutoencoder) -> list[str]:
    """Fill a model with weights in any known layout and return the names that the file did not have.

    Args:
        place: a .safetensors, .pth or .bin file, or a folder of transformers' ViTMAE or of `save_mae`.
        model: a masked autoencoder of the same widths. Positions of another image size are resampled.

    Raises:
        UserError: the file is damaged or a foreign pickle, holds nothing that fits, tensors of other sizes, or more or
            other layers than the model.
    """
    state, own = to_ours(read_weights(place), place), model.state_dict()
    refuse_lost(state, own, place)
    size = stated_size(place)
    there = None if size is None else grid_of(size, only_encoder(state))
    if "encoder.pos_embed" in state:
        state = fit_encoder_positions(state, model.encoder, place, "encoder.", there)
    if "decoder.pos_embed" in state:
        positions = state["decoder.pos_embed"]
        state["decoder.pos_embed"] = fit_positions(positions, model.grid, int(model.has_cls), place, there)
    state = fitting(state, own, place)
    model.load_state_dict({**own, **state})
    eps = stated_eps(place)
    if eps is not None:
        model.shape = replace(model.shape, norm_eps=eps)
        set_norm_eps(model, eps)
    return sorted(set(own) - set(state))


def only_encoder(state: Mapping[str, Tensor]) -> State:
    """Return the encoder's tensors under timm's names."""
    return {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}


def stated_eps(place: Path) -> float | None:
    """Return the epsilon of layer norms that a folder of transformers states.

    Raises:
        UserError: it is no positive number.
    """
    config = place / "config.json"
    if not config.is_file():
        return None
    eps = read_json(config).get("layer_norm_eps")
    if eps is not None and not (isinstance(eps, float) and eps > 0):
        raise UserError(f"{config} is damaged: layer_norm_eps is {eps!r}")
    return eps


# What a network computes its features with; the rest of a file (heads, projectors, mask tokens) may be left out.
_FEATURES = ("patch_embed", "cls_token", "reg_token", "dist_token", "pos_embed", "norm_pre", "blocks", "norm")


def refuse_lost(state: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path | str) -> None:
    """Refuse weights whose features depend on tensors that the model lacks.

    Args:
        state: under our names.
        own: the model's tensors under the same names.
        file: for messages.

    Raises:
        UserError: the first of them is named.
    """
    lost = sorted(name for name in state if name not in own and (name.startswith("decoder.") or _is_feature(name, own)))
    if not lost:
        return
    hint = next((text for word, text in _HINTS.items() if word in f".{lost[0]}"), "")
    here, there = _depth(own, lost[0]), _depth(state, lost[0])
    hint = f" ({there} layers there, {here} here)" if here != there else hint
    raise UserError(
        f"{file}: the model has no place for {lost[0]} and {len(lost) - 1} more{hint}; without them it would "
        "compute other features. Choose the model that the weights were made with"
    )


def fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path | str) -> State:
    """Return the tensors that a model has, and name those that are left out.

    Args:
        state: under our names.
        own: the model's tensors under the same names.
        file: for messages.

    Raises:
        UserError: a part of the layers is missing in the file, or a tensor is of another size.
    """
    kept = {name: value for name, value in state.items() if name in own}
    left = [name for name in state if name not in own]
    check_sizes(kept, own, file)
    for part in ("encoder", "decoder"):
        missing = [name for name in own if name.startswith(f"{part}.blocks.") and name not in kept]
        if missing and any(name.startswith(f"{part}.blocks.") for name in kept):
            depths = f"{_depth(state, missing[0])} layers there, {_depth(own, missing[0])} here"
            raise UserError(
                f"{file}: {missing[0]} and {len(missing) - 1} more of the model's layers are missing ({depths}); "
                "choose the model that the weights were made with"
            )
    if left:
        counts = Counter(_head_of(name) for name in left)
        shown = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())
        say_once(f"{file}: left out, because the model has no place for it: {shown}")
    return kept


_HINTS = {
    ".ls1.": " (LayerScale: init_values in --model_args)",
    "_norm.": " (norms of q and k: qk_norm in --model_args)",
}


def _is_feature(name: str, own: Mapping[str, Tensor]) -> bool:
    """Return whether features depend on a tensor that the model lacks."""
    if not name.startswith("encoder."):
        return False
    part = name.split(".")[1]
    # The mean over patches has a norm of its own, and then there is no other (MAE's fine-tuning).
    return part in _FEATURES and not (part == "norm" and "encoder.fc_norm.weight" in own)


def _depth(state: Mapping[str, Tensor], name: str) -> int:
    """Return how many blocks the part has in which a tensor lies."""
    part = name.split(".")[0]
    return len({one.split(".")[2] for one in state if one.startswith(f"{part}.blocks.")})


def _head_of(name: str) -> str:
    parts = name.removeprefix("encoder.").split(".")
    return parts[0] if len(parts) > 1 else name.removeprefix("encoder.")


def weights_files(place: Path) -> list[Path]:
    """Return the files of weights of a run folder, a folder of a model (whole or in shards), or a file itself.

    Raises:
        UserError: an index of shards is damaged.
    """
    if not place.is_dir():
        return [place]
    for folder in (place, place / "model"):
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
            raise UserError(
                f"{file} is a checkpoint of another size: {name} is {tuple(value.shape)} there and "
                f"{tuple(own[name].shape)} here; choose the model, patch size and decoder that it was made with"
            )
