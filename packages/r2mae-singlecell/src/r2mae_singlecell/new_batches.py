"""The covariates of new cells, as codes of a model's; batches that it does not know are never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from r2mae_core import UserError
from r2mae_singlecell.checks import check_setup_columns

MEAN = "mean"


@dataclass(frozen=True)
class Covariates:
    """Of all cells, in the model's terms."""

    codes: np.ndarray
    """(cells,) the batch; -1: the mean of all."""
    n_batches: int
    others: dict[str, Tensor]
    """Key of scvi-tools → (cells, …)."""
    treatment: str
    """What was done about batches, in one sentence."""

    def of(self, cells: slice) -> dict[str, Tensor]:
        """Return those of some cells. Where the mean is among them, the batch is (cells, batches) shares of each."""
        codes = torch.from_numpy(self.codes[cells])
        batch = codes.unsqueeze(1)
        if (codes < 0).any():
            batch = torch.full((len(codes), self.n_batches), 1.0 / self.n_batches)
            batch[codes >= 0] = torch.eye(self.n_batches)[codes[codes >= 0]]
        return {REGISTRY_KEYS.BATCH_KEY: batch, **{key: values[cells] for key, values in self.others.items()}}


def covariates_of(registry: Mapping[str, Any], obs: Any, batch: str | None, column: str | None) -> Covariates:
    """Return the covariates that a model needs, from a table of cells.

    Args:
        registry: scvi-tools' description of the model's data.
        obs: the cells.
        batch: for cells whose batch the model does not know, or that have none: one that it knows, or "mean", in which
            each of its batches has the same share. None: refuse them.
        column: of the batch; None: the one with the name that it had in training.

    Raises:
        UserError: a batch or another category is unknown, a column is missing or has gaps, or `batch` says nothing that
            the model knows.
    """
    setup, fields = registry["setup_args"], registry["field_registries"]
    known = known_batches(registry)
    codes, treatment = _codes_of_batches(setup.get("batch_key"), known, obs, batch, column)
    others: dict[str, Tensor] = {}
    check_setup_columns(_Cells(obs), {**setup, "batch_key": None, "labels_key": None})
    if names := setup.get("categorical_covariate_keys"):
        mappings = fields[REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]["mappings"]
        columns = [_known_codes(obs[name], mappings[name], name) for name in names]
        others[REGISTRY_KEYS.CAT_COVS_KEY] = torch.from_numpy(np.stack(columns, axis=1))
    if names := setup.get("continuous_covariate_keys"):
        values = np.array(obs[list(names)], dtype=np.float32, order="C")  # a copy: pandas may give what is not writable
        others[REGISTRY_KEYS.CONT_COVS_KEY] = torch.from_numpy(values)
    if name := setup.get("size_factor_key"):
        others[REGISTRY_KEYS.SIZE_FACTOR_KEY] = torch.from_numpy(np.array(obs[[name]], dtype=np.float32))
    return Covariates(codes, len(known), others, treatment)


def known_batches(registry: Mapping[str, Any]) -> list[str]:
    """Return the names of a model's batches, in the order of their codes."""
    state = registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
    return list(map(str, state["categorical_mapping"]))


class _Cells:
    """Tables as the checks of AnnData take them."""

    def __init__(self, obs: Any) -> None:
        self.obs, self.obs_names = obs, obs.index


def _codes_of_batches(
    key: str | None, known: list[str], obs: Any, batch: str | None, column: str | None
) -> tuple[np.ndarray, str]:
    """Return the code of each cell's batch, -1 for the mean, and what was done."""
    _check_options(key, known, obs, batch, column)
    if key is None:
        return np.zeros(len(obs), dtype=np.int64), "the model knows no batches"
    name = column or key
    if name not in obs and batch is None:
        raise UserError(
            f"the data have no column {name!r}, by which the model knows its batches ({_list(known)}); name the column "
            f"with --batch_column, or take --batch {MEAN} or --batch NAME for all cells"
        )
    codes = batch_codes(obs[name], known) if name in obs else np.full(len(obs), -1)
    unknown = codes < 0
    if not unknown.any():
        return codes, f"batches by the column {name!r}, all known to the model"
    if batch is None:
        there = sorted(set(obs[name][unknown].dropna().astype(str)))
        what = _list(there) if there else "cells without a batch"
        raise UserError(
            f"{unknown.sum():,} cells are of batches new to the model, by the column {name!r}: {what}; "
            f"it knows {_list(known)}. Take --batch {MEAN} or --batch NAME for them; R2MAE.load_query_data learns them"
        )
    who = f"{unknown.sum():,} cells of batches that the model does not know are taken as of"
    if batch == MEAN:
        return codes, f"{who} the mean of its {len(known):,} batches"
    return np.where(unknown, known.index(batch), codes), f"{who} {batch!r}"


def _check_options(key: str | None, known: list[str], obs: Any, batch: str | None, column: str | None) -> None:
    if key is None:
        for option, value in (("--batch", batch), ("--batch_column", column)):
            if value is not None:
                raise UserError(f"{option} {value}: the model was trained without batches; leave it out")
    elif column is not None and column not in obs:
        raise UserError(f"obs has no column {column!r}; its columns: {', '.join(map(str, obs)) or 'none'}")
    elif batch is not None and batch != MEAN and batch not in known:
        raise UserError(f"--batch {batch}: the model knows {_list(known)}, and {MEAN!r} for their mean")
    elif batch == MEAN and MEAN in known:
        raise UserError(f"--batch {MEAN} is a batch of the model and the mean of all; name another batch")


def batch_codes(values: Any, known: list[str]) -> np.ndarray:
    """Return the position of each value among known ones, as text, or -1; (cells,) int64."""
    category = values.astype("category")
    code = {name: i for i, name in enumerate(known)}
    of_category = np.array([*(code.get(str(name), -1) for name in category.cat.categories), -1], dtype=np.int64)
    return of_category[category.cat.codes.to_numpy()]  # -1, a missing one, is the last


def _known_codes(values: Any, mapping: Any, name: str) -> np.ndarray:
    known = [str(value) for value in mapping]
    codes = batch_codes(values, known)
    if (codes < 0).any():
        raise UserError(
            f"{str(values[codes < 0].iloc[0])!r} of the column {name!r} was not in the model's training data, which "
            f"had {_list(known)}"
        )
    return codes


def _list(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more
