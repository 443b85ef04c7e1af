"""What the commands' `data` can name, and the one way to open it.

digits, photographs (bundled with scikit-learn) · a folder that `prepare` wrote · MNIST's or CIFAR's official files · a
folder of class folders (ImageNet's way; `train/` and `val/` inside if there are) or one .tar of it · `hfds/NAME`
(Hugging Face) · `wds/PATTERN` (WebDataset shards, for `prepare` only). Folders, tars and Hugging Face sets are read by
timm's readers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError
from r2mae_vision.data.collections import bundled, in_folder
from r2mae_vision.data.decoding import UnreadableImageError, decode
from r2mae_vision.data.store import ImageStore

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

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int, in_chans: int) -> tuple[Any, int]:
        """Return (PIL image, label).

        Raises:
            UnreadableImageError: the file cannot be decoded.
        """
        try:
            file, label = self.reader[index]
        except OSError as error:
            raise UnreadableImageError(str(error)) from None
        try:
            return decode(file, in_chans), -1 if label is None else int(label)
        finally:
            if hasattr(file, "close"):
                file.close()

    def file_name(self, index: int) -> str:
        """Return the name of an image's file."""
        return str(self.reader.filename(index))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageFiles":
        """Return some of the images."""
        return ImageFiles(self.name, _Chosen(self.reader, indices), self.classes)


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
    if (folder / "train" / "store.json").exists():
        if not (folder / split).exists():
            raise NoValidationError(f"{folder} was prepared without a validation part; name one with --validation")
        return ImageStore.open(folder / split)
    if folder.is_file():
        if split == "val":
            raise NoValidationError(f"{spec} has no validation part; name one with --validation")
        return _files(folder)
    official = in_folder(folder, split)
    return official if official is not None else _files(_part(folder, split))


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
        if isinstance(part, ImageStore) and (n := int((part.labels < 0).sum())):
            raise UserError(f"{n} of {len(part)} {name} images of {spec} have no label; labels are needed here")
    if not train.classes:
        raise UserError(f"{spec} has no classes; labels are needed here")
    return train, valid


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

    try:
        reader: Any = create_reader("", str(place))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from None
    if place.is_dir():
        filled = {Path(file).parent for file, _ in reader.samples}
        empty = [folder for folder in sorted(place.iterdir()) if folder.is_dir() and not _holds(folder, filled)]
        if empty:
            names = ", ".join(folder.name for folder in empty[:5])
            raise UserError(f"{place}: no images in class folder {names} ({len(empty)} in all); fill it or remove it")
    indices = reader.class_name_to_idx if place.is_file() else reader.class_to_idx  # timm's tar reader names it so
    classes = sorted(indices, key=indices.__getitem__)
    whole = place.parent if place.name in ("train", *VAL_NAMES) else place
    return ImageFiles(whole.resolve().name, reader, tuple(classes) if any(classes) else ())


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


def stream_tars(pattern: str) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, image file, label) from WebDataset shards, in their order; label -1 if there is none.

    Args:
        pattern: path with braces or stars, such as "shards/train-{000..009}.tar".

    Raises:
        UserError: webdataset is not installed, or no shard is there.
    """
    import glob

    try:
        import webdataset  # pyright: ignore[reportMissingImports]  optional; the message below says how
    except ImportError:
        raise UserError("WebDataset shards need webdataset: pip install webdataset") from None
    shards = [file for part in webdataset.shardlists.expand_urls(pattern) for file in sorted(glob.glob(part))]  # noqa: PTH207
    if not shards:
        raise UserError(f"no shard matches {pattern}")
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):  # pyright: ignore[reportAttributeAccessIssue]
        for ending in ("jpg", "jpeg", "png", "webp"):
            if ending in sample:
                yield f"{sample['__key__']}.{ending}", sample[ending], _class_number(sample)
                break


def _class_number(sample: dict[str, Any]) -> int:
    """Return the number in a sample's .cls file; -1 if there is none.

    Raises:
        UserError: it holds something else.
    """
    if "cls" not in sample:
        return -1
    try:
        return int(sample["cls"].decode())
    except ValueError:
        text = sample["cls"][:20]
        raise UserError(f"{sample['__key__']}.cls holds {text!r}, not the number of a class") from None
