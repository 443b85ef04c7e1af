"""Shards of token ids on disk, and rows of tokens out of them.

A corpus folder holds `index.json`, the tokenizer, and for each piece of the input `train-NNNNN.bin` and
`validation-NNNNN.bin`: uint16 ids, little-endian, each document followed by </s>. Rows are cut out of the running
text, across documents ("full sentences"); they hold one token less than the model's length, because <s> is put before.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r2mae_core import UserError
from r2mae_text.tokenizer import digest, load_tokenizer, start_and_end

Split = Literal["train", "validation"]
FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder."""

    path: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """Open a corpus folder and check its files against its index.

        Raises:
            UserError: the folder is not a finished corpus, or a shard is missing or has another size.
        """
        path = Path(path)
        try:
            index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            unfinished = any(path.glob("piece-*.json"))
            why = "its prepare did not finish; run it again" if unfinished else "make one with r2mae-text prepare"
            raise UserError(f"{path} has no index.json of a corpus; {why}") from None
        except ValueError as error:
            raise UserError(f"{path / 'index.json'} is damaged ({error}); run prepare again") from None
        if index.get("format") != FORMAT:
            raise UserError(f"{path / 'index.json'} has format {index.get('format')!r}, this version reads {FORMAT}")
        for shard in index["shards"]:
            file, expected = path / shard["file"], 2 * shard["tokens"]
            size = file.stat().st_size if file.exists() else None
            if size != expected:
                state = "is missing" if size is None else f"has {size:,} bytes where its index says {expected:,}"
                raise UserError(f"{file} {state}; remove the folder and run prepare again")
        return cls(path, index)

    @cached_property
    def tokenizer(self) -> Any:
        """The corpus's own tokenizer.

        Raises:
            UserError: it is not the one that made the shards.
        """
        tokenizer = load_tokenizer(self.path / "tokenizer")
        if digest(tokenizer) != self.index["tokenizer_sha256"]:
            raise UserError(
                f"{self.path / 'tokenizer'} is not the tokenizer that made these shards (its digest differs from "
                "index.json's): every id would mean another word; put the right one back or run prepare again"
            )
        return tokenizer

    def n_tokens(self, split: Split) -> int:
        """Return how many tokens a split holds."""
        return sum(shard["tokens"] for shard in self.index["shards"] if shard["split"] == split)

    @property
    def unigram_entropy(self) -> float:
        """Entropy of the training split's token frequencies, nats: the loss of a model that ignores context."""
        return self.index["unigram_entropy"]

    def n_rows(self, split: Split, length: int) -> int:
        """Return how many rows a split holds; a row does not run over the end of a shard."""
        return sum(s["tokens"] // (length - 1) for s in self.index["shards"] if s["split"] == split)

    def rows(self, split: Split, length: int) -> "TokenRows":
        """Return the rows of a split.

        Args:
            split: "train" or "validation".
            length: the model's tokens per row, <s> included.

        Raises:
            UserError: the split does not fill a row.
        """
        if length < 3:
            raise UserError(f"length must be 3 or more (<s> and two tokens), got {length}")
        shards = [
            np.memmap(self.path / shard["file"], "<u2", "r")[: shard["tokens"] // (length - 1) * (length - 1)]
            for shard in self.index["shards"]
            if shard["split"] == split and shard["tokens"] >= length - 1
        ]
        if not shards:
            more = "prepare with a larger --validation_share" if split == "validation" else "give more text"
            raise UserError(
                f"{self.path}: the {split} split has {self.n_tokens(split):,} tokens, less than one row of {length}; "
                f"{more} or a smaller --length"
            )
        ends = start_and_end(self.tokenizer)
        return TokenRows([shard.reshape(-1, length - 1) for shard in shards], ends[0] if ends else 0)


class TokenRows:
    """Rows of a split, read from memory-mapped files on demand.

    Args:
        shards: (rows_i, length - 1) uint16 arrays.
        start_id: what is put before each row.
    """

    def __init__(self, shards: list[np.ndarray], start_id: int) -> None:
        self.shards, self.start_id = shards, start_id
        self.first = np.cumsum([0, *(len(shard) for shard in shards)])

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def length(self) -> int:
        """Tokens of a row, <s> included."""
        return self.shards[0].shape[1] + 1

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, length) uint16, <s> first, for indices (B,)."""
        rows = np.empty((len(indices), self.length), np.uint16)
        rows[:, 0] = self.start_id
        if len(self.shards) == 1:
            rows[:, 1:] = self.shards[0][indices]
            return rows
        owners = np.searchsorted(self.first, indices, side="right") - 1
        order = np.argsort(owners, kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        for group in np.split(order, cuts):
            owner = owners[group[0]]
            rows[group, 1:] = self.shards[owner][indices[group] - self.first[owner]]
        return rows
