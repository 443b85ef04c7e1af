"""Loading cells from a disk under a limit of memory: ours, annbatch, scDataset and scvi-tools' loader, the same cells.

    python benchmarks/singlecell_out_of_core.py [--cells 2000000] [--limit_gb 2] [--turns 5] [--only ours annbatch]
    python benchmarks/singlecell_out_of_core.py --profile --cells 200000    # where ours spends its CPU time

Needs Python 3.12 with `r2mae-singlecell[annbatch]`, scdataset and zarrs; loaders that are missing are left out, with a
line. Each loader runs in a process and a memory control group of its own (version 1, which takes root; else its data
segment is limited by `RLIMIT_DATA`) and shuffles endlessly in batches of 512. The loaders take turns: all but one are
stopped, the file's pages are dropped from the cache, and the cells that it delivers meanwhile are counted.
So another program slows all alike. Ours, scDataset and scvi-tools read one h5ad whose arrays lie in one piece, as
`prepare` writes it; annbatch reads the zarr collection that its own writer makes of the same cells. Both are deleted.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

BATCH, CHUNK, POOL, GENES, PER_CELL = 512, 128, 32_768, 5000, 400
GROUPS = Path("/sys/fs/cgroup/memory")
NEEDS = {"annbatch": "annbatch", "scDataset": "scdataset"}
TICKS = os.sysconf("SC_CLK_TCK")


class Cells:
    """Simulated counts, the same for any size of block: a row is one of 997 sets of genes with values from a pool."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.n, self.lengths = n, rng.integers(PER_CELL // 2, PER_CELL * 3 // 2, 997)
        self.genes = np.concatenate([np.sort(rng.choice(GENES, size, replace=False)) for size in self.lengths])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.values = rng.geometric(0.5, 2**22).astype(np.uint16)
        self.kind = rng.integers(0, 997, n)

    def block(self, start: int, stop: int):
        """Return rows as (indptr, indices, data)."""
        kind = self.kind[start:stop]
        lengths = self.lengths[kind]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(self.starts[kind] - ends + lengths, lengths)
        values = np.resize(np.roll(self.values, -7919 * (start % 100_003)), len(places))
        return np.concatenate([[0], ends]), self.genes[places].astype(np.int32), values

    def batches(self):
        """Return the batch of each cell: a file is sorted by it."""
        return np.sort(np.arange(self.n) % 20)


def write_h5ad(cells: Cells, path: Path, step: int = 50_000) -> None:
    """Write the cells as `prepare` does: uncompressed arrays in one piece."""
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    indptr = np.concatenate([[0], np.cumsum(cells.lengths[cells.kind])])
    with h5py.File(path, "w") as out:
        out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = out.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (cells.n, GENES)})
        x["indptr"] = indptr
        indices = x.create_dataset("indices", (indptr[-1],), np.int32)
        data = x.create_dataset("data", (indptr[-1],), np.uint16)
        for at in range(0, cells.n, step):
            stop = min(at + step, cells.n)
            _, indices[indptr[at] : indptr[stop]], data[indptr[at] : indptr[stop]] = cells.block(at, stop)
        batch = pd.Categorical(cells.batches().astype(str))
        names = pd.Index([f"c{i}" for i in range(cells.n)])
        write_elem(out, "obs", pd.DataFrame({"batch": batch}, index=names))
        write_elem(out, "var", pd.DataFrame(index=pd.Index([f"g{i}" for i in range(GENES)])))


