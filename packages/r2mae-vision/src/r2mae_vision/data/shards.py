"""WebDataset shards: where in which tar each image lies. Then any image can be read at once, and a run resumes exactly.

Shards lie on a disk, or wherever fsspec reaches (`s3://…`, `gs://…`, `https://…`).
"""

import glob
import io
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from os import getpid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from r2mae_core import UserError, fingerprint, reading
from r2mae_vision.data.decoding import suffixes
from r2mae_vision.data.image_files import ImageFiles
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.tars import COMPRESSED, files_of_tar, plain_tar

FIRST = ("jpg", "jpeg", "png", "webp")
"""Which of several images of a sample is taken."""


class Sample(NamedTuple):
    """A sample of a shard."""

    name: str
    start: int
    size: int
    label: int
    """-1: none."""


class ShardReader:
    """Images that lie in shards."""

    def __init__(self, shards: Sequence[str], shard: np.ndarray, samples: Sequence[Sample]) -> None:
        self.shards, self.shard, self.names = list(shards), shard, [sample.name for sample in samples]
        self.start = np.array([sample.start for sample in samples], np.int64)
        self.size = np.array([sample.size for sample in samples], np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        shard = self.shards[self.shard[index]]
        return io.BytesIO(_read(shard, int(self.start[index]), int(self.size[index])))

    def filename(self, index: int) -> str:
        """Return the image's name in its shard."""
        return self.names[index]


def open_shards(pattern: str) -> ImageFiles:
    """Open the images of the shards that a pattern names, such as "shards/train-{000..009}.tar".

    Raises:
        UserError: webdataset is not installed, a shard is missing or damaged, or there is no image.
    """
    shards = shards_of(pattern)
    left = Counter[str]()
    found = [(k, sample) for k, shard in enumerate(shards) for sample in _samples(shard, left)]
    if left:
        say_once(f"{pattern}: ignored: {', '.join(f'{n:,} {what}' for what, n in left.most_common(6))}")
    if not found:
        raise UserError(f"{pattern}: no sample of {len(shards)} shards has an image")
    samples = [sample for _, sample in found]
    bodies = [shard if "://" in shard else str(plain_tar(Path(shard))) for shard in shards]
    reader = ShardReader(bodies, np.array([k for k, _ in found], np.int32), samples)
    labels = np.array([sample.label for sample in samples], np.int64)
    classes = tuple(str(number) for number in range(int(labels.max()) + 1))
    named = fingerprint([Path(shard) for shard in shards if "://" not in shard])
    named |= {posixpath.basename(shard): _state(shard) for shard in shards if "://" in shard}
    return ImageFiles(posixpath.basename(pattern), reader, classes, labels, named=named)


def shards_of(pattern: str) -> list[str]:
    """Return the shards that a pattern names: absolute paths, or addresses with their protocol.

    Raises:
        UserError: webdataset is not installed, or no shard is there.
    """
    try:
        import webdataset  # pyright: ignore[reportMissingImports]  optional; the message below says how
    except ImportError:
        raise UserError("WebDataset shards need webdataset: pip install 'r2mae-vision[shards]'") from None
    with reading(pattern, "a pattern of shards, such as shards/train-{000..009}.tar"):
        parts = webdataset.shardlists.expand_urls(pattern)
    shards: list[str] = []
    for part in parts:
        if "://" in part:
            system, path = _system(part.split("://")[0], getpid()), part.partition("://")
            with reading(part, "a shard"):
                found = [f"{path[0]}://{name}" for name in sorted(system.glob(path[2]))] if "*" in part else [part]
        else:
            found = [str(Path(file).absolute()) for file in sorted(glob.glob(part))]  # noqa: PTH207
        if not found and len(parts) > 1:
            raise UserError(f"{part}, one of the shards {pattern}, is not there")
        shards += found
    if not shards:
        raise UserError(f"no shard matches {pattern}")
    return shards


def _samples(shard: str, left: Counter[str]) -> Iterator[Sample]:
    """Yield the samples of a shard that have an image: files whose names agree up to the first dot.

    Args:
        shard: path or address.
        left: what is left out is counted here.
    """
    remote = "://" in shard
    if remote and shard.lower().endswith(COMPRESSED):
        raise UserError(f"{shard}: compressed shards cannot be read from elsewhere in any order; fetch or unpack it")
    body = shard if remote else plain_tar(Path(shard))
    with reading(shard, "a shard"):
        opened = _system(shard.split("://")[0], getpid()).open(shard, "rb") if remote else None
    members = files_of_tar(body, lambda _name, _why: None, opened)
    of_key: dict[str, list[dict[str, tuple[str, int, int]]]] = {}
    for name, start, size in members:
        folder, file = posixpath.split(name)
        stem, _, ending = file.partition(".")
        if not stem or stem.startswith("__"):
            continue
        of_one = of_key.setdefault(posixpath.join(folder, stem), [{}])
        if ending.lower() in of_one[-1]:
            of_one.append({})  # a second sample of that name
        of_one[-1][ending.lower()] = (name, start, size)
    for key, files in ((key, files) for key, of_one in of_key.items() for files in of_one):
        images = [ending for ending in sorted(files) if f".{ending.rpartition('.')[2]}".lower() in suffixes()]
        if not images:
            left["samples without an image"] += 1
            continue
        ending = next((ending for ending in FIRST if ending in images), images[0])
        left.update(f"further images of their samples ({other})" for other in images if other != ending)
        left.update(f".{other}" for other in files if other not in (*images, "cls"))
        label = (
            -1 if "cls" not in files else _class_number(_read(str(body), *files["cls"][1:]), f"{key}.cls in {shard}")
        )
        yield Sample(*files[ending], label)


def _read(shard: str, start: int, size: int) -> bytes:
    if "://" in shard:
        return _system(shard.split("://")[0], getpid()).cat_file(shard, start, start + size)
    with Path(shard).open("rb") as file:
        file.seek(start)
        return file.read(size)


@lru_cache(maxsize=16)
def _system(protocol: str, _process: int) -> Any:
    """Return fsspec's file system of a protocol, one in each process: connections are not shared with workers."""
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{protocol}:// needs fsspec: pip install 'r2mae-vision[shards]'") from None
    try:
        return fsspec.filesystem(protocol, skip_instance_cache=True)
    except (ImportError, ValueError) as error:  # the protocol's own package is missing
        raise UserError(f"{protocol}:// cannot be read: {' '.join(str(error).split())}") from None


def _state(shard: str) -> str:
    """Return what names the content of a shard that lies elsewhere."""
    with reading(shard, "a shard"):
        state = _system(shard.split("://")[0], getpid()).info(shard)
    stamp = next((state[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if state.get(key)), "")
    return f"{state.get('size')} bytes, {stamp}"


def _class_number(content: bytes, what: str) -> int:
    """Return the number in a sample's .cls file.

    Raises:
        UserError: it holds something else.
    """
    try:
        label = int(content.decode())
    except ValueError:
        label = -1
    if not 0 <= label < 10**6:
        raise UserError(f"{what} holds {content[:20]!r}, not the number of a class")
    return label
