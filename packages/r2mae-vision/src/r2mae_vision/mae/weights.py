"""Weights in and out: our folder, timm's file, transformers' ViTMAE folder, the files published with MAE.

Everything is safetensors + JSON. Other people's files are matched by name, in the three layouts that exist: timm's
(also that of facebookresearch/mae, whose decoder's names start with `decoder_`), transformers' and our own.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2mae_core import UserError, as_json, check_checksums, read_json, save_tensors, write_json, write_text
from r2mae_vision.data.digests import identity_of_arrays
from r2mae_vision.data.tensors import State, read_tensors
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.shape import MAEShape, set_norm_eps

# Our name → transformers' name inside one layer.
_LAYER = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# What transformers 5 calls them in memory, and so in a state dict that its user saved.
_LAYER_IN_MEMORY = {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
# transformers 5.23 saves the decoder's layers as decoder_encoder.layer; in memory the encoder's are vit.layers.
_LAYER_NAME = re.compile(
    r"(vit\.encoder\.layer|vit\.layers|decoder\.decoder_(?:layers|encoder\.layer))\.(\d+)\.(.+)\.(weight|bias)"
)
_ALONE = {
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.pos_embed": "vit.embeddings.position_embeddings",
    "encoder.patch_embed.proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
    "encoder.patch_embed.proj.bias": "vit.embeddings.patch_embeddings.projection.bias",
    "encoder.norm.weight": "vit.layernorm.weight",
    "encoder.norm.bias": "vit.layernorm.bias",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.pos_embed": "decoder.decoder_pos_embed",
    **{
        f"decoder.{ours}.{part}": f"decoder.decoder_{ours}.{part}"
        for ours in ("embed", "norm", "pred")
        for part in ("weight", "bias")
    },
}


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


class UnfitError(UserError):
    """A model that another library's layout cannot hold."""


def export_transformers(model: MaskedAutoencoder, folder: Path) -> Path:
    """Write a folder that `ViTMAEForPreTraining.from_pretrained` and `ViTMAEModel.from_pretrained` load.

    Raises:
        UnfitError: the model has what transformers' ViTMAE cannot hold (register tokens, no class token, an odd norm).
    """
    shape, encoder = model.shape, model.encoder
    if encoder.num_prefix_tokens != 1 or encoder.no_embed_class or not model.has_cls:
        raise UnfitError(
            f"transformers' ViTMAE has exactly one class token, unlike {shape.model}; export to timm instead"
        )
    state: State = {}
    for name, value in model.state_dict().items():
        state |= _to_transformers(name, value)
    attention = encoder.blocks[0].attn
    if attention.qkv.bias is None:
        raise UnfitError(
            f"{shape.model} has no biases in its attention but the decoder has; ViTMAE has one setting for both"
        )
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
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": shape.image_size, "width": shape.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(shape.mean),
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
        UserError: the file is damaged or a foreign pickle, holds nothing that fits, or tensors of other sizes.
    """
    file = weights_file(place)
    if place.is_dir():
        check_checksums(file.parent)
    state = to_ours(read_tensors(file))
    own = model.state_dict()
    state = {name: value for name, value in state.items() if name in own}
    if not any(name.startswith("encoder.blocks") for name in state):
        raise UserError(f"{file} holds no VisionTransformer blocks in a layout that is known (timm, MAE, transformers)")
    for name in ("encoder.pos_embed", "decoder.pos_embed"):
        if name in state:
            prefix = int(model.has_cls) if name.startswith("decoder") else _n_prefix(model.encoder)
            state[name] = fit_positions(state[name], model.grid, prefix, file)
    check_sizes(state, own, file)
    model.load_state_dict({**own, **state})
    config = file.parent / "config.json"
    if place.is_dir() and config.exists():
        eps = read_json(config).get("layer_norm_eps")
        if eps is not None and not (isinstance(eps, float) and eps > 0):
            raise UserError(f"{config} is damaged: layer_norm_eps is {eps!r}")
        model.shape = replace(model.shape, norm_eps=eps)
        set_norm_eps(model, eps)
    return sorted(set(own) - set(state))


def weights_file(place: Path) -> Path:
    """Return the file of weights of a run folder, a folder of a model, or a file itself."""
    if place.is_dir() and not (place / "model.safetensors").exists() and (place / "model").is_dir():
        place = place / "model"
    return place / "model.safetensors" if place.is_dir() else place


def identity_of_weights(state: Mapping[str, Tensor]) -> str:
    """Return a digest of weights: it names them wherever their file lies."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {identity_of_arrays(value.detach().cpu().float().numpy())}\n".encode())
    return digest.hexdigest()[:16]


