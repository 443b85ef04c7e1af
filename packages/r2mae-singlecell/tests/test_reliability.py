"""Nothing that is read back is trusted, nothing that was there is lost."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import lightning.pytorch as pl
import numpy as np
import pytest
import scipy.sparse as sp

from r2mae_core import UserError, fingerprint, run_pretraining
from r2mae_singlecell import R2MAE, Simulation, prepare_atlas, probe_embedding, simulate_atlas
from r2mae_singlecell.baselines import BaselineSettings, train_scvi
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.pretrain import SingleCells, pretrain
from r2mae_singlecell.probing import TASKS

SIZE = {"n_hidden": 24, "n_latent": 6, "batch_size": 36, "device": "cpu", "progress": False}
ATLAS = Simulation(n_donors=20, n_cells=120, n_genes=40, unknown=0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An atlas, prepared data and a run."""
    folder = tmp_path_factory.mktemp("made")
    simulate_atlas(ATLAS).write_h5ad(folder / "a.h5ad")
    prepare_atlas(folder / "a.h5ad", folder / "p.h5ad", n_genes=30, min_genes=0, progress=False)
    pretrain(Pretrain(data=folder / "p.h5ad", epochs=1, out=folder / "run", **SIZE))
    return folder


@pytest.fixture
def here(made, tmp_path):
    """Copies of all that, in the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(call, argv, message, code=1):
    got, _, err = call(*argv)
    assert got == code, (argv, err)
    assert re.search(message, err), (argv, err)
    assert "a fault in" not in err
    assert not [*Path.cwd().glob("r2mae-fault-*")]


# ---- An output is never an input, and never somebody else's file.


def test_no_command_writes_over_what_it_reads(call, here):
    (here / "l.h5ad").symlink_to("a.h5ad")
    os.link("p.h5ad", "hard.h5ad")
    before = fingerprint(here)
    for argv in (
        ("prepare", "a.h5ad", "--out", "a.h5ad", "--overwrite"),
        ("prepare", "a.h5ad", "--out", "l.h5ad", "--overwrite"),
        ("prepare", "l.h5ad", "--out", "./run/../a.h5ad", "--overwrite"),
        ("embed", "run", "p.h5ad", "--out", "p.h5ad", "--overwrite"),
        ("embed", "run", "p.h5ad", "--out", "hard.h5ad", "--overwrite"),
        ("embed", "run", "p.h5ad", "--out", "run/model/e.h5ad"),
        ("pretrain", "p.h5ad", "--out", "p.h5ad"),
        ("probe", "run", "p.h5ad", "--out", "run"),
        ("reconstruct", "run", "p.h5ad", "--out", "run/x"),
        ("reproduce", "table6", "p.h5ad", "--out", "hard.h5ad"),
    ):
        refused(call, argv, "is an input of this command|lies inside the input")
    assert fingerprint(here) == before


def test_a_file_that_is_there_is_replaced_only_when_told(call, here):
    (here / "mine.h5ad").write_text("mine")
    size = ("--n-donors", 6, "--n-cells", 30, "--n-genes", 20)
    for argv in (("prepare", "a.h5ad", "--no-progress"), ("embed", "run", "p.h5ad"), ("simulate", *size)):
        refused(call, (*argv, "--out", "mine.h5ad"), "mine.h5ad is there already; give --overwrite")
        refused(call, (*argv, "--out", "run", "--overwrite"), "run is a folder; name a file|lies inside|is an input")
        assert (here / "mine.h5ad").read_text() == "mine"
        assert call(*argv, "--out", "mine.h5ad", "--overwrite")[0] == 0
        anndata.read_h5ad("mine.h5ad")
        (here / "mine.h5ad").write_text("mine")


def test_a_failed_start_leaves_nothing(call, here):
    before = sorted(here.rglob("*"))
    for argv, message in {
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--counts", "layers/none"): "no counts at layers/none",
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--min_genes", 99): "no cell has 99 of the 40 variable genes",
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--n_genes", 0): "--n_genes must be at least 1",
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--target_sum", 0): "--target_sum must be above 0",
        ("pretrain", "p.h5ad", "--out", "new", "--epochs", -1): "--epochs must be at least 1",
        ("pretrain", "p.h5ad", "--out", "new", "--lr", 0): "--lr must be above 0",
        ("pretrain", "p.h5ad", "--out", "new", "--mask_ratio", "nonsense"): "unknown mask scheme",
        ("probe", "run", "p.h5ad", "--out", "new", "--baselines", "[obsm:X]"): "adata.obsm has no 'X'; its keys: none",
        ("probe", "run", "p.h5ad", "--out", "new", "--baselines", "[scvi=0]"): "unknown baseline 'scvi=0'",
        ("probe", "run", "p.h5ad", "--out", "new", "--baselines", "[pca,pca]"): "--baselines has pca more than once",
        ("probe", "run", "p.h5ad", "--out", "new", "--tasks", "[]"): "--tasks is empty",
        (
            "probe",
            "run",
            "p.h5ad",
            "--out",
            "new",
            "--train_share",
            2,
        ): "--train_share must be at least 0 and at most 1",
        ("reconstruct", "run", "p.h5ad", "--out", "new", "--ratios", "[0.1,0.10]"): "--ratios has 0.1 more than once",
        ("reconstruct", "run", "p.h5ad", "--out", "new", "--ratios", "[]"): "--ratios is empty",
        ("reproduce", "table8", "p.h5ad", "--out", "new", "--schemes", "[]", "--baselines", "[pca]"): "has no rows",
        ("reproduce", "table6", "p.h5ad", "--out", "new", "--baselines", "[obsm:X]"): "adata.obsm has no 'X'",
        ("reproduce", "table6", "p.h5ad", "--dry-run", "--epochs", -1): "--epochs must be at least 1",
        ("simulate", "--out", "new/x.h5ad", "--age_effect", "1e308"): "--age_effect must be",
        ("demo", "--out", "new", "--seeds", "[0,0]"): "--seeds has 0 more than once",
    }.items():
        refused(call, argv, message)
    assert sorted(here.rglob("*")) == before


# ---- Damaged files, and files that would run code.


def test_every_flipped_bit_of_prepared_data_is_noticed_or_means_nothing(here):
    whole, original = Path("p.h5ad").read_bytes(), read_prepared(Path("p.h5ad")).to_memory()
    silent = [at for at in range(0, len(whole), len(whole) // 60) if not _noticed(whole, at, original)]
    assert len(silent) < 40


def _noticed(whole, at, original):
    """Flip a bit of prepared data; where that is not noticed, the data are as they were."""
    flipped, file = bytearray(whole), Path(f"flipped-{at}.h5ad")
    flipped[at] ^= 1 << (at % 8)
    file.write_bytes(flipped)
    try:
        adata = read_prepared(file).to_memory()
    except UserError:
        return True
    assert (adata.X != original.X).nnz == 0
    assert adata.obs.equals(original.obs)
    assert adata.var_names.equals(original.var_names)
    return False


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", "half"])
def test_damaged_data_and_models_are_named(call, here, content):
    for name, argv in {
        "a.h5ad": ("prepare", "a.h5ad", "--out", "x.h5ad"),
        "p.h5ad": ("pretrain", "p.h5ad", "--out", "x"),
        "run/model/model.json": ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
        "run/model/model.safetensors": ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
        "run/model/SHA256SUMS": ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
        "run/config.yaml": ("probe", "run", "p.h5ad", "--out", "x"),
    }.items():
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2] if content == "half" else content)
        if name.endswith("SUMS") and not content:
            continue  # an empty list of checksums holds none that is wrong
        refused(call, argv, re.escape(Path(name).name))
        assert not [*Path.cwd().glob("x*")]
        Path(name).write_bytes(whole)


def test_a_flipped_bit_in_a_model_is_noticed(call, here):
    for name in ("model.safetensors", "model.json"):
        file = here / "run" / "model" / name
        whole = file.read_bytes()
        for at in (len(whole) // 3, len(whole) - 5):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            refused(call, ("embed", "run", "p.h5ad", "--out", "x.h5ad"), f"{name} is (damaged|not)")
        file.unlink()
        refused(call, ("embed", "run", "p.h5ad", "--out", "x.h5ad"), f"{name} is missing|no finished model")
        file.write_bytes(whole)


def test_a_model_file_imports_and_calls_nothing(here):
    (here / "run" / "model" / "SHA256SUMS").unlink()
    file = here / "run" / "model" / "model.json"
    described = json.loads(file.read_text())
    described.pop("sha256")
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(here / "ran")]}}
    for evil in (popen, {"class_path": "r2mae_core.Curriculum", "init_args": {"ratio": popen, "n_columns": 1}}):
        described["arguments"]["mask_ratio"] = evil
        file.write_text(json.dumps(described))
        with pytest.raises(UserError, match=r"subprocess\.Popen"):
            R2MAE.from_export(here / "run" / "model")
        assert not (here / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore:.*Consolidated.*", "ignore:.*separators.*", "ignore:.*codec.*")
def test_a_zarr_store_with_a_codec_that_runs_code_is_refused(here):
    simulate_atlas(ATLAS).write_zarr(here / "a.zarr")
    prepare_atlas(here / "a.zarr", here / "x.h5ad", n_genes=30, progress=False)
    for name, described in {
        ".zarray": {"filters": [{"id": "pickle"}], "compressor": None},
        "zarr.json": {"node_type": "array", "codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
    }.items():
        (here / "a.zarr" / "obs" / "evil").mkdir(exist_ok=True)
        (here / "a.zarr" / "obs" / "evil" / name).write_text(json.dumps(described))
        with pytest.raises(UserError, match=f"{name} uses the codec 'pickle', which can run code"):
            prepare_atlas(here / "a.zarr", here / "y.h5ad", n_genes=30, progress=False)
        shutil.rmtree(here / "a.zarr" / "obs" / "evil")


def test_data_in_another_file_are_not_followed(here):
    with h5py.File("a.h5ad", "r+") as file:
        del file["obs/disease"]
        file["obs/disease"] = h5py.ExternalLink("secret.h5", "/x")
    with h5py.File("p.h5ad", "r+") as file:
        shape, dtype = file["X/data"].shape, file["X/data"].dtype
        del file["X/data"]
        file["X"].create_dataset("data", shape, dtype, external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(UserError, match="obs/disease lies in another file, which is not followed"):
        prepare_atlas(here / "a.h5ad", here / "x.h5ad", progress=False)
    with pytest.raises(UserError, match="X/data lies in another file"):
        read_prepared(here / "p.h5ad")


def test_columns_that_are_none_are_noticed_before_they_are_added_up(here):
    with h5py.File("a.h5ad", "r+") as file:
        file["raw/X/indices"][7] = 2_000_000_000
    with pytest.raises(UserError, match=r"a.h5ad cannot be read: it is damaged"):
        prepare_atlas(here / "a.h5ad", here / "x.h5ad", progress=False)


# ---- Resume and reuse go by content.


class PowerCut(pl.Callback):
    """Break off before a micro-batch, counted over the whole training."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx >= self.at:
            raise RuntimeError("power cut")


