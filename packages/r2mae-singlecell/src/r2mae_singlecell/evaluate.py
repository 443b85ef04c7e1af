"""`probe`, `reconstruct` and `compare`: prediction for unseen donors, and of hidden genes (C.8)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    Compare,
    Direction,
    Record,
    RunFolder,
    UserError,
    check_output,
    derived_seed,
    device_name,
    open_run,
    print_comparison,
    read_text,
    resolve_device,
    resolved,
    run_identities,
    say,
    show_table,
    stamped,
    write_text,
)
from r2mae_singlecell import options
from r2mae_singlecell.baselines import BaselineSettings, check_baseline, scvi_predictor, train_scvi
from r2mae_singlecell.data.count_rows import CountRows
from r2mae_singlecell.data.prepared import data_source, read_prepared
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.divisions import TASKS, Protocol, Task, named_donors
from r2mae_singlecell.measured import Measured, measured_in_data
from r2mae_singlecell.pretrain import check_run, load_run, model_digest
from r2mae_singlecell.probing import ProbeResult, probe_baseline, probe_embedding
from r2mae_singlecell.reconstruction import RATIOS, left_out, reconstruction_pearson

PROBE_METRICS = ("balanced_accuracy", "macro_f1", "auroc_cell", "auroc_donor", "spearman_cell", "spearman_donor")
RANK_BY: dict[str, Direction] = {
    **dict.fromkeys(PROBE_METRICS, "max"),
    **{f"pearson@{ratio:g}": "max" for ratio in RATIOS},
    **{f"loss@{ratio:g}": "min" for ratio in RATIOS},
}
"""What the tables of this package rank by."""


def probe(config: options.Probe) -> RunFolder:
    """Probe the embeddings of pretrained models, and of baselines, across donors.

    Returns:
        The run folder: `results.json`, and `notes.txt` if there is something to note.

    Raises:
        UserError: what `probe_embedding` refuses; a folder holds no finished model, or one of other genes; a baseline
            is unknown; the output is an input.
    """
    identities, adata, sources = _opened(config, "probe RUN... DATA")
    chosen_tasks(config, adata)  # refused before a folder is made
    for name in config.baselines:
        check_baseline(name, adata)
    device, free = resolve_device(config.device), ("runs", "data")
    with open_run(
        "r2mae-singlecell", "probe", config.out, resolved(config), sources=sources, free=free, models=identities
    ) as run:
        result = _probed(config, identities, adata, device)
        write_notes(run, result.notes)
        run.write_results(stamped(result.records, device_name(device)))
        return run


def _opened(
    config: options.Probe | options.Reconstruct, usage: str
) -> tuple[dict[Path, tuple[str, int]], Any, dict[str, str]]:
    """Open what an evaluation reads, and refuse what does not fit before anything is written.

    Returns:
        Run folder → (scheme, seed); the data; and what names the content of both, wherever it lies.

    Raises:
        UserError: a folder holds no finished model, or one of other genes; two have the same name in tables; the output
            is an input.
    """
    refuse_data(config.runs, usage)
    if not config.runs and not config.baselines:
        raise UserError("there is nothing to evaluate: give run folders or --baselines")
    identities = run_identities(config.runs, "singlecell")
    if config.out is not None:
        check_output(config.out, [*config.runs, config.data])
    adata = read_prepared(config.data)
    for path in identities:
        check_run(path, adata)
    models = {f"RUN {i}": f"weights, {model_digest(path)}" for i, path in enumerate(identities, 1)}
    return identities, adata, {**data_source(adata), **models}


def _probed(config: options.Probe, identities: dict[Path, tuple[str, int]], adata: Any, device: str) -> ProbeResult:
    tasks, result = chosen_tasks(config, adata)
    protocol = probing_protocol(config)
    settings = BaselineSettings(config.epochs, device=device, seed=config.seed)
    for path, (scheme, seed) in identities.items():
        model = load_run(path, adata, device)

        def rows(cells: np.ndarray, model: Any = model) -> np.ndarray:
            return model.get_latent_representation(indices=cells)

        result.add(probe_embedding(rows, adata.obs, tasks, protocol, scheme=scheme, seed=seed))
    for name in config.baselines:
        result.add(probe_baseline(name, adata, tasks, protocol, settings))
    return result


def probing_protocol(config: options.Probe) -> Protocol:
    """Return the protocol that the options describe."""
    return Protocol(
        n_splits=config.n_splits,
        train_share=config.train_share,
        max_cells=config.max_cells,
        standardize=config.standardize,
        held_out=config.held_out,
        seed=config.seed,
    )


def chosen_tasks(config: options.Probe, adata: Any) -> tuple[list[Task], ProbeResult]:
    """Return the tasks that are named, or those that the data have values for, and notes on the others.

    Raises:
        UserError: nothing can be predicted, or the donors are missing.
    """
    known, result = TASKS[str(adata.uns["r2mae"]["preset"])], ProbeResult()
    if config.held_out == "donors":
        named_donors(adata.obs)
    if config.tasks is not None:
        return [task for task in known if task.name in config.tasks], result
    there = [task for task in known if task.name in adata.obs and adata.obs[task.name].notna().any()]
    missing = ", ".join(task.name for task in known if task not in there)
    if not there:
        raise UserError(
            f"{config.data} has no value of {missing}, so there is nothing to predict; name a column when the data are "
            "prepared: `r2mae-singlecell prepare … --cell_type_column COLUMN`"
        )
    if missing:
        result.note(f"not predicted, because the data have no values: {missing}")
    return there, result


def probe_command(config: options.Probe) -> None:
    """Run `r2mae-singlecell probe`."""
    run = probe(config)
    divided = "donors" if config.held_out == "donors" else "cells"
    title = f"{config.data.name}, {config.n_splits} divisions of the {divided}"
    show_table(run, run.results(), RANK_BY, title, average=True)
    for note in notes(run):
        say(f"Note: {note}")
    say(f"Done: {run.path} (results.json, table.md)")


def reconstruct(config: options.Reconstruct) -> RunFolder:
    """Evaluate the prediction of hidden genes by pretrained models, and by baselines, in held-out cells.

    Returns:
        The run folder: `results.json`, and `notes.txt` if genes or cells were left out.

    Raises:
        UserError: a folder holds no finished model, or one of other genes; a baseline does not predict genes; no cell
            is held out; the output is an input.
    """
    for name in config.baselines:
        if not name.startswith("scvi"):
            raise UserError(f"{name!r} does not predict genes; scvi and scvi=N do")
        check_baseline(name)
    identities, adata, sources = _opened(config, "reconstruct RUN... DATA")
    cells = some_cells(held_out_cells(adata), config.max_cells)
    device, free = resolve_device(config.device), ("runs", "data")
    with open_run(
        "r2mae-singlecell", "reconstruct", config.out, resolved(config), sources=sources, free=free, models=identities
    ) as run:
        measured = measured_in_data(adata, None, adata.n_vars)
        records = _reconstructed(config, identities, adata, cells, measured, device)
        write_notes(run, left_out(measured, cells, records))
        run.write_results(stamped(records, device_name(device)))
        return run


def _reconstructed(
    config: options.Reconstruct,
    identities: dict[Path, tuple[str, int]],
    adata: Any,
    cells: np.ndarray,
    measured: Measured,
    device: str,
) -> list[Record]:
    counts = CountRows(adata.X)
    common: dict[str, Any] = {"task": config.data.stem, "ratios": config.ratios, "genes": config.genes}
    common["measured"] = measured
    records: list[Record] = []
    for path, (scheme, seed) in identities.items():
        predict = load_run(path, adata, device).predict_proportions
        records += reconstruction_pearson(predict, counts, cells, scheme=scheme, seed=seed, **common)
    for name in config.baselines:
        model = train_scvi(name, adata, BaselineSettings(config.epochs, device=device, seed=config.seed))
        predict = scvi_predictor(model)
        records += reconstruction_pearson(predict, counts, cells, scheme=name, seed=config.seed, **common)
    return records


def held_out_cells(adata: Any) -> np.ndarray:
    """Return the cells that no model was trained on.

    Raises:
        UserError: there are none.
    """
    cells = pretraining_split(adata.n_obs)[1]
    if not len(cells):
        raise UserError(f"{adata.n_obs} cells are too few: none of them is held out from the training")
    return cells


def some_cells(cells: np.ndarray, n: int | None) -> np.ndarray:
    """Return at most `n` of the cells, drawn at random and the same for every method and seed; None: all."""
    if n is None or n >= len(cells):
        return cells
    rng = np.random.default_rng(derived_seed(0, "validation cells"))
    return np.sort(rng.choice(cells, n, replace=False))


def reconstruct_command(config: options.Reconstruct) -> None:
    """Run `r2mae-singlecell reconstruct`."""
    run = reconstruct(config)
    n = pretraining_split(read_prepared(config.data).n_obs)[1].size
    cells = f"all {n:,} validation cells"
    if config.max_cells is not None and config.max_cells < n:
        cells = f"{config.max_cells:,} random ones of {n:,} validation cells"
    show_table(run, run.results(), RANK_BY, f"{config.data.name}, Pearson over {config.genes} genes, {cells}")
    for note in notes(run):
        say(f"Note: {note}")
    say(f"Done: {run.path} (results.json, table.md)")


def compare_command(config: Compare) -> None:
    """Run `r2mae-singlecell compare`."""
    print_comparison(config, RANK_BY)


def refuse_data(runs: Sequence[Path], usage: str) -> None:
    """Refuse a data file where a run folder is expected.

    Raises:
        UserError: it gives the order of the arguments.
    """
    for path in runs:
        if path.suffix == ".h5ad":
            raise UserError(f"{path} is a data file, not a run folder; the order is r2mae-singlecell {usage}")


def write_notes(run: RunFolder, lines: Sequence[str]) -> None:
    """Write notes on the results to the run folder, one per line."""
    if lines:
        write_text(run.path / "notes.txt", "\n".join(lines) + "\n")


def notes(run: RunFolder) -> list[str]:
    """Return what `write_notes` wrote."""
    file = run.path / "notes.txt"
    return read_text(file).splitlines() if file.exists() else []
