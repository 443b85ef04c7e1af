"""Small image sets that live on the device as a whole: scikit-learn's digits and MNIST (paper, C.3)."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from r2mae_core import UserError, reading
from r2mae_vision.data.digests import identity_of_arrays

_IDX_TYPES = {0x08: np.uint8, 0x09: np.int8, 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_CLASSES = 1000
_MNIST_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class ImageData:
    """A labelled image set, flattened: images (N, pixels) uint8, labels (N,) int64."""

    name: str
    side: int
    """Height and width; pixels = side²."""
    white: int
    """The pixel value that means 1.0."""
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def n_pixels(self) -> int:
        """Pixels of an image."""
        return self.train_images.shape[1]

    @property
    def n_classes(self) -> int:
        """Classes: labels are 0 … n_classes - 1."""
        return int(self.train_labels.max()) + 1

    @cached_property
    def identity(self) -> dict[str, str]:
        """What names this data: its content, not its place."""
        train = identity_of_arrays(self.train_images.numpy(), self.train_labels.numpy())
        test = identity_of_arrays(self.test_images.numpy(), self.test_labels.numpy())
        return {
            "training images": f"{len(self.train_images):,} of {self.side} x {self.side}, {train}",
            "test images": f"{len(self.test_images):,} of {self.side} x {self.side}, {test}",
        }

    def to(self, device: str) -> "ImageData":
        """Return the set on a device."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def scale(self, images: Tensor) -> Tensor:
        """Return images as float32 in [0, 1]."""
        return images.float() / self.white


def load_images(name: str, root: Path | None = None, download: bool = False) -> ImageData:
    """Load an image set.

    Args:
        name: "digits" (bundled with scikit-learn: 1,797 images of 8 × 8) or "mnist" (MNIST's four files, or those of
            another set in the same layout; it is then called as its folder is).
        root: folder of the MNIST files, also searched below `MNIST/raw`.
        download: let torchvision fetch MNIST into `root` first.

    Raises:
        UserError: the set is unknown, or its files are missing, truncated or not what they should be.
    """
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist(root, download)
    raise UserError(f"unknown data set {name!r}; known: digits, mnist")


def load_digits_or_mnist(data: str | None, download: bool = False) -> ImageData:
    """Load "digits", or MNIST from the folder of its four files."""
    return _digits() if data == "digits" else _mnist(Path(data) if data else None, download)


def _digits() -> ImageData:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    images, labels = pixels.astype(np.uint8), digits.astype(np.int64)
    # The set has no official split: a quarter for testing, the same for everyone.
    split = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, split)
    return ImageData("digits", 8, 16, train_images, train_labels, test_images, test_labels)


def _mnist(root: Path | None, download: bool) -> ImageData:
    if root is None:
        raise UserError(
            "mnist needs --data DIR, a folder with "
            + ", ".join(_MNIST_FILES.values())
            + " (or the same with .gz); with --download they are fetched into it"
        )
    if download:
        _download_mnist(root)
    files = {part: _find(root, name) for part, name in _MNIST_FILES.items()}
    arrays = {part: read_idx(file) for part, file in files.items()}
    for part, array in arrays.items():
        if part.endswith("images"):
            if array.ndim != 3 or array.shape[1] != array.shape[2] or array.dtype != np.uint8 or not array.size:
                raise UserError(f"{files[part]} should hold square images of bytes, but it holds {_described(array)}")
        elif array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            raise UserError(f"{files[part]} should hold labels, but it holds {_described(array)}")
        elif array.min() < 0 or array.max() >= _MOST_CLASSES:
            bad = int(np.flatnonzero((array < 0) | (array >= _MOST_CLASSES))[0])
            raise UserError(f"{files[part]}: label {bad} is {array[bad]}, not one of 0 … {_MOST_CLASSES - 1}")
    for split in ("train", "test"):
        n_images, n_labels = len(arrays[f"{split}_images"]), len(arrays[f"{split}_labels"])
        if n_images != n_labels:
            raise UserError(f"{root}: {n_images} {split} images but {n_labels} {split} labels")
    train, test = arrays["train_labels"], arrays["test_labels"]
    if unknown := sorted(set(test.tolist()) - set(train.tolist())):
        shown = ", ".join(map(str, unknown[:5]))
        raise UserError(f"{files['test_labels']} has labels that the training images do not have: {shown}")
    sides = [arrays[f"{split}_images"].shape[1] for split in ("train", "test")]
    if sides[0] != sides[1]:
        raise UserError(f"{root}: training images have {sides[0]} pixels a side, test images {sides[1]}")
    return ImageData(
        _name_of(files["train_images"]),
        arrays["train_images"].shape[1],
        255,
        torch.from_numpy(arrays["train_images"].reshape(len(arrays["train_images"]), -1)),
        torch.from_numpy(arrays["train_labels"].astype(np.int64)),
        torch.from_numpy(arrays["test_images"].reshape(len(arrays["test_images"]), -1)),
        torch.from_numpy(arrays["test_labels"].astype(np.int64)),
    )


