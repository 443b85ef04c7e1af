"""Fine-tuning on labelled sentences and pairs: length buckets, several seeds, records (paper, C.6)."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import (
    Record,
    RunFolder,
    adamw,
    check_share,
    derived_seed,
    device_name,
    left_out,
    linear,
    open_run,
    out_of_memory,
    permutation,
    precision,
    read_records,
    report,
    resolve_device,
    resolved,
    run_identity,
    say,
    stamped,
    write_records,
)
from r2mae_text.batching import Encoded, batches, collate, encode, subset
from r2mae_text.data.glue import Examples, Task, load_task
from r2mae_text.evaluate import RANK_BY
from r2mae_text.metrics import score
from r2mae_text.options import Finetune
from r2mae_text.weights import load_pretrained


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
        UserError: there is no such model, or the GPU's memory is full.
    """
    torch.manual_seed(derived_seed(seed, "classifier"))
    model, tokenizer = _classifier(name, len(task.labels) or 1)
    model.to(device).train()
    train = encode(tokenizer, splits["train"], max_length)
    if max_train is not None and max_train < len(train):
        train = subset(train, permutation(len(train), derived_seed(seed, "subset"), 0)[:max_train])
    total = epochs * -(-len(train) // batch_size)
    adam = adamw(
        model.named_parameters(), lr=lr, weight_decay=weight_decay, total_steps=total, warmup=warmup, schedule=linear
    )
    optimizer, schedule = adam["optimizer"], adam["lr_scheduler"]["scheduler"]
    autocast = torch.autocast(device, torch.bfloat16, enabled=bf16)
    try:
        for step, which in enumerate(_all_batches(train, batch_size, seed, epochs, total, progress)):
            torch.manual_seed(derived_seed(seed, "dropout", step))
            with autocast:
                logits = _logits(model, train, which, tokenizer.pad_token_id, device)
            loss = _loss(logits.float(), train.labels[torch.from_numpy(which)].to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error, "--batch_size or --max_length") from None
    scores = {}
    for split in task.splits:
        data = encode(tokenizer, splits[split], max_length)
        scores[split] = score(task, predict(model, data, tokenizer.pad_token_id, device, bf16), data.labels.numpy())
    return scores


def _all_batches(
    data: Encoded, batch_size: int, seed: int, epochs: int, total: int, progress: bool
) -> Iterator[np.ndarray]:
    from tqdm import tqdm

    lengths = data.lengths()
    every = (which for epoch in range(epochs) for which in batches(lengths, batch_size, seed, epoch))
    yield from tqdm(every, desc="fine-tuning", total=total, disable=not progress, leave=False, mininterval=0.5)


def _classifier(name: str | Path, n_labels: int) -> tuple[Any, Any]:
    """Return (model, tokenizer): the pretrained body with a new classifier, or all of it new."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    text = str(name)
    settings = {"num_labels": n_labels} | ({"problem_type": "regression"} if n_labels == 1 else {})
    if not text.startswith("scratch:"):
        return load_pretrained(name, "AutoModelForSequenceClassification", **settings)
    _, tokenizer = load_pretrained(text.removeprefix("scratch:"))
    folder = Path(text.removeprefix("scratch:"))
    place = folder / "model" if (folder / "model").is_dir() else folder
    config = AutoConfig.from_pretrained(place, **settings)
    return AutoModelForSequenceClassification.from_config(config), tokenizer


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
        UserError: model, task, data or device do not fit.
    """
    device = resolve_device(config.device)
    check_share("warmup", config.warmup)
    # A run may be widened by tasks and seeds.
    with open_run("r2mae-text", "finetune", config.out, resolved(config), free=("tasks", "seeds")) as run:
        scheme, records = scheme_of(config.model), []
        for name in config.tasks:
            task, splits = None, {}
            for seed in config.seeds:
                part = run.path / "parts" / f"{name}-{seed}.json"
                if not part.exists():
                    if task is None:
                        task, splits = load_task(name, config.data, config.text_columns)
                        if config.progress:
                            say(_described(name, splits))
                    write_records(part, _records(config, name, task, splits, seed, scheme, device))
                records += read_records(part)
        run.write_results(records)
        return run


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


def finetune_command(config: Finetune) -> None:
    """`r2mae-text finetune`."""
    run = finetune(config)
    report(run, run.results(), RANK_BY, f"{config.model}, fine-tuned")
    say(f"Done: {run.path} (results.json, table.md)")
