"""Other people's names for the tensors of a ViT → ours, and ours → transformers'.

Ours are `encoder.` and timm's name, and `decoder.` and the name of MAE's decoder without its prefix. Known layouts:
timm's (also that of facebookresearch/mae, whose decoder's names start with `decoder_`, and of DINOv2), transformers'
(ViTMAE, ViT, DINOv2) and our own, each below any prefix, such as those of DistributedDataParallel, torch.compile,
DINO's teacher and student and MoCo's encoders.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from r2mae_core import UserError
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.tensors import State


class UnfitError(UserError):
    """A model that another library's layout cannot hold."""


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
# transformers' DINOv2.
_LAYER_OF_DINO = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
}
# transformers 5.23 saves the decoder's layers as decoder_encoder.layer; in memory the encoder's are vit.layers.
_LAYER_NAME = re.compile(
    r"(vit\.encoder\.layer|vit\.layers|decoder\.decoder_(?:layers|encoder\.layer))\.(\d+)\.(.+)\.(weight|bias|lambda1)"
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


# Where a ViT begins: what stands before these names is a prefix.
_FIRST = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")
# Of several encoders in one file the first of these is the one that is meant to be used.
# As in timm that is the average of a training's weights, where there is one.
_PREFERRED = (
    "teacher",
    "ema",
    "target_encoder",
    "base_encoder",
    "encoder_q",
    "student",
    "momentum_encoder",
    "encoder_k",
)


def prefix_of(names: Mapping[str, Tensor], file: object) -> str:
    """Return what stands before the names of the ViT in a file.

    Raises:
        UserError: there is none, or there are several and it is open which is meant.
    """
    found = {name[: -len(first)] for name in names for first in _FIRST if name.endswith(first)}
    found = {one for one in found if not one or one.endswith(".")}
    if not found:
        raise UserError(f"{file} holds no VisionTransformer blocks in a layout that is known (timm, MAE, transformers)")
    if len(found) == 1:
        return found.pop()
    for word in _PREFERRED:
        if len(chosen := [one for one in found if word in re.split(r"[._]", one) or word in one.split(".")]) == 1:
            others = ", ".join(sorted(one.rstrip(".") for one in found - set(chosen)))
            say_once(f"{file} holds several ViTs: {chosen[0].rstrip('.')} is used, not {others}")
            return chosen[0]
    several = ", ".join(sorted(one or "one without a prefix" for one in found))
    raise UserError(f"{file} holds several ViTs ({several}): save the one that is meant in a file of its own")


def to_ours(state: Mapping[str, Tensor], file: object = "the file") -> State:
    """Return a foreign state dict under our names; names that mean nothing to us stay as they are.

    Raises:
        UserError: it holds no ViT, or several and it is open which is meant.
    """
    prefix = prefix_of(state, file)
    if prefix.endswith("encoder.") and any(name.startswith(f"{prefix[:-8]}decoder.") for name in state):
        return {name.removeprefix(prefix[:-8]): value for name, value in state.items()}
    bare, other = dict[str, Tensor](), dict[str, Tensor]()
    for name, value in state.items():
        # transformers' decoder stands beside its encoder, not below it.
        below = name.startswith(prefix)
        (bare if below else other)[name.removeprefix(prefix) if below else name] = value
    if any(name.startswith("embeddings.") for name in bare):
        above = prefix[: prefix.rstrip(".").rfind(".") + 1]
        return _from_transformers(bare, {name.removeprefix(above): value for name, value in other.items()})
    has_decoder = any(name.startswith("decoder_") for name in bare)
    # None of these is below our names: another encoder may be called so.
    ours: State = {name if name.startswith("decoder.") else f"beside.{name}": value for name, value in other.items()}
    for name, value in bare.items():
        if has_decoder and name == "mask_token":
            ours["decoder.mask_token"] = value
        elif name.startswith("decoder_"):
            ours[f"decoder.{name.removeprefix('decoder_')}"] = value
        else:
            ours[f"encoder.{_from_dino(name)}"] = value
    return ours


def _from_dino(name: str) -> str:
    """Return timm's name of a tensor of facebookresearch/dinov2: blocks may lie in chunks, and its registers differ."""
    name = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name)
    name = name.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.")
    return "reg_token" if name == "register_tokens" else name


def to_transformers(name: str, value: Tensor) -> State:
    """Return one of our tensors under transformers' names.

    Raises:
        UnfitError: ViTMAE has no place for it.
    """
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


def _from_transformers(vit: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> State:
    """Return the tensors of a ViTMAE, ViT or DINOv2 of transformers under our names.

    Args:
        vit: those of the encoder, without its prefix.
        other: those beside it, such as the decoder's.
    """
    alone = {theirs: ours for ours, theirs in _ALONE.items()}
    alone["vit.embeddings.register_tokens"] = "encoder.reg_token"
    alone["vit.embeddings.mask_token"] = "encoder.mask_token"
    parts = {theirs: ours for ours, theirs in _LAYER.items()} | _LAYER_IN_MEMORY | _LAYER_OF_DINO
    ours: State = {}
    fused: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in {**other, **{f"vit.{name}": value for name, value in vit.items()}}.items():
        found = _LAYER_NAME.fullmatch(name)
        if found is None:
            ours[alone.get(name, name.replace("vit.", "encoder.", 1) if name.startswith("vit.") else name)] = value
            continue
        home, i, part, kind = found.groups()
        block = f"{'decoder' if home.startswith('decoder') else 'encoder'}.blocks.{i}"
        if word := re.fullmatch(r"attention\.(?:attention\.)?(query|key|value|[qkv]_proj)", part):
            fused.setdefault((block, kind), {})[word[1][0]] = value
        else:
            ours[f"{block}.{parts.get(part, part)}.{'gamma' if kind == 'lambda1' else kind}"] = value
    for (block, kind), words in fused.items():
        if len(words) == 3:
            ours[f"{block}.attn.qkv.{kind}"] = torch.cat([words[word] for word in "qkv"])
        else:
            ours |= {f"{block}.attn.{word}.{kind}": value for word, value in words.items()}
    return ours
