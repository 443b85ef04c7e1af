"""Tokenized examples, and batches of them with hardly any padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2mae_core import derived_seed, permutation
from r2mae_text.data.glue import Examples

_POOL = 50  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class Encoded:
    """Tokenized examples, end to end."""

    ids: np.ndarray
    """All tokens, (total,) int32."""
    types: np.ndarray
    """Which text a token is of, (total,) uint8; for models with token types."""
    starts: np.ndarray
    """(N + 1,) int64."""
    labels: Tensor
    """(N,) int64 or float32, or (N, labels) float32; of words (total,) int64, -100 where no word starts."""
    words: np.ndarray | None = None
    """Where words have labels: the number of the word that starts at a token, or -1, (total,) int64."""
    n_cut: int = 0
    """Examples that were longer than the longest allowed, and cut."""
    n_lost: int = 0
    """Words that are behind the cut, or that the tokenizer has nothing for."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self) -> np.ndarray:
        """Return tokens per example, (N,) int64."""
        return np.diff(self.starts)


def encode(tokenizer: Any, examples: Examples, max_length: int) -> Encoded:
    """Tokenize a split once, with the model's special tokens; what exceeds `max_length` is cut.

    A literal "<mask>" in a text is text, as `prepare` reads it.
    """
    # Only pairs can lose the longer text first; for one text it is the same.
    batch = tokenizer(
        *_joined(examples.texts), truncation="longest_first", max_length=max_length, return_token_type_ids=True,
        return_offsets_mapping=isinstance(examples.texts[0][0], list), split_special_tokens=True,
    )  # fmt: skip
    ids, types = batch["input_ids"], batch["token_type_ids"]
    starts = np.cumsum([0, *(len(row) for row in ids)])
    flat = np.fromiter((token for row in ids for token in row), np.int32, starts[-1])
    kinds = np.fromiter((kind for row in types for kind in row), np.uint8, starts[-1])
    n_cut = sum(bool(encoding.overflowing) for encoding in batch.encodings)
    if not isinstance(examples.texts[0][0], list):
        return Encoded(flat, kinds, starts, torch.from_numpy(examples.labels), n_cut=n_cut)
    sentences = zip(examples.texts[0], batch["offset_mapping"], strict=True)
    words = np.array([word for text, offsets in sentences for word in word_starts(text, offsets)], np.int64)
    first_words = np.cumsum([0, *map(len, examples.texts[0])])
    numbers = np.repeat(first_words[:-1], np.diff(starts)) + words  # among the words of all sentences
    labels = np.where(words >= 0, examples.labels[numbers.clip(0)], -100)
    lost = int(first_words[-1] - (words >= 0).sum())
    return Encoded(flat, kinds, starts, torch.from_numpy(labels), words, n_cut, lost)


def _joined(texts: tuple[list[Any], ...]) -> tuple[list[str], ...]:
    """Return texts as they are, and lists of words with spaces between them, as in running text."""
    return tuple([" ".join(text) if isinstance(text, list) else text for text in column] for column in texts)


def word_starts(words: list[str], offsets: list[tuple[int, int]]) -> list[int]:
    """Return, for each token, the number of the word that starts with it, or -1.

    Args:
        words: of a sentence.
        offsets: characters (from, to) of each token in the words joined by spaces; special tokens have none. Some
            tokenizers count the space to the word.
    """
    ends = np.cumsum([len(word) + 1 for word in words])  # of each word and the space behind it
    found, last = list[int](), -1
    for start, end in offsets:
        word = int(np.searchsorted(ends, end - 1, side="right")) if end > start else last
        ahead = word > last and end > start and end - 1 != ends[word] - 1  # not the space alone
        found.append(word if ahead else -1)
        last = word if ahead else last
    return found


def batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield an epoch's batches of example numbers: neighbours in length share a batch, in random order.

    Examples are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches shuffled: a
    batch has hardly any padding, and every epoch has other batches.
    """
    order = permutation(len(lengths), seed, epoch)
    pools = [order[i : i + _POOL * batch_size] for i in range(0, len(order), _POOL * batch_size)]
    cut = []
    for pool in pools:
        ranked = pool[np.argsort(lengths[pool], kind="stable")]
        cut += [ranked[i : i + batch_size] for i in range(0, len(ranked), batch_size)]
    for i in permutation(len(cut), derived_seed(seed, "batches"), epoch):
        yield cut[i]


def collate(data: Encoded, which: np.ndarray, pad_id: int, multiple: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ids, attention mask, token types), each (B, W): padded to the batch's longest, rounded up.

    Args:
        data: the split.
        which: numbers of the examples, (B,).
        pad_id: the tokenizer's.
        multiple: W is a multiple of this, so that a GPU sees few shapes.
    """
    lengths = data.lengths()[which]
    width = -(-int(lengths.max()) // multiple) * multiple
    columns = np.arange(width)
    real = columns < lengths[:, None]
    places = np.where(real, data.starts[which][:, None] + columns, 0)
    ids = np.where(real, data.ids[places], pad_id)
    types = np.where(real, data.types[places], 0)
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(real), torch.from_numpy(types.astype(np.int64))


def subset(data: Encoded, which: np.ndarray) -> Encoded:
    """Return only these examples."""
    bounds = data.starts.tolist()
    places = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in which.tolist()])
    starts = np.cumsum([0, *data.lengths()[which]])
    words = None if data.words is None else data.words[places]
    labels = data.labels[torch.from_numpy(which.copy() if words is None else places)]
    return Encoded(data.ids[places], data.types[places], starts, labels, words)


def labels_of(data: Encoded, which: np.ndarray, width: int) -> Tensor:
    """Return the labels of a batch: (B,), (B, labels), or of words (B, W), -100 where no word starts."""
    if data.words is None:
        return data.labels[torch.from_numpy(which.copy())]
    columns = np.arange(width)
    real = columns < data.lengths()[which][:, None]
    places = np.where(real, data.starts[which][:, None] + columns, 0)
    return torch.where(torch.from_numpy(real), data.labels[torch.from_numpy(places)], -100)
