"""Images as one block of bytes: what training reads. Memory-mapped from a prepared folder, or made in memory.

A folder holds `train/` and `val/`, each with `images.u8` (N · side · side · channels bytes, nothing else), `labels.npy`
(N,) and `store.json`. Every image can be reached at once, and nothing is decoded in training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2mae_core import UserError


@dataclass(frozen=True)
class ImageStore:
    """N square images of one size with their labels."""

    name: str
    images: np.ndarray
    """(N, side, side, channels) uint8, perhaps memory-mapped."""
    labels: np.ndarray
    """(N,) int64; -1 if there is none."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Height and width."""
        return self.images.shape[1]

    @property
    def in_chans(self) -> int:
        """Channels."""
        return self.images.shape[3]

    def fetch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8 (channels last in memory) and labels (B,)."""
        images = torch.from_numpy(np.ascontiguousarray(self.images[indices]))
        return images.permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand a worker process the folder, not the bytes, where the images are memory-mapped."""
        if isinstance(self.images, np.memmap) and self.images.filename is not None:
            return ImageStore.open, (Path(str(self.images.filename)).parent,)
        return ImageStore, (self.name, self.images, self.labels, self.classes)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageStore":
        """Return some of the images, in memory."""
        return ImageStore(self.name, np.ascontiguousarray(self.images[indices]), self.labels[indices], self.classes)

    @classmethod
    def open(cls, folder: Path) -> "ImageStore":
        """Map a prepared folder (one split of it).

        Raises:
            UserError: it is incomplete.
        """
        try:
            meta = json.loads((folder / "store.json").read_text(encoding="utf-8"))
            shape = (meta["n_images"], meta["side"], meta["side"], meta["in_chans"])
            labels = np.load(folder / "labels.npy", allow_pickle=False)
            size = (folder / "images.u8").stat().st_size
        except FileNotFoundError as error:
            raise UserError(f"{folder} is not a prepared image set: it has no {Path(error.filename).name}") from None
        except (json.JSONDecodeError, KeyError, ValueError, EOFError) as error:
            raise UserError(f"{folder} is damaged ({error}); run r2mae-vision prepare again") from None
        if size != int(np.prod(shape)) or len(labels) != shape[0]:
            raise UserError(
                f"{folder} is damaged: {size} bytes of images and {len(labels)} labels, but store.json states {shape}; "
                "run r2mae-vision prepare again"
            )
        images = np.memmap(folder / "images.u8", np.uint8, "r", shape=shape)
        return cls(meta["name"], images, labels, tuple(meta["classes"]))
