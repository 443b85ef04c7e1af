"""What a scan writes: its parts, joined in the order of the genome into TSV or VCF, bigWig, and a picture."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2mae_core import UserError, read_json, save_figure, saying_disk_full, write_json
from r2mae_dna.data.chunk_log import ChunkReader
from r2mae_dna.data.chunks import Chunk
from r2mae_dna.data.codes import decode
from r2mae_dna.data.conservation import Track
from r2mae_dna.data.new_folders import REMEDY
from r2mae_dna.data.regions import Region
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.tracks import BigWigWriter, SiteScores, SiteWriter, TextWriter, index_text, tsv_header, vcf_header
from r2mae_dna.data.variants import score_column

SUMMARY, PARTS, FIGURE = "scan.json", "parts", "region.png"
TEXT = {"tsv": "scores.tsv.gz", "vcf": "scores.vcf.gz"}
BIGWIG = {"worst": ("worst",), "mean": ("mean",), "alleles": ("A", "C", "G", "T")}
LEFT_OUT = ("without a reference base", "with too few reference bases around", "without a finite score")
"""Why a position has no scores."""
_SITE = np.dtype([("offset", "<u4"), ("reference", "u1"), ("llr", "<f4", (4,))])
_COUNT = np.dtype("<i8")


@dataclass
class ScanReport:
    """Result of a scan."""

    out: Path
    sites: int
    """Sites that have three scores each."""
    left_out: dict[str, int]
    """Reason → positions without scores."""
    files: list[str] = field(default_factory=list)
    done_before: bool = False


def pack(chunk: Chunk, sites: SiteScores, left_out: Sequence[int]) -> bytes:
    """Return a chunk's scores, and its positions without them (as many numbers as `LEFT_OUT`), as bytes."""
    out = np.empty(len(sites), _SITE)
    out["offset"], out["reference"], out["llr"] = sites.position - chunk.start, sites.reference, sites.llr
    return np.array(left_out, _COUNT).tobytes() + out.tobytes()


def unpack(chunk: Chunk, content: bytes) -> tuple[SiteScores, np.ndarray]:
    """Return what `pack` was given."""
    head = len(LEFT_OUT) * _COUNT.itemsize
    sites = np.frombuffer(content, _SITE, offset=head)
    scores = SiteScores(sites["offset"].astype(np.int64) + chunk.start, sites["reference"], sites["llr"])
    return scores, np.frombuffer(content[:head], _COUNT)


def bytes_needed(positions: int, formats: Sequence[str]) -> int:
    """Return what a scan takes on the disk: its parts, and its files, as measured with random scores."""
    each = {"tsv": 20, "vcf": 22, "worst": 9, "mean": 9, "alleles": 27}
    return positions * (_SITE.itemsize + sum(each[name] for name in formats))


def output_names(formats: Sequence[str]) -> list[str]:
    """Return the names of the files, without their indices."""
    text = [TEXT[name] for name in formats if name in TEXT]
    return text + [f"{kind}.bw" for name in formats if name in BIGWIG for kind in BIGWIG[name]]


def own_entries(folder: Path) -> set[str]:
    """Return the names of what a scan may leave in its folder."""
    texts = [f"{file}{suffix}" for file in TEXT.values() for suffix in ("", ".tbi", ".csi")]
    hidden = {entry.name for entry in folder.iterdir() if entry.name.startswith((".partial-", ".lock"))}
    return {SUMMARY, PARTS, FIGURE, *texts, *output_names(list(BIGWIG))} | hidden


def finished_before(
    out: Path, settings: Mapping[str, Any], files: Sequence[str], *, overwrite: bool
) -> ScanReport | None:
    """Return the report of a scan that is there, if it is the same; remove another that may be replaced.

    Raises:
        UserError: another is there; with what differs.
    """
    if not (out / SUMMARY).is_file():
        return None
    if overwrite:
        for name in own_entries(out) - {PARTS, ".lock"}:
            (out / name).unlink(missing_ok=True)
        return None
    there = read_json(out / SUMMARY)
    for name, value in {**settings, "files": list(files)}.items():
        if (before := there["files"] if name == "files" else there["settings"].get(name)) != value:
            raise UserError(f"{out} holds a scan, and {name} was {before!r} there and is {value!r} here; {REMEDY}")
    return ScanReport(out, there["sites"], there["left_out"], there["files"], done_before=True)


