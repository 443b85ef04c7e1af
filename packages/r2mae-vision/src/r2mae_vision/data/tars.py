"""Tar archives of images: checked to their end, because Python's reader takes a damaged one for a short one."""

import atexit
import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from r2mae_core import UserError, check_space, reading, say, saying_disk_full

BLOCK = 512


def files_of_tar(
    file: Path | str, ignore: Callable[[str, str], None], opened: Any = None
) -> list[tuple[str, int, int]]:
    """Return (name, first byte, bytes) of every file in an archive, and in archives inside it.

    What lies in `cats.tar` inside has the name `cats/…`.

    Args:
        file: the archive, not compressed.
        ignore: is told (name, what it is) of links and other members that are no plain files.
        opened: the archive, where it lies elsewhere than on a disk.

    Raises:
        UserError: it is no tar, truncated or damaged.
    """
    with (
        reading(file, "a .tar archive"),
        opened or Path(file).open("rb") as handle,
        tarfile.open(fileobj=handle, mode="r:") as archive,
    ):
        return list(_files(archive, handle, file, "", 0, ignore))


def _files(
    archive: tarfile.TarFile, handle: Any, file: Path | str, home: str, start: int, ignore: Callable[[str, str], None]
) -> Iterator[tuple[str, int, int]]:
    end, at = 0, dict[str, tuple[int, int]]()
    for member in archive:
        name = home + member.name
        end = member.offset_data + (0 if member.islnk() else -(-member.size // BLOCK) * BLOCK)
        if member.isfile() and member.name.lower().endswith(".tar"):
            inner = archive.extractfile(member)
            with tarfile.open(fileobj=inner, mode="r:") as child:
                below, first = f"{name[: -len('.tar')]}/", start + member.offset_data
                yield from _files(child, inner, f"{file}/{member.name}", below, first, ignore)
        elif member.issparse():
            ignore(name, "sparse")
        elif member.islnk() and member.linkname in at:
            yield (name, *at[member.linkname])
        elif member.isfile():
            at[member.name] = (start + member.offset_data, member.size)
            yield (name, *at[member.name])
        elif not member.isdir():
            ignore(name, "links")
    handle.seek(end)
    if handle.read(2 * BLOCK) != bytes(2 * BLOCK):
        raise UserError(f"{file} is truncated or damaged: no end of the archive at byte {end:,}; fetch it again")


COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


def plain_tar(place: Path) -> Path:
    """Return an archive itself or, if it is compressed, a copy of it that is not, which goes with this process.

    A compressed archive can only be read from its beginning on, and training reads in any order.

    Raises:
        UserError: it is damaged, a library is missing, or there is no space for the copy.
    """
    if not place.name.lower().endswith(COMPRESSED):
        return place
    state = place.stat()
    return _unpacked(place, state.st_size, state.st_mtime_ns)


@cache
def _unpacked(place: Path, size: int, _time: int) -> Path:
    check_space(Path(tempfile.gettempdir()), size, f"an unpacked copy of {place.name}")
    handle, name = tempfile.mkstemp(prefix="r2mae-vision-", suffix=".tar")
    copy = Path(name)
    atexit.register(_remove, copy, os.getpid())
    os.close(handle)
    kind = "a compressed .tar archive"
    with copy.open("wb") as target, saying_disk_full(copy), reading(place, kind):
        if place.name.lower().endswith("zst"):
            _unpack_zstd(place, target)
        else:
            with _opened(place) as source:
                shutil.copyfileobj(source, target, 2**20)
    say(f"{place}: unpacked for this run into {copy.parent} ({copy.stat().st_size / 2**20:,.0f} MiB); prepare it once")
    return copy


def _opened(place: Path) -> Any:
    """Open a compressed file."""
    name = place.name.lower()
    if name.endswith(("gz", "tgz")):
        return gzip.open(place)
    return bz2.open(place) if name.endswith("bz2") else lzma.open(place)


def _unpack_zstd(place: Path, target: IO[bytes]) -> None:
    """Unpack all frames of a file; zstandard's own reader takes a file that is cut off for one that has ended.

    Raises:
        EOFError: it is cut off.
    """
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{place} needs zstandard: pip install 'r2mae-vision[shards]'") from None
    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    with place.open("rb") as source:
        while piece := source.read(2**20):
            while piece:
                target.write(frame.decompress(piece))
                begun, piece = not frame.eof, frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    if begun:
        raise EOFError("the compressed file ends before its end marker")


def _remove(copy: Path, process: int) -> None:
    if os.getpid() == process:  # not when a worker ends
        copy.unlink(missing_ok=True)
