"""Alignment stores of others, in the layout that GPN-MSA published: what may be read of them, and what names them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import VERIFIED, UserError, contents_of, fingerprint
from r2mae_dna.data.new_folders import digest_of

_PLAIN_CODECS = {
    "blosc", "bytes", "bz2", "crc32c", "gzip", "lz4", "lzma", "sharding_indexed", "transpose", "zlib", "zstd",
}  # fmt: skip

_ALIGNED = np.isin(np.arange(256), list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-.?* \0"))
"""Bytes that an alignment may hold."""


def refuse_code(path: Path, name: str, array: Any, kind: str) -> None:
    """Refuse an array of another program, or one whose decoding could run code, such as a pickle filter.

    Args:
        path: the store, for the message.
        name: the array.
        array: opened, and not read yet.
        kind: its dtype: "uint8" in stores of ours, "|S1" in those of others, which bear no mark: many programs write
            two-dimensional bytes, and only letters tell an alignment.

    Raises:
        UserError: it is such an array.
    """
    if str(array.dtype) != kind:
        what = "letters" if kind == "|S1" else "bytes"
        raise UserError(f"{path} is not an alignment store: {name!r} holds {array.dtype} instead of {what}")
    if unknown := [codec for codec in _codecs(array.metadata) if codec.removeprefix("numcodecs.") not in _PLAIN_CODECS]:
        raise UserError(
            f"{path}: {name!r} is stored with {unknown[0]!r}, which could run code or is unknown here, and is not read"
        )


def refuse_foreign(path: Path, name: str, letters: np.ndarray) -> None:
    """Refuse bytes that no alignment holds: anything but letters, gaps, and the empty ones of unwritten parts.

    Args:
        path: the store, for the message.
        name: the array.
        letters: uint8.

    Raises:
        UserError: with the first of them.
    """
    if not (fine := _ALIGNED[letters]).all():
        first = chr(letters[~fine][0])
        raise UserError(
            f"{path} is not an alignment store: {name!r} holds {first!r}, which is neither a letter nor a gap"
        )


def _codecs(metadata: Any) -> list[str]:
    """Return the names of all codecs of an array, those inside of others too."""
    if metadata.zarr_format == 2:
        return [codec.codec_id for codec in (*(metadata.filters or ()), metadata.compressor) if codec is not None]
    found, waiting = [], [codec.to_dict() for codec in metadata.codecs]
    while waiting:
        codec = waiting.pop()
        found.append(str(codec["name"]))
        configuration: Mapping[str, Any] = codec.get("configuration", {})
        waiting += [*configuration.get("codecs", ()), *configuration.get("index_codecs", ())]
    return found


def published_digest(path: Path) -> str:
    """Return what names a store that has no digest of its own.

    Of a zip file the checksums of its members; of a folder the checksums of its files, or, beyond `VERIFIED`,
    their names, sizes and times.
    """
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename: [entry.file_size, entry.CRC] for entry in archive.infolist()}
        return f"published-{digest_of(members)}"
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"published-{digest_of(contents_of(path) if size <= VERIFIED else fingerprint(path))}"
