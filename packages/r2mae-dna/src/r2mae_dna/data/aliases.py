"""Names of chromosomes in other styles: with or without chr, M or MT, and NCBI's accessions.

Accessions: NCBI RefSeq numbers the chromosomes of human NC_000001 to NC_000024 (23: X, 24: Y; mitochondrion NC_012920)
and those of mouse NC_000067 to NC_000087 (86: X, 87: Y; NC_005089). The version after the dot names the assembly, which
the reference alleles then tell.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from r2mae_core import UserError
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.text_files import read_lines

_REFSEQ = {f"NC_{i:06d}": str(i) for i in range(1, 23)} | {"NC_000023": "X", "NC_000024": "Y", "NC_012920": "MT"}
_REFSEQ |= {f"NC_{66 + i:06d}": str(i) for i in range(1, 20)} | {"NC_000086": "X", "NC_000087": "Y", "NC_005089": "MT"}


def canonical(name: str) -> str:
    """Return what the names of one chromosome in all styles have in common, such as `22` or `MT`."""
    accession = re.fullmatch(r"(NC_[0-9]{6})\.[0-9]+", name)
    if accession:
        return _REFSEQ.get(accession[1], name)
    bare = re.sub(r"^chr", "", name, flags=re.IGNORECASE)
    return "MT" if bare.upper() in ("M", "MT") else bare.upper() if bare.upper() in ("X", "Y") else bare


class Names:
    """The chromosomes of an alignment under a user's names, and how often another name was taken for them.

    Args:
        store: the alignment.
        aliases: `auto`: a name in another style, if exactly one chromosome has it; `none`: the alignment's own names
            only; or a file with a line of name and alignment's name for each, separated by a tab.

    Raises:
        UserError: the file is missing or malformed, or names a chromosome that is not in the alignment.
    """

    def __init__(self, store: AlignmentStore, aliases: str = "auto") -> None:
        self._own = set(store.chromosomes)
        styles: dict[str, list[str]] = {}
        for name in store.chromosomes if aliases == "auto" else ():
            styles.setdefault(canonical(name), []).append(name)
        self._style = {style: names[0] for style, names in styles.items() if len(names) == 1}
        self._table = _read_table(Path(aliases), store) if aliases not in ("auto", "none") else {}
        self.used = Counter[tuple[str, str]]()
        """(name, the alignment's name) → how many alleles."""

    def find(self, name: str) -> str | None:
        """Return the alignment's name of a chromosome; None if it has none."""
        if name in self._table:
            return self._table[name]
        return name if name in self._own else self._style.get(canonical(name))

    def count(self, names: Mapping[str, int]) -> None:
        """Count the alleles of a stretch, by the name of their chromosome, that has another one in the alignment."""
        for name, n in names.items():
            own = self.find(name)
            if own is not None and own != name:
                self.used[name, own] += n

    def text(self) -> str:
        """Return the counts as one line; empty if there are none."""
        shown = [f"{name} as {own} ({n:,} alleles)" for (name, own), n in self.used.most_common(5)]
        return ", ".join(shown) + (f" and {len(self.used) - 5} more" if len(self.used) > 5 else "")


def _read_table(path: Path, store: AlignmentStore) -> dict[str, str]:
    table: dict[str, str] = {}
    for number, line in read_lines(path):
        text = line.decode(errors="surrogateescape").rstrip("\r\n")
        if not text or text[0] == "#":
            continue
        fields = text.split("\t")
        if len(fields) != 2:
            raise UserError(f"{path}, line {number}: a line is a name, a tab, and the alignment's name")
        if fields[1] not in store.lengths:
            raise UserError(f"{path}, line {number}: {store.path} has no chromosome {fields[1]!r}")
        if table.setdefault(*fields) != fields[1]:
            raise UserError(f"{path}, line {number}: {fields[0]!r} was {table[fields[0]]!r} before")
    return table
