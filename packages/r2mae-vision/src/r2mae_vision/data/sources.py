"""What the commands' `data` can name, and the one way to open it.

digits, photographs (bundled with scikit-learn) · a folder that `prepare` wrote · MNIST's or CIFAR's official files · a
folder of class folders (ImageNet's way; `train/` and `val/` inside if there are), or one .tar or .zip of it ·
`hfds/NAME` (Hugging Face, by timm's reader) · `wds/PATTERN` (WebDataset shards, for `prepare` only).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, fingerprint
from r2mae_vision.data.collections import bundled, in_folder
from r2mae_vision.data.decoding import OutsideRangeError, Reading, UnreadableImageError, decode
from r2mae_vision.data.parts import TRAIN_NAMES, VAL_NAMES, Division, divide, label
from r2mae_vision.data.ranges import ranged, say_once
from r2mae_vision.data.store import ImageStore, read_index
from r2mae_vision.data.trees import ARCHIVES, Tree, tree_of

PARTS = ("train", "val")
UNFINISHED = ".preparing"
"""Folder inside the store's, where its parts are until all of them are whole."""
KNOWN = (
    "digits, photographs, a folder (prepared, of class folders, or with MNIST's or CIFAR's files), a .tar or .zip, "
    "hfds/NAME, wds/PATTERN"
)
AS_IT_IS = Reading()


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded when they are asked for."""

    name: str
    reader: Any
    """Number → (open file, label), with `filename(number)`."""
    classes: tuple[str, ...]
    """Empty: unlabelled."""
    place: Path | None = None
    """Folder or archive; None: of the Hugging Face hub."""
    how: Reading = AS_IT_IS
    """Range of the pixels and largest image."""

    def __len__(self) -> int:
        return len(self.reader)

    @cached_property
    def identity(self) -> dict[str, str]:
        """What names this data: names, sizes and times of its files."""
        if self.place is not None:
            return fingerprint(self.place)
        return {self.name: f"{len(self):,} rows, {getattr(self.reader.dataset, '_fingerprint', 'unknown')}"}

    def read(self, index: int, in_chans: int) -> tuple[Any, int]:
        """Return (PIL image, label).

        Raises:
            UnreadableImageError: the file cannot be decoded.
            UserError: its pixels lie outside the range, or its label is no class.
        """
        try:
            file, label = self.reader[index]
        except MemoryError:
            raise
        except Exception as error:  # the file system's, zipfile's, those of Hugging Face's datasets
            raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from None
        try:
            return decode(file, in_chans, self.how), self._class_of(index, label)
        except OutsideRangeError as error:
            raise OutsideRangeError(f"{self.name}: {self.file_name(index)} has {error}") from None
        finally:
            if hasattr(file, "close"):
                file.close()

    def _class_of(self, index: int, label: Any) -> int:
        """Return an image's class as a number; -1 if there is none."""
        if label is None:
            return -1
        if not hasattr(label, "__index__") or not -1 <= int(label) < max(len(self.classes), 1):
            raise UserError(
                f"{self.name}: {self.file_name(index)} has the label {str(label)[:40]!r}, which is none of the "
                f"{len(self.classes)} classes"
            )
        return int(label)

    def file_name(self, index: int) -> str:
        """Return the name of an image's file."""
        return printable(str(self.reader.filename(index)))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageFiles":
        """Return some of the images."""
        return replace(self, reader=_Chosen(self.reader, indices))

    def ranged(self, how: Reading) -> "ImageFiles":
        """Return it with a range for deep pixels: the given one, or what a sample of the images suggests.

        Raises:
            UserError: the sample suggests none.
        """
        return replace(self, how=ranged(how, len(self), lambda index: self.reader[index][0], self.name))


class _Files:
    """Images of a folder or an archive with their labels."""

    def __init__(self, tree: Tree, inside: str, names: Sequence[str], targets: Sequence[int]) -> None:
        self.tree, self.inside, self.names, self.targets = tree, inside, names, targets

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        return self.tree.open(self.names[index]), self.targets[index]

    def filename(self, index: int) -> str:
        return self.names[index].removeprefix(self.inside)


