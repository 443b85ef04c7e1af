"""The paper's CelebA figures as a grid of models, and `reproduce-celeba` (figures 2B and 5 to 7; C.4).

The captions of figures 5 to 7 are lost; the text says that they show the linear probing of the three model sizes. Taken
here: figure 5 is 8, figure 6 is 16, figure 7 is 32 base channels, each over the mask ratio.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from r2mae_core import (
    RatioSampler,
    Record,
    RunFolder,
    UserError,
    cell_name,
    check_output,
    compare,
    device_name,
    open_run,
    page_line,
    precision,
    resolve_device,
    resolved,
    sampler_to_config,
    say,
    seconds_of,
    show_table,
    walk_grid,
    with_seed,
)
from r2mae_vision.celeba.data import CelebA
from r2mae_vision.celeba.evaluate import evaluate_unet
from r2mae_vision.celeba.model import UNet, check_side, pixel_mask, scale
from r2mae_vision.celeba.options import ReproduceCeleba
from r2mae_vision.celeba.plots import plot_fig2b, plot_probe
from r2mae_vision.celeba.prepare import prepare_celeba
from r2mae_vision.celeba.pretrain import pretrain_unet
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.grid import fixed_ratio, grid_samplers

LR, EPOCHS = 1e-3, 10  # C.4
N_TRAIN, N_TEST = 162_770, 19_962  # the official split
PAPER_OPTIMA = {8: 0.6, 16: 0.7, 32: 0.8}  # base channels → optimal mask ratio (section 3.5)
PROBE_FIGURES = {"fig5": 0, "fig6": 1, "fig7": 2}  # which of --base_channels
# Metrics and titles of the printed tables: of figure 2B, and of the probe's figures.
SHOWN = (
    (("reconstruction_mse",), "Error on uncorrupted test images"),
    (("attribute_accuracy", "balanced_accuracy", "majority_accuracy"), "Attribute probe"),
)
# What a model depends on, beside its own.
OF_CELL = ("side", "crop", "output", "dropout", "batch_size", "precision", "epochs")


@dataclass(frozen=True)
class Cell:
    """One model of the grid."""

    base_channels: int
    scheme: str
    sampler: RatioSampler
    seed: int

    @property
    def name(self) -> str:
        """The cell's folder."""
        return cell_name(self.base_channels, self.scheme, self.seed)

    @property
    def task(self) -> str:
        """Name of the task in records."""
        return f"celeba-{self.base_channels}"


def reproduce(config: ReproduceCeleba) -> RunFolder | None:
    """Train and evaluate what is missing of the grid, draw the figure, and return the run folder (None: a dry run).

    Raises:
        UserError: no data, or lists, images or settings that do not fit.
    """
    device = resolve_device(config.device)
    check_side(config.side)
    grid = cells(config)
    if not grid:
        raise UserError("the grid is empty: give at least one of --ratios and --ranges, and of --seeds")
    if config.dry_run:
        _dry_run(config, grid, device)
        return None
    if config.out is not None:
        check_output(config.out, [config.data, config.cache])
    store = _open(config)
    say(store.summary())
    settings = {**resolved(config), "precision": precision(config.precision, device)}
    # The four figures share their models, and a grid may grow.
    grid_only = ("target", "data", "cache", "base_channels", "ratios", "ranges", "seeds")
    with open_run(
        "r2mae-vision", "reproduce-celeba", config.out, settings, sources=store.identity, free=grid_only, shared=True
    ) as run:
        say(f"{len(grid)} models of {config.epochs} epochs on {device_name(device)}")
        work = {cell.name: partial(_evaluated, cell, store, run, device, config.progress) for cell in grid}
        records = walk_grid(run, work)
        summary = [record for record in records if "/" not in record.task]
        metrics, title = SHOWN[config.target in PROBE_FIGURES]
        shown = [record for record in summary if record.metric in metrics]
        show_table(run, shown, RANK_BY, title, config.target)
        if config.target == "fig2b":
            _report_optima(summary)
        figure = plot_fig2b(summary, PAPER_OPTIMA) if config.target == "fig2b" else plot_probe(records, config.target)
        say(f"Figure: {run.save_figure(f'{config.target}.png', figure)}")
        say(f"Done: {run.path} (results.json, {config.target}.md)")
        say(page_line("r2mae-vision", run.path))
        return run


def cells(config: ReproduceCeleba) -> list[Cell]:
    """Return the grid of a figure, the cheap models first: channels × (fixed ratios + ranges) × seeds.

    Raises:
        UserError: a probe's figure shows a size that `--base_channels` does not have.
    """
    channels = sorted(config.base_channels)
    if config.target in PROBE_FIGURES:
        place = PROBE_FIGURES[config.target]
        if place >= len(channels):
            raise UserError(f"{config.target} shows size {place + 1} of --base_channels, which has {len(channels)}")
        channels = [channels[place]]
    samplers = grid_samplers(config.ratios, config.ranges).items()
    return [
        Cell(c, name, with_seed(sampler, seed), seed)
        for c in channels
        for seed in config.seeds
        for name, sampler in samplers
    ]


