"""Tar archives of images: checked to their end, because Python's reader takes a damaged one for a short one."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r2mae_core import UserError, reading
from r2mae_vision.data.decoding import suffixes

BLOCK = 512


def check_tar(file: Path) -> None:
    """Refuse an archive whose headers, and those of archives inside it, do not reach its end.

    Raises:
        UserError: it is no tar, truncated or damaged.
    """
    files_of_tar(file, lambda _name, _why: None)


def files_of_tar(file: Path, ignore: Callable[[str, str], None]) -> list[tuple[str, int, int]]:
    """Return (name, first byte, bytes) of every file in an archive, and in archives inside it.

    What lies in `cats.tar` inside has the name `cats/…`.

    Args:
        file: the archive, not compressed.
        ignore: is told (name, what it is) of links and other members that are no plain files.

    Raises:
        UserError: it is no tar, truncated or damaged.
    """
    with (
        reading(file, "a .tar archive"),
        file.open("rb") as handle,
        tarfile.open(fileobj=handle, mode="r:") as archive,
    ):
        return list(_files(archive, handle, file, "", 0, ignore))


def _files(
    archive: tarfile.TarFile, handle: Any, file: Path, home: str, start: int, ignore: Callable[[str, str], None]
) -> Iterator[tuple[str, int, int]]:
    end, at = 0, dict[str, tuple[int, int]]()
    for member in archive:
        name = home + member.name
        end = member.offset_data + (0 if member.islnk() else -(-member.size // BLOCK) * BLOCK)
        if member.isfile() and member.name.lower().endswith(".tar"):
            inner = archive.extractfile(member)
            with tarfile.open(fileobj=inner, mode="r:") as child:
                below, first = f"{name[: -len('.tar')]}/", start + member.offset_data
                yield from _files(child, inner, file / member.name, below, first, ignore)
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


def stream_tars(pattern: str) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, image file, label) from WebDataset shards, in their order; label -1 if there is none.

    Args:
        pattern: path with braces or stars, such as "shards/train-{000..009}.tar".

    Raises:
        UserError: webdataset is not installed, or a shard is missing or damaged.
    """
    shards = shards_of(pattern)
    for shard in shards:
        if shard.suffix == ".tar":  # compressed ones have a checksum at their end
            check_tar(shard)
    import webdataset  # pyright: ignore[reportMissingImports]  optional; `shards_of` says how

    samples = iter(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False, empty_check=False))  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    while True:
        with reading(pattern, "a set of WebDataset shards"):
            sample = next(samples, None)
        if sample is None:
            return
        endings = sorted(key for key in sample if not key.startswith("__"))
        images = [ending for ending in endings if f".{ending}".lower() in suffixes()]
        if not images:  # counted with those that cannot be read
            yield f"{sample['__key__']}.{{{','.join(endings)}}}", b"", -1
            continue
        ending = next((ending for ending in ("jpg", "jpeg", "png", "webp") if ending in images), images[0])
        yield f"{sample['__key__']}.{ending}", sample[ending], _class_number(sample)


def shards_of(pattern: str) -> list[Path]:
    """Return the shards that a pattern names, as absolute paths: webdataset would run a name such as "pipe:…".

    Raises:
        UserError: webdataset is not installed, or no shard is there.
    """
    import glob

    try:
        import webdataset  # pyright: ignore[reportMissingImports]  optional; the message below says how
    except ImportError:
        raise UserError("WebDataset shards need webdataset: pip install webdataset") from None
    with reading(pattern, "a pattern of shards, such as shards/train-{000..009}.tar"):
        parts = webdataset.shardlists.expand_urls(pattern)
    shards: list[Path] = []
    for part in parts:
        found = [Path(file).absolute() for file in sorted(glob.glob(part))]  # noqa: PTH207
        if not found and len(parts) > 1:
            raise UserError(f"{part}, one of the shards {pattern}, is not there")
        shards += found
    if not shards:
        raise UserError(f"no shard matches {pattern}")
    return shards


def _class_number(sample: dict[str, Any]) -> int:
    """Return the number in a sample's .cls file; -1 if there is none.

    Raises:
        UserError: it holds something else.
    """
    if "cls" not in sample:
        return -1
    try:
        label = int(sample["cls"].decode())
    except ValueError:
        label = -1
    if not 0 <= label < 10**6:
        text = sample["cls"][:20]
        raise UserError(f"{sample['__key__']}.cls in {sample.get('__url__')} holds {text!r}, not the number of a class")
    return label
