"""`r2mae-dna msa-build`, `msa-info` and `msa-show`."""

import os
import re
from pathlib import Path

import numpy as np

from r2mae_core import UserError, check_output, default_run_path, left_out, pasteable, read_text, say
from r2mae_dna.data.build import BuildReport, build_alignment, case_source, made_from
from r2mae_dna.data.codes import TOKEN_BITS, decode
from r2mae_dna.data.estimate import estimate_build
from r2mae_dna.data.new_folders import refuse_other
from r2mae_dna.data.regions import Region, parse_regions
from r2mae_dna.data.species import leaf_names
from r2mae_dna.data.store import AlignmentStore, StoreInfo, store_entries
from r2mae_dna.options import MsaBuild, MsaInfo, MsaShow

MAX_SHOWN = 10_000
_STYLES = {"A": "green", "C": "blue", "G": "yellow", "T": "red", "-": "dim"}


def build_command(config: MsaBuild) -> None:
    """`r2mae-dna msa-build`."""
    out, species = (
        config.out or default_run_path("r2mae-dna", "msa-build"),
        species_names(config.species, config.reference),
    )
    check_output(out, [config.species if os.path.isfile(config.species) else None])  # noqa: PTH113
    if not config.overwrite and store_entries(out):
        case = case_source(config.case, config.fasta)
        made = made_from(config.mafs, config.reference, species, config.fasta, case)
        there = AlignmentStore(out).made
        made["part"] = config.part or None
        if there and there.get("fasta") is None:
            there = {"case": "maf", **there}  # also of before there was a choice
        refuse_other(out, there, made)
        say(f"Done before: {out} was made by the same command from the same files")
        return
    if config.progress and (estimate := estimate_build(config.mafs, config.reference, species)) is not None:
        say(estimate.line(config.workers))
    report = build_alignment(
        config.mafs,
        out,
        reference=config.reference,
        species=species,
        fasta=config.fasta,
        case=config.case,
        workers=config.workers,
        part=config.part,
        overwrite=config.overwrite,
        progress=config.progress,
    )
    if report.info is None:
        say(f"Part {config.part} has no chromosome; no store is written, and msa-merge needs none of it")
        return
    for line in report_lines(report, report.info):
        say(line)
    if config.part:
        say(f"Done: {out}, part {config.part}. When all parts are there: r2mae-dna msa-merge PART... --out STORE")
        return
    say(f"Done: {out}. Next: r2mae-dna msa-info {pasteable(out)}, or r2mae-dna prepare {pasteable(out)}")


def species_names(text: str, reference: str = "") -> list[str]:
    """Return the names in a list separated by commas or spaces, in a file of them, or at the leaves of a tree in it.

    In a file of names, what follows a # at a line's begin or after a space is a comment. A tree has the reference too,
    which is left out of the names.
    """
    if os.path.isfile(text):  # noqa: PTH113  (a list of ninety species is too long for a path to be asked)
        text = read_text(Path(text))
        if text.lstrip().startswith("("):
            return [name for name in leaf_names(text) if name != reference]
        text = " ".join(re.split(r"(?:^|\s)#", line)[0] for line in text.splitlines())  # a name may be HG002#1
    return text.replace(",", " ").split()


