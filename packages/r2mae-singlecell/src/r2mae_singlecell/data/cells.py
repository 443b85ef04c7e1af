"""The table of cells of a store: the standard columns, and all others of the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from r2mae_core import UserError
from r2mae_singlecell.data.presets import FILE, STANDARD, AtlasPreset

MissingBatch = Literal["refuse", "drop", "own"]


@dataclass(frozen=True)
class CellTable:
    """The cells of all files, one after another."""

    obs: pd.DataFrame
    standard: dict[str, str]
    """Standard column → the columns that it was taken from."""
    wanted: list[np.ndarray]
    """For each file, (its cells,) bool: whether the cell is taken."""
    left_out: list[dict[str, int]]
    """For each file, reason → its cells that are left out or changed."""
    notes: list[str]
    """What a user should know, in sentences."""


def combined_cells(
    files: Sequence[tuple[str, pd.DataFrame, AtlasPreset]],
    missing_batch: MissingBatch = "refuse",
    *,
    name_files: bool = False,
) -> CellTable:
    """Return the standard columns of all files, and their own columns.

    A file's column whose name is that of another column here is kept as `original_NAME`, unless it holds the same.

    Args:
        files: name, table of cells and layout of each file.
        missing_batch: what becomes of cells without a batch: an error; they are left out; or each file's are a batch of
            their own.
        name_files: each cell's file is a column, which genes that a file lacks need.

    Raises:
        UserError: cells have no batch, and `missing_batch` is "refuse".
    """
    parts, wanted, left_out, taken = [], [], [], {}
    for name, obs, layout in files:
        table = layout.standard_obs(obs.assign(**{FILE: name}) if layout.batch == FILE and FILE not in obs else obs)
        use, counts = np.ones(len(obs), bool), {}
        if any(other.batch is not None for _, _, other in files):
            table, use, counts = _batches(name, table, layout, missing_batch)
        if name_files:
            table[FILE] = name
        for column in STANDARD[:-1]:
            if (source := getattr(layout, column)) is not None:
                taken.setdefault(column, dict.fromkeys([]))[source] = None
        parts.append(_with_originals(table, obs))
        wanted.append(use)
        left_out.append(counts)
    obs = parts[0] if len(parts) == 1 else pd.concat(parts)
    notes = _shared_names(parts, [name for name, _, _ in files]) if len(parts) > 1 else []
    obs, renamed = _unique_names(obs)
    notes += [f"{renamed:,} cells have the name of another cell and were renamed"] if renamed else []
    obs = _writable(_standard_first(obs), [name for name, _, _ in files])
    return CellTable(obs, {column: ", ".join(names) for column, names in taken.items()}, wanted, left_out, notes)


def _batches(
    file: str, table: pd.DataFrame, layout: AtlasPreset, missing: MissingBatch
) -> tuple[pd.DataFrame, np.ndarray, dict[str, int]]:
    """Answer cells without a batch."""
    if "batch" not in table:
        table = table.assign(batch=np.nan)
    without: Any = table["batch"].isna()
    n = int(without.sum())
    if not n:
        return table, np.ones(len(table), bool), {}
    if missing == "drop":
        return table, ~without.to_numpy(), {"cells without a batch": n}
    if missing == "own":
        own, known = f"no batch ({file})", set(table["batch"].dropna().astype(str))
        if own in known:
            raise UserError(f"{file}: there is a batch {own!r} already; name another column with --batch_column")
        filled = table["batch"].astype(object).where(~without, own)
        return (
            table.assign(batch=filled),
            np.ones(len(table), bool),
            {"cells without a batch, as a batch of their own": n},
        )
    where = "there is no batch column" if layout.batch is None else f"no value in obs column {layout.batch!r}"
    raise UserError(
        f"{file}: {n:,} cells have no batch ({where}), such as {str(table.index[without.to_numpy()][0])!r}; leave them "
        "out with --missing_batch drop, make them a batch of their own with --missing_batch own, or name another "
        "column with --batch_column"
    )


def _with_originals(table: pd.DataFrame, obs: pd.DataFrame) -> pd.DataFrame:
    """Add a file's own columns to the standard ones."""
    columns: dict[str, Any] = {name: table[name] for name in table}
    for name in map(str, obs.columns):
        if name not in columns:
            columns[name] = obs[name]
        elif not _same(columns[name], obs[name]):
            new = f"original_{name}"
            while new in obs or new in columns:
                new = f"original_{new}"
            columns[new] = obs[name]
    return pd.DataFrame(columns, index=obs.index.rename(None))  # a name could be that of a column


def _same(one: Any, other: Any) -> bool:
    equal = one.astype(object).astype(str).to_numpy() == other.astype(object).astype(str).to_numpy()
    return bool((equal | (one.isna().to_numpy() & other.isna().to_numpy())).all())


def _standard_first(obs: pd.DataFrame) -> Any:
    first = [name for name in (*STANDARD, FILE) if name in obs]
    return obs[first + [name for name in obs if name not in first]]


def _shared_names(parts: list[pd.DataFrame], files: list[str]) -> list[str]:
    """Say which donors and batches have one name in several files: they are taken for the same."""
    notes = []
    for column in ("donor", "batch"):
        seen: dict[str, set[int]] = {}
        for i, part in enumerate(parts):
            if column in part:
                for value in part[column].dropna().astype(str).unique():
                    seen.setdefault(value, set()).add(i)
        shared = sorted(value for value, where in seen.items() if len(where) > 1)
        if shared:
            notes.append(
                f"{len(shared):,} names of a {column} are in several of {len(files)} files, such as {shared[0]!r}, and "
                f"are taken for the same {column}"
            )
    return notes


def _unique_names(obs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Make cells' names unique: by the file's name, then by a number."""
    from anndata.utils import make_index_unique

    twice = np.asarray(obs.index.duplicated(keep="first"))
    if not twice.any():
        return obs, 0
    names = obs.index.astype(str).to_numpy(dtype=object).copy()
    if FILE in obs:
        several = np.asarray(obs.index.duplicated(keep=False))
        names[several] = [f"{n}-{f}" for n, f in zip(names[several], obs[FILE].astype(str)[several], strict=True)]
    return obs.set_axis(make_index_unique(pd.Index(names)), axis=0), int(twice.sum())


def _writable(obs: pd.DataFrame, files: list[str]) -> pd.DataFrame:
    """Give columns of mixed types, as of files that disagree, one that can be written; text becomes categories."""
    columns: dict[str, Any] = {}
    for name in obs:
        column = obs[name]
        if column.dtype == object:
            column = column.infer_objects()
        if name == FILE and set(column.astype(str)) <= set(files):
            column = pd.Series(pd.Categorical(column, categories=list(dict.fromkeys(files))), index=obs.index)
        elif column.dtype == object:
            converted = column.convert_dtypes()
            text = isinstance(converted.dtype, pd.StringDtype) or converted.dtype == object
            column = column.where(column.isna(), column.astype(str)).astype("category") if text else converted
        columns[str(name)] = column
    return pd.DataFrame(columns, index=obs.index)
