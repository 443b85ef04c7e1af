"""`sweep` from the prepared file to the answer, and what is refused before anything is trained."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from r2mae_core import RunFolder, UserError, read_records
from r2mae_singlecell import prepare_atlas
from r2mae_singlecell import sweep as module
from r2mae_singlecell.divisions import TASKS, Protocol
from r2mae_singlecell.evaluate import RANK_BY
from r2mae_singlecell.options import Sweep
from r2mae_singlecell.sweep import METRICS, check_probe, pretrain_command, pretrain_options, sweep

PRETRAIN = {"epochs": 5, "n_hidden": 8, "n_latent": 4, "batch_size": 36}
SMALL = {
    "ratios": (0.25,), "ranges": ((0.1, 0.5),), "device": "cpu", "progress": False, "pretrain": PRETRAIN,
    "probe": {"n_splits": 1},
}  # fmt: skip


def options(**other):
    return Sweep(data=Path("p.h5ad"), **{**SMALL, "out": Path("sweep"), **other})


def test_from_the_file_to_the_answer(here, call):
    argv = ("--ratios", "[0.25]", "--ranges", "[[0.1,0.5]]", "--budget_runs", 0.8, "--device", "cpu", "--no-progress")
    argv += ("--pretrain", json.dumps({**PRETRAIN, "ratio_per": "sample"}), "--probe", '{"n_splits": 1}')
    code, out, err = call("sweep", "p.h5ad", "--task", "cell_type", *argv, "--out", "sweep")
    assert (code, err) == (0, "")
    assert "Comparing 0.1-0.5, 0.25 by balanced_accuracy, at most 0.8 trainings of full length" in out
    answer = json.loads(Path("sweep/sweep.json").read_text())
    assert answer["metric"] == "balanced_accuracy"
    wanted = "pretrain p.h5ad --epochs 5 --n_hidden 8 --n_latent 4 --batch_size 36 --ratio_per sample --mask_ratio "
    assert answer["pretrain"].startswith(f"r2mae-singlecell {wanted}")
    assert f"Next: {answer['pretrain']}" in out
    trials = sorted(path.parent for path in Path("sweep/trials").glob("*/*/results.json"))
    assert {path.parent.name for path in trials} >= {"0.1-0.5-seed0", "0.25-seed0"}
    for trial in trials:
        config = RunFolder.open(trial / "pretrain").config
        assert config["epochs"] == round(5 * float(trial.name))
        assert (config["n_hidden"], config["ratio_per"]) == (8, "sample")
        assert f"seed{config['seed']}" in trial.parent.name
        assert {"balanced_accuracy", "macro_f1"} == {r.metric for r in read_records(trial)}
        assert (trial / "pretrain" / "model" / "model.json").exists()
        assert not (trial / "pretrain" / "checkpoints").exists()
    again = call("sweep", "p.h5ad", "--task", "cell_type", *argv, "--out", "sweep")
    assert again[0] == 0
    assert json.loads(Path("sweep/sweep.json").read_text()) == answer  # the budget is spent


@pytest.mark.parametrize(("cut", "n_probed"), [("probe_embedding", 2), ("write_records", 1)])
def test_an_interrupted_sweep_goes_on_with_what_it_has(here, monkeypatch, cut, n_probed):
    """Before the probe is done the model is there; once its records are written, they are."""
    config = options(task="age", metric="spearman_donor", budget_runs=0.4)
    probed, calls, probe, original = [], [], module.probe_embedding, getattr(module, cut)

    def interrupted(*arguments, **named):
        calls.append(1)
        result = original(*arguments, **named)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return result

    def counted(*arguments, **named):
        probed.append(named["seed"])
        return probe(*arguments, **named)

    monkeypatch.setattr(module, cut, interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(config)
    model = Path("sweep/trials/0.1-0.5-seed0/0.2/pretrain/model/model.safetensors")
    before = model.stat().st_mtime_ns
    monkeypatch.setattr(module, "probe_embedding", counted)
    run = sweep(config)
    assert model.stat().st_mtime_ns == before
    assert len(probed) == n_probed  # the first arm's again only if its records were not written
    assert json.loads((run.path / "sweep.json").read_text())["metric"] == "spearman_donor"


def test_the_score_is_that_of_the_packages_probe(here):
    """The same model, probed by the command, gives the same numbers."""
    from r2mae_singlecell.evaluate import probe
    from r2mae_singlecell.options import Probe

    sweep(options(task="disease", budget_runs=0.4, probe={"n_splits": 2, "max_cells": 4, "standardize": False}))
    trial = Path("sweep/trials/0.25-seed0/0.2")
    run = probe(
        Probe(
            runs=(trial / "pretrain",), data=Path("p.h5ad"), tasks=("disease",), baselines=(), n_splits=2, max_cells=4,
            standardize=False, device="cpu", out=Path("probed"),
        )
    )  # fmt: skip
    own = {(r.metric, r.split): r.value for r in read_records(trial)}
    assert own == {(r.metric, r.split): r.value for r in run.results()}
    assert len(own) == 4


def test_cells_are_divided_where_there_are_no_donors(here, refused):
    adata = anndata.read_h5ad("a.h5ad")
    adata.obs["donor_id"] = "one"
    adata.write_h5ad("one.h5ad")
    prepare_atlas(Path("one.h5ad"), Path("cells.h5ad"), n_genes=30, min_genes=0, progress=False)
    argv = ("sweep", "cells.h5ad", "--device", "cpu", "--out", "new")
    refused(argv, r"--task cell_type cannot be evaluated here: 1 donors cannot.*; --held_out cells divides the cells")
    assert not Path("new").exists()
    run = sweep(options(held_out="cells", budget_runs=0.4, out=Path("by-cells")))
    assert {r.n for trial in (run.path / "trials").glob("*/*") for r in read_records(trial)} == {60}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"metric": "auroc_cell"}, r"--metric auroc_cell is not measured here; there is balanced_accuracy, macro_f1"),
        ({"task": "age", "metric": "macro_f1"}, "macro_f1 is not measured here; there is spearman_cell, s"),
        (
            {"task": "age", "held_out": "cells", "metric": "spearman_donor"},
            r"spearman_donor is not measured here; there is spearman_cell$",
        ),
        ({"pretrain": {"epochs": 4}}, "--pretrain epochs must be at least 5, because the shortest trainings"),
        ({"pretrain": {"epoch": 9}}, "--pretrain takes no epoch; it takes batch_size, "),
        ({"pretrain": {"mask_ratio": 0.3}}, r"--pretrain takes no mask_ratio \(the sweep decides it\)"),
        ({"pretrain": {"seed": 3}}, r"--pretrain takes no seed \(the sweep decides it\)"),
        ({"pretrain": {"devices": 2}}, r"--pretrain takes no devices \(the sweep decides it\)"),
        ({"pretrain": {"epochs": "many"}}, "--pretrain: .*many"),
        ({"pretrain": {"micro_batch_size": 7}}, "is not a multiple of"),
        ({"pretrain": {"mask_shape": "groups"}}, "--mask_shape groups needs --gene_sets"),
        ({"pretrain": {"mask_shape": "groups", "gene_sets": "no.gmt"}}, r"no\.gmt is not there"),
        ({"probe": {"tasks": ["age"]}}, r"--probe takes no tasks \(the sweep decides it\); it takes max_cells, n_s"),
        ({"probe": {"train_share": 0.01}}, "cannot be evaluated here: 20 donors cannot be divided into training"),
        ({"out": Path("p.h5ad")}, r"p\.h5ad is an input of this command"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_trained(here, monkeypatch, other, message):
    monkeypatch.setattr(module, "pretrain", lambda options: pytest.fail("something is trained"))
    with pytest.raises(UserError, match=message):
        sweep(options(**other))
    assert not Path("sweep").exists()


def labelled(**columns):
    import pandas as pd

    donors = np.repeat([f"d{i:02}" for i in range(20)], 3)
    return pd.DataFrame({"donor": donors, "is_reference": False, **columns})


@pytest.mark.parametrize(
    ("preset", "name", "values", "message"),
    [
        ("hlca", "cell_type", ["T"] * 60, "the training cells of division 0 have one value of 'cell_type': T"),
        ("hlca", "age", [40.0] * 60, "the training cells of division 0 have one value of 'age': 40"),
        ("seaad", "disease", [np.nan] * 60, "no cell has a value in 'disease'"),
    ],
)
def test_a_task_of_one_value_is_refused(preset, name, values, message):
    (task,) = (task for task in TASKS[preset] if task.name == name)
    with pytest.raises(UserError, match=message):
        check_probe(labelled(**{name: values}), task, Protocol())


def test_a_ranking_needs_two_values_among_the_test_cells():
    obs, (task,) = labelled(), (task for task in TASKS["seaad"] if task.name == "disease")
    from r2mae_singlecell.divisions import donor_split

    obs["disease"] = "no"
    train, _ = donor_split(obs, task, Protocol(), 0)
    obs.loc[train[:9], "disease"] = "yes"
    with pytest.raises(UserError, match="the test cells of division 0 have one value of 'disease': no"):
        check_probe(obs, task, Protocol(n_splits=1))


def test_every_kind_of_task_has_metrics_that_tables_rank_by():
    assert {task.kind for tasks in TASKS.values() for task in tasks} == set(METRICS)
    assert {RANK_BY[name] for names in METRICS.values() for name in names} == {"max"}


def test_the_last_command_pretrains_as_the_sweep_did():
    config = Sweep(data=Path("my p.h5ad"), pretrain={"epochs": 7, "compile": False, "lr": 2e-3, "clip": None})
    wanted = "r2mae-singlecell pretrain 'my p.h5ad' --epochs 7 --compile false --lr 0.002 --clip null --mask_ratio 0.4"
    assert pretrain_command(config, "--mask_ratio 0.4") == wanted
    made = pretrain_options(config)
    assert (made.epochs, made.compile, made.lr, made.clip) == (7, False, 2e-3, None)
    assert pretrain_options(Sweep(data=Path("p"), device="cpu", progress=False)).device == "cpu"
