"""Checkpoints in the layout of the published GPN-MSA models: `config.json` and `model.safetensors`.

What is saved here loads in the `gpn` package, and published models load here. The rotary table is computed, never
read, and the output bias is `cls.predictions.bias`, the one that published files have.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2mae_core import (
    UserError,
    as_json,
    check_checksums,
    file_digest,
    load_tensors,
    read_json,
    reading,
    save_tensors,
    write_text,
)
from r2mae_dna.data.codes import N_LETTERS, N_TOKENS
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.limits import MAX_POSITIONS
from r2mae_dna.model import INIT_STD, NORM_EPS, AlignmentModel, ModelConfig, Origin, rotary_table

_LAYER = {
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
_EXPECTED: dict[str, Any] = {
    "hidden_act": "gelu",
    "rotary_value": False,
    "vocab_size": N_TOKENS,
    "aux_features_vocab_size": N_LETTERS,
    "layer_norm_eps": NORM_EPS,
    "group_tokens": 1,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}
"""Fields of `config.json` that change what a model computes, with the one value that is known here."""
_INERT = {
    "model_type", "species", "targets", "window", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "initializer_range", "max_position_embeddings", "architectures", "transformers_version", "torch_dtype", "dtype",
    "_name_or_path", "_commit_hash", "id2label", "label2id", "problem_type", "output_hidden_states",
    "output_attentions", "return_dict", "chunk_size_feed_forward", "type_vocab_size", "pad_token_id", "bos_token_id",
    "eos_token_id", "use_cache", "tie_word_embeddings",
}  # fmt: skip
"""Fields that do not change it (the shape is read elsewhere): those of transformers' own that the published have."""
_LFS = b"version https://git-lfs"
_HEAD = {"dense": "transform.dense", "norm": "transform.LayerNorm"}


