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

logger = logging.getLogger(__name__)


def check_counts(adata: Any, layer: str | None, *, warn: bool = True) -> None:
    """Refuse counts that cannot be counts; scvi-tools itself warns of fractional ones.

    Args:
        adata: the data.
        layer: key of `adata.layers`, or None for `adata.X`. Data in backed mode is not read here: `prepare` checks it.
        warn: of cells without counts.

    Raises:
        UserError: the layer is missing, a count is negative, NaN or infinite, or a gene's name appears twice.
    """
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if layer is not None and layer not in adata.layers.keys():  # noqa: SIM118  a CollectionAdapter's can only this
        known = [key for key in adata.layers if key is not None]
        raise UserError(f"{where} does not exist; layers: {known or 'none'}")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise UserError(
            f"{len(twice)} gene names appear more than once in adata.var_names, such as {twice[0]!r}; "
            "call adata.var_names_make_unique() first"
        )
    X = adata.X if layer is None else adata.layers[layer]
    # A CollectionAdapter's layer is sparse by name alone; it is checked while it is read.
    if (sp.issparse(X) or isinstance(X, np.ndarray)) and not hasattr(X, "collection"):
        check_values(X, where, adata.obs_names, adata.var_names)
        if warn:
            _warn_of_empty(X, where)


def check_values(X: Any, where: str, cells: Sequence[str], genes: Sequence[str]) -> None:
    """Refuse counts that are negative, NaN or infinite.

    Args:
        X: cells × genes.
        where: how the message calls them.
        cells: their names.
        genes: their names.

    Raises:
        UserError: with the first such cell and gene.
    """
    values = X.data if sp.issparse(X) else X
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where} holds {values.dtype}, not numbers")
    if not values.size or (values.min() >= 0 and np.isfinite(values.max())):  # NaN fails the comparison
        return
    table = X.tocoo() if sp.issparse(X) else None
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    cell, gene = (table.row[bad[0]], table.col[bad[0]]) if table is not None else np.unravel_index(bad[0], X.shape)
    value = table.data[bad[0]] if table is not None else X[cell, gene]
    what = "infinite" if value == np.inf else "negative or missing"
    raise UserError(
        f"{where} has {len(bad):,} {what} values, the first of them {value:g} in cell "
        f"{cells[cell]!r}, gene {genes[gene]!r}, so it does not hold counts; give the layer with raw counts "
        "(setup_anndata(adata, layer=...)): scaled or normalised data cannot be used"
    )


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
    for name in setup.get("continuous_covariate_keys") or ():
        _refuse_gaps(adata, name, ~np.isfinite(_numbers(adata, name)), "missing or infinite values")
    if (name := setup.get("size_factor_key")) is not None:
        sizes = _numbers(adata, name)
        _refuse_gaps(adata, name, ~(np.isfinite(sizes) & (sizes > 0)), "values that are not above 0")


def _column(adata: Any, name: str) -> Any:
    if name not in adata.obs:
        raise UserError(f"adata.obs has no column {name!r}; its columns: {', '.join(map(str, adata.obs)) or 'none'}")
    return adata.obs[name]


def _numbers(adata: Any, name: str) -> np.ndarray:
    try:
        return _column(adata, name).to_numpy(dtype=float)
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
