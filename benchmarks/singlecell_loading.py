"""Data loading and whole training runs against scvi-tools, and the memory that a large data set needs.

Run: `nox -s "bench(singlecell)"`, on a GPU with `-- --device cuda`; `-- --memory` adds the run with 200,000 cells.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp
import scvi
import torch
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader
from timing import best_of_turns, report

from r2mae_core import device_name, quiet_lightning, resolve_device
from r2mae_singlecell import R2MAE, prepare_atlas
from r2mae_singlecell.data.splitter import CountSplitter

N_CELLS, N_GENES, DENSITY, BATCH = 20_000, 5000, 0.08, 400


def counts(n_cells, seed=0):
    """Simulated sparse counts with the density of 5,000 variable genes of an atlas."""
    rng = np.random.default_rng(seed)
    n = rng.binomial(N_GENES, DENSITY, n_cells)
    indptr = np.concatenate([[0], np.cumsum(n)])
    indices = np.empty(indptr[-1], np.int32)
    for i in range(n_cells):  # sorted and without repetition, as in real files
        start = rng.integers(0, N_GENES)
        indices[indptr[i] : indptr[i + 1]] = np.sort((start + 7 * np.arange(n[i])) % N_GENES)
    return sp.csr_matrix((rng.geometric(0.6, indptr[-1]).astype(np.float32), indices, indptr), (n_cells, N_GENES))


def loading(adata, device):
    R2MAE.setup_anndata(adata, batch_key="batch")
    manager = R2MAE(adata, n_hidden=8, n_latent=4).adata_manager
    splitter = CountSplitter(manager, batch_size=BATCH, device=device, train_size=1.0)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)

    def ours(dense):
        for batch in splitter.train_dataloader():
            x = batch[REGISTRY_KEYS.X_KEY]
            if dense or device != "cpu":
                x.to(device).dense(N_GENES)
        wait()

    def theirs(sparse):
        loader = AnnDataLoader(manager, shuffle=True, batch_size=BATCH, drop_last=True, load_sparse_tensor=sparse)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in loader:
                batch[REGISTRY_KEYS.X_KEY].to(device)
        wait()

    contestants = {
        "ours, sparse rows (what the loader returns)": lambda: ours(False),
        "ours, made dense on the device": lambda: ours(True),
        "AnnDataLoader, dense (its default)": lambda: theirs(False),
        "AnnDataLoader, sparse tensors": lambda: theirs(True),
    }
    times = best_of_turns(contestants, rounds=15)
    n = N_CELLS // BATCH * BATCH
    report(
        f"One epoch of loading, {n:,} cells x {N_GENES:,} genes, batches of {BATCH}",
        times,
        next(iter(times)),
        targets={"AnnDataLoader, dense (its default)": 5},
    )
    for name, seconds in times.items():
        print(f"{name}: {n / seconds:,.0f} cells/s")


def training(adata, device, n_hidden, n_latent):
    """One epoch of `train`: ours, and scvi-tools' scVI with layers of the same widths."""
    accelerator = {"cuda": "gpu"}.get(device, device)
    arguments = {"max_epochs": 1, "batch_size": BATCH, "accelerator": accelerator, "enable_progress_bar": False}
    R2MAE.setup_anndata(adata, batch_key="batch")
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    ours = R2MAE(adata, n_hidden=n_hidden, n_latent=n_latent)
    theirs = scvi.model.SCVI(adata, n_hidden=n_hidden, n_latent=n_latent, n_layers=2, gene_likelihood="nb")
    with quiet_lightning():
        times = best_of_turns({"R2MAE": lambda: ours.train(**arguments), "scVI": lambda: theirs.train(**arguments)}, 3)
    report(f"One epoch of train(), {adata.n_obs:,} cells, widths {n_hidden}/{n_latent}", times, "R2MAE")
    print(f"\nR2MAE: {0.9 * adata.n_obs / times['R2MAE']:,.0f} training cells/s")


def memory(n_cells):
    """Print the peak memory of a process that trains on `n_cells`, and the size of their CSR matrix."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "counts.h5ad", Path(folder) / "prepared.h5ad"
        matrix = counts(n_cells)
        adata = anndata.AnnData(matrix)
        adata.obs["batch"] = np.arange(n_cells) % 20
        adata.obs["batch"] = adata.obs["batch"].astype("category")
        adata.obs["age"] = 50.0
        adata.write_h5ad(source)
        columns = dict.fromkeys(("donor", "batch", "cell_type", "disease"), "batch") | {"age": "age"}
        prepare_atlas(source, path, "none", columns, n_genes=N_GENES, progress=False)
        size = (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / 2**20
        del adata, matrix
        peaks = {}
        for mode in ("imports", "memory", "mapped"):
            done = subprocess.run([sys.executable, __file__, "--peak", mode, str(path)], capture_output=True, text=True)
            peaks[mode] = float(done.stdout.split()[-1])
    print(f"\nMemory, {n_cells:,} cells x {N_GENES:,} genes (CSR: {size:,.0f} MiB), 40 steps of R2MAE 1024/512\n")
    print("| process | peak MiB | above imports and network |\n|---|---|---|")
    for mode, peak in peaks.items():
        print(f"| {mode} | {peak:,.0f} | {peak - peaks['imports']:,.0f} |")


def peak(mode, path):
    """Train 40 steps and print this process's peak memory in MiB."""
    adata = anndata.read_h5ad(path, backed="r" if mode == "mapped" else None) if mode != "imports" else None
    if adata is None:
        adata = anndata.AnnData(counts(2 * BATCH), obs={"batch": ["a", "b"] * BATCH})
        adata.obs_names_make_unique()
    R2MAE.setup_anndata(adata, batch_key="batch")
    with quiet_lightning():
        model = R2MAE(adata)
        model.train(max_epochs=1, max_steps=40, batch_size=BATCH, accelerator="cpu", enable_progress_bar=False)
    # Not getrusage: its peak is inherited from the parent process.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("MODE", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    scvi.settings.verbosity = 30
    if args.peak:
        peak(*args.peak)
        return
    device = resolve_device(args.device)
    print(f"{device_name(device)}, torch {torch.__version__}, scvi-tools {scvi.__version__}")
    adata = anndata.AnnData(counts(N_CELLS), obs={"batch": [f"b{i % 20}" for i in range(N_CELLS)]})
    start = time.perf_counter()
    loading(adata, device)
    part = adata[: 4000 if device == "cpu" else N_CELLS].copy()
    for widths in ((1024, 512), (128, 10)):
        training(part, device, *widths)
    if args.memory:
        memory(200_000)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
