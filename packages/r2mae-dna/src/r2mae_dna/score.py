"""Scoring variants: log-likelihood ratio of the alternative to the reference base, mean of both strands.

Sites are scored, not variants: one forward gives the logits of all four bases, so three alleles cost one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from r2mae_core.commands import say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.errors import UserError
from r2mae_core.files import atomic_path, write_text
from r2mae_dna.codes import GAP, TOKEN_BITS
from r2mae_dna.options import Score
from r2mae_dna.store import AlignmentStore
from r2mae_dna.variants import (
    NO_ALIGNMENT,
    NOT_SNV,
    OUTSIDE,
    REF_MISMATCH,
    SCORED,
    STATUS,
    Alleles,
    Result,
    TableFile,
    VcfFile,
    file_kind,
    open_variants,
    score_column,
)

FREQUENCIES = "frequencies"
READ_SPAN, MAX_GAP = 131_072, 8192
"""Positions of the store that are read at once at most, and between two sites that are read together."""
MIN_CHECKED = 20
"""Reference alleles below which a disagreement says little about the genome build."""


class SiteScorer(Protocol):
    """Whatever can say how likely each base is at the centre of a window."""

    @property
    def name(self) -> str:
        """For headers."""
        ...

    @property
    def digest(self) -> str:
        """Of its weights."""
        ...

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return (n, 4) float32 log-scores of A, C, G, T for windows (n, L, 1 + S) of bytes."""
        ...


class FrequencyScorer:
    """Counts of the other species' letters at the site, plus one: the floor that any model should beat."""

    name, digest = FREQUENCIES, "none"

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return log(count + 1), (n, 4)."""
        column = windows[:, windows.shape[1] // 2, 1:]
        counts = (column[..., None] == np.arange(1, 5, dtype=np.uint8)).sum(1)
        return np.log(counts + 1.0).astype(np.float32)


class ModelScorer:
    """The network's logits, mean of both strands.

    Args:
        folder: run folder or published model.
        store: the alignment; refused if its species are others than the model's.
        device: torch device type.
        precision: "auto", "fp32" or "bf16".
        compile: whether to compile; the last batch is then padded, so that there is one graph.
        batch_size: sites per forward.
    """

    def __init__(
        self, folder: Path, store: AlignmentStore, device: str, precision: str, compile: bool | None, batch_size: int
    ) -> None:
        import torch

        from r2mae_dna.weights import load_model

        pretrained = load_model(folder)
        pretrained.check_species(store.species, store.n_species, str(store.path))
        self.name, self.digest = folder.name, pretrained.digest
        self.model = pretrained.model.to(device)
        self.device, self.batch_size = torch.device(device), batch_size
        self.bf16 = precision == "bf16" or (precision == "auto" and device == "cuda")
        self.pad = compile if compile is not None else device == "cuda"
        if self.pad:
            self.model.compile_trunk()

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return logits (n, 4) float32."""
        import torch

        from r2mae_dna.model import both_strands

        n = len(windows)
        if self.pad and n < self.batch_size:
            windows = np.concatenate([windows, np.repeat(windows[-1:], self.batch_size - n, axis=0)])
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            codes = torch.from_numpy(windows & TOKEN_BITS).to(self.device, non_blocking=True)
            return both_strands(self.model, codes)[:n].cpu().numpy()


@dataclass
class Counts:
    """What became of the alleles."""

    status: np.ndarray = field(default_factory=lambda: np.zeros(len(STATUS), np.int64))
    absent: set[str] = field(default_factory=set)
    """Chromosomes that the store does not have."""
    sites: int = 0
    """Distinct sites that were scored."""

    def text(self) -> str:
        """Return one line for a person."""
        parts = [f"{count:,} {name}" for name, count in zip(STATUS, self.status.tolist(), strict=True) if count]
        return ", ".join(parts) or "no variant"


@dataclass(frozen=True)
class _Stretch:
    """A stretch of a variant file, ready for the scorer."""

    status: np.ndarray
    """(n,) uint8 per allele."""
    reference: np.ndarray
    """(n,) tokens."""
    alternative: np.ndarray
    rows: np.ndarray
    """The alleles to score."""
    window_of: np.ndarray
    """For each of these, its window."""
    windows: np.ndarray
    """(sites, L, 1 + S) bytes, sorted by site: alleles of one site share one."""
    absent: set[str]
    """Chromosomes that the store does not have."""


_BASES = {letter: token for token, pair in enumerate(("Aa", "Cc", "Gg", "Tt"), start=1) for letter in pair}


