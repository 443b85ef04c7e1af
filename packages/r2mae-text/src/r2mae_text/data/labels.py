"""Labels of a task's rows: classes and scores, read as they are written and never guessed."""

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from r2mae_core import UserError

_WHOLE = re.compile(r"([+-]?)(0|[1-9]\d*)(?:\.0+)?")
_MISSING = {"nan", "<na>", "n/a", "#n/a", "null"}  # what programs write for a cell that has nothing in it
_MANY = 10  # rows from which on a class of its own for most rows is no class


def class_of(value: Any, where: str) -> str | None:
    """Return the name of a row's class, or None where there is none: null, NaN, an empty text.

    A whole number has one name, however it is written: 1, 1.0 and "+1" are "1".

    Raises:
        UserError: the value is no class, such as a list.
    """
    if isinstance(value, Decimal | float):
        if math.isnan(value):
            return None
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    if not isinstance(value, str | int | None):
        raise UserError(f"{where} is {str(value)[:60]!r}, a {type(value).__name__}; a label is one text or number")
    name = "" if value is None else str(value).strip()
    if isinstance(value, str) and name.lower() in _MISSING:
        raise UserError(
            f"{where} is {name!r}: leave the label empty if there is none, else give the class another name"
        )
    if (whole := _WHOLE.fullmatch(name)) is not None:
        return str(int(whole[1] + whole[2]))
    return name or None


def class_names(labels: Iterable[Any], where: str) -> tuple[str, ...]:
    """Return the classes of a task's training rows in their order, numbers by size.

    Args:
        labels: of every row.
        where: the task and split, for messages.

    Raises:
        UserError: there are fewer than two, they are scores, or most rows have one of their own.
    """
    rows = [class_of(value, f"{where}: the label of row {i:,}") for i, value in enumerate(labels, 1)]
    names, n = {name for name in rows if name is not None}, sum(name is not None for name in rows)
    if not names:
        raise UserError(f"{where}: none of {len(rows):,} rows has a label")
    numbers = {name: number for name in names if (number := _number(name)) is not None}
    fractions = [rows.index(name) for name, number in numbers.items() if not number.is_integer()]
    if len(numbers) == len(names) and fractions:
        first = min(fractions)
        raise UserError(
            f"{where}: the label of row {first + 1:,} is {rows[first]}: labels with fractions are scores, not classes; "
            "name the classes by whole numbers or texts"
        )
    if len(names) == 1:
        raise UserError(f"{where}: every row has the label {min(names)!r}; there is nothing to learn")
    if n >= _MANY and len(names) > n / 2:
        raise UserError(
            f"{where}: {len(names):,} classes in {n:,} rows; is the label column a score or a name of rows?"
        )
    return tuple(sorted(names, key=lambda name: (numbers[name] if len(numbers) == len(names) else 0, name)))


def class_number(value: Any, names: Mapping[str, int], where: str, *, by_number: bool) -> int | None:
    """Return the number of a row's class, or None where there is none.

    Args:
        value: of the row.
        names: class → number.
        where: the row, for messages.
        by_number: whether a class may also be given by its number, as on the hub.

    Raises:
        UserError: it is none of the classes.
    """
    name = class_of(value, where)
    if name is None or name in names:
        return None if name is None else names[name]
    if by_number and re.fullmatch(r"\d{1,6}", name) and int(name) < len(names):
        return int(name)
    known = ", ".join(list(names)[:10]) + (", …" if len(names) > 10 else "")
    raise UserError(f"{where} is {name[:60]!r}, which is none of the classes {known}")


def several_names(value: Any, where: str) -> list[str] | None:
    """Return the labels of a row that may have several, or None where nothing is said about it.

    A list holds them one by one; a text has commas between them, and an empty one has none.

    Raises:
        UserError: it is neither, or one of them is empty or is there twice.
    """
    if isinstance(value, str):
        value = value.split(",") if value.strip() else []
    if value is None or isinstance(value, float):
        return None if class_of(value, where) is None else [str(class_of(value, where))]
    names = [class_of(item, where) for item in (value if isinstance(value, list) else [value])]
    known = [name for name in names if name is not None]
    if len(known) < len(names) or len(set(known)) < len(known):
        raise UserError(f"{where} is {str(value)[:60]!r}: a label in it is empty, or is there twice")
    return known


def names_of(rows: Iterable[Any], where: str) -> tuple[str, ...]:
    """Return the labels of rows that have lists of them, in their order, numbers by size.

    Raises:
        UserError: there are fewer than two.
    """
    names = {
        name
        for number, value in enumerate(rows, 1)
        for name in several_names(_once_each(value), f"{where}: the label of row {number:,}") or []
    }
    if len(names) < 2:
        raise UserError(f"{where}: {len(names)} labels in all rows; there is nothing to tell apart")
    numbers = {name: number for name in names if (number := _number(name)) is not None}
    return tuple(sorted(names, key=lambda name: (numbers[name] if len(numbers) == len(names) else 0, name)))


def _once_each(value: Any) -> Any:
    """Return a list with every label once: words may share them."""
    hashable = isinstance(value, list) and all(isinstance(item, str | int | float | None) for item in value)
    return list(dict.fromkeys(item for item in value if item not in (None, ""))) if hashable else value


def score_of(value: Any, where: str) -> float | None:
    """Return a row's score, or None where there is none.

    Raises:
        UserError: it is no finite number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = None if isinstance(value, bool) else _number(value)
    if number is None or not math.isfinite(number):
        raise UserError(f"{where} is {str(value)[:60]}, not a finite number")
    return number


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return None
