"""How `--help` names what an option takes: words that a person reads, not Python's types."""

from argparse import Action
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import jsonargparse

_LARGEST = 1e15
"""A bound from here on says nothing to a person."""
_NAMES: dict[Any, str] = {
    NoneType: "null", bool: "true | false", int: "whole number", float: "number", str: "text", Path: "path",
    Any: "anything", dict: "mapping",
}  # fmt: skip


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """jsonargparse's help, with `kind_of` in the place of types."""

    def _get_type_str(self, action: Action) -> str | None:
        hint = getattr(action, "_typehint", None) or action.type
        return super()._get_type_str(action) if hint is None else kind_of(hint)


def kind_of(hint: Any) -> str:
    """Return what values a type has, in words: "whole number at least 1 | null", "list of path", "a | b".

    Args:
        hint: an option's type; of literals the values are given, of `Annotated` the bounds.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *notes = parts
        bounds = [words for note in notes if (words := _without_largest(str(note)))]
        return " ".join([kind_of(kind), *bounds])
    if origin in (Union, UnionType):
        return " | ".join(kind_of(part) for part in parts)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (list, tuple) and (origin is list or parts[-1] is Ellipsis):
        inner = kind_of(parts[0])
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if origin is tuple:
        return f"[{', '.join(map(kind_of, parts))}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _NAMES[dict]
    return _NAMES.get(hint) or getattr(hint, "__name__", str(hint))


def _without_largest(bound: str) -> str:
    words, _, high = bound.rpartition(" and at most ")
    return words if words and float(high) >= _LARGEST else bound
