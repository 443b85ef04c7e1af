"""Linear probes of the demo: what the frozen states of an encoder tell about words, and what tells without one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2mae_core import Record, UserError
from r2mae_text.batching import Encoded, collate, encode
from r2mae_text.data.glue import Examples, load_task

METRIC = "auroc"
"""Area under the ROC curve over the words of the held-out sentences: 0.5 is chance, whatever the share of labels."""
MAX_LENGTH = 64
"""Tokens of a sentence; the demo's sentences have fewer."""
_PENALTY = 0.01  # scikit-learn's C on standardised states; 0.001 to 0.1 differ by less than 0.02


def probe_model(model: Any, tokenizer: Any, tasks: Path, name: str, seed: int, device: str) -> list[Record]:
    """Fit a logistic regression on the frozen states of words, for every task in a folder, and return its AUROC.

    Args:
        model: an encoder (transformers' AutoModel).
        tokenizer: its tokenizer.
        tasks: TASK/train.jsonl and TASK/validation.jsonl, as `write_tasks` leaves them.
        name: of the row.
        seed: of the pretraining.
        device: where the states are computed.
    """
    model = model.to(device).eval()
    records = []
    for task, splits in _load(tasks):
        data = {split: encode(tokenizer, examples, MAX_LENGTH) for split, examples in splits.items()}
        states = {split: word_states(model, part, tokenizer.pad_token_id, device) for split, part in data.items()}
        labels = {split: part.labels[part.labels >= 0].numpy() for split, part in data.items()}
        records.append(_fitted(task, states, labels, name, seed))
    return records


def probe_words(tasks: Path, name: str) -> list[Record]:
    """Return what a word and its two neighbours tell without a model: a logistic regression on which words they are."""
    learn = _sklearn()
    records = []
    for task, splits in _load(tasks):
        rows = {split: [_neighbours(words) for words in part.texts[0]] for split, part in splits.items()}
        features = learn["DictVectorizer"]().fit(row for sentence in rows["train"] for row in sentence)
        found = {split: features.transform([r for s in part for r in s]) for split, part in rows.items()}
        labels = {split: part.labels for split, part in splits.items()}
        fit = learn["LogisticRegression"](C=1.0, max_iter=1000).fit(found["train"], labels["train"])
        records.append(_record(task, fit, found["validation"], labels["validation"], name, 0))
    return records


@torch.no_grad()
def word_states(model: Any, data: Encoded, pad_id: int, device: str, batch_size: int = 128) -> np.ndarray:
    """Return the last state of the token that starts each word, (words, D) float32, in the order of the text."""
    assert data.words is not None
    parts = list[np.ndarray]()
    for first in range(0, len(data), batch_size):
        which = np.arange(first, min(first + batch_size, len(data)))
        ids, mask, _ = collate(data, which, pad_id)
        states = model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float().cpu().numpy()
        for row, i in enumerate(which.tolist()):
            words = data.words[data.starts[i] : data.starts[i + 1]]
            parts.append(states[row, : len(words)][words >= 0])
    return np.concatenate(parts)


def _load(tasks: Path) -> list[tuple[str, dict[str, Examples]]]:
    """Return (name, splits) of every task in a folder."""
    names = sorted(folder.name for folder in tasks.iterdir() if folder.is_dir())
    return [(name, load_task(name, str(tasks), ("tokens",), kind="token_classification")[1]) for name in names]


def _neighbours(words: list[str]) -> list[dict[str, str]]:
    lower = [word.lower() for word in words]
    around = zip(["<s>", *lower[:-1]], lower, [*lower[1:], "</s>"], strict=True)
    return [{"before": before, "word": word, "after": after} for before, word, after in around]


def _fitted(task: str, states: dict[str, np.ndarray], labels: dict[str, np.ndarray], name: str, seed: int) -> Record:
    learn = _sklearn()
    scale = learn["StandardScaler"]().fit(states["train"])
    fit = learn["LogisticRegression"](C=_PENALTY, max_iter=300).fit(scale.transform(states["train"]), labels["train"])
    return _record(task, fit, scale.transform(states["validation"]), labels["validation"], name, seed)


def _record(task: str, fit: Any, features: Any, labels: np.ndarray, name: str, seed: int) -> Record:
    value = float(_sklearn()["roc_auc_score"](labels, fit.decision_function(features)))
    return Record(task, METRIC, value, name, seed, len(labels), "validation")


def _sklearn() -> dict[str, Any]:
    try:
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise UserError("the demo's probes need scikit-learn: pip install 'r2mae-text[demo]'") from None
    found = (DictVectorizer, LogisticRegression, StandardScaler, roc_auc_score)
    return {item.__name__: item for item in found}