def to_published(model: AlignmentModel) -> dict[str, Tensor]:
    """Return the weights under the published names."""
    out: dict[str, Tensor] = {}
    for i, layer in enumerate(model.layers):
        home = f"model.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = getattr(layer.qkv, kind).detach().chunk(3)  # pyright: ignore[reportAttributeAccessIssue]
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                out[f"{home}.attention.self.{name}.{kind}"] = part
            for own, theirs in _LAYER.items():
                out[f"{home}.{theirs}.{kind}"] = getattr(getattr(layer, own), kind).detach()
    for own, theirs in _HEAD.items():
        for kind in ("weight", "bias"):
            out[f"cls.predictions.{theirs}.{kind}"] = getattr(getattr(model.head, own), kind).detach()
    decoder = model.head.decoder
    out["cls.predictions.decoder.weight"] = decoder.weight.detach()
    # Two names for one bias: transformers 5 no longer ties them.
    out["cls.predictions.bias"], out["cls.predictions.decoder.bias"] = decoder.bias.detach(), decoder.bias.detach()
    cosine, sine = rotary_table(MAX_POSITIONS, model.config.n_hidden // model.config.n_heads)
    out["model.encoder.embed_positions.weight"] = torch.cat([sine, cosine], -1)
    return {name: value.contiguous().cpu().clone() for name, value in out.items()}


def load_published(model: AlignmentModel, weights: dict[str, Tensor], source: str) -> None:
    """Load published weights into a model of the same shape, all of them.

    Raises:
        UserError: a weight is missing, has another shape, or has no place in the model.
    """
    unused = set(weights)

    def take(name: str) -> Tensor:
        if name not in weights:
            raise UserError(f"{source} has no weight {name!r}; it is not a GPN-MSA (GPNRoFormer) checkpoint")
        value = weights[name]
        unused.discard(name)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise UserError(f"{source}: the weight {name!r} does not hold floating-point numbers")
        if not value.isfinite().all():
            raise UserError(f"{source}: the weight {name!r} holds NaN or infinite values; the file is damaged")
        return value

    state: dict[str, Tensor] = {}
    for i in range(model.config.n_layers):
        home = f"model.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = [take(f"{home}.attention.self.{name}.{kind}") for name in ("query", "key", "value")]
            with reading(f"{source} (layer {i})", "a GPN-MSA checkpoint of the shapes of its config.json"):
                state[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
            for own, theirs in _LAYER.items():
                state[f"layers.{i}.{own}.{kind}"] = take(f"{home}.{theirs}.{kind}")
    for own, theirs in _HEAD.items():
        for kind in ("weight", "bias"):
            state[f"head.{own}.{kind}"] = take(f"cls.predictions.{theirs}.{kind}")
    state["head.decoder.weight"] = take("cls.predictions.decoder.weight")
    state["head.decoder.bias"] = take("cls.predictions.bias")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} does not have the shapes of its config.json: {reason}") from None
    if (second := "cls.predictions.decoder.bias") in weights and not take(second).equal(take("cls.predictions.bias")):
        raise UserError(f"{source}: {second!r} differs from 'cls.predictions.bias', whose second name it is")
    if (positions := "model.encoder.embed_positions.weight") in weights:
        _check_positions(take(positions), model.config, source)
    if unused:
        names = ", ".join(sorted(unused)[:3])
        raise UserError(
            f"{source} holds {len(unused)} weights that a model of its config.json has no place for ({names}"
            f"{', …' if len(unused) > 3 else ''}): without them its scores would be another model's"
        )


def _check_positions(found: Tensor, config: ModelConfig, source: str) -> None:
    """Refuse a rotary table that is not the formula: transformers 5 starts new models of gpn with a random one."""
    cosine, sine = rotary_table(len(found), config.n_hidden // config.n_heads)
    expected = torch.cat([sine, cosine], -1)
    if found.shape != expected.shape or not torch.allclose(found.float(), expected, atol=0.01):  # also in bfloat16
        raise UserError(
            f"{source}: its rotary table is not the formula's (gpn under transformers 5 trains with a random one); a "
            "model of such a table is not known here"
        )


def save_model(
    model: AlignmentModel,
    folder: Path,
    species: Sequence[str] | None,
    targets: str = "reference",
    window: int | None = None,
) -> None:
    """Write `config.json` (with the species, the reference first, the objective and the window) and the weights.

    Args:
        model: the network.
        folder: where the two files go.
        species: the reference first; None: the alignment does not name them.
        targets: the objective.
        window: bases of the windows that it was trained on; None: not known.
    """
    config = model.config
    values: dict[str, Any] = {
        "model_type": "GPNRoFormer",
        "architectures": ["GPNRoFormerForMaskedLM"],
        "vocab_size": N_TOKENS,
        "aux_features_vocab_size": N_LETTERS,
        "n_aux_features": N_LETTERS * config.n_species,
        "hidden_size": config.n_hidden,
        "embedding_size": config.n_hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.intermediate,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": NORM_EPS,
        "initializer_range": INIT_STD,
        "max_position_embeddings": MAX_POSITIONS,
        "rotary_value": False,
        "species": None if species is None else list(species),
        "targets": targets,
        "window": window,
    }
    save_tensors(to_published(model), folder / "model.safetensors")
    write_text(folder / "config.json", as_json(values))


class Pretrained:
    """A model read from disk, with the species it knows, a digest of its weights, and the window it was trained on."""

    def __init__(
        self, model: AlignmentModel, species: tuple[str, ...] | None, digest: str, name: str, window: int | None = None
    ) -> None:
        self.model, self.species, self.digest, self.name, self.window = model, species, digest, name, window

    def check_species(self, species: Sequence[str] | None, n_species: int, where: str) -> None:
        """Refuse an alignment that the model does not fit.

        Raises:
            UserError: another number of species, or the same in another order.
        """
        if n_species != self.model.config.n_species:
            raise UserError(
                f"{self.name} was trained on {self.model.config.n_species} species beside the reference, and {where} "
                f"has {n_species}"
            )
        if self.species is None or species is None:
            return
        for i, (theirs, ours) in enumerate(zip(self.species, species, strict=True)):
            if theirs != ours:
                raise UserError(
                    f"{self.name} and {where} have their species in different orders: at column {i} the model has "
                    f"{theirs!r} and the alignment {ours!r}; build the alignment with --species in the model's order"
                )


def load_model(folder: Path) -> Pretrained:
    """Read a model that `pretrain` saved, or a published one.

    Args:
        folder: a run folder (its `model/` is taken), or a folder with `config.json` and `model.safetensors` or
            `pytorch_model.bin`.

    Raises:
        UserError: there is no such model, it is of another kind, or its file holds more than tensors.
    """
    home = folder if (folder / "config.json").exists() or not (folder / "model").is_dir() else folder / "model"
    check_checksums(home)
    if not (home / "config.json").exists():
        hint = "; its pretraining is not finished" if (folder / "config.yaml").exists() else ""
        raise UserError(f"no model at {folder}{hint}: a config.json and model.safetensors are needed")
    values = read_json(home / "config.json")
    config = _config(values, home)
    file = _weights_file(home)
    with reading(home / "config.json", "the description of a GPN-MSA model"):
        species = values.get("species")
        names = None if species is None else tuple(map(str, species))
        model = AlignmentModel(config)
    load_published(model, load_tensors(file), str(file))
    if names is not None and len(names) != config.n_species + 1:
        raise UserError(f"{home / 'config.json'} names {len(names)} species, and its model has {config.n_species + 1}")
    model.origin = Origin(names, values.get("targets", "reference"), values.get("window"))
    digest = digest_of({"weights": file_digest(file), "config": values})
    return Pretrained(model.eval(), names, digest, str(folder), values.get("window"))


def _config(values: dict[str, Any], home: Path) -> ModelConfig:
    kind = values.get("model_type")
    if kind != "GPNRoFormer":
        raise UserError(f"{home} holds a model of type {kind!r}; only GPN-MSA's GPNRoFormer is known here")
    counts = {
        "n_aux_features": None,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    found = {key: values.get(key, default) for key, default in counts.items()}
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 65_536:
            raise UserError(f"{home}/config.json: {key} is {value!r}; a whole number from 1 to 65,536 is needed")
    known = {**_EXPECTED, "embedding_size": found["hidden_size"]}
    for key, expected in known.items():
        if values.get(key, expected) != expected:
            raise UserError(f"{home}/config.json: {key} is {values[key]!r}; only {expected!r} is known here")
    if found["n_aux_features"] % N_LETTERS:
        raise UserError(f"{home}/config.json: n_aux_features is no multiple of {N_LETTERS}, the letters of a species")
    window = values.get("window")
    if window is not None and (isinstance(window, bool) or window not in range(2, MAX_POSITIONS + 1)):
        raise UserError(f"{home}/config.json: window is {window!r}; a whole number from 2 to {MAX_POSITIONS} is needed")
    unknown = {key for key, value in values.items() if value is not None} - _INERT - counts.keys() - known.keys()
    if unknown:
        raise UserError(
            f"{home}/config.json: {', '.join(sorted(unknown))} is not known here, and may change what the model "
            "computes; remove it if it does not"
        )
    dropout = values.get("hidden_dropout_prob", 0.1)
    if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise UserError(f"{home}/config.json: hidden_dropout_prob is {dropout!r}; a number from 0 to 1 is needed")
    n_aux, n_hidden, n_layers, n_heads, intermediate = found.values()
    return ModelConfig(n_aux // N_LETTERS, n_hidden, n_layers, n_heads, intermediate, dropout)


def _weights_file(home: Path) -> Path:
    file = next((home / name for name in ("model.safetensors", "pytorch_model.bin") if (home / name).exists()), None)
    if file is None:
        raise UserError(f"{home} has a config.json but neither model.safetensors nor pytorch_model.bin")
    with file.open("rb") as content:
        if content.read(len(_LFS)) == _LFS:
            raise UserError(f"{file} is a Git LFS pointer and not the weights; fetch them with git lfs pull")
    return file
