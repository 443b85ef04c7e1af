"""Names of sequences in a MAF file, `species.chromosome`: which part is the species, where both may have dots."""

from collections.abc import Collection, Container, Iterable
from io import StringIO
from typing import Any

from r2mae_core import UserError

_SHOWN = 3
"""Names that a message quotes."""


def split_source(source: str, names: Container[str]) -> tuple[str, str] | None:
    """Return species and chromosome of a sequence by the longest of `names` that it begins with, before a dot.

    A sequence that is called like its species has one chromosome, of the same name. None: no name fits.
    """
    end = len(source)
    while end > 0:
        if source[:end] in names:
            return source[:end], source[end + 1 :] or source
        end = source.rfind(".", 0, end)
    return None


def is_of(species: str, names: Container[str], source: str) -> bool:
    """Return whether a sequence is of a species, by the longest of `names` that it begins with."""
    found = split_source(source, names)
    return found is not None and found[0] == species


def tree_names(newick: str) -> list[str]:
    """Return the names in a tree of the Newick format, those of its ancestors too; none if it is no such tree."""
    tree = _tree(newick)
    return [] if tree is None else [str(clade.name) for clade in tree.find_clades() if clade.name]


def leaf_names(newick: str) -> list[str]:
    """Return the names of the leaves of a tree of the Newick format, in its order.

    Raises:
        UserError: it is no such tree.
    """
    tree = _tree(newick)
    if tree is None:
        raise UserError("the file of --species begins like a tree (Newick) and is none; list names, or mend it")
    return [str(leaf.name) for leaf in tree.get_terminals()]


def _tree(newick: str) -> Any:
    from Bio import Phylo

    try:
        return Phylo.read(StringIO(newick), "newick")  # pyright: ignore[reportPrivateImportUsage]
    except Exception:  # the parser's own, and those that it runs into
        return None


class SpeciesNames:
    """Which species the rows of an alignment are of, and whether their names can be told from the chromosomes'.

    A row is of the longest given name that it begins with. Any other is of the part before its first dot, or before
    its second where a number lies between the two (`GCA_028858775.2.chr1`).

    Args:
        given: the names that the user, or the tree in the file, gives.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self.given = set(given)
        self.found: dict[str, None] = {}
        """Species in order of first appearance."""
        self.nameless: dict[str, None] = {}
        """Some of the sequences without a species: their names have no dot."""
        self._starts: dict[str, _Start] = {}

    def of(self, source: str) -> tuple[str, str] | None:
        """Return species and chromosome of a sequence, and remember them; None if it has no species."""
        known = split_source(source, self.given)
        name, _, chromosome = source.partition(".") if known is None else (known[0], ".", known[1])
        if not name or not chromosome:
            if len(self.nameless) < _SHOWN:
                self.nameless.setdefault(source)
            return None
        start = self._starts.setdefault(name, _Start())
        middle, dot, rest = chromosome.partition(".")
        if dot and rest and middle.isdigit():
            start.note(start.numbers, middle)
            if not known:
                name, chromosome = f"{name}.{middle}", rest
        elif dot and rest and not rest[0].isdigit() and not known:  # else a version, as in scaffold_334.1-359464
            start.note(start.words, middle)
        else:
            start.plain = True
        self.found.setdefault(name)
        return name, chromosome

    def add(self, other: "SpeciesNames") -> None:
        """Add what was found in a later file."""
        self.given |= other.given
        self.found |= {name: None for name in other.found if name not in self.found}
        for name in other.nameless:
            if len(self.nameless) < _SHOWN:
                self.nameless.setdefault(name)
        for name, theirs in other._starts.items():
            self._starts.setdefault(name, _Start()).add(theirs)

    def check(self, reference: str, species: Collection[str], where: str) -> None:
        """Refuse names under which several assemblies would become one species.

        Args:
            reference: the species whose coordinates the store has.
            species: the others that the user names; none: all of the alignment.
            where: the files, for the message.

        Raises:
            UserError: with the names that one of them covers.
        """
        for name in {reference, *species} if species else list(self._starts):
            if (start := self._starts.get(name)) is None:
                continue
            covered = list(start.covered(name in self.given))
            names = ", ".join(f"{name}.{part}" for part in covered)
            if name == reference and covered:
                raise UserError(f"{where}: the reference {name!r} is called {names} there; name all of it")
            if len(covered) > 1 or (covered and name not in self.given and start.plain):
                others = " and sequences without such a part" if start.plain else ""
                raise UserError(
                    f"{where}: the name {name!r} covers {names}{others}; name each species with --species, so that "
                    "assemblies are told from chromosomes"
                )


class _Start:
    """What follows the name of a species before the chromosome."""

    def __init__(self) -> None:
        self.plain = False
        """Some sequences have the chromosome at once."""
        self.numbers: dict[str, None] = {}
        """Numbers between species and chromosome: versions and haplotypes."""
        self.words: dict[str, None] = {}
        """Other parts between the two, which may belong to either."""

    def covered(self, given: bool) -> dict[str, None]:
        """Return the parts that tell several assemblies apart, if the name is not, or is, one that was given."""
        return self.numbers if given or self.numbers or self.plain else self.words

    def add(self, other: "_Start") -> None:
        """Add what was found in a later file."""
        self.plain |= other.plain
        for ours, theirs in ((self.numbers, other.numbers), (self.words, other.words)):
            for middle in theirs:
                self.note(ours, middle)

    @staticmethod
    def note(where: dict[str, None], middle: str) -> None:
        """Remember a part, one of the first few."""
        if len(where) < _SHOWN:
            where.setdefault(middle)
