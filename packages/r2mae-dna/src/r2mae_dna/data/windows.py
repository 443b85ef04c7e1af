"""Training windows: cut once from a store into one flat memory map, so that training steps read no archive."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, default_run_path, left_out, say, write_text
from r2mae_dna.data.build import scratch_folder
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.conservation import Track, conserved_windows
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.options import Prepare

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
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → windows of defined bases that are in no split."""


class WindowSet:
    """The windows of one split, mapped into memory.

    Args:
        folder: what `r2mae-dna prepare` wrote.
        split: "train", "validation" or "test".

    Raises:
        UserError: the folder or the split is missing.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        self.info = read_info(folder)
        self.split = split
        if not self.info.counts.get(split):
            raise UserError(
                f"{folder} has no {split} windows; make it again with r2mae-dna prepare --{split}_regions REGION"
            )
        home = folder / split
        self.codes: np.ndarray = np.load(home / "codes.npy", mmap_mode="r")
        self.starts: np.ndarray = np.load(home / "starts.npy")
        self.conservation: np.ndarray | None = (
            np.load(home / "conservation.npy", mmap_mode="r") if self.info.conservation else None
        )

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


def read_info(folder: Path) -> WindowsInfo:
    """Read `windows.json`.

    Raises:
        UserError: the folder has none.
    """
    file = folder / "windows.json"
    if not file.is_file():
        raise UserError(f"no windows at {folder}; make them with r2mae-dna prepare STORE --out {folder}")
    values = json.loads(file.read_text(encoding="utf-8"))
    species = values.pop("species")
    return WindowsInfo(species=None if species is None else tuple(species), **values)


@dataclass(frozen=True)
class Region:
    """A chromosome, or a stretch of one, 0-based and half-open."""

    chromosome: str
    start: int = 0
    end: int = 1 << 60


def parse_region(text: str, store: AlignmentStore) -> Region:
    """Read `chr22` or `chr22:1,000-2,000` (1-based, both ends included, as genome browsers write it).

    Raises:
        UserError: the text is not a region, or the store has no such chromosome.
    """
    found = re.fullmatch(r"(?P<name>[^:]+?)(?::(?P<start>[\d,]+)-(?P<end>[\d,]+))?", text.strip())
    if found is None:
        raise UserError(f"{text!r} is not a region; write chr22 or chr22:1000-2000")
    name = store.chromosome(found["name"])
    if name is None:
        known = ", ".join(store.chromosomes[:8]) + (" …" if len(store.chromosomes) > 8 else "")
        raise UserError(f"{store.path} has no chromosome {found['name']!r}; it has {known}")
    if found["start"] is None:
        return Region(name, 0, store.lengths[name])
    start, end = (int(found[key].replace(",", "")) for key in ("start", "end"))
    if not 1 <= start <= end:
        raise UserError(f"{text!r}: positions count from 1, and the first must not exceed the last")
    return Region(name, start - 1, end)


def defined_intervals(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends of the stretches where the reference (n,) uint8 is A, C, G or T."""
    defined = (reference & TOKEN_BITS) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], defined, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]


