"""`reproduce`: computes the tables of `published` again (section 4.2, C.8)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2mae_core import (
    Curriculum,
    LinearDecay,
    MaskDraw,
    RatioSampler,
    Record,
    RunFolder,
    Slope,
    Uniform,
    UserError,
    cell_name,
    check_output,
    device_name,
    finished_records,
    open_run,
    page_line,
    precision,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    seconds_of,
    show_table,
    stamped,
    walk_grid,
    with_seed,
)
from r2mae_singlecell.baselines import BaselineSettings, check_baseline, scvi_predictor, train_scvi
from r2mae_singlecell.data.count_rows import CountRows
from r2mae_singlecell.data.prepared import data_source, read_prepared
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.divisions import TASKS, Protocol
from r2mae_singlecell.evaluate import RANK_BY, held_out_cells, notes, write_notes
from r2mae_singlecell.measured import measured_in_data
from r2mae_singlecell.options import Pretrain, Reproduce
from r2mae_singlecell.pretrain import SingleCells, load_run, pretrain
from r2mae_singlecell.probing import ProbeResult, probe_baseline, probe_embedding
from r2mae_singlecell.published import ATLAS, COLUMNS, PROBES, PUBLISHED, ROWS, published
from r2mae_singlecell.reconstruction import left_out, reconstruction_pearson

LAST_MARK = 120_000
"""The last step that the paper names: a training that ends before it cannot follow the paper's numbers of steps."""
SLOPE_STEPS = {"hlca": 300_000, "seaad": 150_000}
"""Steps in which Dynamic MR would fall over its whole range (C.8)."""
LONG_STEP = 1.0
"""Seconds of a step above which a dry run measures smaller ones."""


@dataclass(frozen=True)
class Cell:
    """One method and one seed of a table."""

    name: str
    seed: int
    sampler: RatioSampler | None
    """None: a baseline."""

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return cell_name(self.name, self.seed)

    @property
    def scheme(self) -> str:
        """What its records call it."""
        return self.name if self.sampler is None else scheme_name(self.sampler, "singlecell")


def grid(config: Reproduce) -> list[Cell]:
    """Return the cells of a table in the order of its rows."""
    probing = config.target in PROBES
    baselines = [name for name in config.baselines if probing or name.startswith("scvi")]
    once = config.seeds[:1]  # nothing is drawn in the expression itself, or in an embedding that is given
    cells = [
        Cell(name, seed, None) for name in baselines for seed in (config.seeds if name.startswith("scvi") else once)
    ]
    samplers = {name: scheme(name, "singlecell") for name in config.schemes}
    return cells + [Cell(name, seed, with_seed(s, seed)) for name, s in samplers.items() for seed in config.seeds]


def reproduce_command(config: Reproduce) -> None:
    """Run `r2mae-singlecell reproduce`."""
    adata = read_prepared(config.data)
    _check_cells(config, adata, grid(config))
    preset = str(adata.uns["r2mae"]["preset"])
    if not preset.startswith(ATLAS[config.target]):
        say(f"Note: {config.target} is of {ATLAS[config.target]}, and {config.data} is laid out as {preset}.")
    if config.dry_run:
        _dry_run(config, adata.n_obs)
        return
    for line in readings(config, adata.n_obs):
        say(f"Note: {line}")
    run = reproduce(config)
    own = finished(run, config.target)
    over = "seeds and donor divisions" if config.target in PROBES else "seeds"
    title, probing = f"{config.target} on {config.data.name}, mean ± sd over {over}", config.target in PROBES
    show_table(run, own, RANK_BY, title, name=config.target, average=probing)
    for note in dict.fromkeys(note for cell in grid(config) for note in notes(_evaluation(config, run, cell))):
        say(f"Note: {note}")
    for line in missing_rows(config):
        say(f"Note: {line}")
    say(f"Done: {run.path} (results.json, {config.target}.md)")
    say(page_line("r2mae-singlecell", run.path))


def reproduce(config: Reproduce) -> RunFolder:
    """Train and evaluate what is missing of a table, with a line for each cell, and return the run folder."""
    if config.out is not None:
        check_output(config.out, [config.data])
    adata, device, cells = read_prepared(config.data), resolve_device(config.device), grid(config)
    _check_cells(config, adata, cells)
    # A grid may be widened, and both kinds of table come from the same models; cells know what they depend on.
    free, sources = (*_OF_GRID, "target", *_OF_PROBES), data_source(adata)
    with open_run(
        "r2mae-singlecell", "reproduce", config.out, resolved(config), sources=sources, free=free, shared=True
    ) as run:
        for cell in cells:
            _evaluation(config, run, cell)  # refused before anything is trained, if its settings were others
        measures = {cell.folder: partial(_measure, config, adata, run, device, cell) for cell in cells}
        walk_grid(run, measures, part=config.target, tidy=lambda own: finished(run))
        return run


_OF_PROBES = ("n_splits", "train_share", "max_cells", "standardize")
"""Options that no training depends on, nor table 7 or 8."""
_OF_GRID = ("schemes", "baselines", "seeds", "data")
"""Options that say which cells there are, and where the data lie; the data themselves have a digest."""


