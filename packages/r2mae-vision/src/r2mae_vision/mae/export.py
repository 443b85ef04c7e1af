"""`r2mae-vision export`: a run's model in timm's and transformers' layouts."""

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
from r2mae_vision.mae.layouts import UnfitError
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.options import Export
from r2mae_vision.mae.shape import MAEShape
from r2mae_vision.mae.weights import export_timm, export_transformers, identity_of_weights, load_mae

INDEX = "export.json"
"""The file by which a folder is known as one of ours; it says which model is in it."""


def export(config: Export) -> Path:
    """Write `timm.safetensors` and, where ViTMAE can hold the model, `transformers/`; print how to load them.

    Returns:
        the folder.

    Raises:
        UserError: there is no finished model, or the folder holds something else.
    """
    out = config.out or default_run_path("r2mae-vision", "export")
    check_output(out, [config.run])
    model = load_mae(config.run)
    made_of = {"model": identity_of_weights(model.state_dict())}
    with one_writer(out, folder=False):
        if _is_there(out, made_of, config.overwrite):
            say(f"{out}: there already")
            why_not = str(read_json(out / INDEX).get("no_transformers") or "")
        else:
            with whole_folder(out) as folder:
                export_timm(model, folder / "timm.safetensors")
                why_not = _export_transformers(model, folder / "transformers")
                write_json(folder / INDEX, {**made_of, "no_transformers": why_not})
                write_checksums(folder)
    say(timm_call(model.shape, out / "timm.safetensors"))
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


def timm_call(shape: MAEShape, file: Path) -> str:
    """Return the line of Python that loads an encoder's weights."""
    arguments = {"img_size": shape.image_size, "in_chans": shape.in_chans, **shape.model_args}
    if shape.patch_size is not None:
        arguments["patch_size"] = shape.patch_size
    words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"timm.create_model({shape.model!r}, {words}, num_classes=0, checkpoint_path={str(file)!r})"


def export_command(config: Export) -> None:
    """`r2mae-vision export`."""
    say(f"Done: {export(config)}")
