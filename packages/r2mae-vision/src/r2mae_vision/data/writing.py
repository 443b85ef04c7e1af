"""One part of a store while it is written: what is in it so far, and how it goes on after an interruption."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from r2mae_core import (
    UserError,
    atomic_path,
    contents_of,
    read_json,
    refuse_changed,
    saying_disk_full,
    write_json,
    write_text,
)

CHUNK = 256
"""Images between two lines of progress."""
NOTED = 16 * CHUNK
"""Images between two notes from which an interrupted run can go on."""
Row = tuple[np.ndarray | None, int, str]
"""(pixels or None, label, why it was skipped)."""


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
    """Appends images to `images.u8`, and notes in `progress.json` how far it is; the note is checked before it is used.

    Args:
        folder: of the part.
        sources: names the data.
        settings: image_size, fit and in_chans.

    Raises:
        UserError: the folder holds the beginning of another part, or is damaged.
    """

    def __init__(self, folder: Path, sources: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self.folder, self.sources, self.settings = folder, dict(sources), dict(settings)
        self.images, self.note = folder / "images.u8", folder / "progress.json"
        self.image_bytes: int = settings["image_size"] ** 2 * settings["in_chans"]
        self.n_read, self.labels, self.skipped = 0, list[int](), list[str]()
        self.noted, self.digest = 0, hashlib.sha256()
        if self.note.exists():
            self._go_on(read_json(self.note))
        folder.mkdir(parents=True, exist_ok=True)

    def _go_on(self, there: Mapping[str, Any]) -> None:
        refuse_other(self.folder, there, self.sources, self.settings)
        self.n_read, self.labels, self.skipped = there["n_read"], list(there["labels"]), list(there["skipped"])
        left = len(self.labels) * self.image_bytes
        with self.images.open("rb") as file:
            while left and (block := file.read(min(left, 2**22))):
                self.digest.update(block)
                left -= len(block)
        if left or self.digest.hexdigest() != there["sha256_images"]:
            raise UserError(
                f"{self.images} is damaged: it does not begin with the {len(self.labels):,} images noted beside it; "
                f"remove {self.folder} and run the same command again"
            )

    def __enter__(self) -> Self:
        self.file = self.images.open("r+b" if self.labels else "wb")
        self.file.truncate(len(self.labels) * self.image_bytes)  # what was written after the note
        self.file.seek(0, os.SEEK_END)
        self.noted = self.n_read
        return self

    def __exit__(self, *_: object) -> None:
        with saying_disk_full(self.images):
            self.file.close()
        if not self.note.exists() and not (self.folder / "store.json").exists():
            shutil.rmtree(self.folder)  # nothing to go on from

    def add(self, rows: Sequence[Row]) -> None:
        """Append some images.

        Raises:
            UserError: the disk is full.
        """
        with saying_disk_full(self.images):
            for array, label, why in rows:
                if array is None:
                    self.skipped.append(why)
                    continue
                content = array.tobytes()
                self.file.write(content)
                self.digest.update(content)
                self.labels.append(label)
            self.file.flush()
            self.n_read += len(rows)
            if self.n_read - self.noted >= NOTED:
                self.keep()

    def keep(self) -> None:
        """Note how far it is."""
        os.fsync(self.file.fileno())  # the note must not be there before what it notes
        progress = {"n_read": self.n_read, "labels": self.labels, "skipped": self.skipped}
        made = {**self.settings, "sources": self.sources, "sha256_images": self.digest.hexdigest()}
        write_json(self.note, {**made, **progress})
        self.noted = self.n_read

    def finish(self, source: str, classes: tuple[str, ...]) -> dict[str, Any]:
        """Write labels and index, and return the index.

        Raises:
            UserError: none of the images could be read.
        """
        n = len(self.labels)
        if n == 0:
            why = f", the first, {self.skipped[0]}" if self.skipped else ""
            self.note.unlink(missing_ok=True)
            raise UserError(f"{source}: none of {self.n_read} images could be read{why}")
        labels = np.array(self.labels, dtype=np.int64)
        if not classes and labels.max() >= 0:
            classes = tuple(str(label) for label in range(int(labels.max()) + 1))
        with atomic_path(self.folder / "labels.npy") as temporary, temporary.open("wb") as file:
            np.save(file, labels)
        if self.skipped:
            write_text(self.folder / "skipped.txt", "\n".join(self.skipped) + "\n")
        with saying_disk_full(self.images):
            self.file.close()
        index = {
            "name": Path(source).name,
            "n_images": n,
            "side": self.settings["image_size"],
            **self.settings,
            "source": source,
            "classes": list(classes),
            "left_out": {"unreadable": len(self.skipped)},
            "sources": self.sources,
            "contents": contents_of(self.folder, ["images.u8", "labels.npy"]),
        }
        write_json(self.folder / "store.json", index)
        self.note.unlink(missing_ok=True)
        return index
