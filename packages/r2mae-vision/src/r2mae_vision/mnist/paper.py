"""The paper's MNIST figures as a grid of experiments, and `reproduce-mnist` (paper, figures 2A, 2D; C.3)."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    cell_name,
    check_output,
    device_name,
    nested_masks,
    open_run,
    page_line,
    resolve_device,
    resolved,
    say,
    seconds_of,
    show_table,
    walk_grid,
    with_seed,
)
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.grid import grid_samplers
from r2mae_vision.mnist.data import ImageData, load_digits_or_mnist
from r2mae_vision.mnist.evaluate import evaluate_members
from r2mae_vision.mnist.model import MLPAutoencoder
from r2mae_vision.mnist.options import ReproduceMNIST
from r2mae_vision.mnist.plots import plot_fig2
from r2mae_vision.mnist.pretrain import Member, pretrain_members

BATCH_SIZE, LR = 128, 3e-3  # C.3
# What the models of one shape depend on.
OF_CELL = ("data", "ratios", "ranges", "seeds", "epochs")
# Target → the metric in the records, what is drawn of it, its label and the title.
FIGURES = {
    "fig2a": ("probe_accuracy", "probe_error", "linear-probe error rate", "Figure 2A: probe error over the mask ratio"),
    "fig2d": (
        "effective_rank",
        "relative_rank",
        "effective rank / width of the embedding",
        "Figure 2D: effective rank over the mask ratio",
    ),
}


def reproduce(config: ReproduceMNIST) -> RunFolder | None:
    """Train and evaluate what is missing of the grid, draw the figure, and return the run folder (None: a dry run)."""
    device = resolve_device(config.device)
    if config.dry_run:
        _dry_run(config, device)
        return None
    grid, stack = shapes(config), members(config)
    if not stack:
        raise UserError("the grid is empty: give at least one of --ratios and --ranges")
    if config.out is not None:
        check_output(config.out, [config.data])
    data = load_digits_or_mnist(config.data, config.download)
    free = ("target", "data", "n_hidden", "n_latent")  # a grid may grow; the data is compared by its content
    # Both figures come from the same models.
    with open_run(
        "r2mae-vision", "reproduce-mnist", config.out, resolved(config), sources=data.identity, free=free, shared=True
    ) as run:
        say(f"{len(grid)} shapes × {len(stack)} models of {config.epochs} epochs on {device_name(device)}")
        records = walk_grid(
            run, {cell_name(*shape): partial(_cell, config, run, shape, data, device) for shape in grid}
        )
        source, metric, ylabel, title = FIGURES[config.target]
        shown = [record for record in records if record.metric == source]
        show_table(run, shown, RANK_BY, title, config.target)
        say(f"Figure: {run.save_figure(f'{config.target}.png', plot_fig2(records, metric, ylabel, title))}")
        say(f"Done: {run.path} (results.json, {config.target}.md)")
        say(page_line("r2mae-vision", run.path))
        return run


def shapes(config: ReproduceMNIST) -> list[tuple[int, int]]:
    """Return the widths of the two hidden layers of every cell of the grid, the cheap ones first."""
    return sorted(((h1, h2) for h1 in config.n_hidden for h2 in config.n_latent), key=lambda shape: shape[0] * shape[1])


def members(config: ReproduceMNIST) -> list[Member]:
    """Return the models of one cell: every fixed ratio and every range, for each seed."""
    samplers = grid_samplers(config.ratios, config.ranges).items()
    return [Member(name, with_seed(sampler, seed), seed) for seed in config.seeds for name, sampler in samplers]


def _cell(
    config: ReproduceMNIST, run: RunFolder, shape: tuple[int, int], data: ImageData, device: str, home: Path
) -> list[Record]:
    """Train the models of one shape in their folder and return their records."""
    start, stack = time.perf_counter(), members(config)
    common = {"epochs": config.epochs, "batch_size": BATCH_SIZE, "lr": LR, "device": device}
    settings = {**{key: run.config[key] for key in OF_CELL}, "n_hidden": shape}
    cell = RunFolder(home, settings, sources=data.identity, free=("data",))
    model = pretrain_members(data, stack, cell, hidden=shape, progress=config.progress, **common)
    names, task = [member.scheme for member in stack], f"{data.name} {shape[0]}-{shape[1]}"
    seconds = time.perf_counter() - start
    return evaluate_members(model, data, names, task=task, pretrain_seconds=seconds, **common)


def _dry_run(config: ReproduceMNIST, device: str) -> None:
    """Print the grid, and what it would cost by the time of a few steps on simulated images."""
    side, n_images = (8, 1347) if config.data == "digits" else (28, 60_000)
    pixels, total = side * side, 0.0
    say(f"Models per shape: {', '.join(member.scheme for member in members(config))}")
    for shape in shapes(config):
        seconds = _seconds_per_step(config, shape, pixels, device) * (n_images // BATCH_SIZE) * config.epochs
        total += seconds
        say(f"  {shape[0]}-{shape[1]}: {len(members(config))} models, about {seconds / 60:.1f} min of pretraining")
    say(f"About {total / 60:.0f} min of pretraining on {device_name(device)}, and about a fifth more for the probes.")


def _seconds_per_step(config: ReproduceMNIST, shape: tuple[int, int], pixels: int, device: str) -> float:
    stack, one_seed = members(config), members(replace(config, seeds=(0,)))
    model = MLPAutoencoder(pixels, shape, tuple(member.seed for member in stack)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images = torch.rand(1, BATCH_SIZE, pixels, device=device)

    def step() -> None:
        masks = [nested_masks(images.shape[1:], [0.5] * len(one_seed), device=device) for _ in config.seeds]
        optimizer.zero_grad()
        model.masked_errors(images, torch.cat(masks)).sum().backward()
        optimizer.step()

    return seconds_of(step, device)
