import os
import re
import shutil
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, sklearn and numba load

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine; GPU checks are benchmarks
torch.set_num_threads(1)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scvi

scvi.settings.verbosity = 30


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout


def _make_adata(n_cells=120, n_genes=40, seed=0):
    """Counts with two cell types, two batches and covariates."""
    import anndata

    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(0, 2, n_cells), rng.integers(0, 2, n_cells)
    rates = np.exp(rng.normal(0, 1, (2, n_genes)) + rng.normal(0, 0.2, (2, 1)))[kind]
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(rates).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    adata.var_names = [f"gene{i}" for i in range(n_genes)]
    adata.obs["kind"], adata.obs["batch"] = np.array(["a", "b"])[kind], np.array(["x", "y"])[batch]
    adata.obs["chemistry"] = np.array(["v2", "v3", "v4"])[rng.integers(0, 3, n_cells)]
    adata.obs["percent_mito"] = rng.random(n_cells)
    return adata


@pytest.fixture(scope="session")
def make_adata():
    return _make_adata


@pytest.fixture
def adata():
    return _make_adata()


@pytest.fixture(scope="session")
def train():
    """A function that sets up and trains a small model, quietly."""
    from r2mae_core import quiet_lightning
    from r2mae_singlecell import R2MAE

    def run(data, *, setup=None, seed=0, max_epochs=3, batch_size=32, plan_kwargs=None, init=None, **arguments):
        with quiet_lightning():
            scvi.settings.seed = seed
            R2MAE.setup_anndata(data, **({"batch_key": "batch"} if setup is None else setup))
            model = R2MAE(data, **{"n_hidden": 32, "n_latent": 8, **(init or {})})
            model.train(
                max_epochs=max_epochs,
                batch_size=batch_size,
                accelerator="cpu",
                enable_progress_bar=False,
                plan_kwargs=plan_kwargs,
                **arguments,
            )
        return model

    return run


@pytest.fixture(scope="session")
def trained(train):
    """A model trained on `make_adata()`, shared by tests that do not change it."""
    return train(_make_adata(), max_epochs=60)


def _same_weights(a, b):
    a, b = a.module.state_dict(), b.module.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="session")
def same_weights():
    return _same_weights


@pytest.fixture
def call(capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""
    from r2mae_singlecell.cli import main

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A simulated atlas a.h5ad, prepared as p.h5ad, and a run on it."""
    from r2mae_singlecell import Simulation, prepare_atlas, simulate_atlas
    from r2mae_singlecell.options import Pretrain
    from r2mae_singlecell.pretrain import pretrain

    folder = tmp_path_factory.mktemp("made")
    atlas = Simulation(n_donors=20, n_cells=120, n_genes=40, unknown=0.0)
    simulate_atlas(atlas).write_h5ad(folder / "a.h5ad")
    prepare_atlas(folder / "a.h5ad", folder / "p.h5ad", n_genes=30, min_genes=0, progress=False)
    size = {"n_hidden": 24, "n_latent": 6, "batch_size": 36, "device": "cpu", "progress": False}
    pretrain(Pretrain(data=folder / "p.h5ad", epochs=1, out=folder / "run", **size))
    return folder


@pytest.fixture
def here(made, tmp_path):
    """Copies of all that, in the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def refused(call):
    """A function that runs a command and expects a message, and no report of a fault."""

    def run(argv, message):
        code, _, err = call(*argv)
        assert code == 1, (argv, err)
        assert re.search(message, err), (argv, err)
        assert "a fault in" not in err
        assert not [*Path.cwd().glob("r2mae-fault-*")]

    return run
