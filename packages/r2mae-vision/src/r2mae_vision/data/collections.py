"""Small public image sets in their own files: scikit-learn's digits and photographs, MNIST, CIFAR-10 and CIFAR-100."""

from pathlib import Path

import numpy as np

from r2mae_core import UserError, read_text, reading
from r2mae_vision.data.store import ImageStore

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PHOTOGRAPH_SIDE = 96
BUNDLED = ("digits", "photographs")
"""Sets that come with scikit-learn."""


def bundled(name: str, split: str) -> ImageStore | None:
    """Return a set that comes with scikit-learn: "digits" or "photographs"; None for another name."""
    if name == "digits":
        return _digits(split)
    return _photographs(split) if name == "photographs" else None


def in_folder(folder: Path, split: str) -> ImageStore | None:
    """Return MNIST or CIFAR from its official files in a folder; None if there are none.

    Raises:
        UserError: they are there but damaged or incomplete.
    """
    if any(folder.glob("*-images*idx3-ubyte*")) or (folder / "MNIST" / "raw").is_dir():
        return _mnist(folder, split)
    for home in (folder, folder / "cifar-10-batches-bin", folder / "cifar-100-binary"):
        if (home / "test_batch.bin").exists():
            return _cifar(home, "cifar10", 1, [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", split)
        if (home / "test.bin").exists() and (home / "fine_label_names.txt").exists():
            return _cifar(home, "cifar100", 2, ["train.bin"], "test.bin", split)
    if (folder / "cifar-10-batches-py").is_dir():
        raise UserError(
            f"{folder} holds CIFAR's Python pickles, which are not loaded here; fetch the binary version "
            "(cifar-10-binary.tar.gz) from the same page"
        )
    return None


def _digits(split: str) -> ImageStore:
    from r2mae_vision.mnist.data import load_images

    data = load_images("digits")
    part = "train" if split == "train" else "test"
    images = getattr(data, f"{part}_images").numpy().reshape(-1, 8, 8, 1).astype(np.uint16) * 255 // 16
    return ImageStore("digits", images.astype(np.uint8), getattr(data, f"{part}_labels").numpy(), tuple("0123456789"))


def _mnist(folder: Path, split: str) -> ImageStore:
    from r2mae_vision.mnist.data import load_images

    data = load_images("mnist", folder)
    part = "train" if split == "train" else "test"
    images = getattr(data, f"{part}_images").numpy().reshape(-1, data.side, data.side, 1)
    # Labels need not begin with 0: those of EMNIST's letters are 1 … 26.
    known = np.unique(data.train_labels.numpy())
    labels = np.searchsorted(known, getattr(data, f"{part}_labels").numpy())
    return ImageStore(data.name, images, labels, tuple(str(label) for label in known))


def _photographs(split: str) -> ImageStore:
    """Return overlapping squares of scikit-learn's two photographs; the right fifth of each is the validation set."""
    from sklearn.datasets import load_sample_images

    pieces, labels = [], []
    for label, picture in enumerate(load_sample_images().images):
        height, width = picture.shape[:2]
        border = width * 4 // 5
        start, stop = (0, border) if split == "train" else (border, width)
        for top in range(0, height - PHOTOGRAPH_SIDE + 1, 16):
            for left in range(start, stop - PHOTOGRAPH_SIDE + 1, 16):
                pieces.append(picture[top : top + PHOTOGRAPH_SIDE, left : left + PHOTOGRAPH_SIDE])
                labels.append(label)
    return ImageStore("photographs", np.stack(pieces), np.array(labels), ("china", "flower"))


def _cifar(home: Path, name: str, n_label_bytes: int, train: list[str], test: str, split: str) -> ImageStore:
    """Read the binary version: per image its label bytes (the last is the finest) and 3 × 32 × 32 bytes."""
    row = n_label_bytes + 3072
    parts = []
    for file in [home / part for part in (train if split == "train" else [test])]:
        if not file.exists():
            raise UserError(f"{home} holds {name} but {file.name} is missing; unpack its archive again")
        with reading(file, "a file of CIFAR"):
            content = np.fromfile(file, np.uint8)
        if len(content) == 0 or len(content) % row:
            raise UserError(f"{file} is truncated: {len(content)} bytes are not a multiple of {row}; fetch it again")
        parts.append(content.reshape(-1, row))
    rows = np.concatenate(parts)
    names = home / ("batches.meta.txt" if name == "cifar10" else "fine_label_names.txt")
    classes = tuple(read_text(names).split()) if names.exists() else CIFAR_CLASSES
    labels = rows[:, n_label_bytes - 1].astype(np.int64)
    if labels.max() >= len(classes):
        raise UserError(f"{home}: a label is {labels.max()}, but there are {len(classes)} classes; is it {name}?")
    images = rows[:, n_label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ImageStore(name, np.ascontiguousarray(images), labels, classes)
