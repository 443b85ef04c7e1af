"""`prepare`: files of any size and format → variable genes, checked counts, standard columns, one h5ad that is mapped.

Each file is read in blocks of cells twice: to check the counts and gather what the choice of genes needs, and to write.
What is left out is counted, for each file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from r2mae_core import (
    UserError,
    atomic_path,
    check_output,
    default_run_path,
    fingerprint,
    left_out,
    one_writer,
    pasteable,
    refuse_changed,
    say,
)
from r2mae_singlecell import options
from r2mae_singlecell.data.cells import CellTable, MissingBatch, combined_cells
from r2mae_singlecell.data.gene_map import Duplicates, GeneMap, Join, combined_genes
from r2mae_singlecell.data.inputs import names_of, opened_files, with_place
from r2mae_singlecell.data.like import genes_like, read_pattern
from r2mae_singlecell.data.prepared import FORMAT
from r2mae_singlecell.data.presets import STANDARD
from r2mae_singlecell.data.readers import BLOCK, CountsFile
from r2mae_singlecell.data.variable_genes import Moments
from r2mae_singlecell.data.whole import Rounded
from r2mae_singlecell.data.write_store import Embeddings, Written, table_size, write_store


@dataclass(frozen=True)
class Prepared:
    """What `prepare_atlas` did."""

    path: Path
    preset: str
    n_cells: int
    n_genes: int
    left_out: dict[str, int]
    """Reason → how many cells were left out for it; also in the file, under `uns["r2mae"]["left_out"]`."""
    unlabelled: dict[str, int]
    """Standard column → cells without a value there; they are pretrained on, and left out of that task."""
    columns: dict[str, str]
    """Standard column → the file's column that it was taken from."""
    table: pd.DataFrame
    """`file`, `what` (cells, genes, values, embeddings), `reason`, `n`: what was left out or changed, also under
    `uns["r2mae"]["left_out_by_file"]`."""
    notes: tuple[str, ...]
    """What a user should know, in sentences."""


def prepare(config: options.Prepare) -> Prepared:
    """Turn files of any size into training data.

    Raises:
        UserError: what `prepare_atlas` refuses.
    """
    columns = {name: getattr(config, f"{name}_column") for name in STANDARD if name != "is_reference"}
    return prepare_atlas(
        config.source,
        config.out or default_run_path("r2mae-singlecell", "prepare").with_suffix(".h5ad"),
        config.preset,
        columns | {"counts": config.counts},
        n_genes=config.n_genes,
        min_genes=config.min_genes,
        target_sum=config.target_sum,
        progress=config.progress,
        overwrite=config.overwrite,
        genes=config.genes,
        duplicates=config.duplicates,
        gene_column=config.gene_column,
        missing_batch=config.missing_batch,
        rounding=config.round,
        like=config.like,
        min_genes_found=config.min_genes_found,
    )


def prepare_command(config: options.Prepare) -> None:
    """Run `r2mae-singlecell prepare`."""
    prepared = prepare(config)
    say(f"{prepared.n_cells:,} cells × {prepared.n_genes:,} genes, laid out as {prepared.preset}")
    absent = [name for name in STANDARD[:-1] if name not in prepared.columns]
    taken = [f"{name} from {column}" for name, column in prepared.columns.items()]
    say(f"Columns: {', '.join(taken) or 'none'}" + (f"; not there: {', '.join(absent)}" if absent else ""))
    if "batch" in absent:
        say("All cells count as one batch; --batch_column names one if there are several")
    say(left_out(prepared.left_out))
    for file, rows in prepared.table.groupby("file", sort=False):
        more = [f"{n:,} {reason}" for reason, n in zip(rows["reason"], rows["n"], strict=True) if n]
        if more and (prepared.table["file"].nunique() > 1 or set(rows["what"]) != {"cells"}):
            say(f"{file}: {', '.join(more)}")
    for column, n in prepared.unlabelled.items():
        if n:
            say(f"{n:,} cells have no {column}: pretrained on, left out of what needs it")
    for note in prepared.notes:
        say(note)
    say(f"Done: {prepared.path}. Next: r2mae-singlecell pretrain {pasteable(prepared.path)}")


