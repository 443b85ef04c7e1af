"""`prepare --like`: a store with the genes of a model, or of another store, in its order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import UserError
from r2mae_singlecell.data.gene_map import Duplicates, GeneMap
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.genes import INDEX, gene_columns, match_genes


@dataclass(frozen=True)
class Pattern:
    """The genes that a store shall have."""

    path: Path
    var: pd.DataFrame
    """(genes,) their names in the index, and further columns."""


def read_pattern(path: Path) -> Pattern:
    """Return the genes of a run, of an exported model, or of a prepared file.

    Raises:
        UserError: it is none of these, or damaged.
    """
    from r2mae_singlecell.new_cells import is_model, model_folder
    from r2mae_singlecell.weights import read_description

    if is_model(path):
        about = read_description(model_folder(path))
        return Pattern(path, pd.DataFrame(about.gene_columns, index=pd.Index(about.genes)))
    if path.is_dir():
        raise UserError(
            f"{path} is neither a run folder of pretrain, nor a folder that export wrote, nor a prepared file"
        )
    adata = read_prepared(path)
    var = adata.var.copy()
    adata.file.close()
    return Pattern(path, var)


def genes_like(
    pattern: Pattern,
    files: Sequence[tuple[str, pd.DataFrame]],
    duplicates: Duplicates,
    gene_column: str | None,
    min_found: float,
) -> GeneMap:
    """Return where each gene of each file goes among the genes of a pattern; all of these are kept.

    Args:
        pattern: the genes.
        files: name and table of genes of each file.
        duplicates: what becomes of a gene of the pattern that several genes of a file could be: an error, their sum, or
            the first one.
        gene_column: column of `var` to compare, where a file has it; None: the pair of columns that agree most.
        min_found: least share of the pattern's genes that each file must have.

    Raises:
        UserError: a file has too few of the genes, or one of them several times and `duplicates` is "refuse".
    """
    genes, columns = list(map(str, pattern.var.index)), gene_columns(pattern.var)
    places, left_out, notes = [], [], []
    for name, var in files:
        if gene_column is not None and gene_column in var:
            var = pd.DataFrame(index=pd.Index(var[gene_column].astype(object).fillna("").astype(str)))
        answer: Any = "hide" if duplicates == "refuse" else duplicates
        match = match_genes(genes, columns, var, duplicates=answer, min_found=min_found, where=name)
        if match.ambiguous and duplicates == "refuse":
            raise UserError(
                f"{name}: {len(match.ambiguous):,} genes of {pattern.path} are several genes there, such as "
                f"{match.ambiguous[0]!r}; say what they are with --duplicates: sum (add up their counts) or first "
                "(leave out the others)"
            )
        n_missing, n_unused = len(match.missing), int((match.columns < 0).sum())
        counts = {"genes that it lacks, hidden in its cells": n_missing, "genes that --like has not": n_unused}
        if match.ambiguous:
            done = "added up" if duplicates == "sum" else "the first taken"
            counts[f"genes that several of its genes are, {done}"] = len(match.ambiguous)
        places.append(np.asarray(match.columns, np.int32))
        left_out.append({reason: n for reason, n in counts.items() if n})
        by, of = (_said(column) for column in (match.data_column, match.model_column))
        notes.append(f"{name}: {match.n_found:,} of {len(genes):,} genes found, {by} there and {of} of {pattern.path}")
    return GeneMap(pattern.var, places, left_out, notes)


def _said(column: str) -> str:
    return "by the names of the rows" if column == INDEX else f"by the column {column!r}"
