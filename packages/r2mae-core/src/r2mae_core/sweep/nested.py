"""Options of one command that another takes as a dictionary, such as `--pretrain` of `sweep`."""

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.parser_errors import one_line


def typed_options(kind: type[Any], given: Mapping[str, Any], flag: str, known: Collection[str]) -> dict[str, Any]:
    """Return options that a user wrote as a dictionary, as the command line would read them.

    Args:
        kind: the options that they are of.
        given: name → value.
        flag: what they are called, such as "pretrain".
        known: those that may be given.

    Raises:
        UserError: one may not, or is of another kind.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser, hints = ArgumentParser(exit_on_error=False), get_type_hints(kind, include_extras=True)
    for name in given:
        if name not in known:
            decided = " (the sweep decides it)" if name in hints else ""
            raise UserError(f"--{flag} takes no {name}{decided}; it takes {', '.join(sorted(known))}")
        parser.add_argument(f"--{name}", type=hints[name])
    try:
        return vars(parser.parse_object(dict(given), defaults=False))
    except ArgumentError as error:
        raise UserError(f"--{flag}: {one_line(str(error))}") from None


def options_as_words(given: Mapping[str, Any]) -> str:
    """Return options as the command line takes them: "--image_size 32 --flip false"."""

    def word(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    return " ".join(f"--{name} {shlex.quote(word(value))}" for name, value in given.items())
