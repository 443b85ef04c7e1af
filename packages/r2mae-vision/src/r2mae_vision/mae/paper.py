"""Table 1 of the paper as a grid of experiments, and `reproduce`."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    cell_name,
    check_output,
    device_name,
    first_rank,
    open_run,
    page_line,
    resolve_device,
    resolved,
    sampler_from_config,
    say,
    scheme_name,
    seconds_of,
    show_table,
    walk_grid,
)
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.data.pairs import held_out, identity, open_pair
from r2mae_vision.data.sources import Source, how_to_open, open_source
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.flops import train_flops
from r2mae_vision.mae.masking import split_patches
from r2mae_vision.mae.model import MaskedAutoencoder
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.nested import columns_of, nested_options
from r2mae_vision.mae.options import Finetune, Pretrain, Reproduce
from r2mae_vision.mae.plots import plot_loss_curves, plot_schemes
from r2mae_vision.mae.pretrain import pretrain, shape_of
from r2mae_vision.mae.probe import probe

PAPER: dict[str, dict[str, float]] = {
    "fixed": {"top1": 81.97, "top5": 96.02},
    "high": {"top1": 81.20, "top5": 95.68},
    "low": {"top1": 81.80, "top5": 95.93},
    "mdlm": {"top1": 81.02, "top5": 95.60},
    "dynamic": {"top1": 81.97, "top5": 96.04},
    "r2mae": {"top1": 82.00, "top5": 96.05},
}
"""Top-1 and top-5 accuracy in % of ViT-B on ImageNet-1K after 150 epochs and 100 of fine-tuning; one seed."""


def reproduce(config: Reproduce) -> RunFolder | None:
    """Pretrain and evaluate every scheme alike, draw the figures, and return the run folder (None: a dry run).

    Raises:
        UserError: an option is unknown, or whatever the parts of the work raise.
    """
    if config.data is None:
        _show_paper()
        return None
    device, start = resolve_device(config.device), time.perf_counter()
    grid = [(name, seed) for seed in config.seeds for name in config.schemes]
    _check(config, grid, device)
    if config.dry_run:
        _dry_run(config, grid, device)
        return None
    free = ("seeds", "schemes", "data", "labels")  # the data is compared by its content
    sources = identity(*_parts(config))
    with open_run(
        "r2mae-vision", "reproduce", config.out, resolved(config), sources=sources, free=free, shared=True
    ) as run:
        records = walk_grid(
            run, {cell_name(name, seed): partial(_cell, config, name, seed, device) for name, seed in grid}
        )
        if not first_rank():
            return run
        show_table(run, records, RANK_BY, f"Table 1 on {config.data}", config.target)
        figure = run.save_figure("table1.png", plot_schemes(records))
        curves = run.save_figure("curves.png", plot_loss_curves(records))
        say(f"Figure: {figure}, {curves}")
        say(f"Done: {run.path} (results.json, {config.target}.md) in {time.perf_counter() - start:.0f} s")
        say(page_line("r2mae-vision", run.path))
        return run


def _parts(config: Reproduce) -> tuple[Source, Source]:
    """Return training and validation part; every evaluation needs classes, and is refused without them.

    Raises:
        UserError: images may have several classes, which the table is not made for; or as `open_pair`.
    """
    data, how = config.data or "", how_to_open(config)
    train, held_out_part = (
        open_pair(data, how=how) if config.evaluate else (open_source(data, "train", how), held_out(data, how)[0])
    )
    if config.evaluate and is_multi(train.labels):
        raise UserError(f"table 1 is of images with one class each, and those of {data} may have several; use finetune")
    return train, held_out_part


def _cell(config: Reproduce, name: str, seed: int, device: str, home: Path) -> list[Record]:
    """Return the records of one scheme and seed, doing what is missing."""
    run = pretrain(pretrain_options(config, name, seed, home / "pretrain", device))
    found = run.results()
    if "finetune" in config.evaluate:
        common = _of_grid(config, run.path, seed, home / "finetune", device)
        found += finetune(nested_options(Finetune, config.finetune, common, "grid")).results()
    if "probe" in config.evaluate:
        common = _of_grid(config, run.path, seed, home / "probe", device)
        found += probe(nested_options(Probe, config.probe, common, "grid")).results()
    published = PAPER.get(name, {}) if _is_the_papers(config) else {}
    return [
        replace(record, paper=published[record.metric] / 100) if record.metric in published else record
        for record in found
    ]


def _of_grid(config: Reproduce, model: Path, seed: int, out: Path, device: str) -> dict[str, Any]:
    """Return the options of finetune and probe that the grid decides."""
    common = {"model": str(model), "data": config.data, "seeds": (seed,), "device": device, **columns_of(config)}
    return common | {"progress": config.progress, "out": out}


def _check(config: Reproduce, grid: list[tuple[str, int]], device: str) -> None:
    """Refuse wrong options before anything is done."""
    if config.out is not None:
        check_output(config.out, [config.data, config.labels])
    unused = Path("unused")
    for name, seed in grid:
        sampler_from_config(name, "vision")
        pretrain_options(config, name, seed, unused, device)
    nested_options(Finetune, config.finetune, _of_grid(config, unused, 0, unused, device), "grid")
    nested_options(Probe, config.probe, _of_grid(config, unused, 0, unused, device), "grid")


def pretrain_options(config: Reproduce, name: str, seed: int, out: Path, device: str) -> Pretrain:
    """Return the options of one pretraining."""
    common = {"data": config.data, "mask_ratio": name, "seed": seed, "epochs": config.epochs, "out": out}
    common |= {"device": device, "progress": config.progress, **columns_of(config)}
    return nested_options(Pretrain, config.pretrain, common, "grid")


def _is_the_papers(config: Reproduce) -> bool:
    """Return whether data and recipes are the paper's, up to how they are computed."""
    free = {"compile", "devices", "nodes", "strategy", "micro_batch_size", "workers", "precision", "peak_tflops"}
    free |= {"log_every", "checkpoint_every", "validate_every"}
    if config.epochs != Reproduce.epochs or not set(config.pretrain) | set(config.finetune) <= free:
        return False
    return len(open_source(config.data or "", "train", how_to_open(config)).classes) == 1000  # ImageNet-1K


