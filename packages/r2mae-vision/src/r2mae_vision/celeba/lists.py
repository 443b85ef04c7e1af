"""CelebA's own lists: which image has which attributes, and which split it belongs to.

Both come in two forms: the original `.txt` (attributes: the number of images, the 40 names, then a line per image;
partition: a line per image) and Kaggle's `.csv`, with a header line.
"""

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2mae_core import UserError

SPLITS = ("train", "valid", "test")  # 0, 1, 2 in the partition file
N_ATTRIBUTES = 40


@dataclass(frozen=True)
class Listing:
    """Contents of the two lists: F image files, in the order of the attribute list."""

    files: list[str]
    names: list[str]
    """The 40 attributes."""
    attributes: np.ndarray
    """(F, 40) uint8, 1 where the list says 1 and 0 where it says -1."""
    split: np.ndarray
    """(F,) uint8: 0 train, 1 valid, 2 test."""
    digest: str
    """Digest of all of the above."""


def read_listing(root: Path) -> Listing:
    """Read attribute and partition list below `root`, `.txt` or `.csv`.

    Raises:
        UserError: a list is missing, broken, or does not match the other one.
    """
    names, attributes, attribute_file = _read_attributes(root)
    parts, partition_file = _read_partition(root)
    for one, other, here, there in (
        (attributes, parts, attribute_file, partition_file),
        (parts, attributes, partition_file, attribute_file),
    ):
        if missing := [name for name in one if name not in other]:
            raise UserError(
                f"{here.name} lists {len(missing)} images that {there.name} does not: {_first(missing)}; "
                "the two lists must be of the same set"
            )
    files = list(attributes)
    values = np.stack([attributes[file] for file in files])
    split = np.array([parts[file] for file in files], dtype=np.uint8)
    digest = hashlib.sha256("\n".join([*names, *files]).encode() + values.tobytes() + split.tobytes()).hexdigest()
    return Listing(files, names, values, split, digest[:16])


def list_files(root: Path) -> list[Path]:
    """Return the files of the two lists, those that are there."""
    names = [f"{stem}.{suffix}" for stem in ("list_attr_celeba", "list_eval_partition") for suffix in ("txt", "csv")]
    return [root / name for name in names if (root / name).is_file()]


def find_images(root: Path) -> Path:
    """Return the folder of the images: `img_align_celeba`, or Kaggle's folder of that name inside it."""
    outer = root / "img_align_celeba"
    for folder in (outer / "img_align_celeba", outer):
        if folder.is_dir():
            return folder
    raise UserError(f"no folder img_align_celeba in {root}; unpack img_align_celeba.zip there")


def _first(items: list[str], n: int = 3) -> str:
    return ", ".join(items[:n]) + (", …" if len(items) > n else "")


def _find(root: Path, stem: str) -> Path:
    for name in (f"{stem}.txt", f"{stem}.csv"):
        if (root / name).is_file():
            return root / name
    raise UserError(f"no {stem}.txt or {stem}.csv in {root}; give the folder that holds CelebA's lists and its images")


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, words) of the lines that are not empty."""
    separator = "," if file.suffix == ".csv" else None
    try:
        with file.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield number, [word.strip() for word in line.strip().split(separator)]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _check_name(name: str, seen: Container[str], file: Path, number: int) -> None:
    """Refuse what is not the name of a file in the images' folder, or was listed before."""
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise UserError(f"{file}, line {number}: {name[:60]!r} is not the name of an image in the images' folder")
    if name in seen:
        raise UserError(f"{file}, line {number}: {name} is listed twice")


def _read_attributes(root: Path) -> tuple[list[str], dict[str, np.ndarray], Path]:
    file = _find(root, "list_attr_celeba")
    lines = _lines(file)
    announced = None
    if file.suffix == ".txt":
        _, words = next(lines, (1, [""]))
        if len(words) != 1 or not words[0].isdecimal() or len(words[0]) > 12:
            raise UserError(f"{file}, line 1: the number of images should be here, not {' '.join(words)[:40]!r}")
        announced = int(words[0])
    number, names = next(lines, (2, []))
    if file.suffix == ".csv":
        names = names[1:]  # image_id
    if len(set(names)) != len(names):
        raise UserError(f"{file}, line {number}: an attribute is named twice")
    if len(names) != N_ATTRIBUTES:
        raise UserError(f"{file}, line {number}: {len(names)} attribute names, CelebA has {N_ATTRIBUTES}")
    rows: dict[str, np.ndarray] = {}
    for number, words in lines:
        values = words[1:]
        if len(values) != N_ATTRIBUTES or not {"1", "-1"}.issuperset(values):
            raise UserError(
                f"{file}, line {number}: a file name and {N_ATTRIBUTES} values of 1 or -1 should be here, "
                f"found {len(values)}: {' '.join(values)[:60]}"
            )
        _check_name(words[0], rows, file, number)
        rows[words[0]] = np.array([value == "1" for value in values], dtype=np.uint8)
    if announced is not None and announced != len(rows):
        raise UserError(f"{file}: line 1 announces {announced} images, but {len(rows)} listed; the file is incomplete")
    if not rows:
        raise UserError(f"{file} lists no image")
    return names, rows, file


def _read_partition(root: Path) -> tuple[dict[str, int], Path]:
    file = _find(root, "list_eval_partition")
    lines = _lines(file)
    if file.suffix == ".csv":
        next(lines, None)  # image_id,partition
    rows: dict[str, int] = {}
    for number, words in lines:
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise UserError(
                f"{file}, line {number}: a file name and 0 (train), 1 (valid) or 2 (test) should be here, "
                f"not {' '.join(words)[:60]!r}"
            )
        _check_name(words[0], rows, file, number)
        rows[words[0]] = int(words[1])
    if not rows:
        raise UserError(f"{file} lists no image")
    return rows, file