def write_collection(cells: Cells, path: Path, step: int = 250_000) -> None:
    """Write the cells by annbatch's own writer, with its compression."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp
    import zarr
    from annbatch import write_sharded

    names, batch = [f"g{i}" for i in range(GENES)], cells.batches().astype(str)
    for i, at in enumerate(range(0, cells.n, step)):
        stop = min(at + step, cells.n)
        indptr, indices, data = cells.block(at, stop)
        obs = pd.DataFrame({"batch": pd.Categorical(batch[at:stop])}, index=[f"c{c}" for c in range(at, stop)])
        counts = sp.csr_matrix((data, indices, indptr), (stop - at, GENES))
        group = zarr.open_group(path / f"{i}.zarr", mode="w")
        write_sharded(group, anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=names)))


def ours(folder: Path, shuffle: str, dense: int = 0):
    """Yield the size of batch after batch, made dense with so many genes if wanted."""
    import anndata
    import scvi

    from r2mae_singlecell import R2MAE
    from r2mae_singlecell.data.splitter import CountSplitter

    scvi.settings.verbosity = 30
    adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    R2MAE.setup_anndata(adata, batch_key="batch")
    manager = R2MAE(adata, n_hidden=8, n_latent=4).adata_manager
    options = {"shuffle": shuffle, "chunk": CHUNK, "pool": POOL, "train_size": 1.0}
    loader = CountSplitter(manager, batch_size=BATCH, **options).train_dataloader()
    while True:
        for batch in loader:
            if dense:
                batch["X"].dense(dense)
            yield len(batch["batch"])


def annbatch(folder: Path, chunk: int, preload: int):
    """Yield the size of batch after batch."""
    import zarr
    from annbatch import Loader
    from annbatch.utils import load_x_and_obs_and_var

    if find_spec("zarrs"):  # which its documentation advises
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    stores = sorted((folder / "collection").glob("*.zarr"), key=lambda path: int(path.stem))
    parts = [load_x_and_obs_and_var(zarr.open_group(store, mode="r")) for store in stores]
    order = {"shuffle": True, "batch_size": BATCH, "chunk_size": chunk, "preload_nchunks": preload}
    loader = Loader(**order, preload_to_gpu=False, to="torch").add_adatas(parts)
    while True:
        for batch in loader:
            yield len(batch["obs"])


def scdataset(folder: Path, block: int, fetch: int):
    """Yield the size of batch after batch."""
    import anndata
    from scdataset import BlockShuffling, scDataset

    adata, order = anndata.read_h5ad(folder / "cells.h5ad", backed="r"), BlockShuffling(block)
    in_memory = {"fetch_transform": lambda view: view.X}  # as CSR, of which batches are taken
    data = scDataset(adata, order, batch_size=BATCH, fetch_factor=fetch, seed=0, **in_memory)
    while True:
        for batch in data:
            yield batch.shape[0]


def anndataloader(folder: Path):
    """Yield the size of batch after batch."""
    import anndata
    import scvi
    from scvi.dataloaders import AnnDataLoader

    scvi.settings.verbosity = 30
    adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    manager = scvi.model.SCVI(adata, n_hidden=8, n_latent=4).adata_manager
    while True:
        for batch in AnnDataLoader(manager, shuffle=True, batch_size=BATCH, load_sparse_tensor=True):
            yield len(batch["batch"])


LOADERS = {
    "ours, blocks": lambda folder: ours(folder, "blocks"),
    "ours, exact": lambda folder: ours(folder, "exact"),
    f"annbatch, chunks of {CHUNK}": lambda folder: annbatch(folder, CHUNK, POOL // CHUNK),
    "annbatch, its defaults (512 × 32)": lambda folder: annbatch(folder, 512, 32),
    f"scDataset, blocks of {CHUNK}": lambda folder: scdataset(folder, CHUNK, POOL // BATCH),
    "AnnDataLoader, backed": anndataloader,
}


def deliver(name: str, folder: Path) -> None:
    """Deliver batches for ever; the cells so far stand in the file `count`, from the second batch on."""
    import torch

    torch.set_num_threads(1)
    counter, seen = np.memmap(folder / f"count.{slug(name)}", "<i8", "r+", shape=(2,)), 0
    for n in LOADERS[name](folder):
        seen += n
        counter[0] = seen


def profile(folder: Path, cells: int) -> None:
    """Print where ours spends its CPU time in an epoch; batches are made dense too, as training does."""
    import torch
    from cpu_shares import CpuShares

    from r2mae_singlecell.data import block_shuffle, counts, sources

    torch.set_num_threads(1)
    batches, shares = ours(folder, "blocks", GENES), CpuShares()
    next(batches)  # compiles
    shares.watch("read", sources, "_read_fully")
    shares.watch("check the counts", sources, "check_read")
    shares.watch("places of what is read", block_shuffle, "read_pool")
    shares.watch("shuffle", block_shuffle, "_mixed")
    shares.watch("gather", block_shuffle, "gathered_rows")
    shares.watch("collate", block_shuffle.BlockLoader, "_batch")
    shares.watch("make dense", counts.SparseRows, "dense")

    def epoch() -> int:
        seen = 0
        while seen < cells:
            seen += next(batches)
        return seen

    shares.run(epoch)


def slug(name: str) -> str:
    """Return a name for files."""
    return re.sub(r"\W+", "_", name)


class Running:
    """A process that delivers batches, within a limit of memory, and stopped but for its turns."""

    def __init__(self, name: str, folder: Path, limit: int) -> None:
        self.name, self.cells, self.seconds, self.cpu, self.rates, self.peak = name, 0, 0.0, 0.0, [], 0
        (folder / f"count.{slug(name)}").write_bytes(struct.pack("<qq", 0, 0))
        self.counter = np.memmap(folder / f"count.{slug(name)}", "<i8", "r", shape=(2,))
        self.group = GROUPS / f"r2mae-{os.getpid()}-{slug(name)}" if can_group() else None
        if self.group:
            self.group.mkdir()
            (self.group / "memory.limit_in_bytes").write_text(str(limit))
        self.log = (folder / f"log.{slug(name)}").open("w+")
        command = [sys.executable, __file__, "--deliver", name, str(folder)]
        self.process = subprocess.Popen(
            command, preexec_fn=lambda: self._enter(limit), stdout=self.log, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + 900
        while self.alive() and self.counter[0] == 0 and time.monotonic() < end:
            self.sample()
            time.sleep(0.05)
        self.stop()

    def _enter(self, limit: int) -> None:
        if self.group:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def alive(self) -> bool:
        """Return whether it still runs."""
        return self.process.poll() is None

    def turn(self, seconds: float) -> None:
        """Let it deliver for a while."""
        if not self.alive():
            return
        cells, cpu, start = int(self.counter[0]), self._cpu(), time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        while time.monotonic() < start + seconds and self.alive():
            self.sample()
            time.sleep(0.02)
        took = time.monotonic() - start
        self.stop()
        if self.alive():
            delivered = int(self.counter[0]) - cells
            self.cells, self.seconds, self.cpu = (
                self.cells + delivered,
                self.seconds + took,
                self.cpu + self._cpu() - cpu,
            )
            self.rates.append(delivered / took)

    def stop(self) -> None:
        """Stop it until the next turn."""
        if self.alive():
            self.process.send_signal(signal.SIGSTOP)

    def sample(self) -> None:
        """Note its memory."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        if found := re.search(r"RssAnon:\s*(\d+)", status):
            self.peak = max(self.peak, int(found[1]) * 1024)

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def group_peak(self) -> float | None:
        """Return the most that the control group counted, in GB, page cache included."""
        return int((self.group / "memory.max_usage_in_bytes").read_text()) / 1e9 if self.group else None

    def end(self) -> str:
        """End it; return why it had ended before, if it had."""
        ended = "" if self.alive() else f"ended with {self.process.returncode}"
        if self.alive():
            self.process.kill()
        self.process.wait()
        if ended:
            self.log.seek(0)
            ended += f": {' '.join(self.log.read().split()[-25:])}"
        self.log.close()
        return ended

    def remove_group(self) -> None:
        """Remove the control group."""
        if self.group:
            self.group.rmdir()


