"""The image files of a folder, a .tar or a .zip: their names, how to open each, and what is left out and why.

Names are relative, with slashes. Archives are read where they lie, without unpacking, and are checked to their end.
"""

import io
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from r2mae_core import UserError, reading
from r2mae_vision.data.decoding import suffixes
from r2mae_vision.data.tars import COMPRESSED, files_of_tar, plain_tar

ARRAY = ".npy"
ARCHIVES = (".tar", ".zip", *COMPRESSED)
SYSTEM = frozenset(
    ("@eadir", "__macosx", "__pycache__", "lost+found", "#recycle", "#snapshot", "$recycle.bin",
     "system volume information")
)  # fmt: skip
"""Folders that operating systems and disk stations make; compared without case. So are all that begin with a dot."""

MOST_BYTES = 2**31
"""Of one image file in an archive, which is read as a whole."""


@dataclass
class Tree:
    """The images of one place."""

    place: Path
    names: list[str] = field(default_factory=list)
    """Of image files, relative to the place."""
    ignored: dict[str, Counter[str]] = field(default_factory=dict)
    """Folder → what in it was ignored → how often."""
    folders: list[str] = field(default_factory=list)
    """Of a folder: its folders down to the third level, also those without images."""
    body: Path | None = None
    """Of a compressed .tar: its unpacked copy."""
    where: dict[str, Any] = field(default_factory=dict)
    """Of an archive: name → (first byte, bytes) in a .tar, the name in full in a .zip."""

    def open(self, name: str) -> IO[bytes]:
        """Open one of the images."""
        if self.place.is_dir():
            return (self.place / name).open("rb")
        where = self.where[name]
        if isinstance(where, str):
            return io.BytesIO(_zip_of_process(self.place, os.getpid()).read(where))
        with (self.body or self.place).open("rb") as file:
            file.seek(where[0])
            return io.BytesIO(file.read(where[1]))

    def ignore(self, name: str, what: str) -> None:
        """Note that a file or folder is left out."""
        self.ignored.setdefault(posixpath.dirname(name), Counter())[what] += 1

    def ignored_below(self, folder: str) -> str:
        """Return one line of what was ignored in a folder: "12 .txt, 3 without suffix"; empty if nothing was."""
        found: Counter[str] = Counter()
        for home, counts in self.ignored.items():
            if not folder or home == folder or home.startswith(f"{folder}/"):
                found.update(counts)
        return ", ".join(f"{n:,} {what}" for what, n in sorted(found.items(), key=lambda item: (-item[1], item[0])))


def tree_of(place: Path) -> Tree:
    """Return the images of a folder, a .tar or a .zip.

    Raises:
        UserError: an archive is truncated, damaged or encrypted, or the place is something else.
    """
    if place.is_dir():
        return _folder(place)
    if not place.name.lower().endswith(ARCHIVES):
        raise UserError(f"{place} is neither a folder of images nor a .tar or .zip of one")
    state = place.stat()
    return _archive(place, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _archive(place: Path, _size: int, _time: int) -> Tree:
    tree = Tree(place)
    if place.suffix.lower() == ".zip":
        with reading(place, "a .zip archive"), zipfile.ZipFile(place) as archive:
            members = archive.infolist()
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{place} is encrypted; unpack it")
        # Some programs of Windows write backslashes between folders.
        windows = not any("/" in member.filename for member in members)
        for member in members:
            name = member.filename.replace("\\", "/") if windows else member.filename
            if not name.endswith("/"):
                _take(tree, name, member.filename, member.file_size)
    else:
        tree.body = body = plain_tar(place)
        for name, start, size in files_of_tar(body, lambda name, why: tree.ignore(_plain(name), why)):
            _take(tree, name, (start, size), size)
    tree.names = list(tree.where)
    return _settle_arrays(tree)


def _take(tree: Tree, name: str, where: Any, size: int) -> None:
    """Put a file of an archive where it belongs."""
    plain = _plain(name)
    *folders, file = plain.split("/")
    hidden = next((i for i, folder in enumerate(folders) if is_system(folder)), None)
    if hidden is not None:
        tree.ignore("/".join(folders[: hidden + 1]), f"in {folders[hidden]} (hidden or system)")
    elif why := _why_not(file):
        tree.ignore(plain, why)
    elif size > MOST_BYTES:
        tree.ignore(plain, f"of more than {MOST_BYTES // 2**30} GiB")
    else:
        tree.where[plain] = where


def _plain(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _folder(place: Path) -> Tree:
    tree = Tree(place)
    for home, folders, files in _walk(str(place), tree):
        below = Path(home).relative_to(place).as_posix()
        inside = "" if below == "." else f"{below}/"
        if inside.count("/") < 3:
            tree.folders += [inside + folder for folder in folders]
        for file in files:
            if why := _why_not(file):
                tree.ignore(inside + file, why)
            else:
                tree.names.append(inside + file)
    return _settle_arrays(tree)


class _Home(NamedTuple):
    path: str
    above: frozenset[tuple[int, int]]


def _walk(place: str, tree: Tree) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield folders as os.walk does; links are followed, but not into a folder in which they lie."""
    todo = [_Home(place, frozenset())]
    while todo:
        home = todo.pop()
        state = Path(home.path).stat()
        above = home.above | {(state.st_dev, state.st_ino)}
        folders, files = [], []
        with reading(home.path, "a folder"):
            entries = sorted(os.scandir(home.path), key=lambda entry: entry.name)
        for entry in entries:
            name = Path(entry.path).relative_to(place).as_posix()
            if not entry.is_dir():
                files.append(entry.name)
            elif is_system(entry.name):
                tree.ignore(name, f"folder {entry.name} (hidden or system)")
            elif ((state := entry.stat()).st_dev, state.st_ino) in above:
                tree.ignore(name, f"link {name} that leads back into its own folder")
            else:
                folders.append(entry.name)
        yield home.path, folders, files
        todo += [_Home(str(Path(home.path) / folder), above) for folder in folders]


def _settle_arrays(tree: Tree) -> Tree:
    """Take `.npy` files for images where there are no others; else they are something beside these, and ignored."""
    arrays = {name for name in tree.names if name.lower().endswith(ARRAY)}
    if arrays and len(arrays) < len(tree.names):
        tree.names = [name for name in tree.names if name not in arrays]
        for name in arrays:
            tree.where.pop(name, None)
            tree.ignore(name, ARRAY)
    return tree


def is_system(folder: str) -> bool:
    """Return whether a folder is hidden, or made by an operating system."""
    return folder.startswith(".") or folder.lower() in SYSTEM


def _why_not(file: str) -> str:
    """Return why a file is ignored; empty for an image."""
    if file.startswith(".") or file.lower() in ("thumbs.db", "desktop.ini"):
        return "hidden or of the system"
    suffix = posixpath.splitext(file)[1].lower()
    return "" if suffix == ARRAY or suffix in suffixes() else suffix or "without suffix"


@lru_cache(maxsize=4)
def _zip_of_process(place: Path, _process: int) -> zipfile.ZipFile:
    """Return an archive that is open in this process: a worker must not share its place in the file."""
    return zipfile.ZipFile(place)
