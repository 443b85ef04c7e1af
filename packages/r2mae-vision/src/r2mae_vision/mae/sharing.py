"""The folder of a ViT on the hub: timm's, with transformers' ViTMAE and the whole model in it."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from r2mae_core import CardFacts, read_json, read_yaml, write_checksums
from r2mae_vision.mae import timm_folder
from r2mae_vision.mae.layouts import UnfitError
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.shape import MAEShape
from r2mae_vision.mae.timm_folder import export_timm
from r2mae_vision.mae.transformers_folder import export_transformers, vitmae_state
from r2mae_vision.mae.weights import load_mae, save_mae

OURS, TRANSFORMERS = "mae", "transformers"
"""Subfolders: the whole masked autoencoder, and transformers' ViTMAE."""
_TIMM = """\
import timm

{model} = timm.create_model("hf-hub:{{name}}", pretrained=True)
"""
_VITMAE = """\
from transformers import ViTMAEForPreTraining

model = ViTMAEForPreTraining.from_pretrained("{name}", subfolder="transformers")
"""
_OURS = """\
from r2mae_vision import MaskedAutoencoder

model = MaskedAutoencoder.from_pretrained("{name}")
"""


def write_model(run: Path, folder: Path) -> CardFacts:
    """Write the model of a finished run into a folder, and say what it is.

    Raises:
        UserError: the run has no finished model of a ViT, or several, or it is damaged.
    """
    tuned = timm_folder.find(run) if run.is_dir() else None
    if tuned is None:
        model = load_mae(run)
        write_hub_folder(model, folder)
        return replace(card_facts(model), datasets=_datasets(run))
    timm_folder.read_state(tuned)  # whole and undamaged
    for name in (timm_folder.CONFIG, timm_folder.WEIGHTS):
        shutil.copyfile(tuned / name, folder / name)
    return replace(_of_classifier(tuned), datasets=_datasets(run))


def _datasets(run: Path) -> tuple[str, ...]:
    """Return the name on the hub of a run's data, if it was read from there."""
    data = str(read_yaml(run / "config.yaml").get("data") or "") if (run / "config.yaml").exists() else ""
    name = re.fullmatch(r"hfds/((?:[\w.-]+/)?[\w.-]+)", data)
    return () if name is None else (name[1],)


def write_hub_folder(model: MaskedAutoencoder, folder: Path) -> None:
    """Write timm's folder of the encoder, with the whole model in `mae/` and, where it fits, `transformers/`."""
    export_timm(model, folder / timm_folder.WEIGHTS)
    timm_folder.write_config(folder, model.shape, model.encoder, crop_pct=0.875)  # MAE's: the middle 224 of 256
    (folder / OURS).mkdir()
    save_mae(model, folder / OURS)
    write_checksums(folder / OURS)
    if _why_no_vitmae(model) is None:
        (folder / TRANSFORMERS).mkdir()
        export_transformers(model, folder / TRANSFORMERS)


def card_facts(model: MaskedAutoencoder) -> CardFacts:
    """Return what a card says of a masked autoencoder."""
    shape, why_not = model.shape, _why_no_vitmae(model)
    code = {"timm (the encoder)": _TIMM.format(model="encoder"), "transformers": _VITMAE, "r2mae-vision": _OURS}
    if why_not:
        del code["transformers"]
    limits = ["Its features are of no use without a probe or fine-tuning; it has no classes."]
    if why_not:
        limits.append(f"There is no folder for transformers: {why_not}.")
    if shape.norm_eps not in (None, 1e-6):
        limits.append(f"Its layer norms' epsilon is {shape.norm_eps:g}, which timm's folder cannot state: 1e-6 there.")
    return CardFacts(
        what="A masked autoencoder of images: a vision transformer that fills in hidden patches.",
        library="timm",
        code=code,
        task="image-feature-extraction",
        tags=("vision", "mae", "self-supervised"),
        details={
            **_of_shape(shape),
            "parameters of the encoder": f"{_size(model.encoder):,}",
            "decoder": f"depth {shape.decoder_depth}, width {shape.decoder_dim}",
            "patches": f"{model.n_patches} of {model.patch_size} × {model.patch_size} pixels",
        },
        limits=(*limits, *_of_images(shape)),
    )


def _of_classifier(folder: Path) -> CardFacts:
    stated, shape = read_json(folder / timm_folder.CONFIG), timm_folder.read_shape(folder)
    classes, several = [str(name) for name in stated.get("label_names", ())], stated.get("multi_label") is True
    what = "tells which of its classes images have, one or several," if several else "classifies images,"
    limit = "Each of its answers is for a sigmoid: the probability of a class, whatever the others are."
    return CardFacts(
        what=f"A vision transformer that {what} fine-tuned after masked pretraining.",
        library="timm",
        code={"timm": _TIMM.format(model="model")},
        task="image-classification",
        tags=("vision", "mae"),
        details={
            **_of_shape(shape),
            "classes": ", ".join(classes) if 0 < len(classes) <= 50 else f"{stated['num_classes']:,}",
            "head reads": "the mean over patches" if stated.get("global_pool") == "avg" else "the class token",
        },
        limits=(
            limit if several else "It answers with one of its classes, whatever is in the picture.",
            *_of_images(shape),
        ),
    )


def _of_shape(shape: MAEShape) -> Mapping[str, str]:
    height, width = shape.size
    return {"encoder": shape.model, "images": f"{height} × {width}, channels: {shape.in_chans}"}


def _of_images(shape: MAEShape) -> tuple[str, ...]:
    low, high = shape.pixel_range or (0, 255)
    scale = f"mean {list(shape.mean)} and deviation {list(shape.std)} of values that {low:g} … {high:g} make 0 … 1"
    return (f"Its inputs are normalised by {scale}; other scales give other features.",)


def _why_no_vitmae(model: MaskedAutoencoder) -> str | None:
    """Return why transformers' ViTMAE cannot hold a model; None: it can."""
    try:
        vitmae_state(model)
    except UnfitError as error:
        return str(error).rstrip(".")
    return None


def _size(module: object) -> int:
    return sum(parameter.numel() for parameter in module.parameters())  # pyright: ignore[reportAttributeAccessIssue]
