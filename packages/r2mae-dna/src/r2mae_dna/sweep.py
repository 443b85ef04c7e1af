"""`sweep`: which mask ratio suits a user's alignment and variants, by short pretrainings and their evaluation."""

import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from r2mae_core import (
    SHORTEST,
    Direction,
    RatioSampler,
    Record,
    RunFolder,
    StepOrder,
    UserError,
    check_output,
    device_name,
    fingerprint,
    options_as_words,
    read_records,
    resolve_device,
    run_identity,
    run_sweep,
    say,
    stamped,
    typed_options,
    write_records,
)
from r2mae_dna.bundled import Bundled
from r2mae_dna.data.samples import prepare_apes, samples_digest
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.tables import file_kind
from r2mae_dna.data.variants import score_column
from r2mae_dna.data.windows import WindowsInfo, read_info
from r2mae_dna.evaluate import evaluate_table, load_labelled
from r2mae_dna.options import Evaluate, Pretrain, Score, Sweep
from r2mae_dna.pretrain import DnaModality, pretrain
from r2mae_dna.score import score_variants
from r2mae_dna.scorers import FREQUENCIES

SCORE = ("window", "min_defined", "max_mismatch", "batch_size", "precision")
"""Options of `score` that a sweep takes."""
EVALUATE = ("preset", "label", "keep_duplicates", "max_fpr")
"""Options of `evaluate` that a sweep takes."""
APES = ("Hsap", "Ggor", "Ppyg", "Ptro")
"""Species of the bundled alignment, which is built and compared where the windows have them."""
OF_VARIANTS: dict[str, Direction] = {"auroc": "max", "auprc": "max"}


@dataclass(frozen=True)
class Evaluation:
    """How the models of a sweep are compared."""

    metrics: Mapping[str, Direction]
    """What is measured; the default first."""
    records: Callable[[RunFolder, Path], list[Record]]
    """(finished pretraining, folder for files) → what is measured of its model."""
    text: str
    """What a user should know about it."""
    facts: Mapping[str, Any]
    """What else it depends on."""
    sources: Mapping[str, str] | None = None
    """`fingerprint` of the user's files."""


def sweep_command(config: Sweep) -> None:
    """`r2mae-dna sweep`."""
    sweep(config)


def sweep(config: Sweep) -> RunFolder:
    """Find the mask ratio for an alignment, and return the run folder with the answer.

    A trial's model and the records of its evaluation stay in the folder; its checkpoints do not.

    Raises:
        UserError: what `pretrain`, `score_variants`, `evaluate_table` and `run_sweep` refuse, before any training.
    """
    if config.out is not None:
        check_output(config.out, [config.data, config.msa, config.variants])
    full, device = pretrain_options(config), resolve_device(config.device)
    _refuse_untrainable(full, device)
    with tempfile.TemporaryDirectory(prefix="r2mae-dna-sweep-") as home:
        evaluation = evaluation_of(config, full, device, Path(home))

        def measure(sampler: RatioSampler, seed: int, share: float, folder: Path) -> Sequence[Record]:
            if (folder / "results.json").exists():
                return read_records(folder)
            run = pretrain(replace(shortened(full, share), mask_ratio=sampler, seed=seed, out=folder / "pretrain"))
            records = stamped(evaluation.records(run, folder), device_name(device))
            write_records(folder / "results.json", records)
            shutil.rmtree(run.checkpoints, ignore_errors=True)  # each is three times the model
            return records

        say(evaluation.text)
        return run_sweep(
            "r2mae-dna", "dna", config, measure, metrics=evaluation.metrics,
            facts={"windows_digest": read_info(config.data).digest, **evaluation.facts}, sources=evaluation.sources,
            pretrain_command=lambda option: pretrain_command(config, option),
        )  # fmt: skip


def pretrain_options(config: Sweep) -> Pretrain:
    """Return the options of a pretraining of full length.

    Raises:
        UserError: one is unknown, of another kind, or belongs to the sweep.
    """
    own = {"device": config.device, "progress": config.progress}
    decided = {"data", *own, "mask_ratio", "freeze_steps", "seed", "out", "devices", "nodes", "strategy"}
    given = typed_options(Pretrain, config.pretrain, "pretrain", {field.name for field in fields(Pretrain)} - decided)
    made = Pretrain(config.data, **own, **given)
    if made.steps < SHORTEST:
        raise UserError(
            f"--pretrain.steps must be at least {SHORTEST}, because the shortest trainings have a fifth of them, got "
            f"{made.steps}"
        )
    return made


def shortened(full: Pretrain, share: float) -> Pretrain:
    """Return the same pretraining with a share of the steps; there is always a validation and a checkpoint."""
    steps = max(round(share * full.steps), 1)
    every = {
        name: None if (value := getattr(full, name)) is None else min(value, steps)
        for name in ("validate_every", "checkpoint_every")
    }
    return replace(full, steps=steps, **every)


def _refuse_untrainable(full: Pretrain, device: str) -> None:
    """Refuse what the first pretraining would refuse.

    Raises:
        UserError: the windows, the shape of the network or the batch size is wrong.
    """
    task = DnaModality(full)
    order = StepOrder(task.n_samples, task.batch_size, task.micro_batch_size(device), full.seed)
    order.micro_batches()


