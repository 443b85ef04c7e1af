"""`prepare`: text in, shards of token ids out; piece by piece, so that it is parallel and can be resumed."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, atomic_path, left_out, open_run, resolved, say, write_text
from r2mae_text.data.shards import FORMAT, Corpus
from r2mae_text.data.sources import Piece, documents, gpt2_ids, plan_pieces
from r2mae_text.options import Prepare
from r2mae_text.tokenizer import digest, gpt2_table, load_tokenizer, start_and_end, train_tokenizer

_TRAINING_TEXT = 64 << 20  # characters that a tokenizer is trained on: more changes little
_BATCH = 256  # documents that are tokenized at once


def prepare(config: Prepare) -> Corpus:
    """Write a corpus folder, or finish an interrupted one, and return it.

    Raises:
        UserError: an input is missing, binary, damaged or in another encoding; the tokenizer is unavailable or has too
            many entries; or there is no text at all.
    """
    if not 0 <= config.validation_share < 1:
        raise UserError(f"--validation_share must lie in [0, 1), got {config.validation_share}")
    pieces = plan_pieces(config.sources, config.document)
    with open_run("r2mae-text", "prepare", config.out, resolved(config)) as run:
        tokenizer = _tokenizer(config, pieces, run.path)
        _encode(config, pieces, run.path, tokenizer)
        _write_index(run.path, pieces, tokenizer)
        return Corpus.open(run.path)


def prepare_command(config: Prepare) -> None:
    """`r2mae-text prepare`."""
    corpus = prepare(config)
    index = corpus.index
    say(
        f"{index['documents']:,} documents, {corpus.n_tokens('train'):,} training and "
        f"{corpus.n_tokens('validation'):,} validation tokens, vocabulary {index['vocab_size']:,}; "
        f"{left_out(index['skipped'])}"
    )
    say(f"Unigram entropy {corpus.unigram_entropy:.3f} nats: the loss of a model that ignores context.")
    say(f"Done: {corpus.path}. Next: r2mae-text pretrain {corpus.path} --model tiny --minutes 5")


def _tokenizer(config: Prepare, pieces: list[Piece], folder: Path) -> Any:
    """Return the tokenizer of the corpus, from an earlier call if there was one."""
    home = folder / "tokenizer"
    if home.is_dir():
        return load_tokenizer(home)
    if config.tokenizer == "train":
        if any(piece.kind == "gpt2" for piece in pieces):
            raise UserError("shards of GPT-2 tokens need --tokenizer gpt2 (or another with GPT-2's byte pairs)")
        tokenizer = train_tokenizer(_sample(pieces, config.text_field), config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    scratch = folder / ".tokenizer"
    tokenizer.save_pretrained(scratch)
    scratch.rename(home)  # whole or absent
    # Read back, as in every later run: the digest must be that of the files.
    return load_tokenizer(home)


def _sample(pieces: list[Piece], text_field: str) -> Iterator[str]:
    """Yield documents from every part of the input, up to a limit."""
    share = max(_TRAINING_TEXT // len(pieces), 1)
    for piece in pieces:
        seen = 0
        for text in documents(piece, text_field, Counter()):
            yield text
            seen += len(text)
            if seen > share:
                break


def _encode(config: Prepare, pieces: list[Piece], folder: Path, tokenizer: Any) -> None:
    """Encode the missing pieces."""
    from tqdm import tqdm

    todo = [i for i in range(len(pieces)) if not _sidecar(folder, i).exists()]
    have = sum(_count(folder, i) for i in range(len(pieces)) if i not in set(todo))
    table = gpt2_table(tokenizer) if any(piece.kind == "gpt2" for piece in pieces) else None
    ends = start_and_end(tokenizer)
    jobs = {
        i: (pieces[i], i, folder, config.text_field, config.validation_share, ends[1] if ends else 0, table)
        for i in todo
    }
    workers = max(min(config.workers or os.cpu_count() or 1, len(todo)), 1)
    in_bytes = all(piece.size for piece in pieces)
    sizes = [piece.size if in_bytes else 1 for piece in pieces]
    total = sum(sizes)
    done = total - sum(sizes[i] for i in todo)
    unit, off = "B" if in_bytes else "piece", not config.progress
    with tqdm(desc="tokenizing", total=total, initial=done, unit=unit, unit_scale=in_bytes, disable=off) as bar:
        for i in _run(jobs, workers, config.max_tokens, have):
            bar.update(sizes[i])


def _run(jobs: dict[int, tuple[Any, ...]], workers: int, max_tokens: int | None, have: int) -> Iterator[int]:
    """Run the jobs and yield the number of each piece that is done. With a limit, in order and one round at a time."""
    limit = max_tokens if max_tokens is not None else float("inf")
    if workers == 1:
        for i, job in jobs.items():
            if have >= limit:
                return
            have += encode_piece(*job)
            yield i
        return
    # spawn: forking a process that has started threads (torch, the tokenizer) may hang
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting, queue = {}, list(jobs.items())
        try:
            while (queue and have < limit) or waiting:
                while queue and have < limit and len(waiting) < workers:
                    i, job = queue.pop(0)
                    waiting[pool.submit(encode_piece, *job)] = i
                future = next(as_completed(waiting))
                have += future.result()
                yield waiting.pop(future)
        except BrokenProcessPool:
            raise UserError("a worker was killed, most often for lack of memory; use fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


def encode_piece(
    piece: Piece, number: int, folder: Path, text_field: str, validation: float, end_id: int, table: np.ndarray | None
) -> int:
    """Write a piece's shards and, last, its `piece-NNNNN.json`; return its tokens. Runs in a worker."""
    skipped, counts = Counter[str](), Counter[str]()
    frequency = np.zeros(65_536, np.int64)
    with ExitStack() as stack:
        files = {
            split: stack.enter_context(atomic_path(folder / _shard(split, number))) for split in ("train", "validation")
        }
        # Closed before atomic_path renames: the stack unwinds backwards.
        out = {split: stack.enter_context(file.open("wb")) for split, file in files.items()}
        source = _gpt2_documents(piece, table) if table is not None and piece.kind == "gpt2" else None
        for key, ids in source or _encoded(piece, folder, text_field, skipped, end_id):
            split = "validation" if key < validation else "train"
            out[split].write(ids.astype("<u2").tobytes())
            counts["documents"] += 1
            counts[split] += len(ids)
            if split == "train":
                frequency += np.bincount(ids, minlength=len(frequency))
    sidecar = {
        "piece": asdict(piece),
        "documents": counts["documents"],
        "tokens": {split: counts[split] for split in files},
        "skipped": dict(skipped),
        "frequency": np.trim_zeros(frequency, "b").tolist(),
    }
    write_text(_sidecar(folder, number), json.dumps(sidecar))
    return counts["train"] + counts["validation"]


