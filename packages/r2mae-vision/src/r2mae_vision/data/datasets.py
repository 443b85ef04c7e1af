"""Decoding and timm's augmentation in worker processes, each sample seeded by (seed, epoch, index)."""

import contextlib
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from r2mae_core import ResumableLoader, StepOrder, UserError, derived_seed, of_worker
from r2mae_vision.data.augment import RandomCrop, centre_crop
from r2mae_vision.data.decoding import UnreadableImageError, pixels, reframed
from r2mae_vision.data.encoded import quick_reader
from r2mae_vision.data.image_files import ImageFiles
from r2mae_vision.data.multilabel import label_at
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sizes import pair
from r2mae_vision.data.sources import Source
from r2mae_vision.data.store import ImageStore

MAX_SKIPS = 100


@dataclass(frozen=True)
class EpochOrder(StepOrder):
    """Batches of (index, epoch): the epoch lets a worker draw another augmentation of the same image."""

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return (micro_size, 2) int64."""
        indices = super().batch(position, rank, world_size)
        return np.stack([indices, np.full_like(indices, position // self.n_batches(world_size))], axis=1)


class AugmentedImages(Dataset):
    """Images of any source through a transform of timm, as uint8.

    A key is (index, epoch). An image that cannot be decoded is replaced by the next one that can, and its index is
    returned with the batch, so that it can be counted and named.

    Args:
        source: where images come from.
        transform: PIL image → (C, H, W) uint8 array, of timm or a `RandomCrop`.
        in_chans: channels that the model reads.
        seed: for the transform.
        least: as in `decode`; see `least_side`.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Any], np.ndarray] | RandomCrop,
        in_chans: int,
        seed: int,
        least: int | None = None,
    ) -> None:
        self.source, self.transform, self.in_chans, self.seed = source, transform, in_chans, seed
        self.least = least
        self.quick = quick_reader(source, in_chans, least) if isinstance(transform, RandomCrop) else None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Sequence[int]) -> tuple[np.ndarray, Any, list[int]]:
        index, epoch = int(key[0]), int(key[1])
        image, label, bad = self._readable(index)
        seed = derived_seed(self.seed, "augment", epoch, index)
        if isinstance(self.transform, RandomCrop):
            return self.transform(image, torch.Generator().manual_seed(seed % 2**63)), label, bad
        with seeded(seed):
            return np.asarray(self.transform(image)), label, bad

    def _readable(self, index: int) -> tuple[Any, Any, list[int]]:
        bad: list[int] = []
        why = ""
        for step in range(min(MAX_SKIPS, len(self.source))):
            at = (index + step) % len(self.source)
            try:
                image, label = self._read(at)
            except UnreadableImageError as error:
                bad.append(at)
                why = why or str(error)
                continue
            return image, label, bad
        n = min(MAX_SKIPS, len(self.source))
        raise UserError(f"{n} images in a row of {self.source.name} cannot be decoded, from number {index} on: {why}")

    def _read(self, index: int) -> tuple[Any, Any]:
        if self.quick is not None:
            return self.quick.pixels(index), label_at(self.source.labels, index)
        return read_image(self.source, index, self.in_chans, self.least)


def read_image(source: Source, index: int, in_chans: int, least: int | None = None) -> tuple[Any, Any]:
    """Return (PIL image, label) of any source; `least` as in `decode`.

    Of prepared images that keep the numbers of their files, the image is (H, W, C) float32 of 0 … 255.

    Raises:
        UnreadableImageError: the file cannot be decoded.
    """
    if isinstance(source, ImageFiles):
        return source.read(index, in_chans, least)
    from PIL import Image

    from r2mae_vision.data.decoding import convert

    pixels = source.images[index]
    if source.span is not None:
        return source.scaled(np.asarray(pixels)), label_at(source.labels, index)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    return convert(picture, in_chans), label_at(source.labels, index)


def sample_images(source: Source, n: int, size: int | tuple[int, int], in_chans: int) -> Tensor:
    """Return images spread evenly over a source, (B, C, H, W) uint8, without those that cannot be decoded."""
    return sample_labelled(source, n, size, in_chans)[0]


