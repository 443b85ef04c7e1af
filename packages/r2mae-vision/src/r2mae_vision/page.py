"""`report RUN…`: one HTML page of runs, with what their models fill in."""

import torch

from r2mae_core import Example, Page, Reporter, RunSummary, UserError, png_of, write_page_command
from r2mae_vision.cli import COMMANDS
from r2mae_vision.data.datasets import check_range, sample_images
from r2mae_vision.data.pairs import held_out
from r2mae_vision.data.sources import how_to_open
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mae.plots import plot_reconstructions
from r2mae_vision.mae.reconstruct import NOTES, reconstructions, shown_channels
from r2mae_vision.mae.weights import load_mae

N_IMAGES, RATIOS = 5, (0.5, 0.75, 0.9)


def report_command(config: Page) -> None:
    """Run `r2mae-vision report`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-vision", COMMANDS, RANK_BY, pictures, how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "mae.json").exists():
        return None
    return (
        "from pathlib import Path\n\nfrom r2mae_vision import load_mae\n\n"
        f"model = load_mae(Path({run.path.name!r}))  # wherever the run folder lies\n"
        "encoder = model.encoder  # timm's\n"
    )


@torch.inference_mode()
def pictures(run: RunSummary) -> list[Example]:
    """Return what a pretrained ViT fills in on held-out images; nothing for other runs.

    Raises:
        UserError: the images are not there, or are others; the model is damaged.
    """
    if how_to_load(run) is None:
        return []
    source, part = held_out(str(run.data), how_to_open(dict(run.options)))
    noted = {name: value for name, value in run.sources.items() if name.startswith("held-out data ")}
    if noted != {f"held-out data {name}": value for name, value in source.identity.items()}:
        raise UserError(f"{run.data} holds other images than those that the run was trained with")
    model = load_mae(run.path)
    size, channels = model.shape.size, range(model.shape.in_chans)
    channels = channels if len(channels) in (1, 3) else channels[:1]
    check_range(source, model.shape.pixel_range)
    images = sample_images(source, N_IMAGES, size, model.shape.in_chans)
    level = "visible"
    filled = reconstructions(model, images, RATIOS, level=level)
    shown, filled = shown_channels(images, filled, channels, model.shape.pixel_range is not None)
    figure = plot_reconstructions(shown, RATIOS, filled, None, NOTES[level] if model.shape.norm_pix_loss else "")
    what = "held-out" if part == "validation" else "training (no others are there)"
    caption = f"{len(images)} {what} images, {', '.join(f'{ratio:.0%}' for ratio in RATIOS)} of their patches hidden."
    if len(channels) < model.shape.in_chans:
        caption += f" Of {model.shape.in_chans} channels the first."
    return [Example("What the model fills in", png_of(figure), caption=caption, wide=True)]