def report_lines(report: BuildReport, info: StoreInfo) -> list[str]:
    """Return the summary of a build as lines, without what did not occur."""
    n_blocks, n_species, n_bases = report.counts.blocks, len(info.species), sum(info.covered.values())
    lines = [
        f"{n_blocks:,} blocks, {n_species} species, {n_bases:,} reference bases on {len(info.covered)} chromosome"
        f"{'s' if len(info.covered) > 1 else ''}",
        left_out(info.left_out),
    ]
    if report.kept:
        names = ", ".join(report.kept[:5]) + (" …" if len(report.kept) > 5 else "")
        lines.append(f"finished before an interruption: {names}")
    if report.without_blocks:
        lines.append(f"in no block: {', '.join(report.without_blocks)}")
    others = zip(info.species[1:], info.counts, strict=True)
    if empty := [name for name, count in others if not count.aligned and name not in report.without_blocks]:
        lines.append(f"without any aligned base: {', '.join(empty)}")
    if report.checked:
        share = report.mismatches / report.checked
        lines.append(
            f"reference against FASTA: {report.mismatches:,} of {report.checked:,} bases differ ({share:.4%}); "
            f"{report.filled:,} filled"
        )
    if report.unchecked:
        upper = ", and upper-case in the store" if info.case == "fasta" else ""
        lines.append(f"not in the FASTA file{upper}: {', '.join(report.unchecked)}")
    if report.nameless:
        lines.append(f"without a species (no dot in the name), such as {', '.join(report.nameless)}: left out")
    lines.append(
        f"soft-masked: {info.soft_masked / max(n_bases, 1):.1%} of the reference, by the case of the {info.case}"
    )
    return lines


def info_command(config: MsaInfo) -> None:
    """`r2mae-dna msa-info`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    store = AlignmentStore(config.msa)
    say(f"{store.path}: {len(store.chromosomes)} chromosomes, {store.n_species + 1} rows, digest {store.digest}")
    for name in store.chromosomes[:30]:
        covered = f", {store.info.covered[name]:,} covered" if store.info else ""
        say(f"  {name}: {store.lengths[name]:,} long{covered}")
    if len(store.chromosomes) > 30:
        say(f"  and {len(store.chromosomes) - 30} more")
    if store.info is None:
        say("Published layout: the store does not name its species, so their order cannot be checked.")
        return
    say(left_out(store.info.left_out))
    total = max(sum(store.info.covered.values()), 1)
    case = store.info.case or "alignment under blocks, of the genome elsewhere (a store of an earlier version)"
    say(f"Soft-masked: {store.info.soft_masked / total:.1%} of the covered reference, by the case of the {case}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("column", "species", "aligned", "identical"):
        table.add_column(title, justify="left" if title == "species" else "right")
    table.add_row("0", store.info.species[0], "reference", "")
    for i, (name, count) in enumerate(zip(store.info.species[1:], store.info.counts, strict=True), start=1):
        table.add_row(str(i), name, f"{count.aligned / total:.1%}", f"{count.identical / max(count.aligned, 1):.1%}")
    say(table)
    cumulative = np.cumsum(store.info.depth) / total
    quartiles = [int(np.searchsorted(cumulative, q)) for q in (0.25, 0.5, 0.75)]
    say(f"Aligned species per base, quartiles: {', '.join(map(str, quartiles))}")


def show_command(config: MsaShow) -> None:
    """`r2mae-dna msa-show`.

    Raises:
        UserError: the region is too long, or is outside the chromosome.
    """
    store = AlignmentStore(config.msa)
    for region in parse_regions(config.region, store):
        _show(store, region, dots=config.dots)


def _show(store: AlignmentStore, region: Region, *, dots: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    end = min(region.end, store.lengths[region.chromosome])
    if end - region.start > MAX_SHOWN:
        raise UserError(f"{region} is {end - region.start:,} bases long; at most {MAX_SHOWN:,} are shown")
    codes = store.read(region.chromosome, region.start, end)
    names = store.species or ("reference", *(f"species {i}" for i in range(1, store.n_species + 1)))
    console = Console(highlight=False)
    margin = max(map(len, names)) + 2
    width = max(console.width - margin, 10)
    for first in range(0, len(codes), width):
        part = codes[first : first + width]
        console.print(f"{region.chromosome}:{region.start + first + 1:,}", style="bold")
        same = (part & TOKEN_BITS) == (part[:, :1] & TOKEN_BITS)
        for column, name in enumerate(names):
            letters = decode(part[:, column])
            line = Text(name.ljust(margin))
            for letter, equal in zip(letters, same[:, column].tolist(), strict=True):
                dot = dots and column > 0 and equal and letter != "-"
                line.append("." if dot else letter, style=_STYLES[letter.upper()])
            console.print(line, soft_wrap=True)
        console.print()
