"""`reproduce`: computes the tables of `published` again (section 4.2, C.8)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2mae_core import (
    Curriculum,
    MaskDraw,
    RatioSampler,
    Record,
    RunFolder,
    UserError,
    cell_name,
    check_output,
    device_name,
    finished_records,
    open_run,
    precision,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    seconds_of,
    stamped,
    walk_grid,
    with_seed,
)
from r2mae_singlecell.baselines import BaselineSettings, check_baseline, scvi_predictor, train_scvi
from r2mae_singlecell.data.count_rows import CountRows
from r2mae_singlecell.data.prepared import data_source, read_prepared
from r2mae_singlecell.divisions import TASKS, Protocol
from r2mae_singlecell.evaluate import RANK_BY, held_out_cells, notes, write_notes
from r2mae_singlecell.options import Pretrain, Reproduce
from r2mae_singlecell.pretrain import SingleCells, load_run, pretrain
from r2mae_singlecell.probing import ProbeResult, probe_baseline, probe_embedding
from r2mae_singlecell.published import ATLAS, COLUMNS, PROBES, ROWS, published
from r2mae_singlecell.reconstruction import reconstruction_pearson


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
        _dry_run(config)
        return
    run = reproduce(config)
    own = finished(run, config.target)
    over = "seeds and donor divisions" if config.target in PROBES else "seeds"
    report(run, own, RANK_BY, f"{config.target} on {config.data.name}, mean ± sd over {over}", name=config.target)
    run.write_results(finished(run))  # of every table in the folder
    for note in dict.fromkeys(note for cell in grid(config) for note in notes(_evaluation(config, run, cell))):
        say(f"Note: {note}")
    say(f"Done: {run.path} (results.json, {config.target}.md)")


def reproduce(config: Reproduce) -> RunFolder:
    """Train and evaluate what is missing of a table, with a line for each cell, and return the run folder."""
    if config.out is not None:
        check_output(config.out, [config.data])
    adata, device, cells = read_prepared(config.data), resolve_device(config.device), grid(config)
    _check_cells(config, adata, cells)
    # A grid may be widened, and both kinds of table come from the same models; cells know what they depend on.
    free, sources = (*_OF_GRID, "target", "n_splits", "max_cells"), data_source(adata)
    with open_run(
        "r2mae-singlecell", "reproduce", config.out, resolved(config), sources=sources, free=free, shared=True
    ) as run:
        for cell in cells:
            _evaluation(config, run, cell)  # refused before anything is trained, if its settings were others
        measures = {cell.folder: partial(_measure, config, adata, run, device, cell) for cell in cells}
        walk_grid(run, measures, part=config.target, tidy=lambda own: finished(run))
        return run


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
    others = {*_OF_GRID, *(() if config.target in PROBES else ("n_splits", "max_cells"))}
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
        protocol = Protocol(n_splits=config.n_splits, max_cells=config.max_cells)
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
    counts = CountRows(adata.X)
    return ProbeResult(reconstruction_pearson(predict, counts, cells, task=task, scheme=cell.scheme, seed=cell.seed))


def _model(config: Reproduce, adata: Any, run: RunFolder, cell: Cell) -> Any:
    """Return the trained model of a cell: another table's, if it was trained for that."""
    options = _pretrain_options(config, cell, run.path / cell.folder / "pretrain")
    return load_run(pretrain(options).path, adata, config.device)


def _pretrain_options(config: Reproduce, cell: Cell, out: Path | None = None) -> Pretrain:
    return Pretrain(
        data=config.data,
        mask_ratio=cell.sampler or "fixed",
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


def _dry_run(config: Reproduce) -> None:
    """Print the grid, and what its training would cost by the time of a few steps."""
    device, cells = resolve_device(config.device), grid(config)
    say(f"{len(cells)} cells: {', '.join(dict.fromkeys(cell.name for cell in cells))}; seeds {list(config.seeds)}")
    total, seconds = 0.0, {}
    for cell in cells:
        if cell.name not in seconds:
            trained = cell.sampler is not None or cell.name.startswith("scvi")
            n_steps, each = _cost(_pretrain_options(config, cell), device) if trained else (0, 0.0)
            seconds[cell.name] = n_steps * each
            minutes = seconds[cell.name] / 60
            say(f"  {cell.name}: {n_steps:,} steps, about {minutes:.1f} min of pretraining per seed")
        total += seconds[cell.name]
    say(f"About {total / 3600:.1f} h of pretraining on {device_name(device)}; evaluation comes on top.")


def _cost(options: Pretrain, device: str) -> tuple[int, float]:
    """Return the steps of a pretraining and the seconds of one. scVI's are taken to cost what ours do."""
    task = SingleCells(options)
    sampler = task.sampler()
    plan: Any = task.build(sampler).to(device)
    plan.is_log_step = lambda: False
    optimizer = plan.configure_optimizers()
    batch = {key: value.to(device) for key, value in task.fetch(task.cells[: task.batch_size]).items()}
    half = precision(options.precision, device) == "bf16-mixed"

    def step() -> None:
        generator = torch.Generator(device).manual_seed(0)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            multiplier = 1.0 if isinstance(sampler, Curriculum) else 0.0
            loss = plan.masked_loss(batch, MaskDraw(0.3, generator, 0, multiplier))
        loss.backward()
        optimizer.step()

    return task.steps, seconds_of(step, device)
