"""`probe`, `reconstruct` and `compare`: prediction for unseen donors, and of hidden genes (C.8)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import (
    Compare,
    Direction,
    Record,
    RunFolder,
    UserError,
    check_output,
    device_name,
    open_run,
    print_comparison,
    read_text,
    report,
    resolve_device,
    resolved,
    run_identities,
    say,
    stamped,
    write_text,
)
from r2mae_singlecell import options
from r2mae_singlecell.baselines import (
    BaselineSettings,
    baseline_embedding,
    check_baseline,
    scvi_predictor,
    train_scvi,
)
from r2mae_singlecell.data.prepared import data_source, read_prepared
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.pretrain import check_run, load_run, model_digest
from r2mae_singlecell.probing import TASKS, Protocol, Task, donor_split, measure
from r2mae_singlecell.reconstruction import RATIOS, reconstruction_pearson

PROBE_METRICS = ("balanced_accuracy", "macro_f1", "auroc_cell", "auroc_donor", "spearman_cell", "spearman_donor")
RANK_BY: dict[str, Direction] = {
    **dict.fromkeys(PROBE_METRICS, "max"),
    **{f"pearson@{ratio:g}": "max" for ratio in RATIOS},
    **{f"loss@{ratio:g}": "min" for ratio in RATIOS},
}
"""What the tables of this package rank by."""


@dataclass
class ProbeResult:
    """Records, and notes on what is special about them."""

    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, more: "ProbeResult") -> None:
        """Append another result to this one."""
        self.records += more.records
        self.notes += [note for note in more.notes if note not in self.notes]


def probe(config: options.Probe) -> RunFolder:
    """Probe the embeddings of pretrained models, and of baselines, across donors.

    Returns:
        The run folder: `results.json`, and `notes.txt` if there is something to note.

    Raises:
        UserError: what `probe_embedding` refuses; a folder holds no finished model, or one of other genes; a baseline
            is unknown; the output is an input.
    """
    identities, adata, sources = _opened(config, "probe RUN... DATA")
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


def _probed(config: options.Probe, identities: dict[Path, tuple[str, int]], adata: Any, device: str) -> "ProbeResult":
    tasks = [task for task in TASKS[str(adata.uns["r2mae"]["preset"])] if task.name in config.tasks]
    protocol = Protocol(config.n_splits, config.train_share, config.max_cells, config.standardize, seed=config.seed)
    settings, result = BaselineSettings(config.epochs, device=device, seed=config.seed), ProbeResult()
    for path, (scheme, seed) in identities.items():
        embedding = load_run(path, adata, device).get_latent_representation()
        result.add(probe_embedding(embedding, adata.obs, tasks, protocol, scheme=scheme, seed=seed))
    for name in config.baselines:
        result.add(probe_baseline(name, adata, tasks, protocol, settings))
    return result


def probe_command(config: options.Probe) -> None:
    """Run `r2mae-singlecell probe`."""
    run = probe(config)
    report(run, run.results(), RANK_BY, f"{config.data.name}, {config.n_splits} donor divisions")
    for note in notes(run):
        say(f"Note: {note}")
    say(f"Done: {run.path} (results.json, table.md)")


def reconstruct(config: options.Reconstruct) -> RunFolder:
    """Evaluate the prediction of hidden genes by pretrained models, and by baselines, in held-out cells.

    Returns:
        The run folder, with `results.json`.

    Raises:
        UserError: a folder holds no finished model, or one of other genes; a baseline does not predict genes; no cell
            is held out; the output is an input.
    """
    for name in config.baselines:
        if not name.startswith("scvi"):
            raise UserError(f"{name!r} does not predict genes; scvi and scvi=N do")
        check_baseline(name)
    identities, adata, sources = _opened(config, "reconstruct RUN... DATA")
    cells = held_out_cells(adata)[: config.max_cells]
    device, free = resolve_device(config.device), ("runs", "data")
    with open_run(
        "r2mae-singlecell", "reconstruct", config.out, resolved(config), sources=sources, free=free, models=identities
    ) as run:
        records = _reconstructed(config, identities, adata, cells, device)
        run.write_results(stamped(records, device_name(device)))
        return run


def _reconstructed(
    config: options.Reconstruct, identities: dict[Path, tuple[str, int]], adata: Any, cells: np.ndarray, device: str
) -> list[Record]:
    counts = adata.to_memory().X if adata.isbacked else adata.X
    common: dict[str, Any] = {"task": config.data.stem, "ratios": config.ratios, "genes": config.genes}
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


def reconstruct_command(config: options.Reconstruct) -> None:
    """Run `r2mae-singlecell reconstruct`."""
    run = reconstruct(config)
    report(run, run.results(), RANK_BY, f"{config.data.name}, Pearson over {config.genes} genes")
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


def probe_baseline(
    name: str, adata: Any, tasks: Sequence[Task], protocol: Protocol, settings: BaselineSettings
) -> ProbeResult:
    """Probe a baseline; "shuffled" is the expression with shuffled training labels."""
    embedding = baseline_embedding(name, adata, settings)
    protocol = replace(protocol, shuffle_labels=name == "shuffled")
    return probe_embedding(embedding, adata.obs, tasks, protocol, scheme=name, seed=settings.seed)


def probe_embedding(
    embedding: np.ndarray,
    obs: pd.DataFrame,
    tasks: Sequence[Task],
    protocol: Protocol | None = None,
    *,
    scheme: str = "embedding",
    seed: int = 0,
) -> ProbeResult:
    """Probe an embedding across donors.

    Args:
        embedding: (cells, features); a scipy sparse matrix is made dense for the cells that are used.
        obs: standard columns of the same cells: `donor`, `cell_type`, `disease`, `age`, `is_reference`.
        tasks: what to predict.
        protocol: how; None: the default.
        scheme: name of the method in the records.
        seed: seed of the method's pretraining.

    Raises:
        UserError: shapes differ, a value is NaN or infinite, a column is missing, there are too few donors, nothing is
            labelled, or no probe can be fitted.
    """
    protocol = protocol or Protocol()
    if embedding.shape[0] != len(obs):
        raise UserError(f"the embedding has {embedding.shape[0]} cells and obs has {len(obs)}")
    _refuse_gaps(embedding, obs, scheme)
    result = ProbeResult()
    for task in tasks:
        if task.name not in obs:
            raise UserError(f"obs has no column {task.name!r}; `r2mae-singlecell prepare` makes it")
        for split in range(protocol.n_splits):
            start = time.perf_counter()
            train, test = donor_split(obs, task, protocol, split)
            try:
                measured, note = measure(embedding, obs, task, protocol, split, train, test)
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                raise UserError(
                    f"{scheme}, {task.name}, donor division {split}: no probe can be fitted: {error}"
                ) from None
            if note:
                result.notes.append(f"{task.name}, donors {split}: {note}")
            seconds = time.perf_counter() - start
            result.records += [
                Record(task.name, metric, value, scheme, seed, n, f"test {split}", seconds)
                for metric, (value, n) in measured.items()
            ]
    return result


def _refuse_gaps(embedding: Any, obs: pd.DataFrame, scheme: str) -> None:
    """Refuse an embedding with NaN or infinite values.

    Raises:
        UserError: with the first such cell.
    """
    values = embedding.data if hasattr(embedding, "indptr") else np.asarray(embedding)
    if np.isfinite(values).all():
        return
    table = embedding.toarray() if hasattr(embedding, "indptr") else values
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    raise UserError(
        f"{scheme} has NaN or infinite values in {len(bad):,} cells, the first of them {obs.index[bad[0]]!r}; correct "
        "the embedding, or leave it out"
    )