def interrupted(at):
    class Interrupted(SingleCells):
        def callbacks(self, run):
            return [PowerCut(at)]

    return Interrupted


def log_of(folder):
    speed = re.compile("_per_second|tflops|mfu|seconds")
    return [line for line in (folder / "metrics.csv").read_text().splitlines() if not speed.search(line)]


@pytest.mark.parametrize("cuts", [(3, 4, 5, 7), (9, 10, 18), (26, 26, 26), (1, 8, 17, 25)])
def test_interrupted_often_equals_uninterrupted(here, cuts):
    """Also the lines of the log: cells, batches and epochs do not end where checkpoints are written."""
    options = {**SIZE, "epochs": 3, "micro_batch_size": 12, "checkpoint_every": 2, "validate_every": 3, "log_every": 2}
    common = {"data": Path("p.h5ad"), "mask_ratio": "r2mae+cl", **options}
    whole = pretrain(Pretrain(out=Path("whole"), **common))
    for cut in cuts:
        with pytest.raises(RuntimeError, match="power cut"):
            run_pretraining(interrupted(cut), Pretrain(out=Path("cut"), **common))
    Path("cut").rename("moved")
    Path("p.h5ad").rename("moved.h5ad")
    resumed = pretrain(Pretrain(out=Path("moved"), **{**common, "data": Path("moved.h5ad")}))
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]
    assert log_of(whole.path) == log_of(resumed.path)
    assert [r.value for r in whole.results()] == [r.value for r in resumed.results()]


