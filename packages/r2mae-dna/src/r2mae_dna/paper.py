"""Table 3 of the paper as a grid of experiments, and `reproduce`, which walks it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from r2mae_core import Record, RunFolder, UserError, compare, scheme
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.files import write_text
from r2mae_core.records import read_records, write_records
from r2mae_dna.demo import SmallRecipe, judge_variants, one_thread, pretrain_small
from r2mae_dna.evaluate import evaluate_table
from r2mae_dna.masking import MaskingConfig, mask_windows
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Evaluate, Pretrain, Reproduce, Score
from r2mae_dna.pretrain import pretrain, token_losses
from r2mae_dna.samples import prepare_apes
from r2mae_dna.score import FREQUENCIES, score_variants
from r2mae_dna.windows import read_info

DEFAULT_OUT = Path("runs") / "r2mae-dna-reproduce-table3"
STEPS, BATCH, LR = 30_000, 2048, 1e-4  # C.7
COLUMNS = (
    ("clinvar", "AUROC"), ("clinvar", "AUPRC"), ("omim", "pAUROC"), ("omim", "AUPRC"),
    ("omim 5' UTR", "AUPRC"), ("omim 3' UTR", "AUPRC"), ("omim ncRNA", "AUPRC"),
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


def reproduce(config: Reproduce) -> RunFolder | None:
    """Train and judge what is missing of the grid, print the table, and return the run folder (None: a dry run).

    Raises:
        UserError: only some of the files of the full experiment are given, or one of them is wrong.
    """
    own = (config.windows, config.msa)
    if any(own) != all(own) or (config.windows is None and (config.clinvar or config.omim)):
        raise UserError("the full experiment needs --windows, --msa, and --clinvar or --omim; without any, the bundled")
    if config.windows is not None and config.clinvar is None and config.omim is None:
        raise UserError("nothing to judge the models on: give --clinvar, --omim, or both")
    for name in config.schemes:
        scheme(name, "dna")
    device = resolve_device(config.device)
    if config.dry_run:
        _dry_run(config, device)
        return None
    settings = {
        k: v for k, v in resolved(config).items() if k not in ("dry_run", "device", "schemes", "seeds", "devices")
    }
    run = RunFolder(config.out or DEFAULT_OUT, settings)
    if config.windows is None:
        with one_thread():
            records = _bundled(config, run, device)
    else:
        records = _full(config, run, device)
    run.write_results(records)
    table = compare(records, {"AUROC": "max", "AUPRC": "max", "pAUROC": "max"})
    write_text(run.path / "table3.md", table.markdown())
    say(table.rich("Table 3" if config.windows else "The schemes of table 3 on the bundled human-ape alignment"))
    if config.windows is None:
        say("The paper's own figures are on ClinVar and OMIM; these variants are others, so none stands beside them.")
    say(f"Run folder: {run.path}")
    return run


def _bundled(config: Reproduce, run: RunFolder, device: str) -> list[Record]:
    """Walk the grid on the bundled alignment and variants."""
    recipe = SmallRecipe(config.hidden, config.layers, config.steps or 300, config.batch_size or 64, config.lr or 3e-3)
    store, windows, variants = prepare_apes(run.path)
    window = recipe.window

    def cell(name: str, seed: int, home: Path) -> list[Record]:
        pretrain_small(windows, name, seed, home, recipe, device=device, progress=config.progress)
        return judge_variants(variants, store, str(home), home / "scored.vcf", name, seed, window=window, device=device)

    floor = run.path / f"{FREQUENCIES}.vcf"
    records = judge_variants(variants, store, FREQUENCIES, floor, FREQUENCIES, 0, window=window, device=device)
    return records + _walk(config, run, cell)


def _full(config: Reproduce, run: RunFolder, device: str) -> list[Record]:
    """Walk the grid on the user's alignment, with the paper's recipe and tables."""
    tables = {name: path for name, path in (("clinvar", config.clinvar), ("omim", config.omim)) if path is not None}

    def cell(name: str, seed: int, home: Path) -> list[Record]:
        pretrain(_recipe(config, name, seed, home, device))
        records: list[Record] = []
        for task, table in tables.items():
            scored = home / f"{task}.parquet"
            score_variants(
                Score(
                    table, msa=config.msa, model=str(home), out=scored, device=config.device, progress=config.progress
                )
            )
            preset = Evaluate(scored, preset=task, scheme=name, seed=seed, bootstrap=0)  # pyright: ignore[reportArgumentType]
            records += evaluate_table(preset)[0]
        # The published scores of the tables are the same beside every model: kept once, as baselines.
        return [replace(r, paper=paper_value(r.scheme, r.task, r.metric)) for r in records]

    found = _walk(config, run, cell)
    first = {(r.scheme, r.task, r.metric): r for r in reversed(found) if r.scheme not in config.schemes}
    return [r for r in found if r.scheme in config.schemes] + [replace(r, seed=0) for r in reversed(first.values())]


def _walk(config: Reproduce, run: RunFolder, cell: Callable[[str, int, Path], list[Record]]) -> list[Record]:
    records: list[Record] = []
    for name in config.schemes:
        for seed in config.seeds:
            home, start = run.path / f"{name}-{seed}", time.perf_counter()
            done = (home / "results.json").exists()
            found = read_records(home) if done else cell(name, seed, home)
            if not done:
                write_records(home / "results.json", found)
            records += found
            state = "done before" if done else f"{time.perf_counter() - start:.0f} s"
            say(f"{name}, seed {seed}: {found[0].task} {found[0].metric} {found[0].value:.4f} ({state})")
    return records


def _given(path: Path | None) -> Path:
    if path is None:
        raise UserError("the full experiment needs --windows and --msa")
    return path


def _recipe(config: Reproduce, name: str, seed: int, home: Path, device: str) -> Pretrain:
    per_step = config.micro_batch * config.devices
    batch = config.batch_size or BATCH
    if batch % per_step:
        raise UserError(f"--batch_size {batch} is no multiple of micro_batch x devices = {per_step}")
    return Pretrain(
        _given(config.windows),
        mask_ratio=name,
        size=config.size,
        steps=config.steps or STEPS,
        batch_size=config.micro_batch,
        accumulate=batch // per_step,
        lr=config.lr or LR,
        validate_every=max((config.steps or STEPS) // 6, 1),  # GPN-MSA: every 5000 of 30,000
        seed=seed,
        device=device,  # pyright: ignore[reportArgumentType]
        devices=config.devices,
        out=home,
        progress=config.progress,
    )


def _dry_run(config: Reproduce, device: str) -> None:
    """Print the grid, and what its pretraining would cost by the time of a few steps on made-up windows."""
    if config.windows is None:
        shape, steps = (
            ModelConfig.sized("tiny", 3, hidden=config.hidden, layers=config.layers, heads=4),
            config.steps or 300,
        )
        length, batch = SmallRecipe().window, config.batch_size or 64
        per_forward = batch
    else:
        info = read_info(config.windows)
        shape, steps = ModelConfig.sized(config.size, info.n_species), config.steps or STEPS
        length, batch, per_forward = info.window, config.batch_size or BATCH, config.micro_batch
    say(f"Schemes: {', '.join(config.schemes)}; seeds {', '.join(map(str, config.seeds))}")
    model = AlignmentModel(shape)
    seconds = _seconds_per_window(model, length, min(per_forward, 64), device) * batch * steps / config.devices
    n = len(config.schemes) * len(config.seeds)
    say(f"{model.n_parameters:,} parameters, {steps:,} steps of {batch:,} windows of {length} bases")
    say(
        f"{n} models of about {seconds / 3600:.2f} h each on {device_name(device)}: "
        f"{n * seconds / 3600:.1f} h of pretraining"
    )


def _seconds_per_window(model: AlignmentModel, length: int, batch: int, device: str) -> float:
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, length, model.config.n_species + 1)
    codes = torch.randint(1, 5, shape, dtype=torch.uint8, device=device, generator=generator)
    windows = {"codes": codes, "reverse": torch.zeros(batch, dtype=torch.bool, device=device)}
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device == "cuda"):
            masked = mask_windows(windows, 0.15, generator, MaskingConfig())
            loss = token_losses(model, model.encode(masked.codes, masked.positions), masked).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:]) / batch  # the first step warms up
