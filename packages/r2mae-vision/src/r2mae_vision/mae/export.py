"""`r2mae-vision export`: a run's model in timm's and transformers' layouts."""

from pathlib import Path

from r2mae_core import UserError, default_run_path, say
from r2mae_vision.mae.options import Export
from r2mae_vision.mae.shape import MAEShape
from r2mae_vision.mae.weights import export_timm, export_transformers, load_mae


def export(config: Export) -> Path:
    """Write `timm.safetensors` and, where ViTMAE can hold the model, `transformers/`; print how to load them.

    Returns:
        the folder.

    Raises:
        UserError: there is no finished model.
    """
    model, out = load_mae(config.run), config.out or default_run_path("r2mae-vision", "export")
    say(timm_call(model.shape, export_timm(model, out / "timm.safetensors")))
    try:
        folder = export_transformers(model, out / "transformers")
    except UserError as error:
        say(f"No folder for transformers: {error}")
    else:
        say(f"transformers.ViTMAEForPreTraining.from_pretrained({str(folder)!r})")
    return out


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
