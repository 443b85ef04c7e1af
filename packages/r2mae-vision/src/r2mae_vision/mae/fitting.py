"""Other people's weights into a model: what fits, what may be left out and is named, what is refused.

Features depend on every tensor of an encoder but for heads and the like, so one that the model lacks, or that the file
lacks, is refused.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from r2mae_core import UserError
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.tensors import State
from r2mae_vision.mae.layouts import to_ours
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.positions import fit_encoder_positions, fit_positions, grid_of
from r2mae_vision.mae.shape import set_norm_eps
from r2mae_vision.mae.stated import check_stated, say_other_pixels, stated_eps, stated_size
from r2mae_vision.mae.weights import check_sizes, only_encoder, read_weights


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
    check_stated(place, model.encoder, model.shape, decoder=any(name.startswith("decoder.") for name in state))
    refuse_lost(state, own, place)
    size = stated_size(place)
    there = None if size is None else grid_of(size, only_encoder(state))
    if "encoder.pos_embed" in state:
        state = fit_encoder_positions(state, model.encoder, place, "encoder.", there)
    if "decoder.pos_embed" in state:
        positions = state["decoder.pos_embed"]
        state["decoder.pos_embed"] = fit_positions(positions, model.grid, int(model.has_cls), place, there)
    state = fitting(state, own, place)
    say_other_pixels(place, model.shape)
    model.load_state_dict({**own, **state})
    eps = stated_eps(place)
    if eps is not None:
        model.shape = replace(model.shape, norm_eps=eps)
        set_norm_eps(model, eps)
    return sorted(set(own) - set(state))


# What stands beside the layers of an encoder and may be left out: nothing that patches' features depend on.
_ASIDE = re.compile(
    r"\w*head\w*|classifier\w*|fc|fc_norm|attn_pool|pooler|pre_logits|mask(ed)?_(token|embed)\w*|logit_(scale|bias)|"
    r"\w*(project(or|ion)|predictor|prototype|queue)\w*"
)


def refuse_lost(state: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path | str) -> None:
    """Refuse weights whose features depend on tensors that the model lacks.

    Args:
        state: under our names.
        own: the model's tensors under the same names.
        file: for messages.

    Raises:
        UserError: the first of them is named.
    """
    lost = sorted(
        name for name in state if name not in own and (name.startswith("decoder.") or _is_feature(name, state, own))
    )
    if not lost:
        return
    here, there = _depth(own, lost[0]), _depth(state, lost[0])
    hint = f" ({there} layers there, {here} here)" if here != there else _hint(lost[0])
    raise UserError(
        f"{file}: the model has no place for {_some(lost)}{hint}; without them it would "
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
    if odd := [name for name, value in kept.items() if not value.is_floating_point()]:
        raise UserError(
            f"{file}: {odd[0]} holds {kept[odd[0]].dtype}, not floating-point numbers; quantised weights cannot be used"
        )
    for part in ("encoder", "decoder"):
        missing = [name for name in own if name.startswith(f"{part}.") and name not in kept and _is_needed(name, state)]
        if not missing or (part == "decoder" and not any(name.startswith("decoder.") for name in kept)):
            continue
        here, there = _depth(own, missing[0]), _depth(state, missing[0])
        depths = f" ({there} layers there, {here} here)" if here != there else ""
        raise UserError(
            f"{file}: missing: {_some(missing)} of the model's {part}{depths}{_hint(missing[0])}; "
            "choose the model that the weights were made with"
        )
    if left:
        counts = Counter(_head_of(name) for name in left)
        shown = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())
        say_once(f"{file}: left out, because the model has no place for it: {shown}")
    return kept


_HINTS = {
    ".ls1.": "LayerScale: init_values in --model_args",
    ".ls2.": "LayerScale: init_values in --model_args",
    "_norm.": "norms of q and k: qk_norm in --model_args",
    ".cls_token": "class_token in --model_args",
    ".reg_token": "reg_tokens in --model_args",
    ".dist_token": "a distilled model has a token more",
    ".pos_embed": "models of relative or rotary positions cannot be used",
    ".rel_pos": "models of relative positions cannot be used",
    ".relative_position": "models of relative positions cannot be used",
    ".rope": "models of rotary positions cannot be used",
    ".norm_pre.": "pre_norm in --model_args",
}


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _hint(name: str) -> str:
    return next((f" ({text})" for word, text in _HINTS.items() if word in f".{name}"), "")


def _is_feature(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Return whether features depend on a tensor of a file that the model lacks."""
    if not name.startswith("encoder."):
        return False
    part = name.split(".")[1]
    # The mean over patches has a norm of its own, and then there is no other (MAE's fine-tuning).
    if part == "norm" and "encoder.fc_norm.weight" in own and "encoder.fc_norm.weight" not in state:
        return False
    return not _ASIDE.fullmatch(part)


def _is_needed(name: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether a model's tensor must be in a file that has its part of the model."""
    part = name.split(".")[1]
    if part == "norm" and "encoder.fc_norm.weight" in state:
        return not name.startswith("encoder.")
    return not _ASIDE.fullmatch(part) or name.startswith("decoder.")


def _depth(state: Mapping[str, Tensor], name: str) -> int:
    """Return how many blocks the part has in which a tensor lies."""
    part = name.split(".")[0]
    return len({one.split(".")[2] for one in state if one.startswith(f"{part}.blocks.")})


def _head_of(name: str) -> str:
    return name.removeprefix("encoder.").removeprefix("beside.").split(".")[0]
