"""The paper's MNIST figures as a grid of experiments, and `reproduce`, which walks it (paper, figures 2A, 2D; C.3)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from r2mae_core import Record, RunFolder, device_name, open_run, resolve_device, resolved, say, seconds_of, with_seed
from r2mae_vision.grid import grid_samplers, report_cells, walk
from r2mae_vision.mnist.data import ImageData, load_images
from r2mae_vision.mnist.evaluate import evaluate_members
from r2mae_vision.mnist.plots import plot_fig2
from r2mae_vision.mnist.pretrain import Member, pretrain_members
from r2mae_vision.options import Reproduce

BATCH_SIZE, LR, EPOCHS = 128, 3e-3, 15  # C.3
# What the models of one shape depend on.
OF_CELL = ("data", "root", "ratios", "ranges", "seeds", "epochs")
# Target → the metric in the records, what is drawn of it, its label and the title.
FIGURES = {
    "fig2a": (
        "probe_accuracy",
        "probe_error",
        "linear-probe error rate",
        "Figure 2A: probe error over the mask ratio",
    ),
    "fig2d": (
        "effective_rank",
        "relative_rank",
        "effective rank / width of the embedding",
        "Figure 2D: effective rank over the mask ratio",
    ),
}


def shapes(config: Reproduce) -> list[tuple[int, int]]:
    """Return the (hidden1, hidden2) cells of the grid, the cheap ones first."""
    return sorted(((h1, h2) for h1 in config.hidden1 for h2 in config.hidden2), key=lambda s: s[0] * s[1])


def epochs(config: Reproduce) -> int:
    """Return the epochs of pretraining and probe."""
    return EPOCHS if config.epochs is None else config.epochs


def members(config: Reproduce) -> list[Member]:
    """Return the models of one cell: every fixed ratio and every range, for each seed."""
    samplers = grid_samplers(config).items()
    return [Member(name, with_seed(sampler, seed), seed) for seed in config.seeds for name, sampler in samplers]


def reproduce(config: Reproduce) -> RunFolder | None:
    """Train and judge what is missing of the grid, draw the figure, and return the run folder (None: a dry run)."""
    device = resolve_device(config.device)
    if config.dry_run:
        _dry_run(config, device)
        return None
    data = load_images(config.data, config.root, config.download)
    # Both figures come from the same models.
    settings = {**resolved(config), "epochs": epochs(config)}
    run = open_run("r2mae-vision", "reproduce", config.out, settings, free=("target",))
    grid = shapes(config)
    say(f"{len(grid)} shapes × {len(members(config))} models of {epochs(config)} epochs on {device_name(device)}")

    def judge(hidden: tuple[int, int]) -> Callable[[Path], list[Record]]:
        return lambda home: _cell(config, hidden, data, RunFolder(home, _cell_config(run, hidden)), device)

    records = walk(run, {f"{hidden[0]}-{hidden[1]}": judge(hidden) for hidden in grid})
    source, metric, ylabel, title = FIGURES[config.target]
    report_cells(run, [record for record in records if record.metric == source], config.target, title)
    say(f"Figure: {run.save_figure(f'{config.target}.png', plot_fig2(records, metric, ylabel, title))}")
    say(f"Done: {run.path} (results.json, {config.target}.md)")
    return run


def _cell_config(run: RunFolder, hidden: tuple[int, int]) -> dict[str, Any]:
    return {**{key: run.config[key] for key in OF_CELL}, "hidden": hidden}


def _cell(config: Reproduce, hidden: tuple[int, int], data: ImageData, cell: RunFolder, device: str) -> list[Record]:
    """Train the models of one shape and return their records."""
    start = time.perf_counter()
    stack = members(config)
    model = pretrain_members(
        data,
        stack,
        cell,
        hidden=hidden,
        epochs=epochs(config),
        batch_size=BATCH_SIZE,
        lr=LR,
        device=device,
        progress=config.progress,
    )
    return evaluate_members(
        model,
        data,
        [member.scheme for member in stack],
        task=f"{data.name} {hidden[0]}-{hidden[1]}",
        epochs=epochs(config),
        batch_size=BATCH_SIZE,
        lr=LR,
        pretrain_seconds=time.perf_counter() - start,
        device=device,
    )


def _dry_run(config: Reproduce, device: str) -> None:
    """Print the grid, and what it would cost by the time of a few steps on made-up images."""
    side, n_images = (28, 60_000) if config.data == "mnist" else (8, 1347)
    pixels, total = side * side, 0.0
    say(f"Models per shape: {', '.join(member.scheme for member in members(config))}")
    for hidden in shapes(config):
        seconds = _seconds_per_step(config, hidden, pixels, device) * (n_images // BATCH_SIZE) * epochs(config)
        total += seconds
        say(f"  {hidden[0]}-{hidden[1]}: {len(members(config))} models, about {seconds / 60:.1f} min of pretraining")
    say(f"About {total / 60:.0f} min of pretraining on {device_name(device)}, and about a fifth more for the probes.")


def _seconds_per_step(config: Reproduce, hidden: tuple[int, int], pixels: int, device: str) -> float:
    from r2mae_core import nested_masks
    from r2mae_vision.mnist.model import MLPAutoencoder

    stack = members(config)
    model = MLPAutoencoder(pixels, hidden, tuple(member.seed for member in stack)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images = torch.rand(1, BATCH_SIZE, pixels, device=device)

    def step() -> None:
        masks = torch.cat(
            [nested_masks(images.shape[1:], [0.5] * (len(stack) // len(config.seeds)), device=device)]
            * len(config.seeds)
        )
        optimizer.zero_grad()
        model.masked_errors(images, masks).sum().backward()
        optimizer.step()

    return seconds_of(step, device)
