"""Fine-tuning on labelled sentences and pairs: length buckets, several seeds, records (paper, C.6)."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import (
    Record,
    RunFolder,
    UserError,
    adamw,
    check_output,
    derived_seed,
    device_name,
    left_out,
    linear,
    open_run,
    out_of_memory,
    permutation,
    precision,
    read_json,
    read_records,
    refuse_changed,
    report,
    resolve_device,
    resolved,
    run_identity,
    say,
    stamped,
    write_json,
)
from r2mae_text.batching import Encoded, batches, collate, encode, subset
from r2mae_text.data.glue import Examples, Task, check_task, load_task, task_sources
from r2mae_text.evaluate import RANK_BY
from r2mae_text.metrics import majority, score
from r2mae_text.model import usable_positions
from r2mae_text.options import Finetune
from r2mae_text.tokenizer import load_tokenizer
from r2mae_text.weights import load_config, load_pretrained, model_digest, model_folder


def finetune_task(
    name: str | Path,
    task: Task,
    splits: dict[str, Examples],
    seed: int,
    *,
    epochs: int = 5,
    lr: float = 2e-5,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    max_length: int = 128,
    max_train: int | None = None,
    device: str = "cpu",
    bf16: bool = False,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Fine-tune once and return split → metric → value.

    Args:
        name: run folder, transformers folder or hub name; "scratch:NAME" for the same architecture, newly initialised.
        task: columns, labels and metric.
        splits: "train" and those to evaluate on.
        seed: of classifier, order and dropout.
        epochs: passes over the training set.
        lr: peak learning rate of AdamW.
        warmup: share of steps in which it rises; it then falls linearly to zero.
        weight_decay: AdamW's, on matrices.
        batch_size: examples of a step.
        max_length: tokens of an example.
        max_train: use only this many training examples, drawn by the seed.
        device: "cpu", "cuda", "mps".
        bf16: autocast.
        progress: show a progress bar.

    Raises:
        UserError: there is no such model, an example is longer than it takes, the loss becomes NaN, or the GPU's
            memory is full.
    """
    torch.manual_seed(derived_seed(seed, "classifier"))
    model, tokenizer = _classifier(name, len(task.labels) or 1)
    model.to(device).train()
    encoded = {split: encode(tokenizer, splits[split], max_length) for split in ("train", *task.splits)}
    check_lengths(encoded, model.config)
    train = encoded["train"]
    if max_train is not None and max_train < len(train):
        train = subset(train, permutation(len(train), derived_seed(seed, "subset"), 0)[:max_train])
    total = epochs * -(-len(train) // batch_size)
    adam = adamw(
        model.named_parameters(), lr=lr, weight_decay=weight_decay, total_steps=total, warmup=warmup, schedule=linear
    )
    optimizer, schedule = adam["optimizer"], adam["lr_scheduler"]["scheduler"]
    autocast = torch.autocast(device, torch.bfloat16, enabled=bf16)
    first_bad = torch.full((), total, device=device)  # looked at once: every look waits for the device
    try:
        for step, which in enumerate(_all_batches(train, batch_size, seed, epochs, total, progress)):
            torch.manual_seed(derived_seed(seed, "dropout", step))
            with autocast:
                logits = _logits(model, train, which, tokenizer.pad_token_id, device)
            loss = _loss(logits.float(), train.labels[torch.from_numpy(which)].to(device))
            first_bad = torch.where(torch.isfinite(loss.detach()), first_bad, first_bad.clamp(max=step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error, "--batch_size or --max_length") from None
    if (bad := int(first_bad)) < total:
        raise UserError(f"the loss is NaN or infinite from step {bad} of {total} on; lower --lr, or give --warmup 0.1")
    scores = {}
    for split in task.splits:
        data = encoded[split]
        scores[split] = score(task, predict(model, data, tokenizer.pad_token_id, device, bf16), data.labels.numpy())
    return scores


def check_lengths(encoded: dict[str, Encoded], config: Any) -> None:
    """Refuse examples that are longer than the model's positions.

    Raises:
        UserError: there is one.
    """
    longest = max(int(data.lengths().max()) for data in encoded.values())
    if longest > usable_positions(config):
        raise UserError(
            f"an example has {longest} tokens, and the model takes {usable_positions(config)}; lower --max_length"
        )


def _all_batches(
    data: Encoded, batch_size: int, seed: int, epochs: int, total: int, progress: bool
) -> Iterator[np.ndarray]:
    from tqdm import tqdm

    lengths = data.lengths()
    every = (which for epoch in range(epochs) for which in batches(lengths, batch_size, seed, epoch))
    yield from tqdm(every, desc="fine-tuning", total=total, disable=not progress, leave=False, mininterval=0.5)


def _classifier(name: str | Path, n_labels: int) -> tuple[Any, Any]:
    """Return (model, tokenizer): the pretrained body with a new classifier, or all of it new."""
    text = str(name)
    settings = {"num_labels": n_labels} | ({"problem_type": "regression"} if n_labels == 1 else {})
    if not text.startswith("scratch:"):
        return load_pretrained(name, "AutoModelForSequenceClassification", **settings)
    from transformers import AutoModelForSequenceClassification

    architecture = text.removeprefix("scratch:")
    config, tokenizer = load_config(architecture, **settings), load_tokenizer(model_folder(architecture))
    return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False), tokenizer


def _logits(model: Any, data: Encoded, which: np.ndarray, pad_id: int, device: str) -> Tensor:
    ids, mask, types = collate(data, which, pad_id)
    extra = {"token_type_ids": types.to(device)} if getattr(model.config, "type_vocab_size", 1) > 1 else {}
    return model(input_ids=ids.to(device), attention_mask=mask.to(device), **extra).logits


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(logits[:, 0], labels) if logits.shape[1] == 1 else F.cross_entropy(logits, labels)


@torch.no_grad()
def predict(model: Any, data: Encoded, pad_id: int, device: str, bf16: bool, batch_size: int = 128) -> np.ndarray:
    """Return logits (N, classes) float32, in the order of the examples."""
    model.eval()
    order = np.argsort(data.lengths(), kind="stable")
    parts = []
    for first in range(0, len(order), batch_size):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = _logits(model, data, order[first : first + batch_size], pad_id, device)
        parts.append(logits.float().cpu())
    out = torch.cat(parts).numpy()
    return out[np.argsort(order)]


def finetune(config: Finetune) -> RunFolder:
    """Fine-tune every task with every seed and return the run folder; finished pairs are not done again.

    Raises:
        UserError: model, task, data or device do not fit, or were changed since an earlier call.
    """
    device, scheme = resolve_device(config.device), scheme_of(config.model)
    for name in config.tasks:
        check_task(name, config.text_columns)
    model = Path(config.model.removeprefix("scratch:"))
    if config.out is not None:
        check_output(config.out, [model, *(Path(config.data) / name for name in config.tasks)])
    sources = {name: task_sources(name, config.data, config.text_columns) for name in config.tasks}
    facts = {"scheme": scheme, "weights": model_digest(config.model.removeprefix("scratch:"))}
    # A run may be widened by tasks and seeds. Model and data are known by their content.
    free = ("tasks", "seeds", "model", "data")
    with open_run(
        "r2mae-text",
        "finetune",
        config.out,
        resolved(config),
        facts=facts,
        free=free,
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
        task, splits = load_task(name, config.data, config.text_columns)
        if config.progress:
            say(_described(name, splits))
        for seed in missing:
            records = _records(config, name, task, splits, seed, scheme, device)
            write_json(parts[seed], {"records": [asdict(record) for record in records], "sources": sources})
    return [record for part in parts.values() for record in read_records(part)]


def _records(
    config: Finetune, name: str, task: Task, splits: dict[str, Examples], seed: int, scheme: str, device: str
) -> list[Record]:
    start = time.perf_counter()
    scores = finetune_task(
        config.model, task, splits, seed, epochs=config.epochs, lr=config.lr, warmup=config.warmup,
        weight_decay=config.weight_decay, batch_size=config.batch_size, max_length=config.max_length,
        max_train=config.max_train, device=device, bf16=precision(config.precision, device) == "bf16-mixed",
        progress=config.progress,
    )  # fmt: skip
    if task.labels:
        scores = {split: {**values, "majority": majority(splits[split].labels)} for split, values in scores.items()}
    records = [
        Record(
            name if split == "validation" else f"{name}-{split.removeprefix('validation_')}",
            metric, value, scheme, seed, len(splits[split]), split,
        )
        for split, values in scores.items()
        for metric, value in values.items()
    ]  # fmt: skip
    return stamped(records, device_name(device), time.perf_counter() - start)


def _described(name: str, splits: dict[str, Examples]) -> str:
    sizes = ", ".join(f"{len(examples):,} {split}" for split, examples in splits.items())
    skipped = {f"{why} in {split}": n for split, examples in splits.items() for why, n in examples.skipped.items()}
    return f"{name}: {sizes}; {left_out(skipped)}"


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
    report(run, run.results(), RANK_BY, f"{config.model}, fine-tuned")
    say(f"Done: {run.path} (results.json, table.md)")
