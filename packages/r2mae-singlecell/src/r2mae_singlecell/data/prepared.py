"""The file that `prepare` writes: its digest, which names its content wherever it lies, and how it is read back."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from r2mae_core import VERIFIED, UserError, reading
from r2mae_singlecell.data.presets import FILE, PRESETS, STANDARD
from r2mae_singlecell.data.stores import refuse_links

KIND = "an h5ad file that `r2mae-singlecell prepare` wrote"
FORMAT = 2
"""Version of the layout of the file. 1: one file, all standard columns, no number; 2: what this version writes."""
_PIECE = 2**24
MISSING = "r2mae_missing"
"""Key of `varm`: which genes the files lacked."""
_ARRAYS = ("indptr", "indices", "data")


def read_prepared(path: Path) -> Any:
    """Return a prepared file as AnnData in backed mode: its counts stay on disk and are memory-mapped.

    The sizes of its parts are checked always. If the file is not larger than core's `VERIFIED`, its content is compared
    with the digest that `prepare` noted; in larger files, counts that the disk has changed are not noticed. A file of
    an older version, without a digest, is read unchecked.

    Raises:
        UserError: the file is missing, damaged, was edited, or was not prepared.
    """
    import anndata

    if not path.exists():
        raise UserError(f"no file {path}; `r2mae-singlecell prepare ATLAS.h5ad --out {path}` makes one")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file that `r2mae-singlecell prepare` wrote")
    status = path.stat()
    _check(path.resolve(), path, status.st_size, status.st_mtime_ns)
    with reading(path, KIND):
        return anndata.read_h5ad(path, backed="r")


@functools.lru_cache(maxsize=64)
def _check(resolved: Path, path: Path, size: int, changed: int) -> None:
    """Check a file, once for each state that it has on the disk."""
    del resolved, changed
    with reading(path, KIND):
        file = h5py.File(path, "r")
    with file:
        refuse_links(file, path)
        if "uns" not in file or "r2mae" not in file["uns"]:  # pyright: ignore[reportOperatorIssue]
            raise UserError(f"{path} was not prepared; run `r2mae-singlecell prepare {path} --out PREPARED.h5ad` first")
        with reading(path, KIND):
            _check_parts(file, path)
            noted = noted_digest(file)
            damaged = noted is not None and size <= VERIFIED and content_digest(file) != noted
    if damaged:
        raise UserError(
            f"{path} is damaged or was edited: it is not what prepare wrote; run `r2mae-singlecell prepare` again"
        )


def _check_parts(file: Any, path: Path) -> None:
    """Compare the sizes of all parts.

    Raises:
        UserError: they do not fit together.
    """
    version = _format(file)
    if version not in range(1, FORMAT + 1):
        raise UserError(
            f"{path} has the format {version}, and this version reads up to {FORMAT}; update r2mae-singlecell, "
            "or run `r2mae-singlecell prepare` again"
        )
    preset = _text(file["uns/r2mae/preset"])
    if preset not in ("none", *PRESETS):
        raise UserError(f"{path} is damaged: it has the unknown layout {preset[:40]!r}")
    if missing := [name for name in _columns(file) if name not in file["obs"]]:
        raise UserError(f"{path} has no column {missing[0]!r} in obs; run `r2mae-singlecell prepare` again")
    x, n_cells, n_genes = file["X"], *(len(_strings(_index(file[name]))) for name in ("obs", "var"))
    indptr, indices, data = (x[name] for name in _ARRAYS)
    whole = all(np.issubdtype(part.dtype, np.integer) for part in (indptr, indices))
    n_values = int(indptr[-1]) if whole and len(indptr) else -1
    fits = tuple(x.attrs["shape"]) == (n_cells, n_genes) and len(indptr) == n_cells + 1
    fits = fits and len(indices) == len(data) == n_values and int(indptr[0]) == 0
    if not fits or (np.diff(indptr[:]) < 0).any():
        raise UserError(f"{path} is damaged: the parts of its counts do not fit together; prepare it again")


def _format(file: Any) -> int:
    element = file["uns/r2mae"].get("format")
    return 1 if element is None else int(element[()])


def _columns(file: Any) -> list[str]:
    """Return the columns of `obs` on which a training or an evaluation may depend."""
    if _format(file) == 1:
        return list(STANDARD)
    known, n_files = [*file["uns/r2mae/columns"], "is_reference"], len(file["uns/r2mae/files"])
    return [name for name in STANDARD if name in known] + ([FILE] if MISSING in file["varm"] or n_files > 1 else [])


def content_digest(file: Any) -> str:
    """Return the SHA-256 of what `prepare` wrote into an open file; columns and embeddings may be added to it."""
    return _old_digest(file) if _format(file) == 1 else digest_of(file, {})


def digest_of(file: Any, known: Mapping[str, str]) -> str:
    """Return the SHA-256 of what an open file holds.

    Args:
        file: in the layout of `FORMAT`.
        known: array of X → its SHA-256, if it is known already.
    """
    found: Any = hashlib.sha256()
    for name in _ARRAYS:
        part = file["X"][name]
        digest = known.get(name) or _array_digest(part)
        found.update(f"{name} {part.dtype.str} {len(part)} {digest}\n".encode())
    for group in ("obs", "var"):
        _add_text(found, group, _index(file[group]))
    for name in map(_bytes, file["uns/r2mae/kept_obs"][:]):
        _add_all(found, name.decode(), file["obs"][name])
    for name in map(_bytes, file["uns/r2mae/kept_obsm"][:]):
        found.update(f"{name} {_array_digest(file['obsm'][name])}\n".encode())
    if MISSING in file["varm"]:
        found.update(np.ascontiguousarray(file["varm"][MISSING][:], dtype=np.uint8))
    return found.hexdigest()


def _add_all(found: Any, name: str, column: Any) -> None:
    """Add a column of whatever type: its arrays, and those of its parts."""
    if isinstance(column, h5py.Group):
        for part in sorted(column):
            _add_all(found, f"{name}/{part}", column[part])
    elif column.dtype.kind in "OS":
        _add_text(found, name, column if column.ndim else np.array([column[()]]))
    else:
        found.update(f"{name} {column.dtype.str} {column.shape}\n".encode())
        found.update(np.ascontiguousarray(column[()]))


def _array_digest(part: Any) -> str:
    found: Any = hashlib.sha256()
    for at in range(0, len(part), _PIECE):
        found.update(np.ascontiguousarray(part[at : at + _PIECE]))
    return found.hexdigest()


def _old_digest(file: Any) -> str:
    """Return the digest as format 1 noted it."""
    found: Any = hashlib.sha256()
    for name in _ARRAYS:
        part = file["X"][name]
        found.update(f"{name} {part.dtype.str} {len(part)}\n".encode())
        for at in range(0, len(part), _PIECE):
            found.update(np.ascontiguousarray(part[at : at + _PIECE]))
    for group in ("obs", "var"):
        _add_text(found, group, _index(file[group]))
    for name in STANDARD:
        _add_column(found, name, file["obs"][name])
    return found.hexdigest()


def _add_column(found: Any, name: str, column: Any) -> None:
    if isinstance(column, h5py.Group):
        _add_text(found, name, column["categories"])
        column = column["codes"]
    found.update(f"{name} {len(column)}\n".encode())
    found.update(np.ascontiguousarray(column[:], dtype=np.float64))


def _add_text(found: Any, name: str, values: Any) -> None:
    texts = [_bytes(value) for value in _strings(values)[:]]
    if isinstance(values, h5py.Group):  # which are missing is noted beside them
        mask: Any = values["mask"]
        texts = [b"\xff" if missing else text for text, missing in zip(texts, mask[:], strict=True)]
    found.update(f"{name} {len(texts)}\n".encode())
    found.update(b"\0".join(texts))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(element: Any) -> str:
    return _bytes(element[()]).decode()


def _index(table: Any) -> Any:
    """Return the names of a table's rows, whatever anndata calls them."""
    return table[table.attrs["_index"]]


