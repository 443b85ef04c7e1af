"""`r2mae-dna demo`: several schemes on real alignments, evaluated on a hidden species and on real variants."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2mae_core import (
    NO_PRETRAINING,
    SHUFFLED_WEIGHTS,
    Record,
    RunFolder,
    cell_name,
    device_name,
    one_thread,
    open_run,
    page_line,
    permute_weights,
    positive_control,
    read_metrics,
    resolve_device,
    resolved,
    run_identity,
    say,
    scheme,
    scheme_name,
    show_table,
    walk_grid,
    write_text,
)
from r2mae_dna.bundled import RAT_TASK, TASK, Bundled, Measure, grid, small_recipe, timed
from r2mae_dna.data.codes import TOKEN_BITS, decode
from r2mae_dna.data.samples import APES, VARIANTS, VERTEBRATES, samples_digest
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.tables import read_frame
from r2mae_dna.data.variants import score_column
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.evaluate import RANK_BY
from r2mae_dna.options import Demo, Pretrain
from r2mae_dna.plots import plot_demo
from r2mae_dna.pretrain import model_shape, pretrain
from r2mae_dna.probe import BATCH_SIZE, probe_model, probe_plurality
from r2mae_dna.scorers import FREQUENCIES
from r2mae_dna.weights import load_model, save_model

if TYPE_CHECKING:
    from r2mae_dna.model import AlignmentModel

RATIO = 0.15
TRANSITIONS = "frequencies, then transitions"
"""The row of the letters with ties broken by what mutates more often."""
LOGO = ("chr10", 3_227_145, 48, 24)
"""Chromosome, first position and length of the region drawn as logos, and where in it the rat's letter is another."""
LOGO_TITLE = (
    "3,227,169: C in the mouse, G in the rat, which no model saw, and in the nine others that are aligned there"
)
HELD_OUT = 256


def demo_command(config: Demo) -> None:
    """`r2mae-dna demo`."""
    start = time.perf_counter()
    run = demo(config)
    records = run.results()
    count = {(record.task, record.metric): record.n for record in records}
    show_table(
        run, records, RANK_BY, f"mouse without the rat: {count[RAT_TASK, 'auroc']:,} changes; chr22: human variants"
    )
    lines = verdict(records, config.schemes)
    for line in lines:
        say(line)
    write_text(run.path / "verdict.txt", "".join(f"{line}\n" for line in lines))
    say("rat: at sites where the rat, which no model saw, differs from the mouse: its letter against the two others.")
    say("pairwise_accuracy: how often its letter is the likelier one, per site. auroc: over all sites. Chance: 0.5.")
    say(f"accuracy, loss: {RATIO:.0%} of the mouse's bases hidden in held-out windows; frequencies: plurality.")
    say(f"{NO_PRETRAINING}, {SHUFFLED_WEIGHTS}: a network at its start; a trained one, its weights permuted.")
    say(f"{TRANSITIONS}: letters of the column; where two tie, A and G, or C and T, change into each other first.")
    say(f"chr22: {count[TASK, 'auroc']:,} human variants, rare against common, by models of human and three apes.")
    say(f"Figure: {run.path / 'figures' / 'demo.png'}")
    say(f"Run folder: {run.path} ({time.perf_counter() - start:.0f} s)")
    say(page_line("r2mae-dna", run.path))


def verdict(records: list[Record], schemes: Sequence[str]) -> list[str]:
    """Return whether pretraining shows in the rat's letters, for every scheme, in words."""
    names = [scheme_name(scheme(name, "dna"), "dna") for name in schemes]
    found = [record for record in records if record.task == RAT_TASK]
    return positive_control(found, names, {"pairwise_accuracy": "max", "auroc": "max"}).lines()


def demo(config: Demo) -> RunFolder:
    """Build, pretrain, score and evaluate; the records and the figure are in the run folder."""
    with one_thread():
        device = resolve_device(config.device)
        rows = {name: scheme_name(scheme(name, "dna"), "dna") for name in config.schemes}  # refused before any training
        facts = {"samples": samples_digest(APES, VARIANTS, VERTEBRATES)}
        with open_run("r2mae-dna", "demo", config.out, resolved(config), facts=facts, shared=True) as run:
            mouse, apes = (make(run.path, config.window, device) for make in (Bundled.mouse, Bundled.prepare))
            info = WindowSet(mouse.data).info
            say(
                f"Mouse and {info.n_species} mammals, chr10: {info.counts['train']:,} windows of {info.window} bases; "
                f"{len(config.schemes)} schemes × {len(config.seeds)} seeds on {device_name(device)}"
            )
            walk_grid(run, _cells(config, run, mouse, apes))
            run.save_figure("demo.png", _figure(config, run, mouse, rows))
            return run


def _cells(config: Demo, run: RunFolder, mouse: Bundled, apes: Bundled) -> dict[str, Measure]:
    """Return folder → work: floors, models of the mouse, and for the first seed models of the apes."""

    def recipe(data: Path) -> Pretrain:
        return small_recipe(
            data, config.steps, n_hidden=config.n_hidden, n_layers=config.n_layers, lr=config.lr,
            batch_size=config.batch_size, device=mouse.device, progress=config.progress,
        )  # fmt: skip

    first = partial(cell_name, config.schemes[0])
    floors: dict[str, Callable[[Path], list[Record]]] = {FREQUENCIES: partial(_floor, mouse)}
    for seed in config.seeds:
        floors[f"untrained-{seed}"] = partial(_untrained, mouse, replace(recipe(mouse.data), seed=seed))
    models = grid(config.schemes, config.seeds, recipe(mouse.data), partial(_trained, mouse), mouse.device)
    shuffled = {f"shuffled-{seed}": partial(_shuffled, mouse, run.path / first(seed), seed) for seed in config.seeds}
    second = grid(config.schemes, config.seeds[:1], recipe(apes.data), apes.pretrain, apes.device)
    return {
        **{name: timed(work, mouse.device) for name, work in floors.items()},
        **models,
        **{name: timed(work, mouse.device) for name, work in shuffled.items()},
        f"apes-{FREQUENCIES}": timed(apes.floor, apes.device),
        **{f"apes-{name}": work for name, work in second.items()},
    }


