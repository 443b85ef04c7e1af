"""One piece of the input becomes its shards of token ids, and a record of what they hold. Runs in a worker."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from r2mae_core import UserError, atomic_path, read_json, reading, write_json
from r2mae_text.data.documents import documents, gpt2_ids
from r2mae_text.data.sources import Piece
from r2mae_text.tokenizer import GPT2_ENDOFTEXT

SPLITS = ("train", "validation")
_BATCH = 256  # documents that are tokenized at once


@dataclass(frozen=True)
class EncodeJob:
    """What a worker needs to encode a piece."""

    piece: Piece
    number: int
    folder: Path
    """The corpus; holds the tokenizer."""
    text_field: str
    validation_share: float
    end_id: int
    """What ends a document."""
    table: np.ndarray | None
    """See `gpt2_table`; where there are shards of GPT-2 tokens."""


def encode_piece(job: EncodeJob) -> int:
    """Write a piece's shards and, last, its `piece-NNNNN.json`; return its tokens."""
    skipped, counts = Counter[str](), Counter[str]()
    frequency = np.zeros(65_536, np.int64)
    digests = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        # Closed before atomic_path renames: the stack unwinds backwards.
        out: dict[str, BinaryIO] = {}
        for split in SPLITS:
            temporary = stack.enter_context(atomic_path(job.folder / shard_name(split, job.number)))
            out[split] = stack.enter_context(temporary.open("wb"))
        for key, ids in _encoded(job, skipped):
            split = "validation" if key < job.validation_share else "train"
            content = ids.astype("<u2").tobytes()
            out[split].write(content)
            digests[split].update(content)
            counts["documents"] += 1
            counts[split] += len(ids)
            if split == "train":
                frequency += np.bincount(ids, minlength=len(frequency))
    sidecar = {
        "piece": job.piece.identity(),
        "documents": counts["documents"],
        "tokens": {split: counts[split] for split in SPLITS},
        "digests": {split: digests[split].hexdigest() for split in SPLITS},
        "skipped": dict(skipped),
        "frequency": np.trim_zeros(frequency, "b").tolist(),
    }
    write_json(sidecar_of(job.folder, job.number), sidecar)
    return counts["train"] + counts["validation"]


def shard_name(split: str, number: int) -> str:
    """Return the file of a piece's tokens."""
    return f"{split}-{number:05d}.bin"


def sidecar_of(folder: Path, number: int) -> Path:
    """Return the file that says what a piece's shards hold."""
    return folder / f"piece-{number:05d}.json"


def read_sidecar(folder: Path, number: int, piece: Piece) -> dict[str, Any]:
    """Return what a finished piece's shards hold.

    Raises:
        UserError: the record or a shard is damaged, or is of another piece.
    """
    file = sidecar_of(folder, number)
    sidecar, anew = read_json(file), f"remove {file} and run the same command again to make this part anew"
    if sidecar.get("piece") != piece.identity():
        raise UserError(f"{file} is of another part of the input than this command would read; {anew}")
    with reading(file, "the record of a part of a corpus"):
        expected = {split: 2 * int(sidecar["tokens"][split]) for split in SPLITS}
    for split, size in expected.items():
        shard = folder / shard_name(split, number)
        if not shard.exists() or shard.stat().st_size != size:
            state = f"has {shard.stat().st_size:,} bytes instead of {size:,}" if shard.exists() else "is missing"
            raise UserError(f"{shard} {state}; {anew}")
    return sidecar


def _encoded(job: EncodeJob, skipped: Counter[str]) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (a number in [0, 1) that depends on the text, its ids with </s>) of every document."""
    if job.piece.kind == "gpt2" and job.table is not None:
        yield from _gpt2_documents(job.piece, job.table)
        return
    from tokenizers import Tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are the parallelism
    file = job.folder / "tokenizer" / "tokenizer.json"
    with reading(file, "a tokenizer"):
        tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    batch: list[str] = []
    for text in documents(job.piece, job.text_field, skipped):
        batch.append(text)
        if len(batch) == _BATCH:
            yield from _encode_batch(tokenizer, batch, job.end_id)
            batch = []
    yield from _encode_batch(tokenizer, batch, job.end_id)


def _encode_batch(tokenizer: Any, texts: list[str], end_id: int) -> Iterator[tuple[float, np.ndarray]]:
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        yield _key(text.encode()), np.array([*encoding.ids, end_id], np.uint16)


def _gpt2_documents(piece: Piece, table: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the documents of a shard of GPT-2 tokens: there end-of-text starts each, here it ends each."""
    ids = gpt2_ids(piece)
    starts = np.flatnonzero(ids == GPT2_ENDOFTEXT)
    bounds = np.unique(np.concatenate([[0], starts + 1, [len(ids)]]))
    for first, last in pairwise(bounds.tolist()):
        document = np.asarray(ids[first:last])
        # The file's last document has no end here: it is the start of the next file's first.
        if document[-1] != GPT2_ENDOFTEXT:
            document = np.append(document, np.uint16(GPT2_ENDOFTEXT))
        if len(document) > 1:
            yield _key(document.tobytes()), table[document]


def _key(content: bytes) -> float:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") / 2**64