def fit_positions(positions: Tensor, grid: tuple[int, int], n_prefix: int, file: Path) -> Tensor:
    """Return positions (1, n_prefix + N, D) resampled to another square grid, as timm does.

    Raises:
        UserError: the patches of the file do not form a square.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    if positions.dim() != 3:
        raise UserError(f"{file} has positions of shape {tuple(positions.shape)}, not (1, patches, width)")
    n_patches = positions.shape[1] - n_prefix
    if n_patches == grid[0] * grid[1]:
        return positions
    if n_patches < 1 or round(n_patches**0.5) ** 2 != n_patches:
        raise UserError(
            f"{file} has positions for {n_patches} patches, which do not form a square; they cannot be resampled"
        )
    return resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=n_prefix)


def check_sizes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> None:
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


def to_ours(state: Mapping[str, Tensor]) -> State:
    """Return a foreign state dict under our names; names that mean nothing to us stay as they are."""
    if any(name.startswith(("vit.", "embeddings.")) for name in state):
        return _from_transformers(state)
    if any(name.startswith("encoder.") for name in state):
        return dict(state)
    ours: State = {}
    for name, value in state.items():
        if name == "mask_token":
            ours["decoder.mask_token"] = value
        elif name.startswith("decoder_"):
            ours[f"decoder.{name.removeprefix('decoder_')}"] = value
        else:
            ours[f"encoder.{name}"] = value
    return ours


def _to_transformers(name: str, value: Tensor) -> State:
    if name in _ALONE:
        return {_ALONE[name]: value}
    found = re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None:
        raise UnfitError(f"transformers' ViTMAE has no place for {name}; export to timm instead")
    side, i, part, kind = found.groups()
    home = f"vit.encoder.layer.{i}" if side == "encoder" else f"decoder.decoder_layers.{i}"
    if part == "attn.qkv":
        names = [f"{home}.attention.attention.{word}.{kind}" for word in ("query", "key", "value")]
        return dict(zip(names, value.chunk(3), strict=True))
    if part not in _LAYER:
        raise UnfitError(f"transformers' ViTMAE has no place for {name}; export to timm instead")
    return {f"{home}.{_LAYER[part]}.{kind}": value}


def _from_transformers(state: Mapping[str, Tensor]) -> State:
    """Return the tensors of a ViTMAE or ViT of transformers under our names."""
    alone = {theirs: ours for ours, theirs in _ALONE.items()}
    parts = {theirs: ours for ours, theirs in _LAYER.items()} | _LAYER_IN_MEMORY
    ours: State = {}
    fused: dict[tuple[str, str], dict[str, Tensor]] = {}
    for full, value in state.items():
        name = full if full.startswith(("vit.", "decoder.")) else f"vit.{full}"
        found = _LAYER_NAME.fullmatch(name)
        if found is None:
            ours[alone.get(name, full)] = value
            continue
        home, i, part, kind = found.groups()
        block = f"{'decoder' if home.startswith('decoder') else 'encoder'}.blocks.{i}"
        if word := re.fullmatch(r"attention\.(?:attention\.)?(query|key|value|[qkv]_proj)", part):
            fused.setdefault((block, kind), {})[word[1][0]] = value
        elif part in parts:
            ours[f"{block}.{parts[part]}.{kind}"] = value
    for (block, kind), words in fused.items():
        if len(words) == 3:
            ours[f"{block}.attn.qkv.{kind}"] = torch.cat([words[word] for word in "qkv"])
    return ours


def _n_prefix(encoder: Any) -> int:
    return 0 if encoder.no_embed_class else encoder.num_prefix_tokens
