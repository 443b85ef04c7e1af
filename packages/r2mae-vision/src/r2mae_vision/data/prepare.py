"""`r2mae-vision prepare`: any source → one file of images per part, decoded once: uint8 squares, or JPEGs of one size.

The parts lie in `.preparing/` until all of them are whole, and are then moved to their places.
"""

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from r2mae_core import (
    UserError,
    check_output,
    check_space,
    default_run_path,
    end_with_caller,
    left_out,
    one_writer,
    pasteable,
    say,
    write_json,
)
from r2mae_vision.data.arrays import reframed_array
from r2mae_vision.data.datasets import from_workers, n_workers, read_image
from r2mae_vision.data.decoding import MAX_PIXELS, Reading, UnreadableImageError, fitted, pixels
from r2mae_vision.data.encoded import encoded
from r2mae_vision.data.image_files import printable
from r2mae_vision.data.joining import check_parts, parts_of, share_of
from r2mae_vision.data.multilabel import is_multi
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.pairs import open_parts
from r2mae_vision.data.sizes import pair, plain
from r2mae_vision.data.sources import (
    PARTS,
    UNFINISHED,
    NoValidationError,
    Source,
    how_to_open,
    is_prepared,
    open_prepared,
    open_source,
)
from r2mae_vision.data.store import ImageStore, read_index
from r2mae_vision.data.writing import CHUNK, PartWriter, Row, refuse_other

ANOTHER = "name another folder with --out"
ENLARGED = 2
"""A JPEG is decoded at no less than so many times the stored side, and then made smaller."""


class Plan(NamedTuple):
    """What one part of the store is made of."""

    spec: str
    """What the user named."""
    source: Source
    rows: range
    """Which images."""


class _Encoder(Dataset):
    """Images as the store holds them."""

    def __init__(self, source: Source, config: Prepare) -> None:
        self.source, self.config = source, config

    def __getitem__(self, index: int) -> Row:
        config = self.config
        fit, store = config.fitted, config.store
        try:
            image, label = read_image(
                self.source, index, config.in_chans, least=ENLARGED * max(pair(config.image_size))
            )
        except UnreadableImageError as error:
            return None, -1, f"{self.source.file_name(index)}: {printable(str(error))}"
        if config.as_in_file:
            return reframed_array(image, config.image_size, fit).tobytes(), label, self.source.file_name(index)
        picture = fitted(image, config.image_size, fit)
        content = pixels(picture).tobytes() if store == "raw" else encoded(picture, store, config.quality)
        return content, label, self.source.file_name(index)


def prepare(config: Prepare) -> Path:
    """Write the store that the config describes, or a part of it, and return its folder. An interrupted run resumes.

    Raises:
        UserError: a source does not fit or has changed, nothing could be read, there is not enough space, or the folder
            holds something else.
    """
    out = config.out or default_run_path("r2mae-vision", "prepare")
    for spec in (config.source, config.validation, config.labels):
        check_output(out, [None if spec is None else str(spec).removeprefix("wds/")])
    plans = _plans(config)
    train = plans["train"].source
    settings = settings_of(config) | _numbers_of(train, config)
    settings["multi_label"] = len(train.classes) if is_multi(train.labels) else None
    if config.part:
        return _one_of_parts(out, plans, settings, config)
    with one_writer(out):
        _refuse_foreign(out, plans)
        begun = parts_of(out)
        if begun and not config.join:
            raise UserError(f"{out} is prepared in parts ({begun[0].name} …); join them with --join, or {ANOTHER}")
        missing = [part for part in plans if not _is_there(out / part, plans[part], settings)]
        try:
            for part in missing:
                joined = check_parts(begun, part, plans[part].source.identity, settings) if config.join else None
                _write(out / UNFINISHED / part, plans[part], settings, config, joined)
        finally:
            _leave_no_empty(out / UNFINISHED)
        _put_in_place(out, list(plans))
    return out


def _one_of_parts(out: Path, plans: Mapping[str, Plan], settings: dict[str, Any], config: Prepare) -> Path:
    """Write the images of `--part I/N`, where `--join` finds them."""
    i, n = config.which_part
    for part, plan in plans.items():
        if len(plan.source) < n:
            raise UserError(f"--part {i}/{n}: {part} has {len(plan.source):,} images only; make fewer parts")
    home = out / UNFINISHED / f"part-{i}-of-{n}"
    with one_writer(home):
        if any((out / part / "store.json").exists() for part in plans):
            raise UserError(f"{out} is prepared already; {ANOTHER}")
        for part, plan in plans.items():
            rows, settled = share_of(len(plan.source), i, n), {**settings, "part": f"{i}/{n}"}
            if not _is_there(home / part, plan, settled):
                _write(home / part, plan._replace(rows=rows), settled, config)
    return out


