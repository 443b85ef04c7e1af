"""Labels of several classes per image: from lists, from text with a separator, from columns of 0 and 1.

Where an image may have several classes, the labels of a set are (N, C) int8 of 1 and 0 instead of numbers (N,) of
classes; a row of -1 is an image without a label. An image of no class at all is a row of zeros.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2mae_core import UserError

JOIN = "|"
"""Between the classes of an image in tables that are written."""
_CELLS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}


def is_multi(labels: Any) -> bool:
    """Return whether images of a set (array or tensor of labels) may have several classes."""
    return labels.ndim == 2


def label_at(labels: np.ndarray, index: int) -> Any:
    """Return the label of an image: the number of its class, or a row of `labels`."""
    return labels[index] if is_multi(labels) else int(labels[index])


def unlabelled(labels: np.ndarray) -> np.ndarray:
    """Return which images have no label, (N,) bool."""
    return np.any(labels < 0, axis=1) if is_multi(labels) else np.less(labels, 0)


def classes_with_images(labels: np.ndarray) -> set[int]:
    """Return the numbers of the classes that some image has."""
    return set(np.flatnonzero((labels == 1).any(axis=0)).tolist() if is_multi(labels) else labels[labels >= 0].tolist())


def written(label: Any, classes: Sequence[str]) -> str:
    """Return an image's label as a table has it: its class, or its classes with `JOIN` between; empty: none."""
    if np.ndim(label) == 0:
        return classes[int(label)] if label >= 0 else ""
    return JOIN.join(name for name, has in zip(classes, np.asarray(label) == 1, strict=True) if has)


def separated(values: Sequence[Any], separator: str) -> list[list[str] | None]:
    """Return text as lists of classes; an empty cell is no label."""
    cells = ["" if value is None or value != value else str(value).strip() for value in values]  # NaN is not itself
    return [[part.strip() for part in cell.split(separator) if part.strip()] if cell else None for cell in cells]


def many_hot(lists: Sequence[Sequence[int] | None], n_classes: int) -> np.ndarray:
    """Return labels (N, C) int8 of lists of the numbers of classes; None: no label."""
    hot = np.zeros((len(lists), n_classes), np.int8)
    for row, numbers in enumerate(lists):
        hot[row, [] if numbers is None else list(numbers)] = 1
        if numbers is None:
            hot[row] = -1
    return hot


def of_columns(table: Mapping[str, Sequence[Any]], names: Sequence[str], what: str) -> np.ndarray:
    """Return labels (N, C) int8 of a table with a column of 0 and 1 for each class.

    A row whose cells are all empty has no label.

    Raises:
        UserError: a column is not there, or a cell holds something else.
    """
    if missing := [name for name in names if name not in table]:
        raise UserError(f"{what} has no column {missing[0]!r}; it has {', '.join(map(str, list(table)[:20]))}")
    columns = [[_cell(value) for value in table[name]] for name in names]
    hot = np.array(columns, np.int64).T
    for row, cells in enumerate(hot):
        odd = np.flatnonzero(cells == _ODD)
        if len(odd) or 0 < (cells < 0).sum() < len(cells):
            at = odd[0] if len(odd) else np.flatnonzero(cells < 0)[0]
            held = str(table[names[int(at)]][row])[:30]
            raise UserError(
                f"{what}: column {names[int(at)]} holds {held!r} (row {row + 1}), where 0 or 1 is needed; only a row "
                "whose cells are all empty has no label"
            )
    return hot.astype(np.int8)


_ODD = -2


def _cell(value: Any) -> int:
    if value is None or value != value or (text := str(value).strip().lower()) == "":
        return -1
    return _CELLS.get(text, _ODD)
