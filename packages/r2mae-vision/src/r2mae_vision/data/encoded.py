"""Prepared images that stay compressed: JPEG or WebP at training size, one behind the other in a file.

A folder holds `train/` and `val/`, each with `images.jpeg` or `images.webp`, `offsets.npy` (N + 1), `labels.npy` (N,),
`names.txt` and `store.json`, the sealed index. Whole pictures, so that crops of them are crops of the original.
"""

import io
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, check_contents, identity_of_contents, reading
from r2mae_vision.data.decoding import Reading, decode
from r2mae_vision.data.image_files import ImageFiles
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sizes import pair, shown
from r2mae_vision.data.store import AGAIN, read_index, read_labels, read_names


class EncodedReader:
    """Images of one file, each of which is decoded alone."""

    def __init__(self, file: Path, offsets: np.ndarray, side: int = 0, in_chans: int = 3) -> None:
        self.file, self.offsets, self.side, self.in_chans = file, offsets, side, in_chans

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Any:
        return io.BytesIO(self._content(index))

    def _content(self, index: int) -> bytearray:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        content = bytearray(end - start)
        with self.file.open("rb", buffering=0) as file:
            file.seek(start)
            n = file.readinto(content)
        return content[:n]

    def pixels(self, index: int) -> np.ndarray:
        """Return the (H, W, C) uint8 of a JPEG: Pillow's pixels, in half of its time.

        Raises:
            UnreadableImageError: it is damaged.
        """
        import simplejpeg  # pyright: ignore[reportMissingImports]  optional; see `quick_reader`

        space = "RGB" if self.in_chans == 3 else "GRAY"
        content = self._content(index)
        try:
            return simplejpeg.decode_jpeg(content, space, fastdct=False, fastupsample=False)
        except ValueError:  # Pillow reads some damaged ones, and says better what is wrong with the others
            return np.atleast_3d(np.array(decode(bytes(content), self.in_chans)))

    @cached_property
    def _names(self) -> list[str] | None:
        return read_names(self.file.parent)

    def filename(self, index: int) -> str:
        """Return the name of the file that the image was prepared from, or its number where that was not kept."""
        return f"image {index}" if self._names is None else self._names[index]


def quick_reader(source: Any, in_chans: int, least: int | None) -> EncodedReader | None:
    """Return the reader of a store whose `pixels` are those that `decode` would return; None: there is none.

    Args:
        source: images of any kind.
        in_chans: channels that the model reads.
        least: as in `decode`; pictures of twice that side would be decoded smaller.
    """
    reader = getattr(source, "reader", None)
    if not isinstance(reader, EncodedReader) or reader.file.suffix != ".jpeg" or reader.in_chans != in_chans:
        return None
    if least is not None and reader.side >= 2 * least:
        return None
    if find_spec("simplejpeg") is None:
        say_once("JPEGs would be decoded in half of the time with simplejpeg: pip install 'r2mae-vision[jpeg]'")
        return None
    return reader


def encoded(picture: Any, store: str, quality: int) -> bytes:
    """Return a PIL image as a file of the store's format."""
    content = io.BytesIO()
    if store == "jpeg":
        picture.save(content, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2)
    else:
        picture.save(content, "WEBP", quality=quality, method=2)
    return content.getvalue()


def open_encoded(folder: Path) -> ImageFiles:
    """Open a part of a prepared folder and check it; `check_contents` says what is checked.

    Raises:
        UserError: it is incomplete or damaged.
    """
    index = read_index(folder)
    check_contents(folder, index.get("contents"), AGAIN)
    file = folder / f"images.{index['store']}"
    with reading(folder / "offsets.npy", "a list of places"):
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
    labels, n = read_labels(folder, index), index["n_images"]
    if offsets.shape != (n + 1,) or offsets[0] != 0 or (np.diff(offsets) <= 0).any():
        raise UserError(f"{folder / 'offsets.npy'} is damaged: it does not state where {n:,} images lie; {AGAIN}")
    if int(offsets[-1]) != (size := file.stat().st_size):
        raise UserError(f"{file} is damaged: {size:,} bytes, but {int(offsets[-1]):,} were written; {AGAIN}")
    covered = "shorter side" if isinstance(index["side"], int) else "covering"
    how = f"{n:,} as {index['store']} of quality {index['quality']}, {covered} {shown(index['side'])}"
    named = {"images": f"{how}, in {len(index['classes'])} classes, {identity_of_contents(index['contents'])}"}
    classes = tuple(index["classes"])
    reader = EncodedReader(file, offsets, max(pair(index["side"])), index["in_chans"])
    return ImageFiles(
        index["name"], reader, classes, labels, named=named,
        how=Reading.of_deep_range(index.get("deep_range")), in_chans=index["in_chans"], prepared=True,
    )  # fmt: skip
