"""Options of one command that another takes as a dictionary, such as `--pretrain` of `reproduce`."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from r2mae_core import UserError
from r2mae_vision.mae.options import Finetune, Pretrain, Probe

Options = TypeVar("Options", Pretrain, Finetune, Probe)


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
    return kind(**common, **_typed(kind, given, flag))


def _typed(kind: type[Options], given: Mapping[str, Any], flag: str) -> dict[str, Any]:
    """Return options from a dictionary as the command line would read them.

    Raises:
        UserError: a value is of another kind.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    hints = get_type_hints(kind, include_extras=True)
    for name in given:
        parser.add_argument(f"--{name}", type=hints[name])
    try:
        return vars(parser.parse_object(dict(given), defaults=False))
    except ArgumentError as error:
        raise UserError(f"{flag}: {' '.join(str(error).split())}") from None


def as_words(given: Mapping[str, Any]) -> str:
    """Return options as the command line takes them: "--image_size 32 --flip false"."""

    def word(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    return " ".join(f"--{name} {shlex.quote(word(value))}" for name, value in given.items())
