"""CelebA, decoded once into resized uint8 images."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2mae_core import (
    UserError,
    atomic_path,
    check_output,
    check_space,
    contents_of,
    fingerprint,
    in_processes,
    one_writer,
    read_json,
    reading,
    refuse_changed,
    write_json,
)
from r2mae_vision.celeba.data import INDEX, CelebA, Crop, Split, open_celeba
from r2mae_vision.celeba.lists import SPLITS, Listing, find_images, list_files, read_listing
from r2mae_vision.data.datasets import n_workers
from r2mae_vision.data.decoding import UnreadableImageError, decode
from r2mae_vision.data.image_files import printable

PART_SIZE = 2048  # images decoded between two points from which preparation can resume
PARTS = ".parts"
MISSING = "missing"
FILES = [f"{split}{what}.npy" for split in SPLITS for what in ("", "_attributes")]
NAMED = 20  # images left out that are named
ANOTHER = "put the images back as they were, name another folder with --cache, or remove it"


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
    check_output(cache, [root / "img_align_celeba", *list_files(root)])
    settings = {"side": side, "crop": crop, "digest": f"{listing.digest}-{side}-{crop}"}
    with one_writer(cache, wait=True):  # processes that share a grid share its images
        if (cache / INDEX).exists():
            return _opened(cache, root, settings)
        images = find_images(root)
        sources = fingerprint(images)
        parts = cache / PARTS
        tasks = list(_tasks(listing, images, parts, side, crop))
        # The parts, and the arrays that they are joined into.
        todo = sum(len(task.rows) for task in tasks if not task.part.exists()) + len(listing.files)
        check_space(cache, todo * side * side * 3, f"CelebA at side {side}")
        _open_parts(cache, parts, settings, sources)
        _decode_all(tasks, workers, progress)
        counts, failed = _join(cache, listing, tasks, side)
        n_missing = sum(reason == MISSING for reason in failed.values())
        found = {
            "names": listing.names,
            "counts": counts,
            "left_out": {MISSING: n_missing, "unreadable": len(failed) - n_missing},
            "named": dict(list(failed.items())[:NAMED]),
            "sources": sources,
            "contents": contents_of(cache, FILES),
        }
        write_json(cache / INDEX, {**settings, **found})
        shutil.rmtree(parts, ignore_errors=True)
        return open_celeba(cache)


def _opened(cache: Path, root: Path, settings: dict[str, Any]) -> CelebA:
    """Open a finished set, if it is the one that these settings and images make. The images may be gone."""
    there = read_json(cache / INDEX)
    _refuse_other(cache, there, settings)
    if (root / "img_align_celeba").is_dir():
        refuse_changed(cache, there.get("sources") or {}, fingerprint(find_images(root)), ANOTHER)
    return open_celeba(cache)


def read_image(file: Path, side: int, crop: Crop = "none") -> np.ndarray:
    """Return an image as (side, side, 3) uint8.

    Raises:
        FileNotFoundError: it is missing.
        UnreadableImageError: it is truncated or not an image.
    """
    from PIL import Image

    picture = decode(file)
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


def _open_parts(cache: Path, parts: Path, settings: dict[str, Any], sources: dict[str, str]) -> None:
    """Begin a preparation, or find the finished parts of an interrupted one."""
    file = parts / "settings.json"
    if file.exists():
        there = read_json(file)
        _refuse_other(cache, there, settings)
        refuse_changed(cache, there.get("sources") or {}, sources, ANOTHER)
    elif any(not path.name.startswith(".") for path in cache.iterdir()):
        raise UserError(f"{cache} is not empty and holds no prepared CelebA; name another folder with --cache")
    else:
        write_json(file, {**settings, "sources": sources})


def _refuse_other(cache: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    if other := [key for key in here if there.get(key) != here[key]]:
        shown = "; ".join(f"{key} is {there.get(key)!r} there and {here[key]!r} here" for key in other)
        shown = shown.replace("digest is", "the lists' digest is")
        raise UserError(f"{cache} holds another prepared set: {shown}; name another folder with --cache, or remove it")


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
        except UnreadableImageError as error:
            failed.append(row)
            reasons.append(printable(str(error).replace(str(file), file.name)))
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
        for _, n in in_processes(_decode_part, todo, workers):
            bar.update(n)


def _join(cache: Path, listing: Listing, tasks: list[_Task], side: int) -> tuple[dict[str, int], dict[str, str]]:
    """Write every split's parts into one array; return the counts, and file → reason of what was left out."""
    kept: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.int64)] for split in SPLITS}
    failed: dict[str, str] = {}
    for task in tasks:
        kept[task.split].append(_of_part(task.part, "kept"))
        rows_and_reasons = zip(_of_part(task.part, "failed"), _of_part(task.part, "reasons"), strict=True)
        failed |= {listing.files[row]: str(reason) for row, reason in rows_and_reasons}
    counts = {split: sum(map(len, parts)) for split, parts in kept.items()}
    for split in ("train", "test"):
        if not counts[split]:
            shutil.rmtree(cache / PARTS)  # to be read again once the images are there
            raise UserError(_nothing_read(split, listing, failed))
    for split in SPLITS:
        with atomic_path(cache / PARTS / f"{split}_attributes.npy") as temporary:
            np.save(temporary, listing.attributes[np.concatenate(kept[split])])
        with atomic_path(cache / PARTS / f"{split}.npy") as temporary:
            parts = [task.part for task in tasks if task.split == split]
            _write_images(temporary, parts, (counts[split], side, side, 3))
    for name in FILES:  # all of them are whole
        (cache / PARTS / name).replace(cache / name)
    return counts, failed


def _write_images(target: Path, parts: list[Path], shape: tuple[int, ...]) -> None:
    with target.open("wb") as handle:
        np.lib.format.write_array_header_2_0(
            handle, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        for part in parts:
            handle.write(_of_part(part, "images").tobytes())


def _of_part(part: Path, name: str) -> np.ndarray:
    """Return an array of a part; its checksum is checked when it is read."""
    with (
        reading(part, f"a part of a preparation (remove {part.parent} to start it anew)"),
        np.load(part, allow_pickle=False) as saved,
    ):
        return saved[name]


def _nothing_read(split: str, listing: Listing, failed: dict[str, str]) -> str:
    if not failed:
        return f"the lists name no {split} image"
    file, reason = next(iter(failed.items()))
    return f"no {split} image could be read; {len(failed)} of {len(listing.files)} failed, the first, {file}: {reason}"
