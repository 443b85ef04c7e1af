"""What the commands' `data` can name, and the one way to open it.

digits, photographs (bundled with scikit-learn) · a folder that `prepare` wrote · MNIST's or CIFAR's official files · a
folder of class folders (ImageNet's way; `train/` and `val/` inside if there are), or one .tar or .zip of it · a .csv
or .tsv of paths and labels · parquet files with the images in them · `hfds/NAME` (Hugging Face: of the hub, or a
folder that `datasets` reads or saved) · `wds/PATTERN` (WebDataset shards, on a disk or where fsspec reaches).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError
from r2mae_vision.data.collections import BUNDLED, bundled, in_folder
from r2mae_vision.data.decoding import Reading
from r2mae_vision.data.encoded import open_encoded
from r2mae_vision.data.hub import open_hub, open_parquet, parquet_parts
from r2mae_vision.data.image_files import ImageFiles, TreeReader, printable
from r2mae_vision.data.labels import Columns
from r2mae_vision.data.parts import TRAIN_NAMES, VAL_NAMES, Division, divide, label
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.shards import open_shards
from r2mae_vision.data.store import ImageStore, read_index
from r2mae_vision.data.tables import label_by_table, open_table
from r2mae_vision.data.trees import ARCHIVES, Tree, tree_of

PARTS = ("train", "val")
UNFINISHED = ".preparing"
"""Folder inside the store's, where its parts are until all of them are whole."""
KNOWN = (
    "digits, photographs, a folder (prepared, of class folders, or with MNIST's or CIFAR's files), a .tar or .zip, "
    "a .csv, .tsv or .parquet, hfds/NAME, wds/PATTERN"
)


@dataclass(frozen=True)
class HowToOpen:
    """What a user may say about data beside its place."""

    reading: Reading = field(default_factory=Reading)
    columns: Columns = field(default_factory=Columns)
    labels: Path | None = None
    """A table with the labels of the images in a folder or archive."""

    @property
    def named(self) -> dict[str, str]:
        """Option → its value, of those that say which columns of a table are which."""
        return self.columns.named | ({} if self.labels is None else {"labels": str(self.labels)})


AS_IT_IS = HowToOpen()


def how_to_open(config: Any) -> HowToOpen:
    """Return what a command's options say of its data.

    Args:
        config: options with those of `DataColumns`, or a run's config as a dictionary.
    """
    read = config.get if isinstance(config, dict) else lambda name: getattr(config, name)
    several, labels = read("label_columns"), read("labels")
    columns = Columns(
        image=read("image_column"), label=read("label_column"), split=read("split_column"), config=read("config_name"),
        separator=read("label_separator"), several=None if several is None else tuple(several),
    )  # fmt: skip
    return HowToOpen(columns=columns, labels=None if labels is None else Path(labels))


def data_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data that a run's config states, and how it is opened, as `data` and `how`; nothing if none is."""
    data = config.get("data")
    return {"data": data, "how": how_to_open(dict(config))} if isinstance(data, str) else {}


Source = ImageStore | ImageFiles


class NoValidationError(UserError):
    """The data has a training part only."""


def open_source(spec: str, split: str = "train", how: HowToOpen = AS_IT_IS) -> Source:
    """Open the training or validation part of what `--data` names.

    Args:
        spec: see the module's text.
        split: "train" or "val".
        how: the images are read and labelled; without a range, that is found in the training part.

    Raises:
        UserError: it is unknown, missing, empty or damaged, or has no such part.
    """
    _refuse_unused(spec, how)
    store = bundled(spec, split)
    if store is not None:
        return store
    place = Path(spec)
    if spec.startswith("hfds/"):
        found = open_hub(spec, split, how.columns)
    elif spec.startswith("wds/"):
        found = open_shards(spec.removeprefix("wds/")) if split == "train" else None
    elif not place.exists():
        raise UserError(f"{spec}: no such file or folder; it can be {KNOWN}")
    elif is_prepared(place):
        return _prepared(place, split)
    elif place.is_dir() and (official := in_folder(place, split)) is not None:
        return official
    elif (tables := _parquet(place)) is not None:
        # One table may name its parts in a column, where its files do not.
        one = list(tables) == ["train"]
        found = None
        if one or split in tables:
            found = open_parquet(tables["train" if one else split], place.stem, how.columns, split if one else "")
    elif place.is_file() and place.suffix.lower() in (".csv", ".tsv"):
        found = open_table(place, split, how.columns)
    else:
        return _files(place, split, how)
    if found is None:
        raise NoValidationError(f"{spec} has no validation part; name one with --validation")
    return found.ranged(how.reading)


def takes(spec: str) -> tuple[str, ...]:
    """Return the options of columns that have a meaning for a kind of data."""
    columns = ("image_column", "label_column", "label_separator", "label_columns")
    place = Path(spec)
    if spec.startswith("hfds/"):
        return (*columns, "config_name")
    if spec.startswith("wds/") or not place.exists() or is_prepared(place):
        return ()
    if place.is_dir() and in_folder(place, "train") is not None:
        return ()
    if _parquet(place) is not None or place.suffix.lower() in (".csv", ".tsv"):
        return (*columns, "split_column")
    return (*columns, "split_column", "labels")


def _refuse_unused(spec: str, how: HowToOpen) -> None:
    """Refuse options that would have no effect on this data.

    Raises:
        UserError: the first is named.
    """
    if not how.named or not (spec in BUNDLED or spec.startswith(("hfds/", "wds/")) or Path(spec).exists()):
        return
    known = takes(spec)
    if unused := [name for name in how.named if name not in known]:
        at = f"; it takes --{', --'.join(known)}" if known else ", whose labels are known"
        raise UserError(f"--{unused[0]} has no meaning for {spec}{at}; leave it out")
    if "labels" in known and how.labels is None:
        raise UserError(f"--{next(iter(how.named))} is of a table: name the table of {spec} with --labels")


