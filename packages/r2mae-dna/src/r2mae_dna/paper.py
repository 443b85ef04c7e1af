"""Table 3 of the paper as a grid of experiments, and `reproduce`, which walks it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    device_name,
    micro_batch_size,
    open_run,
    precision,
    read_records,
    refuse_options,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    seconds_of,
    stamped,
    write_records,
)
from r2mae_dna.data.samples import prepare_apes
from r2mae_dna.data.windows import read_info
from r2mae_dna.demo import judge_variants, one_thread, pretrain_and_judge, small_recipe
from r2mae_dna.evaluate import RANK_BY, evaluate_table
from r2mae_dna.masking import MaskingConfig, mask_windows
from r2mae_dna.model import AlignmentModel
from r2mae_dna.options import Evaluate, Pretrain, Reproduce, Score
from r2mae_dna.pretrain import LARGEST_MICRO_BATCH, model_shape, pretrain, token_losses
from r2mae_dna.score import FREQUENCIES, score_variants

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
"""Scores that the published tables carry; the paper took them from there."""


def paper_value(name: str, task: str, metric: str) -> float | None:
    """Return what table 3 prints for a scheme or a published score, or None."""
    row = TABLE3.get(name) or PUBLISHED.get(name)
    # The tables write 5' UTR with a typographic apostrophe here and there.
    key = (task.replace("’", "'"), metric)
    return None if row is None or key not in COLUMNS else row[COLUMNS.index(key)]


def reproduce(config: Reproduce) -> RunFolder:
    """Train and judge what is missing of the grid; all finished cells are in the run folder's results.

    Raises:
        UserError: only some of the files of the full experiment are given, or one of them is wrong.
    """
    _check(config)
    device = resolve_device(config.device)
    free = ("schemes", "seeds", "devices")  # the grid may grow
    run = open_run("r2mae-dna", "reproduce", config.out, resolved(config), n_processes=config.devices, free=free)
    if config.windows is None:
        with one_thread():
            _bundled(config, run, device)
    else:
        _full(config, run, device)
    return run


def reproduce_command(config: Reproduce) -> None:
    """`r2mae-dna reproduce`."""
    if config.dry_run:
        _check(config)
        _dry_run(config, resolve_device(config.device))
        return
    run = reproduce(config)
    title = "Table 3" if config.windows else "The schemes of table 3 on the bundled human-ape alignment"
    report(run, run.results(), RANK_BY, title, config.target)
    if config.windows is None:
        say("The paper's own figures are on ClinVar and OMIM; these variants are others, so none stands beside them.")
    say(f"Done: {run.path} (results.json, {config.target}.md)")


def _check(config: Reproduce) -> None:
    own = (config.windows, config.msa)
    if any(own) != all(own) or (config.windows is None and (config.clinvar or config.omim)):
        raise UserError("the full experiment needs --windows, --msa, and --clinvar or --omim; without any, the bundled")
    if config.windows is not None and config.clinvar is None and config.omim is None:
        raise UserError("nothing to judge the models on: give --clinvar, --omim, or both")
    if config.windows is None:
        refuse_options(config, {"model": "your own alignment"}, "the bundled alignment")
    else:
        refuse_options(config, dict.fromkeys(("hidden", "layers"), "the bundled one"), "your own alignment")
    for name in config.schemes:
        scheme(name, "dna")


def _bundled(config: Reproduce, run: RunFolder, device: str) -> None:
    """Walk the grid on the bundled alignment and variants."""
    store, windows, variants = prepare_apes(run.path, BUNDLED_WINDOW)

    def cell(name: str, seed: int, home: Path) -> list[Record]:
        options = replace(_bundled_recipe(config, windows), mask_ratio=name, seed=seed)
        return pretrain_and_judge(home, options, store, variants, device)

    floor = run.path / f"{FREQUENCIES}.vcf"
    floors = judge_variants(variants, store, FREQUENCIES, floor, FREQUENCIES, 0, window=BUNDLED_WINDOW, device=device)
    floors = stamped(floors, device_name(device))
    _walk(config, run, cell, device, lambda found: floors + found)


def _full(config: Reproduce, run: RunFolder, device: str) -> None:
    """Walk the grid on the user's alignment, with the paper's recipe and tables."""
    tables = {name: path for name, path in (("clinvar", config.clinvar), ("omim", config.omim)) if path is not None}
    rows = {name: _row(name) for name in config.schemes}

    def cell(name: str, seed: int, home: Path) -> list[Record]:
        model = home / "pretrain"
        pretrain(replace(_full_recipe(config), mask_ratio=name, seed=seed, out=model))
        records: list[Record] = []
        for task, table in tables.items():
            scored = home / f"{task}.parquet"
            score_variants(
                Score(
                    str(model), _given(config.msa), table, out=scored, device=config.device, precision=config.precision,
                    progress=config.progress,
                )
            )  # fmt: skip
            preset = Evaluate(scored, preset=task, scheme=rows[name], seed=seed, bootstrap=0)  # pyright: ignore[reportArgumentType]
            records += evaluate_table(preset)[0]
        names = {rows[name]: name}
        return [replace(r, paper=paper_value(names.get(r.scheme, r.scheme), r.task, r.metric)) for r in records]

    def tidy(found: list[Record]) -> list[Record]:
        # The published scores of the tables are the same beside every model: kept once, as baselines.
        ours = [r for r in found if r.scheme in rows.values()]
        others = {(r.scheme, r.task, r.metric): replace(r, seed=0) for r in found if r.scheme not in rows.values()}
        return ours + list(others.values())

    _walk(config, run, cell, device, tidy)


def _row(name: str) -> str:
    return scheme_name(scheme(name, "dna"), "dna")


def _walk(
    config: Reproduce,
    run: RunFolder,
    cell: Callable[[str, int, Path], list[Record]],
    device: str,
    tidy: Callable[[list[Record]], list[Record]],
) -> None:
    """Go through the grid and write the results after each cell; what is done already is not done again."""
    found: list[Record] = []
    grid = [(name, seed) for name in config.schemes for seed in config.seeds]
    for i, (name, seed) in enumerate(grid, start=1):
        home, start = run.path / f"{name}-{seed}", time.perf_counter()
        done = (home / "results.json").exists()
        if not done:
            records = cell(name, seed, home)
            write_records(home / "results.json", stamped(records, device_name(device), time.perf_counter() - start))
        found += read_records(home)
        run.write_results(tidy(found))
        say(f"[{i}/{len(grid)}] {home.name}: {'done before' if done else f'{time.perf_counter() - start:.0f} s'}")


def _given(path: Path | None) -> Path:
    if path is None:
        raise UserError("the full experiment needs --windows and --msa")
    return path


def _bundled_recipe(config: Reproduce, windows: Path) -> Pretrain:
    return small_recipe(
        windows, config.steps or BUNDLED_STEPS, hidden=config.hidden, layers=config.layers, lr=config.lr,
        batch_size=config.batch_size, micro_batch_size=config.micro_batch_size, device=config.device,
        devices=config.devices, precision=config.precision, progress=config.progress,
    )  # fmt: skip


def _full_recipe(config: Reproduce) -> Pretrain:
    """Return the paper's recipe (C.7), which `Pretrain` has as its defaults, with what is given instead."""
    given = {"steps": config.steps, "batch_size": config.batch_size, "lr": config.lr}
    options = Pretrain(
        _given(config.windows),
        model=config.model,
        micro_batch_size=config.micro_batch_size,
        device=config.device,
        devices=config.devices,
        precision=config.precision,
        progress=config.progress,
    )
    options = replace(options, **{name: value for name, value in given.items() if value is not None})
    return replace(options, validate_every=max(options.steps // 6, 1))  # GPN-MSA: every 5000 of 30,000


def _dry_run(config: Reproduce, device: str) -> None:
    """Print the grid, and what its pretraining would cost by the time of a few steps on made-up windows."""
    if config.windows is None:
        options, length, n_species = _bundled_recipe(config, Path()), BUNDLED_WINDOW, BUNDLED_SPECIES
    else:
        info = read_info(config.windows)
        options, length, n_species = _full_recipe(config), info.window, info.n_species
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
