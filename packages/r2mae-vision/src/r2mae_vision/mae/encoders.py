"""Any ViT as an encoder: a run, a file or folder of weights, a timm model, or a newly initialised one."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from r2mae_core import RunFolder, UserError, derived_seed, run_identity, unfinished
from r2mae_vision.data.sources import AS_IT_IS, HowToOpen, data_of
from r2mae_vision.mae import timm_folder
from r2mae_vision.mae.fitting import fitting, refuse_lost
from r2mae_vision.mae.layouts import to_ours
from r2mae_vision.mae.positions import fit_encoder_positions, grid_of
from r2mae_vision.mae.shape import IMAGENET_MEAN, IMAGENET_STD, MAEShape, create_encoder, set_norm_eps
from r2mae_vision.mae.stated import check_stated, stated_eps, stated_size, with_processor
from r2mae_vision.mae.weights import identity_of_weights, load_mae, only_encoder, read_weights, weights_files


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder, and how its images are normalised."""

    shape: MAEShape
    weights: dict[str, torch.Tensor] | None
    """Under timm's names; None: newly initialised."""
    scheme: str
    """What the model is called in tables."""
    data: str | None = None
    """The data of its pretraining, if a run folder states it."""
    how: HowToOpen = AS_IT_IS
    """How that data is opened."""
    seed: int = 0
    """The seed of its pretraining, if a run folder states it."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the patches that the weights have positions for, as far as a file states them."""

    @property
    def averaged(self) -> bool:
        """Whether the weights were fine-tuned on the mean over patches, which then has a norm of its own."""
        return self.weights is not None and "fc_norm.weight" in self.weights and "norm.weight" not in self.weights

    @cached_property
    def identity(self) -> dict[str, str]:
        """What names this model: its weights, not their place."""
        if self.weights is None:
            return {"model": f"{self.shape.model}, newly initialised"}
        return {"model": f"{self.shape.model}, {len(self.weights)} tensors, {identity_of_weights(self.weights)}"}