def _check_cells(config: Reproduce, adata: Any, cells: Sequence[Cell]) -> None:
    """Refuse a grid that has nothing to do, or that would stop at a later cell.

    Raises:
        UserError: a baseline is not one, or is none of this table; nothing is left.
    """
    for cell in cells:
        if cell.sampler is None:
            check_baseline(cell.name, adata)
    if not cells:
        raise UserError(f"{config.target} has no rows: give --schemes, or baselines that predict what it measures")
    if config.target not in PROBES:
        held_out_cells(adata)


def finished(run: RunFolder, target: str | None = None) -> list[Record]:
    """Return the records of all finished cells, of one table or of all that are in the folder, in the order of rows."""
    targets = (target,) if target else tuple(COLUMNS)
    rows = {name: i for i, name in enumerate(ROWS)}
    folders = (path.name for path in run.path.iterdir() if path.is_dir())
    order = sorted(folders, key=lambda folder: (rows.get(folder.rpartition("-")[0], -1), folder))
    return [record for table in targets for record in finished_records(run, order, table)]


def _evaluation(config: Reproduce, run: RunFolder, cell: Cell) -> RunFolder:
    """Return the folder of a cell's results in this table."""
    others = {*_OF_GRID, *(() if config.target in PROBES else _OF_PROBES)}
    settings = {key: value for key, value in resolved(config).items() if key not in others}
    return RunFolder(run.path / cell.folder / config.target, settings, facts={"method": cell.name, "seed": cell.seed})


def _measure(config: Reproduce, adata: Any, run: RunFolder, device: str, cell: Cell, home: Path) -> list[Record]:
    """Evaluate a cell, training its model if no other table has."""
    result = _evaluated(config, adata, run, device, cell)
    write_notes(RunFolder.open(home), result.notes)
    records = stamped(result.records, device_name(device))
    return [replace(r, paper=published(config.target, cell.name, r.task, r.metric)) for r in records]


def _evaluated(config: Reproduce, adata: Any, run: RunFolder, device: str, cell: Cell) -> ProbeResult:
    settings = BaselineSettings(config.epochs, config.batch_size, device=device, seed=cell.seed)
    if config.target in PROBES:
        tasks = TASKS[str(adata.uns["r2mae"]["preset"])]
        protocol = Protocol(config.n_splits, config.train_share, config.max_cells, config.standardize)
        if cell.sampler is None:
            return probe_baseline(cell.name, adata, tasks, protocol, settings)
        model = _model(config, adata, run, cell)

        def rows(indices: np.ndarray) -> np.ndarray:
            return model.get_latent_representation(indices=indices)

        return probe_embedding(rows, adata.obs, tasks, protocol, scheme=cell.scheme, seed=cell.seed)
    if cell.sampler is None:
        predict = scvi_predictor(train_scvi(cell.name, adata, settings))
    else:
        predict = _model(config, adata, run, cell).predict_proportions
    cells, task = held_out_cells(adata), ATLAS[config.target]
    counts, measured = CountRows(adata.X), measured_in_data(adata, None, adata.n_vars)
    common: dict[str, Any] = {"task": task, "scheme": cell.scheme, "seed": cell.seed, "measured": measured}
    records = reconstruction_pearson(predict, counts, cells, **common)
    return ProbeResult(records, left_out(measured, cells, records))


def _model(config: Reproduce, adata: Any, run: RunFolder, cell: Cell) -> Any:
    """Return the trained model of a cell: another table's, if it was trained for that."""
    options = _pretrain_options(config, cell, adata.n_obs, run.path / cell.folder / "pretrain")
    return load_run(pretrain(options).path, adata, config.device)


def _pretrain_options(config: Reproduce, cell: Cell, n_cells: int, out: Path | None = None) -> Pretrain:
    n_steps = training_steps(config, n_cells)
    sampler = cell.sampler
    if sampler is not None and not _scaled(config.scale_dynamic, n_steps):
        sampler = with_stated_slope(sampler, ATLAS[config.target])
    return Pretrain(
        data=config.data,
        mask_ratio=sampler or "fixed",
        scale_curriculum=_scaled(config.scale_curriculum, n_steps),
        n_hidden=config.n_hidden,
        n_latent=config.n_latent,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=cell.seed,
        precision=config.precision,
        device=config.device,
        out=out,
        progress=config.progress,
    )


