"""Scoring variants: log-likelihood ratio of the alternative to the reference base, mean of both strands.

Sites are scored, not variants: one forward pass gives the logits of all four bases, enough for three alleles.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2mae_core import (
    UserError,
    check_output,
    default_run_path,
    device_name,
    fingerprint,
    one_writer,
    precision,
    refuse_changed,
    resolve_device,
    say,
)
from r2mae_dna.data.aliases import Names
from r2mae_dna.data.joined import open_stores
from r2mae_dna.data.parts import Part, Parts
from r2mae_dna.data.regions import Genome
from r2mae_dna.data.sites import BuildGuard, Stretch, read_stretch
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.streams import STREAM, spool_stdin, write_stdout
from r2mae_dna.data.tables import file_kind, refuse_unwritable
from r2mae_dna.data.variants import (
    NOT_FINITE,
    OUTSIDE,
    SCORED,
    STATUS,
    Alleles,
    Result,
    TableFile,
    score_column,
)
from r2mae_dna.data.vcf import VcfFile
from r2mae_dna.data.within import within_of
from r2mae_dna.limits import is_scan_table
from r2mae_dna.options import Score
from r2mae_dna.scan_table import ScanTable
from r2mae_dna.scorers import FREQUENCIES, SiteScorer, open_scorer
from r2mae_dna.sharing import device_of_rank, rank_and_size, read_ahead, wait_for_all


@dataclass
class Counts:
    """How many alleles have each status."""

    out: Path
    """Where the scores are."""
    status: np.ndarray = field(default_factory=lambda: np.zeros(len(STATUS), np.int64))
    absent: set[str] = field(default_factory=set)
    """Chromosomes that the store does not have."""
    regions: str = ""
    """To which regions the file was restricted, and how they were read."""
    sites: int = 0
    """Distinct sites that were scored."""
    names: Names = field(kw_only=True)
    """Under which names the chromosomes were found."""

    def text(self) -> str:
        """Return the counts as one line."""
        parts = [f"{count:,} {name}" for name, count in zip(STATUS, self.status.tolist(), strict=True) if count]
        return ", ".join(parts) or "no variant"


def run_scorer(stretch: Stretch, scorer: SiteScorer, batch_size: int) -> Result:
    """Score the sites of a stretch in batches, and each allele from its sites: the sum over its changed bases."""
    n, status = len(stretch.status), stretch.status.copy()
    llr = np.where(status == SCORED, np.float32(0), np.float32(np.nan))
    if len(stretch.windows):
        starts = range(0, len(stretch.windows), batch_size)
        scores = np.concatenate([scorer(stretch.windows[i : i + batch_size]) for i in starts])[stretch.window_of]
        each = np.arange(len(scores))
        parts = scores[each, stretch.alternative - 1] - scores[each, stretch.reference - 1]
        llr += np.bincount(stretch.allele, parts, n).astype(np.float32)
    status[(status == SCORED) & ~np.isfinite(llr)] = NOT_FINITE
    return Result(np.where(status == SCORED, llr, np.float32(np.nan)), status)


def output_path(config: Score) -> Path:
    """Return where the scores go: `--out`, or the default path with the input's suffix.

    Raises:
        UserError: the suffix is unknown, or the format could not hold the input's columns.
    """
    name = config.variants.name
    suffix = "".join(config.variants.suffixes[-2 if name.endswith("gz") else -1 :])
    out = config.out or Path(f"{default_run_path('r2mae-dna', 'score')}{suffix}")
    if file_kind(out) == "vcf" and file_kind(config.variants) != "vcf":
        raise UserError("a table cannot become a VCF without losing columns; name --out .tsv, .csv or .parquet")
    return out


def score_variants(config: Score, *, alone: bool = False) -> Counts:
    """Score a variant file and write it again with the scores; an interrupted run resumes where it stopped.

    Under torchrun the ranks share the stretches, and the first one writes.

    Args:
        config: the options.
        alone: score everything in this process, even if it is one of several ranks.

    Raises:
        UserError: the output is there already or is an input, another process writes it, a file is malformed or was
            changed meanwhile, the model does not fit the alignment, most reference alleles disagree, no chromosome is
            known, there is no variant, or (strict) an allele could not be scored.
    """
    rank, world_size = (0, 1) if alone else rank_and_size()
    if STREAM in (config.variants, config.out):
        if world_size > 1:
            raise UserError("several devices cannot share standard input or output; name files")
        return _score_streams(config)
    device = device_of_rank(config.device, world_size)
    if world_size > 1 and config.out is None:
        raise UserError("several devices need --out FILE: each of their processes must write to the same output")
    out, column = output_path(config), score_column(config.name)
    model = None if config.model == FREQUENCIES else config.model
    check_output(out, [config.variants, config.msa, *config.more_msa, config.bed, model], overwrite=config.overwrite)
    with one_writer(out, folder=False):
        if not config.variants.is_file():
            raise UserError(f"no file {config.variants}")
        before = fingerprint(config.variants)
        store, scorer = _open(config, device)
        names = Names(store, config.aliases)
        within = within_of(config.regions, config.bed, names)
        kind = VcfFile if file_kind(config.variants) == "vcf" else TableFile
        variants = kind(config.variants, within)
        if isinstance(variants, TableFile):
            refuse_unwritable(variants.frame, out)
        source = _source(store, scorer) | ({} if within is None else {"Regions": str(within)})
        kept = {
            "chunk": config.chunk,
            "min_defined": config.min_defined,
            "aliases": config.aliases,
            "precision": precision(config.precision, device),
            "variants": before,
            **({} if within is None else {"regions": within.digest}),
        }
        parts = Parts(out, {**source, **kept})
        counts = Counts(out, names=names)
        if within is not None:
            counts.regions = within.read_by(variants.index, variants.not_indexed)
        guard = partial(BuildGuard, 1.0 if config.force else config.max_mismatch, str(store.path))
        read = _reader(store, scorer, config, names)
        n_stretches = _score_stretches(variants, parts, read, guard(), config, counts, rank, world_size)
        if world_size > 1:
            wait_for_all()
        if rank == 0:
            remedy = "it was changed while it was scored: run the command again"
            refuse_changed(out, before, fingerprint(config.variants), remedy)
            finished = [parts.load(i) for i in range(n_stretches)]
            for part in finished:
                names.count(part.chromosomes)
                counts.absent |= {name for name in part.chromosomes if names.find(name) is None}
            results = [part.result for part in finished]
            try:
                _refuse(counts, results, guard(), store, config)
            except UserError:
                parts.remove()
                raise
            variants.write(out, results, config.chunk, column, source)
            parts.remove()
    return counts


def _open(config: Score, device: str) -> tuple[AlignmentStore, SiteScorer] | tuple[ScanTable, None]:
    """Return the alignment and the scorer; or the table in which the scores are looked up."""
    if is_scan_table(config.model):
        return ScanTable(Path(config.model), config.scan_column), None
    store = open_stores(config.msa, config.more_msa)
    return store, open_scorer(
        config.model, store, device, window=config.window, number_format=config.precision, compile=config.compile,
        batch_size=config.batch_size,
    )  # fmt: skip


def _source(store: AlignmentStore | ScanTable, scorer: SiteScorer | None) -> dict[str, Any]:
    """Return the origin of the scores, for headers."""
    if isinstance(store, ScanTable):
        return store.source
    assert scorer is not None
    return {
        "Model": scorer.name,
        "ModelDigest": scorer.digest,
        "Alignment": store.path.name,
        "AlignmentDigest": store.digest,
        "Window": scorer.window,
    }


def _score_streams(config: Score) -> Counts:
    """Score standard input, or write to standard output, by files that are removed again."""
    with tempfile.TemporaryDirectory() as scratch:
        source = spool_stdin(Path(scratch)) if config.variants == STREAM else config.variants
        file = config.out
        if file in (None, STREAM):
            file = Path(scratch) / f"scored{'.vcf' if file_kind(source) == 'vcf' else file_kind(source)}"
        counts = score_variants(replace(config, variants=source, out=file), alone=True)
        if counts.out.parent == Path(scratch):
            write_stdout(counts.out)
            counts.out = STREAM
    return counts


def _score_stretches(
    variants: VcfFile | TableFile,
    parts: Parts,
    read: "_Reader",
    guard: BuildGuard,
    config: Score,
    counts: Counts,
    rank: int,
    world_size: int,
) -> int:
    """Score the stretches of this rank that are not done; return how many there are in all."""
    n = 0
    with tqdm(desc="variants", unit="variant", disable=not config.progress or rank > 0, mininterval=0.5) as bar:
        for job in _ahead(variants, parts, read, config.chunk, rank, world_size):
            if job.status is not None:
                guard.check(job.status)
            if job.score is not None:
                counts.sites += job.sites
                parts.save(n, Part(job.score(), job.chromosomes))
            n += 1
            bar.update(config.chunk if job.status is None else len(job.status))
    return n


@dataclass(frozen=True)
class _Job:
    """A stretch of the variants."""

    status: np.ndarray | None = None
    """Of its alleles; None: another rank's."""
    score: Callable[[], Result] | None = None
    """Computes the scores; None: another rank's, or done before."""
    sites: int = 0
    """Distinct sites that are to be scored."""
    chromosomes: Counter[str] = field(default_factory=Counter[str])
    """Of what is to be scored: name of a chromosome → alleles."""


