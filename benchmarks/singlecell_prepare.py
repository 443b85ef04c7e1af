"""`prepare` against scanpy's choice of the same genes in memory, on one simulated file, in one run.

Usage: python benchmarks/singlecell_prepare.py [--cells 200000] [--genes 5000] [--keep 2000] [--folder DIR] [--profile]

Prints cells per second of `prepare` and of the peer (anndata reads the file, scanpy normalises, chooses the genes, and
anndata writes them), their ratio, whether they chose the same genes, and the peak of anonymous memory of each, which is
what a process cannot give back. Each runs in a process of its own. The file is deleted afterwards.
`--profile` prints where `prepare` spends its CPU time instead.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

OURS = """
from pathlib import Path
from r2mae_singlecell import prepare_atlas
prepare_atlas(Path(SOURCE), Path(TARGET), n_genes=KEEP, progress=False)
"""
PEER = """
import anndata, scanpy as sc
adata = anndata.read_h5ad(SOURCE)
counts = adata.X.copy()
sc.pp.normalize_total(adata)
sc.pp.log1p(adata)
sc.pp.highly_variable_genes(adata, n_top_genes=KEEP)
adata.X = counts
adata[:, adata.var["highly_variable"]].copy().write_h5ad(TARGET)
"""
TIMED = """
import json, time
start = time.perf_counter()
{code}
print(json.dumps(time.perf_counter() - start))
"""


def write_source(path: Path, n_cells: int, n_genes: int, per_cell: int = 400) -> None:
    """Write counts as anndata does, about `per_cell` genes of each cell, of very different levels."""
    from anndata.io import write_elem

    rng = np.random.default_rng(0)
    level = np.exp(rng.normal(0, 1.5, n_genes))
    indptr = [np.zeros(1, np.int64)]
    cumulative = np.cumsum(level / level.sum())
    with h5py.File(path, "w") as out:
        out.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        index = pd.Index([f"c{i}" for i in range(n_cells)])
        write_elem(out, "obs", pd.DataFrame({"batch": pd.Categorical(rng.choice(["x", "y"], n_cells))}, index=index))
        write_elem(out, "var", pd.DataFrame(index=pd.Index([f"g{i}" for i in range(n_genes)])))
        x = out.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, n_genes)})
        data = x.create_dataset("data", (0,), np.float32, chunks=(2**20,), maxshape=(None,))
        indices = x.create_dataset("indices", (0,), np.int32, chunks=(2**20,), maxshape=(None,))
        blocks: list[tuple[np.ndarray, ...]] = []
        for number, at in enumerate(range(0, n_cells, 20_000)):
            size = min(20_000, n_cells - at)
            if number < 5:  # later cells repeat these, which makes large files quickly and prepares them no faster
                lengths = rng.integers(per_cell // 2, per_cell * 3 // 2, size)
                drawn = np.searchsorted(cumulative, rng.random(lengths.sum())).clip(max=n_genes - 1)
                cells = np.repeat(np.arange(size), lengths)
                places = np.unique(cells * n_genes + drawn)  # a gene that is drawn twice counts once
                found = np.bincount(places // n_genes, minlength=size)
                blocks.append((found, places % n_genes, rng.geometric(0.5, len(places))))
            lengths, columns, counts = blocks[number % 5]
            low, n = int(indptr[-1][-1]), int(lengths[:size].sum())
            indptr.append(low + np.cumsum(lengths[:size]))
            for array, values in ((indices, columns[:n]), (data, counts[:n])):
                array.resize((low + n,))
                array[low:] = values
        x["indptr"] = np.concatenate(indptr)


def measured(code: str, **values: object) -> tuple[float, float]:
    """Run code in a process; return its seconds and the peak of its anonymous memory in GB."""
    script = "\n".join(f"{name} = {value!r}" for name, value in values.items()) + TIMED.format(code=code)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            if "RssAnon" in status:
                peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"it ended with {process.returncode}")
    return float(json.loads(out.strip().splitlines()[-1])), peak[0] / 1e6


def profile(source: Path, target: Path, cells: int, keep: int) -> None:
    """Print where `prepare` spends its CPU time, once its loops are compiled."""
    from cpu_shares import CpuShares

    from r2mae_singlecell import prepare_atlas
    from r2mae_singlecell.data import prepare, readers, rows, variable_genes, write_store

    small, shares = source.with_name("small.h5ad"), CpuShares()
    write_source(small, 200, 50)
    prepare_atlas(small, target, n_genes=20, progress=False)  # compiles
    shares.watch("read", rows.SparseRows, "read")
    shares.watch("select columns", readers, "selected")
    shares.watch("check the counts", readers, "whole", "without_zeros")
    shares.watch("moments", variable_genes.Moments, "add")
    shares.watch("write counts", write_store._Sink, "add")
    shares.watch("write the rest", prepare, "write_store")

    def work() -> int:
        prepare_atlas(source, target, n_genes=keep, progress=False, overwrite=True)
        return cells

    shares.run(work)


def genes_of(path: Path) -> set[str]:
    """Return the names of a file's genes."""
    import anndata

    return set(anndata.read_h5ad(path, backed="r").var_names)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--keep", type=int, default=2000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--ours_alone", action="store_true", help="leave the peer out, as where memory is too small")
    parser.add_argument("--profile", action="store_true", help="ours alone: its CPU time by part")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_source(folder / "a.h5ad", options.cells, options.genes)
        size = (folder / "a.h5ad").stat().st_size / 1e9
        print(
            f"{options.cells:,} cells × {options.genes:,} genes, {size:.2f} GB; {options.keep:,} genes are kept",
            flush=True,
        )
        if options.profile:
            profile(folder / "a.h5ad", folder / "0.h5ad", options.cells, options.keep)
            return
        found = {}
        both = {"prepare": OURS} | ({} if options.ours_alone else {"scanpy in memory": PEER})
        for label, code in both.items():
            target = folder / f"{len(found)}.h5ad"
            found[label] = measured(code, SOURCE=str(folder / "a.h5ad"), TARGET=str(target), KEEP=options.keep)
            seconds, memory = found[label]
            print(f"{label}: {options.cells / seconds:,.0f} cells/s, {seconds:.1f} s, {memory:.2f} GB", flush=True)
        if not options.ours_alone:
            ratio = found["scanpy in memory"][0] / found["prepare"][0]
            same = genes_of(folder / "0.h5ad") == genes_of(folder / "1.h5ad")
            print(f"prepare is {ratio:.2f} times as fast; the same genes: {same}")


if __name__ == "__main__":
    main()