def _full_name(name: str) -> str:
    return scheme_name(sampler_from_config(name, "vision"), "vision")


def _show_paper() -> None:
    say("Table 1 of the paper: ViT-B on ImageNet-1K, 150 epochs, fine-tuned for 100 (one seed)")
    for name, paper in PAPER.items():
        say(f"  {_full_name(name):12} top-1 {paper['top1']:.2f}  top-5 {paper['top5']:.2f}")
    say("To reproduce it: r2mae-vision reproduce table1 --data IMAGENET (a folder with train and val)")


def _dry_run(config: Reproduce, grid: list[tuple[str, int]], device: str) -> None:
    """Print the grid, and what its pretraining would cost by the time of a few steps on simulated images."""
    options = pretrain_options(config, *grid[0], Path("unused"), device)
    source = open_source(options.data, "train", how_to_open(config))
    model = MaskedAutoencoder(shape_of(options, source)).to(device)
    shape, n = model.shape, 64 if device == "cuda" else 16
    images = torch.zeros(n, shape.in_chans, *shape.size, dtype=torch.uint8, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator(device).manual_seed(0)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(model.normalise(images), split_patches(n, model.n_patches, 0.75, generator))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    rate = n / seconds_of(step, device)
    hours = len(source) * config.epochs / rate / 3600
    say(
        f"{len(grid)} pretrainings ({', '.join(config.schemes)}; seeds {', '.join(map(str, config.seeds))}), "
        f"{config.epochs} epochs"
    )
    say(
        f"{rate:,.0f} images/s on {device_name(device)} ({rate * train_flops(model, 0.75) / 1e12:.2f} TFLOP/s): "
        f"{hours:,.1f} h each, {hours * len(grid):,.1f} h in all, without {' and '.join(config.evaluate)}"
    )
    for name in config.schemes:
        say(f"  {_full_name(name):12} {sampler_from_config(name, 'vision').describe()}")