def _trained(mouse: Bundled, options: Pretrain, home: Path) -> list[Record]:
    """Pretrain and measure."""
    run = pretrain(replace(options, out=home / "pretrain"))
    return _measured(mouse, run.path, home, *run_identity(run.path, "dna"))


def _untrained(mouse: Bundled, options: Pretrain, home: Path) -> list[Record]:
    """Measure the network with which the training of this seed begins."""
    from r2mae_dna.model import AlignmentModel

    shape = model_shape(options, WindowSet(mouse.data).info.n_species)
    return _measured(mouse, _save(mouse, AlignmentModel(shape, options.seed), home), home, NO_PRETRAINING, options.seed)


def _shuffled(mouse: Bundled, trained: Path, seed: int, home: Path) -> list[Record]:
    """Measure a trained network whose weights are permuted, each tensor in itself."""
    model = load_model(trained / "pretrain").model
    permute_weights(model, seed)
    return _measured(mouse, _save(mouse, model, home), home, SHUFFLED_WEIGHTS, seed)


def _save(mouse: Bundled, model: "AlignmentModel", home: Path) -> Path:
    out = home / "model"
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, out, AlignmentStore(mouse.store).species, window=mouse.window)
    return out


def _measured(mouse: Bundled, model: Path, home: Path, name: str, seed: int) -> list[Record]:
    """Score the rat's changes; then predict hidden bases of held-out windows."""
    values = probe_model(
        load_model(model).model, WindowSet(mouse.data), WindowSet(mouse.data, "test"), ratios=(RATIO,),
        max_windows=HELD_OUT, batch_size=BATCH_SIZE, device=mouse.device,
    )  # fmt: skip
    return [*mouse.score(str(model), home, name, seed), *_hidden(mouse, values, name, seed)]


def _hidden(mouse: Bundled, values: dict[str, float], name: str, seed: int) -> list[Record]:
    n = min(HELD_OUT, len(WindowSet(mouse.data, "test")))
    metrics = [f"{metric}@{RATIO:g}" for metric in ("accuracy", "loss")]
    return [Record(RAT_TASK, metric, values[metric], name, seed, n) for metric in metrics]


def _floor(mouse: Bundled, home: Path) -> list[Record]:
    """Measure what needs no network: the letters of the column, and these with ties broken by transitions."""
    import polars as pl

    records, column = mouse.floor(home), score_column("llr")
    frame, table = read_frame(mouse.scores(home)), home / "transitions.tsv"
    transition = (pl.col("ref") + pl.col("alt")).is_in(["AG", "GA", "CT", "TC"])
    frame.with_columns(pl.col(column) + transition * 1e-3).write_csv(table, separator="\t")
    values = probe_plurality(
        WindowSet(mouse.data), WindowSet(mouse.data, "test"), ratios=(RATIO,), max_windows=HELD_OUT,
        batch_size=BATCH_SIZE,
    )  # fmt: skip
    return [*records, *_hidden(mouse, values, FREQUENCIES, 0), *mouse.evaluate(table, TRANSITIONS, 0)]


def _figure(config: Demo, run: RunFolder, mouse: Bundled, rows: dict[str, str]) -> object:
    def home(name: str, seed: int) -> Path:
        return run.path / cell_name(name, seed) / "pretrain"

    curves = {
        row: {str(seed): read_metrics(home(name, seed) / "metrics.csv").get("loss", []) for seed in config.seeds}
        for name, row in rows.items()
    }
    logos = _logos(mouse, {row: home(name, config.seeds[0]) for name, row in rows.items()})
    panels = {
        "rat's letter against the two others of a site": (RAT_TASK, "pairwise_accuracy"),
        f"hidden bases of the mouse ({RATIO:.0%})": (RAT_TASK, f"accuracy@{RATIO:g}"),
        "human variants, rare against common": (TASK, "auroc"),
    }
    return plot_demo(run.results(), curves, panels, logos, LOGO[3], LOGO_TITLE)


def _logos(mouse: Bundled, models: dict[str, Path]) -> list[tuple[str, np.ndarray, str, int]]:
    """Return what each scheme's first model, and the other species, expect at every base of a region."""
    import torch

    from r2mae_dna.model import both_strands

    chromosome, first, length, _ = LOGO
    half = mouse.window // 2
    block = AlignmentStore(mouse.store).read(chromosome, first - 1 - half, first - 1 + length + half)
    windows = np.stack([block[i : i + mouse.window] for i in range(length)])
    reference = decode(block[half : half + length, 0]).upper()
    column = windows[:, half, 1:]
    counts = (column[..., None] == np.arange(1, 5)).sum(1) + 0.1
    title = f"letters of the {column.shape[1]} other species"
    logos = [(title, counts / counts.sum(1, keepdims=True), reference, first)]
    codes = torch.from_numpy(windows & TOKEN_BITS).to(mouse.device)
    for row, folder in models.items():
        model = load_model(folder).model.to(mouse.device)
        with torch.inference_mode():
            logos.append((row, both_strands(model, codes).softmax(-1).cpu().numpy(), reference, first))
    return logos