def test_a_run_is_not_resumed_on_other_data_of_the_same_name(call, here):
    common = {"data": Path("p.h5ad"), "out": Path("cut"), "checkpoint_every": 1, "epochs": 3, **SIZE}
    with pytest.raises(RuntimeError, match="power cut"):
        run_pretraining(interrupted(4), Pretrain(**common))
    simulate_atlas(Simulation(n_donors=20, n_cells=120, n_genes=40, unknown=0.0, seed=1)).write_h5ad("b.h5ad")
    prepare_atlas(Path("b.h5ad"), Path("p.h5ad"), n_genes=30, min_genes=0, progress=False, overwrite=True)
    with pytest.raises(UserError, match="cut holds a run with another config: data_digest is"):
        pretrain(Pretrain(**common))
    refused(call, ("embed", "run", "p.h5ad", "--out", "x.h5ad"), "genes are not those of the model.*name the file that")


def test_training_in_python_is_not_resumed_on_other_data_or_options(make_adata, train, tmp_path):
    train(make_adata(), max_epochs=2, resume=tmp_path / "run")
    for other, arguments, message in (
        (make_adata(seed=1), {}, "another data"),
        (make_adata(), {"plan_kwargs": {"lr": 2e-3}}, "another lr"),
        (make_adata(), {"batch_size": 16}, "another batch_size"),
        (make_adata(), {"init": {"dropout_rate": 0.1}}, "another dropout_rate"),
        (make_adata(), {"init": {"mask_ratio": "mdlm"}}, "another mask_ratio"),
    ):
        with pytest.raises(UserError, match=f"last.ckpt is of a training with {message}"):
            train(other, resume=tmp_path / "run", **{"max_epochs": 2, **arguments})


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_folder_of_something_else_is_not_resumed(here, make_adata, train):
    Path("mine").mkdir()
    Path("mine/metrics.csv").write_text("mine")
    with pytest.raises(UserError, match=r"metrics\.csv is not the log of a training"):
        train(make_adata(), resume="mine")
    assert Path("mine/metrics.csv").read_text() == "mine"
    with pytest.raises(UserError, match="run is the run folder of a command"):
        train(make_adata(), resume="run")
    Path("run/config.yaml").unlink()
    log = Path("run/metrics.csv").read_bytes()
    size = {"n_hidden": 24, "n_latent": 6}
    data = read_prepared(Path("p.h5ad")).to_memory()
    with pytest.raises(UserError, match=r"last\.ckpt is not of R2MAE\.train"):
        train(data, init=size, resume="run")
    assert Path("run/metrics.csv").read_bytes() == log