_Reader = Callable[[Alleles], _Job]


def _reader(store: AlignmentStore | ScanTable, scorer: SiteScorer | None, config: Score, names: Names) -> _Reader:
    """Return what reads of the store, or of the table, all that the scores of a stretch need."""

    def from_table(alleles: Alleles) -> _Job:
        result = table.look_up(alleles, names)
        return _Job(result.status, lambda: result, 0, Counter(alleles.chromosome))

    def from_store(alleles: Alleles) -> _Job:
        stretch = read_stretch(alleles, alignment, model.window, config.min_defined, names)
        score = partial(run_scorer, stretch, model, config.batch_size)
        return _Job(stretch.status, score, len(stretch.windows), Counter(alleles.chromosome))

    if isinstance(store, ScanTable):
        table = store
        return from_table
    assert scorer is not None
    alignment, model = store, scorer
    return from_store


def _ahead(
    variants: VcfFile | TableFile, parts: Parts, read: _Reader, chunk: int, rank: int, world_size: int
) -> Iterator[_Job]:
    """Yield the stretches in order. The next one is read while the device computes this one.

    Only what is to be scored here is parsed; the other lines are skipped.
    """
    done: dict[int, Part] = {}

    def wanted(i: int) -> bool:
        if i % world_size != rank:
            return False
        if (part := parts.finished(i)) is not None:
            done[i] = part
        return part is None

    def job(item: tuple[int, Alleles | None]) -> _Job:
        i, alleles = item
        if alleles is None:
            return _Job(done.pop(i).result.status) if i in done else _Job()
        return read(alleles)

    yield from read_ahead(map(job, enumerate(variants.chosen_chunks(chunk, wanted))))