def join_parts(
    out: Path,
    store: AlignmentStore,
    chunks: Sequence[Chunk],
    parts: ChunkReader,
    formats: Sequence[str],
    name: str,
    drawn: Region | None,
    tracks: Sequence[Path],
    *,
    progress: bool,
) -> ScanReport:
    """Write the files from the parts, and remove these.

    Args:
        out: the folder.
        store: the alignment.
        chunks: all of the scan.
        parts: with every one of them.
        formats: what to write.
        name: of the score, as `--name` gives it.
        drawn: region of the picture.
        tracks: bigWig files that are drawn below it.
        progress: show a bar.

    Raises:
        UserError: a part is missing or damaged, or no position has a score.
    """
    if missing := sum(i not in parts for i in range(len(chunks))):
        raise UserError(
            f"{missing:,} of {len(chunks):,} chunks are in no part in {out / PARTS}; run the parts' commands again "
            "(they go on where they stopped), or the command without --part and --join to compute the rest here"
        )
    lengths = {chromosome: store.lengths[chromosome] for chromosome in store.chromosomes}
    files, n_sites, left_out, shown = output_names(formats), 0, np.zeros(len(LEFT_OUT), np.int64), list[SiteScores]()
    unfinished = out / PARTS / "files"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with saying_disk_full(out):
        writers = [_writer(unfinished / file, lengths, name, parts.settings) for file in files]
        for i, chunk in enumerate(tqdm(chunks, desc="writing", unit="chunk", disable=not progress, mininterval=0.5)):
            sites, skipped = unpack(chunk, parts.read(i))
            n_sites, left_out = n_sites + len(sites), left_out + skipped
            for writer in writers:
                writer.add(chunk.chromosome, sites)
            if drawn and chunk.chromosome == drawn.chromosome and chunk.start < drawn.end and drawn.start < chunk.end:
                shown.append(sites)
        for writer in writers:
            writer.close()
        for file in set(files) & set(TEXT.values()):
            index_text(unfinished / file, lengths, vcf=file == TEXT["vcf"])
    reasons = {reason: int(n) for reason, n in zip(LEFT_OUT, left_out, strict=True) if n}
    if n_sites == 0:
        shutil.rmtree(out / PARTS)
        raise UserError("no position has scores: " + ", ".join(f"{n:,} {reason}" for reason, n in reasons.items()))
    if drawn:
        save_figure(draw_region(store, drawn, shown, tracks), out / FIGURE)
    for file in unfinished.iterdir():
        file.replace(out / file.name)
    write_json(out / SUMMARY, {"settings": parts.settings, "sites": n_sites, "left_out": reasons, "files": files})
    shutil.rmtree(out / PARTS)
    return ScanReport(out, n_sites, reasons, files)


def _writer(path: Path, lengths: Mapping[str, int], name: str, settings: Mapping[str, Any]) -> SiteWriter:
    column = score_column(name)
    if path.name == TEXT["vcf"]:
        source = {key: settings[key] for key in ("Model", "ModelDigest", "Alignment", "AlignmentDigest", "Window")}
        header = vcf_header(column.upper(), lengths, source)
        return TextWriter(path, header, vcf=True, name=column.upper())
    if path.name == TEXT["tsv"]:
        return TextWriter(path, tsv_header(column), vcf=False, name=column)
    return BigWigWriter(path, lengths, path.stem)


def draw_region(store: AlignmentStore, region: Region, parts: Sequence[SiteScores], tracks: Sequence[Path]) -> Any:
    """Return the picture of a region: letters, scores, and conservation.

    Args:
        store: the alignment.
        region: what is drawn.
        parts: the scores of some of its positions, and perhaps of others.
        tracks: bigWig files.
    """
    from r2mae_dna.plots import plot_region

    llr = np.full((region.end - region.start, 4), np.nan, np.float32)
    for sites in parts:
        rows = (sites.position >= region.start) & (sites.position < region.end)
        llr[sites.position[rows] - region.start] = sites.llr[rows]
    reference = decode(store.read(region.chromosome, region.start, region.end)[:, 0])
    values = {path.stem: Track(path).values(region.chromosome, region.start, region.end) for path in tracks}
    return plot_region(llr, reference, region.chromosome, region.start + 1, values)