def window_starts(reference: np.ndarray, window: int, step: int) -> np.ndarray:
    """Return where fully defined windows begin, int64: every `step` from the start of each defined stretch."""
    starts, ends = defined_intervals(reference)
    counts = np.maximum((ends - starts - window) // step + 1, 0)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + offsets * step


def prepare(config: Prepare) -> Path:
    """Cut the windows that the config describes, and return their folder.

    Raises:
        UserError: the store, a region or a track is invalid, the output exists, or no window is left for training.
    """
    if config.window < 2 or config.step < 1:
        raise UserError(f"window must be at least 2 and step at least 1, got {config.window} and {config.step}")
    out = config.out or default_run_path("r2mae-dna", "prepare")
    if out.exists():
        raise UserError(f"{out} exists; remove it first, or choose another --out")
    store = AlignmentStore(config.msa)
    held_out = {
        "validation": [parse_region(text, store) for text in config.validation_regions.split()],
        "test": [parse_region(text, store) for text in config.test_regions.split()],
    }
    only = [parse_region(text, store) for text in config.only.split()]
    tracks = None
    if config.phastcons is not None or config.phylop is not None:
        if config.phastcons is None or config.phylop is None:
            raise UserError("give both --phastcons and --phylop, or neither: the loss weights need both")
        tracks = (Track(config.phastcons), Track(config.phylop))
    plan = {split: [] for split in SPLITS}
    skipped = {"outside the regions, or across the edge of one": 0, "not conserved": 0}
    for number, name in enumerate(store.chromosomes):
        if only and all(region.chromosome != name for region in only):
            continue
        starts = window_starts(_reference(store, name), config.window, config.step)
        assigned = _assign(name, starts, config.window, held_out, only)
        skipped["outside the regions, or across the edge of one"] += len(starts) - sum(map(len, assigned.values()))
        for split, chosen in assigned.items():
            if tracks is not None and config.top < 1.0 and len(chosen):
                generator = np.random.Generator(np.random.Philox(key=[config.seed, number * 3 + SPLITS.index(split)]))
                phastcons = np.stack([tracks[0].values(name, s, s + config.window) for s in chosen.tolist()])
                keep = conserved_windows(
                    phastcons, quantile=config.quantile, top=config.top, rest=config.rest, generator=generator
                )
                skipped["not conserved"] += int((~keep).sum())
                chosen = chosen[keep]
            if len(chosen):
                plan[split].append((name, chosen))
    if not plan["train"]:
        raise UserError(f"no window of {config.window} defined bases is left for training in {config.msa}")
    with scratch_folder(out) as folder:
        _write(folder / "windows", store, plan, tracks, config, skipped)
        (folder / "windows").rename(out)
    return out


def _reference(store: AlignmentStore, name: str) -> np.ndarray:
    reference = np.zeros(store.lengths[name], np.uint8)
    for start, end in store.stretches(name):
        reference[start:end] = store.read(name, start, end)[:, 0]
    return reference


def _assign(
    name: str, starts: np.ndarray, window: int, held_out: dict[str, list[Region]], only: Sequence[Region]
) -> dict[str, np.ndarray]:
    """Return the starts of each split. A window across the edge of a held-out region belongs to none."""

    def inside(region: Region) -> np.ndarray:
        return (starts >= region.start) & (starts + window <= region.end)

    def touches(region: Region) -> np.ndarray:
        return (starts < region.end) & (starts + window > region.start)

    free = np.ones(len(starts), bool)
    out = {}
    for split, regions in held_out.items():
        chosen = np.zeros(len(starts), bool)
        for region in (r for r in regions if r.chromosome == name):
            chosen |= inside(region) & free
        out[split] = chosen
    for regions in held_out.values():
        for region in (r for r in regions if r.chromosome == name):
            free &= ~touches(region)
    if only:
        free &= np.any([inside(region) for region in only if region.chromosome == name], axis=0)
    return {"train": starts[free], **{split: starts[chosen] for split, chosen in out.items()}}


def _write(
    folder: Path,
    store: AlignmentStore,
    plan: dict[str, list[tuple[str, np.ndarray]]],
    tracks: Any,
    config: Prepare,
    skipped: dict[str, int],
) -> None:
    digest, counts = hashlib.sha256(store.digest.encode()), {}
    for split, parts in plan.items():
        n = counts[split] = sum(len(starts) for _, starts in parts)
        if n == 0:
            continue
        home = folder / split
        home.mkdir(parents=True)
        shape = (n, config.window, store.n_species + 1)
        codes = np.lib.format.open_memmap(home / "codes.npy", "w+", np.uint8, shape)
        values = None
        if tracks is not None:
            values = np.lib.format.open_memmap(home / "conservation.npy", "w+", np.float16, (n, 2, config.window))
        row = 0
        for name, starts in parts:
            _cut(store, name, starts, codes[row : row + len(starts)])
            if values is not None and tracks is not None:
                for i, start in enumerate(starts.tolist(), start=row):
                    values[i] = [track.values(name, start, start + config.window) for track in tracks]
            row += len(starts)
            digest.update(f"{split}:{name}".encode() + starts.astype("<i8").tobytes())
        codes.flush()
        chromosome = np.repeat(np.arange(len(parts)), [len(starts) for _, starts in parts])
        np.save(home / "starts.npy", np.concatenate([starts for _, starts in parts]))
        np.save(home / "chromosome.npy", chromosome.astype(np.int32))
        write_text(home / "chromosomes.txt", "".join(f"{name}\n" for name, _ in parts))
    info = WindowsInfo(
        config.window, config.step, store.species, store.n_species, store.digest, counts, tracks is not None,
        digest.hexdigest()[:16], {reason: count for reason, count in skipped.items() if count},
    )  # fmt: skip
    write_text(folder / "windows.json", json.dumps(asdict(info), indent=1) + "\n")


def _cut(store: AlignmentStore, name: str, starts: np.ndarray, out: np.ndarray) -> None:
    """Copy the windows at sorted `starts` into `out` (n, window, 1 + S), reading each stretch of the store once."""
    window = out.shape[1]
    for first, end in store.stretches(name):
        low, high = np.searchsorted(starts, [first, end])
        if low == high:
            continue
        block = store.read(name, first, int(starts[high - 1]) + window)
        views = np.lib.stride_tricks.sliding_window_view(block, window, axis=0)  # (positions, 1 + S, window)
        out[low:high] = views[starts[low:high] - first].transpose(0, 2, 1)


def prepare_command(config: Prepare) -> None:
    """`r2mae-dna prepare`."""
    out = prepare(config)
    info = read_info(out)
    splits = ", ".join(f"{count:,} {split}" for split, count in info.counts.items() if count)
    say(f"{splits} windows of {info.window} bases × {info.n_species + 1} species (both strands are used)")
    say(left_out(info.left_out))
    if info.conservation:
        say("phastCons and phyloP are stored with every window: the loss is weighted and labels flip as in GPN-MSA.")
    say(f"Done: {out}. Next: r2mae-dna pretrain {out}")
