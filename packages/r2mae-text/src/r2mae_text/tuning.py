"""Fine-tuning a model on one task with one seed: length buckets, epochs, the best or the last (paper, C.6)."""

import copy
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from r2mae_core import UserError, adamw, derived_seed, linear, out_of_memory, permutation, say
from r2mae_text.batching import Encoded, batches, encode, labels_of, subset
from r2mae_text.classifier import check_lengths, forward, logits_of, loss_of, new_classifier, weight_of
from r2mae_text.data.glue import Examples, Task
from r2mae_text.metrics import deciding_metric, score


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model, and what it says of the splits."""

    scores: dict[str, dict[str, float]]
    """Split → metric → value, of the epoch that is kept."""
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    """Split → (N, classes); of words, of all that have a token."""
    encoded: dict[str, Encoded] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """Of each epoch: its number, the training loss and the scores."""
    kept: int = 0
    """The epoch that is kept, from 1."""
    model: Any = None
    tokenizer: Any = None


def finetune_task(
    name: str | Path, task: Task, splits: dict[str, Examples], seed: int, **settings: Any
) -> dict[str, dict[str, float]]:
    """Fine-tune once and return split → metric → value. See `tune` for the settings.

    Raises:
        UserError: as `tune`.
    """
    return tune(name, task, splits, seed, **settings).scores


def tune(
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
    micro_batch_size: int | None = None,
    clip: float | None = 1.0,
    max_length: int = 128,
    max_train: int | None = None,
    keep: Literal["last", "best"] = "last",
    evaluate: Literal["epoch", "end"] = "end",
    patience: int | None = None,
    class_weights: Literal["none", "balanced"] = "none",
    device: str = "cpu",
    bf16: bool = False,
    progress: bool = False,
    log: Callable[[Mapping[str, float], int], None] = lambda values, step: None,
) -> Tuned:
    """Fine-tune once.

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
        micro_batch_size: examples of it that are computed at once; default all. Without dropout the result does not
            depend on it.
        clip: largest gradient norm; None: no clipping.
        max_length: tokens of an example.
        max_train: use only this many training examples, drawn by the seed.
        keep: the model of the last epoch, or of the one that is best on the first split by the task's metric.
        evaluate: after each epoch, or at the end alone.
        patience: stop after this many epochs without a better one; with keep="best".
        class_weights: "balanced": every class counts as much as the others in the loss.
        device: "cpu", "cuda", "mps".
        bf16: autocast.
        progress: show a progress bar.
        log: given (metric → value, step) of each epoch that is evaluated.

    Raises:
        UserError: there is no such model, an example is longer than it takes, the loss becomes NaN, or the GPU's
            memory is full.
    """
    torch.manual_seed(derived_seed(seed, "classifier"))
    model, tokenizer = new_classifier(name, task)
    model.to(device).train()
    encoded = {split: encode(tokenizer, splits[split], max_length) for split in ("train", *task.splits)}
    check_lengths(encoded, model.config)
    if progress:
        _say_what_is_cut(encoded, max_length)
    train = encoded["train"]
    if max_train is not None and max_train < len(train):
        train = subset(train, permutation(len(train), derived_seed(seed, "subset"), 0)[:max_train])
    weights = balanced_weights(task, train.labels).to(device) if class_weights == "balanced" else None
    total = epochs * -(-len(train) // batch_size)
    adam = adamw(
        model.named_parameters(), lr=lr, weight_decay=weight_decay, total_steps=total, warmup=warmup, schedule=linear
    )
    optimizer, schedule = adam["optimizer"], adam["lr_scheduler"]["scheduler"]
    autocast = torch.autocast(device, torch.bfloat16, enabled=bf16)
    first_bad = torch.full((), total, device=device)  # looked at once an epoch: every look waits for the device
    loss_sum, step, history = torch.zeros((), device=device), 0, list[dict[str, Any]]()
    best: tuple[float, int, dict[str, Tensor], dict[str, np.ndarray]] | None = None
    every = _all_batches(train, batch_size, seed, epochs, total, progress)
    for epoch in range(epochs):
        model.train()
        loss_sum.zero_()
        try:
            for _ in range(total // epochs):
                which = next(every)
                torch.manual_seed(derived_seed(seed, "dropout", step))
                optimizer.zero_grad()
                loss = torch.zeros((), device=device)
                for part, share in shared_out(task, train, which, micro_batch_size or batch_size, weights):
                    with autocast:
                        logits = forward(model, train, part, tokenizer.pad_token_id, device)
                    labels = labels_of(train, part, logits.shape[1]).to(device)
                    part_loss = share * loss_of(task, logits.float(), labels, weights)
                    part_loss.backward()
                    loss += part_loss.detach()
                loss_sum += loss
                first_bad = torch.where(torch.isfinite(loss), first_bad, first_bad.clamp(max=step))
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                schedule.step()
                step += 1
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "--micro_batch_size or --max_length") from None
        if evaluate == "end" and epoch + 1 < epochs:
            continue
        if (bad := int(first_bad)) < total:
            raise UserError(
                f"the loss is NaN or infinite from step {bad} of {total} on; lower --lr, or give --warmup 0.1"
            )
        said = {split: logits_of(model, encoded[split], tokenizer.pad_token_id, device, bf16) for split in task.splits}
        scores = {split: score_of_split(task, said[split], encoded[split]) for split in task.splits}
        loss = float(loss_sum) / (total // epochs)
        history.append({"epoch": epoch + 1, "loss": loss, "scores": scores})
        named = {f"{split}/{metric}": value for split, of in scores.items() for metric, value in of.items()}
        log({"loss": loss, **named}, step)
        value = scores[task.splits[0]][deciding_metric(task)] if keep == "best" else 0.0
        if keep == "last" or best is None or value > best[0]:
            state = copy.deepcopy(model.state_dict()) if keep == "best" else {}
            best = value, epoch + 1, state, said
        if patience is not None and epoch + 1 - best[1] >= patience:
            every.close()
            break
    assert best is not None  # there is one epoch at least, and the last one is evaluated
    if best[2]:
        model.load_state_dict(best[2])
    model.eval()
    scores = next(row["scores"] for row in history if row["epoch"] == best[1])
    return Tuned(scores, best[3], encoded, history, best[1], model, tokenizer)


def shared_out(
    task: Task, data: Encoded, which: np.ndarray, size: int, weights: Tensor | None = None
) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the parts of a batch that are computed at once, each with its share of the mean over the batch.

    Parts without any label, such as sentences whose words are all behind the cut, are left out.
    """
    parts = [which[i : i + size] for i in range(0, len(which), size)]
    if len(parts) == 1:
        yield which, 1.0
        return
    counted = [weight_of(task, labels_of(data, part, int(data.lengths()[part].max())), weights) for part in parts]
    for part, own in zip(parts, counted, strict=True):
        if own:
            yield part, own / sum(counted)


