"""`r2mae-dna demo`: several schemes on a real human-ape alignment, judged on real variants."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from r2mae_core import (
    Record,
    RunFolder,
    device_name,
    open_run,
    read_metrics,
    recipes,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    stamped,
)
from r2mae_dna.data.codes import TOKEN_BITS, decode
from r2mae_dna.data.samples import prepare_apes
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.evaluate import RANK_BY, evaluate_table, load_labelled
from r2mae_dna.options import Demo, Evaluate, Pretrain, Score
from r2mae_dna.plots import plot_demo
from r2mae_dna.pretrain import pretrain, scheme_sampler
from r2mae_dna.probe import BATCH_SIZE, probe_model
from r2mae_dna.score import FREQUENCIES, score_variants
from r2mae_dna.weights import load_model

RATIO = 0.15
LOGO = ("22", 50_618_773, 48, 24)
"""Chromosome, first position and length of the stretch drawn as logos, and where a common variant lies in it."""
LOGO_TITLE = "50,618,797 C>G is common in people (G: 81 %); all three apes have G"
TASK, HELD_OUT = "chr22", 256


def small_recipe(windows: Path, steps: int, **changes: Any) -> Pretrain:
    """Return `pretrain -c small` on the bundled alignment.

    Args:
        windows: to train on.
        steps: the curriculum head is frozen in the same share of them as in the recipe.
        changes: what else is not as in the recipe; None counts as not given.
    """
    recipe = yaml.safe_load(Path(recipes("r2mae_dna", "pretrain")["small"]).read_text(encoding="utf-8"))
    freeze_steps = max(round(recipe["freeze_steps"] * steps / recipe["steps"]), 1)
    given = {name: value for name, value in changes.items() if value is not None}
    return Pretrain(windows, **{**recipe, "steps": steps, "freeze_steps": freeze_steps, **given})


def judge_variants(
    variants: Path, store: Path, model: str, out: Path, name: str, seed: int, *, window: int, device: str
) -> list[Record]:
    """Score rare and common variants whose whole window is aligned, and judge the scores."""
    score_variants(
        Score(
            model, store, variants, out=out, window=window, min_defined=1.0, device=device,  # pyright: ignore[reportArgumentType]
            progress=False,
        )
    )  # fmt: skip
    records, *_ = evaluate_table(_judged(out, name, seed))
    return [replace(record, task=TASK) for record in records if record.metric in ("auroc", "auprc")]


def pretrain_and_judge(home: Path, options: Pretrain, store: Path, variants: Path, device: str) -> list[Record]:
    """Pretrain into `home/pretrain` (a finished model is not trained again) and judge the scores of real variants."""
    run = pretrain(replace(options, out=home / "pretrain"))
    name, window = scheme_name(scheme_sampler(options), "dna"), WindowSet(options.windows).info.window
    scored = home / "scored.vcf"
    return judge_variants(variants, store, str(run.path), scored, name, options.seed, window=window, device=device)


def _judged(table: Path, name: str | None = None, seed: int = 0) -> Evaluate:
    return Evaluate(table, preset="rare-common", scheme=name, seed=seed, bootstrap=0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread: tensors this small gain little from two, and lose much where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def demo(config: Demo) -> RunFolder:
    """Build, pretrain, score and evaluate; the records and the figure are in the run folder."""
    with one_thread():
        return _demo(config)


def _demo(config: Demo) -> RunFolder:
    device = resolve_device(config.device)
    for name in config.schemes:
        scheme(name, "dna")  # refused here, not after the first training
    run = open_run("r2mae-dna", "demo", config.out, resolved(config))
    store, windows, variants = prepare_apes(run.path, config.window)
    info = WindowSet(windows).info
    say(
        f"Human and {info.n_species} apes, chr22: {info.counts['train']:,} training windows of {info.window} bases; "
        f"{len(config.schemes)} schemes × {config.n_seeds} seeds on {device_name(device)}"
    )
    floor = run.path / f"{FREQUENCIES}.vcf"
    records = judge_variants(variants, store, FREQUENCIES, floor, FREQUENCIES, 0, window=config.window, device=device)
    for name in config.schemes:
        for seed in range(config.n_seeds):
            records += _one(config, run, name, seed, (store, windows, variants), device)
    run.write_results(stamped(records, device_name(device)))
    run.save_figure("demo.png", _figure(config, run, store, records, device))
    return run


def demo_command(config: Demo) -> None:
    """`r2mae-dna demo`."""
    start = time.perf_counter()
    run = demo(config)
    records = run.results()
    n = next(record.n for record in records if record.metric == "auroc")
    report(run, records, RANK_BY, f"chr22: {n:,} real variants (1000 Genomes), rare against common")
    say("auroc, auprc: rare alleles against common ones. frequencies: letters of the apes at the site, no network.")
    say(f"accuracy, loss: {RATIO:.0%} of the bases of held-out windows hidden; the apes' plurality beside it.")
    say(f"Figure: {run.path / 'figures' / 'demo.png'}")
    say(f"Run folder: {run.path} ({time.perf_counter() - start:.0f} s)")


def _one(
    config: Demo, run: RunFolder, name: str, seed: int, data: tuple[Path, Path, Path], device: str
) -> list[Record]:
    store, windows, variants = data
    begin, home = time.perf_counter(), _home(run, name, seed)
    options = small_recipe(
        windows, config.steps, mask_ratio=name, seed=seed, hidden=config.hidden, layers=config.layers,
        batch_size=config.batch_size, lr=config.lr, device=device, progress=config.progress,
    )  # fmt: skip
    records = pretrain_and_judge(home, options, store, variants, device)
    values = probe_model(
        load_model(home / "pretrain").model, WindowSet(windows), WindowSet(windows, "test"), ratios=(RATIO,),
        max_windows=HELD_OUT, batch_size=BATCH_SIZE, device=device,
    )  # fmt: skip
    n = min(HELD_OUT, WindowSet(windows, "test").info.counts["test"])
    metrics = [f"{metric}@{RATIO:g}" for metric in ("accuracy", "loss")]
    records += [Record(TASK, metric, values[metric], records[0].scheme, seed, n) for metric in metrics]
    if name == config.schemes[0] and seed == 0:
        records += [Record(TASK, metric, values[f"plurality_{metric}"], FREQUENCIES, 0, n) for metric in metrics]
    auroc = next(record.value for record in records if record.metric == "auroc")
    say(f"{name}, seed {seed}: auroc {auroc:.3f}, {time.perf_counter() - begin:.0f} s")
    return records


def _home(run: RunFolder, name: str, seed: int) -> Path:
    return run.path / f"{name}-{seed}"


def _figure(config: Demo, run: RunFolder, store: Path, records: list[Record], device: str) -> object:
    rows = {name: scheme_name(scheme(name, "dna"), "dna") for name in config.schemes}
    curves = {
        row: {
            str(seed): read_metrics(_home(run, name, seed) / "pretrain" / "metrics.csv")["loss"]
            for seed in range(config.n_seeds)
        }
        for name, row in rows.items()
    }
    base = load_labelled(_judged(run.path / f"{FREQUENCIES}.vcf"))
    damage = {
        row: next(iter(load_labelled(_judged(_home(run, name, 0) / "scored.vcf")).damage.values()))
        for name, row in rows.items()
    }
    damage[FREQUENCIES] = next(iter(base.damage.values()))
    logos = _logos(config, run, store, device)
    return plot_demo(records, curves, base.labels, damage, logos, LOGO[3], LOGO_TITLE)


def _logos(config: Demo, run: RunFolder, store: Path, device: str) -> list[tuple[str, np.ndarray, str, int]]:
    """Return what each scheme's first model, and the apes, expect at every base of a stretch."""
    import torch

    from r2mae_dna.model import both_strands

    chromosome, first, length, _ = LOGO
    alignment = AlignmentStore(store)
    half = config.window // 2
    block = alignment.read(chromosome, first - 1 - half, first - 1 + length + half)
    windows = np.stack([block[i : i + config.window] for i in range(length)])
    reference = decode(block[half : half + length, 0]).upper()
    column = windows[:, half, 1:]
    counts = (column[..., None] == np.arange(1, 5)).sum(1) + 0.1
    logos = [("letters of the three apes", counts / counts.sum(1, keepdims=True), reference, first)]
    codes = torch.from_numpy(windows & TOKEN_BITS).to(device)
    for name in config.schemes:
        model = load_model(_home(run, name, 0) / "pretrain").model.to(device)
        with torch.inference_mode():
            row = scheme_name(scheme(name, "dna"), "dna")
            logos.append((row, both_strands(model, codes).softmax(-1).cpu().numpy(), reference, first))
    return logos
