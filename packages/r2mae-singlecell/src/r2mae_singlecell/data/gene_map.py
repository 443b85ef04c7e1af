"""The genes of a store that is made of several files, and where each gene of each file goes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from r2mae_core import UserError
from r2mae_singlecell.checks import repeated
from r2mae_singlecell.gene_sets import NAME_COLUMNS

Join = Literal["intersection", "union"]
Duplicates = Literal["refuse", "sum", "first", "unique"]


@dataclass(frozen=True)
class GeneMap:
    """The genes that a store can have."""

    var: pd.DataFrame
    """(genes,) their names in the index, which are unique, and the files' columns."""
    columns: list[np.ndarray]
    """For each file, (its genes,) the position of each, or -1 for those that are left out."""
    left_out: list[dict[str, int]]
    """For each file, reason → its genes that are left out or changed."""
    notes: list[str] = field(default_factory=list)
    """What a user should know, in sentences."""

    @property
    def missing(self) -> np.ndarray:
        """(genes, files) bool: the file lacks the gene."""
        found = np.ones((len(self.var), len(self.columns)), bool)
        for i, columns in enumerate(self.columns):
            found[columns[columns >= 0], i] = False
        return found

    def chosen(self, genes: np.ndarray) -> "GeneMap":
        """Return the map to some of the genes, given by their positions."""
        new = np.full(len(self.var) + 1, -1, np.int32)  # the last for those that are left out already
        new[genes] = np.arange(len(genes))
        return GeneMap(self.var.iloc[genes], [new[columns] for columns in self.columns], self.left_out, self.notes)


def combined_genes(
    files: Sequence[tuple[str, pd.DataFrame]],
    join: Join = "intersection",
    duplicates: Duplicates = "refuse",
    gene_column: str | None = None,
) -> GeneMap:
    """Return the genes that all files have, or that any has, in the order of the first file.

    Args:
        files: name and table of genes of each file.
        join: what is kept of genes that some files lack.
        duplicates: what becomes of genes of one name in a file: an error; the sum of their counts; the first one; or
            names of their own ("-1", "-2", … are appended).
        gene_column: column of `var` that names the genes, where a file has it; None: the names of the rows.

    Raises:
        UserError: a name stands twice and `duplicates` is "refuse", no file has the column, or no gene is in all.
    """
    if gene_column is not None and not any(gene_column in var for _, var in files):
        known = ", ".join(map(str, dict.fromkeys(name for _, var in files for name in var))) or "none"
        raise UserError(f"{files[0][0]}: var has no column {gene_column!r}; its columns: {known}")
    named = [_named(name, var, duplicates, gene_column) for name, var in files]
    tables: list[Any] = [table[~table.index.duplicated()] for table, _ in named]
    names: Any = tables[0].index
    for table in tables[1:]:
        names = names.union(table.index, sort=False) if join == "union" else names[names.isin(table.index)]
    if not len(names):
        examples = "; ".join(
            f"{name} names genes like {', '.join(map(repr, t.index[:2]))}"
            for (name, _), t in zip(files, tables, strict=True)
        )
        raise UserError(f"no gene is in all files: {examples}; --gene_column names a column of var to compare them by")
    left_out, columns = [], []
    for (table, found), whole in zip(named, tables, strict=True):
        positions = names.get_indexer(table.index)
        positions[found.again] = np.where(duplicates == "sum", positions[found.again], -1)
        absent = int((~whole.index.isin(names)).sum())
        left_out.append({**found.counts, "genes that another file lacks": absent} if absent else found.counts)
        columns.append(positions.astype(np.int32))
    var: Any = pd.concat(tables)
    return GeneMap(
        var[~var.index.duplicated()].loc[names].rename_axis(None),
        columns,
        left_out,
        _disagreements(tables, files) if len(files) > 1 else [],
    )


@dataclass(frozen=True)
class _Repeats:
    again: np.ndarray
    """(genes,) bool: a gene of this name came before."""
    counts: dict[str, int]


def _named(file: str, var: pd.DataFrame, duplicates: Duplicates, column: str | None) -> tuple[pd.DataFrame, _Repeats]:
    """Return a table of genes whose index names them, and which names stand there again."""
    from anndata.utils import make_index_unique

    if column is not None and column in var:
        names: Any = var[column].astype(object)
        if names.isna().any():
            raise UserError(f"{file}: {int(names.isna().sum()):,} genes have no name in var column {column!r}")
        var = var.assign(**{"original_index": var.index}).set_axis(pd.Index(names.astype(str).to_numpy()), axis=0)
    again = np.asarray(var.index.duplicated())
    n_again = int(again.sum())
    if not n_again:
        return var, _Repeats(again, {})
    if duplicates == "refuse":
        raise UserError(
            f"{file}: {repeated(var.index)}; say what they are with --duplicates: sum "
            "(add up their counts), first (leave out the others), or unique (genes of their own, by new names)"
        )
    if duplicates == "unique":
        renamed = var.set_axis(make_index_unique(var.index), axis=0)
        return renamed, _Repeats(np.zeros_like(again), {"genes of a repeated name, renamed": n_again})
    done = "added to the first of the name" if duplicates == "sum" else "left out"
    return var, _Repeats(again, {f"genes of a repeated name, {done}": n_again})


def _disagreements(tables: list[Any], files: Sequence[tuple[str, Any]]) -> list[str]:
    """Say which genes have other names in another file; the first file's are kept."""
    notes = []
    for column in NAME_COLUMNS:
        first = tables[0]
        for table, (file, _) in zip(tables[1:], files[1:], strict=True):
            if column not in first or column not in table:
                continue
            both = first.index[first.index.isin(table.index)]
            differ = both[(first.loc[both, column].astype(str) != table.loc[both, column].astype(str)).to_numpy()]
            if len(differ):
                notes.append(
                    f"{len(differ):,} genes have another {column} in {file} than in {files[0][0]}, such as "
                    f"{differ[0]!r}; the first file's is kept"
                )
    return notes