def settings_of(config: Prepare) -> dict[str, Any]:
    """Return what the content of a store depends on beside the data; None where it is the default of old stores."""
    whole_range = None if config.range is None else list(config.range)
    columns = {name: getattr(config, f"{name}_column") for name in ("image", "label", "split")}
    columns |= {"config": config.config_name, "labels": None if config.labels is None else config.labels.name}
    several = None if config.label_columns is None else list(config.label_columns)
    columns |= {"label_separator": config.label_separator, "label_columns": several}
    compressed = config.store != "raw"
    return {
        "image_size": plain(config.image_size),
        "fit": config.fitted,
        "in_chans": config.in_chans,
        "range": whole_range,
        "max_pixels": None if config.max_pixels == MAX_PIXELS else config.max_pixels,
        "frames": None if config.frames == "refuse" else config.frames,
        "columns": {name: value for name, value in columns.items() if value is not None} or None,
        "store": config.store if compressed else None,
        "quality": config.quality if compressed else None,
    }


def _numbers_of(source: Source, config: Prepare) -> dict[str, Any]:
    """Return type and range of a store that keeps the numbers of the files.

    Raises:
        UserError: the source holds no files.
    """
    if not config.as_in_file:
        return {"dtype": None, "span": None}
    if isinstance(source, ImageStore) or source.how.dtype is None:
        raise UserError(f"{config.source} holds pictures of eight bits already; --depth file reads image files")
    return {"dtype": source.how.dtype, "span": list(source.how.span or ())}


def _plans(config: Prepare) -> dict[str, Plan]:
    """Return part → what it is made of."""
    depth = "file" if config.as_in_file else "8"
    pixels_as = Reading(config.range, config.range is not None, config.max_pixels, config.frames, depth)
    how = replace(how_to_open(config), reading=pixels_as)
    try:
        train, val = open_parts(config.source, config.validation, how)  # pretraining needs no labels
    except NoValidationError:
        train, val = open_source(config.source, "train", how), None  # nor a validation part
    specs = {"train": (config.source, train), "val": (config.validation or config.source, val)}
    return {
        part: Plan(spec, source, range(len(source))) for part, (spec, source) in specs.items() if source is not None
    }


def _decoded(plan: Plan, start: int, config: Prepare) -> Iterator[Row]:
    """Yield rows of the store from the given one of the plan's on; they are made in worker processes."""
    rows = plan.rows[start:]
    loader = DataLoader(
        _Encoder(plan.source, config),
        sampler=rows,
        batch_size=64,
        num_workers=n_workers(config.workers) if len(rows) > 512 else 0,
        collate_fn=list,
        worker_init_fn=end_with_caller,
    )
    for batch in from_workers(loader):
        yield from batch


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
    refuse_other(folder, read_index(folder), plan.source.identity, settings)
    say(f"{folder}: there already, {len(open_prepared(folder)):,} images")
    return True


def _write(
    folder: Path, plan: Plan, settings: dict[str, Any], config: Prepare, joined: Sequence[Path] | None = None
) -> None:
    """Write one part of the store. What an interrupted run wrote is kept; `store.json` appears last.

    Args:
        folder: where.
        plan: what it is made of.
        settings: what it depends on.
        config: the options.
        joined: folders of its pieces, in order, that `--part` wrote; None: decode the images.
    """
    from tqdm import tqdm

    sources = plan.source.identity
    if (folder / "store.json").exists():  # cut off before it was put in its place
        refuse_other(folder, read_index(folder), sources, settings)
        return
    if joined is not None:
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted --join copied
    with PartWriter(folder, sources, settings) as writer:
        left = len(plan.rows) - writer.n_read
        # A compressed picture takes about a tenth of its pixels, two tenths at the most.
        check_space(folder, left * writer.image_bytes // (1 if config.store == "raw" else 5), f"{left:,} more images")
        settled = {"desc": f"prepare {folder.name}", "total": len(plan.rows), "initial": writer.n_read, "unit": "image"}
        with tqdm(**settled, disable=not config.progress) as bar:
            for piece in joined or ():
                n_before = writer.n_read
                writer.add_part(piece, read_index(piece))
                bar.update(writer.n_read - n_before)
            rest = iter(()) if joined is not None else _decoded(plan, writer.n_read, config)
            while chunk := list(itertools.islice(rest, CHUNK)):
                writer.add(chunk)
                bar.update(len(chunk))
        if writer.n_read != len(plan.rows):
            raise UserError(f"{folder}: {writer.n_read:,} images were read of {len(plan.rows):,}")
        index = writer.finish(plan.spec, plan.source.classes, plan.source.deep_range)
    n, size = index["n_images"], (folder / writer.images.name).stat().st_size / 2**20
    height, width = pair(index["side"])
    shape = f"of {height} x {width}" if config.store == "raw" else f"as {config.store} of quality {config.quality}"
    say(f"{folder.name}: {n:,} images {shape}, {len(index['classes'])} classes, {size:,.0f} MiB")
    if writer.n_skipped:
        shown = "; ".join(writer.first_skipped)
        say(f"{folder.name}: {left_out(index['left_out'])} ({shown}); all in {folder.name}/skipped.txt")


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
    if config.part:
        say(f"Done: part {config.part} of {out}. When all parts are there: the same command with --join instead")
        return
    say(f"Done: {out}. Next: r2mae-vision pretrain {pasteable(out)}")