def prepare_atlas(
    source: Path | Sequence[Path],
    target: Path,
    preset: str = "auto",
    columns: Mapping[str, str | None] | None = None,
    n_genes: int = 5000,
    min_genes: int | None = None,
    target_sum: float | None = None,
    block: int = BLOCK,
    progress: bool = True,
    overwrite: bool = False,
    *,
    genes: Join = "intersection",
    duplicates: Duplicates = "refuse",
    gene_column: str | None = None,
    missing_batch: MissingBatch = "refuse",
    rounding: bool = False,
    like: Path | None = None,
    min_genes_found: float = 0.5,
) -> Prepared:
    """Select variable genes, or take those of a model, and write counts and columns of one or several files.

    Args:
        source: files of any format that `open_counts` reads; `FILE::PLACE` names the place of the counts in one.
        target: the h5ad file to write. Its X holds integer counts, uncompressed, so training maps it into memory.
        preset: "hlca", "seaad", "seaad-allen"; "auto": by the columns, else what `presets.FOUND` names; or "none":
            `columns` alone.
        columns: `donor`, `batch`, `cell_type`, `disease`, `age` → column of `obs`, and `counts` → place of the counts.
            None of them is needed.
        n_genes: variable genes to keep, by scanpy's default (dispersion of the normalised counts); the paper: 5,000.
        min_genes: drop cells with fewer non-zero variable genes; None: the preset's (20 for HLCA).
        target_sum: total to which cells are normalised for the choice of genes; None: their median, scanpy's default.
        block: cells read at a time at most.
        progress: show a progress bar.
        overwrite: replace a target that is there.
        genes: of several files, those that all have, or that any has. A gene that a file lacks is not 0 in its cells
            but unknown: `prepared.missing_genes` tells, and its moments are those of the other files' cells.
        duplicates: what becomes of genes of one name in a file; see `combined_genes`.
        gene_column: column of `var` that names the genes.
        missing_batch: what becomes of cells without a batch; see `combined_cells`.
        rounding: round fractional counts.
        like: a run folder, an exported model or a prepared file, whose genes are taken, in its order; found by name or
            Ensembl id. What a file lacks counts as hidden in its cells.
        min_genes_found: least share of them that each file must have.

    Raises:
        UserError: a file is unreadable, or holds no counts where they should be; a column is not there; the target is a
            source, is there already, or does not fit on the disk.
    """
    named = [with_place(Path(path)) for path in ([source] if isinstance(source, str | Path) else source)]
    names = names_of([path for path, _ in named])
    paths = [path for path, _ in named] + ([] if like is None else [like])
    check_output(target, paths, overwrite=overwrite)
    pattern = None if like is None else read_pattern(like)
    with ExitStack() as stack, one_writer(target, folder=False):
        before = fingerprint(paths)
        files, layouts = opened_files(named, names, preset, columns or {}, target.parent, stack)
        cells = combined_cells(
            [(name, file.obs, layout) for name, file, layout in zip(names, files, layouts, strict=True)],
            missing_batch,
            name_files=len(files) > 1 or pattern is not None,
        )
        tables = [(name, file.var) for name, file in zip(names, files, strict=True)]
        if pattern is None:
            candidates = combined_genes(tables, genes, duplicates, gene_column)
        else:
            candidates = genes_like(pattern, tables, duplicates, gene_column, min_genes_found)
        reader = _Reader(files, candidates, cells, block, rounding, progress)
        moments = reader.moments()
        every = np.arange(len(candidates.var))
        chosen = candidates.chosen(
            every if pattern is not None else reader.variable_genes(moments, n_genes, target_sum)
        )
        minimum = layouts[0].min_genes if min_genes is None else min_genes
        store = _Store(names, files, layouts[0].name, cells, chosen, reader.rounded, minimum)
        with atomic_path(target) as temporary:
            write_store(
                temporary, target, reader.blocks(chosen, "writing"), [len(file.obs) for file in files],
                int(moments.nonzero[store.positions_in(candidates)].sum()), moments.highest, store.kept, store.tables,
                2 * table_size(cells.obs, chosen.var), store.embeddings,
            )  # fmt: skip
            now = fingerprint(paths)
            refuse_changed(target, before, now, "it changed while it was read: run the command again")
    return store.result(target)


