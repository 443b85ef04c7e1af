"""Training windows: cut once from a store into one flat memory map, so that training steps read no archive."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    Contents,
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
    read_json,
    reading,
    refuse_options,
    reserve,
    say,
    whole_folder,
    write_json,
    write_text,
)
from r2mae_dna.data.conservation import Conserved, Track, known_quantile, pieces, windows_of
from r2mae_dna.data.joined import open_stores
from r2mae_dna.data.new_folders import check_new_folder, digest_of, refuse_other
from r2mae_dna.data.regions import (
    Intervals,
    assign_windows,
    parse_regions,
    refuse_overlap,
    stored_intervals,
    window_starts,
)
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.options import Prepare

INDEX = "windows.json"
_SCORES = ".phastcons"
_CUT = 1024
"""Windows that are cut at once."""
REMEDY = "restore it, or make the windows again"
_TRACKS = ("phastcons", "phylop")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class WindowsInfo:
    """`windows.json`: description and source of the windows."""

    window: int
    step: int
    species: tuple[str, ...] | None
    """The reference first; None if the store does not name them."""
    n_species: int
    """Species beside the reference."""
    store_digest: str
    counts: dict[str, int]
    """Split → windows."""
    conservation: bool
    """Whether phastCons and phyloP are stored with every window."""
    digest: str
    """Of the content of all windows."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → windows of defined bases that are in no split."""
    made: dict[str, Any] = field(default_factory=dict)
    """Options of `prepare`, and its "sources"."""
    files: Contents = field(default_factory=lambda: dict[str, Any]())
    """Sizes and checksums of the files; none in folders of before they were noted."""
    unknown: int = 0
    """Bases of the windows without phastCons, which count as not conserved; not counted in earlier versions."""


