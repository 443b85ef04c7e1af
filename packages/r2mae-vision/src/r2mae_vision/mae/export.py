"""`r2mae-vision export`: a run's model in timm's and transformers' layouts."""

import shutil
from pathlib import Path

from r2mae_core import (
    UserError,
    check_checksums,
    check_output,
    default_run_path,
    one_writer,
    read_json,
    say,
    whole_folder,
    write_checksums,
    write_json,
)
from r2mae_vision.mae import timm_folder
from r2mae_vision.mae.layouts import UnfitError
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.model_options import Export
from r2mae_vision.mae.timm_folder import export_timm
from r2mae_vision.mae.transformers_folder import export_transformers
from r2mae_vision.mae.weights import identity_of_weights, load_mae

INDEX = "export.json"
"""The file by which a folder is known as one of ours; it says which model is in it."""


def export(config: Export) -> Path:
    """Write `timm/` and, where ViTMAE can hold the model, `transformers/`; print how to load them.

    Of a fine-tuned run `timm/` holds the model with its head and class names, and there is no `transformers/`.

    Returns:
        the folder.

    Raises:
        UserError: there is no finished model, or the folder holds something else.
    """
    out = config.out or default_run_path("r2mae-vision", "export")
    check_output(out, [config.run])
    tuned = timm_folder.find(config.run) if config.run.is_dir() else None
    model = load_mae(config.run) if tuned is None else None
    state = timm_folder.read_state(tuned) if model is None else model.state_dict()  # pyright: ignore[reportArgumentType]
    made_of = {"model": identity_of_weights(state)}
    with one_writer(out, folder=False):
        if _is_there(out, made_of, config.overwrite):
            say(f"{out}: there already")
            why_not = str(read_json(out / INDEX).get("no_transformers") or "")
        else:
            with whole_folder(out) as folder:
                if model is None:
                    why_not = "ViTMAE has no head"
                    _copy(tuned, folder / "timm")  # pyright: ignore[reportArgumentType]
                else:
                    (folder / "timm").mkdir()
                    export_timm(model, folder / "timm" / "model.safetensors")
                    # MAE's evaluation: the middle 224 of 256 pixels.
                    timm_folder.write_config(folder / "timm", model.shape, model.encoder, crop_pct=0.875)
                    why_not = _export_transformers(model, folder / "transformers")
                write_json(folder / INDEX, {**made_of, "no_transformers": why_not})
                write_checksums(folder)
    say(f"timm.create_model({'local-dir:' + str(out / 'timm')!r}, pretrained=True)")
    if model is not None and model.shape.norm_eps not in (None, 1e-6):
        say(f"Its layer norms have the epsilon {model.shape.norm_eps:g}, which timm's folder cannot state: 1e-6 there")
    if why_not:
        say(f"No folder for transformers: {why_not}")
    else:
        say(f"transformers.ViTMAEForPreTraining.from_pretrained({str(out / 'transformers')!r})")
    return out


def _is_there(out: Path, made_of: dict[str, str], overwrite: bool) -> bool:
    """Return whether a folder holds this very export.

    Raises:
        UserError: it holds other files, or, without `overwrite`, the export of another model or a damaged one.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / INDEX).is_file():
        raise UserError(f"{out} is there already and was not written by export; name another folder with --out")
    if overwrite:
        return False
    if read_json(out / INDEX).get("model") != made_of["model"]:
        raise UserError(f"{out} holds the export of another model; give --overwrite to replace it, or another --out")
    try:
        check_checksums(out)
    except UserError as error:
        raise UserError(f"{error}; or give --overwrite to write it again") from None
    return True


def _export_transformers(model: MaskedAutoencoder, folder: Path) -> str:
    """Write transformers' folder, or return why it cannot hold the model."""
    try:
        export_transformers(model, folder)
    except UnfitError as error:
        return str(error)
    return ""


def _copy(tuned: Path, folder: Path) -> None:
    """Copy a fine-tuned model."""
    folder.mkdir()
    for name in (timm_folder.CONFIG, "model.safetensors"):
        shutil.copyfile(tuned / name, folder / name)


def export_command(config: Export) -> None:
    """`r2mae-vision export`."""
    say(f"Done: {export(config)}")
