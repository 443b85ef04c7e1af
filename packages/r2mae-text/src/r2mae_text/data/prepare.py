"""`prepare`: text in, shards of token ids out; piece by piece, so that it is parallel and can be resumed."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    UserError,
    check_output,
    default_run_path,
    fingerprint,
    in_processes,
    left_out,
    open_run,
    pasteable,
    refuse_changed,
    resolved,
    say,
    whole_folder,
    write_checksums,
    write_json,
)
from r2mae_text.data.clean import clean
from r2mae_text.data.documents import Tally, documents, refuse_bad
from r2mae_text.data.encode import SPLITS, EncodeJob, dtype_of, encode_piece, read_sidecar, shard_name, sidecar_of
from r2mae_text.data.executors import encode_pieces
from r2mae_text.data.shards import FORMAT, Corpus
from r2mae_text.data.sources import Piece, Plan, plan_pieces, source_names
from r2mae_text.options import Prepare
from r2mae_text.tokenizer import (
    digest,
    gpt2_table,
    load_tokenizer,
    start_and_end,
    train_tokenizer,
    vocabulary_size,
)

_FREE = ("sources", "max_bad", "executor", "executor_args")  # what a resumed call may have otherwise
_TRAINING_TEXT = 64 << 20  # characters that a tokenizer is trained on: more changes little
_CLEANING, _TASKS = "cleaning", "tasks"  # folders of intermediate files
_FEW = 20  # documents that are expected in validation; with fewer, their lengths matter
_QUICK = 4 << 20  # bytes of input; with more, one worker is a process, too: tokenizers cannot be interrupted


def prepare(config: Prepare) -> Corpus:
    """Write a corpus folder, or finish an interrupted one, and return it. A finished one is returned as it is.

    Raises:
        UserError: an input is missing, binary, damaged, in another encoding, or was changed since an earlier call; the
            tokenizer is unavailable or has too many entries; or there is no text at all.
    """
    out = config.out or default_run_path("r2mae-text", "prepare")
    check_output(out, [*config.sources, _own_tokenizer(config)])
    plan = plan_pieces(config.sources, config.document)
    if config.tokenizer == "train" and any(piece.kind == "gpt2" for piece in plan.pieces):
        raise UserError("shards of GPT-2 tokens need --tokenizer gpt2 (or another with GPT-2's byte pairs)")
    made_from = _made_from(config, plan)
    facts = {"inputs": source_names(config.sources)}  # in their order; where they lie does not count
    with open_run("r2mae-text", "prepare", out, resolved(config), facts=facts, sources=made_from, free=_FREE) as run:
        if not (run.path / "index.json").exists():
            try:
                _make(config, plan, run.path, made_from)
            except UserError:
                _forget_what_is_empty(run.path)
                raise
        return Corpus.open(run.path)


def prepare_command(config: Prepare) -> None:
    """`r2mae-text prepare`."""
    corpus = prepare(config)
    index = corpus.index
    held_out = index["validation"]
    say(
        f"{index['documents']:,} documents; {corpus.n_tokens('train'):,} training and "
        f"{corpus.n_tokens('validation'):,} validation tokens ({held_out['count']:,} {held_out['unit']}); vocabulary "
        f"{index['vocab_size']:,}; {left_out(index['skipped'])}"
    )
    if not corpus.n_tokens("validation"):
        say("There is no validation text: losses will not be measured on held-out text; see --validation_share.")
    if index["first_bad"]:
        say(f"The first that was left out: {index['first_bad']}")
    say(f"Unigram entropy {corpus.unigram_entropy:.3f} nats: the loss of a model that ignores context.")
    say(f"Done: {corpus.path}. Next: r2mae-text pretrain {pasteable(corpus.path)} --model tiny --minutes 5")


def _made_from(config: Prepare, plan: Plan) -> dict[str, str]:
    """Return what names the input and a tokenizer of the user's own as they are now."""
    own = _own_tokenizer(config)
    states = fingerprint(own) if own else {}
    return {**plan.fingerprint(), **{f"tokenizer {name}": state for name, state in states.items()}}


def _own_tokenizer(config: Prepare) -> Path | None:
    given = Path(config.tokenizer)
    return given if config.tokenizer not in ("train", "gpt2") and given.is_dir() else None