def evaluation_of(config: Sweep, full: Pretrain, device: str, home: Path) -> Evaluation:
    """Return how models are compared: by the user's variants, the bundled ones, or the held-out loss.

    Args:
        config: the options.
        full: the pretraining.
        device: where scores are computed.
        home: a folder for temporary files, there for as long as the evaluation is used.

    Raises:
        UserError: it cannot be done on these data.
    """
    info = read_info(config.data)
    if config.variants is not None and config.msa is not None:
        return _of_variants(config, config.variants, config.msa, info, home)
    if info.species is not None and set(info.species) == set(APES):
        store, windows, variants = prepare_apes(home / "bundled", info.window)
        if info.store_digest == AlignmentStore(store).digest:
            return _of_bundled(Bundled(store, windows, variants, info.window, device))
    return _of_held_out(config, full, info)


def _of_held_out(config: Sweep, full: Pretrain, info: WindowsInfo) -> Evaluation:
    """Return the comparison by the loss on validation windows at fixed ratios, which every pretraining records."""
    if not info.counts.get("validation"):
        raise UserError(
            f"nothing to compare models by: {config.data} has no validation windows, and no --variants are given; cut "
            "windows with r2mae-dna prepare --validation_regions REGION, or give --variants FILE and --msa STORE"
        )
    ratios = full.validation_ratios
    middle = ratios[len(ratios) // 2]  # the one that decides on the best model
    names = dict.fromkeys([f"loss@{middle:g}", *(f"loss@{ratio:g}" for ratio in ratios)])
    return Evaluation(
        dict.fromkeys(names, "min"),
        lambda run, folder: run.results(),
        f"No --variants are given, so models are compared by the loss on validation windows at a fixed mask ratio "
        f"({config.metric or next(iter(names))}), which need not rank schemes as variants do.",
        {},
    )


def _of_bundled(bundled: Bundled) -> Evaluation:
    """Return the comparison by the bundled variants."""

    def records(run: RunFolder, folder: Path) -> list[Record]:
        return bundled.score(str(run.path), folder, *run_identity(run.path, "dna"))

    return Evaluation(
        OF_VARIANTS, records,
        "The windows are of the bundled alignment, so models are compared by its variants, rare against common (auroc, "
        "auprc).",
        {"samples": samples_digest()},
    )  # fmt: skip


def _of_variants(config: Sweep, variants: Path, msa: Path, info: WindowsInfo, home: Path) -> Evaluation:
    """Return the comparison by a user's labelled variants; all of it is done once with frequencies, without a network.

    Raises:
        UserError: the alignment is not the windows', or the variants cannot be scored or evaluated.
    """
    store, before = AlignmentStore(msa), fingerprint(variants) if variants.is_file() else {}
    named = info.species is not None and store.species is not None  # else only their number is known
    if info.n_species != store.n_species or (named and list(info.species or ()) != list(store.species or ())):
        raise UserError(f"--msa {msa} has other species than the windows {config.data}, or another order of them")
    vcf = file_kind(variants) == "vcf"
    suffix, column = (".vcf", score_column("llr").upper()) if vcf else (".parquet", score_column("llr"))
    chosen = typed_options(Score, config.score, "score", SCORE)
    score = Score(FREQUENCIES, msa, variants, **{"window": info.window, **chosen}, progress=False, overwrite=True)
    evaluate = Evaluate(
        variants, scores=(column,), bootstrap=0, **typed_options(Evaluate, config.evaluate, "evaluate", EVALUATE)
    )

    def scored(model: str, out: Path) -> Evaluate:
        score_variants(replace(score, model=model, out=out, device=config.device), alone=True)
        return replace(evaluate, table=out)

    def records(run: RunFolder, folder: Path) -> list[Record]:
        name, seed = run_identity(run.path, "dna")
        table = scored(str(run.path), folder / f"scored{suffix}")
        found = evaluate_table(replace(table, scheme=name, seed=seed))[0]
        every = evaluate.preset or table.table.name.partition(".")[0]  # not of single classes
        task = variants.name.partition(".")[0]
        return [replace(record, task=task) for record in found if record.task == every]

    try:
        table = scored(FREQUENCIES, home / f"frequencies{suffix}")
        rows, baseline = load_labelled(table).text(), evaluate_table(table)[0]
    except UserError as error:
        raise UserError(f"--variants {variants} cannot be evaluated: {error}") from None
    measured = {record.metric: record.value for record in baseline if record.metric in (*OF_VARIANTS, "partial_auroc")}
    floor = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
    return Evaluation(
        dict.fromkeys(measured, "max"), records,
        f"{variants.name}: {rows}. Frequencies, without a network: {floor}.",
        {"alignment_digest": store.digest}, before,
    )  # fmt: skip


def pretrain_command(config: Sweep, option: str) -> str:
    """Return the command that pretrains with a mask ratio and everything else as the sweep did."""
    words = ["r2mae-dna pretrain", shlex.quote(str(config.data)), options_as_words(config.pretrain), option]
    return " ".join(word for word in words if word)
