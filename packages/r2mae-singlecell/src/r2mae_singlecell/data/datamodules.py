"""Data modules of scvi-tools in place of AnnData, such as annbatch's: what they say, and what they do not."""

from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS

from r2mae_core import UserError

_OF_SETUP = (
    "layer",
    "batch_key",
    "labels_key",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)
_FIELDS = (
    REGISTRY_KEYS.X_KEY,
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.LABELS_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
)


def as_of_anndata(registry: dict[str, Any]) -> dict[str, Any]:
    """Return the registry that `setup_anndata` makes of the same data, so that the model works with AnnData afterwards.

    Args:
        registry: of a data module, or of AnnData, which is returned as it is.
    """
    if registry.get("setup_method_name") != "setup_datamodule":
        return registry
    arguments, fields = dict(registry.get("setup_args", {})), registry["field_registries"]
    of_tiledb = arguments.get("batch_key") == _TILEDB_BATCH
    if of_tiledb:  # neither column is one of the user's
        arguments |= {"batch_key": "batch", "labels_key": None}
    kept = {name: fields[name] for name in _FIELDS if name in fields}
    kept = {name: field for name, field in kept.items() if field["data_registry"] or field["summary_stats"]}
    labels_key = arguments.get("labels_key")
    if labels_key is None:  # such a module names its one label "Unknown", `setup_anndata` 0
        kept[REGISTRY_KEYS.LABELS_KEY] = _labels(np.array([0]), "_scvi_labels")
    for name in {REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY} & kept.keys():
        state = dict(kept[name]["state_registry"])
        state["categorical_mapping"] = _by_code(state["categorical_mapping"], of_tiledb)
        kept[name] = {**kept[name], "state_registry": state}
    return {
        **registry,
        "setup_method_name": "setup_anndata",
        "setup_args": {name: arguments.get(name) for name in _OF_SETUP},
        "field_registries": kept,
    }


_TILEDB_BATCH = "_scvi_batch"
"""What TileDBDataModule calls the batch, whatever the columns are that it is made of."""


def _by_code(mapping: Any, of_tiledb: bool) -> np.ndarray:
    """Return the names of categories in the order of their codes.

    lamindb's module gives a dict of codes. TileDB's gives the names as they come first in the data, but its codes are
    scikit-learn's, in alphabetical order: taken as they are, batches would have each other's names.
    """
    if mapping is None:
        return np.array([0])
    if isinstance(mapping, dict):
        return np.array(sorted(mapping, key=lambda name: mapping[name]))
    return np.sort(np.asarray(mapping)) if of_tiledb else np.asarray(mapping)


def _labels(names: np.ndarray, key: str) -> dict[str, Any]:
    return {
        "data_registry": {"attr_name": "obs", "attr_key": "_scvi_labels"},
        "state_registry": {"categorical_mapping": names, "original_key": key},
        "summary_stats": {"n_labels": len(names)},
    }


def check_takes(datamodule: Any, datasplitter_kwargs: Any, **asked: Any) -> None:
    """Refuse what a data module would not do, though it was asked for.

    Args:
        datamodule: of scvi-tools.
        datasplitter_kwargs: what the user gave.
        **asked: `batch_size`, `train_size`, `validation_size`; None: not given.

    Raises:
        UserError: it makes batches, or a split, of its own.
    """
    name = type(datamodule).__name__
    splits = hasattr(datamodule, "set_split")
    able = {"batch_size": splits or hasattr(datamodule, "set_batch_size")}
    for option, value in asked.items():
        if value is not None and not able.get(option, splits):
            raise UserError(f"{name} has its own {option}; give it where the data module is made, not to train()")
    if datasplitter_kwargs:
        given = ", ".join(datasplitter_kwargs)
        raise UserError(f"datasplitter_kwargs ({given}) are for AnnData; {name} splits and shuffles by itself")


def check_order(dataloader: Any) -> None:
    """Refuse batches in random order: nobody could say which row of the result is which cell.

    Raises:
        UserError: the loader shuffles.
    """
    loader = getattr(dataloader, "dataloader", dataloader)  # scvi-tools' loaders for inference wrap another
    if getattr(getattr(loader, "dataset", None), "shuffle", False) is True:
        raise UserError(
            "this data loader's data set shuffles, so the rows of the result could not be told; give one that does not "
            "(of TileDB-SOMA: TileDBDataModule(..., shuffle=False, train_size=1.0))"
        )
    for sampler in (getattr(loader, name, None) for name in ("sampler", "batch_sampler")):
        kind = type(sampler).__name__
        if kind.endswith("RandomSampler") or kind == "ClassSampler":
            raise UserError(
                f"this data loader shuffles ({kind}), so the rows of the result could not be told; give one that does "
                "not (of annbatch: setup_annbatch(..., shuffle=False)), or use embed_file, which keeps the names"
            )


def identity(registry: dict[str, Any]) -> str:
    """Return what a data module says of its data: cells, genes and categories; for a training that resumes."""
    fields = registry["field_registries"]
    states = {name: fields[name].get("state_registry", {}) for name in _FIELDS if name in fields}
    return str({name: {key: _plain(value) for key, value in state.items()} for name, state in states.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [str(each) for each in value] if isinstance(value, (list, tuple, np.ndarray)) else str(value)