def _name_of(file: Path) -> str:
    """Return what a set is called: its folder's name, without the `raw` of torchvision's layout.

    The same files hold MNIST, Fashion-MNIST, KMNIST and EMNIST, so they do not say which it is.
    """
    home = file.resolve().parent
    return home.parent.name if home.name == "raw" and home.parent.name else home.name or "idx"


def _described(array: np.ndarray) -> str:
    return f"{array.dtype.name} of shape {array.shape}"


def _find(root: Path, name: str) -> Path:
    """Return the path of an MNIST file; some mirrors write a dot before `idx`."""
    dotted = name.replace("-idx", ".idx")
    for folder in (root, root / "MNIST" / "raw"):
        for candidate in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
            if (folder / candidate).is_file():
                return folder / candidate
    raise UserError(f"no {name} or {name}.gz in {root}; give the folder of the four MNIST files, or add --download")


def _download_mnist(root: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"torchvision could not download MNIST ({error}); put the four files into {root} and leave out --download"
        ) from None


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file, plain or gzipped.

    Returns:
        the array; uint8 for the MNIST files.

    Raises:
        UserError: the file is not IDX, is truncated, or holds more than its header says.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with reading(path, "an IDX file"):
        try:
            # A packed file is read as far as its header says: it may unpack to any size.
            with gzip.open(path, "rb") if packed else path.open("rb") as file:
                return _read(path, file, None if packed else path.stat().st_size)  # pyright: ignore[reportArgumentType]
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path} is truncated or damaged ({error}); fetch it again") from None


def _read(path: Path, file: BinaryIO, size: int | None) -> np.ndarray:
    """Read an IDX file that is open; `size` is that of the file where it is known."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_TYPES or start[3] == 0:
        raise UserError(f"{path} is not an IDX file: it starts with {start.hex(' ') or 'nothing'}")
    n_dims = start[3]
    rest, header = file.read(4 * n_dims), 4 + 4 * n_dims
    if len(rest) < 4 * n_dims:
        raise UserError(f"{path} is truncated: {4 + len(rest)} bytes, its header alone needs {header}")
    shape = struct.unpack(f">{n_dims}I", rest)
    dtype = np.dtype(_IDX_TYPES[start[2]])
    expected = header + math.prod(shape) * dtype.itemsize
    if size is not None and size != expected:
        content, found = b"", size
    else:
        content = file.read(min(expected - header + 1, 2**62))
        found = header + len(content)
    if found != expected:
        state = "truncated" if found < expected else "too long"
        more = "at least " if size is None and found > expected else ""
        raise UserError(f"{path} is {state}: {more}{found} bytes, its header says {expected}; fetch it again")
    return np.frombuffer(content, dtype).reshape(shape).copy()