class _Reader:
    """The counts of all files, in the places that a map of genes gives them."""

    def __init__(
        self, files: list[CountsFile], genes: GeneMap, cells: CellTable, block: int, rounding: bool, progress: bool
    ) -> None:
        self.files, self.genes, self.cells = files, genes, cells
        self.block, self.rounding, self.progress = block, rounding, progress
        self.rounded = [Rounded() for _ in files]

    def blocks(self, genes: GeneMap, what: str) -> Iterator[tuple[int, int, sp.csr_matrix]]:
        """Yield file, position of the first cell, and counts."""
        first = genes is self.genes
        total = sum(len(file.obs) for file in self.files)
        bar: Any
        with tqdm(total=total, desc=what, unit="cell", unit_scale=True, disable=not self.progress) as bar:
            for i, file in enumerate(self.files):
                rounded = self.rounded[i] if first else None
                options: dict[str, Any] = {"rounding": self.rounding, "rounded": rounded}
                for start, part in file.blocks(self.block, genes.columns[i], len(genes.var), **options):
                    yield i, start, part
                    bar.update(len(part.indptr) - 1)

    def moments(self) -> Moments:
        """Return the moments of all genes; the counts are checked meanwhile.

        Raises:
            UserError: there are no counts.
        """
        moments = Moments(len(self.genes.var))
        for i, start, part in self.blocks(self.genes, "choosing genes"):
            use = self.cells.wanted[i][start : start + len(part.indptr) - 1]
            moments.add(part if use.all() else part[use])
        first = self.files[0]
        if not moments.highest:
            raise UserError(f"{first.path}: {first.place} holds no counts at all")
        return moments

    def variable_genes(self, moments: Moments, n_genes: int, target_sum: float | None) -> np.ndarray:
        """Return the positions of the variable genes, ascending.

        Raises:
            UserError: no gene varies.
        """
        first = self.files[0]
        n_cells = (~self.genes.missing) @ np.array([int(use.sum()) for use in self.cells.wanted])
        score = moments.dispersion(n_cells, target_sum)
        genes = np.sort(np.argsort(-score, kind="stable")[: min(n_genes, int(np.isfinite(score).sum()))])
        if not len(genes):
            raise UserError(f"{first.path}: no gene of {first.place} varies between its {len(self.cells.obs):,} cells")
        return genes


