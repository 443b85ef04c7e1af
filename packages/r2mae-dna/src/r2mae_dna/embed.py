"""What a network says about sites: probabilities or logits of the hidden base, or the last layer's vectors.

For probing, and for classifiers of one's own. Each site is at the centre of its own window, as in `score`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2mae_core import (
    UserError,
    atomic_path,
    check_output,
    default_run_path,
    device_name,
    one_writer,
    resolve_device,
    say,
)
from r2mae_dna.data.aliases import Names
from r2mae_dna.data.bed import read_bed
from r2mae_dna.data.chunks import Chunk, plan_chunks
from r2mae_dna.data.codes import TOKEN_BITS, VOCABULARY
from r2mae_dna.data.joined import open_stores
from r2mae_dna.data.regions import Region, parse_regions
from r2mae_dna.data.sites import BuildGuard, read_stretch
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.tables import file_kind
from r2mae_dna.data.variants import SCORED, STATUS, TableFile
from r2mae_dna.data.vcf import VcfFile
from r2mae_dna.options import Embed
from r2mae_dna.scorers import FREQUENCIES, open_scorer
from r2mae_dna.sharing import read_ahead

MAX_MISMATCH = 0.05
"""Share of reference alleles that may disagree with the alignment, as in `score`."""


def wanted_sites(config: Embed, store: AlignmentStore) -> list[Chunk]:
    """Return the sites as chunks, in the order of the genome, each site once.

    Raises:
        UserError: none is named, or one is outside the alignment.
    """
    regions = parse_regions(config.regions, store)
    if config.bed is not None:
        regions += read_bed(config.bed, store)[0]
    if config.variants is not None:
        regions += _variant_sites(config.variants, store)
    if not regions:
        none = config.variants is not None and f"no allele of {config.variants} is a substitution in the alignment"
        raise UserError(none or "name the sites with --regions, --bed or --variants")
    return plan_chunks(store, regions, 16_384)


def _variant_sites(path: Path, store: AlignmentStore) -> list[Region]:
    """Return the sites of the bases that the alleles change, once it is sure that they are of the alignment's genome.

    Raises:
        UserError: too many reference alleles disagree with the alignment.
    """
    file, names = VcfFile(path) if file_kind(path) == "vcf" else TableFile(path), Names(store)
    guard, status = BuildGuard(MAX_MISMATCH, str(store.path)), np.zeros(len(STATUS), np.int64)
    sites = list[Region]()
    for alleles in file.chunks(20_000):
        names.count(Counter(alleles.chromosome))
        stretch = read_stretch(alleles, store, 1, 0.0, names)
        guard.check(stretch.status)
        status += np.bincount(stretch.status, minlength=len(STATUS))
        sites += [Region(store.chromosomes[i], position, position + 1) for i, position in stretch.sites.tolist()]
    reasons = [f"{n:,} {STATUS[i]}" for i, n in enumerate(status.tolist()) if n and i != SCORED]
    if reasons:
        say(f"Left out: alleles that are {', '.join(reasons)}")
    if names.used:
        say(f"Names of chromosomes: {names.text()}")
    return sites


def embed_sites(config: Embed) -> dict[str, np.ndarray]:
    """Compute the values, write them, and return them.

    Returns:
        chrom (n,), pos (n,) 1-based, ref (n,) letters, and values: (n, 4) of A, C, G, T, or (n, hidden).

    Raises:
        UserError: the output is there or is an input, or no site has a reference base.
    """
    out = config.out or Path(f"{default_run_path('r2mae-dna', 'embed')}.npz")
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"{out}: the name must end in .npz or .parquet")
    if config.model == FREQUENCIES:
        raise UserError("frequencies has no network; name a model")
    check_output(
        out, [config.model, config.msa, *config.more_msa, config.bed, config.variants], overwrite=config.overwrite
    )
    with one_writer(out, folder=False):
        store = open_stores(config.msa, config.more_msa)
        chunks = wanted_sites(config, store)
        found = _compute(config, store, chunks)
        with atomic_path(out) as temporary:
            _write(found, temporary)
    return found


def _compute(config: Embed, store: AlignmentStore, chunks: list[Chunk]) -> dict[str, np.ndarray]:
    scorer: Any = open_scorer(
        config.model, store, resolve_device(config.device), window=config.window, number_format=config.precision,
        compile=False, batch_size=config.batch_size,
    )  # fmt: skip
    window = scorer.window

    def blocks() -> Iterator[tuple[Chunk, np.ndarray]]:
        for chunk in chunks:
            yield chunk, store.read(chunk.chromosome, chunk.start - window, chunk.end + window)

    parts: dict[str, list[np.ndarray]] = {"chrom": [], "pos": [], "ref": [], "values": []}
    letters = np.array(list(VOCABULARY))
    with tqdm(desc="sites", unit="site", total=sum(map(len, chunks)), disable=not config.progress) as bar:
        for chunk, block in read_ahead(blocks()):
            tokens, positions = block[:, 0] & TOKEN_BITS, chunk.positions()
            positions = positions[tokens[positions - chunk.start + window] > 0]
            sites = positions - chunk.start + window
            values = scorer.hidden(block, sites) if config.what == "embeddings" else scorer.at(block, sites)
            if config.what == "probabilities":
                values = np.exp(values - values.max(1, keepdims=True))
                values /= values.sum(1, keepdims=True)
            parts["chrom"].append(np.full(len(sites), chunk.chromosome))
            parts["pos"].append(positions + 1)
            parts["ref"].append(letters[tokens[sites]])
            parts["values"].append(values)
            bar.update(len(chunk))
    found = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if not len(found["pos"]):
        raise UserError("no site has a reference base in the alignment")
    if not np.isfinite(found["values"]).all():
        raise UserError(
            "the network gives values that are not finite; its weights are damaged, or too large for --precision"
        )
    return found


def _write(found: dict[str, np.ndarray], target: Path) -> None:
    if target.suffix == ".npz":
        with target.open("wb") as file:
            np.savez_compressed(file, **found)  # pyright: ignore[reportArgumentType]
        return
    import polars as pl

    width = found["values"].shape[1]
    names = list("ACGT") if width == 4 else [f"e{i}" for i in range(width)]
    columns = {name: found[name] for name in ("chrom", "pos", "ref")}
    pl.DataFrame({**columns, **{name: found["values"][:, i] for i, name in enumerate(names)}}).write_parquet(target)


def embed_command(config: Embed) -> None:
    """`r2mae-dna embed`."""
    found = embed_sites(config)
    n, width = found["values"].shape
    say(f"Done: {config.what} of {n:,} sites ({width} numbers each) on {device_name(resolve_device(config.device))}")
