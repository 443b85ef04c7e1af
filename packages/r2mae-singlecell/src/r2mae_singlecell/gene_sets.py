"""Genes that are hidden together: gene sets from a GMT file or a dict, found among the genes of the data."""

import gzip
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import Groups, UserError, reading

NAME_COLUMNS = ("feature_name", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "gene_id", "gene_ids")
"""Columns of `var` in which a gene has other names: CELLxGENE's, scanpy's readers', the Allen Institute's."""
_GZIP = b"\x1f\x8b"
_KIND = "gene sets in GMT form: a name, a description and genes in each line, separated by tabs"
_SHOWN = 5


@dataclass(frozen=True)
class GeneSets:
    """Gene sets, found among the genes of the data."""

    positions: Mapping[str, tuple[int, ...]]
    """Name → its genes in the data, ascending."""
    n_genes: int
    """Genes of the data."""
    left_out: tuple[str, ...]
    """Sets without any gene of the data."""
    n_unknown: int
    """Genes of all sets that the data lack."""

    @property
    def n_covered(self) -> int:
        """Genes of the data that are in a set."""
        return len({position for own in self.positions.values() for position in own})

    def groups(self) -> Groups:
        """Return what `group_mask` takes. A gene in no set is a group of its own."""
        return Groups(list(self.positions.values()), self.n_genes)

    def digest(self) -> str:
        """Return what names the sets as they act on the masks, for a training that resumes."""
        found: Any = hashlib.sha256()
        for name, own in self.positions.items():
            found.update(f"{name}\t{own}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def describe(self) -> str:
        """Return which genes are hidden together, and what was left out, in one sentence."""
        text = f"{self.n_covered:,} genes hidden together in {_counted(len(self.positions), 'set')}"
        absent = []
        if self.left_out:
            more = f" and {len(self.left_out) - _SHOWN:,} more" if len(self.left_out) > _SHOWN else ""
            named = f"{', '.join(self.left_out[:_SHOWN])}{more}"
            absent.append(f"{_counted(len(self.left_out), 'set')} without any gene of the data: {named}")
        if self.n_unknown:
            absent.append(f"{_counted(self.n_unknown, 'gene')} of the sets that the data lack")
        return text + (f" (left out: {'; '.join(absent)})" if absent else "")


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def read_gene_sets(file: Path) -> dict[str, tuple[str, ...]]:
    """Read a GMT file, gzipped or not: a name, a description and genes in each line, separated by tabs.

    Returns:
        Name → genes, each once, in the order of the file.

    Raises:
        UserError: it is missing, damaged, empty, or a line of it is malformed; with the line.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, line in _lines(file):
        name, _, *genes = fields if len(fields := line.split("\t")) > 2 else ("", "", *fields)
        genes = tuple(dict.fromkeys(gene for field in genes if (gene := field.strip())))
        where = f"{file}, line {number}"
        if not name.strip() or len(fields) < 3 or not genes:
            raise UserError(f"{where} is not a gene set: a name, a description and genes must be separated by tabs")
        if name.strip() in found:
            raise UserError(f"{where}: there is a set {name.strip()!r} already; give each set a name of its own")
        found[name.strip()] = genes
    if not found:
        raise UserError(f"{file} holds no gene set")
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers."""
    if file.is_dir():
        raise UserError(f"{file} is a folder; name a file with {_KIND}")
    with reading(file, _KIND):
        content = file.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    yield from ((i, line) for i, line in enumerate(io.StringIO(text, newline=None), 1) if line.strip())


def find_gene_sets(
    sets: Mapping[str, Sequence[str]], var: Any, present: np.ndarray | None = None, where: str = "gene_sets"
) -> GeneSets:
    """Find the genes of sets among those of the data, by their names in the index or in a column of `NAME_COLUMNS`.

    Names must agree in every letter. A name that several genes have stands for all of them.

    Args:
        sets: name → genes.
        var: the data's table of genes.
        present: positions of genes that may be hidden; None: all. Others count as genes that the data lack.
        where: what the messages call the sets.

    Raises:
        UserError: they are not sets of names, or none of them has a gene of the data.
    """
    _check_sets(sets, where)
    by_name, admitted = _positions_by_name(var), None if present is None else set(present.tolist())
    positions, left_out, unknown = {}, [], set()
    for name, genes in sets.items():
        own: set[int] = set()
        for gene in genes:
            there = {i for i in by_name.get(gene, ()) if admitted is None or i in admitted}
            own |= there
            if not there:
                unknown.add(gene)
        if own:
            positions[name] = tuple(sorted(own))
        else:
            left_out.append(name)
    if not positions:
        example = next(gene for genes in sets.values() for gene in genes)
        raise UserError(
            f"{where}: none of {_counted(len(sets), 'set')} has a gene of the data; it names genes like {example!r}, "
            f"the data like {', '.join(_examples(var))}"
        )
    return GeneSets(positions, len(var), tuple(left_out), len(unknown))


def _check_sets(sets: Any, where: str) -> None:
    if not isinstance(sets, Mapping) or not sets:
        raise UserError(f"{where} must be a dict of set name → gene names with at least one set, got {sets!r}")
    for name, genes in sets.items():
        if isinstance(genes, str) or not len(genes := list(genes)) or not all(isinstance(gene, str) for gene in genes):
            raise UserError(f"{where}: the set {name!r} must be a list of gene names, not empty")


def _columns(var: Any) -> list[Any]:
    """Return the index and the columns of names."""
    return [var.index, *(var[name] for name in NAME_COLUMNS if name in var)]


def _positions_by_name(var: Any) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for column in _columns(var):
        for position, name in enumerate(column.astype(str)):
            found.setdefault(name, set()).add(position)
    return found


def _examples(var: Any) -> list[str]:
    return list(dict.fromkeys(repr(str(column.to_numpy()[0])) for column in _columns(var)))