def _encoded(
    piece: Piece, folder: Path, text_field: str, skipped: Counter[str], end_id: int
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (a number in [0, 1) that depends on the text, its ids with </s>) of every document."""
    from tokenizers import Tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are the parallelism
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    tokenizer.no_truncation()
    batch: list[str] = []
    for text in documents(piece, text_field, skipped):
        batch.append(text)
        if len(batch) == _BATCH:
            yield from _encode_batch(tokenizer, batch, end_id)
            batch = []
    yield from _encode_batch(tokenizer, batch, end_id)


def _encode_batch(tokenizer: Any, texts: list[str], end_id: int) -> Iterator[tuple[float, np.ndarray]]:
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        yield _key(text.encode()), np.array([*encoding.ids, end_id], np.uint16)


def _gpt2_documents(piece: Piece, table: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the documents of a shard of GPT-2 tokens: there end-of-text starts each, here it ends each."""
    from r2mae_text.tokenizer import GPT2_ENDOFTEXT

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


def _shard(split: str, number: int) -> str:
    return f"{split}-{number:05d}.bin"


def _sidecar(folder: Path, number: int) -> Path:
    return folder / f"piece-{number:05d}.json"


def _count(folder: Path, number: int) -> int:
    return sum(json.loads(_sidecar(folder, number).read_text(encoding="utf-8"))["tokens"].values())


def _write_index(folder: Path, pieces: list[Piece], tokenizer: Any) -> None:
    skipped, n_documents, shards = Counter[str](), 0, []
    frequency = np.zeros(65_536, np.int64)
    for number in range(len(pieces)):
        if not _sidecar(folder, number).exists():
            continue  # behind max_tokens
        sidecar = json.loads(_sidecar(folder, number).read_text(encoding="utf-8"))
        skipped.update(sidecar["skipped"])
        n_documents += sidecar["documents"]
        frequency[: len(sidecar["frequency"])] += np.array(sidecar["frequency"], np.int64)
        shards += [
            {"split": split, "file": _shard(split, number), "tokens": tokens}
            for split, tokens in sidecar["tokens"].items()
        ]
    if not frequency.any():
        raise UserError(f"there is no text in the input ({left_out(skipped)}); nothing to train on")
    share = frequency[frequency > 0] / frequency.sum()
    index = {
        "format": FORMAT,
        "dtype": "uint16",
        "tokenizer_sha256": digest(tokenizer),
        "vocab_size": len(tokenizer),
        "documents": n_documents,
        "skipped": dict(skipped),
        "unigram_entropy": float(-(share * np.log(share)).sum()),
        "shards": shards,
    }
    write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")