def _refuse(total: Counts, results: Sequence[Result], guard: BuildGuard, store: Genome, config: Score) -> None:
    """Refuse scores that say nothing, once all stretches of all ranks are there; count them."""
    if not results:
        raise UserError(f"{config.variants} contains no variants{' in the regions' if total.regions else ''}")
    for result in results:
        guard.check(result.status)
        total.status += np.bincount(result.status, minlength=len(STATUS))
    n = int(total.status.sum())
    if total.absent and total.status[OUTSIDE] == n:
        raise UserError(
            f"{config.msa} has none of the variants' chromosomes ({', '.join(sorted(total.absent)[:5])}); it has "
            f"{', '.join(store.chromosomes[:5])}"
        )
    if config.strict and total.status[SCORED] < n:
        raise UserError(f"--strict: {total.text()}; nothing was written")


def score_command(config: Score) -> None:
    """`r2mae-dna score`."""
    counts = score_variants(config)
    where = (
        ""
        if config.model == FREQUENCIES or is_scan_table(config.model)
        else f" on {device_name(resolve_device(config.device))}"
    )
    lines = [f"{counts.text()}{where}"]
    if counts.regions:
        lines.append(counts.regions)
    if counts.names.used:
        lines.append(f"Names of chromosomes: {counts.names.text()}")
    if counts.absent:
        lines.append(f"Chromosomes that are not in {config.msa}: {', '.join(sorted(counts.absent)[:10])}")
    if counts.out == STREAM:
        sys.stderr.write("".join(f"{line}\n" for line in lines))  # the scores are on standard output
        return
    column = score_column(config.name)
    where = f"INFO {column.upper()}" if file_kind(counts.out) == "vcf" else f"column {column}"
    for line in [*lines, f"Done: {counts.out} ({where}; lower is more deleterious)"]:
        say(line)
