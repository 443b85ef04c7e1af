"""Options of one command that another takes as a dictionary, such as `--pretrain` of `reproduce`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from r2mae_core import UserError, typed_options
from r2mae_vision.data.options import DataColumns
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.options import Finetune, Pretrain

Options = TypeVar("Options", Pretrain, Finetune, Probe)


def columns_of(config: DataColumns) -> dict[str, Any]:
    """Return the options that say which columns of a table are which, as far as they are given."""
    given = {field.name: getattr(config, field.name) for field in fields(DataColumns)}
    return {name: value for name, value in given.items() if value is not None}


def nested_options(kind: type[Options], given: Mapping[str, Any], common: Mapping[str, Any], by: str) -> Options:
    """Return a command's options from a dictionary that the user wrote.

    Args:
        kind: the command's options.
        given: what the user wrote.
        common: what the command around it decides.
        by: what that is called in messages.

    Raises:
        UserError: a key is unknown or decided already, or a value is of another kind.
    """
    flag, known = f"--{kind.__name__.lower()}", {field.name for field in fields(kind)}
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"{flag} has no option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if clash := [key for key in given if key in common]:
        raise UserError(f"{flag} {', '.join(clash)} is set by the {by}; leave it out")
    return kind(**common, **typed_options(kind, given, flag.removeprefix("--"), known))