def score_of_split(task: Task, logits: np.ndarray, data: Encoded) -> dict[str, float]:
    """Return metric → value of a split."""
    labels = data.labels.numpy()
    if data.words is None:
        return score(task, logits, labels)
    return score(task, logits, labels[data.words >= 0], n_words(data))


def n_words(data: Encoded) -> np.ndarray:
    """Return how many words of each sentence have a token, (N,)."""
    assert data.words is not None
    return np.diff(np.concatenate([[0], np.cumsum(data.words >= 0)])[data.starts])


def balanced_weights(task: Task, labels: Tensor) -> Tensor:
    """Return the weight of each class: rows / (classes · rows of the class), 1 for classes that are not there.

    Of several labels it is, for each, the rows without it for one with it.

    Raises:
        UserError: the task has scores.
    """
    if task.kind == "regression":
        raise UserError("--class_weights balanced is of classes, and the task has scores; leave it out")
    if task.kind == "multi_label":
        have = labels.sum(0)
        return torch.where(have > 0, (len(labels) - have) / have.clamp(min=1), 1.0)
    counts = torch.bincount(labels[labels >= 0], minlength=len(task.labels)).float()
    return torch.where(counts > 0, counts.sum() / (len(counts) * counts.clamp(min=1)), 1.0)


def _say_what_is_cut(encoded: dict[str, Encoded], max_length: int) -> None:
    for split, data in encoded.items():
        if data.n_cut:
            say(f"{split}: {data.n_cut:,} of {len(data):,} examples are longer than {max_length} tokens, and cut")
        if data.n_lost:
            say(f"{split}: {data.n_lost:,} words are behind the cut or have no token; they are not counted")


def _all_batches(
    data: Encoded, batch_size: int, seed: int, epochs: int, total: int, progress: bool
) -> Generator[np.ndarray]:
    from tqdm import tqdm

    lengths = data.lengths()
    every = (which for epoch in range(epochs) for which in batches(lengths, batch_size, seed, epoch))
    yield from tqdm(every, desc="fine-tuning", total=total, disable=not progress, leave=False, mininterval=0.5)
