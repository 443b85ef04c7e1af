"""`r2mae-vision export`: a run's model in timm's and transformers' layouts."""

from r2mae_core import UserError
from r2mae_core.commands import say
from r2mae_vision.checkpoints import export_timm, export_transformers, load_mae
from r2mae_vision.options import Export


def export_command(config: Export) -> None:
    """Write both layouts and say how to load them."""
    model = load_mae(config.run)
    shape = model.shape
    file = export_timm(model, config.to / "timm.safetensors")
    arguments = {"img_size": shape.image_size, "in_chans": shape.in_chans, **shape.model_args}
    if shape.patch_size is not None:
        arguments["patch_size"] = shape.patch_size
    words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    say(f"timm.create_model({shape.model!r}, {words}, num_classes=0, checkpoint_path={str(file)!r})")
    try:
        folder = export_transformers(model, config.to / "transformers")
    except UserError as error:
        say(f"Left out: {error}")
        return
    say(f"transformers.ViTMAEForPreTraining.from_pretrained({str(folder)!r})")
