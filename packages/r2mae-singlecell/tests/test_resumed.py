"""Resume goes by content, and ends as if there had been no interruption."""

import re
from pathlib import Path

import lightning.pytorch as pl
import pytest

from r2mae_core import UserError, run_pretraining
from r2mae_singlecell import Simulation, prepare_atlas, simulate_atlas
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.pretrain import SingleCells, pretrain

SIZE = {"n_hidden": 24, "n_latent": 6, "batch_size": 36, "device": "cpu", "progress": False}


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


PER_CELL = {
    "mask_ratio": "mdlm",
    "ratio_per": "sample",
    "loss_weight": "inverse_ratio",
    "mask_shape": "groups",
    "gene_sets": Path("sets.gmt"),
}


@pytest.mark.parametrize("masking", [{"mask_ratio": "r2mae+cl"}, PER_CELL])
@pytest.mark.parametrize("cuts", [(3, 4, 5, 7), (9, 10, 18), (26, 26, 26), (1, 8, 17, 25)])
def test_interrupted_often_equals_uninterrupted(here, cuts, masking):
    """Also the lines of the log: cells, batches and epochs do not end where checkpoints are written."""
    options = {**SIZE, "epochs": 3, "micro_batch_size": 12, "checkpoint_every": 2, "validate_every": 3, "log_every": 2}
    Path("sets.gmt").write_text("A\t\tGENE1\tGENE2\tGENE3\tGENE4\tGENE5\nB\t\tGENE6\tGENE7\tGENE8\n")
    common = {"data": Path("p.h5ad"), **masking, **options}
    whole = pretrain(Pretrain(out=Path("whole"), **common))
    for cut in cuts:
        with pytest.raises(RuntimeError, match="power cut"):
            run_pretraining(interrupted(cut), Pretrain(out=Path("cut"), **common))
    Path("cut").rename("moved")
    Path("p.h5ad").rename("moved.h5ad")
    resumed = pretrain(Pretrain(out=Path("moved"), **{**common, "data": Path("moved.h5ad")}))
    for name in ("model.safetensors", "model.json", "SHA256SUMS"):
        assert (whole.path / "model" / name).read_bytes() == (resumed.path / "model" / name).read_bytes()
    assert log_of(whole.path) == log_of(resumed.path)
    assert [r.value for r in whole.results()] == [r.value for r in resumed.results()]


def test_a_run_is_not_resumed_on_other_data_of_the_same_name(refused, here):
    common = {"data": Path("p.h5ad"), "out": Path("cut"), "checkpoint_every": 1, "epochs": 3, **SIZE}
    with pytest.raises(RuntimeError, match="power cut"):
        run_pretraining(interrupted(4), Pretrain(**common))
    simulate_atlas(Simulation(n_donors=20, n_cells=120, n_genes=40, unknown=0.0, seed=1)).write_h5ad("b.h5ad")
    prepare_atlas(Path("b.h5ad"), Path("p.h5ad"), n_genes=30, min_genes=0, progress=False, overwrite=True)
    with pytest.raises(UserError, match="cut was made from other data: DATA was changed since; put it back"):
        pretrain(Pretrain(**common))
    refused(("probe", "run", "p.h5ad", "--out", "x"), "genes are not those of the model.*name the file that")


def test_training_in_python_is_not_resumed_on_other_data_or_options(make_adata, train, tmp_path):
    train(make_adata(), max_epochs=2, resume=tmp_path / "run")
    for other, arguments, message in (
        (make_adata(seed=1), {}, "another data"),
        (make_adata(), {"plan_kwargs": {"lr": 2e-3}}, "another lr"),
        (make_adata(), {"plan_kwargs": {"ratio_per": "sample"}}, "another ratio_per"),
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


def test_blocks_resume_from_the_command_line(here, call):
    """Also where only `auto` is asked for: the run says that it was begun in blocks."""
    options = {**SIZE, "epochs": 2, "micro_batch_size": 12, "checkpoint_every": 2, "shuffle": "blocks", "chunk": 4}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert call("pretrain", "p.h5ad", *words, "--out", "whole")[0] == 0
    for cut in (3, 7):
        with pytest.raises(RuntimeError, match="power cut"):
            run_pretraining(interrupted(cut), Pretrain(Path("p.h5ad"), out=Path("cut"), **options))
    asked = [{"blocks": "auto"}.get(word, word) for word in words]
    assert call("pretrain", "p.h5ad", *asked, "--out", "cut")[0] == 0
    exact = [{"blocks": "exact"}.get(word, word) for word in words if word not in ("--chunk", 4)]
    assert call("pretrain", "p.h5ad", *exact, "--out", "exact")[0] == 0
    weights = {name: Path(name, "model/model.safetensors").read_bytes() for name in ("whole", "cut", "exact")}
    assert weights["cut"] == weights["whole"] != weights["exact"]