class _Store:
    """What is written, and what is told about it."""

    def __init__(
        self,
        names: list[str],
        files: list[CountsFile],
        preset: str,
        cells: CellTable,
        genes: GeneMap,
        rounded: list[Rounded],
        minimum: int,
    ) -> None:
        self.names, self.files, self.preset, self.cells = names, files, preset, cells
        self.genes, self.rounded, self.minimum = genes, rounded, minimum
        self.embeddings, self.notes = _embeddings(names, files)
        self.obs = cells.obs
        self.counted: dict[str, int] = {}
        self.table = pd.DataFrame()

    def positions_in(self, candidates: GeneMap) -> np.ndarray:
        """Return where the genes are among all candidates."""
        return candidates.var.index.get_indexer(self.genes.var.index)

    def kept(self, file: int, start: int, n_expressed: np.ndarray) -> np.ndarray:
        """Return which cells of a block are kept."""
        wanted = self.cells.wanted[file][start : start + len(n_expressed)]
        return wanted & (n_expressed >= max(self.minimum, 1))

    def tables(self, written: Written) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, dict[str, Any]]:
        """Return what is written beside the counts.

        Raises:
            UserError: no cell is left.
        """
        keep = np.concatenate(written.keep)
        if not keep.any():
            raise UserError(
                f"{self.files[0].path}: no cell has {max(self.minimum, 1)} of the {len(self.genes.var):,} variable "
                "genes; lower --min_genes"
            )
        self.obs = self.cells.obs.loc[keep]
        rows = [row for i in range(len(self.files)) for row in self._rows(i, written)]
        self.table = pd.DataFrame(rows, columns=pd.Index(["file", "what", "reason", "n"]))
        cells = self.table[self.table["what"] == "cells"]
        self.counted = {str(reason): int(n) for reason, n in cells.groupby("reason", sort=False)["n"].sum().items()}
        about = {
            "format": FORMAT, "preset": self.preset, "left_out": self.counted, "left_out_by_file": self.table,
            "columns": self.cells.standard, "files": np.array(self.names, dtype=object),
            "kept_obs": np.array(list(self.obs), dtype=object),
            "kept_obsm": np.array(list(self.embeddings.arrays), dtype=object),
        }  # fmt: skip
        return self.obs, _text_columns(self.genes.var), self.genes.missing, about

    def _rows(self, i: int, written: Written) -> Iterator[tuple[str, str, str, int]]:
        """Yield what was left out of a file."""
        name, wanted, n = self.names[i], self.cells.wanted[i], written.n_expressed[i]
        found = {
            "cells without a count in the variable genes": int((wanted & (n == 0)).sum()),
            f"cells with fewer than {self.minimum} variable genes": int((wanted & (n > 0) & ~written.keep[i]).sum()),
        }
        yield from ((name, "cells", reason, count) for reason, count in {**self.cells.left_out[i], **found}.items())
        for reason, count in {**self.files[i].left_out, **self.genes.left_out[i]}.items():
            yield name, "genes", reason, count
        rounded = self.rounded[i]
        for reason, count in (
            ("counts that were whole up to rounding, rounded", rounded.close),
            ("fractional counts, rounded", rounded.fractions),
        ):
            if count:
                yield name, "values", reason, count

    def result(self, target: Path) -> Prepared:
        """Return what was done."""
        unlabelled = {
            name: int(self.obs[name].isna().sum())
            for name in ("donor", "cell_type", "disease", "age")
            if name in self.obs
        }
        notes = (*self.cells.notes, *self.genes.notes, *self.notes)
        return Prepared(
            target, self.preset, len(self.obs), len(self.genes.var), self.counted, unlabelled, self.cells.standard,
            self.table, notes,
        )  # fmt: skip


def _embeddings(names: list[str], files: list[CountsFile]) -> tuple[Embeddings, list[str]]:
    """Return the embeddings that all files have, and say which are left out."""
    kept, notes = {}, []
    for name in dict.fromkeys(name for file in files for name in file.obsm):
        arrays = [file.obsm[name] for file in files if name in file.obsm]
        if len(arrays) < len(files):
            lacks = next(n for n, file in zip(names, files, strict=True) if name not in file.obsm)
            notes.append(f"the embedding {name!r} is left out: {lacks} lacks it")
        elif len({array.shape[1] for array in arrays}) > 1:
            notes.append(f"the embedding {name!r} is left out: its width differs between the files")
        else:
            kept[name] = arrays
    for file_name, file in zip(names, files, strict=True):
        if file.content.not_read:
            others = ", ".join(map(repr, file.content.not_read))
            notes.append(f"{file_name}: {others} of obsm are left out: no dense numbers with a row for each cell")
    if kept:
        notes.append(f"embeddings kept, for `probe --baselines`: {', '.join(f'obsm:{name}' for name in kept)}")
    return Embeddings(kept), notes


def _text_columns(var: pd.DataFrame) -> pd.DataFrame:
    """Return a table of genes whose columns can be written, whatever several files made of them."""
    columns = {str(name): var[name] for name in var}
    for name, column in columns.items():
        if column.dtype == object and not isinstance(column.infer_objects().dtype, np.dtype):
            columns[name] = column.infer_objects()
        elif column.dtype == object:
            columns[name] = column.where(column.isna(), column.astype(str)).astype("category")
    return pd.DataFrame(columns, index=var.index)