def open_encoder(
    name: str,
    timm_model: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> EncoderSpec:
    """Resolve what a user gave as a model.

    Args:
        name: run folder of pretrain or finetune, export, file of weights, folder of transformers or timm, timm's name
            (its published weights are fetched), or "scratch:NAME" with any of these for the same architecture, newly
            initialised.
        timm_model: with weights in a file: which VisionTransformer of timm it is.
        image_size: side of the images, or height and width; default the model's own. Positions are resampled.
        mean: of the pixels, in [0, 1]; default the model's own; of weights in a file ImageNet's.
        std: as mean.

    Raises:
        UserError: there is no such model, or its weights do not fit.
    """
    if name.startswith("scratch:"):
        spec = replace(
            open_encoder_shape(name.removeprefix("scratch:"), timm_model), weights=None, scheme="no pretraining"
        )
    else:
        spec = open_encoder_shape(name, timm_model, weights=True)
    return replace(spec, shape=_changed(spec.shape, image_size, mean, std))


def open_encoder_shape(name: str, timm_model: str | None, weights: bool = False) -> EncoderSpec:
    """Return the encoder's own shape, with its weights if they are wanted."""
    place = Path(name)
    if (place / "mae.json").exists() or (place / "model" / "mae.json").exists():
        model = load_mae(place)
        return EncoderSpec(model.shape, dict(model.encoder.state_dict()), **_named(place), grid=model.grid)
    folder = timm_folder.find(place) if place.is_dir() else None
    if folder is not None:
        shape = timm_folder.read_shape(folder)
        encoder = only_encoder(to_ours(timm_folder.read_state(folder), folder))
        return EncoderSpec(shape, encoder, **timm_folder.named(folder), grid=grid_of(shape.size, encoder))
    if is_mlp(place):
        raise UserError(f"{place} holds the MLP of figure 2A, which only probe evaluates; a ViT is needed here")
    if place.is_dir() and not all(file.exists() for file in weights_files(place)):
        raise unfinished(place)
    if place.exists():
        if timm_model is None:
            raise UserError(
                f"{place}: name the VisionTransformer of timm that it is, with --timm_model vit_base_patch16_224"
            )
        encoder = only_encoder(to_ours(read_weights(place), place))
        size = stated_size(place)
        # MAE's published weights want ImageNet's normalisation, whatever timm's own weights of that name want.
        shape = replace(_timm_shape(timm_model), mean=IMAGENET_MEAN, std=IMAGENET_STD, norm_eps=stated_eps(place))
        grid = None if size is None else grid_of(size, encoder)
        with torch.device("meta"):
            check_stated(place, create_encoder(shape), shape, decoder=False)
        return EncoderSpec(with_processor(shape, place), encoder, place.stem, grid=grid)
    if place.suffix or "/" in name:
        raise UserError(f"no model at {name}")
    shape, fetched = _timm_shape(name), _fetched(name) if weights else None
    return EncoderSpec(shape, fetched, name, grid=None if fetched is None else grid_of(shape.size, fetched))


def model_arguments(spec: EncoderSpec) -> dict[str, Any]:
    """Return what `timm.create_model` needs beside the name."""
    shape = spec.shape
    arguments: dict[str, Any] = {"img_size": shape.size, "in_chans": shape.in_chans, **shape.model_args}
    return arguments if shape.patch_size is None else {**arguments, "patch_size": shape.patch_size}


def build_encoder(spec: EncoderSpec, seed: int, **arguments: Any) -> Any:
    """Return timm's model with the weights in it and its head, if it has one, newly initialised.

    Args:
        spec: what `open_encoder` returned.
        seed: for all that is newly initialised.
        **arguments: of timm's model, such as num_classes, global_pool and drop_path_rate.

    Raises:
        UserError: a tensor is of another size, or the weights lack a layer.
    """
    import timm

    shape, settings = spec.shape, {**model_arguments(spec), **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "init") % 2**63)
        plain = create_encoder(shape)  # refuses what is not a ViT of timm
        try:
            model: Any = timm.create_model(shape.model, **settings)
        except Exception as error:  # such as a class token asked of a model that has none
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"timm cannot build {shape.model} with {arguments}: {reason}") from None
        set_norm_eps(model, shape.norm_eps)
    own = model.state_dict()
    state = spec.weights
    if state is None:
        model.pos_embed.data.copy_(plain.pos_embed.data)
        return model
    place, named_own = f"the weights of {spec.scheme}", {f"encoder.{key}": value for key, value in own.items()}
    if spec.averaged and "fc_norm.weight" not in own:
        raise UserError(
            f"{spec.scheme} was fine-tuned on the mean over patches, which has a norm of its own; use --pool avg"
        )
    named = {f"encoder.{key}": value for key, value in state.items() if not key.startswith("head.")}
    refuse_lost(named, named_own, place)
    if "pos_embed" in state:
        named = fit_encoder_positions(named, model, place, "encoder.", spec.grid)
    kept = fitting(named, named_own, place)
    kept = {key.removeprefix("encoder."): value for key, value in kept.items()}
    model.load_state_dict({**own, **kept})
    return model


def _changed(
    shape: MAEShape,
    image_size: int | tuple[int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> MAEShape:
    changes: dict[str, Any] = {"image_size": image_size, "mean": mean, "std": std}
    shape = replace(shape, **{name: value for name, value in changes.items() if value is not None})
    if not len(shape.mean) == len(shape.std) == shape.in_chans:
        raise UserError(f"mean {shape.mean} and std {shape.std} do not fit {shape.in_chans} channels")
    return shape


def is_mlp(place: Path) -> bool:
    """Return whether a folder is a run of `pretrain-mlp`."""
    return (place / "config.yaml").is_file() and "n_hidden" in RunFolder.open(place).config


def _named(place: Path) -> dict[str, Any]:
    """Return scheme, data, seed, and how the data is opened, of a run folder."""
    if not (place / "config.yaml").exists():
        return {"scheme": place.name}
    scheme, seed = run_identity(place, "vision")
    return {"scheme": scheme, "seed": seed, **data_of(RunFolder.open(place).config)}


def _timm_shape(name: str) -> MAEShape:
    import timm

    if not timm.is_model(name):
        raise UserError(f"{name!r} is neither a folder nor a file nor a model of timm")
    try:
        settings = timm.get_pretrained_cfg(name)
    except Exception as error:  # an unknown tag after the dot
        raise UserError(f"timm does not know {name}: {' '.join(str(error).split())}") from None
    if settings is None:
        return MAEShape(name)
    size = settings.input_size[1], settings.input_size[2]
    return MAEShape(name, size, mean=tuple(settings.mean or IMAGENET_MEAN), std=tuple(settings.std or IMAGENET_STD))


def _fetched(name: str) -> dict[str, torch.Tensor]:
    """Return the weights that timm publishes for a model."""
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # no weights, no network: many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"timm could not get the weights of {name} ({reason}); give a file with "
            f"--timm_model {name}, or scratch:{name}"
        ) from None
