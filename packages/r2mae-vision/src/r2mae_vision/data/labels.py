"""Labels from a column of a table: their classes and numbers; and which image of a set each row of a table means."""

import csv
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from r2mae_core import UserError, reading
from r2mae_vision.data.multilabel import many_hot, of_columns, separated
from r2mae_vision.data.ranges import say_once

TABLES = (".csv", ".tsv", ".parquet")
IMAGE_COLUMNS = ("image", "images", "img", "file", "filename", "file_name", "path", "filepath", "file_path",
                 "image_path", "image_id", "image_name", "img_path")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "partition", "subset", "fold")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table the user named; None: found by their types and usual names."""

    image: str | None = None
    label: str | None = None
    split: str | None = None
    config: str | None = None
    """Configuration of a set on the Hugging Face hub."""
    separator: str | None = None
    """Between the classes of an image in the column of labels; None: an image has one class."""
    several: tuple[str, ...] | None = None
    """Columns of 0 and 1, one for each class."""

    @property
    def named(self) -> dict[str, str]:
        """Option → its value, of those that are stated."""
        stated = {f"{name}_column": getattr(self, name) for name in ("image", "label", "split")}
        stated |= {"config_name": self.config, "label_separator": self.separator}
        stated["label_columns"] = None if self.several is None else ",".join(self.several)
        return {name: value for name, value in stated.items() if value is not None}


class Labels(NamedTuple):
    """The labels of some images."""

    numbers: np.ndarray
    """(N,) int64, -1: none; or, where an image may have several classes, (N, C); see `multilabel`."""
    classes: tuple[str, ...]


def numbered(
    values: Sequence[Any], what: str, classes: Sequence[str] | None = None, separator: str | None = None
) -> Labels:
    """Return labels as numbers. Empty text, null and NaN are no label.

    Args:
        values: text, whole numbers or truth values; with `classes` also their numbers (-1: none). Or lists of these,
            the classes of an image.
        what: table and column, for messages.
        classes: their names in order, where the table states them; else they are sorted, numbers by size.
        separator: between the classes of an image in text; None: it has one.

    Raises:
        UserError: a label is a fraction, a list or something else that is no class, or no number of a class.
    """
    if separator is not None and not any(_is_list(value) for value in values):
        values = separated(values, separator)
    if any(_is_list(value) for value in values):
        return _of_lists(values, what, classes)
    plain = [_plain(value, what, row) for row, value in enumerate(values)]
    if classes is not None:
        wrong = next((one for one in plain if one is not None and not -1 <= _index(one) < len(classes)), None)
        if wrong is not None:
            raise UserError(f"{what} has the label {wrong[:40]!r}, which is none of the {len(classes)} classes")
        return Labels(np.array([-1 if one is None else _index(one) for one in plain], np.int64), tuple(classes))
    names = _in_order({one for one in plain if one is not None})
    _say_slips(names, what)
    if joined := combinations(names):
        say_once(
            f"{what}: {len(joined)} of {len(names)} classes look like several labels of one image, such as "
            f"{joined[0]!r}: each combination is a class of its own; with --label_separator an image has several"
        )
    number = {name: i for i, name in enumerate(names)}
    return Labels(np.array([-1 if one is None else number[one] for one in plain], np.int64), names)


def _of_lists(values: Sequence[Any], what: str, classes: Sequence[str] | None) -> Labels:
    """Return labels of lists of classes, null: no label."""
    lists: list[list[str] | None] = []
    for row, value in enumerate(values):
        if not _is_list(value) and _plain(value, what, row) is not None:
            raise UserError(f"{what} holds {str(value)[:40]!r} (row {row + 1}) among lists of classes")
        plain = [_plain(one, what, row) for one in value] if _is_list(value) else None
        lists.append(None if plain is None else [one for one in plain if one is not None])
    found = {one for some in lists for one in some or ()}
    if classes is not None:
        if wrong := sorted(one for one in found if not 0 <= _index(one) < len(classes)):
            raise UserError(f"{what} has the label {wrong[0][:40]!r}, which is none of the {len(classes)} classes")
        numbers = [None if some is None else [_index(one) for one in some] for some in lists]
        return Labels(many_hot(numbers, len(classes)), tuple(classes))
    number = {name: i for i, name in enumerate(_in_order(found))}
    _say_slips(number, what)
    return Labels(many_hot([None if s is None else [number[one] for one in s] for s in lists], len(number)), (*number,))


def _say_slips(names: Collection[str], what: str) -> None:
    """Say which classes differ in nothing but case or how they are written, and which may stand for no label."""
    if empty := sorted(name for name in names if name.casefold() in ("nan", "none", "null", "na", "n/a", "<na>")):
        say_once(f"{what}: {', '.join(empty)} is taken for a class; leave the cell empty where there is no label")
    alike: dict[Any, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(_number(name) or unicodedata.normalize("NFC", name).casefold(), []).append(name)
    if some := [" and ".join(map(repr, one)) for one in alike.values() if len(one) > 1]:
        say_once(
            f"{what}: classes that differ in case or in how a letter or a number is written, and are two: "
            f"{', '.join(some[:5])}"
        )


def _in_order(names: Collection[str]) -> tuple[str, ...]:
    # 1 and 01 are two names of one number: without the second key their order would be that of a set, by chance.
    return tuple(sorted(names, key=lambda name: (int(name), name)) if all(map(_is_whole, names)) else sorted(names))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def combinations(names: Sequence[str]) -> list[str]:
    """Return the classes that are written as several, all of which also stand alone or in other combinations."""
    parts = {
        name: [part.strip() for part in name.split(separator) if part.strip()]
        for separator in ",;|"
        for name in names
        if separator in name
    }
    common = Counter(part for some in parts.values() for part in set(some))
    alone = set(names) - set(parts)
    return [
        name
        for name, some in parts.items()
        if len(some) > 1 and all(part in alone or common[part] > 1 for part in some)
    ]


def _plain(value: Any, what: str, row: int) -> str | None:
    """Return a label as text; None for no label."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)  # a column of numbers with holes is one of floats
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, str | int | np.integer):
        text = " ".join(str(value).split())
        if text and "." in text and not _is_whole(text) and _is_fraction(text):
            raise UserError(f"{what} holds {text} (row {row + 1}): fractions are no classes; name another column")
        return text or None
    raise UserError(f"{what} holds {str(value)[:40]!r} (row {row + 1}), which is no class; name another column")