def can_group() -> bool:
    """Return whether memory control groups can be made here."""
    return (GROUPS / "memory.limit_in_bytes").exists() and os.access(GROUPS, os.W_OK)


def drop_cache(folder: Path) -> None:
    """Drop the pages of the data, so that a turn begins with the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(("count.", "log.")):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measured(names: list[str], folder: Path, options: argparse.Namespace) -> None:
    """Run the loaders in turns, and print the table."""
    running, loads = [], []
    try:
        for name in names:
            drop_cache(folder)
            running.append(Running(name, folder, int(options.limit_gb * 1e9)))
            print(f"{name}: {'begun' if running[-1].alive() else 'ended early'}", file=sys.stderr, flush=True)
        for turn in range(options.turns):
            for each in running if turn % 2 == 0 else running[::-1]:
                drop_cache(folder)
                loads.append(os.getloadavg()[0])
                each.turn(options.seconds)
        table(running, statistics.mean(loads))
    finally:
        ends = {each.name: each.end() for each in running}
        for each in running:
            each.remove_group()
    for name, why in ends.items():
        if why:
            print(f"\n{name} {why}")


def table(running: list[Running], load: float) -> None:
    """Print what was measured."""
    rate = {each.name: each.cells / each.seconds if each.seconds else 0.0 for each in running}
    peers = {name: value for name, value in rate.items() if not name.startswith("ours")}
    best = max(peers, key=lambda name: peers[name]) if peers else ""
    print(f"\nMean load of the machine in the turns: {load:.1f} on {os.cpu_count()} cores.\n")
    print("| loader | cells/s | turns | cells per CPU second | against the best peer | own memory, GB | group, GB |")
    print("|---|---|---|---|---|---|---|")
    for each in running:
        ratio = f"{rate[each.name] / rate[best]:.2f}×" if best and rate[best] else ""
        group = "" if each.group is None else f"{each.group_peak():.2f}"
        spread = f"{min(each.rates):,.0f}–{max(each.rates):,.0f}" if each.rates else ""
        cpu = f"{each.cells / each.cpu:,.0f}" if each.cpu else ""
        print(
            f"| {each.name} | {rate[each.name]:,.0f} | {spread} | {cpu} | {ratio} | {each.peak / 1e9:.2f} | {group} |"
        )
    if "ours, blocks" in rate and best:
        own = next(each for each in running if each.name == "ours, blocks")
        goals = {
            "70,000 cells/s": rate[own.name] >= 70_000,
            "1.5 times the best peer": rate[own.name] >= 1.5 * rate[best],
            "2 GB of own memory": own.peak <= 2e9,
        }
        print("\nGoals: " + "; ".join(f"{name} {'met' if met else 'missed'}" for name, met in goals.items()) + ".")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2_000_000)
    parser.add_argument("--limit_gb", type=float, default=2.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", help="loaders whose names begin so")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", default="cpu", help="always the CPU; an option that all these scripts have")
    parser.add_argument("--profile", action="store_true", help="ours alone: its CPU time by part")
    parser.add_argument("--deliver", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.deliver:
        deliver(options.deliver[0], Path(options.deliver[1]))
    names = [name for name in LOADERS if not options.only or name.startswith(tuple(options.only))]
    for kind, module in NEEDS.items():
        if find_spec(module) is None:
            names = [name for name in names if not name.startswith(kind)]
            print(f"{kind} is left out: it is not installed")
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        cells = Cells(options.cells)
        write_h5ad(cells, folder / "cells.h5ad")
        if options.profile:
            profile(folder, options.cells)
            return
        if any(name.startswith("annbatch") for name in names):
            (folder / "collection").mkdir()
            write_collection(cells, folder / "collection")
        del cells
        size = (folder / "cells.h5ad").stat().st_size / 1e9
        zarr = sum(path.stat().st_size for path in folder.glob("collection/**/*") if path.is_file()) / 1e9
        how = (
            f"a control group of {options.limit_gb:g} GB" if can_group() else f"RLIMIT_DATA of {options.limit_gb:g} GB"
        )
        print(
            f"{options.cells:,} cells × {GENES:,} genes, {PER_CELL / GENES:.0%} of them expressed: h5ad {size:.2f} GB, "
            f"annbatch's collection {zarr:.2f} GB. Each process within {how}; {options.turns} turns of "
            f"{options.seconds:g} s, batches of {BATCH}.",
            flush=True,
        )
        measured(names, folder, options)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
