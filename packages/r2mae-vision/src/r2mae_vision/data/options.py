"""The options of `prepare`, and what the package's options have in common.

Nothing heavy is imported here, because `--help` reads this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from r2mae_core import Bound, Count, UserError, Workers, check_bounds
from r2mae_vision.data.sizes import Size, settle_size

Width = Annotated[int, Bound(1, 1_000_000)]
"""Units, channels, heads or layers of a network."""
TwoOrMore = Annotated[int, Bound(2)]
"""Samples of a step of a network with batch norm."""
Area = Annotated[float, Bound(0, 1, above=True)]
"""Part of a picture's area."""
PartOfSide = Annotated[float, Bound(0.05, 1)]
"""Part of a picture's side."""
Factor = Annotated[float, Bound(0, 1, above=True)]
"""A factor that makes smaller, or leaves as it is."""
BelowOne = Annotated[float, Bound(0, 0.999999)]
"""A share of less than the whole."""


def check_text(config: Any, *names: str) -> None:
    """Refuse options that name something, and are empty.

    Raises:
        UserError: one of them is empty.
    """
    if empty := [
        name for name in names if getattr(config, name) is not None and not str(getattr(config, name)).strip()
    ]:
        raise UserError(f"--{empty[0]} is empty")


def check_list(name: str, values: Sequence[Any] | None) -> None:
    """Refuse a list that is empty or holds something twice, which a table would count as two measurements.

    Raises:
        UserError: with what stands there twice.
    """
    if values is None:
        return
    if not values:
        raise UserError(f"--{name} is empty; give at least one")
    if twice := [value for value in dict.fromkeys(values) if list(values).count(value) > 1]:
        raise UserError(f"--{name} has {twice[0]} twice; name each once")


def check_crop(scale: tuple[float, float]) -> None:
    """Refuse a range of areas whose ends are reversed.

    Raises:
        UserError: they are.
    """
    if scale[0] > scale[1]:
        raise UserError(f"--crop_scale must rise, got [{scale[0]:g},{scale[1]:g}]")


@dataclass(frozen=True, kw_only=True)
class DataColumns:
    """What every command that reads images may be told of their table: which column is what, and where labels are."""

    labels: Path | None = None
    """A .csv, .tsv or .parquet with the labels of the images in a folder or archive, whose folders are then no
    classes."""
    image_column: str | None = None
    """Column of a table with the images or their names; default the only one of such a type, or with a usual name."""
    label_column: str | None = None
    """Column of a table with the classes; default the only one of such a type, or with a usual name. May be absent."""
    label_separator: str | None = None
    """Between the classes of an image in that column, such as '|': an image may then have several. Lists of classes, as
    parquet and hubs have them, need none."""
    label_columns: tuple[str, ...] | str | None = None
    """Columns of 0 and 1, one for each class, such as a,b,c: an image may have several of them, or none."""
    split_column: str | None = None
    """Column of a table that says train, val or test; default the only one with a usual name. May be absent."""
    config_name: str | None = None
    """Configuration of a set on the Hugging Face hub that has several."""

    def check_columns(self) -> None:
        """Refuse options that contradict each other, and write `label_columns` as the tuple that it is.

        Raises:
            UserError: they do.
        """
        if isinstance(self.label_columns, str):
            object.__setattr__(self, "label_columns", tuple(name.strip() for name in self.label_columns.split(",")))
        check_list("label_columns", self.label_columns)
        check_text(self, "labels", *(f"{name}_column" for name in ("image", "label", "split")), "config_name")
        if "" in (self.label_columns or ()):
            raise UserError("--label_columns has an empty name")
        if self.label_separator == "":
            raise UserError("--label_separator is empty")
        if self.label_columns is not None and (self.label_column or self.label_separator):
            other = "label_column" if self.label_column else "label_separator"
            raise UserError(f"--label_columns are the labels; leave out --{other}")