def _is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except ValueError:
        return False


def _number(text: str) -> tuple[float] | None:
    """Return the number that a text is, so that 1, 01 and 1.0 are seen to be alike; None: it is none."""
    return (float(text),) if text.isascii() and text.removeprefix("-").replace(".", "", 1).isdecimal() else None


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _index(text: str) -> int:
    return int(text) if _is_whole(text) else -2


def read_table(file: Path) -> dict[str, list[Any]]:
    """Return the columns of a .csv, .tsv or .parquet; those of the first two hold text.

    Raises:
        UserError: it is empty or damaged, or pyarrow is not installed.
    """
    if file.suffix.lower() == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise UserError(f"{file} needs pyarrow: pip install 'r2mae-vision[hub]'") from None
        with reading(file, "a parquet table"):
            return parquet.read_table(file).to_pydict()
    with reading(file, "a table as CSV"), file.open(encoding="utf-8-sig", newline="") as text:
        rows = list(
            csv.reader(
                text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True, skipinitialspace=True
            )
        )
    rows = [(number, row) for number, row in enumerate(rows, 1) if row]
    if len(rows) < 2:
        raise UserError(f"{file} has no rows")
    header = [name.strip() for name in rows[0][1]]
    if len(header) == 1 and (other := next((mark for mark in ";\t|," if mark in header[0]), None)):
        wanted = "tabs" if file.suffix.lower() == ".tsv" else "commas"
        raise UserError(f"{file}: its first row is one field, with {other!r} in it; put {wanted} between fields")
    if twice := [name for name, n in Counter(header).items() if n > 1]:
        raise UserError(f"{file} has two columns {twice[0]!r}; rename one")
    if odd := next(((number, row) for number, row in rows[1:] if len(row) != len(header)), None):
        raise UserError(f"{file}: row {odd[0]} has {len(odd[1])} fields, the first has {len(header)}")
    return {name: [row[i].strip() for _, row in rows[1:]] for i, name in enumerate(header)}


