"""A pretrained body with a classifier on it: made, opened again, and applied to encoded examples."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r2mae_core import UserError, read_json, say
from r2mae_text.batching import Encoded, collate
from r2mae_text.data.glue import Task
from r2mae_text.model import usable_positions
from r2mae_text.tokenizer import load_tokenizer
from r2mae_text.weights import load_config, load_pretrained, model_folder

DESCRIPTION = "r2mae_task.json"
"""File in a fine-tuned model's folder that says what its inputs are."""
_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_CLASS = {True: "AutoModelForTokenClassification", False: "AutoModelForSequenceClassification"}
_SCRATCH = "scratch:"


def new_classifier(name: str | Path, task: Task) -> tuple[Any, Any]:
    """Return (model, tokenizer): the pretrained body with a classifier, or, for "scratch:NAME", all of it new.

    A classifier that the model has already is kept if its labels are those of the task, in their order; else it is
    replaced, which is said.

    Raises:
        UserError: there is no such model.
    """
    import transformers

    text, labels, cls = str(name), task.labels or ("score",), _CLASS[task.tags]
    settings: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": _PROBLEMS.get(task.kind),
    }
    if text.startswith(_SCRATCH):
        architecture = text.removeprefix(_SCRATCH)
        config, tokenizer = load_config(architecture, **settings), load_tokenizer(model_folder(architecture))
        return getattr(transformers, cls).from_config(config, trust_remote_code=False), tokenizer
    before = load_config(name)
    model, tokenizer = load_pretrained(name, cls, ignore_mismatched_sizes=True, **settings)
    if has_classifier(before, tags=task.tags):
        old = tuple(str(label) for _, label in sorted(before.id2label.items()))
        same = before.problem_type == settings["problem_type"] or before.problem_type is None
        if old == labels and same:
            say(f"{name}: its classifier goes on, with the labels {_named(old)}")
        else:
            say(f"{name}: its classifier has the labels {_named(old)}, the task {_named(labels)}; a new one is trained")
            model = _with_new_head(model)
    return model, tokenizer


def _with_new_head(model: Any) -> Any:
    """Return the model with everything outside of its body newly initialised."""
    fresh, body = type(model)(model.config), f"{model.base_model_prefix}."
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(body)}, strict=False)
    return fresh


def _named(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:5]) + (f" … ({len(labels)})" if len(labels) > 5 else "")


def has_classifier(config: Any, *, tags: bool) -> bool:
    """Return whether the weights that belong to a config hold a classifier of this kind."""
    ending = _CLASS[tags].removeprefix("AutoModel")
    return any(name.endswith(ending) for name in config.architectures or ())


def open_classifier(name: str | Path) -> tuple[Any, Any, Task, int]:
    """Return (model, tokenizer, task, longest example in tokens) of a fine-tuned model.

    Args:
        name: a run folder of finetune with one model in it, a model's folder, or a name on the hub.

    Raises:
        UserError: there is no model, more than one, or one without a classifier.
    """
    place = model_folder(name)
    config = load_config(place)
    tags = has_classifier(config, tags=True)
    if not tags and not has_classifier(config, tags=False):
        raise UserError(f"{name} has no classifier; make one with r2mae-text finetune {name}")
    model, tokenizer = load_pretrained(place, _CLASS[tags], new_head=False)
    labels = tuple(str(label) for _, label in sorted(config.id2label.items()))
    regression = config.problem_type == "regression" or (len(labels) == 1 and not tags)
    several = config.problem_type == "multi_label_classification"
    told = read_json(file) if (file := Path(place) / DESCRIPTION).exists() else {}
    columns = tuple(told.get("text_columns", ()))
    task = Task(columns, () if regression else labels, tags=tags, several=several)
    return model, tokenizer, task, min(int(told.get("max_length", 512)), usable_positions(config))


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


def forward(model: Any, data: Encoded, which: np.ndarray, pad_id: int, device: str) -> Tensor:
    """Return the logits of some examples: (B, classes), or of words (B, W, classes)."""
    ids, mask, types = collate(data, which, pad_id)
    extra = {"token_type_ids": types.to(device)} if getattr(model.config, "type_vocab_size", 1) > 1 else {}
    return model(input_ids=ids.to(device), attention_mask=mask.to(device), **extra).logits


def loss_of(task: Task, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss.

    Args:
        task: its kind decides: squared error, cross-entropy, or binary cross-entropy of each label.
        logits: of `forward`, float32.
        labels: of `labels_of`.
        weights: of the classes, (classes,); of several labels, of the rows that have them.
    """
    if task.kind == "regression":
        return F.mse_loss(logits[:, 0], labels)
    if task.kind == "multi_label":
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    if weights is not None and task.tags:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights)


def weight_of(task: Task, labels: Tensor, weights: Tensor | None = None) -> float:
    """Return how much some examples count in the mean of `loss_of`: examples, or the sum of their classes' weights."""
    if task.kind in ("regression", "multi_label"):
        return float(len(labels))
    labels = labels[labels >= 0]
    return float(len(labels) if weights is None else weights.cpu()[labels].sum())


@torch.no_grad()
def logits_of(
    model: Any, data: Encoded, pad_id: int, device: str, bf16: bool = False, batch_size: int = 128
) -> np.ndarray:
    """Return logits (N, classes) float32, in the order of the examples; of words, of all that have a token."""
    model.eval()
    order = np.argsort(data.lengths(), kind="stable")
    parts: list[np.ndarray] = []
    for first in range(0, len(order), batch_size):
        which = order[first : first + batch_size]
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = forward(model, data, which, pad_id, device).float().cpu().numpy()
        if data.words is None:
            parts += list(logits[:, None])
            continue
        for row, i in enumerate(which.tolist()):
            words = data.words[data.starts[i] : data.starts[i + 1]]
            parts.append(logits[row, : len(words)][words >= 0])
    return np.concatenate([parts[i] for i in np.argsort(order).tolist()])
