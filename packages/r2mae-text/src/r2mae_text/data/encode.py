"""One piece of the input becomes its shards of token ids, and a record of what they hold. Runs in a worker."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from r2mae_core import UserError, atomic_path, read_json, reading, write_json
from r2mae_text.data.documents import Tally, documents, gpt2_ids
from r2mae_text.data.passages import PASSAGE, parts
from r2mae_text.data.sources import Piece
from r2mae_text.tokenizer import GPT2_ENDOFTEXT

SPLITS = ("train", "validation")
_BATCH, _BATCH_TEXT = 1024, 1 << 19
"""Passages, and characters, that are tokenized at once: the tokenizer takes a hundred bytes per character."""


@dataclass(frozen=True)
class EncodeJob:
    """What a worker needs to encode a piece."""

    piece: Piece
    number: int
    folder: Path
    """The corpus; holds the tokenizer."""
    text_field: str
    validation_share: float
    by_passage: bool
    """Whether passages go to train and validation; else whole documents, but for very long ones."""
    specials_as_text: bool
    """Whether "<s>" in a document is text, or the special token."""
    end_id: int
    """What ends a document."""
    vocab_size: int
    table: np.ndarray | None
    """See `gpt2_table`; where there are shards of GPT-2 tokens."""


def dtype_of(vocab_size: int) -> str:
    """Return how ids are stored: in 16 bits where they fit."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def encode_piece(job: EncodeJob) -> int:
    """Write a piece's shards and, last, its `piece-NNNNN.json`; return its tokens."""
    tally, counts = Tally(), Counter[str]()
    frequency = np.zeros(job.vocab_size, np.int64)
    digests = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        # Closed before atomic_path renames: the stack unwinds backwards.
        out: dict[str, BinaryIO] = {}
        for split in SPLITS:
            temporary = stack.enter_context(atomic_path(job.folder / shard_name(split, job.number)))
            out[split] = stack.enter_context(temporary.open("wb"))
        for split, ids in _encoded(job, tally):
            content = ids.astype(dtype_of(job.vocab_size)).tobytes()
            out[split].write(content)
            digests[split].update(content)
            counts[split] += len(ids)
            counts[f"{split} documents"] += int((ids == job.end_id).sum())
            if split == "train":
                frequency += np.bincount(ids, minlength=len(frequency))
    sidecar = {
        "piece": job.piece.identity(),
        "by_passage": job.by_passage,
        "documents": tally.good,
        "bad": tally.bad,
        "first_bad": tally.first_bad,
        "tokens": {split: counts[split] for split in SPLITS},
        "ends": {split: counts[f"{split} documents"] for split in SPLITS},
        "digests": {split: digests[split].hexdigest() for split in SPLITS},
        "skipped": dict(tally.skipped),
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


def read_sidecar(folder: Path, number: int, piece: Piece, vocab_size: int) -> dict[str, Any]:
    """Return what a finished piece's shards hold.

    Raises:
        UserError: the record or a shard is damaged, or is of another piece.
    """
    file = sidecar_of(folder, number)
    sidecar, anew = read_json(file), f"remove {file} and run the same command again to make this part anew"
    if sidecar.get("piece") != piece.identity():
        raise UserError(f"{file} is of another part of the input than this command would read; {anew}")
    with reading(file, "the record of a part of a corpus"):
        width = np.dtype(dtype_of(vocab_size)).itemsize
        expected = {split: width * int(sidecar["tokens"][split]) for split in SPLITS}
        sidecar["skipped"], sidecar["ends"]["validation"], sidecar["bad"]
    for split, size in expected.items():
        shard = folder / shard_name(split, number)
        if not shard.exists() or shard.stat().st_size != size:
            state = f"has {shard.stat().st_size:,} bytes instead of {size:,}" if shard.exists() else "is missing"
            raise UserError(f"{shard} {state}; {anew}")
    return sidecar


class _Passage(NamedTuple):
    """What goes to one side of the split as a whole."""

    split: str
    text: str
    last: bool
    """Whether its document ends here."""


def _encoded(job: EncodeJob, tally: Tally) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (split, ids) of the running text, each document's followed by </s>."""
    if job.piece.kind == "gpt2" and job.table is not None:
        for key, ids in _gpt2_documents(job.piece, job.table):
            tally.good += 1
            yield _split(key, job), ids
        return
    from tokenizers import Tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are the parallelism
    file = job.folder / "tokenizer" / "tokenizer.json"
    with reading(file, "a tokenizer"):
        tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()  # what was saved with it is for its own batches, not for running text
    tokenizer.encode_special_tokens = job.specials_as_text
    before = None  # the side of the passage before, where its document goes on
    for batch in _batches(_passages(job, tally)):
        found: dict[str, list[int]] = {split: [] for split in SPLITS}
        texts = [passage.text for passage in batch]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for passage, encoding in zip(batch, encodings, strict=True):
            if before not in (None, passage.split):
                found[before].append(job.end_id)  # what follows it there is not its continuation
            found[passage.split].extend(encoding.ids)
            before = passage.split
            if passage.last:
                found[passage.split].append(job.end_id)
                before = None
        for split, ids in found.items():
            if ids:
                yield split, np.array(ids, np.int64)


def _passages(job: EncodeJob, tally: Tally) -> Iterator[_Passage]:
    """Yield the passages of a piece with their sides; a document of one part is one passage, if there are many."""
    divided = job.by_passage or job.piece.is_range_of_text
    goes_on = False
    for part in documents(job.piece, job.text_field, tally):
        if divided or goes_on or not part.last:
            for passage in parts([part.text], PASSAGE):
                yield _Passage(_split(_key(passage.text.encode()), job), passage.text, part.last and passage.last)
        else:
            yield _Passage(_split(_key(part.text.encode()), job), part.text, last=True)
        goes_on = not part.last


def _batches(passages: Iterator[_Passage]) -> Iterator[list[_Passage]]:
    """Yield what is tokenized at once: bounded in documents and, because they may be long, in characters."""
    batch, size = list[_Passage](), 0
    for passage in passages:
        batch.append(passage)
        size += len(passage.text)
        if len(batch) == _BATCH or size >= _BATCH_TEXT:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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


def _split(key: float, job: EncodeJob) -> str:
    return "validation" if key < job.validation_share else "train"


def _key(content: bytes) -> float:
    """Return a number in [0, 1) that depends on the content alone: duplicates fall on one side."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") / 2**64
