"""Images that a table names: a .csv or .tsv of paths, or a folder or archive whose labels stand in a table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, fingerprint
from r2mae_vision.data.image_files import ImageFiles, PathReader, TreeReader, printable
from r2mae_vision.data.labels import SPLIT_COLUMNS, Columns, chosen, image_column, labels_in, match, read_table
from r2mae_vision.data.parts import TRAIN_NAMES, VAL_NAMES
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.trees import Tree


def open_table(file: Path, split: str, columns: Columns) -> ImageFiles | None:
    """Open a part of the images that a .csv or .tsv names by their paths; None where it has no such part.

    Raises:
        UserError: a column is not there, or an image stands in it twice.
    """
    table, what = read_table(file), str(file)
    names = [str(name) for name in table[image_column(columns.image, table, what)]]
    if empty := [row for row, name in enumerate(names, 1) if not name]:
        raise UserError(f"{what}: row {empty[0]} names no image ({len(empty)} in all)")
    refuse_twice(file.parent, names, what)
    numbers, classes = labels_in(table, columns, what) or (np.full(len(names), -1), ())
    whole = ImageFiles(printable(file.stem), PathReader(file.parent, names), classes, numbers, named=fingerprint(file))
    return part_of(whole, parts_in(table, columns, what), split, what)


def refuse_twice(home: Path, names: Sequence[str], what: str) -> None:
    """Refuse a table that names a file in two rows, however it is written: it could be trained on and held out.

    Raises:
        UserError: the first is named, with its rows.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        place = os.path.normpath(home / name.replace("\\", "/"))
        if place in rows:
            other = names[rows[place]]
            shown = f"{name} twice" if other == name else f"one image as {other} and as {name}"
            raise UserError(f"{what} names {shown} (rows {rows[place] + 1} and {row + 1}); leave out one")
        rows[place] = row


def label_by_table(tree: Tree, inside: str, table: Path, split: str, columns: Columns) -> ImageFiles | None:
    """Open the images of a folder or archive that a table has labels for; None where it has no such part.

    Args:
        tree: of the folder or archive.
        inside: the folder in it that is this part; empty: all of it.
        table: names images in one column and their classes in another.
        split: "train" or "val", told apart by the table's column of parts; without one all rows are of this part.
        columns: which columns.

    Raises:
        UserError: the table has no labels, or does not fit the images.
    """
    rows, what, home = read_table(table), str(table), f"{inside}/" if inside else ""
    wanted = rows[image_column(columns.image, rows, what)]
    labels = labels_in(rows, columns, what)
    if labels is None:
        raise UserError(f"{what}: which column is the label? It has {', '.join(rows)}; choose one with --label_column")
    names = sorted(name for name in tree.names if name.startswith(home))
    found = match([name.removeprefix(home) for name in names], [str(name) for name in wanted], what)
    numbers, classes = labels
    kept = [i for i, row in enumerate(found.rows) if row is not None]
    of_kept = np.array([found.rows[i] for i in kept])
    left = [f"{len(names) - len(kept):,} images that {table.name} does not name"] if len(kept) < len(names) else []
    left += [f"{found.n_lost:,} rows of {table.name} whose image is not there"] if found.n_lost and not inside else []
    if left:
        say_once(f"{printable(str(tree.place / inside))}: ignored: {'; '.join(left)}")
    reader = TreeReader(tree, home, [names[i] for i in kept])
    name = printable(tree.place.resolve().stem if tree.place.is_file() else tree.place.resolve().name)
    whole = ImageFiles(name, reader, classes, numbers[of_kept], tree.place, named=fingerprint(table))
    parts = parts_in(rows, columns, what)
    return part_of(whole, None if parts is None else [parts[row] for row in of_kept], split, what)


def parts_in(table: dict[str, list[Any]], columns: Columns, what: str) -> list[str] | None:
    """Return each row's part, "train", "val" or "other"; None where the table has no column of parts.

    Raises:
        UserError: no row is of the training part.
    """
    name = chosen(columns.split, table, SPLIT_COLUMNS, "split_column", what)
    if name is None:
        return None
    values = [str(value).strip().lower() for value in table[name]]
    if not any(value in TRAIN_NAMES for value in values):
        shown = ", ".join(sorted(set(values))[:5])
        raise UserError(f"{what}: column {name} names no row train; it holds {shown}; rename the column or its values")
    held_out = next((word for word in VAL_NAMES if word in values), None)
    if other := sorted({value for value in values if value not in (*TRAIN_NAMES, held_out)}):
        n = sum(value in other for value in values)
        say_once(f"{what}: ignored: {n:,} rows of other parts ({', '.join(other[:5])})")
    return ["train" if value in TRAIN_NAMES else "val" if value == held_out else "other" for value in values]


def part_of(whole: ImageFiles, parts: Sequence[str] | None, split: str, what: str) -> ImageFiles | None:
    """Return the images of a part, by the part of each; None where there are none.

    Raises:
        UserError: there are none of the training part.
    """
    if parts is None:
        return whole if split == "train" else None
    rows = np.flatnonzero(np.array(parts) == split)
    if not len(rows) and split == "train":
        raise UserError(f"{what}: no image of the training part is there")
    return whole.subset(rows) if len(rows) else None
