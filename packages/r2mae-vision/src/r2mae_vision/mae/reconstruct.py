"""What the model fills in, and what its features see, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from r2mae_core import (
    RunFolder,
    UserError,
    check_output,
    default_run_path,
    derived_seed,
    one_writer,
    resolve_device,
    save_figure,
    say,
)
from r2mae_vision.data.datasets import check_range, sample_images
from r2mae_vision.data.decoding import UnreadableImageError, decode, pixels, reframed
from r2mae_vision.data.pairs import held_out
from r2mae_vision.data.sources import HowToOpen, data_of
from r2mae_vision.mae.masking import split_patches
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.model_options import Level, Reconstruct
from r2mae_vision.mae.plots import plot_reconstructions
from r2mae_vision.mae.weights import load_mae

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps", ".ps")
NOTES: dict[Level, str] = {
    "visible": "brightness and contrast of each hidden patch: guessed from the visible patches around it",
    "true": "brightness and contrast of each hidden patch: its true ones, which the model was not asked for",
}


def load_pictures(files: Sequence[str], size: int | tuple[int, int], in_chans: int) -> Tensor:
    """Return image files as (B, C, height, width) uint8: the middle of each that has the size's proportions.

    Raises:
        UserError: a file is missing or cannot be decoded.
    """
    pictures = []
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"no image at {file}")
        try:
            pictures.append(pixels(reframed(decode(Path(file), in_chans), size, "crop")))
        except UnreadableImageError as error:
            raise UserError(f"{file} cannot be decoded: {error}") from None
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def reconstructions(
    model: MaskedAutoencoder, images: Tensor, ratios: Sequence[float], seed: int = 0, level: Level = "visible"
) -> list[tuple[Tensor, Tensor]]:
    """Return, for each ratio, (hidden pixels (B, H, W) bool, the model's pictures (B, C, H, W) of 0 … 1).

    Visible patches are the image's own; `level` says where the brightness and contrast of the hidden ones come from. A
    higher ratio hides what a lower one hides, and more.
    """
    normal = model.normalise(images)
    results = []
    for ratio in ratios:
        generator = torch.Generator(images.device).manual_seed(derived_seed(seed, "reconstruct"))
        split = split_patches(len(images), model.n_patches, ratio, generator)
        filled = model.reconstruct(normal, split, level)
        ones = torch.zeros(len(images), model.n_patches, 1, device=images.device).scatter(
            1, split.hidden[:, :, None], 1.0
        )
        hidden = model.unpatchify(ones.expand(-1, -1, model.patch_size**2))[:, 0] > 0
        results.append((hidden, ((filled * model.std + model.mean) / 255).clamp(0, 1)))
    return results


def shown_channels(
    images: Tensor, filled: Sequence[tuple[Tensor, Tensor]], channels: Sequence[int], stretch: bool
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return images (B, c, H, W) of 0 … 255 and what the model fills in, with some of the channels.

    Args:
        images: (B, C, H, W) of 0 … 255.
        filled: see `reconstructions`.
        channels: which ones.
        stretch: each channel from its 2nd to its 98th percentile in the original images, which may use a small part of
            their range; in all pictures alike.
    """
    index = torch.tensor(channels, device=images.device)
    chosen = images.float().index_select(1, index) / 255
    pictures = [(hidden, picture.index_select(1, index)) for hidden, picture in filled]
    if stretch:
        flat = chosen.transpose(0, 1).flatten(1).cpu().numpy()
        low, high = (torch.from_numpy(np.percentile(flat, q, axis=1)).to(chosen).view(-1, 1, 1) for q in (2, 98))
        width = (high - low).clamp_min(1e-6)
        chosen = ((chosen - low) / width).clamp(0, 1)
        pictures = [(hidden, ((picture - low) / width).clamp(0, 1)) for hidden, picture in pictures]
    return chosen * 255, pictures


def _channels_to_show(asked: Sequence[int] | None, in_chans: int) -> Sequence[int]:
    """Return which channels are shown.

    Raises:
        UserError: it must be said which, or there is no such channel.
    """
    if asked is None:
        if in_chans not in (1, 3):
            raise UserError(f"the model reads {in_chans} channels; name one or three to show, such as --channels '[0]'")
        return range(in_chans)
    if max(asked) >= in_chans:
        raise UserError(f"--channels {max(asked)}: the model reads {in_chans} channels, 0 to {in_chans - 1}")
    return asked


@torch.no_grad()
def feature_colours(model: MaskedAutoencoder, images: Tensor) -> Tensor:
    """Return the patches' features as colours, (B, 3, rows, columns) of 0 … 1.

    The first three principal components over all patches of all images, each stretched from its 2nd to its 98th
    percentile.
    """
    every = torch.arange(model.n_patches, device=images.device).expand(len(images), -1)
    tokens = model.encode(model.patchify(model.normalise(images)), every)[:, model.encoder.num_prefix_tokens :]
    flat = tokens.flatten(0, 1).cpu().double()  # not every GPU has float64
    flat = flat - flat.mean(0)
    _, vectors = torch.linalg.eigh(flat.T @ flat)
    parts = flat @ vectors[:, -3:].flip(1)
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    scaled = ((parts - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
    return scaled.view(len(images), *model.grid, 3).permute(0, 3, 1, 2)


def reconstruct(config: Reconstruct) -> Path:
    """Draw the picture that the config describes and return its path.

    Raises:
        UserError: the run is not finished, an image cannot be read, or a ratio is out of range.
    """
    for ratio in config.ratios:
        if not 0 < ratio < 1:
            raise UserError(f"a ratio must lie between 0 and 1, got {ratio:g}")
    target = config.out or default_run_path("r2mae-vision", "reconstruct").with_suffix(".png")
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"{target}: the picture's suffix must be one of {', '.join(FORMATS)}")
    check_output(target, config.images, overwrite=config.overwrite)
    device = resolve_device(config.device)
    model = load_mae(config.run).to(device)
    size, in_chans = model.shape.size, model.shape.in_chans
    channels = _channels_to_show(config.channels, in_chans)
    numbers = model.shape.pixel_range is not None
    if config.images and numbers:
        raise UserError("--images reads pictures; this model was trained on numbers of files: leave it out")
    if config.images:
        images = load_pictures(config.images, size, in_chans)
    else:
        source = held_out(*_data_of(config.run))[0]
        check_range(source, model.shape.pixel_range)
        images = sample_images(source, config.n_images, size, in_chans)
    images = images.to(device)
    filled = reconstructions(model, images, config.ratios, config.seed, config.level)
    colours = feature_colours(model, images) if config.features else None
    note = NOTES[config.level] if model.shape.norm_pix_loss else ""
    images, filled = shown_channels(images, filled, channels, numbers)
    if numbers:
        shown = ", ".join(map(str, channels))
        note = "\n".join(filter(None, (note, f"channels {shown}, each from its 2nd to its 98th percentile")))
    figure = plot_reconstructions(images, config.ratios, filled, colours, note)
    with one_writer(target, folder=False):
        return save_figure(figure, target)


def _data_of(run: Path) -> tuple[str, HowToOpen]:
    """Return the data that a run was trained on, and how it is opened."""
    stated = data_of(RunFolder.open(run).config) if (run / "config.yaml").exists() else {}
    if not stated:
        raise UserError(f"{run} does not state what it was trained on; name image files with --images")
    return stated["data"], stated["how"]


def reconstruct_command(config: Reconstruct) -> None:
    """`r2mae-vision reconstruct`."""
    say(f"Figure: {reconstruct(config)}")
