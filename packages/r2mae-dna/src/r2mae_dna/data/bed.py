"""BED files: intervals of a genome, 0-based and half-open."""

from collections import Counter
from pathlib import Path

from r2mae_core import UserError
from r2mae_dna.data.regions import Genome, Region
from r2mae_dna.data.text_files import read_lines, whole_number


def read_bed(path: Path, store: Genome) -> tuple[list[Region], Counter[str]]:
    """Return the intervals, and the chromosomes that the store lacks with the number of their lines.

    Raises:
        UserError: a line is no interval, or ends beyond its chromosome, or no chromosome is in the store.
    """
    regions, absent = list[Region](), Counter[str]()
    for number, line in read_lines(path):
        fields = line.decode(errors="surrogateescape").rstrip("\r\n").split("\t")
        if not fields[0].strip() or fields[0].startswith("#") or fields[0].split()[0] in ("track", "browser"):
            continue
        if len(fields) < 3:
            fields = fields[0].split()
        try:
            name, start, end = fields[0], whole_number(fields[1].strip()), whole_number(fields[2].strip())
        except (IndexError, ValueError):
            raise UserError(f"{path}, line {number}: a BED line is chromosome, start and end, with tabs") from None
        if start >= end:
            raise UserError(f"{path}, line {number}: the interval {start}-{end} is empty or reversed")
        own = store.chromosome(name)
        if own is None:
            absent[name] += 1
            continue
        if end > store.lengths[own]:
            raise UserError(
                f"{path}, line {number}: {name}:{start}-{end} ends beyond {own}, which is {store.lengths[own]:,} long; "
                "another genome build?"
            )
        regions.append(Region(own, start, end))
    if not regions:
        what = (
            f"none of its chromosomes ({', '.join(list(absent)[:5])}) is in {store.path}" if absent else "no interval"
        )
        raise UserError(f"{path}: {what}")
    return regions, absent
