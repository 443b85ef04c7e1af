"""CelebA, decoded once: resized uint8 images in memory-mapped arrays, read in any order at the speed of memory."""

import json
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from r2mae_core import UserError, atomic_path, left_out, write_text
from r2mae_vision.celeba.lists import SPLITS, Listing, find_images, read_listing
from r2mae_vision.data.datasets import n_workers

PART_SIZE = 2048  # images decoded between two points from which preparation can resume
PARTS = ".parts"
MISSING = "missing"
NAMED = 20  # images left out that are named
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
    """Digest of the lists and the settings; identifies the set."""
    _images: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def images(self, split: Split) -> Tensor:
        """Return a split's images, (N, side, side, 3) uint8; on disk until they are read."""
        if split not in self._images:
            # Mode "c": torch wants writable memory; nothing that is written reaches the file.
            mode = "c" if self.counts[split] else None  # nothing cannot be mapped
            self._images[split] = torch.from_numpy(np.load(self.folder / f"{split}.npy", mmap_mode=mode))
        return self._images[split]

    def attributes(self, split: Split) -> Tensor:
        """Return a split's attributes, (N, 40) uint8, 0 or 1."""
        return torch.from_numpy(np.load(self.folder / f"{split}_attributes.npy"))

    def summary(self) -> str:
        """Return one line on what was read and what was left out."""
        counts = ", ".join(f"{self.counts[split]} {split}" for split in SPLITS)
        line = f"CelebA at {self.side} × {self.side}: {counts}; {left_out(self.left_out)}"
        if not self.named:
            return line
        named = "; ".join(f"{file}: {reason}" for file, reason in list(self.named.items())[:3])
        return f"{line} ({named}{'; …' if len(self.named) > 3 else ''})"


def open_celeba(cache: Path) -> CelebA:
    """Open what `prepare_celeba` wrote; the original images are no longer needed.

    Raises:
        UserError: the folder holds no finished set.
    """
    try:
        meta = json.loads((cache / "meta.json").read_text(encoding="utf-8"))
        return CelebA(cache, **meta)
    except FileNotFoundError:
        raise UserError(f"no prepared CelebA in {cache}: it has no meta.json") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{cache / 'meta.json'} is damaged ({error}); remove {cache} and prepare again") from None


def resident(images: Tensor, device: str) -> Tensor:
    """Return the images where batches are best taken from: on a GPU if half of its free memory holds them.

    All of CelebA at side 64 is 2.5 GB. If there is no room, they stay memory-mapped on disk and are copied in batches.
    """
    if device == "cuda" and images.numel() < RESIDENT_SHARE * torch.cuda.mem_get_info()[0]:
        return images.to(device)
    return images


def prepare_celeba(
    root: Path, cache: Path, *, side: int = 64, crop: Crop = "none", workers: int | None = None, progress: bool = True
) -> CelebA:
    """Decode and resize every listed image once; if that was done before with the same settings, open the result.

    An interrupted preparation resumes where it stopped. Images that are missing, truncated or not images are left
    out, counted and named. Grey and transparent images become RGB.

    Args:
        root: folder with `img_align_celeba`, `list_attr_celeba` and `list_eval_partition` (`.txt` or `.csv`).
        cache: folder to write to; about 12 kB per image at side 64, twice that for a moment.
        side: height and width after resizing (bilinear with antialiasing).
        crop: "none" resizes the whole 178 × 218 picture, and so changes its proportions; "center" first cuts the
            central square.
        workers: processes that decode; None: one per core, or this one where it has little to do.
        progress: show a progress bar.

    Raises:
        UserError: a list is missing or broken, no image could be read, or the folder holds another set.
    """
    if side < 1 or crop not in ("none", "center"):
        raise UserError(f"side must be at least 1 and crop none or center, got side={side}, crop={crop!r}")
    listing = read_listing(root)
    settings = {"side": side, "crop": crop, "digest": f"{listing.digest}-{side}-{crop}"}
    if (cache / "meta.json").exists():
        store = open_celeba(cache)
        _refuse_other(cache, {key: getattr(store, key) for key in settings}, settings)
        return store
    parts = cache / PARTS
    _open_parts(cache, parts, settings)
    tasks = list(_tasks(listing, find_images(root), parts, side, crop))
    _decode_all(tasks, workers, progress)
    counts, failed = _join(cache, listing, tasks, side)
    n_missing = sum(reason == MISSING for reason in failed.values())
    found = {
        "names": listing.names,
        "counts": counts,
        "left_out": {MISSING: n_missing, "unreadable": len(failed) - n_missing},
        "named": dict(list(failed.items())[:NAMED]),
    }
    write_text(cache / "meta.json", json.dumps({**settings, **found}, indent=1) + "\n")
    shutil.rmtree(parts, ignore_errors=True)
    return open_celeba(cache)


def read_image(file: Path, side: int, crop: Crop = "none") -> np.ndarray:
    """Return an image as (side, side, 3) uint8.

    Raises:
        OSError, SyntaxError, ValueError: what Pillow raises for files that are missing, truncated or not images.
    """
    from PIL import Image

    with Image.open(file) as picture:
        picture = picture.convert("RGB")
        if crop == "center":
            edge = min(picture.size)
            left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
            picture = picture.crop((left, top, left + edge, top + edge))
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class _Task:
    """A stretch of one split: which rows of the listing, and where their images go."""

    split: Split
    rows: np.ndarray
    files: list[Path]
    part: Path
    side: int
    crop: Crop