class StopAfter(pl.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


def test_early_stopping_is_resumed_where_it_was(make_adata, train, same_weights, tmp_path):
    arguments = {"max_epochs": 60, "early_stopping": True, "early_stopping_patience": 2, "plan_kwargs": {"lr": 0.03}}
    whole = train(make_adata(), **arguments, resume=tmp_path / "whole")
    n_epochs = len(whole.history["train_loss"])
    assert 4 < n_epochs < 60
    for epoch in (2, 3, n_epochs - 1):
        with pytest.raises(RuntimeError, match="power cut"):
            train(make_adata(), **arguments, resume=tmp_path / "run", callbacks=[StopAfter(epoch)])
    for _ in range(2):  # the second time nothing is left to do
        resumed = train(make_adata(), **arguments, resume=tmp_path / "run")
        assert same_weights(whole, resumed)
        assert log_of(tmp_path / "whole") == log_of(tmp_path / "run")


# ---- A full disk, and several writers.


def test_a_full_disk_is_named_and_the_older_output_is_whole(call, here, monkeypatch):
    (here / "old.h5ad").write_text("old")
    before = sorted(here.rglob("*"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    size = ("--n-donors", 6, "--n-cells", 30, "--n-genes", 20)
    for argv in (("prepare", "a.h5ad", "--no-progress"), ("embed", "run", "p.h5ad"), ("simulate", *size)):
        refused(call, (*argv, "--out", "old.h5ad", "--overwrite"), "does not have|is full|are free")
        assert (here / "old.h5ad").read_text() == "old"
    assert sorted(here.rglob("*")) == before


def test_a_second_writer_is_refused(call, here):
    code = (
        "import sys, pathlib; from r2mae_core import one_writer\n"
        "with one_writer(pathlib.Path('x.h5ad'), folder=False), one_writer(pathlib.Path('x')):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        for argv in (
            ("prepare", "a.h5ad", "--out", "x.h5ad"),
            ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
            ("simulate", "--out", "x.h5ad"),
            ("pretrain", "p.h5ad", "--out", "x"),
            ("probe", "run", "p.h5ad", "--out", "x"),
        ):
            refused(call, argv, f"is being written by process {other.pid}")
        other.stdin.close()
    assert not [*Path.cwd().glob("x*")]


# ---- Messages name the cell, the gene and the column; nothing goes on with NaN.


def test_missing_values_are_named_where_they_enter(trained, adata, make_adata):
    query = make_adata()
    query.X.data[5] = np.nan
    with pytest.raises(
        UserError, match=r"1 negative or missing values, the first of them nan in cell 'cell0', gene 'gene"
    ):
        trained.get_latent_representation(query)
    query.X = query.X.toarray()
    query.X[:] = 1
    query.X[7, 3] = np.inf
    with pytest.raises(UserError, match=r"1 infinite values, the first of them inf in cell 'cell7', gene 'gene3'"):
        trained.get_masked_nll(query)
    adata.obs["size"], adata.obs["word"] = 1.0, "x"
    adata.obs.loc["cell4", ["percent_mito", "size"]] = np.nan, 0.0
    adata.obs.loc["cell5", "batch"] = None
    for setup, message in (
        ({"continuous_covariate_keys": ["percent_mito"]}, "'percent_mito'] has 1 missing or infinite .* cell 'cell4'"),
        ({"size_factor_key": "size"}, "'size'] has 1 values that are not above 0, the first of them in cell 'cell4'"),
        ({"batch_key": "batch"}, "'batch'] has 1 missing values, the first of them in cell 'cell5'"),
        ({"batch_key": "nothing"}, "no column 'nothing'; its columns: kind"),
        ({"continuous_covariate_keys": ["word"]}, "'word'] is .*, not numbers"),
    ):
        with pytest.raises(UserError, match=message):
            R2MAE.setup_anndata(adata, **setup)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "missing values, nan"),
        (np.inf, "inf is more than a count can be"),
        (3e9, "3e.09 is more"),
        (0.5, "0.5"),
    ],
)
def test_counts_that_are_none_are_named_by_cell_and_gene(here, value, message):
    adata = simulate_atlas(ATLAS)
    X = adata.raw.X.toarray()
    X[23, 11] = value
    adata.layers["c"] = sp.csr_matrix(X)
    adata.write_h5ad("b.h5ad")
    with pytest.raises(UserError, match=rf"layers/c, cell 23, gene 11 \(counted from 0\): .*{message}"):
        prepare_atlas(Path("b.h5ad"), Path("x.h5ad"), "hlca", {"counts": "layers/c"}, block=10, progress=False)


