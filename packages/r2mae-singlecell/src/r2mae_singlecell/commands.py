"""What the commands do, beside `pretrain`, `demo` and `reproduce`: read, call, print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from r2mae_core import Record, RunFolder, UserError, compare, compare_runs, write_records
from r2mae_core.commands import resolved, say
from r2mae_core.devices import resolve_device
from r2mae_core.files import atomic_path, write_text
from r2mae_core.run_folder import default_run_path
from r2mae_singlecell import options
from r2mae_singlecell.baselines import (
    BaselineSettings,
    baseline_embedding,
    check_baseline,
    scvi_predictor,
    train_scvi,
)
from r2mae_singlecell.evaluate import TASKS, ProbeResult, Protocol, Task, probe_embedding, reconstruction_pearson
from r2mae_singlecell.pretrain import pretraining_split, read_prepared
from r2mae_singlecell.records import RANK_BY, stamped


def simulate(config: options.Simulate) -> None:
    """Run `r2mae-singlecell simulate`."""
    from r2mae_singlecell.data.simulate import Simulation, write_atlas

    names = [name for name in Simulation.__dataclass_fields__ if hasattr(config, name)]
    write_atlas(Simulation(**{name: getattr(config, name) for name in names}), config.target, config.layout)
    say(f"{config.target}: {config.n_cells:,} made-up cells of {config.n_donors} donors, laid out as {config.layout}")


def prepare(config: options.Prepare) -> None:
    """Run `r2mae-singlecell prepare`."""
    from r2mae_singlecell.data.prepare import prepare_atlas

    columns = {name: getattr(config, name) for name in ("counts", "donor", "batch", "cell_type", "disease", "age")}
    prepared = prepare_atlas(
        config.source,
        config.target,
        config.preset,
        columns,
        n_genes=config.n_genes,
        min_genes=config.min_genes,
        target_sum=config.target_sum,
        progress=config.progress,
    )
    for line in prepared.lines():
        say(line)


def embed(config: options.Embed) -> None:
    """Run `r2mae-singlecell embed`."""
    import anndata

    adata = read_prepared(config.data)
    model = load_run(config.run, adata, config.device)
    out = anndata.AnnData(obs=adata.obs, obsm={"X_r2mae": model.get_latent_representation()})
    with atomic_path(config.target) as temporary:
        out.write_h5ad(temporary)
    say(f"{config.target}: {out.n_obs:,} cells, obsm['X_r2mae'] with {out.obsm['X_r2mae'].shape[1]} dimensions")


def probe_command(config: options.Probe) -> RunFolder:
    """Run `r2mae-singlecell probe`."""
    adata = read_prepared(config.data)
    tasks = chosen_tasks(adata, config.tasks)
    identities = run_identities(config.runs)
    for name in config.baselines:
        check_baseline(name)
    run = RunFolder(config.out or default_run_path("r2mae-singlecell", "probe"), resolved(config))
    device = resolve_device(config.device)
    protocol = Protocol(config.n_splits, config.train_share, config.max_cells, config.standardize, seed=config.seed)
    result = ProbeResult()
    for path, (scheme, seed) in identities.items():
        embedding = load_run(path, adata, device).get_latent_representation()
        add(result, probe_embedding(embedding, adata.obs, tasks, protocol, scheme=scheme, seed=seed))
    settings = BaselineSettings(config.epochs, device=device, seed=config.seed)
    for name in config.baselines:
        add(result, probe_baseline(name, adata, tasks, protocol, settings))
    return finish(
        run, stamped(result.records, device), result.notes, f"{config.data.name}, {config.n_splits} donor divisions"
    )


def reconstruct(config: options.Reconstruct) -> RunFolder:
    """Run `r2mae-singlecell reconstruct`."""
    adata = read_prepared(config.data)
    identities = run_identities(config.runs)
    run = RunFolder(config.out or default_run_path("r2mae-singlecell", "reconstruct"), resolved(config))
    device = resolve_device(config.device)
    cells = pretraining_split(adata.n_obs)[1][: config.max_cells]
    records: list[Record] = []
    common: dict[str, Any] = {"ratios": config.ratios, "genes": config.genes}
    counts = adata.to_memory().X if adata.isbacked else adata.X
    for path, (scheme, seed) in identities.items():
        predict = load_run(path, adata, device).predict_proportions
        records += reconstruction_pearson(predict, counts, cells, scheme=scheme, seed=seed, **common)
    for name in config.baselines:
        if not name.startswith("scvi"):
            raise UserError(f"{name!r} predicts no genes; scvi and scvi=N do")
        model = train_scvi(name, adata, BaselineSettings(config.epochs, device=device, seed=config.seed))
        records += reconstruction_pearson(scvi_predictor(model), counts, cells, scheme=name, seed=config.seed, **common)
    return finish(run, stamped(records, device), [], f"{config.data.name}, Pearson over {config.genes} genes")


def compare_command(config: options.Compare) -> None:
    """Run `r2mae-singlecell compare`."""
    table = compare_runs(config.runs, RANK_BY)
    say(table.markdown() if config.markdown else table.rich())


def chosen_tasks(adata: Any, names: Sequence[str]) -> list[Task]:
    """Return the preset's tasks among the names.

    Raises:
        UserError: a name is no task.
    """
    known = {task.name: task for task in TASKS[str(adata.uns["r2mae"]["preset"])]}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"unknown task {unknown[0]!r}; known: {', '.join(known)}")
    return [known[name] for name in names]


def probe_baseline(
    name: str, adata: Any, tasks: Sequence[Task], protocol: Protocol, settings: BaselineSettings
) -> ProbeResult:
    """Probe a baseline; "shuffled" is the expression with shuffled training labels."""
    from dataclasses import replace

    embedding = baseline_embedding(name, adata, settings)
    protocol = replace(protocol, shuffle_labels=name == "shuffled")
    return probe_embedding(embedding, adata.obs, tasks, protocol, scheme=name, seed=settings.seed)


def load_run(path: Path, adata: Any, device: str) -> Any:
    """Return the model of a run folder.

    Raises:
        UserError: the folder holds no finished run.
    """
    import scvi

    from r2mae_singlecell.r2mae import R2MAE

    scvi.settings.verbosity = 30
    if not (path / "model" / "model.json").exists():
        unfinished = (path / "config.yaml").exists()
        raise UserError(
            f"{path} holds no trained model"
            + ("; its training did not end: run the same pretrain command with --out again" if unfinished else "")
        )
    return R2MAE.from_export(path / "model", adata, device=resolve_device(device))


def run_identities(paths: Sequence[Path]) -> dict[Path, tuple[str, int]]:
    """Return run folder → (scheme, seed).

    Raises:
        UserError: a folder is none of `pretrain`, or two have the same scheme and seed, so a table would mix them up.
    """
    found: dict[Path, tuple[str, int]] = {}
    for path in paths:
        try:
            config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
            identity = str(config["scheme"]), int(config["seed"])
        except (OSError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no run folder of pretrain: {error}") from None
        if identity in found.values() or path in found:
            raise UserError(f"two runs are {identity[0]} with seed {identity[1]}; judge them in two calls")
        found[path] = identity
    return found


def add(result: ProbeResult, more: ProbeResult) -> None:
    """Append the second result to the first."""
    result.records += more.records
    result.notes += [note for note in more.notes if note not in result.notes]


def finish(
    run: RunFolder, records: list[Record], notes: Sequence[str], title: str, file: str = "results.json"
) -> RunFolder:
    """Write results and table into the run folder, and print them."""
    path = write_records(run.path / file, records)
    table = compare(records, RANK_BY)
    write_text(run.path / ("table.md" if file == "results.json" else f"{path.stem}.md"), table.markdown())
    say(table.rich(title))
    for note in notes:
        say(f"Note: {note}")
    say(f"Run folder: {run.path}")
    return run