def optima(records: list[Record], metric: str = "reconstruction_mse") -> dict[int, float]:
    """Return base channels → the fixed ratio with the smallest mean of a metric."""
    table = compare([record for record in records if record.metric == metric])
    best: dict[int, tuple[float, float]] = {}
    for (scheme, task, _), cell in table.cells.items():
        ratio, channels = fixed_ratio(scheme), int(task.rsplit("-", 1)[1])
        if ratio is not None:
            best[channels] = min(best.get(channels, (float("inf"), 0.0)), (cell.mean, ratio))
    return {channels: ratio for channels, (_, ratio) in sorted(best.items())}


def _report_optima(records: list[Record]) -> None:
    for channels, ratio in optima(records).items():
        paper = PAPER_OPTIMA.get(channels)
        beside = f" (paper: {paper:g})" if paper is not None else ""
        say(f"Smallest reconstruction error with {channels} base channels at ratio {ratio:g}{beside}")


def _open(config: ReproduceCeleba) -> CelebA:
    if config.data is None:
        raise UserError(
            f"{config.target} needs --data DIR, a folder with img_align_celeba, list_attr_celeba.txt and "
            "list_eval_partition.txt (or Kaggle's .csv)"
        )
    cache = config.cache or Path("runs") / f"celeba-{config.side}-{config.crop}"
    return prepare_celeba(
        config.data, cache, side=config.side, crop=config.crop, workers=config.workers, progress=config.progress
    )


def _evaluated(cell: Cell, store: CelebA, run: RunFolder, device: str, progress: bool, home: Path) -> list[Record]:
    """Train one model in its folder and return its records."""
    start, shared = time.perf_counter(), {key: run.config[key] for key in OF_CELL}
    own = {"base_channels": cell.base_channels, "mask_ratio": sampler_to_config(cell.sampler), "seed": cell.seed}
    folder = RunFolder(home / "pretrain", {**shared, **own}, sources=store.identity)
    model = pretrain_unet(
        store,
        cell.sampler,
        folder,
        base_channels=cell.base_channels,
        output=shared["output"],
        epochs=shared["epochs"],
        batch_size=shared["batch_size"],
        lr=LR,
        device=device,
        seed=cell.seed,
        precision=shared["precision"],
        progress=progress,
    )
    return evaluate_unet(
        model,
        store,
        cell.scheme,
        task=cell.task,
        seed=cell.seed,
        epochs=shared["epochs"],
        batch_size=shared["batch_size"],
        lr=LR,
        dropout=shared["dropout"],
        pretrain_seconds=time.perf_counter() - start,
    )


def _dry_run(config: ReproduceCeleba, grid: list[Cell], device: str) -> None:
    """Print the grid, and what it would cost by the time of a few steps on simulated images."""
    steps = N_TRAIN // config.batch_size * config.epochs
    schemes = dict.fromkeys(cell.scheme for cell in grid)
    say(f"Models per size: {', '.join(schemes)}; seeds {', '.join(map(str, config.seeds))}")
    total = 0.0
    for channels in dict.fromkeys(cell.base_channels for cell in grid):
        n = sum(cell.base_channels == channels for cell in grid)
        train, forward = _seconds_per_image(config, channels, device)
        one = train * steps * config.batch_size + forward * (N_TRAIN + 5 * N_TEST)
        total += n * one
        say(f"  {channels} base channels: {n} models, about {one / 60:.1f} min each")
    say(
        f"About {total / 3600:.1f} h on {device_name(device)} for the {N_TRAIN:,} training images of CelebA, "
        f"precision {precision(config.precision, device)}, beside decoding them once."
    )


def _seconds_per_image(config: ReproduceCeleba, base_channels: int, device: str) -> tuple[float, float]:
    """Return the seconds per image of a training step and of a forward pass, each the best of three."""
    n = config.batch_size if device == "cuda" else min(config.batch_size, 16)
    number_format = precision(config.precision, device)
    model = UNet(base_channels, output=config.output).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    generator = torch.Generator(device).manual_seed(0)
    batch = torch.randint(0, 256, (n, config.side, config.side, 3), dtype=torch.uint8, device=device)

    def step() -> None:
        images = scale(batch)
        with torch.autocast(device, torch.bfloat16, enabled=number_format.startswith("bf16")):
            loss = model.masked_error(images, pixel_mask(images, 0.5, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            model(scale(batch))

    return seconds_of(step, device) / n, seconds_of(forward, device) / n
