"""Sets in Hugging Face's form: on the hub, in a local folder, or parquet files with the images' bytes in them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, fingerprint, reading
from r2mae_vision.data.image_files import ImageFiles, PathReader
from r2mae_vision.data.labels import LABEL_COLUMNS, SPLIT_COLUMNS, Columns, Labels, chosen, image_column, numbered
from r2mae_vision.data.multilabel import of_columns
from r2mae_vision.data.parts import PARTS, TRAIN_NAMES, VAL_NAMES, part_words
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.tables import part_of, parts_in, refuse_twice
from r2mae_vision.data.trees import is_system


class HubReader:
    """Rows of a table whose images are bytes or paths."""

    def __init__(self, dataset: Any, column: str, home: Path | None = None) -> None:
        self.dataset, self.column, self.home = dataset.select_columns([column]), column, home

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        entry = self.dataset[index][self.column]
        if isinstance(entry, str):
            return PathReader(self.home or Path(), [entry])[0]
        if isinstance(entry, Mapping):
            return io.BytesIO(entry["bytes"]) if entry.get("bytes") is not None else Path(entry["path"]).open("rb")
        return io.BytesIO(entry)

    def filename(self, index: int) -> str:
        """Return the image's path in the table, or the number of its row."""
        entry = self.dataset[index][self.column]
        path = entry if isinstance(entry, str) else entry.get("path") if isinstance(entry, Mapping) else None
        if not path:
            return f"row {index}"
        return Path(path).name if Path(path).is_absolute() else path


def open_hub(spec: str, split: str, columns: Columns) -> ImageFiles | None:
    """Open a part of `hfds/NAME`; None where it has none.

    Raises:
        UserError: `datasets` is not installed, or the set, a column or the training part is not there.
    """
    datasets, name = _library(spec), spec.removeprefix("hfds/")
    place = Path(name)
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            whole = datasets.load_from_disk(name)
            parts = whole if isinstance(whole, dict) else {"train": whole}
            part, names = _part_of(list(parts), split), list(parts)
            dataset = None if part is None else parts[part]
        else:
            names = datasets.get_dataset_split_names(name, columns.config)
            part = _part_of(names, split)
            dataset = None if part is None else datasets.load_dataset(name, columns.config, split=part)
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds: not found, no network, no such configuration
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        remedy = "; choose one with --config_name" if "onfig" in reason else ""
        raise UserError(f"{spec}: {reason}{remedy}") from None
    if aside := sorted(set(names) - {_first_of(names, words) for words in (TRAIN_NAMES, VAL_NAMES)}):
        say_once(f"{spec}: not used: {', '.join(aside)}")
    if dataset is None:
        return None
    rows = f"{len(dataset):,} rows, {getattr(dataset, '_fingerprint', 'unknown')}"
    return _opened(dataset, name, spec, columns, named={name: rows})


def open_parquet(files: Sequence[Path], name: str, columns: Columns, split: str = "") -> ImageFiles | None:
    """Open the parquet files of one part; None where they have no such part.

    Args:
        files: parquet tables with the same columns.
        name: of the set.
        columns: which columns.
        split: "train" or "val", told apart by a column of parts, if there is one; empty: all rows.

    Raises:
        UserError: `datasets` is not installed, a file is damaged, or a column is not there.
    """
    datasets = _library(str(files[0]))
    with reading(files[0], "a parquet table of images"):
        dataset = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    what = str(files[0]) if len(files) == 1 else f"{files[0]} … {files[-1].name}"
    whole = _opened(dataset, name, what, columns, named=fingerprint(files), home=files[0].parent)
    named = {key: [] for key in dataset.features} if split else {}
    column = chosen(columns.split, named, SPLIT_COLUMNS, "split_column", what) if split else None
    if column is None:
        return whole if split != "val" else None
    parts = parts_in({**named, column: _values(dataset, column)}, replace(columns, split=column), what)
    return part_of(whole, parts, split or "train", what)


