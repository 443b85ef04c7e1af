"""`r2mae-vision prepare`: any source → one block of uint8 squares per part, decoded once."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from r2mae_core import UserError, atomic_path, default_run_path, left_out, say, write_text
from r2mae_vision.data.datasets import n_workers, read_image
from r2mae_vision.data.decoding import UnreadableImageError, decode, pixels, square
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.sources import NoValidationError, Source, open_pair, open_source, stream_tars
from r2mae_vision.data.store import ImageStore

CHUNK = 256
Row = tuple[np.ndarray | None, int, str]
"""(pixels or None, label, why it was skipped)."""


class Rows(NamedTuple):
    """The rows of one part."""

    start_at: Callable[[int], Iterator[Row]]
    """Rows from the given one on, in order."""
    total: int | None
    classes: tuple[str, ...]


class _Squares(Dataset):
    def __init__(self, source: Source, side: int, fit: str, in_chans: int) -> None:
        self.source, self.side, self.fit, self.in_chans = source, side, fit, in_chans

    def __getitem__(self, index: int) -> Row:
        try:
            image, label = read_image(self.source, index, self.in_chans)
        except UnreadableImageError as error:
            return None, -1, f"{_name(self.source, index)}: {error}"
        return pixels(square(image, self.side, self.fit)), label, ""


def _name(source: Source, index: int) -> str:
    return f"image {index}" if isinstance(source, ImageStore) else source.file_name(index)


def prepare(config: Prepare) -> Path:
    """Write the store that the config describes and return its folder. An interrupted run resumes.

    Raises:
        UserError: a source does not fit, nothing could be read, or the folder holds another store.
    """
    out = config.out or default_run_path("r2mae-vision", "prepare")
    settings = {"image_size": config.image_size, "fit": config.fit, "in_chans": config.in_chans}
    for part, spec, rows in _parts(config):
        _write(out / part, rows, {**settings, "source": spec}, config)
    return out


def _parts(config: Prepare) -> Iterator[tuple[str, str, "Rows"]]:
    """Yield (part, what it comes from, its rows)."""
    if config.source.startswith("wds/"):
        yield "train", config.source, Rows(_stream(config.source, config), None, ())
        if config.validation:
            yield "val", config.validation, Rows(_stream(config.validation, config), None, ())
        return
    try:
        train, val = open_pair(config.source, config.validation)
    except NoValidationError:
        train, val = open_source(config.source, "train"), None  # pretraining needs no validation part and no labels
    yield "train", config.source, Rows(_decoded(train, config), len(train), train.classes)
    if val is not None:
        yield "val", config.validation or config.source, Rows(_decoded(val, config), len(val), val.classes)


def _decoded(source: Source, config: Prepare) -> Callable[[int], Iterator[Row]]:
    """Return rows that are decoded in worker processes."""
    workers = n_workers(config.workers)

    def rows_from(start: int) -> Iterator[Row]:
        dataset = _Squares(source, config.image_size, config.fit, config.in_chans)
        loader = DataLoader(
            dataset,
            sampler=range(start, len(source)),
            batch_size=64,
            num_workers=workers if len(source) - start > 512 else 0,
            collate_fn=list,
        )
        for batch in loader:
            yield from batch

    return rows_from


def _stream(spec: str, config: Prepare) -> Callable[[int], Iterator[Row]]:
    """Return rows of WebDataset shards."""

    def rows_from(start: int) -> Iterator[Row]:
        for name, content, label in itertools.islice(stream_tars(spec.removeprefix("wds/")), start, None):
            try:
                image = decode(content, config.in_chans)
            except UnreadableImageError as error:
                yield None, -1, f"{name}: {error}"
                continue
            yield pixels(square(image, config.image_size, config.fit)), label, ""

    return rows_from


def _write(folder: Path, rows: Rows, settings: dict[str, Any], config: Prepare) -> None:
    """Write one part. What an interrupted run wrote is kept; `store.json` appears last."""
    from tqdm import tqdm

    if (folder / "store.json").exists():
        there = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        if {key: there.get(key) for key in settings} == settings:
            say(f"{folder}: there already, {there['n_images']:,} images")
            return
        raise UserError(
            f"{folder} holds images prepared in another way ({there.get('source')}); name another folder with --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    progress = _Progress(folder, settings)
    bar = tqdm(
        desc=f"prepare {folder.name}",
        total=rows.total,
        initial=progress.n_read,
        unit="image",
        disable=not config.progress,
    )
    with (folder / "images.u8").open("r+b" if progress.n_written else "wb") as images, bar:
        images.truncate(progress.n_written * config.image_size**2 * config.in_chans)
        images.seek(0, os.SEEK_END)
        rest = rows.start_at(progress.n_read)
        while chunk := list(itertools.islice(rest, CHUNK)):
            for array, label, why in chunk:
                if array is None:
                    progress.skipped.append(why)
                else:
                    images.write(array.tobytes())
                    progress.labels.append(label)
            images.flush()
            progress.keep(len(chunk))
            bar.update(len(chunk))
    _finish(folder, progress, rows.classes, settings)


def _finish(folder: Path, progress: "_Progress", classes: tuple[str, ...], settings: dict[str, Any]) -> None:
    n, side = len(progress.labels), settings["image_size"]
    if n == 0:
        raise UserError(f"{settings['source']}: none of {progress.n_read} images could be read")
    labels = np.array(progress.labels, dtype=np.int64)
    if not classes and labels.max() >= 0:
        classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    with atomic_path(folder / "labels.npy") as temporary, temporary.open("wb") as file:
        np.save(file, labels)
    if progress.skipped:
        write_text(folder / "skipped.txt", "\n".join(progress.skipped) + "\n")
    name = Path(settings["source"]).name
    meta = {"name": name, "n_images": n, "side": side, **settings, "classes": list(classes)}
    missed = {"unreadable": len(progress.skipped)}
    write_text(folder / "store.json", json.dumps({**meta, "left_out": missed}, indent=2) + "\n")
    (folder / "progress.json").unlink(missing_ok=True)
    size = n * side**2 * settings["in_chans"] / 2**20
    say(f"{folder}: {n:,} images of {side} x {side}, {len(classes)} classes, {size:,.0f} MiB")
    if progress.skipped:
        shown = "; ".join(progress.skipped[:3])
        say(f"{folder}: {left_out(missed)} ({shown}); all in {folder / 'skipped.txt'}")


class _Progress:
    """Progress of an interrupted run: images read, labels of those written, what was skipped."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.file, self.settings = folder / "progress.json", settings
        self.n_read, self.labels, self.skipped = 0, [], []
        if self.file.exists():
            there = json.loads(self.file.read_text(encoding="utf-8"))
            if there["settings"] == settings:
                self.n_read, self.labels, self.skipped = there["n_read"], there["labels"], there["skipped"]

    @property
    def n_written(self) -> int:
        return len(self.labels)

    def keep(self, n: int) -> None:
        self.n_read += n
        state = {"settings": self.settings, "n_read": self.n_read, "labels": self.labels, "skipped": self.skipped}
        if self.n_read % (16 * CHUNK) < CHUNK:
            write_text(self.file, json.dumps(state))


def prepare_command(config: Prepare) -> None:
    """`r2mae-vision prepare`."""
    out = prepare(config)
    say(f"Done: {out}. Next: r2mae-vision pretrain {out}")
