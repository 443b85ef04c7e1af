"""The summary of a run says what the run folder says, and nothing else."""

import csv
import json
import math
import platform
import re
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import pytest

from r2mae_core import Command, Fixed, RatioSampler, Record, Uniform, UserError, run_pretraining, run_summary
from r2mae_core.lab.records import write_records
from r2mae_core.ratio.naming import scheme_in_words
from toy import Toy, ToyPretrain

COMMANDS = {"pretrain": Command(ToyPretrain, "toy:none", "")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("toy")
    np.save(home / "rows.npy", np.random.default_rng(0).normal(size=(50, 6)))
    config = ToyPretrain(
        home / "rows.npy", out=home / "run", device="cpu", progress=False, log_every=2, seed=4, lr=0.02,
        mask_ratio=Uniform(0.2, 0.6, seed=4), ratio_per="micro_batch",
    )  # fmt: skip
    return run_pretraining(Toy, config)


def test_what_the_folder_says(run):
    found = run_summary(run.path, COMMANDS)
    assert (found.program, found.package, found.command) == ("r2mae-toy", "r2mae_toy", "pretrain")
    assert found.scheme == "Uniform(0.2, 0.6)"
    assert found.scheme_in_words == "uniform from 0.2 to 0.6, drawn for each micro-batch (seed 4)"
    assert found.seeds == (4,)
    assert found.finished
    assert found.data == str(run.path.parent / "rows.npy")
    assert found.python == platform.python_version()
    assert found.versions["torch"] == metadata.version("torch")
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.started)
    assert found.device.startswith("cpu")
    assert found.seconds == json.loads((run.path / "results.json").read_text())["records"][0]["seconds"] > 0
    assert found.start is None
    assert dict(found.changed_options) == {
        "data": str(run.path.parent / "rows.npy"), "device": "cpu", "log_every": 2, "lr": 0.02,
        "ratio_per": "micro_batch", "seed": 4,
    }  # fmt: skip
    assert run_summary(run.path).changed_options is None


def test_curves_are_those_of_the_log(run):
    found = run_summary(run.path)
    with run.metrics_file.open() as lines:
        rows = [(row["metric"], int(row["step"]), float(row["value"])) for row in csv.DictReader(lines)]
    assert list(found.loss) == [(step, value) for name, step, value in rows if name == "loss"] != []
    assert list(found.mask_ratio) == [(step, value) for name, step, value in rows if name == "mask_ratio"] != []
    assert list(found.validation) == [0.2, 0.6]
    assert list(found.validation[0.6]) == [(s, value) for name, s, value in rows if name == "val_loss/ratio_0.6"] != []


def test_evaluation_is_mean_and_spread_over_seeds(run):
    rows = run_summary(run.path).evaluation
    assert [(row.metric, row.n_seeds, row.n, row.sd) for row in rows] == [
        ("loss@0.2", 1, 10, None),
        ("loss@0.6", 1, 10, None),
    ]
    assert [row.mean for row in rows] == [record.value for record in run.results()]


def test_several_seeds(tmp_path):
    (tmp_path / "config.yaml").write_text("seeds: [1, 2, 3]\n")
    values = {"accuracy": (0.5, 0.7, 0.9), "f1": (0.5, math.nan, 0.9)}
    write_records(
        tmp_path / "results.json",
        [
            Record("digits", metric, value, "a", seed, 100 if metric == "f1" else seed, split)
            for metric, three in values.items()
            for split in ("test", "validation")
            for seed, value in zip((1, 2, 3), three, strict=True)
        ],
    )
    found = run_summary(tmp_path)
    first, _, third, _ = found.evaluation
    assert (first.split, first.n_seeds, first.n) == ("test", 3, None)
    assert first.mean == pytest.approx(0.7)
    assert first.sd == pytest.approx(0.2)
    assert math.isnan(third.mean)  # a seed that diverged is not left out of a mean
    assert (third.sd, third.n) == (None, 100)
    assert found.seeds == (1, 2, 3)


def test_what_is_not_there_is_none(tmp_path):
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    found = run_summary(tmp_path, COMMANDS)
    missing = ("program", "package", "command", "scheme", "scheme_in_words", "data", "data_digest", "start", "started")
    assert {getattr(found, name) for name in missing} == {None}
    assert {found.seconds, found.device, found.commit, found.python, found.changed_options} == {None}
    empty = (found.seeds, found.metrics, found.evaluation, found.versions, found.sources, found.facts, found.finished)
    assert not any(empty)
    assert not found.loss
    assert not found.validation


@pytest.mark.parametrize(("argv", "program"), [("r2mae-dna", "r2mae-dna"), ("__main__.py", None), ("pytest", None)])
def test_program_of_a_run_that_does_not_note_it(tmp_path, argv, program):
    (tmp_path / "config.yaml").write_text("mask_ratio: r2mae\n")
    (tmp_path / "versions.json").write_text(json.dumps({"argv": [argv, "pretrain"]}))
    found = run_summary(tmp_path)
    assert found.program == program
    assert found.scheme == "r2mae"
    assert (found.scheme_in_words is None) == (program is None)


def test_no_run_and_a_damaged_one(run, tmp_path):
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        run_summary(tmp_path)
    for name in ("config.yaml", "facts.json", "results.json"):
        damaged = (run.path / name).read_text().replace("0.2", "0.3").replace("pretrain", "pretrans")
        (tmp_path / "config.yaml").write_text("lr: 0.1\n")
        (tmp_path / name).write_text(damaged)
        with pytest.raises(UserError, match="damaged or was edited"):
            run_summary(tmp_path)
        (tmp_path / name).unlink()


@dataclass(frozen=True)
class Own(RatioSampler):
    ratio: float = 0.3

    def sample(self, step, total_steps=None):
        return self.ratio

    def bounds(self, step, total_steps=None):
        return self.ratio, self.ratio

    def mean(self, step, total_steps=None):
        return self.ratio

    def describe(self):
        return "my own"


def test_words():
    assert scheme_in_words(Fixed(0.15), {"ratio_per": "step"}) == "fixed at 0.15"
    assert scheme_in_words(Own(), {}) == "my own"
    shape = {"loss_weight": "inverse_ratio", "mask_shape": "span", "mean_span": 3}
    assert (
        scheme_in_words(Uniform(0, 1, 2), {"ratio_per": "sample"})
        == "uniform from 0 to 1, drawn for each sample (seed 2)"
    )
    assert scheme_in_words(0.5, shape) == "fixed at 0.5, loss / ratio, in span 3"
    foreign = {"class_path": "not_here.Mine", "init_args": {"low": 0.25}}
    assert scheme_in_words(foreign, {"ratio_per": "sample"}) == "Mine(0.25) per sample"
