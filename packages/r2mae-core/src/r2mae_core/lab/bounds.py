"""What values an option may have: said where the option is declared, checked wherever options come from."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from r2mae_core.lab.errors import UserError


@dataclass(frozen=True)
class Bound:
    """A range, as metadata of a type: `steps: Annotated[int, Bound(1)]`."""

    low: float
    """Least value."""
    high: float = math.inf
    """Greatest value."""
    above: bool = False
    """Leave out `low` itself."""

    def __repr__(self) -> str:
        words = f"{'above' if self.above else 'at least'} {self.low:g}"
        return words if self.high == math.inf else f"{words} and at most {self.high:g}"

    def admits(self, value: float) -> bool:
        """Return whether a number is within."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high


Count = Annotated[int, Bound(1)]
"""A whole number of things, at least one."""
Natural = Annotated[int, Bound(0)]
"""A whole number, zero included."""
Workers = Annotated[int, Bound(0, 1024)]
"""Processes; 0: none besides the command's own."""
Seed = Annotated[int, Bound(0, 2**63 - 1)]
"""A seed of random draws."""
Positive = Annotated[float, Bound(0, above=True)]
"""A number above zero."""
NonNegative = Annotated[float, Bound(0)]
"""A number, zero included."""
Share = Annotated[float, Bound(0, 1)]
"""A part of a whole, from 0 to 1."""

_LARGEST = 2**63 - 1


def check_bounds(config: Any) -> None:
    """Refuse options out of their bounds, numbers that are not finite, integers too large for a machine, and no value.

    Args:
        config: an instance of a dataclass of options.

    Raises:
        UserError: with the option, its value, and what it may be.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        if value is None and field.default is not None and not _admits_none(hints[field.name]):
            raise UserError(f"--{field.name} needs a value, got null")
        for bound, number in _numbers(hints[field.name], value):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{field.name} must be a finite number, got {number}")
            if bound is not None and not bound.admits(number):
                raise UserError(f"--{field.name} must be {bound}, got {_short(number)}")
            if isinstance(number, int) and abs(number) > _LARGEST:
                raise UserError(f"--{field.name} is too large: {_short(number)}")


def _admits_none(hint: Any) -> bool:
    return hint in (None, NoneType, Any) or any(_admits_none(part) for part in get_args(hint) if part is not Ellipsis)


def _short(number: float) -> str:
    text = str(number)
    return text if len(text) <= 30 else f"{text[:20]}… ({len(text)} digits)"


def _numbers(hint: Any, value: Any) -> Iterator[tuple[Bound | None, float]]:
    """Yield every number in an option's value, with the bound that its type gives."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        bound = next((note for note in notes if isinstance(note, Bound)), None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield bound, value
        else:
            yield from _numbers(kind, value)
    elif isinstance(value, list | tuple):
        inner = [part for part in _parts(hint) if part is not Ellipsis]
        for item in value:
            yield from _numbers(inner[0] if inner else None, item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        annotated = [part for part in _parts(hint) if get_origin(part) is Annotated]
        if annotated:
            yield from _numbers(annotated[0], value)
        else:
            yield None, value


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the arguments of a type, through unions."""
    if get_origin(hint) in (tuple, list):
        return get_args(hint)
    found: list[Any] = []
    for part in get_args(hint):
        found += _parts(part) if get_origin(part) in (tuple, list) else [part]
    return tuple(found)
