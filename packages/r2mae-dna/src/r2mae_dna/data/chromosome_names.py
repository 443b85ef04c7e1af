"""Names of chromosomes in other styles: with or without chr, M or MT, and NCBI's accessions.

Accessions: NCBI RefSeq numbers the chromosomes of human NC_000001 to NC_000024 (23: X, 24: Y; mitochondrion NC_012920)
and those of mouse NC_000067 to NC_000087 (86: X, 87: Y; NC_005089). The version after the dot names the assembly, which
the reference alleles or the lengths then tell.
"""

import re
from collections.abc import Iterable

_REFSEQ = {f"NC_{i:06d}": str(i) for i in range(1, 23)} | {"NC_000023": "X", "NC_000024": "Y", "NC_012920": "MT"}
_REFSEQ |= {f"NC_{66 + i:06d}": str(i) for i in range(1, 20)} | {"NC_000086": "X", "NC_000087": "Y", "NC_005089": "MT"}


def canonical(name: str) -> str:
    """Return what the names of one chromosome in all styles have in common, such as `22` or `MT`."""
    accession = re.fullmatch(r"(NC_[0-9]{6})\.[0-9]+", name)
    if accession:
        return _REFSEQ.get(accession[1], name)
    bare = re.sub(r"^chr", "", name, flags=re.IGNORECASE)
    return "MT" if bare.upper() in ("M", "MT") else bare.upper() if bare.upper() in ("X", "Y") else bare


class ChromosomeNames:
    """Finds chromosomes under a user's names.

    Args:
        names: those of a store, a track or a table.
        styles: whether a name in another style is taken for the only one of them that it fits.
    """

    def __init__(self, names: Iterable[str], *, styles: bool = True) -> None:
        self._own = set(names)
        found: dict[str, list[str]] = {}
        for name in self._own if styles else ():
            found.setdefault(canonical(name), []).append(name)
        self._style = {style: same[0] for style, same in found.items() if len(same) == 1}

    def find(self, name: str) -> str | None:
        """Return the own name of a chromosome; None if it is not there, or could be several."""
        return name if name in self._own else self._style.get(canonical(name))