def _tasks(listing: Listing, folder: Path, parts: Path, side: int, crop: Crop) -> Iterator[_Task]:
    for code, split in enumerate(SPLITS):
        rows = np.flatnonzero(listing.split == code)
        for i, start in enumerate(range(0, len(rows), PART_SIZE)):
            some = rows[start : start + PART_SIZE]
            files = [folder / listing.files[row] for row in some]
            yield _Task(split, some, files, parts / f"{split}-{i:04d}.npz", side, crop)


def _open_parts(cache: Path, parts: Path, settings: dict[str, Any]) -> None:
    """Begin a preparation, or find the finished parts of an interrupted one."""
    file = parts / "settings.json"
    if file.exists():
        _refuse_other(cache, json.loads(file.read_text(encoding="utf-8")), settings)
    elif cache.exists() and any(not path.name.startswith(".") for path in cache.iterdir()):
        raise UserError(f"{cache} is not empty and holds no prepared CelebA; name another folder")
    else:
        write_text(file, json.dumps(settings) + "\n")


def _refuse_other(cache: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    if other := [key for key in here if there.get(key) != here[key]]:
        shown = "; ".join(f"{key} is {there.get(key)!r} there and {here[key]!r} here" for key in other)
        raise UserError(f"{cache} holds another prepared set: {shown}; name another folder, or remove it")


def _decode_part(task: _Task) -> int:
    """Decode a stretch, write it atomically, and return how many images it had."""
    images, kept, failed, reasons = [], [], [], []
    for row, file in zip(task.rows, task.files, strict=True):
        try:
            images.append(read_image(file, task.side, task.crop))
            kept.append(row)
        except FileNotFoundError:
            failed.append(row)
            reasons.append(MISSING)
        except (OSError, SyntaxError, ValueError) as error:
            failed.append(row)
            reasons.append(str(error).replace(str(file), file.name))
    stacked = np.stack(images) if images else np.empty((0, task.side, task.side, 3), np.uint8)
    with atomic_path(task.part) as temporary:
        np.savez(
            temporary,
            images=stacked,
            kept=np.array(kept, np.int64),
            failed=np.array(failed, np.int64),
            reasons=np.array(reasons, np.str_),
        )
    return len(task.rows)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers


def _decode_all(tasks: list[_Task], workers: int | None, progress: bool) -> None:
    todo = [task for task in tasks if not task.part.exists()]
    total = sum(len(task.rows) for task in tasks)
    if workers is None:
        workers = n_workers(None) if total > PART_SIZE else 0  # starting a process takes longer than a part
    bar = tqdm(
        desc="decoding",
        total=total,
        initial=total - sum(len(task.rows) for task in todo),
        unit="image",
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        disable=not progress,
    )
    with bar:
        if workers < 1:
            for task in todo:
                bar.update(_decode_part(task))
            return
        # Not fork: the parent has threads.
        with multiprocessing.get_context("spawn").Pool(workers, _ignore_interrupt) as pool:
            for n in pool.imap_unordered(_decode_part, todo):
                bar.update(n)


def _join(cache: Path, listing: Listing, tasks: list[_Task], side: int) -> tuple[dict[str, int], dict[str, str]]:
    """Write every split's parts into one array; return the counts, and file → reason of what was left out."""
    kept: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.int64)] for split in SPLITS}
    failed: dict[str, str] = {}
    for task in tasks:
        with np.load(task.part) as saved:
            kept[task.split].append(saved["kept"])
            rows_and_reasons = zip(saved["failed"], saved["reasons"], strict=True)
            failed |= {listing.files[row]: str(reason) for row, reason in rows_and_reasons}
    counts = {split: sum(map(len, parts)) for split, parts in kept.items()}
    for split in ("train", "test"):
        if not counts[split]:
            shutil.rmtree(cache / PARTS)  # to be read again once the images are there
            raise UserError(_nothing_read(split, listing, failed))
    for split in SPLITS:
        with atomic_path(cache / f"{split}_attributes.npy") as temporary:
            np.save(temporary, listing.attributes[np.concatenate(kept[split])])
        with atomic_path(cache / f"{split}.npy") as temporary:
            parts = [task.part for task in tasks if task.split == split]
            _write_images(temporary, parts, (counts[split], side, side, 3))
    return counts, failed


def _write_images(target: Path, parts: list[Path], shape: tuple[int, ...]) -> None:
    with target.open("wb") as handle:
        np.lib.format.write_array_header_2_0(
            handle, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        for part in parts:
            with np.load(part) as saved:
                handle.write(saved["images"].tobytes())


def _nothing_read(split: str, listing: Listing, failed: dict[str, str]) -> str:
    if not failed:
        return f"the lists name no {split} image"
    file, reason = next(iter(failed.items()))
    return f"no {split} image could be read; {len(failed)} of {len(listing.files)} failed, the first, {file}: {reason}"