class WindowSet:
    """The windows of one split, mapped into memory.

    The sizes of its files are compared with the index, and their checksums if the folder has at most `VERIFIED`
    (1 GiB).

    Args:
        folder: what `r2mae-dna prepare` wrote.
        split: "train", "validation" or "test".

    Raises:
        UserError: the folder or the split is missing or damaged.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        self.info = read_info(folder)
        self.split = split
        if not self.info.counts.get(split):
            raise UserError(
                f"{folder} has no {split} windows; make it again with r2mae-dna prepare --{split}_regions REGION"
            )
        check_contents(folder, self.info.files, REMEDY, within=f"{split}/")
        home, n, length = folder / split, self.info.counts[split], self.info.window
        self.codes = _load(home / "codes.npy", np.uint8, (n, length, self.info.n_species + 1), mapped=True)
        self.starts = _load(home / "starts.npy", np.int64, (n,))
        self.conservation: np.ndarray | None = None
        if self.info.conservation:
            self.conservation = _load(home / "conservation.npy", np.float16, (n, 2, length), mapped=True)

    def __len__(self) -> int:
        return len(self.codes)

    def batch(self, indices: np.ndarray, pin: bool = False) -> dict[str, Any]:
        """Return windows as bytes; the second half of the indices, from len(self), is their other strand.

        Args:
            indices: (B,) int64 in [0, 2 · len(self)).
            pin: into page-locked memory, so that the copy to a GPU overlaps with its work.

        Returns:
            codes (B, L, 1 + S) uint8 of the forward strand, reverse (B,) bool, and, if there are tracks,
            conservation (B, 2, L) float16: phastCons and phyloP. The device turns the strands.
        """
        import torch

        rows = indices % len(self)
        batch = {
            "codes": torch.from_numpy(self.codes[rows]),
            "reverse": torch.from_numpy(indices >= len(self)),
        }
        if self.conservation is not None:
            batch["conservation"] = torch.from_numpy(self.conservation[rows])
        return {name: values.pin_memory() for name, values in batch.items()} if pin else batch


def _load(file: Path, kind: Any, shape: tuple[int, ...], *, mapped: bool = False) -> np.ndarray:
    with reading(file, "a file of windows"):
        values = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    if values.dtype != kind or values.shape != shape:
        raise UserError(
            f"{file} is damaged, or of other windows: it holds {values.dtype} of shape {values.shape} instead of "
            f"{np.dtype(kind)} of shape {shape}"
        )
    return values


def read_info(folder: Path) -> WindowsInfo:
    """Read `windows.json`.

    Raises:
        UserError: the folder has none, or it is damaged.
    """
    file = folder / INDEX
    if not file.is_file():
        raise UserError(f"no windows at {folder}; make them with r2mae-dna prepare STORE --out {folder}")
    values = read_json(file)
    with reading(file, "the index of a folder of windows"):
        species = values.pop("species")
        return WindowsInfo(species=None if species is None else tuple(species), **values)


def window_entries(folder: Path) -> set[str]:
    """Return the names of what a folder of windows holds; none, if it is none."""
    try:
        counts = json.loads((folder / INDEX).read_bytes())["counts"]
        return {INDEX, *(split for split in SPLITS if counts[split])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


_OUTSIDE = "outside the regions, or across the edge of one"
_NOT_CONSERVED, _UNKNOWN = "not conserved", "without phastCons in most of the window"
Plan = dict[str, list[tuple[str, np.ndarray]]]
"""Split → (chromosome, starts of its windows)."""
Tracks = tuple[Track, Track] | None
"""phastCons and phyloP."""


def prepare(config: Prepare) -> Path:
    """Cut the windows that the config describes, and return their folder.

    Windows that are there already, of the same options and the same data, are kept.

    Raises:
        UserError: the store, a region or a track is invalid, the output exists, there is not enough space, or no window
            is left in a split.
    """
    out = config.out or default_run_path("r2mae-dna", "prepare")
    check_output(out, [config.msa, *config.more_msa, config.phastcons, config.phylop])
    with one_writer(out, folder=False):
        tracks, store = _tracks(config), open_stores(config.msa, config.more_msa)
        made = _made_from(config, store)
        if not config.overwrite and window_entries(out):
            info = read_info(out)
            check_contents(out, info.files, REMEDY)
            refuse_other(out, info.made, made)
            return out
        check_new_folder(out, window_entries, "a folder of windows", overwrite=config.overwrite)
        for track in tracks or ():
            track.check_lengths(store.lengths, str(store.path))
        per_window = config.window * (store.n_species + 1 + (4 if tracks else 0))
        with whole_folder(out) as folder:
            plan, skipped = _plan(config, store, tracks, folder / _SCORES)
            (folder / _SCORES).unlink(missing_ok=True)
            n = sum(len(starts) for parts in plan.values() for _, starts in parts)
            check_space(out.parent, n * per_window, f"a folder of {n:,} windows")
            info = _write(folder, store, plan, tracks, config, skipped)
            write_json(folder / INDEX, asdict(replace(info, made=made)))
    return out


def _made_from(config: Prepare, store: AlignmentStore) -> dict[str, Any]:
    options = {field.name: getattr(config, field.name) for field in fields(config)}
    own = {
        name: value for name, value in options.items() if name not in ("msa", "more_msa", "out", "overwrite", *_TRACKS)
    }
    tracks = [Path(options[name]) for name in _TRACKS if options[name] is not None]
    if tracks:
        own["ranks"] = "of the genome"  # and not of each chromosome and split, as in folders of earlier versions
    return {**own, "sources": {"the alignment store": store.digest, **fingerprint(tracks)}}


def _tracks(config: Prepare) -> Tracks:
    if config.phastcons is None and config.phylop is None:
        foreign: dict[str, str] = dict.fromkeys(("top", "rest", "quantile"), "--phastcons and --phylop")
        refuse_options(config, foreign, "windows without conservation tracks")
        return None
    if config.phastcons is None or config.phylop is None:
        raise UserError("give both --phastcons and --phylop, or neither: the loss weights need both")
    return Track(config.phastcons, probability=True), Track(config.phylop)


def _plan(config: Prepare, store: AlignmentStore, tracks: Tracks, scratch: Path) -> tuple[Plan, dict[str, int]]:
    """Return which windows to cut, and reason → how many are left out."""
    held_out = {
        "validation": parse_regions(config.validation_regions, store),
        "test": parse_regions(config.test_regions, store),
    }
    refuse_overlap(held_out["validation"], held_out["test"])
    only = parse_regions(config.only, store)
    wanted = {region.chromosome for regions in (only, *held_out.values()) for region in regions} if only else None
    ranked = tracks is not None and config.top < 1.0
    names = [name for name in store.chromosomes if ranked or wanted is None or name in wanted]
    intervals = {name: stored_intervals(store, name) for name in names}
    conserved = _ranked(config, intervals, tracks[0], scratch) if ranked and tracks is not None else None
    plan: Plan = {split: [] for split in SPLITS}
    skipped: dict[str, int] = dict.fromkeys((_OUTSIDE, _NOT_CONSERVED, _UNKNOWN), 0)
    for name in names:
        needed = wanted is None or name in wanted
        number = store.chromosomes.index(name)
        generator = np.random.Generator(np.random.Philox(key=[config.seed, number]))
        found: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for starts in window_starts(intervals[name], config.window, config.step):
            chosen = known = np.ones(len(starts), bool)
            if conserved is not None:
                chosen, known = conserved.next(len(starts))
                chosen |= generator.random(len(starts)) < config.rest
            if not needed:
                continue
            assigned = assign_windows(name, starts, config.window, held_out, only)
            inside = np.any(list(assigned.values()), axis=0)
            skipped[_OUTSIDE] += int((~inside).sum())
            skipped[_NOT_CONSERVED] += int((inside & known & ~chosen).sum())
            skipped[_UNKNOWN] += int((inside & ~known & ~chosen).sum())
            for split, rows in assigned.items():
                found[split].append(starts[rows & chosen])
        for split, parts in found.items():
            if len(every := np.concatenate(parts) if parts else np.zeros(0, np.int64)):
                plan[split].append((name, every))
    if not plan["train"]:
        raise UserError(f"no window of {config.window} defined bases is left for training in {config.msa}")
    for split, regions in held_out.items():
        if regions and not plan[split]:
            raise UserError(f"no window of {config.window} defined bases is left in the --{split}_regions")
    return plan, skipped


def _ranked(config: Prepare, intervals: dict[str, Intervals], phastcons: Track, scratch: Path) -> Conserved:
    """Return the conserved windows of the whole store: whether one is does not depend on the regions asked for."""
    conserved = Conserved(scratch)
    for name, defined in intervals.items():
        for starts in window_starts(defined, config.window, config.step):
            for piece in pieces(starts):
                values = windows_of(phastcons, name, piece, config.window)
                conserved.add(known_quantile(values, config.quantile))
    conserved.choose(config.top)
    return conserved


def _write(
    folder: Path, store: AlignmentStore, plan: Plan, tracks: Tracks, config: Prepare, skipped: dict[str, int]
) -> WindowsInfo:
    counts, unknown = dict[str, int](), 0
    for split, parts in plan.items():
        n = counts[split] = sum(len(starts) for _, starts in parts)
        if n == 0:
            continue
        home = folder / split
        home.mkdir()
        codes = new_array(home / "codes.npy", np.uint8, (n, config.window, store.n_species + 1))
        values = None
        if tracks is not None:
            values = new_array(home / "conservation.npy", np.float16, (n, 2, config.window))
        row = 0
        for name, starts in parts:
            cut(store, name, starts, codes[row : row + len(starts)])
            if values is not None and tracks is not None:
                at = row
                for piece in pieces(starts):
                    values[at : at + len(piece)], unknown_here = _conservation(tracks, name, piece, config.window)
                    unknown += unknown_here
                    at += len(piece)
            row += len(starts)
        chromosome = np.repeat(np.arange(len(parts)), [len(starts) for _, starts in parts])
        np.save(home / "starts.npy", np.concatenate([starts for _, starts in parts]))
        np.save(home / "chromosome.npy", chromosome.astype(np.int32))
        write_text(home / "chromosomes.txt", "".join(f"{name}\n" for name, _ in parts))
        del codes, values  # written back before they are read again for their checksums
    files = contents_of(folder)
    content = {"species": store.species, "files": {name: file["sha256"] for name, file in files.items()}}
    return WindowsInfo(
        config.window, config.step, store.species, store.n_species, store.digest, counts, tracks is not None,
        digest_of(content), {reason: count for reason, count in skipped.items() if count}, files=files,
        unknown=unknown,
    )  # fmt: skip


def new_array(file: Path, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a new array in a file, whose space on the disk is there before it is mapped into memory."""
    with file.open("wb") as handle:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        start = handle.tell()
    reserve(file, start + int(np.prod(shape)) * np.dtype(kind).itemsize)
    return np.load(file, mmap_mode="r+")


