"""Checks of the data before a model sees them: what is refused, and what is only warned about."""

import contextlib
import difflib
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell.data.whole import FRACTION, first_wrong, message

logger = logging.getLogger(__name__)


def check_counts(adata: Any, layer: str | None, *, warn: bool = True) -> None:
    """Refuse what is no count, and genes of one name.

    scvi-tools warns of fractional values, if one is among the twenty that it looks at, and trains on logarithms too.
    Here they are refused, as by `prepare`; counts that are whole up to rounding are taken as they are.

    Args:
        adata: the data.
        layer: key of `adata.layers`, or None for `adata.X`. What is not in memory is checked when it is read.
        warn: of cells without counts.

    Raises:
        UserError: the layer is missing, a value is no count, or a gene's name stands twice.
    """
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if layer is not None and layer not in adata.layers.keys():  # noqa: SIM118  a CollectionAdapter's can only this
        known = [key for key in adata.layers if key is not None]
        raise UserError(f"{where} does not exist; layers: {known or 'none'}")
    check_gene_names(adata)
    X = adata.X if layer is None else adata.layers[layer]
    # A CollectionAdapter's layer is sparse by name alone; it is checked while it is read.
    if (sp.issparse(X) or isinstance(X, np.ndarray)) and not hasattr(X, "collection"):
        check_values(X, where, adata.obs_names, adata.var_names)
        if warn:
            _warn_of_empty(X, where)


def check_gene_names(adata: Any) -> None:
    """Refuse genes of one name.

    Raises:
        UserError: with the first.
    """
    if (twice := repeated(adata.var_names)) is not None:
        raise UserError(
            f"{twice} (adata.var_names); adata.var_names_make_unique() makes them genes of their own, "
            "adata[:, ~adata.var_names.duplicated()].copy() leaves out the others, and `r2mae-singlecell prepare "
            "--duplicates sum` adds up their counts"
        )


def check_values(X: Any, where: str, cells: Sequence[str], genes: Sequence[str]) -> None:
    """Refuse what is no count, by the rule of `prepare`: see `data.whole`.

    Args:
        X: cells × genes.
        where: how the message calls them.
        cells: their names.
        genes: their names.

    Raises:
        UserError: a value is missing, negative, infinite or fractional, with its cell and gene.
    """
    if X.dtype.kind not in "biuf":
        raise UserError(f"{where} holds {X.dtype}, not numbers")
    sparse = sp.issparse(X)
    rows = X.shape[0] if sparse else max(1, _AT_ONCE // max(X.shape[1], 1))
    for start in range(0, X.shape[0], max(rows, 1)):
        part = X.data if sparse else np.ascontiguousarray(X[start : start + rows]).reshape(-1)
        position, what = first_wrong(part)
        if not what:
            continue
        if sparse:
            cell, gene = _place_of(X, position)
        else:
            cell, gene = start + position // X.shape[1], position % X.shape[1]
        raise UserError(
            f"{where}, cell {cells[cell]!r}, gene {genes[gene]!r}: {message(what, part[position])}; "
            + remedy(what, where)
        )


def _place_of(X: Any, position: int) -> tuple[int, int]:
    """Return row and column of a stored value; a compressed matrix may be too large to be made another one."""
    if not hasattr(X, "indptr"):
        table = X.tocoo()
        return int(table.row[position]), int(table.col[position])
    across, along = int(np.searchsorted(X.indptr, position, side="right")) - 1, int(X.indices[position])
    return (along, across) if X.format == "csc" else (across, along)


_AT_ONCE = 2**22  # values of a dense matrix, which may have to be copied


def remedy(what: int, where: str = "") -> str:
    """Return what to do about a value that is no count.

    Args:
        what: see `data.whole`.
        where: what can be rounded in memory; "": nothing.
    """
    text = "raw counts are needed, such as a layer of them: setup_anndata(adata, layer=...)"
    if what == FRACTION:
        text += "; if these are counts that a tool estimated (SoupX, STARsolo), "
        text += f"{where} = numpy.rint({where}) or " if where.startswith("adata.") else ""
        text += "`r2mae-singlecell prepare --round` makes them whole"
    return text


def repeated(names: Any) -> str | None:
    """Return how many names stand in an index again, such as which; None: each stands once."""
    again = np.asarray(names.duplicated())
    return f"{int(again.sum()):,} gene names stand twice, such as {str(names[again][0])!r}" if again.any() else None


def _warn_of_empty(X: Any, where: str) -> None:
    n_empty = int((np.asarray(X.sum(axis=1)).ravel() == 0).sum())
    if n_empty:
        warnings.warn(
            f"{n_empty:,} cells of {where} have no counts; their library size is taken as 1 and their embedding is "
            "meaningless. scanpy.pp.filter_cells(adata, min_counts=1) removes them.",
            UserWarning,
            stacklevel=4,
        )
    n_silent = int((np.asarray(X.sum(axis=0)).ravel() == 0).sum())
    if n_silent:
        logger.info("%d genes of %s have no counts in any cell.", n_silent, where)


def check_numbers(least: float, **numbers: float | None) -> None:
    """Refuse arguments below their least value; those that are None are left to their default.

    Raises:
        UserError: with the argument.
    """
    for name, value in numbers.items():
        if value is not None and not value >= least:
            raise UserError(f"{name} must be at least {least:g}, got {value}")


def refuse_unknown(what: str, given: Iterable[str], known: Collection[str], elsewhere: Mapping[str, str]) -> None:
    """Refuse arguments that nothing would heed.

    Args:
        what: the dict that holds them.
        given: their names.
        known: those that are heeded.
        elsewhere: name → why it has no meaning here, and what has.

    Raises:
        UserError: with the first such argument, and the nearest known one.
    """
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1)
        reason = elsewhere.get(name) or (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}")
        raise UserError(f"{what} has {name!r}, which R2MAE does not use: {reason}")