def training_steps(config: Reproduce, n_cells: int) -> int:
    """Return the optimizer steps of every training on so many cells."""
    n_training = len(pretraining_split(n_cells)[0])
    return config.epochs * (n_training // min(config.batch_size, n_training))


def _scaled(wanted: bool | None, n_steps: int) -> bool:
    """Return whether the paper's numbers of steps are scaled to a training: as wanted, or if it is too short."""
    return n_steps < LAST_MARK if wanted is None else wanted


def with_stated_slope(sampler: RatioSampler, atlas: str) -> RatioSampler:
    """Return a sampler whose linear decay falls by the paper's share of its range at every step (C.8)."""
    if isinstance(sampler, LinearDecay):
        return Slope(sampler.start, (sampler.end - sampler.start) / SLOPE_STEPS[atlas], sampler.end)
    if isinstance(sampler, Uniform) and isinstance(sampler.high, LinearDecay):
        return replace(sampler, high=with_stated_slope(sampler.high, atlas))
    return sampler


def readings(config: Reproduce, n_cells: int) -> list[str]:
    """Return a line for each number that the paper states in steps, and how it is read here."""
    lines, n_steps, names = [], training_steps(config, n_cells), " ".join(config.schemes)
    length = f"a training of {n_steps:,} steps"
    if "cl" in names:
        how = "scaled to" if _scaled(config.scale_curriculum, n_steps) else "the paper's, in"
        lines.append(f"the curriculum's marks (5,000, 30,000 and 120,000 steps) are {how} {length}; --scale_curriculum")
    if "dynamic" in names:
        stated = SLOPE_STEPS[ATLAS[config.target]]
        if _scaled(config.scale_dynamic, n_steps):
            how = f"fall over all of {length}, not by the paper's 1/{stated:,} of the range a step"
        else:
            end = max(0.5 - 0.4 * n_steps / stated, 0.1)
            how = f"fall by the paper's 1/{stated:,} of the range a step, to {end:.3f} at the end of {length}"
        lines.append(f"dynamic schemes {how}; --scale_dynamic")
    return lines


def missing_rows(config: Reproduce) -> list[str]:
    """Return a line for the rows of the paper's table that this grid lacks, and how to get them."""
    there = {cell.name for cell in grid(config)}
    missing = [row for row in PUBLISHED[config.target] if row not in there]
    if not missing:
        return []
    named = ", ".join(f"{ROWS[row].removeprefix('– ')} ({row})" for row in missing)
    given = any(row.startswith("obsm:") for row in missing)
    how = "; an embedding of yours becomes a row by --baselines '[…,obsm:KEY]'" if given else ""
    return [f"rows of the paper that are not in this table: {named}{how}"]


def _dry_run(config: Reproduce, n_cells: int) -> None:
    """Print the grid, and what its training would cost by the time of a few steps."""
    device, cells = resolve_device(config.device), grid(config)
    say(f"{len(cells)} cells: {', '.join(dict.fromkeys(cell.name for cell in cells))}; seeds {list(config.seeds)}")
    for line in (*readings(config, n_cells), *missing_rows(config)):
        say(f"Note: {line}")
    trained = [cell for cell in cells if cell.sampler is not None or cell.name.startswith("scvi")]
    total, n_steps, seconds = 0.0, training_steps(config, n_cells), step_seconds(config, trained, device, n_cells)
    for name in dict.fromkeys(cell.name for cell in cells):
        own = [cell for cell in trained if cell.name == name]
        each = n_steps * seconds[isinstance(own[0].sampler, Curriculum)] if own else 0.0
        say(f"  {name}: {n_steps if own else 0:,} steps, about {each / 60:.1f} min of pretraining per seed")
        total += each * len(own)
    say(f"About {total / 3600:.1f} h of pretraining on {device_name(device)}; evaluation comes on top.")


def step_seconds(config: Reproduce, cells: Sequence[Cell], device: str, n_cells: int) -> dict[bool, float]:
    """Return the seconds of a training step, with a curriculum (True) or without, if there are such cells.

    All schemes of a kind cost the same; scVI is taken to cost what ours does without. Where a whole step takes long,
    two smaller ones are measured, and the line through them tells its time.
    """
    kinds = {isinstance(cell.sampler, Curriculum): cell for cell in cells}
    if not kinds:
        return {}
    task = SingleCells(_pretrain_options(config, next(iter(kinds.values())), n_cells))
    found = {}
    for kind, cell in kinds.items():
        sampler = task.sampler() if cell.sampler is None else cell.sampler
        step = _step(task, sampler, device)
        few, many = max(task.batch_size // 16, 2), max(task.batch_size // 8, 3)
        times = [seconds_of(partial(step, n), device, repeats=1) for n in (few, many)]
        slope = max(times[1] - times[0], 0.0) / (many - few)
        found[kind] = times[1] + slope * (task.batch_size - many)
        if found[kind] < LONG_STEP:
            found[kind] = seconds_of(partial(step, task.batch_size), device)
        else:
            say(f"  (a step of {task.batch_size} cells by steps of {few} and {many}: {found[kind]:.2f} s)")
    return found


def _step(task: SingleCells, sampler: RatioSampler, device: str) -> Callable[[int], None]:
    """Return a function that trains one step on so many cells."""
    plan: Any = task.build(sampler).to(device)
    plan.is_log_step = lambda: False
    optimizer = plan.configure_optimizers()
    half = precision(task.config.precision, device) == "bf16-mixed"

    def step(n_cells: int) -> None:
        batch = {key: value.to(device) for key, value in task.fetch(task.cells[:n_cells]).items()}
        generator = torch.Generator(device).manual_seed(0)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            multiplier = 1.0 if isinstance(sampler, Curriculum) else 0.0
            loss = plan.masked_loss(batch, MaskDraw(0.3, generator, 0, multiplier))
        loss.backward()
        optimizer.step()

    return step