def _conservation(tracks: tuple[Track, Track], name: str, starts: np.ndarray, window: int) -> tuple[np.ndarray, int]:
    """Return phastCons and phyloP of windows, (n, 2, L) float16, and how many bases have no phastCons.

    Where nothing is known stands what GPN-MSA's loss takes for it: phastCons 0, phyloP 1.
    """
    out = np.empty((len(starts), 2, window), np.float16)
    unknown = 0
    for i, (track, neutral) in enumerate(zip(tracks, (0.0, 1.0), strict=True)):
        values = windows_of(track, name, starts, window)
        missing = np.isnan(values)
        unknown += int(missing.sum()) if i == 0 else 0
        with np.errstate(over="ignore"):  # refused below
            out[:, i] = np.where(missing, neutral, values)
        if not np.isfinite(out[:, i]).all():
            start = int(starts[~np.isfinite(out[:, i]).all(1)][0])
            raise UserError(
                f"{track.path} has a value on {name} in {start + 1:,} to {start + window:,} that is out of all bounds"
            )
    return out, unknown


def cut(store: AlignmentStore, name: str, starts: np.ndarray, out: np.ndarray) -> None:
    """Copy the windows at sorted `starts` into `out` (n, window, 1 + S), reading each stretch of the store once."""
    window = out.shape[1]
    for first, end in store.stretches(name):
        low, high = np.searchsorted(starts, [first, end]).tolist()
        if low == high:
            continue
        block = store.read(name, first, int(starts[high - 1]) + window)
        views = np.lib.stride_tricks.sliding_window_view(block, window, axis=0)  # (positions, 1 + S, window)
        for row in range(low, high, _CUT):
            part = slice(row, min(row + _CUT, high))
            out[part] = views[starts[part] - first].transpose(0, 2, 1)


def prepare_command(config: Prepare) -> None:
    """`r2mae-dna prepare`."""
    out = prepare(config)
    info = read_info(out)
    splits = ", ".join(f"{count:,} {split}" for split, count in info.counts.items() if count)
    say(f"{splits} windows of {info.window} bases × {info.n_species + 1} species (both strands are used)")
    say(left_out(info.left_out))
    if info.conservation:
        say("phastCons and phyloP are stored with every window: the loss is weighted and labels flip as in GPN-MSA.")
    if info.unknown:
        share = info.unknown / (sum(info.counts.values()) * info.window)
        say(f"phastCons is unknown at {share:.2%} of the windows' bases: they count as not conserved, as in GPN-MSA")
    say(f"Done: {out}. Next: r2mae-dna pretrain {pasteable(out)}")
