"""`prepare-table`: training windows from a table of them, as GPN-MSA published its own, and an alignment store.

`songlab/gpn-msa-sapiens-dataset` has one Parquet file per split with the columns chrom, start, end, strand, phyloP,
phastCons and lowercase (lists, one entry per base). Both strands of a window are rows there; here a window is stored
once, from its row on the + strand, and training uses both strands.
"""

from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    UserError,
    check_contents,
    check_output,
    check_space,
    contents_of,
    default_run_path,
    fingerprint,
    left_out,
    one_writer,
    pasteable,
    reading,
    say,
    whole_folder,
    write_json,
    write_text,
)
from r2mae_dna.data.codes import SOFT_MASK, TOKEN_BITS
from r2mae_dna.data.joined import open_stores
from r2mae_dna.data.new_folders import check_new_folder, digest_of, refuse_other
from r2mae_dna.data.regions import stored_intervals
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import INDEX, REMEDY, SPLITS, WindowsInfo, cut, new_array, read_info, window_entries
from r2mae_dna.limits import MAX_POSITIONS
from r2mae_dna.options import PrepareTable

PLACES, VALUES = ("chrom", "start", "end", "strand"), ("phyloP", "phastCons", "lowercase")
CHUNK = 65_536
"""Rows whose lists are in memory at once."""


