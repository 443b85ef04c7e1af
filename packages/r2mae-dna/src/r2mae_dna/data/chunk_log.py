"""One file to which finished pieces of a long job are appended, so that it can go on where it was interrupted.

A file for each piece would be hundreds of thousands for a genome. Each piece is framed by its number, its size and its
checksum; what a killed process left half-written at the end is dropped when the file is opened again.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r2mae_core import UserError, saying_disk_full

_FRAME = struct.Struct("<4sqqI")  # mark, number of the piece, bytes, CRC-32
_MARK = b"r2mc"
_SETTINGS = -1


class ChunkLog:
    """Appends pieces to a file.

    Args:
        file: a new one, or one of the same settings.
        settings: everything that the pieces depend on.

    Raises:
        UserError: the file is of other settings, or of another program.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.done = file, set[int]()
        end = 0
        if file.is_file() and file.stat().st_size:
            there, places, end = _walk(file)
            if there is not None:
                refuse_other_settings(file, there, settings)
            self.done = set(places)
        self._file = file.open("r+b" if file.exists() else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        if end == 0:
            self.append(_SETTINGS, json.dumps(dict(settings)).encode())
            self.done.clear()

    def append(self, number: int, content: bytes) -> None:
        """Write a piece, whole or not at all.

        Raises:
            UserError: the disk is full.
        """
        with saying_disk_full(self.path):
            self._file.write(_FRAME.pack(_MARK, number, len(content), zlib.crc32(content)) + content)
            self._file.flush()
        self.done.add(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class ChunkReader:
    """The pieces in several files of `ChunkLog`.

    Args:
        files: of the same settings; a piece that is in several is taken from the first.
        settings: what they should be; None: those of the first file.

    Raises:
        UserError: there is no file, or files are of different settings.
    """

    def __init__(self, files: list[Path], settings: Mapping[str, Any] | None = None) -> None:
        self._places: dict[int, tuple[Path, int, int]] = {}
        found = None if settings is None else dict(settings)
        for file in files:
            there, places, _ = _walk(file)
            if there is None:
                continue
            found = there if found is None else found
            refuse_other_settings(file, there, found)
            for number, (offset, size) in places.items():
                self._places.setdefault(number, (file, offset, size))
        if found is None:
            raise UserError("there are no parts to join")
        self.settings = found

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> bytes:
        """Return a piece.

        Raises:
            UserError: it is not what was written.
        """
        file, offset, size = self._places[number]
        with file.open("rb") as source:
            source.seek(offset - _FRAME.size)
            _, _, _, checksum = _FRAME.unpack(source.read(_FRAME.size))
            content = source.read(size)
        if zlib.crc32(content) != checksum:
            raise UserError(f"{file} is damaged (piece {number}); remove it and run the same command again")
        return content


def refuse_other_settings(file: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a file of another job.

    Raises:
        UserError: with the first setting that differs.
    """
    plain = json.loads(json.dumps(dict(here)))
    for name in {**plain, **there}:
        if plain.get(name) != there.get(name):
            raise UserError(
                f"{file} is of another run: {name} was {there.get(name)!r} there and is {plain.get(name)!r} here; "
                "name another --out, or remove it"
            )


def _walk(file: Path) -> tuple[dict[str, Any] | None, dict[int, tuple[int, int]], int]:
    """Return the settings, number → (offset, size) of the whole pieces, and where the last of them ends.

    Raises:
        UserError: the file is of another program, or damaged.
    """
    places: dict[int, tuple[int, int]] = {}
    settings, end, total = None, 0, file.stat().st_size
    with file.open("rb") as source:
        while len(head := source.read(_FRAME.size)) == _FRAME.size:
            mark, number, size, checksum = _FRAME.unpack(head)
            start = end + _FRAME.size
            if mark != _MARK or size < 0 or number < _SETTINGS or (settings is None) != (number == _SETTINGS):
                raise UserError(f"{file} is damaged, or of another program, at byte {end}; remove it and run again")
            if start + size > total:
                break
            if number == _SETTINGS:
                content = source.read(size)
                if zlib.crc32(content) != checksum:
                    raise UserError(f"{file} is damaged; remove it and run again")
                settings = json.loads(content)
            else:
                places[number] = (start, size)
            end = start + size
            source.seek(end)
    return settings, places, end