def prepare(alleles: Alleles, store: AlignmentStore, config: Score) -> _Stretch:
    """Find out which alleles can be scored, and read their windows, each site once."""
    found = {name: store.chromosome(name) for name in set(alleles.chromosome)}
    index = {name: store.chromosomes.index(own) if own is not None else -1 for name, own in found.items()}
    chromosome = np.array([index[name] for name in alleles.chromosome], np.int64)
    reference = np.array([_BASES.get(text, 0) for text in alleles.reference], np.uint8)
    alternative = np.array([_BASES.get(text, 0) for text in alleles.alternative], np.uint8)
    position = alleles.position - 1
    lengths = np.array([*(store.lengths[name] for name in store.chromosomes), 0])
    status = np.full(len(alleles), SCORED, np.uint8)
    status[(position < 0) | (position >= lengths[chromosome])] = OUTSIDE
    status[(reference == 0) | (alternative == 0) | (reference == alternative)] = NOT_SNV
    rows = np.flatnonzero(status == SCORED)
    sites, which = np.unique(np.stack([chromosome[rows], position[rows]], 1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    windows = _read_windows(store, sites, config.window)
    own = windows[..., 0] & TOKEN_BITS
    centre, defined = own[which, config.window // 2], (own != GAP).mean(1)[which]
    no_base = (centre == GAP) | (defined < config.min_defined)
    status[rows] = np.where(no_base, NO_ALIGNMENT, np.where(centre == reference[rows], SCORED, REF_MISMATCH))
    ready = status[rows] == SCORED
    kept, window_of = np.unique(which[ready], return_inverse=True)
    absent = {name for name, own_name in found.items() if own_name is None}
    return _Stretch(status, reference, alternative, rows[ready], window_of, windows[kept], absent)


def _read_windows(store: AlignmentStore, sites: np.ndarray, window: int) -> np.ndarray:
    """Return windows (n, window, 1 + S) around sorted sites (n, 2) of chromosome and 0-based position.

    The site is at index window // 2, as GPN-MSA has it. Neighbouring sites are read together.
    """
    out = np.zeros((len(sites), window, store.n_species + 1), np.uint8)
    first = 0
    while first < len(sites):
        number, position = sites[first].tolist()
        same = int(np.searchsorted(sites[:, 0], number, side="right"))
        last = first + int(np.searchsorted(sites[first:same, 1], position + READ_SPAN))
        positions = sites[first:last, 1]
        gaps = np.flatnonzero(np.diff(positions) > MAX_GAP)
        if len(gaps):  # nothing is gained by reading what lies between
            last = first + int(gaps[0]) + 1
            positions = positions[: gaps[0] + 1]
        start = position - window // 2
        block = store.read(store.chromosomes[number], start, int(positions[-1]) - window // 2 + window)
        views = np.lib.stride_tricks.sliding_window_view(block, window, axis=0)
        out[first:last] = views[positions - window // 2 - start].transpose(0, 2, 1)
        first = last
    return out


def run_scorer(stretch: _Stretch, scorer: SiteScorer, batch_size: int) -> Result:
    """Score the sites of a stretch in batches, and each allele from its site."""
    llr = np.full(len(stretch.status), np.nan, np.float32)
    if len(stretch.windows):
        starts = range(0, len(stretch.windows), batch_size)
        scores = np.concatenate([scorer(stretch.windows[i : i + batch_size]) for i in starts])[stretch.window_of]
        rows, each = stretch.rows, np.arange(len(stretch.rows))
        llr[rows] = scores[each, stretch.alternative[rows] - 1] - scores[each, stretch.reference[rows] - 1]
    return Result(llr, stretch.status)


@dataclass
class BuildGuard:
    """Stops a run whose reference alleles do not belong to the alignment's genome."""

    limit: float
    where: str
    checked: int = 0
    wrong: int = 0

    def check(self, status: np.ndarray) -> None:
        """Count a stretch's reference alleles, and stop if too many disagree so far.

        Raises:
            UserError: they do.
        """
        self.wrong += int((status == REF_MISMATCH).sum())
        self.checked += int(((status == REF_MISMATCH) | (status == SCORED)).sum())
        limit = self.limit if self.checked >= MIN_CHECKED else max(self.limit, 0.5)
        if self.checked and self.wrong > limit * self.checked:
            raise UserError(
                f"{self.wrong:,} of {self.checked:,} reference alleles disagree with {self.where}: wrong genome build? "
                "--force scores the others all the same"
            )


def open_scorer(config: Score, store: AlignmentStore, device: str) -> SiteScorer:
    """Return the scorer that `--model` names."""
    if config.model == FREQUENCIES:
        return FrequencyScorer()
    return ModelScorer(Path(config.model), store, device, config.precision, config.compile, config.batch_size)


def score_variants(config: Score) -> Counts:
    """Score a variant file and write it again with the scores; an interrupted run goes on where it stopped.

    Under torchrun the ranks share the stretches, and the first one writes.

    Raises:
        UserError: a file is wrong, the model does not fit the alignment, most reference alleles disagree, no
            chromosome is known, there is no variant, or (strict) an allele could not be scored.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = resolve_device(config.device)
    if device == "cuda" and world_size > 1:
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if config.window < 2 or config.chunk < 1 or config.batch_size < 1:
        raise UserError("window must be at least 2, chunk and batch_size at least 1")
    variants, column = open_variants(config.variants), score_column(config.name)
    if file_kind(config.out) == "vcf" and file_kind(config.variants) != "vcf":
        raise UserError("a table cannot become a VCF without losing columns; name --out .tsv, .csv or .parquet")
    store = AlignmentStore(config.msa)
    scorer = open_scorer(config, store, device)
    source = {
        "Model": scorer.name,
        "ModelDigest": scorer.digest,
        "Alignment": store.path.name,
        "AlignmentDigest": store.digest,
        "Window": config.window,
    }
    parts = _Parts(config, source)
    counts = Counts()
    guard = BuildGuard(1.0 if config.force else config.max_mismatch, str(store.path))
    n_chunks = 0
    with tqdm(desc="variants", unit="variant", disable=not config.progress or rank > 0, mininterval=0.5) as bar:
        mine = _ahead(variants, parts, store, config, rank, world_size)
        for n_chunks, n_alleles, stretch in mine:
            if stretch is not None:
                guard.check(stretch.status)
                counts.absent |= stretch.absent
                counts.sites += len(stretch.windows)
                parts.save(n_chunks - 1, run_scorer(stretch, scorer, config.batch_size))
            bar.update(n_alleles)
    if world_size > 1:
        _wait_for_all()
    total = Counts(absent=counts.absent, sites=counts.sites)
    if rank > 0:
        return counts
    for result in parts.load(n_chunks):
        total.status += np.bincount(result.status, minlength=len(STATUS))
    try:
        _refuse(total, n_chunks, store, config)
        variants.write(config.out, parts.load(n_chunks), config.chunk, column, source)
    finally:
        parts.remove()
    return total


def _ahead(
    variants: VcfFile | TableFile, parts: "_Parts", store: AlignmentStore, config: Score, rank: int, world_size: int
) -> Iterator[tuple[int, int, _Stretch | None]]:
    """Yield (stretches so far, alleles in this one, the stretch or None if it is another rank's or was done before).

    The next stretch is read while the device works on this one.
    """

    def job(item: tuple[int, Alleles]) -> tuple[int, int, _Stretch | None]:
        i, alleles = item
        wanted = i % world_size == rank and not parts.has(i)
        return i + 1, len(alleles), prepare(alleles, store, config) if wanted else None

    stretches = enumerate(variants.chunks(config.chunk))
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(lambda: job(item) if (item := next(stretches, None)) is not None else None)
        while (done := ahead.result()) is not None:
            ahead = pool.submit(lambda: job(item) if (item := next(stretches, None)) is not None else None)
            yield done


def _refuse(total: Counts, n_chunks: int, store: AlignmentStore, config: Score) -> None:
    if n_chunks == 0:
        raise UserError(f"{config.variants} holds no variant")
    n = int(total.status.sum())
    if total.absent and total.status[OUTSIDE] == n:
        raise UserError(
            f"{config.msa} has none of the variants' chromosomes ({', '.join(sorted(total.absent)[:5])}); it has "
            f"{', '.join(store.chromosomes[:5])}"
        )
    if config.strict and total.status[SCORED] < n:
        raise UserError(f"--strict: {total.text()}; nothing was written")


def _wait_for_all() -> None:
    """Wait until every rank has saved its stretches."""
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=7))
    dist.barrier()
    dist.destroy_process_group()


class _Parts:
    """The finished stretches, beside the output: what a resumed run need not score again."""

    def __init__(self, config: Score, source: dict[str, Any]) -> None:
        self.folder = config.out.parent / f".{config.out.name}.parts"
        stat = config.variants.stat()
        manifest = {
            **source,
            "variants": str(config.variants.resolve()),
            "bytes": stat.st_size,
            "changed": stat.st_mtime_ns,
            "chunk": config.chunk,
            "min_defined": config.min_defined,
            "precision": config.precision,
        }
        text = json.dumps(manifest, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = self.folder / digest  # parts of another run are never mixed in
        self.manifest = text

    def _file(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"

    def has(self, i: int) -> bool:
        return self._file(i).exists()

    def save(self, i: int, result: Result) -> None:
        if not (self.folder / "manifest.json").exists():
            write_text(self.folder / "manifest.json", self.manifest)
        with atomic_path(self._file(i)) as temporary:
            np.savez(temporary, llr=result.llr, status=result.status)

    def load(self, n: int) -> Iterator[Result]:
        for i in range(n):
            with np.load(self._file(i)) as saved:
                yield Result(saved["llr"], saved["status"])

    def remove(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def score_command(config: Score) -> None:
    """`r2mae-dna score`."""
    counts = score_variants(config)
    if int(os.environ.get("RANK", "0")) > 0:
        return
    where = "" if config.model == FREQUENCIES else f" on {device_name(resolve_device(config.device))}"
    say(f"{counts.text()}{where}")
    if counts.absent:
        say(f"Chromosomes that the alignment does not have: {', '.join(sorted(counts.absent)[:10])}")
    column = score_column(config.name)
    where = f"INFO {column.upper()}" if file_kind(config.out) == "vcf" else f"column {column}"
    say(f"Done: {config.out} ({where}; lower is more deleterious)")