def printable(name: str) -> str:
    """Return a file's name as one line of UTF-8, whatever bytes it has."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Chosen:
    """Some of a reader's images."""

    def __init__(self, reader: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.reader, self.indices = reader, indices
        if hasattr(reader, "targets"):
            self.targets = [reader.targets[int(index)] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.reader[int(self.indices[index])]

    def filename(self, index: int) -> str:
        return self.reader.filename(int(self.indices[index]))


Source = ImageStore | ImageFiles


class NoValidationError(UserError):
    """The data has a training part only."""


def open_source(spec: str, split: str = "train", how: Reading = AS_IT_IS) -> Source:
    """Open the training or validation part of what `--data` names.

    Args:
        spec: see the module's text.
        split: "train" or "val".
        how: image files are read; without a range, that is found in the training part.

    Raises:
        UserError: it is unknown, missing, empty or damaged, or has no such part.
    """
    store = bundled(spec, split)
    if store is not None:
        return store
    if spec.startswith("wds/"):
        raise UserError(f"{spec} is read as a stream; run r2mae-vision prepare {spec} --out DIR once, then give DIR")
    if spec.startswith("hfds/"):
        return _hugging_face(spec, split).ranged(how)
    place = Path(spec)
    if not place.exists():
        raise UserError(f"{spec}: no such file or folder; it can be {KNOWN}")
    if is_prepared(place):
        return _prepared(place, split)
    official = in_folder(place, split) if place.is_dir() else None
    return official if official is not None else _files(place, split, how)


def is_prepared(folder: Path) -> bool:
    """Return whether a folder is one of `prepare`, whole or not."""
    return (folder / UNFINISHED).exists() or any((folder / part / "store.json").exists() for part in PARTS)


def _prepared(folder: Path, split: str) -> ImageStore:
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
    return ImageStore.open(folder / split)


def held_out(spec: str) -> tuple[Source, str]:
    """Return the validation part of what `data` names, or the training part if it has no other, and which it is."""
    try:
        return open_source(spec, "val"), "validation"
    except NoValidationError:
        return open_source(spec, "train"), "train"


def open_pair(spec: str, validation: str | None = None) -> tuple[Source, Source]:
    """Open training and validation part, whose labels are needed.

    Raises:
        UserError: a class of the validation part is unknown to the training part, or images have no labels.
    """
    train, valid = open_parts(spec, validation)
    for name, part in (("training", train), ("validation", valid)):
        if n := int((_labels(part) < 0).sum()):
            raise UserError(f"{n} of {len(part)} {name} images of {spec} have no label; labels are needed here")
    if not train.classes:
        raise UserError(f"{spec} has no classes; labels are needed here")
    return train, valid


def open_parts(spec: str, validation: str | None = None, how: Reading = AS_IT_IS) -> tuple[Source, Source]:
    """Open training and validation part, with labels or without, numbered alike.

    Raises:
        UserError: a class of the validation part is unknown to the training part.
        NoValidationError: there is no validation part.
    """
    part = "val" if validation is None else _part_of(validation)
    train = open_source(spec, "train", how)
    valid = open_source(validation or spec, part, train.how if isinstance(train, ImageFiles) else how)
    if train.classes == valid.classes:
        return train, valid
    if not valid.classes:
        raise UserError(f"training has {len(train.classes)} classes, validation has none: labels do not fit")
    if unknown := sorted(set(valid.classes) - set(train.classes)):
        shown = ", ".join(unknown[:5])
        alike = {name.casefold() for name in train.classes} & {name.casefold() for name in unknown}
        raise UserError(
            f"validation has {len(unknown)} classes that training does not have ({shown}"
            f"{'; names must agree in case, too' if alike else ''}): labels do not fit"
        )
    missing = sorted(set(train.classes) - set(valid.classes))
    shown = f"{', '.join(missing[:5])}{', …' if missing[5:] else ''}"
    if not isinstance(valid, ImageFiles) or not isinstance(valid.reader, _Files):
        raise UserError(
            f"training has {len(train.classes)} classes and validation {len(valid.classes)} ({shown} is missing "
            "there): labels do not fit"
        )
    say_once(f"{valid.name}: {len(missing)} of {len(train.classes)} classes have no validation images: {shown}")
    number = np.array([train.classes.index(name) for name in valid.classes])
    reader = _Files(valid.reader.tree, valid.reader.inside, valid.reader.names, number[valid.reader.targets].tolist())
    return train, replace(valid, reader=reader, classes=train.classes)


def _labels(part: Source) -> np.ndarray:
    """Return all labels of a part."""
    if isinstance(part, ImageStore):
        return part.labels
    if part.place is not None:
        return np.asarray(getattr(part.reader, "targets", [0]))
    return np.asarray(part.reader.dataset[getattr(part.reader, "label_key", "label")])


def identity(train: Source, held_out: Source | None) -> dict[str, str]:
    """Return what names a run's data: content, or names, sizes and times of files; never their place."""
    found = {f"training data {name}": value for name, value in train.identity.items()}
    if held_out is not None:
        found |= {f"held-out data {name}": value for name, value in held_out.identity.items()}
    return found


def _part_of(spec: str) -> str:
    """Return which part of a separate validation set is opened: the only one that a plain folder has."""
    place = Path(spec)
    if bundled(spec, "val") is not None or not place.exists() or is_prepared(place):
        return "val"
    if place.is_dir() and in_folder(place, "val") is not None:
        return "val"
    return "train" if divide(_tree(place)).val is None else "val"


def _tree(place: Path) -> Tree:
    if place.is_file() and place.suffix.lower() not in ARCHIVES:
        raise UserError(f"{place} is not a folder of images or a .tar or .zip of one; data can be {KNOWN}")
    return tree_of(place)


def _files(place: Path, split: str, how: Reading) -> ImageFiles:
    """Open a part of a folder or an archive of image files, and say what is left out."""
    tree = _tree(place)
    parts = divide(tree)
    train = _labelled(tree, parts, parts.train).ranged(how)
    if split == "train":
        return train
    if parts.val is None:
        kind = "" if place.is_file() else f": no {' or '.join(VAL_NAMES)} beside train"
        raise NoValidationError(f"{place} has no validation part{kind}; name one with --validation")
    return replace(_labelled(tree, parts, parts.val), how=train.how)


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
    reader = _Files(tree, f"{inside}/" if inside else "", found.names, found.targets)
    return ImageFiles(printable(whole.name), reader, found.classes, place)


def _hugging_face(spec: str, split: str) -> ImageFiles:
    reasons = []
    for name in ("train",) if split == "train" else ("validation", "val", "test"):
        try:
            from timm.data.readers.reader_factory import create_reader

            reader: Any = create_reader(spec, split=name)
        except ImportError:
            raise UserError(f"{spec} needs Hugging Face's datasets: pip install 'r2mae-vision[hub]'") from None
        except Exception as error:  # datasets raises many kinds: not found, no network, no such split
            reasons.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            if "split" in reasons[-1].lower():
                continue
            raise UserError(f"{spec} ({name}): {reasons[-1]}") from None
        classes = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
        return ImageFiles(spec.removeprefix("hfds/"), reader, tuple(classes))
    kind = UserError if split == "train" else NoValidationError
    raise kind(f"{spec} has no {split} part: {reasons[0]}")
