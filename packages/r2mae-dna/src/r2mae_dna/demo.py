"""`r2mae-dna demo`: several schemes on a real human-ape alignment, judged on real variants."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from r2mae_core import Record, RunFolder, compare, scheme
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.files import write_text
from r2mae_core.metrics_csv import read_metrics
from r2mae_core.run_folder import default_run_path
from r2mae_dna.codes import TOKEN_BITS, decode
from r2mae_dna.evaluate import RANK_BY, evaluate_table, load_labelled
from r2mae_dna.options import Demo, Evaluate, Pretrain, Score
from r2mae_dna.plots import plot_demo
from r2mae_dna.pretrain import pretrain
from r2mae_dna.probe import probe_model
from r2mae_dna.samples import prepare_apes
from r2mae_dna.score import FREQUENCIES, score_variants
from r2mae_dna.store import AlignmentStore
from r2mae_dna.weights import load_model
from r2mae_dna.windows import WindowSet

RATIO = 0.15
LOGO = ("22", 50_618_773, 48, 24)
"""Chromosome, first position and length of the stretch drawn as logos, and where a common variant lies in it."""
LOGO_TITLE = "50,618,797 C>G is common in people (G: 81 %); all three apes have G"
TASK, HELD_OUT = "chr22", 256


@dataclass(frozen=True)
class SmallRecipe:
    """Sizes of a training on the bundled alignment."""

    hidden: int = 64
    layers: int = 2
    steps: int = 100
    batch_size: int = 64
    lr: float = 3e-3
    window: int = 128


def pretrain_small(
    windows: Path, name: str, seed: int, out: Path, recipe: SmallRecipe, *, device: str = "auto", progress: bool = False
) -> RunFolder:
    """Pretrain a small model with a named scheme; a finished one is not trained again."""
    return pretrain(
        Pretrain(
            windows,
            mask_ratio=name,
            freeze_steps=max(round(recipe.steps / 6), 1),
            hidden=recipe.hidden,
            layers=recipe.layers,
            heads=4,
            dropout=0.0,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            warmup=max(recipe.steps // 10, 1),
            log_every=10,
            checkpoint_every=recipe.steps,
            seed=seed,
            device=device,  # pyright: ignore[reportArgumentType]
            out=out,
            progress=progress,
        )
    )


def judge_variants(
    variants: Path, store: Path, model: str, out: Path, name: str, seed: int, *, window: int, device: str
) -> list[Record]:
    """Score rare and common variants whose whole window is aligned, and judge the scores."""
    score_variants(
        Score(
            variants, msa=store, model=model, out=out, window=window, min_defined=1.0, device=device,  # pyright: ignore[reportArgumentType]
            progress=False,
        )
    )  # fmt: skip
    records, *_ = evaluate_table(_judged(out, name, seed))
    return [replace(record, task=TASK) for record in records if record.metric in ("AUROC", "AUPRC")]


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
    """Build, pretrain, score, evaluate, print the table, draw the figure, and return the run folder."""
    with one_thread():
        return _demo(config)


def _demo(config: Demo) -> RunFolder:
    start = time.perf_counter()
    device = resolve_device(config.device)
    for name in config.schemes:
        scheme(name, "dna")  # refused here, not after the first training
    run = RunFolder(config.out or default_run_path("r2mae-dna", "demo"), resolved(config))
    recipe = SmallRecipe(config.hidden, config.layers, config.steps, config.batch_size, config.lr, config.window)
    store, windows, variants = prepare_apes(run.path, config.window)
    info = WindowSet(windows).info
    say(
        f"Human and {info.n_species} apes, chr22: {info.counts['train']:,} training windows of {info.window} bases; "
        f"{len(config.schemes)} schemes × {config.n_seeds} seeds on {device_name(device)}"
    )
    records = judge_variants(
        variants,
        store,
        FREQUENCIES,
        run.path / f"{FREQUENCIES}.vcf",
        FREQUENCIES,
        0,
        window=config.window,
        device=device,
    )
    for name in config.schemes:
        for seed in range(config.n_seeds):
            records += _one(config, recipe, run, name, seed, (store, windows, variants), device)
    run.write_results(records)
    table = compare(records, RANK_BY)  # pyright: ignore[reportArgumentType]
    write_text(run.path / "table.md", table.markdown())
    figure = run.save_figure("demo.png", _figure(config, run, store, records, device))
    n = next(record.n for record in records if record.metric == "AUROC")
    say(table.rich(f"chr22: {n:,} real variants (1000 Genomes), rare against common"))
    say("AUROC, AUPRC: rare alleles against common ones. frequencies: letters of the apes at the site, no network.")
    say(f"accuracy, cross_entropy: {RATIO:.0%} of the bases of held-out windows hidden; the apes' plurality beside it.")
    say(f"Figure: {figure}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
    return run


def _one(
    config: Demo, recipe: SmallRecipe, run: RunFolder, name: str, seed: int, data: tuple[Path, Path, Path], device: str
) -> list[Record]:
    store, windows, variants = data
    begin = time.perf_counter()
    home = run.path / "models" / f"{name}-{seed}"
    pretrain_small(windows, name, seed, home, recipe, device=device, progress=config.progress)
    records = judge_variants(
        variants, store, str(home), home / "scored.vcf", name, seed, window=config.window, device=device
    )
    test = WindowSet(windows, "test")
    values = probe_model(
        load_model(home).model,
        WindowSet(windows),
        test,
        ratios=(RATIO,),
        max_windows=HELD_OUT,
        batch_size=64,
        device=device,
    )
    records += [
        Record(TASK, metric, values[f"{metric}@{RATIO:g}"], name, seed, min(HELD_OUT, len(test)))
        for metric in ("accuracy", "cross_entropy")
    ]
    if name == config.schemes[0] and seed == 0:
        records += [
            Record(TASK, metric, values[f"plurality_{metric}@{RATIO:g}"], FREQUENCIES, 0, min(HELD_OUT, len(test)))
            for metric in ("accuracy", "cross_entropy")
        ]
    auroc = next(record.value for record in records if record.metric == "AUROC")
    say(f"{name}, seed {seed}: AUROC {auroc:.3f}, {time.perf_counter() - begin:.0f} s")
    return records


def _figure(config: Demo, run: RunFolder, store: Path, records: list[Record], device: str) -> object:
    curves = {
        name: {
            str(seed): read_metrics(run.path / "models" / f"{name}-{seed}" / "metrics.csv")["loss"]
            for seed in range(config.n_seeds)
        }
        for name in config.schemes
    }
    base = load_labelled(_judged(run.path / f"{FREQUENCIES}.vcf"))
    damage = {
        name: next(iter(load_labelled(_judged(run.path / "models" / f"{name}-0" / "scored.vcf")).damage.values()))
        for name in config.schemes
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
        model = load_model(run.path / "models" / f"{name}-0").model.to(device)
        with torch.inference_mode():
            logos.append((name, both_strands(model, codes).softmax(-1).cpu().numpy(), reference, first))
    return logos