class WindowTable:
    """The windows of one split: which rows of its file are used, and where they lie.

    Raises:
        UserError: the file is missing or damaged, lacks a column, or has a window that cannot be.
    """

    def __init__(self, path: Path, store: AlignmentStore) -> None:
        import polars as pl

        if not path.is_file():
            raise UserError(f"no file {path}")
        self.path = path
        with reading(path, "a Parquet table of windows"):
            names = pl.scan_parquet(path).collect_schema().names()
        if missing := [name for name in (*PLACES, *VALUES) if name not in names]:
            raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
        with reading(path, "a Parquet table of windows"):
            places = pl.scan_parquet(path).select(PLACES).collect()
            start, end = (places[name].cast(pl.Int64).to_numpy() for name in ("start", "end"))
        self.n_rows = len(places)
        if self.n_rows == 0 or sum(places.null_count().row(0)):
            raise UserError(f"{path} has no rows, or rows without {', '.join(PLACES)}")
        self.window = int(end[0] - start[0])
        self._check_lengths(start, end)
        chromosome, strand = places["chrom"].cast(pl.String), places["strand"].cast(pl.String)
        if wrong := sorted(set(strand.unique()) - {"+", "-"}):
            raise UserError(f"{path}: a strand is + or -, got {wrong[0]!r}")
        index = {name: i for i, name in enumerate(store.chromosomes)}
        matched = {name: index.get(store.chromosome(name) or "") for name in chromosome.unique().to_list()}
        number = np.array([-1 if (i := matched[name]) is None else i for name in chromosome], np.int64)
        length = np.array([*(store.lengths[name] for name in store.chromosomes), np.iinfo(np.int64).max])[number]
        beyond = (start < 0) | (end > length)
        if beyond.any():
            row = int(beyond.argmax())
            raise UserError(
                f"{path}, row {row + 1}: {chromosome[row]}:{start[row]:,}-{end[row]:,} is not on the chromosome of "
                f"{store.path}, which has {length[row]:,} bases; wrong genome build?"
            )
        self.skipped: dict[str, int] = {}
        self._choose(
            number, start, (strand == "+").to_numpy(), store, sorted(n for n, i in matched.items() if i is None)
        )

    def _check_lengths(self, start: np.ndarray, end: np.ndarray) -> None:
        if not 2 <= self.window <= MAX_POSITIONS or (end - start != self.window).any():
            row = int((end - start != self.window).argmax())
            raise UserError(
                f"{self.path}, row {row + 1}: a window of {end[row] - start[row]:,} bases; all must have the same "
                f"number, from 2 to {MAX_POSITIONS:,} (the first has {self.window:,})"
            )

    def _choose(
        self, number: np.ndarray, start: np.ndarray, forward: np.ndarray, store: AlignmentStore, absent: list[str]
    ) -> None:
        """Set the rows that are used, in the order of the genome, and count the others."""
        known = number >= 0
        key = number << 40 | start
        rows = np.flatnonzero(forward & known)
        rows = rows[np.argsort(key[rows], kind="stable")]
        first = np.concatenate([[True], np.diff(key[rows]) > 0]) if len(rows) else np.zeros(0, bool)
        alone = ~forward & known & ~np.isin(key, key[rows])
        self.skipped = {
            f"on chromosomes that the store lacks ({', '.join(absent[:5])})": int((~known).sum()),
            "repeated": int((~first).sum()),
            "on the - strand alone": int(alone.sum()),
        }
        rows = rows[first]
        defined = np.zeros(len(rows), bool)
        for i, name in enumerate(store.chromosomes):
            mine = np.flatnonzero(number[rows] == i)
            if len(mine):
                starts, ends = stored_intervals(store, name)
                at = np.searchsorted(starts, start[rows[mine]], side="right") - 1
                defined[mine] = (at >= 0) & (start[rows[mine]] + self.window <= ends[np.maximum(at, 0)])
        self.skipped["with bases that the store does not define"] = int((~defined).sum())
        self.rows = rows[defined]
        """(n,) int64: rows of the file, ascending by place."""
        self.number, self.start = number[self.rows], start[self.rows]

    def values(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (which windows, phastCons and phyloP (m, 2, L) float16, lower case (m, L) bool), a chunk of rows each.

        Raises:
            UserError: a list has another length than the window, a value is out of all bounds, or a phastCons no
                probability.
        """
        import polars as pl

        order = np.argsort(self.rows)
        ascending = self.rows[order]
        for first in range(0, self.n_rows, CHUNK):
            low, high = np.searchsorted(ascending, [first, first + CHUNK])
            if low == high:
                continue
            with reading(self.path, "a Parquet table of windows"):
                part = (
                    pl.scan_parquet(self.path).select(VALUES).slice(first, CHUNK).collect()[ascending[low:high] - first]
                )
            phylop, phastcons, lower = (self._lists(part[name], ascending[low:high]) for name in VALUES)
            if (wrong := ((phastcons < 0) | (phastcons > 1)).any(1)).any():
                row = int(ascending[low + int(wrong.argmax())])
                raise UserError(f"{self.path}, row {row + 1}: a phastCons is not between 0 and 1")
            tracks = np.stack([np.nan_to_num(phastcons, nan=0.0), np.where(np.isnan(phylop), 1.0, phylop)], 1)
            with np.errstate(over="ignore"):  # refused below
                tracks = tracks.astype(np.float16)
            if not np.isfinite(tracks).all():
                row = int(ascending[low + (~np.isfinite(tracks).all((1, 2))).argmax()])
                raise UserError(f"{self.path}, row {row + 1}: phyloP or phastCons is out of all bounds")
            yield order[low:high], tracks, lower == 1

    def _lists(self, column: Any, rows: np.ndarray) -> np.ndarray:
        """Return a column of lists, (m, L) float64."""
        import polars as pl

        if column.dtype.base_type() not in (pl.List, pl.Array):
            raise UserError(f"{self.path}: {column.name} holds {column.dtype} instead of lists, one entry per base")
        values = column.cast(pl.List(column.dtype.inner))
        lengths = values.list.len().fill_null(0).to_numpy()
        if (lengths != self.window).any():
            row = int((lengths != self.window).argmax())
            raise UserError(
                f"{self.path}, row {rows[row] + 1}: {column.name} has {lengths[row]} entries for {self.window} bases"
            )
        with reading(self.path, "a Parquet table of windows"):
            return values.explode().cast(pl.Float64).fill_null(float("nan")).to_numpy().reshape(-1, self.window)


def prepare_table(config: PrepareTable) -> Path:
    """Make a folder of windows from a table per split, and return it; what is there of the same files is kept.

    Raises:
        UserError: a table or the store is wrong, splits overlap, or no training window is left.
    """
    out = config.out or default_run_path("r2mae-dna", "prepare-table")
    files = {split: path for split in SPLITS if (path := getattr(config, f"{split}_table")) is not None}
    check_output(out, [config.msa, *config.more_msa, *files.values()])
    with one_writer(out, folder=False):
        store = open_stores(config.msa, config.more_msa)
        foreign = {"msa", "more_msa", "out", "overwrite", *(f"{split}_table" for split in SPLITS)}
        own = {field.name for field in fields(config)} - foreign
        made: dict[str, Any] = {name: getattr(config, name) for name in sorted(own)}
        made["sources"] = {"the alignment store": store.digest, **fingerprint([*files.values()])}
        if not config.overwrite and window_entries(out):
            info = read_info(out)
            check_contents(out, info.files, REMEDY)
            refuse_other(out, info.made, made)
            return out
        check_new_folder(out, window_entries, "a folder of windows", overwrite=config.overwrite)
        tables = {split: WindowTable(path, store) for split, path in files.items()}
        _check(tables, store)
        n = sum(len(table.rows) for table in tables.values())
        check_space(out.parent, n * tables["train"].window * (store.n_species + 5), f"a folder of {n:,} windows")
        with whole_folder(out) as folder:
            info = _write(folder, store, tables)
            write_json(folder / INDEX, asdict(replace(info, made=made)))
    return out


def _check(tables: dict[str, WindowTable], store: AlignmentStore) -> None:
    """Refuse tables of different windows, an empty one, and splits that share bases."""
    window = tables["train"].window
    for table in tables.values():
        if table.window != window:
            raise UserError(f"{table.path} has windows of {table.window} bases, and {tables['train'].path} of {window}")
        if not len(table.rows):
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in table.skipped.items() if n)
            raise UserError(f"{table.path}: no window is left of {table.n_rows:,} rows ({reasons})")
    names = list(tables)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            a, b = ((t.number << 40) + t.start for t in (tables[one], tables[other]))
            at = np.searchsorted(a, b)
            after, before = a[np.minimum(at, len(a) - 1)], a[np.maximum(at - 1, 0)]
            shared = (np.abs(after - b) < window) | (np.abs(before - b) < window)
            if shared.any():
                row = int(shared.argmax())
                name = store.chromosomes[int(tables[other].number[row])]
                raise UserError(
                    f"the {one} and {other} windows overlap: {int(shared.sum()):,} of the {other} windows, such as "
                    f"{name}:{int(tables[other].start[row]) + 1:,}, share bases with {one} windows"
                )


def _write(folder: Path, store: AlignmentStore, tables: dict[str, WindowTable]) -> WindowsInfo:
    counts, skipped = {str(split): 0 for split in SPLITS}, dict[str, int]()
    for split, table in tables.items():
        n = counts[split] = len(table.rows)
        home = folder / split
        home.mkdir()
        codes = new_array(home / "codes.npy", np.uint8, (n, table.window, store.n_species + 1))
        tracks = new_array(home / "conservation.npy", np.float16, (n, 2, table.window))
        used = np.unique(table.number)
        for number in used:
            low, high = np.searchsorted(table.number, [number, number + 1])
            cut(store, store.chromosomes[int(number)], table.start[low:high], codes[low:high])
        for windows, values, lower in table.values():
            tracks[windows] = values
            # The table says which bases are lower-case, whatever the store has.
            codes[windows, :, 0] = codes[windows, :, 0] & TOKEN_BITS | lower.astype(np.uint8) * SOFT_MASK
        np.save(home / "starts.npy", table.start)
        np.save(home / "chromosome.npy", np.searchsorted(used, table.number).astype(np.int32))
        write_text(home / "chromosomes.txt", "".join(f"{store.chromosomes[int(i)]}\n" for i in used))
        for reason, count in table.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
        del codes, tracks  # written back before they are read again for their checksums
    files = contents_of(folder)
    content = {"species": store.species, "files": {name: file["sha256"] for name, file in files.items()}}
    return WindowsInfo(
        tables["train"].window, 0, store.species, store.n_species, store.digest, counts, True, digest_of(content),
        {reason: count for reason, count in skipped.items() if count}, files=files,
    )  # fmt: skip


def prepare_table_command(config: PrepareTable) -> None:
    """`r2mae-dna prepare-table`."""
    out = prepare_table(config)
    info = read_info(out)
    splits = ", ".join(f"{count:,} {split}" for split, count in info.counts.items() if count)
    say(f"{splits} windows of {info.window} bases × {info.n_species + 1} species (both strands are used)")
    say(left_out(info.left_out))
    say(f"Done: {out}. Next: r2mae-dna pretrain {pasteable(out)}")
