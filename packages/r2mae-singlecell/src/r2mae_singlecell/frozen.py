"""What scArches freezes in a model that is mapped to a query, kept as plain data so that a saved query stays frozen."""

import inspect
import logging
from typing import Any

from scvi.model.base import ArchesMixin
from scvi.model.base._archesmixin import _set_params_online_update

logger = logging.getLogger(__name__)
_NAMES = [name for name in inspect.signature(_set_params_online_update).parameters if name != "module"]
_DEFAULTS = {name: inspect.signature(ArchesMixin.load_query_data).parameters[name].default for name in _NAMES}


def freezing(arguments: dict[str, Any]) -> dict[str, bool]:
    """Return the options of what is frozen among the arguments of `load_query_data`, with scvi-tools' defaults."""
    return {name: bool(arguments.get(name, default)) for name, default in _DEFAULTS.items()}


def freeze_again(model: Any) -> None:
    """Freeze a query's network as `load_query_data` did: weights that are read back are all free.

    Args:
        model: after `load` or `from_export`; nothing is done to one that is no query.
    """
    if not model.is_query_:
        return
    if model.query_options_ is None:
        logger.warning("This query was saved by an older version: scvi-tools' defaults of what is frozen are taken.")
        model.query_options_ = freezing({})
    known = {name: value for name, value in model.query_options_.items() if name in _NAMES}
    _set_params_online_update(model.module, **{**_DEFAULTS, **known})
