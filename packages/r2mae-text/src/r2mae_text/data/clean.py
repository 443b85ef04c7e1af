"""Documents of low quality and near-duplicates are left out before a corpus is made, by datatrove's filters.

A pipeline writes what is left as JSON lines, one file for each task; these then are the input. The number of tasks
depends on the input alone, so the result does not depend on the number of workers.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2mae_core import UserError, atomic_path, read_json, write_json
from r2mae_text.data.documents import Tally, documents, refuse_bad
from r2mae_text.data.executors import MOST_TASKS, Executor, run_pipeline
from r2mae_text.data.sources import Piece, Plan, plan_pieces
from r2mae_text.options import Prepare

FILTERS = {
    "gopher": ("GopherQualityFilter", "GopherRepetitionFilter"),
    "c4": ("C4QualityFilter",),
    "fineweb": ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter"),
}
"""What --quality names, as datatrove's classes, with datatrove's thresholds; FineWeb's C4 rules keep headings."""


def clean(config: Prepare, plan: Plan, home: Path, workers: int) -> Plan:
    """Write the documents that pass as JSON lines, or finish doing so, and return these as the input.

    Args:
        config: the command's options; `quality` and `deduplicate` count here.
        plan: the input.
        home: folder for the documents and the executor's logs.
        workers: tasks at once.

    Raises:
        UserError: the input has no documents to judge, too many records are faulty, datatrove is missing, or a task
            failed.
    """
    for piece in plan.pieces:
        _refuse_what_has_no_documents(piece)
    kind: Executor = "local" if config.executor == "none" else config.executor
    tasks = min(len(plan.pieces), MOST_TASKS)
    kept = home / ("kept" if config.deduplicate else "cleaned")

    def run(name: str, steps: list[Any], n: int) -> None:
        run_pipeline(steps, n, home / "logs" / name, kind, workers, config.executor_args)

    try:
        first = [ReadPieces(plan.pieces, config.text_field, home / "tally"), *_filters(config.quality), Write(kept)]
        if config.deduplicate:
            _deduplicate(home, first, kept, tasks, run)
        else:
            run("filter", first, tasks)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--quality and --deduplicate need pip install 'r2mae-text[datatrove]' ({reason})") from None
    dropped, first_bad = _left_out(home, tasks, config.max_bad)
    cleaned = plan_pieces((home / "cleaned",))
    return replace(plan, pieces=cleaned.pieces, unread={**plan.unread, **dropped}, first_bad=first_bad)


def _deduplicate(home: Path, first: list[Any], kept: Path, tasks: int, run: Any) -> None:
    """Run MinHash's four stages; the first of a group of near-duplicates stays."""
    from datatrove.pipeline import dedup  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.dedup.minhash import MinhashConfig  # pyright: ignore[reportMissingImports]

    config = MinhashConfig()
    signatures, buckets, groups = (str(home / name) for name in ("signatures", "buckets", "groups"))
    run("filter", [*first, dedup.MinhashDedupSignature(signatures, config)], tasks)
    run("buckets", [dedup.MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets)
    run("groups", [dedup.MinhashDedupCluster(buckets, groups, config=config)], 1)
    run("unique", [ReadKept(kept), dedup.MinhashDedupFilter(groups), Write(home / "cleaned")], tasks)


def _filters(quality: str | None) -> list[Any]:
    from datatrove.pipeline import filters  # pyright: ignore[reportMissingImports]

    names = FILTERS[quality] if quality else ()
    more = {"C4QualityFilter": {"filter_no_terminal_punct": False}} if quality == "fineweb" else {}
    return [getattr(filters, name)(**more.get(name, {})) for name in names]


def _refuse_what_has_no_documents(piece: Piece) -> None:
    if piece.kind == "gpt2":
        raise UserError(f"{piece.files[0]} holds tokens; --quality and --deduplicate read text")
    if piece.is_range_of_text:
        raise UserError(
            f"{piece.files[0]} is one document as large as a library, which --quality and --deduplicate cannot judge; "
            "if its lines are documents, add --document line"
        )


class ReadPieces:
    """A step: the documents of each `world_size`-th piece from `rank` on."""

    def __init__(self, pieces: list[Piece], text_field: str, tally: Path) -> None:
        self.pieces, self.text_field, self.tally = pieces, text_field, tally

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield documents; at the end write what was left out of the pieces."""
        from datatrove.data import Document  # pyright: ignore[reportMissingImports]

        tally = Tally()
        for number in range(rank, len(self.pieces), world_size):
            texts: list[str] = []
            for part in documents(self.pieces[number], self.text_field, tally):
                texts.append(part.text)
                if part.last:
                    yield Document("".join(texts), f"{rank}/{tally.good}")
                    texts = []
        self.tally.mkdir(parents=True, exist_ok=True)
        found = {"skipped": dict(tally.skipped), "good": tally.good, "bad": tally.bad, "first_bad": tally.first_bad}
        write_json(self.tally / f"{rank:05d}.json", found)


class Write:
    """A step: every document as a JSON line of the task's file, which is there only when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write, and pass on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / f"{rank:05d}.jsonl") as file, file.open("w", encoding="utf-8") as out:
            for document in data:
                out.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")
                yield document


class ReadKept:
    """A step: what `Write` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield the documents of a task."""
        from datatrove.data import Document  # pyright: ignore[reportMissingImports]

        with (self.folder / f"{rank:05d}.jsonl").open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines):
                yield Document(json.loads(line)["text"], f"{rank}/{number}")


def _left_out(home: Path, tasks: int, max_bad: float) -> tuple[Counter[str], str]:
    """Return reason → documents left out, and the first faulty record."""
    dropped, bad, good, first_bad = Counter[str](), 0, 0, ""
    for rank in range(tasks):
        tally = read_json(home / "tally" / f"{rank:05d}.json")
        dropped.update(tally["skipped"])
        bad, good, first_bad = bad + tally["bad"], good + tally["good"], first_bad or tally["first_bad"]
    refuse_bad(bad, good, max_bad, first_bad)
    for stage in ("filter", "unique"):
        for file in sorted((home / "logs" / stage / "stats").glob("*.json")):
            for step in json.loads(file.read_text(encoding="utf-8")):  # a list
                _count(step, dropped)
    return dropped, first_bad


def _count(step: dict[str, Any], dropped: Counter[str]) -> None:
    """Add what a step of a pipeline dropped, with its reasons where it has some."""
    stats = {name: value["total"] if isinstance(value, dict) else value for name, value in step["stats"].items()}
    total = stats.get("dropped", 0)
    reasons = {name.removeprefix("dropped_"): n for name, n in stats.items() if name.startswith("dropped_")}
    kind = "near-duplicates" if "MinHash" in step["name"] else "documents of low quality"
    for reason, n in reasons.items():
        dropped[f"{kind} ({reason.removeprefix('gopher_').replace('_', ' ')})"] += n
    if total > sum(reasons.values()):
        dropped[kind] += total - sum(reasons.values())