def sample_labelled(source: Source, n: int, size: int | tuple[int, int], in_chans: int) -> tuple[Tensor, Tensor]:
    """Return images spread evenly over a source, (B, C, H, W) of 0 … 255, and their labels (B,) or (B, classes).

    A label of -1 is none. Of images of other proportions the middle. Images that cannot be decoded are left out.
    """
    size = pair(size)
    chosen = np.linspace(0, len(source) - 1, min(n, len(source))).round().astype(int)
    if isinstance(source, ImageStore) and source.span is not None:
        images, labels = source.fetch(chosen)
        return centre_crop(images, size), labels
    if isinstance(source, ImageStore) and source.size == size:
        return source.fetch(chosen)
    pictures, labels, bad = [], [], list[str]()
    for index in chosen:
        try:
            image, label = read_image(source, int(index), in_chans, least=2 * max(size))
        except UnreadableImageError as error:
            bad.append(f"{source.file_name(int(index))}: {error}")
            continue
        pictures.append(pixels(reframed(image, size, "crop")))
        labels.append(label)
    if not pictures:
        raise UserError(f"none of {len(chosen)} images of {source.name} can be decoded ({bad[0]})")
    if bad:
        say_once(f"{source.name}: {len(bad)} of {len(chosen)} images cannot be decoded and are left out ({bad[0]})")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.from_numpy(np.array(labels))


def least_side(size: int | tuple[int, int], area: float) -> int:
    """Return the shorter side of a picture whose random crops of at least this area are not enlarged.

    Args:
        size: what the crops become.
        area: of the smallest crop, as a fraction of the picture's; its proportions are to those of the size as 3 to 4
            at most.
    """
    return math.ceil(math.sqrt(math.prod(pair(size)) / (0.75 * area)))


def n_workers(asked: int | None) -> int:
    """Return how many processes decode images: what was asked for, or one per core."""
    return asked if asked is not None else (os.cpu_count() or 1)


def from_workers(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield a DataLoader's batches; its processes end with the iteration, and their errors are one line.

    Raises:
        UserError: what a worker raised, without its traceback; or a worker was ended from outside.
    """
    batches = iter(loader)
    try:
        yield from batches
    except (UserError, RuntimeError) as error:
        raise of_worker(error) from None
    finally:
        if hasattr(batches, "_shutdown_workers"):  # at once, not when the garbage is collected
            batches._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]


def collate(samples: Sequence[tuple[np.ndarray, Any, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (images (B, C, H, W) uint8, labels (B,) or (B, classes), indices of unreadable images)."""
    images = torch.from_numpy(np.stack([image for image, _, _ in samples]))
    labels = torch.from_numpy(np.array([label for _, label, _ in samples]))
    return images, labels, torch.tensor([i for _, _, bad in samples for i in bad], dtype=torch.int64)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the three generators that timm's transforms draw from, and put them back afterwards."""
    # ruff: noqa: NPY002 (timm draws from numpy's old global generator)
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def train_loader(
    source: Source,
    transform: Callable[[Any], np.ndarray] | RandomCrop | None,
    order: StepOrder,
    *,
    in_chans: int,
    num_workers: int = 0,
    device: str = "cpu",
    least: int | None = None,
) -> ResumableLoader:
    """Return a loader that resumes in mid-epoch.

    Args:
        source: where images come from.
        transform: of timm, in the workers; None: prepared images as they are, to be augmented on the device.
        order: which images come when; its seed is also that of the transform.
        in_chans: channels that the model reads.
        num_workers: processes that decode.
        device: where the batches go; a GPU gets pinned memory.
        least: as in `decode`.

    Raises:
        UserError: the images have other channels than the model.
    """
    pin = device == "cuda"
    if transform is None:
        if not isinstance(source, ImageStore):
            raise UserError(f"{source.name} is not prepared, so its images need a transform")
        check_channels(source, in_chans)

        def fetch(indices: np.ndarray) -> tuple[Tensor, ...]:
            batch = source.fetch(indices)
            return tuple(part.pin_memory() for part in batch) if pin else batch

        return ResumableLoader(order, fetch)
    return ResumableLoader(
        EpochOrder(**vars(order)),
        dataset=AugmentedImages(source, transform, in_chans, order.seed, least),
        collate=collate,
        num_workers=num_workers,
        pin_memory=pin,
    )


def check_range(source: Source, pixel_range: tuple[float, float] | None) -> None:
    """Refuse images whose numbers mean something else than those that a model was trained on.

    Args:
        source: images.
        pixel_range: of the model's training images, if it was trained on numbers of files; None: on pictures.

    Raises:
        UserError: they have no range, or another one.
    """
    there = source.span if isinstance(source, ImageStore) else None
    if pixel_range is None or there == pixel_range:
        return
    asked = f"[{pixel_range[0]:g},{pixel_range[1]:g}]"
    kind = "are pictures" if there is None else f"have the range [{there[0]:g},{there[1]:g}]"
    raise UserError(
        f"the model was trained on numbers of the range {asked}, and the images of {source.name} {kind}; "
        f"prepare them with --depth file --range '{asked}'"
    )


def check_channels(store: ImageStore, in_chans: int) -> None:
    """Refuse prepared images with other channels than the model's.

    Raises:
        UserError: they differ.
    """
    if store.in_chans != in_chans:
        raise UserError(
            f"{store.name} has {store.in_chans} channels, the model reads {in_chans}; use --in_chans {store.in_chans}"
        )