def _make(config: Prepare, plan: Plan, folder: Path, made_from: Mapping[str, str]) -> None:
    remedy = "leave it alone, and name another folder with --out"
    whole = plan
    if config.quality or config.deduplicate:
        plan = clean(config, whole, folder / _CLEANING, _workers(config))
        refuse_changed(folder, made_from, _made_from(config, whole), remedy)
        config = replace(config, text_field="text")  # where the documents that are left have it
    tokenizer = _tokenizer(config, plan.pieces, folder)
    by_passage = any(side["by_passage"] for _, side in _finished(folder, plan.pieces, vocabulary_size(tokenizer)))
    _encode(config, plan.pieces, folder, tokenizer, by_passage=by_passage)
    refuse_changed(folder, made_from, _made_from(config, whole), remedy)
    if not by_passage and _is_uneven(config, plan.pieces, folder, tokenizer):
        for number in range(len(plan.pieces)):
            sidecar_of(folder, number).unlink(missing_ok=True)
        _encode(config, plan.pieces, folder, tokenizer, by_passage=True)
        refuse_changed(folder, made_from, _made_from(config, whole), remedy)
    _write_index(folder, plan, tokenizer, config)
    for rest in (_CLEANING, _TASKS):
        shutil.rmtree(folder / rest, ignore_errors=True)


def _is_uneven(config: Prepare, pieces: list[Piece], folder: Path, tokenizer: Any) -> bool:
    """Return whether the documents are so few that validation has far more or less of the text than its share."""
    n_documents = total = held_out = 0
    for _, side in _finished(folder, pieces, vocabulary_size(tokenizer)):
        if config.max_tokens is not None and total >= config.max_tokens:
            break  # how far the processes had come must not count
        n_documents += side["documents"]
        total += sum(side["tokens"].values())
        held_out += side["tokens"]["validation"]
    if not 0 < n_documents * config.validation_share < _FEW or any(piece.kind == "gpt2" for piece in pieces):
        return False
    return not 0.5 < held_out / max(total * config.validation_share, 1) < 2


def _forget_what_is_empty(folder: Path) -> None:
    """Remove what a failed call made if there is no token in it: another command may then take the folder."""
    shards = list(folder.glob("*.bin"))
    if any(shard.stat().st_size for shard in shards):
        return
    for file in (*folder.glob("piece-*.json"), *shards):
        file.unlink()
    for rest in ("tokenizer", _CLEANING, _TASKS):
        shutil.rmtree(folder / rest, ignore_errors=True)


def _tokenizer(config: Prepare, pieces: list[Piece], folder: Path) -> Any:
    """Return the tokenizer of the corpus, from an earlier call if there was one."""
    home = folder / "tokenizer"
    if not home.is_dir() and config.tokenizer == "train":
        job = (pieces, config.text_field, config.vocab_size, home)
        if _is_quick(pieces) or config.workers == 0:
            _train(job)
        else:
            list(in_processes(_train, [job], 1))
    elif not home.is_dir():
        _save(load_tokenizer(config.tokenizer), home)
    # Read back, as in every later run: the digest must be that of the files.
    return load_tokenizer(home)


def _train(job: tuple[list[Piece], str, int, Path]) -> None:
    pieces, text_field, vocab_size, home = job
    _save(train_tokenizer(_sample(pieces, text_field), vocab_size), home)


def _save(tokenizer: Any, home: Path) -> None:
    with whole_folder(home) as folder:
        tokenizer.save_pretrained(folder)
        write_checksums(folder)


