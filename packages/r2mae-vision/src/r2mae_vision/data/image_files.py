"""Images that are decoded when they are asked for, wherever their files lie: folders, archives, shards, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r2mae_core import fingerprint
from r2mae_vision.data.decoding import OutsideRangeError, Reading, UnreadableImageError, decode
from r2mae_vision.data.multilabel import is_multi, label_at, unlabelled
from r2mae_vision.data.ranges import ranged
from r2mae_vision.data.trees import Tree

AS_IT_IS = Reading()


class Reader(Protocol):
    """Number → the file of an image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """Return a file, open; may raise anything."""

    def filename(self, index: int) -> str:
        """Return what messages and lists call an image."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded when they are asked for."""

    name: str
    reader: Reader
    classes: tuple[str, ...]
    """Empty: unlabelled."""
    labels: np.ndarray
    """(N,) int64, -1: no label; or (N, C) int8, see `multilabel`."""
    place: Path | None = None
    """Folder, archive or table whose files name the data; None: `named` does."""
    how: Reading = AS_IT_IS
    """Range of the pixels and largest image."""
    named: Mapping[str, str] = field(default_factory=dict)
    """What else names the data, such as a table of labels."""
    in_chans: int = 3
    """Channels that a model of these images has by default."""
    prepared: bool = False
    """Whether `prepare` made them."""

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def deep_range(self) -> list[float] | None:
        """See `Reading`."""
        return self.how.deep_range

    @cached_property
    def identity(self) -> dict[str, str]:
        """What names this data: names, sizes and times of its files."""
        return {**({} if self.place is None else fingerprint(self.place)), **self.named}

    def read(self, index: int, in_chans: int, least: int | None = None) -> tuple[Any, Any]:
        """Return (PIL image, label: its number, or an array (C,)).

        Args:
            index: which image.
            in_chans: 3 or 1.
            least: as in `decode`.

        Raises:
            UnreadableImageError: the file cannot be decoded.
            UserError: its pixels lie outside the range.
        """
        try:
            file = self.reader[index]
        except MemoryError:
            raise
        except Exception as error:  # the file system's, zipfile's, those of Hugging Face's datasets
            raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from None
        try:
            return decode(file, in_chans, self.how, least), label_at(self.labels, index)
        except OutsideRangeError as error:
            raise OutsideRangeError(f"{self.name}: {self.file_name(index)} has {error}") from None
        finally:
            if hasattr(file, "close"):
                file.close()

    def file_name(self, index: int) -> str:
        """Return the name of an image's file."""
        return printable(str(self.reader.filename(index)))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageFiles":
        """Return some of the images."""
        return replace(self, reader=_Chosen(self.reader, indices), labels=self.labels[np.asarray(indices, dtype=int)])

    def with_classes(self, classes: tuple[str, ...]) -> "ImageFiles":
        """Return it with other classes, which have all of its own among them."""
        number = np.array([*(classes.index(name) for name in self.classes), -1])
        if is_multi(self.labels):
            wider = np.zeros((len(self.labels), len(classes)), np.int8)
            wider[:, number[:-1]] = self.labels
            wider[unlabelled(self.labels)] = -1
            return replace(self, classes=classes, labels=wider)
        return replace(self, classes=classes, labels=number[self.labels])

    def ranged(self, how: Reading) -> "ImageFiles":
        """Return it with a range for deep pixels: the given one, or what a sample of the images suggests.

        Raises:
            UserError: the sample suggests none.
        """
        return replace(self, how=ranged(how, len(self), lambda index: self.reader[index], self.name))


class TreeReader:
    """Images of a folder or an archive."""

    def __init__(self, tree: Tree, inside: str, names: Sequence[str]) -> None:
        self.tree, self.inside, self.names = tree, inside, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        return self.tree.open(self.names[index])

    def filename(self, index: int) -> str:
        """Return the name below the part's folder."""
        return self.names[index].removeprefix(self.inside)


class PathReader:
    """Files by their paths, which are relative to a folder."""

    def __init__(self, home: Path, names: Sequence[str]) -> None:
        self.home, self.names = home, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        name = self.names[index]
        try:
            return (self.home / name).open("rb")
        except FileNotFoundError:
            if "\\" not in name:
                raise
            return (self.home / name.replace("\\", "/")).open("rb")  # a table that was written on Windows

    def filename(self, index: int) -> str:
        """Return the path as the table has it."""
        return self.names[index]


class _Chosen:
    """Some of a reader's images."""

    def __init__(self, reader: Reader, indices: Sequence[int] | np.ndarray) -> None:
        self.reader, self.indices = reader, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.reader[int(self.indices[index])]

    def filename(self, index: int) -> str:
        """Return the reader's own name."""
        return self.reader.filename(int(self.indices[index]))


def printable(name: str) -> str:
    """Return a file's name as one line of UTF-8, whatever bytes it has."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
