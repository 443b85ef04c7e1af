"""A prepared CelebA: uint8 images in memory-mapped arrays, read in any order at the speed of memory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from r2mae_core import UserError, check_contents, identity_of_contents, left_out, read_json, reading
from r2mae_vision.celeba.lists import SPLITS

INDEX = "meta.json"
RESIDENT_SHARE = 0.5  # of the free GPU memory that the images may take; the rest is the model's
Crop = Literal["none", "center"]
Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class CelebA:
    """A prepared set: what `prepare_celeba` wrote into a folder."""

    folder: Path
    side: int
    crop: Crop
    names: list[str]
    """The 40 attributes."""
    counts: dict[str, int]
    """Images of each split."""
    left_out: dict[str, int]
    """Reason → images."""
    named: dict[str, str]
    """File → reason for the first few of them."""
    digest: str
    """Digest of images and attributes; names the set wherever it lies."""
    _images: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def images(self, split: Split) -> Tensor:
        """Return a split's images, (N, side, side, 3) uint8; on disk until they are read."""
        if split not in self._images:
            # Mode "c": torch wants writable memory; nothing that is written reaches the file.
            mode = "c" if self.counts[split] else None  # nothing cannot be mapped
            self._images[split] = torch.from_numpy(_load(self.folder / f"{split}.npy", mode))
        return self._images[split]

    def attributes(self, split: Split) -> Tensor:
        """Return a split's attributes, (N, 40) uint8, 0 or 1."""
        return torch.from_numpy(_load(self.folder / f"{split}_attributes.npy"))

    @property
    def identity(self) -> dict[str, str]:
        """What names this data: its content, not its place."""
        counts = ", ".join(f"{self.counts[split]:,} {split}" for split in SPLITS)
        return {"CelebA": f"{counts} at {self.side} ({self.crop}), {self.digest}"}

    def summary(self) -> str:
        """Return one line on what was read and what was left out."""
        counts = ", ".join(f"{self.counts[split]} {split}" for split in SPLITS)
        line = f"CelebA at {self.side} × {self.side}: {counts}; {left_out(self.left_out)}"
        if not self.named:
            return line
        named = "; ".join(f"{file}: {reason}" for file, reason in list(self.named.items())[:3])
        return f"{line} ({named}{'; …' if len(self.named) > 3 else ''})"


def _load(file: Path, mode: Any = None) -> np.ndarray:
    with reading(file, "an array of a prepared CelebA"):
        return np.load(file, mmap_mode=mode, allow_pickle=False)


def open_celeba(cache: Path) -> CelebA:
    """Open what `prepare_celeba` wrote, and check it; the original images are no longer needed.

    `check_contents` says what is checked of a large set.

    Raises:
        UserError: the folder holds no finished set, or is damaged.
    """
    file = cache / INDEX
    if not file.exists():
        raise UserError(f"no prepared CelebA in {cache}: it has no {INDEX}")
    index = read_json(file)
    check_contents(cache, index.get("contents"), f"remove {cache} and prepare it again")
    try:
        found = {name: index[name] for name in ("side", "crop", "names", "counts", "left_out", "named")}
    except KeyError as error:
        raise UserError(f"{file} is damaged: it has no {error}; remove {cache} and prepare it again") from None
    return CelebA(cache, **found, digest=identity_of_contents(index["contents"]))


def resident(images: Tensor, device: str) -> Tensor:
    """Return the images where batches are best taken from: on a GPU if half of its free memory holds them.

    All of CelebA at side 64 is 2.5 GB. If there is no room, they stay memory-mapped on disk and are copied in batches.
    """
    if device == "cuda" and images.numel() < RESIDENT_SHARE * torch.cuda.mem_get_info()[0]:
        return images.to(device)
    return images