def test_cells_without_a_donor_or_genes_that_stand_twice_are_named(here):
    adata = simulate_atlas(ATLAS)
    adata.obs.loc["cell9", "donor_id"] = None
    adata.write_h5ad("b.h5ad")
    with pytest.raises(UserError, match="1 cells have no value in obs column 'donor_id', such as 'cell9'"):
        prepare_atlas(Path("b.h5ad"), Path("x.h5ad"), progress=False)
    raw = simulate_atlas(ATLAS).raw.to_adata()
    raw.var_names = [*raw.var_names[:-1], raw.var_names[0]]
    raw.write_h5ad("c.h5ad")
    with pytest.raises(UserError, match="1 gene names stand twice, such as 'ENSG00000000000'"):
        prepare_atlas(Path("c.h5ad"), Path("x.h5ad"), "hlca", {"counts": "X"}, progress=False)


def test_data_with_an_unknown_batch_is_named(call, here):
    with h5py.File("p.h5ad", "r+") as file:
        del file["uns/r2mae/digest"]  # as an older version wrote it: unchecked
        file["obs/batch/categories"][0] = "elsewhere"
    refused(
        call, ("embed", "run", "p.h5ad", "--out", "x.h5ad"), "was not trained on the batch 'elsewhere'.*pretrain on"
    )


def test_an_embedding_with_gaps_is_not_probed(here):
    obs = read_prepared(Path("p.h5ad")).obs
    z = np.random.default_rng(0).normal(size=(len(obs), 3))
    z[4, 1] = np.nan
    with pytest.raises(
        UserError, match=rf"mine has NaN or infinite values in 1 cells, the first of them '{obs.index[4]}'"
    ):
        probe_embedding(z, obs, TASKS["hlca"], scheme="mine")
    z[4, 1], obs["cell_type"] = 0.0, "one"
    with pytest.raises(UserError, match=r"mine, cell_type, donor division 0: .*only one class"):
        probe_embedding(z, obs, TASKS["hlca"][:1], scheme="mine")


def test_scvi_trains_also_on_fewer_cells_than_a_batch(make_adata):
    untrained = train_scvi("scvi=2", make_adata(60), BaselineSettings(1, 400, device="cpu")).module.state_dict()
    trained = train_scvi("scvi=2", make_adata(60), BaselineSettings(9, 400, device="cpu")).module.state_dict()
    assert any(not untrained[name].equal(trained[name]) for name in trained)
