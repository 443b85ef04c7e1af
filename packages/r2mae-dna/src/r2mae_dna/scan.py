"""Scores of every single-nucleotide change of some regions, or of a whole genome.

The genome is cut into chunks by a fixed grid. A process computes every n-th of them and appends it to a file of its own
(`parts/` in the output folder), from which an interrupted scan goes on; one process then joins the parts into the files
that genome tools read (`scan_output`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2mae_core import (
    UserError,
    check_output,
    check_space,
    default_run_path,
    device_name,
    one_writer,
    precision,
    resolve_device,
    say,
)
from r2mae_dna.data.bed import read_bed
from r2mae_dna.data.chunk_log import ChunkLog, ChunkReader
from r2mae_dna.data.chunks import Chunk, plan_chunks
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.joined import open_stores
from r2mae_dna.data.new_folders import check_new_folder, digest_of
from r2mae_dna.data.regions import Region, parse_regions
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.tracks import SiteScores, require_bigwig
from r2mae_dna.data.variants import score_column
from r2mae_dna.options import Scan
from r2mae_dna.scan_output import (
    BIGWIG,
    PARTS,
    ScanReport,
    bytes_needed,
    finished_before,
    join_parts,
    output_names,
    own_entries,
    pack,
)
from r2mae_dna.scorers import FREQUENCIES, SiteScorer, open_scorer
from r2mae_dna.sharing import device_of_rank, parse_part, rank_and_size, read_ahead, wait_for_all

MAX_DRAWN = 2000
"""Most positions of a picture."""


def score_chunk(
    chunk: Chunk, block: np.ndarray, scorer: SiteScorer, min_defined: float = 0.0
) -> tuple[SiteScores, tuple[int, int, int]]:
    """Return the scores of a chunk, and how many positions have none, for each reason of `LEFT_OUT`.

    Args:
        chunk: what to score.
        block: the alignment from `window` before its start to `window` after its end, (m, 1 + S) bytes.
        scorer: the model.
        min_defined: fraction of a window that must have a reference base.
    """
    window, positions = scorer.window, chunk.positions()
    sites, tokens = positions - chunk.start + window, block[:, 0] & TOKEN_BITS
    ready = based = tokens[sites] > 0
    if min_defined > 0:
        before = np.concatenate([[0], np.cumsum(tokens > 0)])
        first = sites - window // 2
        ready = based & (before[first + window] - before[first] >= min_defined * window)
    sites, positions = sites[ready], positions[ready]
    scores, reference = scorer.at(block, sites), tokens[sites]
    llr = scores - np.take_along_axis(scores, reference[:, None].astype(np.int64) - 1, 1)
    finite = np.isfinite(llr).all(1)
    counts = (int((~based).sum()), int((based & ~ready).sum()), int((~finite).sum()))
    return SiteScores(positions[finite], reference[finite], llr[finite]), counts


def scan_genome(config: Scan, *, alone: bool = False) -> ScanReport | None:
    """Score every single-nucleotide change; an interrupted scan resumes where it stopped.

    Under torchrun the ranks share the chunks, and the first one joins.

    Args:
        config: the options.
        alone: compute everything in this process, even if it is one of several ranks.

    Returns:
        What is there now; None: this process made a part of it.

    Raises:
        UserError: the output holds something else, a region or the model does not fit the alignment, nothing can be
            scored, or (join) a part is missing.
    """
    rank, world_size = (0, 1) if alone else rank_and_size()
    if config.out is None and (world_size > 1 or config.part or config.join):
        raise UserError("several processes need --out FOLDER: each of them must write to the same")
    out, files = config.out or default_run_path("r2mae-dna", "scan"), output_names(config.formats)
    score_column(config.name)  # refuse a bad name first
    model = None if config.model == FREQUENCIES else config.model
    check_output(out, [config.msa, *config.more_msa, config.bed, *config.tracks, model])
    check_new_folder(out, own_entries, "a scan", overwrite=True)
    if set(BIGWIG) & set(config.formats):
        require_bigwig()
    store = open_stores(config.msa, config.more_msa)
    chunks = plan_chunks(store, _regions(config, store), config.chunk)
    if not chunks:
        raise UserError(f"{config.msa} has no content in the regions")
    drawn = _drawn(config, store, chunks)
    plan = {"chunk": config.chunk, "regions": digest_of({"plan": [[c.chromosome, *c.intervals] for c in chunks]})}
    wanted: dict[str, Any] = {"AlignmentDigest": store.digest, "min_defined": config.min_defined, **plan}

    def join(parts: ChunkReader) -> ScanReport:
        how = {"progress": config.progress}
        return join_parts(out, store, chunks, parts, config.formats, config.name, drawn, config.tracks, **how)

    if config.join:
        parts = ChunkReader(_part_files(out))  # their own settings: of devices that this machine may lack
        if other := next((name for name, value in wanted.items() if parts.settings.get(name) != value), None):
            raise UserError(
                f"the parts in {out / PARTS} were made with {other} {parts.settings.get(other)!r}, not here's"
            )
        with one_writer(out):
            return join(parts)
    device = device_of_rank(config.device, world_size)
    scorer = open_scorer(
        config.model, store, device, window=config.window, number_format=config.precision, compile=config.compile,
        batch_size=config.batch_size,
    )  # fmt: skip
    settings = {
        "Model": scorer.name,
        "ModelDigest": scorer.digest,
        "Alignment": store.path.name,
        "Window": scorer.window,
        "precision": precision(config.precision, device),
        **wanted,
    }
    part, n_parts = parse_part(config.part) if config.part else (0, 1)
    own, of = part * world_size + rank, n_parts * world_size
    file = out / PARTS / f"{own + 1:04d}-of-{of:04d}.scores"
    with one_writer(file, folder=False) if config.part else one_writer(out):
        if rank == 0 and (done := finished_before(out, settings, files, overwrite=config.overwrite)):
            return done
        _compute(chunks, range(own, len(chunks), of), file, settings, store, scorer, config, show=rank == 0)
        if world_size > 1:
            wait_for_all()
        return None if config.part or rank > 0 else join(ChunkReader(_part_files(out), settings))


def _part_files(out: Path) -> list[Path]:
    return sorted((out / PARTS).glob("*.scores"))


def _compute(
    chunks: Sequence[Chunk],
    mine: range,
    file: Path,
    settings: dict[str, Any],
    store: AlignmentStore,
    scorer: SiteScorer,
    config: Scan,
    *,
    show: bool,
) -> None:
    """Append the chunks that are ours, and in no part yet, to our part."""
    others = [path for path in _part_files(file.parent.parent) if path != file]
    there = ChunkReader(others, settings) if others else ()
    with ChunkLog(file, settings) as log:
        todo = [i for i in mine if i not in log.done and i not in there]

        def blocks() -> Iterator[tuple[int, Chunk, np.ndarray]]:
            for i in todo:
                chunk = chunks[i]
                yield i, chunk, store.read(chunk.chromosome, chunk.start - scorer.window, chunk.end + scorer.window)

        total, left = sum(len(chunks[i]) for i in mine), sum(len(chunks[i]) for i in todo)
        check_space(file.parent, bytes_needed(left, ()), "this part of the scan")
        bar = tqdm(
            desc="sites", unit="site", unit_scale=True, total=total, initial=total - left,
            disable=not config.progress or not show, mininterval=0.5,
        )  # fmt: skip
        with bar:
            for i, chunk, block in read_ahead(blocks()):
                log.append(i, pack(chunk, *score_chunk(chunk, block, scorer, config.min_defined)))
                bar.update(len(chunk))


def _regions(config: Scan, store: AlignmentStore) -> list[Region]:
    regions = parse_regions(config.regions, store)
    if config.bed is None:
        return regions
    intervals, absent = read_bed(config.bed, store)
    if absent:
        names = ", ".join(list(absent)[:5]) + (" …" if len(absent) > 5 else "")
        say(f"Left out: {sum(absent.values()):,} lines of {config.bed} on chromosomes not in the alignment: {names}")
    return [*regions, *intervals]


def _drawn(config: Scan, store: AlignmentStore, chunks: Sequence[Chunk]) -> Region | None:
    if not config.figure:
        return None
    regions = parse_regions(config.figure, store)
    if len(regions) != 1 or not 0 < regions[0].end - regions[0].start <= MAX_DRAWN:
        raise UserError(f"--figure {config.figure!r}: name one region of at most {MAX_DRAWN:,} positions")
    (region,) = regions
    based = (store.read(region.chromosome, region.start, region.end)[:, 0] & TOKEN_BITS) > 0
    near = [c for c in chunks if c.chromosome == region.chromosome and c.start < region.end and region.start < c.end]
    scanned = np.concatenate([c.positions() for c in near]) - region.start if near else np.zeros(0, np.int64)
    if not based[scanned[(scanned >= 0) & (scanned < len(based))]].any():
        raise UserError(f"--figure {region}: nothing to draw, as no position there is scanned and has a reference base")
    return region


def scan_command(config: Scan) -> None:
    """`r2mae-dna scan`."""
    report = scan_genome(config)
    if report is None:
        if config.part:
            say(f"Done: part {config.part} in {config.out}. When all parts are there: the same command with --join")
        return
    if report.done_before:
        say(f"Done before: {report.out} was made by the same command from the same data")
    where = "" if config.model == FREQUENCIES or config.join else f" on {device_name(resolve_device(config.device))}"
    say(f"{report.sites:,} sites, {3 * report.sites:,} changes scored{where}")
    for reason, n in report.left_out.items():
        say(f"Left out: {n:,} positions {reason}")
    say(f"Done: {report.out} ({', '.join(report.files)}; lower is more deleterious)")