def check_setup_columns(adata: Any, setup: Mapping[str, Any]) -> None:
    """Refuse columns of `obs` that are missing or have gaps, which would train on NaN or on a category of their own.

    A category that is called "nan" or the like is warned of.

    Args:
        adata: the data.
        setup: arguments of `setup_anndata`.

    Raises:
        UserError: with the column, and its first cell without a value.
    """
    if setup.get("labels_key") is not None:  # not used in training: labels may be missing
        _column(adata, setup["labels_key"])
    for name in (setup.get("batch_key"), *(setup.get("categorical_covariate_keys") or ())):
        if name is not None:
            _refuse_gaps(adata, name, _column(adata, name).isna(), "missing values")
            _warn_of_words(adata, name)
    for name in setup.get("continuous_covariate_keys") or ():
        _refuse_gaps(adata, name, ~np.isfinite(_numbers(adata, name)), "missing or infinite values")
    if (name := setup.get("size_factor_key")) is not None:
        sizes = _numbers(adata, name)
        _refuse_gaps(adata, name, ~(np.isfinite(sizes) & (sizes > 0)), "values that are not above 0 or infinite")


_WORDS = ("", "nan", "na", "n/a", "<na>", "none", "null")
"""What stands for a missing value where a column was made text; in lower case."""


def _warn_of_words(adata: Any, name: str) -> None:
    text = _column(adata, name).astype(str)
    words = text[text.str.strip().str.lower().isin(_WORDS)]
    if len(words):
        warnings.warn(
            f"adata.obs[{name!r}] is {words.iloc[0]!r} in {len(words):,} cells, the first of them {words.index[0]!r}: "
            "it is taken for a category like the others; leave the cells out if it stands for a missing value",
            UserWarning,
            stacklevel=4,
        )


def _column(adata: Any, name: str) -> Any:
    if name not in adata.obs:
        raise UserError(f"adata.obs has no column {name!r}; its columns: {', '.join(map(str, adata.obs)) or 'none'}")
    return adata.obs[name]


def _numbers(adata: Any, name: str) -> np.ndarray:
    """Return a column as the network gets it: 1e300 is infinite there, and 1e-300 is 0."""
    try:
        with np.errstate(over="ignore", under="ignore"):
            return _column(adata, name).to_numpy(dtype=float, na_value=np.nan).astype(np.float32)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"adata.obs[{name!r}] is {adata.obs[name].dtype}, not numbers") from None


def _refuse_gaps(adata: Any, name: str, bad: Any, what: str) -> None:
    bad = np.asarray(bad)
    if bad.any():
        first = adata.obs_names[int(np.argmax(bad))]
        raise UserError(
            f"adata.obs[{name!r}] has {int(bad.sum()):,} {what}, the first of them in cell {first!r}; correct them, or "
            "leave the cells out"
        )


@contextlib.contextmanager
def naming_unknown_categories() -> Iterator[None]:
    """Turn scvi-tools' error about a category that a model does not know into a message.

    Raises:
        UserError: a category (such as a batch) was not in the training data.
    """
    try:
        yield
    except ValueError as error:
        if "not found in source registry" not in str(error):
            raise
        raise UserError(
            f"{error} The model does not know this category. R2MAE.load_query_data(adata, model) returns a model "
            "that can learn it; or give the cells a category that it knows."
        ) from None


def check_genes(adata: Any, names: Any, remedy: str = "") -> None:
    """Refuse data whose genes are not the model's, in its order.

    Args:
        adata: the data.
        names: the model's genes.
        remedy: what to do; "": what a user of Python does.

    Raises:
        UserError: genes are missing, surplus or in another order.
    """
    if len(adata.var_names) == len(names) and (np.asarray(adata.var_names) == np.asarray(names)).all():
        return
    missing, surplus = len(set(names) - set(adata.var_names)), len(set(adata.var_names) - set(names))
    what = f"{missing:,} are missing and {surplus:,} are unknown to it" if missing or surplus else "the order differs"
    in_python = "call R2MAE.prepare_query_anndata(adata, model), which sorts them and treats missing genes as hidden"
    raise UserError(f"the genes are not those of the model: {what}; {remedy or in_python}")
