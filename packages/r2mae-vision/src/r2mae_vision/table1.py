"""Table 1 of the paper: every mask-ratio scheme pretrained alike, then fine-tuned (and, beyond the paper, probed)."""

import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from r2mae_core import Record, RunFolder, UserError, compare, sampler_from_config
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.files import write_text
from r2mae_vision.data.sources import open_source
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.finetune import finetune
from r2mae_vision.flops import train_flops
from r2mae_vision.masking import split_patches
from r2mae_vision.model import MaskedAutoencoder
from r2mae_vision.options import Finetune, Pretrain, Probe, Reproduce
from r2mae_vision.plots import plot_loss_curves, plot_schemes
from r2mae_vision.pretrain import EPOCHS, pretrain_vit, shape_of
from r2mae_vision.probe import probe

PAPER: dict[str, dict[str, float]] = {
    "fixed": {"top1": 81.97, "top5": 96.02},
    "high": {"top1": 81.20, "top5": 95.68},
    "low": {"top1": 81.80, "top5": 95.93},
    "mdlm": {"top1": 81.02, "top5": 95.60},
    "dynamic": {"top1": 81.97, "top5": 96.04},
    "r2mae": {"top1": 82.00, "top5": 96.05},
}
"""Top-1 and top-5 accuracy in % of ViT-B on ImageNet-1K after 150 epochs and 100 of fine-tuning; one seed."""
NAMES = {"fixed": "fixed 0.75", "high": "high 0.9", "low": "low 0.5"}
DEFAULT_OUT = Path("runs") / "r2mae-vision-reproduce-table1"
Options = TypeVar("Options", Pretrain, Finetune, Probe)


def reproduce(config: Reproduce) -> RunFolder | None:
    """Pretrain and judge what is missing of the grid, draw the figure, and return the run folder (None: a dry run).

    Raises:
        UserError: an option is unknown, or whatever the parts of the work raise.
    """
    if config.root is None:
        _show_paper()
        return None
    device = resolve_device(config.device)
    cells = [(name, seed) for seed in config.seeds for name in config.schemes]
    if config.dry_run:
        _dry_run(config, cells, device)
        return None
    _check(config, cells, device)
    settings = {key: value for key, value in resolved(config).items() if key not in ("seeds", "schemes", "dry_run")}
    run = RunFolder(config.out or DEFAULT_OUT, settings)
    records: list[Record] = []
    for i, (name, seed) in enumerate(cells):
        start = time.perf_counter()
        home = run.path / f"{name.replace('+', '-')}-seed{seed}"
        records += _cell(config, name, seed, home, device)
        say(f"[{i + 1}/{len(cells)}] {name}, seed {seed}: {time.perf_counter() - start:.0f} s")
    run.write_results(records)
    table = compare(records, RANK_BY)
    write_text(run.path / "table.md", table.markdown())
    say(table.rich(f"Table 1 on {config.root}, {device_name(device)}"))
    figure = run.save_figure("table1.png", plot_schemes(records))
    curves = run.save_figure("curves.png", plot_loss_curves(records))
    say(f"Figures: {figure}, {curves}\nRun folder: {run.path}")
    return run


def _cell(config: Reproduce, name: str, seed: int, home: Path, device: str) -> list[Record]:
    """Return the records of one scheme and seed, doing what is not done yet."""
    run = pretrain_vit(pretrain_options(config, name, seed, home / "pretrain", device))
    found = run.results()
    if "finetune" in config.judge:
        found += finetune(
            _options(Finetune, config.finetune, _judged(config, run.path, seed, home / "finetune", device))
        ).results()
    if "probe" in config.judge:
        found += probe(_options(Probe, config.probe, _judged(config, run.path, seed, home / "probe", device))).results()
    return [_with_paper(record, name, config) for record in found]


def _judged(config: Reproduce, model: Path, seed: int, out: Path, device: str) -> dict[str, Any]:
    """Return what the grid itself says about judging one model."""
    common = {"model": str(model), "data": str(config.root), "seeds": (seed,), "device": device}
    return common | {"progress": config.progress, "out": out}


