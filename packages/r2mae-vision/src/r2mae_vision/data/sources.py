"""What the commands' `data` can name, and the one way to open it.

digits, photographs (bundled with scikit-learn) · a folder that `prepare` wrote · MNIST's or CIFAR's official files · a
folder of class folders (ImageNet's way; `train/` and `val/` inside if there are) or one .tar of it · `hfds/NAME`
(Hugging Face) · `wds/PATTERN` (WebDataset shards, for `prepare` only). Folders, tars and Hugging Face sets are read by
timm's readers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, fingerprint, reading
from r2mae_vision.data.collections import bundled, in_folder
from r2mae_vision.data.decoding import UnreadableImageError, decode
from r2mae_vision.data.store import ImageStore, read_index
from r2mae_vision.data.tars import check_tar

PARTS = ("train", "val")
UNFINISHED = ".preparing"
"""Folder inside the store's, where its parts are until all of them are whole."""
VAL_NAMES = ("val", "validation", "valid", "test")
KNOWN = (
    "digits, photographs, a folder (prepared, of class folders, or with MNIST's or CIFAR's files), a .tar, hfds/NAME, "
    "wds/PATTERN"
)


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded when they are asked for, through one of timm's readers."""

    name: str
    reader: Any
    classes: tuple[str, ...]
    place: Path | None = None
    """Folder or archive; None: of the Hugging Face hub."""

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
        """
        try:
            file, label = self.reader[index]
        except MemoryError:
            raise
        except Exception as error:  # the file system's, tarfile's, those of Hugging Face's datasets
            raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from None
        try:
            return decode(file, in_chans), self._class_of(index, label)
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
        return ImageFiles(self.name, _Chosen(self.reader, indices), self.classes, self.place)


def printable(name: str) -> str:
    """Return a file's name as one line of UTF-8, whatever bytes it has."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Chosen:
    """Some of a reader's images."""

    def __init__(self, reader: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.reader, self.indices = reader, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.reader[int(self.indices[index])]

    def filename(self, index: int) -> str:
        return self.reader.filename(int(self.indices[index]))


Source = ImageStore | ImageFiles


class NoValidationError(UserError):
    """The data has a training part only."""


def open_source(spec: str, split: str = "train") -> Source:
    """Open the training or validation part of what `--data` names.

    Args:
        spec: see the module's text.
        split: "train" or "val".

    Raises:
        UserError: it is unknown, missing, empty or damaged, or has no such part.
    """
    store = bundled(spec, split)
    if store is not None:
        return store
    if spec.startswith("wds/"):
        raise UserError(f"{spec} is read as a stream; run r2mae-vision prepare {spec} --out DIR once, then give DIR")
    if spec.startswith("hfds/"):
        return _hugging_face(spec, split)
    folder = Path(spec)
    if not folder.exists():
        raise UserError(f"{spec}: no such file or folder; it can be {KNOWN}")
    if is_prepared(folder):
        return _prepared(folder, split)
    if folder.is_file():
        if split == "val":
            raise NoValidationError(f"{spec} has no validation part; name one with --validation")
        return _files(folder)
    official = in_folder(folder, split)
    return official if official is not None else _files(_part(folder, split))


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
    """Open training and validation part and check that their classes agree.

    Raises:
        UserError: a class of the validation part is unknown to the training part, or images have no labels.
    """
    part = "val" if validation is None else _part_of(validation)
    train, valid = open_source(spec, "train"), open_source(validation or spec, part)
    if train.classes != valid.classes:
        if unknown := sorted(set(valid.classes) - set(train.classes)):
            shown = ", ".join(unknown[:5])
            raise UserError(
                f"validation has {len(unknown)} classes that training does not have ({shown}): labels do not fit"
            )
        missing = ", ".join(sorted(set(train.classes) - set(valid.classes))[:5])
        raise UserError(
            f"training has {len(train.classes)} classes and validation {len(valid.classes)} ({missing} is missing "
            "there): labels do not fit"
        )
    for name, part in (("training", train), ("validation", valid)):
        if (labels := _labels(part)) is not None and (n := int((labels < 0).sum())):
            raise UserError(f"{n} of {len(part)} {name} images of {spec} have no label; labels are needed here")
    if not train.classes:
        raise UserError(f"{spec} has no classes; labels are needed here")
    return train, valid


def _labels(part: Source) -> np.ndarray | None:
    """Return all labels of a part where they are known without reading images."""
    if isinstance(part, ImageStore):
        return part.labels
    if part.place is not None:  # files are in the folders of their classes
        return None
    return np.asarray(part.reader.dataset[getattr(part.reader, "label_key", "label")])


def identity(train: Source, held_out: Source | None) -> dict[str, str]:
    """Return what names a run's data: content, or names, sizes and times of files; never their place."""
    found = {f"training data {name}": value for name, value in train.identity.items()}
    if held_out is not None:
        found |= {f"held-out data {name}": value for name, value in held_out.identity.items()}
    return found


def _part_of(spec: str) -> str:
    """Return which part of a separate validation set is opened: the only one that a plain folder has."""
    folder = Path(spec)
    if not folder.is_dir():
        return "train" if folder.is_file() else "val"
    has_parts = any((folder / name).is_dir() for name in VAL_NAMES)
    return "val" if has_parts or in_folder(folder, "val") is not None else "train"


def _part(folder: Path, split: str) -> Path:
    if split == "train":
        return folder / "train" if (folder / "train").is_dir() else folder
    for name in VAL_NAMES:
        if (folder / name).is_dir() and (folder / "train").is_dir():
            return folder / name
    raise NoValidationError(
        f"{folder} has no validation part: no {' or '.join(VAL_NAMES)} beside train; name one with --validation"
    )


def _files(place: Path) -> ImageFiles:
    from timm.data.readers.reader_factory import create_reader

    kind = "a folder of images or a .tar of one"
    settings: dict[str, Any] = {}
    if place.is_file():
        if place.suffix != ".tar":
            raise UserError(f"{place} is not {kind}; data can be {KNOWN}")
        check_tar(place)
        settings = {"cache_tarinfo": False}  # timm would keep a pickle beside the archive, and read one
    with reading(place, kind):
        try:
            reader: Any = create_reader("", str(place), **settings)
            if not len(reader):
                raise UserError(f"{place} holds no images")
        except RuntimeError as error:
            raise UserError(f"{place}: {str(error).splitlines()[0]}") from None
        except ValueError as error:
            if place.is_file() and "unpack" in str(error):  # timm's zip of nothing
                raise UserError(f"{place} holds no images") from None
            raise
    if place.is_dir():
        _in_one_order(reader)
        filled = {Path(file).parent for file, _ in reader.samples}
        empty = [folder for folder in sorted(place.iterdir()) if folder.is_dir() and not _holds(folder, filled)]
        if empty:
            names = ", ".join(folder.name for folder in empty[:5])
            raise UserError(f"{place}: no images in class folder {names} ({len(empty)} in all); fill it or remove it")
    indices = reader.class_name_to_idx if place.is_file() else reader.class_to_idx  # timm's tar reader names it so
    classes = sorted(indices, key=indices.__getitem__)
    _refuse_alike(place, classes)
    whole = place.parent if place.name in ("train", *VAL_NAMES) else place
    return ImageFiles(printable(whole.resolve().name), reader, tuple(classes) if any(classes) else (), place)


def _in_one_order(reader: Any) -> None:
    """Put images whose names timm takes for equal (IMG1 and img1, 1 and 01) into an order of their own.

    Theirs is the file system's, which may be another one in a copy of the folder.
    """
    from timm.utils.misc import natural_key

    names = [str(file).lower().replace("0", "") for file, _ in reader.samples]
    if any(one == other for one, other in pairwise(names)):
        reader.samples = sorted(reader.samples, key=lambda sample: (natural_key(sample[0]), sample[0]))


def _refuse_alike(place: Path, classes: Sequence[str]) -> None:
    """Refuse classes whose order is open, or whose names cannot be written down.

    Raises:
        UserError: they are named.
    """
    from timm.utils.misc import natural_key

    ordered = sorted(classes, key=natural_key)
    for one, other in pairwise(ordered):
        if natural_key(one) == natural_key(other):
            raise UserError(
                f"{place}: the classes {printable(one)} and {printable(other)} differ in case or leading zeros alone; "
                "rename one of them"
            )
    if odd := [name for name in classes if printable(name) != name]:
        raise UserError(f"{place}: the name of class {printable(odd[0])} is not plain text (UTF-8); rename it")


def _holds(folder: Path, filled: set[Path]) -> bool:
    return folder in filled or any(folder in file.parents for file in filled)


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
