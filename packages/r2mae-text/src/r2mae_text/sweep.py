"""`sweep`: which mask ratio suits a user's text and tasks, by short pretrainings and fine-tunings."""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from r2mae_core import (
    SHORTEST,
    Direction,
    Fixed,
    RatioSampler,
    Record,
    RunFolder,
    StepOrder,
    Uniform,
    UserError,
    check_output,
    options_as_words,
    resolve_device,
    run_sweep,
    scheme,
    typed_options,
)
from r2mae_text.batching import encode
from r2mae_text.classifier import check_lengths
from r2mae_text.data.glue import Examples, Task, load_task, task_sources
from r2mae_text.evaluate import RATIOS
from r2mae_text.finetune import finetune
from r2mae_text.metrics import metrics_of
from r2mae_text.model import usable_positions
from r2mae_text.options import Finetune, Pretrain, Sweep
from r2mae_text.pretrain import TextPretraining, pretrain

DECIDED = {"data", "mask_ratio", "seed", "device", "progress", "out", "devices", "nodes", "strategy", "minutes"}
"""Options of pretrain that a sweep decides, or that would make its trainings differ in length."""


def sweep_command(config: Sweep) -> None:
    """`r2mae-text sweep`."""
    sweep(config)


def sweep(config: Sweep) -> RunFolder:
    """Find the mask ratio for a corpus and its tasks, and return the run folder with the answer.

    Of a trial stay the model and the records; its checkpoints do not.

    Raises:
        UserError: what `pretrain`, `finetune` and `run_sweep` refuse; as far as possible before anything is trained.
    """
    if config.out is not None:
        check_output(config.out, [config.data, *(Path(config.task_data) / name for name in config.tasks)])
    resolve_device(config.device)
    full = pretrain_options(config)
    tuning = finetune_options(config, Path("unused"), 0, Path("unused"))
    own: dict[str, Any] = {"kind": tuning.kind, "label_column": tuning.label_column}
    tasks = {name: load_task(name, config.task_data, config.text_columns, **own) for name in config.tasks}
    opened = check(config, full, tuning, tasks)
    metrics = metrics_for(config, tasks, opened)

    def measure(sampler: RatioSampler, seed: int, share: float, folder: Path) -> Sequence[Record]:
        options = replace(full, mask_ratio=sampler, seed=seed, steps=max(round(share * (full.steps or 0)), 1))
        run = pretrain(replace(options, out=folder / "pretrain"))
        if config.tasks:
            records = finetune(finetune_options(config, run.path, seed, folder / "finetune")).results()
        else:
            records = run.results()
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)  # each is three times the model
        return records

    return run_sweep(
        "r2mae-text",
        "text",
        config,
        measure,
        metrics=metrics,
        facts=opened.facts(),
        sources=dict(_sources(config, own)) or None,
        pretrain_command=lambda option: pretrain_command(config, option),
    )


def pretrain_options(config: Sweep) -> Pretrain:
    """Return the options of a pretraining of full length, in steps.

    Raises:
        UserError: one is unknown, of another kind, or belongs to the sweep; the length is missing or too short.
    """
    known = {field.name for field in fields(Pretrain)} - DECIDED
    given = typed_options(Pretrain, config.pretrain, "pretrain", known)
    made = Pretrain(config.data, device=config.device, progress=config.progress, **given)
    steps = made.steps or max(round((made.tokens or 0) / (made.batch_size * made.length)), 1)
    if steps < SHORTEST:
        raise UserError(
            f"--pretrain makes {steps} steps of full length; the shortest trainings have a fifth, so it must be "
            f"{SHORTEST} at least"
        )
    return replace(made, steps=steps, tokens=None)


def finetune_options(config: Sweep, model: Path, seed: int, out: Path) -> Finetune:
    """Return the options of a trial's fine-tuning.

    Raises:
        UserError: one is unknown, of another kind, or belongs to the sweep.
    """
    own: dict[str, Any] = {"model": str(model), "task_data": config.task_data, "text_columns": config.text_columns}
    own |= {"device": config.device, "progress": False, "out": out, "keep": "none", "evaluate": "end"}
    own |= {"tasks": config.tasks} if config.tasks else {}
    known = {field.name for field in fields(Finetune)} - {*own, "tasks"}
    return Finetune(**{**own, "seeds": (seed,), **typed_options(Finetune, config.finetune, "finetune", known)})


def check(
    config: Sweep, full: Pretrain, tuning: Finetune, tasks: Mapping[str, tuple[Task, dict[str, Examples]]]
) -> TextPretraining:
    """Return the opened pretraining, after refusing what would be refused in the midst of the sweep.

    Raises:
        UserError: data, model, a scheme, or a task's examples do not fit.
    """
    if not config.tasks and config.finetune:
        raise UserError("--finetune is of --tasks, and there are none; leave it out")
    opened = TextPretraining(full)
    micro = opened.micro_batch_size(resolve_device(config.device))
    StepOrder(opened.n_samples, full.batch_size, micro, config.seed).micro_batches(1)
    ranges = [Uniform(*ends) for ends in config.ranges] if config.ranges is not None else [scheme("mdlm", "text")]
    for sampler in (scheme("r2mae", "text"), scheme("fixed", "text"), *map(Fixed, config.ratios), *ranges):
        TextPretraining(replace(full, mask_ratio=sampler)).sampler()
    model = opened.build(scheme("r2mae", "text")).model
    if config.tasks:
        _check_classifier(model.config)
    if tuning.max_length > usable_positions(model.config):
        for _, splits in tasks.values():
            encoded = {name: encode(opened.corpus.tokenizer, part, tuning.max_length) for name, part in splits.items()}
            check_lengths(encoded, model.config)
    return opened


def _check_classifier(config: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    try:
        AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{config.model_type} models cannot be fine-tuned on --tasks: {reason[:200]}") from None


def metrics_for(
    config: Sweep, tasks: Mapping[str, tuple[Task, dict[str, Examples]]], opened: TextPretraining
) -> dict[str, Direction]:
    """Return what the evaluation measures, the default first: what all tasks have, or the held-out losses.

    Raises:
        UserError: the tasks have no metric in common, or there is no held-out text.
    """
    if not tasks:
        if opened.held_out_rows is None:
            raise UserError(f"{config.data} has no held-out text for --metric {config.metric}; prepare it with some")
        return dict.fromkeys((f"loss@{ratio:g}" for ratio in RATIOS), "min")
    each = [metrics_of(task) for task, _ in tasks.values()]
    if not (shared := [name for name in each[0] if all(name in names for names in each)]):
        raise UserError(f"--tasks {', '.join(tasks)} have no metric in common; sweep them one by one")
    return dict.fromkeys(shared, "max")


def _sources(config: Sweep, own: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in config.tasks:
        for file, content in task_sources(name, config.task_data, config.text_columns, **own).items():
            yield f"{name}/{file}", content


def pretrain_command(config: Sweep, option: str) -> str:
    """Return the command that pretrains with a mask ratio and everything else as the sweep did."""
    words = ["r2mae-text pretrain", shlex.quote(str(config.data)), options_as_words(config.pretrain), option]
    return " ".join(word for word in words if word)
