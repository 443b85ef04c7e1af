"""A store that several machines prepare: each takes some of the images, `--part I/N`; `--join` puts them together."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r2mae_core import UserError, check_contents
from r2mae_vision.data.sources import UNFINISHED
from r2mae_vision.data.store import read_index
from r2mae_vision.data.writing import refuse_other


def share_of(n_images: int, i: int, n: int) -> range:
    """Return the images of part i of n, which follow those of part i - 1."""
    return range(n_images * (i - 1) // n, n_images * i // n)


def parts_of(out: Path) -> list[Path]:
    """Return the folders of a store's parts, in their order."""
    found = [path for path in (out / UNFINISHED).glob("part-*-of-*") if _numbers(path)]
    return sorted(found, key=_numbers)


def check_parts(
    folders: Sequence[Path], part: str, sources: Mapping[str, str], settings: Mapping[str, Any]
) -> list[Path]:
    """Return the pieces of the training or validation part, in order.

    Args:
        folders: of all parts; see `parts_of`.
        part: "train" or "val".
        sources: names the data.
        settings: of the images.

    Raises:
        UserError: one is missing, not finished, damaged, or made of other data or in another way.
    """
    if not folders:
        raise UserError("there are no parts to join; make them with --part 1/N … --part N/N and the same --out")
    counts = {_numbers(folder)[1] for folder in folders}
    if len(counts) > 1:
        raise UserError(f"{folders[0].parent} has parts of several divisions: {', '.join(f.name for f in folders)}")
    n = counts.pop()
    there = {_numbers(folder)[0] for folder in folders if (folder / part / "store.json").exists()}
    if missing := [f"{i}/{n}" for i in range(1, n + 1) if i not in there]:
        raise UserError(f"parts {', '.join(missing[:10])} are missing or not finished; run them with --part, then join")
    for folder in folders:
        i, _ = _numbers(folder)
        index = read_index(folder / part)
        refuse_other(folder / part, index, sources, {**settings, "part": f"{i}/{n}"})
        check_contents(folder / part, index.get("contents"), f"remove {folder} and run --part {i}/{n} again")
    return [folder / part for folder in folders]


def _numbers(folder: Path) -> tuple[int, int]:
    """Return i and n of a part's folder; nothing for another."""
    found = re.fullmatch(r"part-(\d+)-of-(\d+)", folder.name)
    return (int(found[1]), int(found[2])) if found else ()  # pyright: ignore[reportReturnType]