def chosen(named: str | None, columns: Iterable[str], usual: Sequence[str], flag: str, what: str) -> str | None:
    """Return a column: the one named, or the only one with a usual name; None where there is none.

    Raises:
        UserError: the one named is not there, or several have usual names.
    """
    columns = list(columns)
    if named is not None:
        if named not in columns:
            raise UserError(f"{what} has no column {named!r}; it has {', '.join(map(str, columns[:20]))}")
        return named
    found = [name for name in columns if str(name).lower() in usual]
    if len(found) > 1:
        raise UserError(f"{what} has columns {' and '.join(found)}; choose one with --{flag}")
    return found[0] if found else None


def image_column(named: str | None, columns: Iterable[str], what: str) -> str:
    """Return the column that names the images, or holds them.

    Raises:
        UserError: there is none.
    """
    found = chosen(named, columns := list(columns), IMAGE_COLUMNS, "image_column", what)
    if found is None:
        shown = ", ".join(map(str, columns[:20]))
        raise UserError(f"{what}: which column is the image? It has {shown}; choose one with --image_column")
    return found


class Match(NamedTuple):
    """Which row of a table is about which image."""

    rows: list[int | None]
    """A row for each image, in the images' order; None: the table does not name it."""
    n_lost: int
    """Rows whose image is not there."""


def match(names: Sequence[str], wanted: Sequence[str], what: str) -> Match:
    """Find the images that a table names: by path, by the path's end, or by it without suffix.

    Args:
        names: of the images, with slashes.
        wanted: what the table calls them.
        what: the table, for messages.

    Raises:
        UserError: two rows name one image, a row may mean two, or none is found.
    """
    asked = [posixpath.normpath(str(name).replace("\\", "/")) for name in wanted]
    found: dict[str, int] = {}
    depth = max((name.count("/") for name in asked), default=0)
    ends: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        for k in range(1, min(len(parts), depth + 1) + 1):
            end = "/".join(parts[-k:])
            ends.setdefault(end, []).append(name)
            ends.setdefault(posixpath.splitext(end)[0], []).append(name)
    whole = set(names)
    n_lost = 0
    for row, name in enumerate(asked):
        there = [name] if name in whole else ends.get(name, [])
        if len(there) > 1:
            raise UserError(f"{what}: {name} (row {row + 1}) may be {there[0]} or {there[1]}; write the whole path")
        if not there:
            n_lost += 1
            continue
        if there[0] in found:
            raise UserError(f"{what} names {there[0]} in rows {found[there[0]] + 1} and {row + 1}; leave out one")
        found[there[0]] = row
    if not found:
        raise UserError(f"{what} names none of the {len(names):,} images: {asked[0]} is not there, but {names[0]} is")
    return Match([found.get(name) for name in names], n_lost)


def labels_in(table: Mapping[str, Sequence[Any]], columns: Columns, what: str) -> Labels | None:
    """Return the labels that a table states; None where it has none.

    Raises:
        UserError: a column is not there, several may be meant, or one holds no classes.
    """
    if columns.several is not None:
        return Labels(of_columns(table, columns.several, what), columns.several)
    name = chosen(columns.label, table, LABEL_COLUMNS, "label_column", what)
    if name is None and columns.separator is not None:
        raise UserError(f"{what}: which column has the labels? Choose one with --label_column")
    return None if name is None else numbered(table[name], what, separator=columns.separator)
