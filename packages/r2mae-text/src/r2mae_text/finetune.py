"""Fine-tuning on labelled sentences and pairs: tasks, seeds, records, and what each of them leaves (paper, C.6)."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    Record,
    RunFolder,
    check_output,
    check_tracker,
    device_name,
    left_out,
    logging_to,
    open_run,
    pasteable,
    precision,
    read_json,
    read_records,
    refuse_changed,
    resolve_device,
    resolved,
    run_identity,
    say,
    show_table,
    stamped,
    whole_folder,
    write_json,
)
from r2mae_text.batching import encode
from r2mae_text.classifier import logits_of
from r2mae_text.data.glue import Examples, Task, Tests, check_task, load_task, load_test, task_sources
from r2mae_text.evaluate import RANK_BY
from r2mae_text.metrics import majority
from r2mae_text.options import Finetune
from r2mae_text.tuned import save_tuned, submission_name, submission_rows, write_csv, write_tuned
from r2mae_text.tuning import Tuned, tune
from r2mae_text.weights import model_digest

FREE = ("tasks", "seeds", "model", "task_data")
"""A run may be widened by tasks and seeds. Model and data are known by their content."""


def finetune(config: Finetune) -> RunFolder:
    """Fine-tune every task with every seed and return the run folder; finished pairs are not done again.

    Raises:
        UserError: model, task, data or device do not fit, or were changed since an earlier call.
    """
    check_tracker(config.logger)
    device, scheme = resolve_device(config.device), scheme_of(config.model)
    for name in config.tasks:
        check_task(name, config.text_columns, config.kind, config.label_column)
    model = Path(config.model.removeprefix("scratch:"))
    if config.out is not None:
        check_output(config.out, [model, *(Path(config.task_data) / name for name in config.tasks)])
    own: dict[str, Any] = {"kind": config.kind, "label_column": config.label_column}
    sources = {name: task_sources(name, config.task_data, config.text_columns, **own) for name in config.tasks}
    facts = {"scheme": scheme, "weights": model_digest(config.model.removeprefix("scratch:"))}
    with open_run(
        "r2mae-text",
        "finetune",
        config.out,
        resolved(config),
        facts=facts,
        free=FREE,
        models=pretrained_as(config.model),
    ) as run:
        records: list[Record] = []
        for name in config.tasks:
            records += _task_records(config, name, sources[name], run, scheme, device)
        run.write_results(records)
        return run


def _task_records(
    config: Finetune, name: str, sources: dict[str, str], run: RunFolder, scheme: str, device: str
) -> list[Record]:
    """Fine-tune on a task with the seeds that are missing, and return the records of all."""
    parts = {seed: run.path / "parts" / f"{name}-{seed}.json" for seed in config.seeds}
    missing = [seed for seed, part in parts.items() if not part.exists()]
    for seed, part in parts.items():
        if seed not in missing:
            then = read_json(part).get("sources")
            remedy = "put the data back as they were, or name another folder with --out"
            refuse_changed(part, then if isinstance(then, dict) else {}, sources, remedy)
    if missing:
        task, splits = load_task(
            name, config.task_data, config.text_columns, kind=config.kind, label_column=config.label_column
        )
        tests, absent = load_test(name, config.task_data) if config.keep != "none" else ({}, {})
        if config.progress:
            say(_described(name, task, splits))
            for split, why in absent.items():
                say(f"{name}: {submission_name(name, split)} for GLUE's server is not made: {why}")
        for seed in missing:
            records = _tune_once(config, name, task, splits, tests, seed, scheme, device, run)
            write_json(parts[seed], {"records": [asdict(record) for record in records], "sources": sources})
    return [record for part in parts.values() for record in read_records(part)]


def _tune_once(
    config: Finetune,
    name: str,
    task: Task,
    splits: dict[str, Examples],
    tests: Tests,
    seed: int,
    scheme: str,
    device: str,
    run: RunFolder,
) -> list[Record]:
    """Fine-tune with one seed, write what it leaves, and return its records."""
    start = time.perf_counter()
    bf16 = precision(config.precision, device) == "bf16-mixed"
    logs = RunFolder(run.path / "logs" / f"{name}-{seed}", run.config, free=FREE)
    with logging_to(logs, config.logger, "r2mae-text") as log:
        tuned = tune(
            config.model, task, splits, seed, epochs=config.epochs, lr=config.lr, warmup=config.warmup,
            weight_decay=config.weight_decay, batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size, clip=config.clip, max_length=config.max_length,
            max_train=config.max_train, keep="best" if config.keep == "best" else "last", evaluate=config.evaluate,
            patience=config.patience, class_weights=config.class_weights, device=device, bf16=bf16,
            progress=config.progress, log=log,
        )  # fmt: skip
    with whole_folder(run.path / f"{name}-{seed}") as folder:
        write_tuned(folder, task, splits, tuned)
        if config.keep != "none":
            _write_submissions(folder, tests, name, task, tuned, config.max_length, device, bf16)
            save_tuned(folder / "model", name, task, tuned, config.max_length)
    scores, counted = tuned.scores, {split: len(examples) for split, examples in splits.items()}
    if task.tags:
        counted = {split: int((data.labels >= 0).sum()) for split, data in tuned.encoded.items()}
    if task.kind == "classification":
        scores = {split: {**values, "majority": majority(splits[split].labels)} for split, values in scores.items()}
    if task.tags:
        tags = {split: data.labels[data.labels >= 0].numpy() for split, data in tuned.encoded.items()}
        scores = {split: {**values, "majority": majority(tags[split])} for split, values in scores.items()}
    records = [
        Record(
            name if split == "validation" else f"{name}-{split.removeprefix('validation_')}",
            metric, value, scheme, seed, counted[split], split,
        )
        for split, values in scores.items()
        for metric, value in values.items()
    ]  # fmt: skip
    return stamped(records, device_name(device), time.perf_counter() - start)


def _write_submissions(
    folder: Path, tests: Tests, name: str, task: Task, tuned: Tuned, max_length: int, device: str, bf16: bool
) -> None:
    """Write the answers to GLUE's test sets that are there, as its server wants them."""
    for split, (examples, indices) in tests.items():
        data = encode(tuned.tokenizer, examples, max_length)
        logits = logits_of(tuned.model, data, tuned.tokenizer.pad_token_id, device, bf16)
        rows = submission_rows(name, task, logits, indices)
        write_csv(folder / submission_name(name, split), ["index", "prediction"], rows, delimiter="\t")