def _parquet(place: Path) -> dict[str, list[Path]] | None:
    """Return the parts of a parquet file, or of a folder that holds such files and no images; else None."""
    if place.is_file():
        return {"train": [place]} if place.suffix.lower() == ".parquet" else None
    if not place.is_dir() or next(place.rglob("*.parquet"), None) is None or tree_of(place).names:
        return None
    return parquet_parts(place)


def is_prepared(folder: Path) -> bool:
    """Return whether a folder is one of `prepare`, whole or not."""
    return (folder / UNFINISHED).exists() or any((folder / part / "store.json").exists() for part in PARTS)


def _prepared(folder: Path, split: str) -> Source:
    """Open a part of a prepared folder.

    Raises:
        UserError: `prepare` has not finished, a part is missing, or there never was such a part.
    """
    train = folder / "train" / "store.json"
    if not train.exists():
        state = "is not finished" if (folder / UNFINISHED).exists() else "is not whole: it has no train/store.json"
        raise UserError(f"{folder} {state}; run the same r2mae-vision prepare again with --out {folder}")
    if split not in (read_index(folder / "train").get("parts") or ["train"]):
        raise NoValidationError(f"{folder} was prepared without a validation part; name one with --validation")
    return open_prepared(folder / split)


def open_prepared(folder: Path) -> Source:
    """Open a part of a prepared folder, raw or compressed, and check it.

    Raises:
        UserError: it is incomplete or damaged.
    """
    return ImageStore.open(folder) if (read_index(folder).get("store") or "raw") == "raw" else open_encoded(folder)


def single_part(spec: str) -> str:
    """Return which part of a separate validation set is opened: the only one that a plain folder has."""
    place = Path(spec)
    if spec.startswith("wds/"):
        return "train"
    if bundled(spec, "val") is not None or not place.exists() or is_prepared(place):
        return "val"
    if place.is_dir() and in_folder(place, "val") is not None:
        return "val"
    if (tables := _parquet(place)) is not None:
        return "val" if "val" in tables else "train"
    if place.suffix.lower() in (".csv", ".tsv"):
        return "train"
    return "train" if divide(_tree(place)).val is None else "val"


def _tree(place: Path) -> Tree:
    if place.is_file() and not place.name.lower().endswith(ARCHIVES):
        raise UserError(f"{place} is not a folder of images or a .tar or .zip of one; data can be {KNOWN}")
    return tree_of(place)


def _files(place: Path, split: str, how: HowToOpen) -> ImageFiles:
    """Open a part of a folder or an archive of image files, and say what is left out."""
    tree = _tree(place)
    if how.labels is not None:
        return _by_table(tree, split, how)
    parts = divide(tree)
    train = _labelled(tree, parts, parts.train).ranged(how.reading)
    if split == "train":
        return train
    if parts.val is None:
        raise _no_validation(place)
    return replace(_labelled(tree, parts, parts.val), how=train.how)


def _no_validation(place: Path) -> NoValidationError:
    kind = "" if place.is_file() else f": no {' or '.join(VAL_NAMES)} beside train"
    return NoValidationError(f"{place} has no validation part{kind}; name one with --validation")


def _by_table(tree: Tree, split: str, how: HowToOpen) -> ImageFiles:
    """Open a part of a tree whose labels stand in a table, which may name the parts; else folders do."""
    table, columns = Path(str(how.labels)), how.columns
    held_out = label_by_table(tree, "", table, "val", columns)  # where the table names the parts
    parts = divide(tree) if held_out is None else None
    folder = parts.train if parts is not None else ""
    train = label_by_table(tree, folder, table, "train", columns)
    assert train is not None
    train = train.ranged(how.reading)
    if split == "train":
        return train
    if parts is not None and parts.val is not None:
        held_out = label_by_table(tree, parts.val, table, "train", columns)
    if held_out is None:
        raise _no_validation(tree.place)
    return replace(held_out, how=train.how)


def _labelled(tree: Tree, parts: Division, inside: str) -> ImageFiles:
    found = label(tree, inside)
    if odd := [name for name in found.classes if printable(name) != name]:
        raise UserError(f"{tree.place}: the name of class {printable(odd[0])} is not plain text (UTF-8); rename it")
    archive = tree.place.is_file()
    if archive and not found.classes and tree.ignored_below(inside).endswith(".cls"):
        raise UserError(f"{tree.place} looks like a shard of WebDataset; run r2mae-vision prepare wds/{tree.place}")
    ignored = [why for why in (tree.ignored_below(""),) if why]
    ignored += [f"{n:,} images in {name}" for name, n in parts.aside.items()]
    ignored += (
        [f"{found.loose:,} images of {inside or tree.place.name} beside its class folders"] if found.loose else []
    )
    if ignored:
        say_once(f"{printable(str(tree.place))}: ignored: {printable('; '.join(ignored))}")
    if len(found.classes) == 1:
        say_once(f"{tree.place / inside} has a single class, {found.classes[0]}")
    whole = tree.place.resolve()
    if whole.is_dir() and whole.name.lower() in (*TRAIN_NAMES, *VAL_NAMES):
        whole = whole.parent
    place = tree.place if archive else tree.place / inside
    reader = TreeReader(tree, f"{inside}/" if inside else "", found.names)
    return ImageFiles(printable(whole.name), reader, found.classes, np.array(found.targets), place)
