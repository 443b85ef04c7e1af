"""Writing the file that training maps into memory: counts in one piece on disk, tables, embeddings, digest."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from r2mae_singlecell.data.prepared import MISSING, digest_of
from r2mae_singlecell.data.stores import new_h5, table_bytes

_PIECE = 2**22


@dataclass(frozen=True)
class Embeddings:
    """Arrays of `obsm` of all files, which are copied."""

    arrays: dict[str, Sequence[Any]]
    """Name → its array in each file."""

    def n_bytes(self, n_cells: int) -> int:
        """Return what they take at most."""
        return n_cells * sum(each[0].shape[1] * _common(each).itemsize for each in self.arrays.values())


@dataclass(frozen=True)
class Written:
    """What is in the file."""

    keep: list[np.ndarray]
    """For each file, (its cells,) bool."""
    n_expressed: list[np.ndarray]
    """For each file, (its cells,) genes with a count, also of cells that were left out."""


def write_store(
    path: Path,
    target: Path,
    blocks: Iterable[tuple[int, int, sp.csr_matrix]],
    n_cells: Sequence[int],
    bound: int,
    highest: int,
    kept: Callable[[int, int, np.ndarray], np.ndarray],
    tables: Callable[[Written], tuple[pd.DataFrame, pd.DataFrame, np.ndarray, dict[str, Any]]],
    n_table_bytes: int,
    embeddings: Embeddings,
) -> Written:
    """Write an ordinary h5ad whose X is contiguous on disk.

    Args:
        path: the temporary file.
        target: what messages call it.
        blocks: file, position of the first cell, and counts of the chosen genes.
        n_cells: cells of each file.
        bound: values of all blocks at most.
        highest: highest count.
        kept: given a file, the position of the first cell and (cells,) their expressed genes: which cells are kept.
        tables: given what was kept, `obs`, `var`, which gene is missing in which file, and `uns["r2mae"]`.
        n_table_bytes: what the tables take at most.
        embeddings: what is copied into `obsm`.

    Raises:
        UserError: there is not enough space.
    """
    index_type = np.int32 if bound <= np.iinfo(np.int32).max else np.int64
    value_type = np.uint16 if highest <= np.iinfo(np.uint16).max else np.int32
    each = np.dtype(index_type).itemsize + np.dtype(value_type).itemsize
    others = n_table_bytes + 8 * (sum(n_cells) + 1) + embeddings.n_bytes(sum(n_cells))
    written = Written([np.zeros(n, bool) for n in n_cells], [np.zeros(n, np.int32) for n in n_cells])
    with new_h5(path, bound * each + others, target) as out, _Sink(out, bound, index_type, value_type) as sink:
        for file, start, part in blocks:
            n_expressed = np.diff(part.indptr)
            use = kept(file, start, n_expressed)
            written.n_expressed[file][start : start + len(use)] = n_expressed
            written.keep[file][start : start + len(use)] = use
            sink.add(part if use.all() else part[use])
        end, hashes = sink.end, sink.hashes()
        if end == bound:
            _finish(out, written, hashes, tables, embeddings)
    if end < bound:  # cells were left out: HDF5 cannot shorten what lies in one piece
        short = path.with_name(f"{path.name}.short")
        with contextlib.ExitStack() as stack:
            stack.callback(short.unlink, missing_ok=True)
            with h5py.File(path) as full, new_h5(short, end * each + others, target) as out:
                _copy_shorter(full, out, end)
                _finish(out, written, hashes, tables, embeddings)
            short.replace(path)
    return written


class _Sink:
    """The arrays of X, which grow by blocks; their digests are computed meanwhile."""

    def __init__(self, out: h5py.File, bound: int, index_type: Any, value_type: Any) -> None:
        x = out.create_group("X")
        self.parts = {"indices": (x, index_type), "data": (x, value_type)}
        self.arrays = {name: x.create_dataset(name, (bound,), kind) for name, (_, kind) in self.parts.items()}
        self.found = {name: hashlib.sha256() for name in self.arrays}
        self.end = 0
        self._pool = ThreadPoolExecutor(1)
        self._busy: list[Future[None]] = []

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def add(self, part: sp.csr_matrix) -> None:
        """Add rows."""
        n = len(part.data)
        for name, array in self.arrays.items():
            values: Any = np.ascontiguousarray(getattr(part, name), array.dtype)
            array[self.end : self.end + n] = values
            while len(self._busy) > 2:
                self._busy.pop(0).result()
            self._busy.append(self._pool.submit(self.found[name].update, values))
        self.end += n

    def hashes(self) -> dict[str, str]:
        """Return the digest of each array."""
        for future in self._busy:
            future.result()
        return {name: found.hexdigest() for name, found in self.found.items()}


def _copy_shorter(full: h5py.File, out: h5py.File, end: int) -> None:
    for name in ("indices", "data"):
        source: Any = full["X"][name]  # pyright: ignore[reportIndexIssue]
        target = out.require_group("X").create_dataset(name, (end,), source.dtype)
        for at in range(0, end, _PIECE):
            target[at : min(at + _PIECE, end)] = source[at : min(at + _PIECE, end)]


def _finish(
    out: h5py.File, written: Written, hashes: dict[str, str], tables: Callable[[Written], Any], embeddings: Embeddings
) -> None:
    """Write everything but the values of X."""
    from anndata.io import write_elem

    obs, var, missing, about = tables(written)
    out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    lengths = np.concatenate([n[keep] for n, keep in zip(written.n_expressed, written.keep, strict=True)])
    x: Any = out["X"]
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    x.attrs["shape"] = np.array([len(obs), len(var)])
    x.create_dataset(
        "indptr", data=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(x["indices"].dtype)
    )
    write_elem(out, "obs", obs)
    write_elem(out, "var", var)
    write_elem(out, "varm", {MISSING: missing} if missing.any() else {})
    for empty in ("obsm", "obsp", "varp", "layers"):
        write_elem(out, empty, {})
    for name, arrays in embeddings.arrays.items():
        _copy_rows(out["obsm"], name, arrays, written.keep)
    write_elem(out, "uns", {"r2mae": about})
    inner: Any = out["uns/r2mae"]  # anndata 0.13 takes no "/" in a name
    write_elem(inner, "digest", digest_of(out, hashes))


def _copy_rows(group: Any, name: str, arrays: Sequence[Any], keep: list[np.ndarray]) -> None:
    shape = sum(int(use.sum()) for use in keep), arrays[0].shape[1]
    target = group.create_dataset(name, shape, _common(arrays))
    target.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    at, rows = 0, max(1, _PIECE // max(shape[1], 1))
    for array, use in zip(arrays, keep, strict=True):
        for start in range(0, len(use), rows):
            part = np.asarray(array[start : start + rows])[use[start : start + rows]]
            target[at : at + len(part)] = part
            at += len(part)


def _common(arrays: Sequence[Any]) -> np.dtype[Any]:
    return np.result_type(*(array.dtype.newbyteorder("=") for array in arrays))


def table_size(*tables: pd.DataFrame) -> int:
    """Return at least what tables take in a file."""
    return sum(table_bytes(table) for table in tables)
