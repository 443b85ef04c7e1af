"""`r2mae-vision prepare`: any source → one block of uint8 squares per part, decoded once.

The parts lie in `.preparing/` until all of them are whole, and are then moved to their places.
"""

import io
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from r2mae_core import (
    UserError,
    check_output,
    check_space,
    default_run_path,
    end_with_caller,
    fingerprint,
    left_out,
    one_writer,
    say,
    write_json,
)
from r2mae_vision.data.datasets import from_workers, n_workers, read_image
from r2mae_vision.data.decoding import (
    MAX_PIXELS,
    OutsideRangeError,
    Reading,
    UnreadableImageError,
    decode,
    pixels,
    square,
)
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.ranges import SURVEYED, ranged
from r2mae_vision.data.sources import (
    PARTS,
    UNFINISHED,
    NoValidationError,
    Source,
    is_prepared,
    open_parts,
    open_source,
    printable,
)
from r2mae_vision.data.store import ImageStore, read_index
from r2mae_vision.data.tars import shards_of, stream_tars
from r2mae_vision.data.writing import CHUNK, PartWriter, Row, refuse_other

ANOTHER = "name another folder with --out"


class Plan(NamedTuple):
    """What one part is made of."""

    source: str
    """What the user named."""
    rows_from: Callable[[int], Iterator[Row]]
    """Rows from the given one on, in order."""
    total: int | None
    classes: tuple[str, ...]
    sources: dict[str, str]
    """Names the data; see `fingerprint`."""


class _Squares(Dataset):
    def __init__(self, source: Source, side: int, fit: str, in_chans: int) -> None:
        self.source, self.side, self.fit, self.in_chans = source, side, fit, in_chans

    def __getitem__(self, index: int) -> Row:
        try:
            image, label = read_image(self.source, index, self.in_chans)
        except UnreadableImageError as error:
            return None, -1, f"{_name(self.source, index)}: {printable(str(error))}"
        return pixels(square(image, self.side, self.fit)), label, ""


def _name(source: Source, index: int) -> str:
    return f"image {index}" if isinstance(source, ImageStore) else source.file_name(index)


def prepare(config: Prepare) -> Path:
    """Write the store that the config describes and return its folder. An interrupted run resumes.

    Raises:
        UserError: a source does not fit or has changed, nothing could be read, there is not enough space, or the folder
            holds something else.
    """
    out = config.out or default_run_path("r2mae-vision", "prepare")
    for spec in (config.source, config.validation):
        check_output(out, [None if spec is None else spec.removeprefix("wds/")])
    plans = _plans(config)
    settings = {"image_size": config.image_size, "fit": config.fit, "in_chans": config.in_chans}
    settings |= {
        "range": None if config.range is None else list(config.range),
        "max_pixels": None if config.max_pixels == MAX_PIXELS else config.max_pixels,
    }
    with one_writer(out):
        _refuse_foreign(out, plans)
        missing = [part for part in plans if not _is_there(out / part, plans[part], settings)]
        try:
            for part in missing:
                _write(out / UNFINISHED / part, plans[part], settings, config)
        finally:
            _leave_no_empty(out / UNFINISHED)
        _put_in_place(out, list(plans))
    return out


def _how(config: Prepare) -> Reading:
    """Return how image files are read."""
    return Reading(config.range, config.range is not None, config.max_pixels)


def _plans(config: Prepare) -> dict[str, Plan]:
    """Return part → what it is made of."""
    if config.source.startswith("wds/"):
        specs = dict(zip(PARTS, (config.source, config.validation), strict=True))
        return {part: _stream_plan(spec, config) for part, spec in specs.items() if spec}
    try:
        train, val = open_parts(config.source, config.validation, _how(config))  # pretraining needs no labels
    except NoValidationError:
        train, val = open_source(config.source, "train", _how(config)), None  # nor a validation part
    specs = {"train": (config.source, train), "val": (config.validation or config.source, val)}
    return {
        part: Plan(spec, _decoded(source, config), len(source), source.classes, source.identity)
        for part, (spec, source) in specs.items()
        if source is not None
    }


def _stream_plan(spec: str, config: Prepare) -> Plan:
    pattern = spec.removeprefix("wds/")
    return Plan(spec, _stream(pattern, config), None, (), fingerprint(shards_of(pattern)))


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
            worker_init_fn=end_with_caller,
        )
        for batch in from_workers(loader):
            yield from batch

    return rows_from


