"""A model's genes found in a table of genes, by name or by Ensembl id."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from r2mae_core import UserError
from r2mae_singlecell.gene_sets import NAME_COLUMNS

Duplicates = Literal["hide", "first", "sum"]
"""What becomes of a gene of the model that several genes of the data could be."""
INDEX = "index"
COLUMNS = frozenset(
    {
        *NAME_COLUMNS, "accession", "ensembl", "ensembl_gene_id", "ensembl_id", "ensembl_ids", "feature_id", "features",
        "gene", "gene_short_name", "gene_symbol", "genes", "hgnc_symbol", "symbol", "symbols",
    }
)  # fmt: skip
"""Columns of `var` in which genes have names or ids, in lower case."""
_VERSION = re.compile(r"^(ENS[A-Z]*G\d+)\.\d+$")


@dataclass(frozen=True)
class GeneMatch:
    """Which gene of the data is which of the model's."""

    columns: np.ndarray
    """(genes of the data,) the position among the model's, or -1."""
    missing: np.ndarray
    """Positions of the model's genes that are hidden: the data lack them, or have several of that name."""
    ambiguous: tuple[str, ...]
    """The model's genes that several genes of the data could be."""
    data_column: str
    """Column of the data's `var` by which they were found."""
    model_column: str
    """Column of the model's genes to which it was compared."""
    duplicates: Duplicates

    @property
    def n_found(self) -> int:
        """Genes of the model that the data have."""
        return len(np.unique(self.columns[self.columns >= 0]))

    def describe(self) -> str:
        """Return what was found and by which columns, in one sentence."""
        n_genes, n_unused = self.n_found + len(self.missing), int((self.columns < 0).sum())
        text = f"{self.n_found:,} of the model's {n_genes:,} genes found by {_said(self.data_column)} of the data "
        text += f"and {_said(self.model_column)} of the model, {len(self.missing):,} hidden"
        if self.ambiguous:
            done = {"hide": "hidden", "first": "taken from the first", "sum": "added up"}[self.duplicates]
            text += f", {len(self.ambiguous):,} of several genes of that name {done} (such as {self.ambiguous[0]})"
        return text + f", {n_unused:,} genes of the data not used"


def gene_columns(var: Any) -> dict[str, list[str]]:
    """Return the columns of a table of genes that name them, as text; what a model keeps of its training data."""
    return {str(name): _texts(var[name]) for name in var.columns if str(name).lower() in COLUMNS}


def kept_gene_columns(model: Any) -> dict[str, list[str]]:
    """Return the columns that name a model's genes: of its data, or kept from those that it was trained on."""
    kept = getattr(model, "gene_columns_", None) or {}
    return kept if model.adata is None else {**kept, **gene_columns(model.adata.var)}


def match_genes(
    genes: list[str],
    columns: Mapping[str, list[str]],
    var: Any,
    *,
    duplicates: Duplicates = "hide",
    min_found: float = 0.5,
    where: str = "the data",
) -> GeneMatch:
    """Find a model's genes in a table, by the pair of columns in which most of them agree.

    Names must agree in every letter; the version of an Ensembl id (`.12`) does not count.

    Args:
        genes: the model's, by its index.
        columns: further columns that name them.
        var: the data's table of genes.
        duplicates: a gene that several genes of the data could be is hidden, taken from the first, or their sum.
        min_found: least share of the model's genes.
        where: how the message calls the data.

    Raises:
        UserError: fewer are found.
    """
    ours = {INDEX: genes, **columns}
    theirs = {INDEX: _texts(var.index), **gene_columns(var)}
    best: tuple[int, str, str] = (-1, INDEX, INDEX)
    for mine, names in ours.items():
        wanted = set(_unversioned(names)) - {""}
        for column, there in theirs.items():
            n = len(wanted & set(_unversioned(there)))
            best = max(best, (n, column, mine), key=lambda found: found[0])  # the first of equals: the index
    n, column, mine = best
    if n < max(min_found * len(genes), 1):
        raise UserError(_too_few(n, ours, theirs, min_found, where))
    return _matched(_unversioned(ours[mine]), _unversioned(theirs[column]), genes, (column, mine), duplicates)


def _matched(
    ours: list[str], theirs: list[str], genes: list[str], named: tuple[str, str], duplicates: Duplicates
) -> GeneMatch:
    positions: dict[str, int] = {}
    repeated = set()
    for i, name in enumerate(ours):
        if positions.setdefault(name, i) != i:
            repeated.add(name)
    known = {name: i for name, i in positions.items() if name and name not in repeated}
    columns = np.array([known.get(name, -1) for name in theirs], dtype=np.int32)
    n_there = np.bincount(columns[columns >= 0], minlength=len(ours))
    several = np.flatnonzero(n_there > 1)
    if duplicates != "sum" and len(several):
        first = np.zeros(len(columns), dtype=bool)
        first[np.unique(columns, return_index=True)[1]] = duplicates == "first"
        columns = np.where(np.isin(columns, several) & ~first, -1, columns)
    missing = np.setdiff1d(np.arange(len(ours)), columns)
    return GeneMatch(columns, missing, tuple(genes[i] for i in several), *named, duplicates)


def _too_few(n: int, ours: Mapping[str, list[str]], theirs: Mapping[str, list[str]], least: float, where: str) -> str:
    n_genes = len(ours[INDEX])
    text = f"{where} has {n:,} of the {n_genes:,} genes of the model ({n / max(n_genes, 1):.0%}); at least {least:.0%} "
    text += "are needed (--min_genes_found). The model names genes like "
    text += f"{_examples(ours)}, the data like {_examples(theirs)}"
    mine = {name.upper() for names in ours.values() for name in _unversioned(names)} - {""}
    close = max(len(mine & {name.upper() for name in _unversioned(names)}) for names in theirs.values())
    if close > 2 * n and close >= 0.1 * n_genes:
        text += f". {close:,} would agree but for upper and lower case: are they genes of another species?"
    return text


def _examples(columns: Mapping[str, list[str]]) -> str:
    shown = dict.fromkeys(repr(names[0]) for names in columns.values() if names)
    return ", ".join(shown) or "none"


def _texts(values: Any) -> list[str]:
    """Return names as text; missing ones are empty."""
    return ["" if pd.isna(value) else str(value).strip() for value in values]


def _unversioned(names: list[str]) -> list[str]:
    return [_VERSION.sub(r"\1", name) if name.startswith("ENS") else name for name in names]


def _said(column: str) -> str:
    return "the names of the rows" if column == INDEX else f"the column {column!r}"
