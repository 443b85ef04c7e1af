"""h5ad files and zarr stores: opened without following or running what they name, written into space that is there."""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from r2mae_core import UserError, check_space, reading, reserve

H5AD = "an h5ad file"
_CODECS = frozenset(
    {
        "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "categorize", "cast_value", "crc32", "crc32c",
        "delta", "endian", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits",
        "pcodec", "quantize", "scale_offset", "sharding_indexed", "shuffle", "transpose", "vlen-array", "vlen-bytes",
        "vlen-utf8", "zfpy", "zlib", "zstd",
    }
)  # fmt: skip
"""Codecs of zarr that make numbers and text of bytes. Others, such as "pickle", can run what a chunk holds."""
_METADATA = frozenset({".zarray", "zarr.json", ".zmetadata"})


@contextlib.contextmanager
def opened(source: Path) -> Iterator[Any]:
    """Open an HDF5 file or a zarr store, zipped or not, for reading.

    Raises:
        UserError: it is missing or damaged, it refers to other files, or reading it could run code.
    """
    if not source.exists():
        raise UserError(f"no file {source}")
    with contextlib.ExitStack() as stack:
        if source.is_dir() or source.suffix == ".zip":
            refuse_code(source)
            with reading(source, "a zarr store"):
                import zarr
                import zarr.storage

                place: Any = str(source)
                if not source.is_dir():
                    place = stack.enter_context(zarr.storage.ZipStore(source, mode="r"))
                file: Any = zarr.open_group(place, mode="r")
        else:
            with reading(source, H5AD):
                file = stack.enter_context(h5py.File(source, "r"))
            refuse_links(file, source)
        yield file


def refuse_links(file: h5py.File, source: Path) -> None:
    """Refuse an HDF5 file that is completed by others: what they hold would be read unasked.

    Raises:
        UserError: it has links to other files, or data that lie in them; or it is damaged.
    """
    elsewhere: list[str] = []

    def look_at_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            elsewhere.append(name)

    def look_at_data(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            elsewhere.append(name)

    with reading(source, H5AD):
        file.visititems_links(look_at_link)
        file.visititems(look_at_data)
    if elsewhere:
        raise UserError(
            f"{source}: {elsewhere[0]} lies in another file, which is not followed; write it as one file, such as with "
            "adata.write_h5ad of the whole data"
        )


def refuse_code(source: Path) -> None:
    """Refuse a zarr store with a codec that could run what the store holds, such as "pickle", before it is opened.

    Raises:
        UserError: it names such a codec, or its metadata is damaged.
    """
    if not source.is_dir():
        with reading(source, "a zipped zarr store"), zipfile.ZipFile(source) as packed:
            for name in packed.namelist():
                if name.rsplit("/", 1)[-1] in _METADATA:
                    _refuse_codecs(packed.read(name), Path(source, name))
        return
    for home, folders, names in os.walk(source):
        for name in _METADATA & set(names):
            file = Path(home) / name
            with reading(file, "metadata of zarr"):
                content = file.read_bytes()
            described = _refuse_codecs(content, file)
            if name == ".zarray" or (name == "zarr.json" and described.get("node_type") == "array"):
                folders.clear()  # its chunks


def _refuse_codecs(content: bytes, file: Path) -> Any:
    with reading(file, "metadata of zarr"):
        described = json.loads(content)
        foreign = sorted(set(_codecs(described)) - _CODECS)
    if foreign:
        raise UserError(
            f"{file} uses the codec {foreign[0]!r}, which can run code and is not read; write the data with plain "
            "types, as h5ad or zarr"
        )
    return described


def _codecs(described: Any) -> Iterator[str]:
    """Yield the codecs that metadata of an array, or of all arrays of a group, names at every depth."""
    if isinstance(described, list):
        for item in described:
            yield from _codecs(item)
    elif isinstance(described, dict):
        for key, value in described.items():
            if key in ("compressor", "filters", "codecs", "index_codecs", "storage_transformers"):
                for codec in value if isinstance(value, list) else [value]:
                    if codec is not None:
                        name = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
                        yield str(name).removeprefix("numcodecs.")
            if key != "attributes":
                yield from _codecs(value)


@contextlib.contextmanager
def new_h5(path: Path, n_bytes: int, target: Path) -> Iterator[h5py.File]:
    """Give a new HDF5 file to write to, whose space is taken beforehand: HDF5 can crash when the disk is full.

    Args:
        path: the file; give the temporary one of `atomic_path`.
        n_bytes: at least what it will hold; what is not needed is given back.
        target: what messages call it.

    Raises:
        UserError: there is not enough space.
    """
    n_bytes += 1_000_000  # for what HDF5 itself writes
    check_space(target.parent, n_bytes, target.name)
    content = io.BytesIO()
    h5py.File(content, "w").close()
    path.write_bytes(content.getvalue())
    reserve(path, n_bytes)
    with h5py.File(path, "r+") as file:
        yield file


def write_adata(file: h5py.File, adata: Any) -> None:
    """Write an AnnData object into a new file."""
    from anndata.io import write_elem

    write_elem(file, "/", adata)
    if adata.raw is None and "raw" in file:  # an empty one, which older versions of anndata do not read
        del file["raw"]


def table_bytes(table: Any) -> int:
    """Return at least what a data frame takes in a file."""
    return int(table.memory_usage(deep=True).sum()) + 65_536 * (1 + table.shape[1])