def _check(config: Reproduce, cells: list[tuple[str, int]], device: str) -> None:
    """Refuse wrong options before anything is done."""
    unused = Path("unused")
    for name, seed in cells:
        pretrain_options(config, name, seed, unused, device)
    _options(Finetune, config.finetune, _judged(config, unused, 0, unused, device))
    _options(Probe, config.probe, _judged(config, unused, 0, unused, device))


def pretrain_options(config: Reproduce, name: str, seed: int, out: Path, device: str) -> Pretrain:
    """Return the options of one pretraining."""
    common = {"data": str(config.root), "mask_ratio": name, "seed": seed, "out": out, "device": device}
    common |= {"progress": config.progress}
    if config.epochs is not None:
        common["epochs"] = config.epochs
    return _options(Pretrain, config.pretrain, common)


def _options(kind: type[Options], given: dict[str, Any], common: dict[str, Any]) -> Options:
    """Return a command's options from a dictionary that the user wrote.

    Raises:
        UserError: a key is unknown, or belongs to the grid.
    """
    flag, known = f"--{kind.__name__.lower()}", {field.name for field in fields(kind)}
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"{flag} has no option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if clash := [key for key in given if key in common]:
        raise UserError(f"{flag} {', '.join(clash)} is set by the grid; leave it out")
    # YAML and JSON have lists where the options have tuples.
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return kind(**common, **given)


def _with_paper(record: Record, name: str, config: Reproduce) -> Record:
    """Return the record under its scheme's name, beside the paper's figure where it is about ImageNet."""
    published = PAPER.get(name, {}).get(record.metric)
    same = "fine-tuned" in record.task and config.epochs is None and _changes_nothing(config)
    same = same and len(open_source(str(config.root), "train").classes) == 1000  # ImageNet-1K
    return replace(record, scheme=NAMES.get(name, name), paper=published / 100 if same and published else None)


def _changes_nothing(config: Reproduce) -> bool:
    """Return whether the recipes are the paper's, up to how they are computed."""
    free = {"compile", "devices", "nodes", "strategy", "micro_batch_size", "workers", "log_every", "checkpoint_every"}
    return set(config.pretrain) | set(config.finetune) <= free | {"precision"}


def _show_paper() -> None:
    say("Table 1 of the paper: ViT-B on ImageNet-1K, 150 epochs, fine-tuned for 100 (one seed)")
    for name, paper in PAPER.items():
        say(f"  {NAMES.get(name, name):12} top-1 {paper['top1']:.2f}  top-5 {paper['top5']:.2f}")
    say("To walk it: r2mae-vision reproduce table1 --root IMAGENET (a folder with train and val)")


def _dry_run(config: Reproduce, cells: list[tuple[str, int]], device: str) -> None:
    """Print the grid, and what its pretraining would cost by the time of a few steps on made-up images."""
    options = pretrain_options(config, cells[0][0], cells[0][1], Path("unused"), device)
    source = open_source(options.data, "train")
    model = MaskedAutoencoder(shape_of(options, source)).to(device)
    shape, n = model.shape, 64 if device == "cuda" else 16
    images = torch.zeros(n, shape.in_chans, shape.image_size, shape.image_size, dtype=torch.uint8, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator, times = torch.Generator(device).manual_seed(0), []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(model.normalise(images), split_patches(n, model.n_patches, 0.75, generator))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    rate = n / min(times[1:])
    epochs = options.epochs or EPOCHS
    hours = len(source) * epochs / rate / 3600
    say(
        f"{len(cells)} pretrainings ({', '.join(config.schemes)}; seeds {', '.join(map(str, config.seeds))}), "
        f"{epochs} epochs"
    )
    say(
        f"{rate:,.0f} images/s on {device_name(device)} ({rate * train_flops(model, 0.75) / 1e12:.2f} TFLOP/s): "
        f"{hours:,.1f} h each, {hours * len(cells):,.1f} h in all, without {' and '.join(config.judge)}"
    )
    for name in config.schemes:
        say(f"  {NAMES.get(name, name):12} {sampler_from_config(name, 'vision').describe()}")