def _sample(pieces: list[Piece], text_field: str) -> Iterator[str]:
    """Yield documents from every part of the input, up to a limit."""
    share = max(_TRAINING_TEXT // len(pieces), 1)
    for piece in pieces:
        seen = 0
        for part in documents(piece, text_field, Tally()):
            yield part.text
            seen += len(part.text)
            if seen > share:
                break


def _is_quick(pieces: list[Piece]) -> bool:
    """Return whether the input is so small that nobody would want to interrupt its tokenizer."""
    return all(piece.size for piece in pieces) and sum(piece.size for piece in pieces) <= _QUICK


def _encode(config: Prepare, pieces: list[Piece], folder: Path, tokenizer: Any, *, by_passage: bool) -> None:
    """Encode the missing pieces."""
    from tqdm import tqdm

    table = gpt2_table(tokenizer) if any(piece.kind == "gpt2" for piece in pieces) else None
    ends = start_and_end(tokenizer)
    size = vocabulary_size(tokenizer)
    counts = {i: _tokens(side) for i, side in _finished(folder, pieces, size)}
    workers = _workers(config)
    in_bytes = all(piece.size for piece in pieces)
    sizes = [piece.size if in_bytes else 1 for piece in pieces]
    unit, off, done = "B" if in_bytes else "piece", not config.progress, sum(sizes[i] for i in counts)
    with tqdm(desc="tokenizing", total=sum(sizes), initial=done, unit=unit, unit_scale=in_bytes, disable=off) as bar:
        while todo := next_pieces(counts, len(pieces), config.max_tokens, 4 * max(workers, 1)):
            jobs = [
                EncodeJob(
                    pieces[i],
                    i,
                    folder,
                    config.text_field,
                    config.validation_share,
                    by_passage,
                    config.special_tokens == "text",
                    ends[1] if ends else 0,
                    size,
                    table,
                )
                for i in todo
            ]
            if config.executor != "none":
                encode_pieces(jobs, folder / _TASKS, config.executor, workers, config.executor_args)
                counts.update((i, _tokens(read_sidecar(folder, i, pieces[i], size))) for i in todo)
                bar.update(sum(sizes[i] for i in todo))
                continue
            at_once = min(workers, len(jobs))
            here = workers == 0 or (at_once == 1 and _is_quick(pieces))
            for job, tokens in _here(jobs) if here else in_processes(encode_piece, jobs, at_once):
                counts[job.number] = tokens
                bar.update(sizes[job.number])


def _workers(config: Prepare) -> int:
    return (os.cpu_count() or 1) if config.workers is None else config.workers


def _tokens(side: Mapping[str, Any]) -> int:
    return sum(side["tokens"].values())


def _here(jobs: Sequence[EncodeJob]) -> Iterator[tuple[EncodeJob, int]]:
    for job in jobs:
        yield job, encode_piece(job)


def next_pieces(counts: Mapping[int, int], n: int, max_tokens: int | None, at_most: int) -> list[int]:
    """Return which pieces to encode next.

    Args:
        counts: tokens of the pieces that are done, by number.
        n: how many pieces there are.
        max_tokens: so many are wanted, from the first pieces on; None: all.
        at_most: pieces that are encoded before looking again, where there is a limit.
    """
    if max_tokens is None:
        return [i for i in range(n) if i not in counts]
    mean = sum(counts.values()) / len(counts) if counts else 0
    todo, total = list[int](), 0.0
    for i in range(n):
        if total >= max_tokens or len(todo) == at_most:
            break
        if i not in counts:
            todo.append(i)
        total += counts.get(i, mean)
    return todo


def _finished(folder: Path, pieces: list[Piece], vocab_size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the record of every piece that is done."""
    for number, piece in enumerate(pieces):
        if sidecar_of(folder, number).exists():
            yield number, read_sidecar(folder, number, piece, vocab_size)


def _write_index(folder: Path, plan: Plan, tokenizer: Any, config: Prepare) -> None:
    """Write the index of the first pieces that hold enough; it makes the corpus a finished one."""
    skipped, counts, shards, first_bad = Counter(plan.unread), Counter[str](), [], plan.first_bad
    vocab_size = vocabulary_size(tokenizer)
    frequency = np.zeros(vocab_size, np.int64)
    by_passage = False
    for number, sidecar in _finished(folder, plan.pieces, vocab_size):
        if config.max_tokens is not None and counts["tokens"] >= config.max_tokens:
            _remove(folder, number)  # how far the processes had come must not count
            continue
        skipped.update(sidecar["skipped"])
        first_bad = first_bad or sidecar["first_bad"]
        by_passage |= sidecar["by_passage"] or plan.pieces[number].is_range_of_text
        counts.update({"documents": sidecar["documents"], "bad": sidecar["bad"]})
        counts.update({"tokens": sum(sidecar["tokens"].values()), "held out": sidecar["ends"]["validation"]})
        frequency[: len(sidecar["frequency"])] += np.array(sidecar["frequency"], np.int64)
        shards += [
            {
                "split": split,
                "file": shard_name(split, number),
                "tokens": sidecar["tokens"][split],
                "sha256": sidecar["digests"][split],
            }
            for split in SPLITS
        ]
    if not counts["tokens"]:
        first = f"; the first: {first_bad}" if first_bad else ""
        raise UserError(f"there is no text in the input ({left_out(skipped)}){first}; nothing to train on")
    try:
        refuse_bad(counts["bad"], counts["documents"], config.max_bad, first_bad)
    except UserError:
        if _is_quick(plan.pieces):  # soon made again; of more, a larger --max_bad takes what is there
            for number, _ in _finished(folder, plan.pieces, vocab_size):
                _remove(folder, number)
        raise
    if not frequency.any():
        raise UserError(f"all {counts['documents']:,} documents fell to validation; lower --validation_share")
    share = frequency[frequency > 0] / frequency.sum()
    index = {
        "format": FORMAT,
        "dtype": np.dtype(dtype_of(vocab_size)).name,
        "tokenizer_sha256": digest(tokenizer),
        "vocab_size": vocab_size,
        "documents": counts["documents"],
        "validation": {"unit": "passages" if by_passage else "documents", "count": counts["held out"]},
        "skipped": dict(skipped),
        "first_bad": first_bad,
        "unigram_entropy": float(-(share * np.log(share)).sum()),
        "shards": shards,
    }
    write_json(folder / "index.json", index)


def _remove(folder: Path, number: int) -> None:
    sidecar_of(folder, number).unlink()
    for split in SPLITS:
        (folder / shard_name(split, number)).unlink()