def _strings(element: Any) -> Any:
    """Return the text of an array, which anndata may write together with marks of what is missing."""
    return element["values"] if isinstance(element, h5py.Group) else element


def noted_digest(file: Any) -> str | None:
    """Return the digest that `prepare` noted in an open file, or None in one of an older version."""
    element = file["uns/r2mae"].get("digest")
    return None if element is None else _text(element)


def missing_genes(adata: Any) -> dict[str, np.ndarray]:
    """Return which genes the files lacked that a store was prepared from; for their cells, these count as hidden.

    The store keeps them in `varm["r2mae_missing"]`, (genes, files) bool; the files' names, in this order, in
    `uns["r2mae"]["files"]`; and each cell's file in the categorical column `obs["file"]`.

    Args:
        adata: prepared data, or a part of it.

    Returns:
        File, as in `obs["file"]` → positions of the genes that it lacks, ascending. Files that lack none are not in it.
    """
    if MISSING not in getattr(adata, "varm", ()):  # a CollectionAdapter has none
        return {}
    table, files = np.asarray(adata.varm[MISSING], bool), adata.uns["r2mae"]["files"]
    return {str(name): np.flatnonzero(table[:, i]) for i, name in enumerate(files) if table[:, i].any()}


def data_source(adata: Any) -> dict[str, str]:
    """Return what names the counts, genes and labels that a model is trained or evaluated on, wherever they lie.

    Args:
        adata: prepared data, or any other whose counts are sparse.

    Returns:
        For the `sources` of a run folder, as `fingerprint` gives for files.
    """
    about: Any = adata.uns.get("r2mae", {})
    digest = str(about["digest"]) if "digest" in about else _digest_of_arrays(adata)
    return {"DATA": f"{adata.n_obs:,} cells × {adata.n_vars:,} genes, {digest}"}


def _digest_of_arrays(adata: Any) -> str:
    found: Any = hashlib.sha256()
    counts = adata.to_memory().X if adata.isbacked else adata.X
    for part in (counts.indptr, counts.indices, counts.data):
        found.update(np.ascontiguousarray(part))
    for names in (adata.obs_names, adata.var_names, *(adata.obs[name].astype(str) for name in sorted(adata.obs))):
        found.update("\0".join(map(str, names)).encode())
    return found.hexdigest()
