"""Table 3 of the paper as a grid of experiments, and `reproduce`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    check_output,
    device_name,
    fingerprint,
    first_rank,
    micro_batch_size,
    one_thread,
    open_run,
    page_line,
    precision,
    refuse_options,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    seconds_of,
    show_table,
    walk_grid,
)
from r2mae_dna.bundled import Bundled, Measure, grid, small_recipe, timed
from r2mae_dna.data.samples import samples_digest
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import read_info
from r2mae_dna.evaluate import RANK_BY, evaluate_table
from r2mae_dna.masking import MaskingConfig, mask_windows
from r2mae_dna.model import AlignmentModel
from r2mae_dna.options import Evaluate, Pretrain, Reproduce, Score
from r2mae_dna.pretrain import LARGEST_MICRO_BATCH, model_shape, pretrain, token_losses
from r2mae_dna.score import score_variants
from r2mae_dna.scorers import FREQUENCIES

BUNDLED_STEPS, BUNDLED_WINDOW, BUNDLED_SPECIES = 300, 128, 3
COLUMNS = (
    ("clinvar", "auroc"), ("clinvar", "auprc"), ("omim", "partial_auroc"), ("omim", "auprc"),
    ("omim 5' UTR", "auprc"), ("omim 3' UTR", "auprc"), ("omim ncRNA", "auprc"),
)  # fmt: skip
# Scheme → the seven columns, as the paper prints them.
TABLE3: dict[str, tuple[float, ...]] = {
    "fixed": (0.970, 0.974, 0.644, 0.127, 0.331, 0.044, 0.102),
    "low": (0.967, 0.970, 0.647, 0.134, 0.330, 0.048, 0.171),
    "high": (0.970, 0.974, 0.645, 0.131, 0.335, 0.047, 0.081),
    "mdlm": (0.970, 0.974, 0.647, 0.131, 0.341, 0.048, 0.110),
    "dynamic": (0.970, 0.973, 0.645, 0.132, 0.332, 0.054, 0.082),
    "cl": (0.968, 0.972, 0.644, 0.117, 0.328, 0.056, 0.128),
    "r2mae": (0.969, 0.973, 0.649, 0.148, 0.339, 0.050, 0.136),
    "r2mae+dynamic": (0.970, 0.974, 0.649, 0.138, 0.324, 0.045, 0.106),
    "r2mae+cl": (0.967, 0.971, 0.643, 0.139, 0.330, 0.058, 0.192),
    "r2mae+cl-k0": (0.965, 0.969, 0.649, 0.140, 0.325, 0.051, 0.208),
}
PUBLISHED: dict[str, tuple[float, ...]] = {
    "NT": (0.601, 0.652, 0.500, 0.001, 0.010, 0.001, 0.000),
    "phastCons-100v": (0.883, 0.848, 0.514, 0.006, 0.081, 0.005, 0.005),
    "phyloP-241m": (0.912, 0.913, 0.590, 0.028, 0.175, 0.015, 0.028),
    "phyloP-100v": (0.927, 0.937, 0.574, 0.038, 0.251, 0.029, 0.039),
    "CADD": (0.966, 0.967, 0.595, 0.048, 0.279, 0.010, 0.090),
}
"""Scores in the published tables, from which the paper took them."""


def paper_value(name: str, task: str, metric: str) -> float | None:
    """Return what table 3 prints for a scheme or a published score, or None."""
    row = TABLE3.get(name) or PUBLISHED.get(name)
    # The tables sometimes write 5' UTR with a typographic apostrophe.
    key = (task.replace("’", "'"), metric)
    return None if row is None or key not in COLUMNS else row[COLUMNS.index(key)]


def reproduce_command(config: Reproduce) -> None:
    """`r2mae-dna reproduce`."""
    if config.dry_run:
        _check(config)
        _dry_run(config, resolve_device(config.device))
        return
    run = reproduce(config)
    if not first_rank():
        return
    title = "Table 3" if config.data else "The schemes of table 3 on the bundled human-ape alignment"
    show_table(run, run.results(), RANK_BY, title, config.target)
    if config.data is None:
        say("The paper's figures are on ClinVar and OMIM, not on these variants, so they are not shown beside ours.")
    say(f"Done: {run.path} (results.json, {config.target}.md)")
    say(page_line("r2mae-dna", run.path))


def reproduce(config: Reproduce) -> RunFolder:
    """Train and evaluate what is missing of the grid; all finished cells are in the run folder's results.

    Raises:
        UserError: only some of the files of the full experiment are given, or one of them is wrong.
    """
    _check(config)
    device = resolve_device(config.device)
    own = [config.data, config.msa, config.clinvar, config.omim]
    if config.out is not None:
        check_output(config.out, own)
    with open_run(
        "r2mae-dna", "reproduce", config.out, resolved(config), n_processes=config.devices, facts=_facts(config),
        sources=fingerprint([path for path in own[2:] if path is not None]),
        free=("schemes", "seeds", "devices"),  # the grid may grow
        shared=True,
    ) as run:  # fmt: skip
        if config.data is not None and config.msa is not None:
            _full(config, run, config.data, config.msa, device)
            return run
        with one_thread():
            bundled = Bundled.prepare(run.path, BUNDLED_WINDOW, device)
            recipe = _bundled_recipe(config, bundled.data)
            floor = {FREQUENCIES: timed(bundled.floor, device)}
            _walk(run, floor | grid(config.schemes, config.seeds, recipe, bundled.pretrain, device))
        return run


def _facts(config: Reproduce) -> dict[str, str]:
    """Return what names the data of the grid."""
    if config.data is None or config.msa is None:
        return {"samples": samples_digest()}
    return {"windows_digest": read_info(config.data).digest, "alignment_digest": AlignmentStore(config.msa).digest}


def _check(config: Reproduce) -> None:
    if config.data is None:
        refuse_options(config, dict.fromkeys(("model", "patience"), "your own alignment"), "the bundled alignment")
    else:
        refuse_options(config, dict.fromkeys(("n_hidden", "n_layers"), "the bundled one"), "your own alignment")
        if config.patience is not None and not read_info(config.data).counts.get("validation"):
            raise UserError(
                f"{config.data} has no validation windows, which early stopping needs: make it again with r2mae-dna "
                "prepare --validation_regions REGION, or add --patience null"
            )
    for table in (config.clinvar, config.omim):
        if table is not None and not table.is_file():
            raise UserError(f"no file {table}")
    for name in config.schemes:
        scheme(name, "dna")


def _full(config: Reproduce, run: RunFolder, data: Path, msa: Path, device: str) -> None:
    """Do the grid on the user's alignment, with the paper's recipe and tables."""
    tables = {name: path for name, path in (("clinvar", config.clinvar), ("omim", config.omim)) if path is not None}
    rows = {name: scheme_name(scheme(name, "dna"), "dna") for name in config.schemes}
    names = {row: name for name, row in rows.items()}

    def cell(options: Pretrain, home: Path) -> list[Record]:
        model, records = home / "pretrain", list[Record]()
        pretrain(replace(options, out=model))
        for task, table in tables.items() if first_rank() else ():
            scored = home / f"{task}.parquet"
            score = Score(str(model), msa, table, out=scored, device=config.device, progress=config.progress)
            score_variants(replace(score, precision=config.precision, overwrite=True), alone=True)
            preset: Any = task
            row = rows[str(options.mask_ratio)]
            records += evaluate_table(Evaluate(scored, preset=preset, scheme=row, seed=options.seed, bootstrap=0))[0]
        return [replace(r, paper=paper_value(names.get(r.scheme, r.scheme), r.task, r.metric)) for r in records]

    def tidy(found: list[Record]) -> list[Record]:
        # The published scores of the tables are the same beside every model: kept once, as baselines.
        ours = [r for r in found if r.scheme in names]
        others = {(r.scheme, r.task, r.metric): replace(r, seed=0) for r in found if r.scheme not in names}
        return ours + list(others.values())

    _walk(run, grid(config.schemes, config.seeds, _full_recipe(config, data), cell, device), tidy)


def _walk(
    run: RunFolder, cells: Mapping[str, Measure], tidy: Callable[[list[Record]], list[Record]] = lambda found: found
) -> None:
    """Do the grid. With several devices, the other ranks only take part in the pretrainings."""
    if first_rank():
        walk_grid(run, cells, tidy=tidy)
        return
    for name, cell in cells.items():
        cell(run.path / name)


def _bundled_recipe(config: Reproduce, data: Path) -> Pretrain:
    return small_recipe(
        data, config.steps or BUNDLED_STEPS, n_hidden=config.n_hidden, n_layers=config.n_layers, lr=config.lr,
        batch_size=config.batch_size, **_shared(config),
    )  # fmt: skip


def _full_recipe(config: Reproduce, data: Path) -> Pretrain:
    """Return the paper's recipe (C.7), which `Pretrain` has as its defaults, with what is given instead."""
    given = {"steps": config.steps, "batch_size": config.batch_size, "lr": config.lr}
    given = {name: value for name, value in given.items() if value is not None}
    options = replace(Pretrain(data, model=config.model, **_shared(config)), **given)
    # GPN-MSA validates every 5,000 of 30,000 steps; the paper stops early (C.7).
    return replace(options, validate_every=max(options.steps // 6, 1), patience=config.patience)


def _shared(config: Reproduce) -> dict[str, Any]:
    names = ("micro_batch_size", "device", "devices", "precision", "progress")
    return {name: getattr(config, name) for name in names}


def _dry_run(config: Reproduce, device: str) -> None:
    """Print the grid, and what its pretraining would cost by the time of a few steps on random windows."""
    if config.data is None:
        options, length, n_species = _bundled_recipe(config, Path()), BUNDLED_WINDOW, BUNDLED_SPECIES
    else:
        info = read_info(config.data)
        options, length, n_species = _full_recipe(config, config.data), info.window, info.n_species
    say(f"Schemes: {', '.join(config.schemes)}; seeds {', '.join(map(str, config.seeds))}")
    model = AlignmentModel(model_shape(options, n_species))
    micro = micro_batch_size(options.micro_batch_size, options.batch_size, options.devices, LARGEST_MICRO_BATCH)
    n_windows = options.steps * options.batch_size
    bf16 = precision(options.precision, device) == "bf16-mixed"
    seconds = _seconds_per_window(model, length, min(micro, 64), device, bf16) * n_windows / options.devices
    n, batch = len(config.schemes) * len(config.seeds), options.batch_size
    say(f"{model.n_parameters:,} parameters, {options.steps:,} steps of {batch:,} windows of {length} bases")
    say(
        f"{n} models of about {seconds / 3600:.2f} h each on {device_name(device)}: "
        f"{n * seconds / 3600:.1f} h of pretraining"
    )


def _seconds_per_window(model: AlignmentModel, length: int, batch: int, device: str, bf16: bool) -> float:
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, length, model.config.n_species + 1)
    codes = torch.randint(1, 5, shape, dtype=torch.uint8, device=device, generator=generator)
    windows = {"codes": codes, "reverse": torch.zeros(batch, dtype=torch.bool, device=device)}

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            masked = mask_windows(windows, 0.15, generator, MaskingConfig())
            loss = token_losses(model, model.encode(masked.codes, masked.positions), masked).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return seconds_of(step, device) / batch
