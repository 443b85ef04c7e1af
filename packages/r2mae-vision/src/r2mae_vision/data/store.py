"""Images as one block of bytes: what training reads. Memory-mapped from a prepared folder, or made in memory.

A folder holds `train/` and `val/`, each with `images.u8` (N · height · width · channels bytes, nothing
else; of the numbers of files also `images.u16` or `images.f32`), `labels.npy` (N,), `names.txt`, a line for the file of
each image, and `store.json`, the sealed index. Every image can be reached at once, and nothing is decoded in training.
Stores of compressed images are in `encoded`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2mae_core import UserError, check_contents, identity_of_contents, read_json, reading
from r2mae_vision.data.arrays import TYPES
from r2mae_vision.data.digests import identity_of_arrays
from r2mae_vision.data.sizes import is_size, pair

NAMES = "names.txt"
AGAIN = "restore it, or remove the folder and run r2mae-vision prepare again"


@dataclass(frozen=True)
class ImageStore:
    """N images of one size with their labels."""

    name: str
    images: np.ndarray
    """(N, height, width, channels) uint8, perhaps memory-mapped; with a span also uint16 or float32."""
    labels: np.ndarray
    """(N,) int64, -1 if there is none; or (N, C) int8, see `multilabel`."""
    classes: tuple[str, ...]
    digest: str = ""
    """Names the content of a prepared folder, wherever it lies."""
    span: tuple[float, float] | None = None
    """Of images that keep the numbers of their files: the range that is handed out as 0 … 255; None: pictures."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """With a span: of each channel, in units of the span."""
    deep_range: list[float] | None = None
    """See `Reading`."""
    folder: Path | None = None
    """The prepared folder of all of them, which knows their files' names."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def in_chans(self) -> int:
        """Channels."""
        return self.images.shape[3]

    @cached_property
    def identity(self) -> dict[str, str]:
        """What names this data: its content, not its place."""
        digest = self.digest or identity_of_arrays(self.images, self.labels)
        return {"images": f"{len(self):,} of {self.size[0]} x {self.size[1]} in {len(self.classes)} classes, {digest}"}

    @cached_property
    def _names(self) -> list[str] | None:
        return None if self.folder is None else read_names(self.folder)

    def file_name(self, index: int) -> str:
        """Return the name of the file that an image was prepared from, or its number where that was not kept."""
        return f"image {index}" if self._names is None else self._names[index]

    def fetch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) (channels last in memory) and labels (B,), or (B, classes).

        Pictures are uint8; with a span the images are float32, of which 0 … 255 is the span.
        """
        images = torch.from_numpy(self.scaled(np.ascontiguousarray(self.images[indices])))
        return images.permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return numbers of the store as the model reads them: with a span float32, else as they are."""
        if self.span is None:
            return values
        low, high = self.span
        return (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand a worker process the folder, not the bytes, where the images are memory-mapped."""
        if isinstance(self.images, np.memmap) and self.images.filename is not None:
            return _map, (Path(str(self.images.filename)).parent,)
        return ImageStore, tuple(getattr(self, field.name) for field in fields(self))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageStore":
        """Return some of the images, in memory."""
        images, labels = np.ascontiguousarray(self.images[indices]), self.labels[indices]
        return replace(self, images=images, labels=labels, digest="", folder=None)

    @classmethod
    def open(cls, folder: Path) -> "ImageStore":
        """Map a prepared folder (one split of it) and check it; `check_contents` says what is checked.

        Raises:
            UserError: it is incomplete or damaged.
        """
        index = read_index(folder)
        check_contents(folder, index.get("contents"), AGAIN)
        return _map(folder)


def read_index(folder: Path) -> dict[str, Any]:
    """Return the `store.json` of a prepared folder.

    Raises:
        UserError: it is missing, damaged, or lacks something.
    """
    file = folder / "store.json"
    if not file.exists():
        raise UserError(f"{folder} is not a prepared image set: it has no {file.name}")
    index = read_json(file)
    numbers = [index.get(name) for name in ("n_images", "in_chans")]
    classes = index.get("classes")
    if not (
        all(isinstance(number, int) and number > 0 for number in numbers)
        and is_size(index.get("side"))
        and isinstance(index.get("name"), str)
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
        and (index.get("store") or "raw") in ("raw", "jpeg", "webp")
    ):
        raise UserError(f"{file} is damaged: it does not state images, side, channels and classes; {AGAIN}")
    return index


def _map(folder: Path) -> ImageStore:
    """Map a prepared folder whose content has been checked."""
    index = read_index(folder)
    shape, labels = (index["n_images"], *pair(index["side"]), index["in_chans"]), read_labels(folder, index)
    dtype, measured = np.dtype(index.get("dtype") or "uint8"), _measured(folder, index)
    file = folder / TYPES[str(dtype)][0]
    if (size := file.stat().st_size) != int(np.prod(shape)) * dtype.itemsize:
        raise UserError(f"{folder} is damaged: {size} bytes of images, but store.json states {shape}; {AGAIN}")
    with reading(file, "a block of images"):
        images = np.memmap(file, dtype, "r", shape=shape)
    digest = identity_of_contents(index["contents"])
    return ImageStore(
        index["name"], images, labels, tuple(index["classes"]), digest, **measured,
        deep_range=index.get("deep_range"), folder=folder,
    )  # fmt: skip


def _measured(folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """Return range, means and deviations that an index states of images that keep their files' numbers.

    Raises:
        UserError: they are damaged.
    """
    if index.get("dtype") is None:
        return {}
    lengths = {"span": 2, "mean": index["in_chans"], "std": index["in_chans"]}
    found = {name: index.get(name) for name in lengths}
    numbers = [isinstance(value, list) and len(value) == lengths[name] and all(type(x) is float for x in value)
               for name, value in found.items()]  # fmt: skip
    if index["dtype"] not in TYPES or not all(numbers):
        raise UserError(f"{folder / 'store.json'} is damaged: type, range, mean and deviation do not fit; {AGAIN}")
    return {name: tuple(value) for name, value in found.items()}  # pyright: ignore[reportArgumentType]


def read_labels(folder: Path, index: Mapping[str, Any]) -> np.ndarray:
    """Return the labels of a prepared folder, (N,) int64; where images may have several classes (N, C) int8.

    Raises:
        UserError: they are damaged.
    """
    with reading(folder / "labels.npy", "a list of labels"):
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    n, classes = index["n_images"], index["classes"]
    several = index.get("multi_label") is not None
    if labels.shape != ((n, len(classes)) if several else (n,)) or labels.dtype != (np.int8 if several else np.int64):
        raise UserError(f"{folder} is damaged: {len(labels)} labels, but store.json states {n:,} images; {AGAIN}")
    if labels.min() < -1 or labels.max() >= (2 if several else max(len(classes), 1)):
        raise UserError(f"{folder / 'labels.npy'} is damaged: a label is none of the {len(classes)} classes; {AGAIN}")
    return labels


def read_names(folder: Path) -> list[str] | None:
    """Return the names of the files that a prepared folder's images come from; None: an earlier version kept none.

    Raises:
        UserError: they are damaged.
    """
    index = read_index(folder)
    if (sealed := index.get("names")) is None:
        return None
    check_contents(folder, sealed, AGAIN)
    with reading(folder / NAMES, "a list of names"):
        names = (folder / NAMES).read_bytes().decode().split("\n")[:-1]
    if len(names) != index["n_images"]:
        raise UserError(f"{folder / NAMES} is damaged: {len(names):,} names of {index['n_images']:,} images; {AGAIN}")
    return names
