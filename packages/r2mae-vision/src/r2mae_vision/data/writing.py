"""One part of a store while it is written: what is in it so far, and how it goes on after an interruption.

Images, labels and the names of what was left out are appended to files of their own; the note beside them holds only
how far these are, so it stays small however large the set is.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from r2mae_core import (
    UserError,
    atomic_path,
    contents_of,
    read_json,
    refuse_changed,
    saying_disk_full,
    write_json,
)
from r2mae_vision.data.arrays import TYPES, statistics
from r2mae_vision.data.sizes import pair
from r2mae_vision.data.store import NAMES, read_names

CHUNK = 256
"""Images between two lines of progress."""
NOTED = 16 * CHUNK
"""Images between two notes from which an interrupted run can go on."""
Row = tuple[bytes | None, Any, str]
"""(an image's bytes or None, its label (a number or (C,)), its name, or why it was skipped)."""
BLOCK = 2**22


def refuse_other(
    folder: Path, there: Mapping[str, Any], sources: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    """Refuse to go on with a part that was begun, or to take one that was written, otherwise or from other data.

    Args:
        folder: of the part.
        there: what its index or its note holds.
        sources: names the data.
        settings: of the images.

    Raises:
        UserError: with what differs.
    """
    if other := [name for name, value in settings.items() if there.get(name) != value]:
        shown = "; ".join(f"{name} is {there.get(name)!r} there and {settings[name]!r} here" for name in other)
        raise UserError(f"{folder} holds images prepared in another way: {shown}; name another folder with --out")
    remedy = f"put the data back as it was, name another folder with --out, or remove {folder} to start anew"
    refuse_changed(folder, there.get("sources") or {}, sources, remedy)


class PartWriter:
    """Appends images to `images.u8` (or `.jpeg`, `.webp`), and notes in `progress.json` how far it is.

    The note is checked before it is used. `sizes.i64`, `labels.i64`, `names.txt` and `skipped.txt` grow beside it.

    Args:
        folder: of the part.
        sources: names the data.
        settings: image_size, fit, in_chans, store and others; see `prepare.settings_of`.

    Raises:
        UserError: the folder holds the beginning of another part, or is damaged.
    """

    def __init__(self, folder: Path, sources: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self.folder, self.sources, self.settings = folder, dict(sources), dict(settings)
        self.store: str = settings.get("store") or "raw"
        self.images, self.note = folder / images_of(self.store, settings.get("dtype")), folder / "progress.json"
        size = np.dtype(settings.get("dtype") or "uint8").itemsize
        self.image_bytes: int = prod(pair(settings["image_size"])) * settings["in_chans"] * size
        # Classes of which an image may have several; 0: it has one, or none.
        self.n_several: int = settings.get("multi_label") or 0
        self.label_type = "<i1" if self.n_several else "<i8"
        self.names = (self.images.name, "labels.i64", "sizes.i64", NAMES, "skipped.txt")
        self.n_read = self.n_kept = self.n_skipped = self.noted = 0
        self.first_skipped = list[str]()
        self.sizes = dict.fromkeys(self.names, 0)
        self.digests = {name: hashlib.sha256() for name in self.names}
        self.files: dict[str, IO[bytes]] = {}
        if self.note.exists():
            self._go_on(read_json(self.note))
        folder.mkdir(parents=True, exist_ok=True)

    def _go_on(self, there: Mapping[str, Any]) -> None:
        refuse_other(self.folder, there, self.sources, self.settings)
        if set(there.get("files") or ()) != set(self.names):
            raise UserError(f"{self.note} is of an earlier version; remove {self.folder} and begin anew")
        for name in ("n_read", "n_kept", "n_skipped", "first_skipped"):
            setattr(self, name, there[name])
        for name, noted in there["files"].items():
            left = self.sizes[name] = noted["bytes"]
            with (self.folder / name).open("rb") as file:
                while left and (block := file.read(min(left, BLOCK))):
                    self.digests[name].update(block)
                    left -= len(block)
            if left or self.digests[name].hexdigest() != noted["sha256"]:
                raise UserError(
                    f"{self.folder / name} is damaged: it does not begin with the {self.n_kept:,} images noted beside "
                    f"it; remove {self.folder} and run the same command again"
                )

    def __enter__(self) -> Self:
        for name in self.names:
            path = self.folder / name
            path.touch()
            self.files[name] = file = path.open("r+b")
            file.truncate(self.sizes[name])  # what was written after the note
            file.seek(0, os.SEEK_END)
        self.noted = self.n_read
        return self

    def __exit__(self, *_: object) -> None:
        with saying_disk_full(self.images):
            for file in self.files.values():
                file.close()
        if not self.note.exists() and not (self.folder / "store.json").exists():
            shutil.rmtree(self.folder)  # nothing to go on from

    def add(self, rows: Sequence[Row]) -> None:
        """Append some images.

        Raises:
            UserError: the disk is full.
        """
        kept = [(content, label, name) for content, label, name in rows if content is not None]
        with saying_disk_full(self.images):
            for content, _, _ in kept:
                self._append(self.images.name, content)
            self._append_lines(NAMES, [name for _, _, name in kept])
            self._count([len(content) for content, _, _ in kept], [label for _, label, _ in kept])
            self._skip([why for content, _, why in rows if content is None])
            self.n_read += len(rows)
            if self.n_read - self.noted >= NOTED:
                self.keep()

    def add_part(self, folder: Path, index: Mapping[str, Any]) -> None:
        """Append a part of the same source that was written elsewhere.

        Raises:
            UserError: the disk is full, or the part's names are missing.
        """
        names = read_names(folder)
        if names is None:
            raise UserError(f"{folder} is of an earlier version; remove {folder.parent} and run its --part again")
        with saying_disk_full(self.images):
            with (folder / self.images.name).open("rb") as file:
                while block := file.read(BLOCK):
                    self._append(self.images.name, block)
            self._append_lines(NAMES, names)
            labels = np.load(folder / "labels.npy", allow_pickle=False)
            sizes = [self.image_bytes] * len(labels)
            if self.store != "raw":
                sizes = np.diff(np.load(folder / "offsets.npy", allow_pickle=False)).tolist()
            self._count(sizes, labels)
            skipped = folder / "skipped.txt"
            lines = skipped.read_text(encoding="utf-8").splitlines() if skipped.exists() else []
            self._skip(lines)
            self.n_read += index["n_images"] + len(lines)

    def _append(self, name: str, content: bytes) -> None:
        self.files[name].write(content)
        self.digests[name].update(content)
        self.sizes[name] += len(content)

    def _append_lines(self, name: str, lines: Sequence[str]) -> None:
        self._append(name, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def _count(self, sizes: Sequence[int], labels: Any) -> None:
        self._append("sizes.i64", np.array(sizes, "<i8").tobytes())
        self._append("labels.i64", np.array(labels, self.label_type).tobytes())
        self.n_kept += len(labels)

    def _skip(self, reasons: Sequence[str]) -> None:
        self._append_lines("skipped.txt", reasons)
        self.first_skipped = [*self.first_skipped, *reasons][:3]
        self.n_skipped += len(reasons)

    def keep(self) -> None:
        """Note how far it is."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())  # the note must not be there before what it notes
        files = {name: {"bytes": self.sizes[name], "sha256": self.digests[name].hexdigest()} for name in self.names}
        progress = {"n_read": self.n_read, "n_kept": self.n_kept, "n_skipped": self.n_skipped}
        made = {"sources": self.sources, "files": files, "first_skipped": self.first_skipped}
        write_json(self.note, {**self.settings, **made, **progress})
        self.noted = self.n_read

    def finish(self, source: str, classes: tuple[str, ...], deep_range: list[float] | None = None) -> dict[str, Any]:
        """Write labels and index, and return the index.

        Raises:
            UserError: none of the images could be read.
        """
        if self.n_kept == 0:
            why = f", the first, {self.first_skipped[0]}" if self.first_skipped else ""
            self.note.unlink(missing_ok=True)
            raise UserError(f"{source}: none of {self.n_read} images could be read{why}")
        with saying_disk_full(self.images):
            for file in self.files.values():
                file.close()
        labels = np.fromfile(self.folder / "labels.i64", self.label_type)
        labels = labels.reshape(-1, self.n_several) if self.n_several else labels.astype(np.int64)
        arrays = {"labels.npy": labels}
        if self.store != "raw":
            sizes = np.fromfile(self.folder / "sizes.i64", "<i8").astype(np.int64)
            arrays["offsets.npy"] = np.concatenate([[0], sizes.cumsum()])
        for name, array in arrays.items():
            with atomic_path(self.folder / name) as temporary, temporary.open("wb") as file:
                np.save(file, array)
        measured: dict[str, Any] = {}
        if (dtype := self.settings.get("dtype")) is not None:
            shape = (self.n_kept, *pair(self.settings["image_size"]), self.settings["in_chans"])
            pixels = np.memmap(self.images, dtype, "r", shape=shape)
            measured = dict(zip(("mean", "std"), statistics(pixels, self.settings["span"]), strict=True))
        if not self.n_skipped:
            (self.folder / "skipped.txt").unlink(missing_ok=True)
        images = self.images.name
        index = {
            "name": Path(source).name,
            "n_images": self.n_kept,
            "side": self.settings["image_size"],
            **self.settings,
            **measured,
            "deep_range": deep_range,
            "source": source,
            "classes": list(classes),
            "left_out": {"unreadable": self.n_skipped},
            "sources": self.sources,
            "names": contents_of(self.folder, [NAMES]),  # beside the contents, which name the data: those are images
            "contents": {
                images: {"bytes": self.sizes[images], "sha256": self.digests[images].hexdigest()},
                **contents_of(self.folder, list(arrays)),
            },
        }
        write_json(self.folder / "store.json", index)
        for name in ("progress.json", "labels.i64", "sizes.i64"):
            (self.folder / name).unlink(missing_ok=True)
        return index


def images_of(store: str, dtype: str | None = None) -> str:
    """Return the name of the file with a part's images."""
    return TYPES[dtype or "uint8"][0] if store == "raw" else f"images.{store}"
