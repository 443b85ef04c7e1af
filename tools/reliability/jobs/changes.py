"""Changes to what a command reads."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tools.reliability.job import MATERIALS

Change = Callable[[Path], None]
"""Called with the folder of a trial."""


def write(path: str, text: str) -> Change:
    """Add a text file, or replace it."""

    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    return change


def remove(path: str) -> Change:
    """Remove a file."""
    return lambda folder: (folder / path).unlink()


def copy(source: str, path: str) -> Change:
    """Put a copy of another file that is there in the place of a file, or add it."""

    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / source, folder / path)

    return change


def reverse_words(path: str) -> Change:
    """Replace a text by another of the same size."""

    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        (folder / path).write_text(" ".join(reversed(text.split(" "))))

    return change


def replace(path: str, old: str, new: str) -> Change:
    """Replace words of a text by others, of the same size if they are."""

    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        (folder / path).write_text(text.replace(old, new))

    return change


def put(name: str, other: str) -> Change:
    """Put another material in the place of one: another store, windows or run under the same name."""

    def change(folder: Path) -> None:
        source = folder / MATERIALS / other
        if source.is_dir():
            shutil.rmtree(folder / name)
            shutil.copytree(source, folder / name)
        else:
            shutil.copyfile(source, folder / name)

    return change
