"""Shards of token ids on disk, and rows of tokens out of them.

A corpus folder holds `index.json`, the tokenizer, and for each piece of the input `train-NNNNN.bin` and
`validation-NNNNN.bin`: ids of 16 bits (32 for vocabularies above 65,536), little-endian, each document followed by
</s>. Rows are cut out of the running
text, across documents ("full sentences"); they hold one token less than the model's length, because <s> is put before.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from r2mae_core import UserError, as_json, check_checksums, file_digest, read_json
from r2mae_text.tokenizer import digest, load_tokenizer, start_and_end

Split = Literal["train", "validation"]
FORMAT = 1
CHECKED_BYTES = 1 << 30
"""The shards of a corpus up to this size are read through when it is opened."""


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder."""

    path: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """Open a corpus folder and check its files against its index.

        The index carries its own checksum, and the size of every shard is compared. The content of the shards is
        compared with its checksum up to `CHECKED_BYTES` in all; of larger ones, `TokenRows` refuses ids that are none.

        Raises:
            UserError: the folder is not a finished corpus, or a file is missing, has another size or is damaged.
        """
        path = Path(path)
        file = path / "index.json"
        if not file.is_file():
            unfinished = any(path.glob("piece-*.json"))
            why = "its prepare did not finish; run it again" if unfinished else "make one with r2mae-text prepare"
            raise UserError(f"{path} has no index.json of a corpus; {why}")
        index = read_json(file)
        if index.get("format") != FORMAT:
            raise UserError(f"{file} has format {index.get('format')!r}, this version reads {FORMAT}")
        if fault := _fault(index):
            raise UserError(f"{file} is damaged: {fault}; remove the folder and run prepare again")
        width = np.dtype(index.get("dtype", "uint16")).itemsize
        small = width * sum(shard["tokens"] for shard in index["shards"]) <= CHECKED_BYTES
        for shard in index["shards"]:
            _check_shard(path / shard["file"], width * shard["tokens"], shard.get("sha256") if small else None)
        return cls(path, index)

    @cached_property
    def digest(self) -> str:
        """What names the content, wherever the folder lies: a digest of the tokenizer and of all shards."""
        shards = [[shard.get(name) for name in ("split", "file", "tokens", "sha256")] for shard in self.index["shards"]]
        return hashlib.sha256(as_json([self.index["tokenizer_sha256"], shards]).encode()).hexdigest()

    @cached_property
    def tokenizer(self) -> Any:
        """The corpus's own tokenizer.

        Raises:
            UserError: it is not the one that made the shards.
        """
        check_checksums(self.path / "tokenizer")
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
        shards = {
            str(self.path / shard["file"]): shard["tokens"] // (length - 1)
            for shard in self.index["shards"]
            if shard["split"] == split and shard["tokens"] >= length - 1
        }
        if not shards:
            more = "prepare with a larger --validation_share" if split == "validation" else "give more text"
            raise UserError(
                f"{self.path}: the {split} split has {self.n_tokens(split):,} tokens, less than one row of {length}; "
                f"{more} or a smaller --length"
            )
        ends, dtype = start_and_end(self.tokenizer), np.dtype(self.index.get("dtype", "uint16")).newbyteorder("<")
        blocks = [
            np.memmap(file, dtype, "r")[: rows * (length - 1)].reshape(rows, length - 1)
            for file, rows in shards.items()
        ]
        return TokenRows(blocks, ends[0] if ends else 0, vocab_size=self.index["vocab_size"], files=list(shards))


def _fault(index: dict[str, Any]) -> str:
    """Return what is wrong with the content of an index, or an empty text."""
    kinds = {"tokenizer_sha256": str, "vocab_size": int, "documents": int, "skipped": dict, "shards": list}
    for name, kind in kinds.items():
        if not isinstance(index.get(name), kind) or isinstance(index.get(name), bool):
            return f"{name} is {index.get(name)!r}"
    if index.get("dtype", "uint16") not in ("uint16", "uint32"):
        return f"dtype is {index['dtype']!r}"
    entropy = index.get("unigram_entropy")
    if not isinstance(entropy, int | float) or not math.isfinite(entropy):
        return f"unigram_entropy is {entropy!r}"
    for shard in index["shards"]:
        known = isinstance(shard, dict) and isinstance(shard.get("tokens"), int) and shard["tokens"] >= 0
        # The name has no folder in it: nothing outside of the corpus can be meant.
        found = re.fullmatch(r"(train|validation)-\d+\.bin", str(shard.get("file"))) if known else None
        if found is None or found[1] != shard.get("split"):
            return f"a shard is {shard!r}"
    return ""


def _check_shard(file: Path, expected: int, sha256: str | None) -> None:
    again = "remove the folder and run prepare again"
    size = file.stat().st_size if file.is_file() else None
    if size != expected:
        state = "is missing" if size is None else f"has {size:,} bytes where its index says {expected:,}"
        raise UserError(f"{file} {state}; {again}")
    if sha256 is not None and file_digest(file) != sha256:
        raise UserError(f"{file} is damaged: its checksum is not that in index.json; restore it, or {again}")


class TokenRows:
    """Rows of a split, read from memory-mapped files on demand.

    Args:
        shards: (rows_i, length - 1) uint16 or uint32 arrays.
        start_id: what is put before each row.
        vocab_size: no id may be as large.
        files: where the shards lie, for messages.
    """

    def __init__(
        self, shards: list[np.ndarray], start_id: int, *, vocab_size: int = 65_536, files: Sequence[str] = ()
    ) -> None:
        self.shards, self.start_id, self.vocab_size, self.files = shards, start_id, vocab_size, files
        self.first = np.cumsum([0, *(len(shard) for shard in shards)])

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def length(self) -> int:
        """Tokens of a row, <s> included."""
        return self.shards[0].shape[1] + 1

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """Return rows (B, length), <s> first, for indices (B,): uint16, or int32 where the shards have 32 bits.

        Raises:
            UserError: an id is not in the vocabulary: the shard is damaged.
        """
        dtype = np.uint16 if self.shards[0].dtype.itemsize == 2 else np.int32  # torch can do little with uint32
        rows = np.empty((len(indices), self.length), dtype)
        rows[:, 0] = self.start_id
        if len(self.shards) == 1:
            rows[:, 1:] = self.shards[0][indices]
        else:
            self._gather(rows, indices)
        if len(rows) and rows.max() >= self.vocab_size:
            bad = indices[int(rows.max(axis=1).argmax())]
            owner = int(np.searchsorted(self.first, bad, side="right") - 1)
            file = self.files[owner] if self.files else f"shard {owner}"
            raise UserError(
                f"{file} is damaged: row {int(bad) - self.first[owner]:,} has the id {rows.max():,}, and the "
                f"vocabulary has {self.vocab_size:,}; restore it, or run prepare again in another folder"
            )
        return rows

    def _gather(self, rows: np.ndarray, indices: np.ndarray) -> None:
        """Copy rows out of several shards."""
        owners = np.searchsorted(self.first, indices, side="right") - 1
        order = np.argsort(owners, kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        for group in np.split(order, cuts):
            owner = owners[group[0]]
            rows[group, 1:] = self.shards[owner][indices[group] - self.first[owner]]