def parquet_parts(folder: Path) -> dict[str, list[Path]]:
    """Return part → its parquet files, of a folder in Hugging Face's layout: `train-00000-of-00002.parquet`, `train/…`.

    Files without a part's name are the training part, if no file has one. Further parts are named and left out.

    Raises:
        UserError: some files have a part's name and others have not, or one has several.
    """
    files = sorted(file for file in folder.rglob("*.parquet") if not _is_hidden(file.relative_to(folder)))
    parts: dict[str, list[Path]] = {}
    for file in files:
        *folders, name = file.relative_to(folder).with_suffix("").parts
        own = list(dict.fromkeys([*(word.lower() for word in folders if word.lower() in PARTS), *part_words(name)]))
        if len(own) > 1:
            raise UserError(f"{file} is {' and '.join(own)} by its name: which? Rename it, or name one file alone")
        parts.setdefault("".join(own), []).append(file)
    if "" in parts and len(parts) > 1:
        raise UserError(f"{parts['']} names no part, but others in {folder} do; name them train-… or validation-…")
    found = {"train": parts[""]} if "" in parts else {}
    for split in ("train", "val"):
        if (part := _part_of([name for name in parts if name], split)) is not None:
            found[split] = parts[part]
    if aside := sorted(part for part, files in parts.items() if files not in found.values()):
        say_once(f"{folder}: not used: {', '.join(aside)}")
    return found


def _is_hidden(file: Path) -> bool:
    return any(is_system(folder) for folder in file.parts[:-1]) or file.name.startswith(".")


def _part_of(names: Sequence[str], split: str) -> str | None:
    """Return which of a set's parts is the training or validation part; None where there is none.

    Raises:
        UserError: there is no training part.
    """
    found = _first_of(names, TRAIN_NAMES if split == "train" else VAL_NAMES)
    if found is None and split == "train":
        raise UserError(f"has no training part; its parts are {', '.join(names)}")
    return found


def _first_of(names: Sequence[str], words: Sequence[str]) -> str | None:
    return next((name for word in words for name in names if name.lower() == word), None)


def _opened(
    dataset: Any, name: str, what: str, columns: Columns, named: dict[str, str], home: Path | None = None
) -> ImageFiles:
    import datasets  # pyright: ignore[reportMissingImports]

    kinds = dataset.features
    images = [key for key, kind in kinds.items() if isinstance(kind, datasets.Image)]
    column = images[0] if columns.image is None and len(images) == 1 else image_column(columns.image, kinds, what)
    if isinstance(kinds[column], datasets.Image) or getattr(kinds[column], "dtype", "") in ("binary", "large_binary"):
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    elif not _holds_images(kinds[column]):
        raise UserError(f"{what}: column {column} holds {kinds[column]}, not images, their bytes or their paths")
    if home is not None and getattr(kinds[column], "dtype", "") in ("string", "large_string"):
        refuse_twice(home, _values(dataset, column), what)
    numbers, classes = _labels(dataset, what, columns)
    if not classes:
        say_once(f"{what}: images in column {column}, no labels")
    return ImageFiles(Path(name).name or name, HubReader(dataset, column, home), classes, numbers, named=named)


def _holds_images(kind: Any) -> bool:
    return getattr(kind, "dtype", "") in ("string", "large_string") or (isinstance(kind, dict) and "bytes" in kind)


def _labels(dataset: Any, what: str, columns: Columns) -> Labels:
    """Return the labels of a table; none where it has no column of them."""
    import datasets  # pyright: ignore[reportMissingImports]

    kinds = dataset.features
    named = [key for key, kind in kinds.items() if isinstance(_inner(kind), datasets.ClassLabel)]
    if columns.several is not None:
        there = [name for name in columns.several if name in kinds]
        table = {**dict.fromkeys(kinds, ()), **{name: _values(dataset, name) for name in there}}
        return Labels(of_columns(table, columns.several, what), columns.several)
    column = columns.label
    if column is None and len(named) == 1:
        column = named[0]
    elif column is None:
        column = chosen(None, named or kinds, named or LABEL_COLUMNS, "label_column", what)
    if column is None:
        return Labels(np.full(len(dataset), -1, np.int64), ())
    if column not in kinds:
        raise UserError(f"{what} has no column {column!r}; it has {', '.join(kinds)}")
    kind = _inner(kinds[column])
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    return numbered(_values(dataset, column), f"{what}, column {column},", names, columns.separator)


def _inner(kind: Any) -> Any:
    """Return what a column of lists holds a list of; another column's own kind."""
    return kind[0] if isinstance(kind, list) and kind else getattr(kind, "feature", kind)


def _values(dataset: Any, column: str) -> list[Any]:
    return dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _library(spec: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{spec} needs Hugging Face's datasets: pip install 'r2mae-vision[hub]'") from None
    datasets.disable_progress_bars()
    return datasets