def _described(name: str, task: Task, splits: dict[str, Examples]) -> str:
    sizes = ", ".join(f"{len(examples):,} {split}" for split, examples in splits.items())
    skipped = {f"{why} in {split}": n for split, examples in splits.items() for why, n in examples.skipped.items()}
    return f"{name}: {sizes}; {left_out(skipped)}{_classes(task, splits['train'])}"


def _classes(task: Task, train: Examples) -> str:
    """Return how often each class is in the training examples: a spelling of its own, or a class too many, shows."""
    if not task.labels:
        return ""
    counts: Any = (
        train.labels.sum(0)
        if task.several
        else np.bincount(train.labels[train.labels >= 0], minlength=len(task.labels))
    )
    each = [f"{label} {int(n):,}" for label, n in zip(task.labels, counts, strict=True)]
    more = f" … ({len(each)})" if each[12:] else ""
    return f"; training has {', '.join(each[:12])}{more}"


def scheme_of(name: str) -> str:
    """Return what a model is called in tables: its run's scheme, "no pretraining", or its own name."""
    if name.startswith("scratch:"):
        return "no pretraining"
    if not (Path(name) / "config.yaml").exists():
        return Path(name).name
    return run_identity(Path(name), "text")[0]


def pretrained_as(name: str) -> dict[Path, tuple[str, int]]:
    """Return the run folder of a model → (scheme, seed of its pretraining), or nothing for a model from elsewhere."""
    place = Path(name)
    return {place: run_identity(place, "text")} if (place / "config.yaml").exists() else {}


def finetune_command(config: Finetune) -> None:
    """`r2mae-text finetune`."""
    run = finetune(config)
    show_table(run, run.results(), RANK_BY, f"{config.model}, fine-tuned")
    first = run.path / f"{config.tasks[0]}-{config.seeds[0]}"
    then = "" if config.keep == "none" else f". Next: r2mae-text predict {pasteable(first / 'model')} FILE"
    say(f"Done: {run.path} (results.json, table.md, {first.name}/ …){then}")
