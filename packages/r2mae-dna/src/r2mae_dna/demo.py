"""`r2mae-dna demo`: several schemes on a real human-ape alignment, evaluated on real variants."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from r2mae_core import (
    Record,
    RunFolder,
    cell_name,
    device_name,
    one_thread,
    open_run,
    read_metrics,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    walk_grid,
)
from r2mae_dna.bundled import TASK, Bundled, evaluation, grid, small_recipe, timed
from r2mae_dna.data.codes import TOKEN_BITS, decode
from r2mae_dna.data.samples import samples_digest
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.evaluate import RANK_BY, load_labelled
from r2mae_dna.options import Demo, Pretrain
from r2mae_dna.plots import plot_demo
from r2mae_dna.probe import BATCH_SIZE, probe_model
from r2mae_dna.scorers import FREQUENCIES
from r2mae_dna.weights import load_model

RATIO = 0.15
LOGO = ("22", 50_618_773, 48, 24)
"""Chromosome, first position and length of the region drawn as logos, and where in it a common variant is."""
LOGO_TITLE = "50,618,797 C>G is common in people (G: 81 %); all three apes have G"
HELD_OUT = 256


def demo_command(config: Demo) -> None:
    """`r2mae-dna demo`."""
    start = time.perf_counter()
    run = demo(config)
    records = run.results()
    n = next(record.n for record in records if record.metric == "auroc")
    report(run, records, RANK_BY, f"chr22: {n:,} real variants (1000 Genomes), rare against common")
    say("auroc, auprc: rare alleles against common ones. frequencies: letters of the apes at the site, no network.")
    say(f"accuracy, loss: {RATIO:.0%} of the bases of held-out windows hidden; frequencies: plurality of the apes.")
    say(f"Figure: {run.path / 'figures' / 'demo.png'}")
    say(f"Run folder: {run.path} ({time.perf_counter() - start:.0f} s)")


def demo(config: Demo) -> RunFolder:
    """Build, pretrain, score and evaluate; the records and the figure are in the run folder."""
    with one_thread():
        device = resolve_device(config.device)
        rows = {name: scheme_name(scheme(name, "dna"), "dna") for name in config.schemes}  # refused before any training
        facts = {"samples": samples_digest()}
        with open_run("r2mae-dna", "demo", config.out, resolved(config), facts=facts, shared=True) as run:
            bundled = Bundled.prepare(run.path, config.window, device)
            info = WindowSet(bundled.data).info
            say(
                f"Human and {info.n_species} apes, chr22: {info.counts['train']:,} training windows of {info.window} "
                f"bases; {len(config.schemes)} schemes × {len(config.seeds)} seeds on {device_name(device)}"
            )
            recipe = small_recipe(
                bundled.data, config.steps, n_hidden=config.n_hidden, n_layers=config.n_layers, lr=config.lr,
                batch_size=config.batch_size, device=device, progress=config.progress,
            )  # fmt: skip
            first = (config.schemes[0], config.seeds[0])
            models = grid(config.schemes, config.seeds, recipe, partial(_cell, bundled, first), device)
            walk_grid(run, {FREQUENCIES: timed(bundled.floor, device), **models})
            run.save_figure("demo.png", _figure(config, run, bundled, rows))
            return run


def _cell(bundled: Bundled, first: tuple[str, int], options: Pretrain, home: Path) -> list[Record]:
    """Pretrain and score; then predict hidden bases of held-out windows, once also by the plurality of the apes."""
    records = bundled.pretrain(options, home)
    scheme, seed, held_out = records[0].scheme, options.seed, WindowSet(options.data, "test")
    values = probe_model(
        load_model(home / "pretrain").model, WindowSet(options.data), held_out, ratios=(RATIO,), max_windows=HELD_OUT,
        batch_size=BATCH_SIZE, device=bundled.device,
    )  # fmt: skip
    n, metrics = min(HELD_OUT, len(held_out)), [f"{metric}@{RATIO:g}" for metric in ("accuracy", "loss")]
    records += [Record(TASK, metric, values[metric], scheme, seed, n) for metric in metrics]
    if (options.mask_ratio, options.seed) == first:
        records += [Record(TASK, metric, values[f"plurality_{metric}"], FREQUENCIES, 0, n) for metric in metrics]
    return records


def _figure(config: Demo, run: RunFolder, bundled: Bundled, rows: dict[str, str]) -> object:
    def home(name: str, seed: int) -> Path:
        return run.path / cell_name(name, seed)

    first = config.seeds[0]
    curves = {
        row: {
            str(seed): read_metrics(home(name, seed) / "pretrain" / "metrics.csv").get("loss", [])
            for seed in config.seeds
        }
        for name, row in rows.items()
    }
    scored = {row: home(name, first) for name, row in rows.items()} | {FREQUENCIES: run.path / FREQUENCIES}
    found = {row: load_labelled(evaluation(folder / "scored.vcf")) for row, folder in scored.items()}
    damage = {row: next(iter(labelled.damage.values())) for row, labelled in found.items()}
    models = {row: home(name, first) / "pretrain" for name, row in rows.items()}
    logos = _logos(bundled, models)
    return plot_demo(run.results(), curves, found[FREQUENCIES].labels, damage, logos, LOGO[3], LOGO_TITLE, first)


def _logos(bundled: Bundled, models: dict[str, Path]) -> list[tuple[str, np.ndarray, str, int]]:
    """Return what each scheme's first model, and the apes, expect at every base of a region."""
    import torch

    from r2mae_dna.model import both_strands

    chromosome, first, length, _ = LOGO
    half = bundled.window // 2
    block = AlignmentStore(bundled.store).read(chromosome, first - 1 - half, first - 1 + length + half)
    windows = np.stack([block[i : i + bundled.window] for i in range(length)])
    reference = decode(block[half : half + length, 0]).upper()
    column = windows[:, half, 1:]
    counts = (column[..., None] == np.arange(1, 5)).sum(1) + 0.1
    logos = [("letters of the three apes", counts / counts.sum(1, keepdims=True), reference, first)]
    codes = torch.from_numpy(windows & TOKEN_BITS).to(bundled.device)
    for row, folder in models.items():
        model = load_model(folder).model.to(bundled.device)
        with torch.inference_mode():
            logos.append((row, both_strands(model, codes).softmax(-1).cpu().numpy(), reference, first))
    return logos