@dataclass(frozen=True)
class Prepare(DataColumns):
    """Decode images once, into a store that training reads as bytes."""

    source: str
    """Folder of class folders (with train and val inside, or see --validation), .tar or .zip of it, .csv or .tsv of
    paths and labels, .parquet with images in it, hfds/NAME, wds/PATTERN."""
    validation: str | None = None
    """Validation images, if they are elsewhere."""
    image_size: Size = 256
    """Side of the stored squares, or [HEIGHT,WIDTH]; whole pictures are made as small as covers it. Training crops them
    further."""
    fit: Literal["crop", "squash", "whole"] | None = None
    """crop: the middle of the picture, with the proportions of image_size; squash: all of it, distorted to these;
    whole: all of it, undistorted. Default: crop in a raw store, whole in a compressed one."""
    store: Literal["raw", "jpeg", "webp"] = "raw"
    """raw: pixels, read fastest; jpeg, webp: compressed to about a tenth, decoded in training by --workers."""
    quality: Annotated[int, Bound(1, 100)] = 90
    """Of a compressed store."""
    part: str = ""
    """I/N, such as 2/8: prepare only this part of the images, on any machine that sees the same --out."""
    join: bool = False
    """Decode nothing: join the parts in --out into the store."""
    in_chans: Annotated[int, Bound(1, 4096)] = 3
    """3 (colour), 1 (grey), or any other number of channels, which all images must have."""
    depth: Literal["8", "file"] | None = None
    """8: pictures of eight bits; file: the numbers of the files (TIFF, .npy; 8 or 16 bits, float) as they are, and mean
    and deviation of each channel, by which pretrain normalises. Default: 8 of one or three channels, file of others."""
    range: tuple[float, float] | None = None
    """Pixel values of 16-bit and float images that become black and white, such as [0,4095]; others become the nearer
    of the two. Default: the range of 8, 10, 12, 14 or 16 bits that a sample of the images fits, which is then said."""
    max_pixels: Count = 178_956_970
    """Larger images (width times height) are left out, because they may be made to fill the memory."""
    frames: Literal["refuse", "first"] = "refuse"
    """Files of several pages or frames (TIFF, GIF, WebP, PNG). refuse: they are left out, counted and named; first: the
    first of each is read. The smaller copies of a page that a TIFF may hold do not count."""
    workers: Workers | None = None
    """Processes that decode images; default one per core."""
    out: Path | None = None
    """Folder of the store; default runs/r2mae-vision-prepare-TIME. An interrupted run resumes there."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        check_bounds(self)
        settle_size(self)
        check_text(self, "source", "validation")
        self.check_columns()
        if self.in_chans not in (1, 3) and self.depth == "8":
            raise UserError(
                f"--in_chans {self.in_chans}: pictures of eight bits have 1 or 3 channels; leave out --depth"
            )
        if self.as_in_file and self.store != "raw":
            raise UserError(f"--store {self.store} holds pictures of eight bits, 1 or 3 channels; use --store raw")
        if self.as_in_file and self.frames == "first":
            raise UserError("--frames first is of pictures; with --depth file, files of several pages must be split")
        if self.range is not None and not (isfinite(sum(self.range)) and self.range[0] < self.range[1]):
            raise UserError(f"--range must rise, got [{self.range[0]:g},{self.range[1]:g}]")
        if self.fit == "whole" and self.store == "raw":
            raise UserError("--fit whole: pictures of several sizes need a compressed store; add --store jpeg or webp")
        if self.part and self.join:
            raise UserError("--part prepares a part, and --join joins them; give one of the two")
        if (self.part or self.join) and self.out is None:
            raise UserError("--part and --join need --out: the folder that all parts share")
        if self.part:
            _ = self.which_part

    @property
    def fitted(self) -> str:
        """How pictures become what is stored."""
        return self.fit or ("crop" if self.store == "raw" else "whole")

    @property
    def as_in_file(self) -> bool:
        """Whether the numbers of the files are kept as they are."""
        return self.depth == "file" or (self.depth is None and self.in_chans not in (1, 3))

    @property
    def which_part(self) -> tuple[int, int]:
        """I and N of `--part`.

        Raises:
            UserError: it is not written as I/N.
        """
        i, _, n = self.part.partition("/")
        if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
            raise UserError(f"--part is written I/N, such as 2/8, got {self.part!r}")
        return int(i), int(n)
