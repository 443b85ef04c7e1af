"""The chromosomes of an alignment under the names of a user's file, counted."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from r2mae_core import UserError
from r2mae_dna.data.chromosome_names import ChromosomeNames
from r2mae_dna.data.regions import Genome
from r2mae_dna.data.text_files import read_lines


class Names:
    """The chromosomes of an alignment under a user's names, and how often another name was taken for them.

    Args:
        store: the alignment.
        aliases: `auto`: a name in another style, if exactly one chromosome has it; `none`: the alignment's own names
            only; or a file with a line of name and alignment's name for each, separated by a tab.

    Raises:
        UserError: the file is missing or malformed, or names a chromosome that is not in the alignment.
    """

    def __init__(self, store: Genome, aliases: str = "auto") -> None:
        self.path, self.chromosomes, self.lengths = store.path, store.chromosomes, store.lengths
        self._names = ChromosomeNames(store.chromosomes, styles=aliases == "auto")
        self._table = _read_table(Path(aliases), store) if aliases not in ("auto", "none") else {}
        self.used = Counter[tuple[str, str]]()
        """(name, the alignment's name) → how many alleles."""

    def find(self, name: str) -> str | None:
        """Return the alignment's name of a chromosome; None if it has none."""
        return self._table[name] if name in self._table else self._names.find(name)

    chromosome = find
    """As regions ask for it."""

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


def _read_table(path: Path, store: Genome) -> dict[str, str]:
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