def _stream(pattern: str, config: Prepare) -> Callable[[int], Iterator[Row]]:
    """Return rows of WebDataset shards; a range for deep pixels comes from the first of them."""
    how = _how(config)

    def rows_from(start: int) -> Iterator[Row]:
        first = [content for _, content, _ in itertools.islice(stream_tars(pattern), SURVEYED)]
        reading = ranged(how, len(first), lambda i: io.BytesIO(first[i]), pattern)
        for name, content, label in itertools.islice(stream_tars(pattern), start, None):
            try:
                image = decode(content, config.in_chans, reading)
            except OutsideRangeError as error:
                raise OutsideRangeError(printable(f"{name} has {error}")) from None
            except UnreadableImageError as error:
                yield None, -1, printable(f"{name}: {error}")
                continue
            yield pixels(square(image, config.image_size, config.fit)), label, ""

    return rows_from


def _refuse_foreign(out: Path, plans: Mapping[str, Plan]) -> None:
    """Refuse a folder of other files, and one with a part that the source does not have.

    Raises:
        UserError: it is one.
    """
    if not is_prepared(out) and any(not file.name.startswith(".") for file in out.iterdir()):
        raise UserError(f"{out} is not empty and is no prepared image set; {ANOTHER}")
    for part in PARTS:
        if part not in plans and (out / part).exists():
            raise UserError(f"{out} has a part {part}, which the source does not have now; {ANOTHER}")


def _is_there(folder: Path, plan: Plan, settings: Mapping[str, Any]) -> bool:
    """Return whether a part has been written from this source in this way.

    Raises:
        UserError: it has been written, but otherwise, or is damaged.
    """
    if not (folder / "store.json").exists():
        return False
    refuse_other(folder, read_index(folder), plan.sources, settings)
    say(f"{folder}: there already, {len(ImageStore.open(folder)):,} images")
    return True


def _write(folder: Path, plan: Plan, settings: dict[str, Any], config: Prepare) -> None:
    """Write one part. What an interrupted run wrote is kept; `store.json` appears last."""
    from tqdm import tqdm

    if (folder / "store.json").exists():  # cut off before it was put in its place
        refuse_other(folder, read_index(folder), plan.sources, settings)
        return
    with PartWriter(folder, plan.sources, settings) as writer:
        left = (plan.total or 0) - writer.n_read
        check_space(folder, left * writer.image_bytes, f"{folder.name} with {left:,} more images")
        bar = tqdm(
            desc=f"prepare {folder.name}",
            total=plan.total,
            initial=writer.n_read,
            unit="image",
            disable=not config.progress,
        )
        with bar:
            rest = plan.rows_from(writer.n_read)
            while chunk := list(itertools.islice(rest, CHUNK)):
                writer.add(chunk)
                bar.update(len(chunk))
        index = writer.finish(plan.source, plan.classes)
    n, side, missed = index["n_images"], index["side"], index["left_out"]
    size = n * writer.image_bytes / 2**20
    say(f"{folder.name}: {n:,} images of {side} x {side}, {len(index['classes'])} classes, {size:,.0f} MiB")
    if writer.skipped:
        shown = "; ".join(writer.skipped[:3])
        say(f"{folder.name}: {left_out(missed)} ({shown}); all in {folder.name}/skipped.txt")


def _put_in_place(out: Path, parts: list[str]) -> None:
    """Move the finished parts to their places, the training part last: with it the store is whole."""
    for part in reversed(parts):
        if (out / UNFINISHED / part).exists():
            (out / UNFINISHED / part).rename(out / part)
    index = read_index(out / "train")
    if index.get("parts") != parts:
        write_json(out / "train" / "store.json", {**index, "parts": parts})
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def _leave_no_empty(folder: Path) -> None:
    """Remove what a start made that wrote nothing."""
    for part in [folder / part for part in PARTS] + [folder]:
        if part.is_dir() and not any(part.iterdir()):
            part.rmdir()


def prepare_command(config: Prepare) -> None:
    """`r2mae-vision prepare`."""
    out = prepare(config)
    say(f"Done: {out}. Next: r2mae-vision pretrain {out}")
