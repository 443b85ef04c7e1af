"""The demo's downstream tasks, made from speeches that no model was pretrained on: the text itself has the labels.

All are of words, and need their context. *Swapped*: two neighbouring words of a sentence are swapped (the bigram
shift of Conneau et al. 2018); which ones? *Replaced*: one word is another one, drawn from other sentences; which?
*Commas*: all commas of a sentence are taken away; behind which words were they? Words with capitals or marks are
neither swapped nor replaced, so that neither shows.
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from r2mae_core import derived_seed, write_text

SHORTEST, LONGEST = 8, 20
"""Words of a sentence that a task takes."""
TASKS = ("swapped", "replaced", "commas")
Sentence = tuple[list[str], list[str]]
"""Words, and the label of each."""


def sentences(text: str) -> list[list[str]]:
    """Return the sentences of a text as words; marks stay with their words."""
    cut = re.split(r"(?<=[.!?])\s+|\n+", text)
    return [words for part in cut if SHORTEST <= len(words := part.split()) <= LONGEST]


def plain(word: str) -> bool:
    """Return whether a word has small letters alone."""
    return word.isalpha() and word.islower()


def swapped(words: list[str], rng: np.random.Generator) -> Sentence | None:
    """Return a sentence with two neighbours swapped, or None if it has no two different plain ones."""
    pairs = [i for i, (a, b) in enumerate(pairwise(words)) if plain(a) and plain(b) and a != b]
    if not pairs:
        return None
    i = pairs[int(rng.integers(len(pairs)))]
    labels = ["swapped" if place in (i, i + 1) else "O" for place in range(len(words))]
    return [*words[:i], words[i + 1], words[i], *words[i + 2 :]], labels


def replaced(words: list[str], others: Sequence[str], rng: np.random.Generator) -> Sentence | None:
    """Return a sentence with one plain word replaced by another of `others`, or None if it has no plain one."""
    places = [i for i, word in enumerate(words) if plain(word)]
    if not places:
        return None
    i, new = places[int(rng.integers(len(places)))], others[int(rng.integers(len(others)))]
    if new == words[i]:
        return None
    return [*words[:i], new, *words[i + 1 :]], ["replaced" if place == i else "O" for place in range(len(words))]


def commas(words: list[str]) -> Sentence | None:
    """Return a sentence without its commas, or None if it has none."""
    labels = ["comma" if word.endswith(",") else "O" for word in words]
    bare = [word.removesuffix(",") for word in words]
    return (bare, labels) if "comma" in labels and all(bare) else None


def write_tasks(speeches: Sequence[Path], folder: Path, n_train: int, n_test: int, seed: int = 0) -> None:
    """Write TASK/train.jsonl and TASK/validation.jsonl of every task; the two are of different speeches.

    Args:
        speeches: every second one is for validation.
        folder: where to.
        n_train: sentences of a training file.
        n_test: sentences of a validation file.
        seed: of which sentences are taken, and which words are changed.
    """
    for split, files, n in (("train", speeches[::2], n_train), ("validation", speeches[1::2], n_test)):
        found = [words for file in files for words in sentences(file.read_text("utf-8"))]
        others = [word for words in found for word in words if plain(word)]
        for name in TASKS:
            rng, rows = np.random.default_rng(derived_seed(seed, f"{name} {split}")), list[str]()
            for i in rng.permutation(len(found)).tolist():
                made = _changed(name, found[i], others, rng) if len(rows) < n else None
                if made is not None:
                    rows.append(json.dumps({"tokens": made[0], "label": made[1]}) + "\n")
            write_text(folder / name / f"{split}.jsonl", "".join(rows))


def _changed(name: str, words: list[str], others: Sequence[str], rng: np.random.Generator) -> Sentence | None:
    if name == "swapped":
        return swapped(words, rng)
    return replaced(words, others, rng) if name == "replaced" else commas(words)
