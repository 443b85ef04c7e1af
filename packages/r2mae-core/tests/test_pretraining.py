from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from r2mae_core import Throughput, UserError, cosine, read_metrics, run_identities, run_identity, run_pretraining
from r2mae_core.train import pretraining
from tiny import start
from toy import Toy, ToyModule, ToyPretrain


@pytest.fixture
def config(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(50, 6)))
    return ToyPretrain(tmp_path / "rows.npy", device="cpu", progress=False, out=tmp_path / "run", log_every=1)


def model_of(run):
    return (run.path / "model" / "net.txt").read_text()


def test_a_run_has_its_model_results_config_and_facts(config, capsys):
    run = run_pretraining(Toy, config, talk=True)
    records = run.results()
    assert [(r.metric, r.scheme, r.seed, r.n, r.split) for r in records] == [
        ("loss@0.2", "r2mae", 0, 10, "validation"),
        ("loss@0.6", "r2mae", 0, 10, "validation"),
    ]
    assert all(record.device.startswith("cpu (") and record.seconds > 0 for record in records)
    assert run.config["mask_ratio"]["class_path"] == "r2mae_core.Uniform"
    assert run.facts["sum"] != 0
    out = capsys.readouterr().out
    assert "Pretraining a toy on rows.npy, mask ratio uniform from 0.6 to 0.9" in out
    assert f"Loss on held-out data by mask ratio: {records[0].value:.4f} at 0.2" in out
    assert "Next: r2mae-toy compare" in out
    assert read_metrics(run.metrics_file)["rows_per_second"]


def test_a_finished_run_is_not_trained_again(config, monkeypatch):
    before = model_of(run_pretraining(Toy, config))
    monkeypatch.setattr(pretraining, "fit", None)  # would fail if it were called
    assert model_of(run_pretraining(Toy, config)) == before


def test_the_division_of_a_step_changes_neither_ratios_nor_samples(config, tmp_path):
    whole = run_pretraining(Toy, config)
    parts = run_pretraining(Toy, replace(config, micro_batch_size=4, out=tmp_path / "parts"))
    ratios = [read_metrics(run.metrics_file)["mask_ratio"] for run in (whole, parts)]
    assert ratios[0] == ratios[1]
    assert model_of(whole) != model_of(parts)  # each micro-batch has masks of its own


def test_options_reach_the_trainer(config, monkeypatch):
    seen = {}

    def fit(module, loader, run, **arguments):
        seen.update(arguments, module=module, loader=loader)
        raise UserError("enough")

    monkeypatch.setattr(pretraining, "fit", fit)
    monkeypatch.setattr(pretraining, "check_tracker", lambda tracker: None)  # whether it is installed or not
    given = {"steps": 40, "batch_size": 16, "micro_batch_size": 4, "clip": 0.7, "precision": "bf16-mixed", "seed": 5}
    with pytest.raises(UserError, match="enough"):
        run_pretraining(Toy, replace(config, **given, nodes=2, log_every=3, logger="tensorboard"))
    assert seen["max_steps"] == 40
    assert seen["accumulate_grad_batches"] == 2  # 16 samples in micro-batches of 4 on two machines
    assert (seen["gradient_clip_val"], seen["precision"], seen["num_nodes"]) == (0.7, "bf16-mixed", 2)
    assert (seen["tracker"], seen["project"]) == ("tensorboard", "r2mae-toy")
    assert (seen["checkpoint_every"], seen["validate_every"], seen["log_every"]) == (4, 4, 3)
    assert seen["loader"]._rest.order.seed == 5
    assert seen["module"].seed == 5
    (speed,) = [c for c in seen["callbacks"] if isinstance(c, Throughput)]
    assert (speed.samples_per_step, speed.unit) == (16, "rows")


def test_adamw_has_the_rates_decays_and_schedule_of_the_options(config):
    task = Toy(replace(config, lr=0.3, weight_decay=0.7, warmup=0.5))
    module = task.build(task.sampler())
    module.total_steps = lambda: 8
    found = module.configure_optimizers()
    optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
    assert found["lr_scheduler"]["interval"] == "step"
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.7, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.3 * cosine(step, 8, 0.5) for step in range(8)])
    assert rates[:5] == pytest.approx([0.06, 0.12, 0.18, 0.24, 0.3])  # four steps of warm-up
    assert rates[6] == pytest.approx(0.15)  # half way down


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.5}, {"mask_ratio": 0.3}, {"steps": 13}])
def test_a_run_does_not_resume_as_another(config, change):
    run_pretraining(Toy, config)
    with pytest.raises(UserError, match=f"{next(iter(change))}.* is .* there and .* here"):
        run_pretraining(Toy, replace(config, **change))


def test_a_run_does_not_resume_on_other_data(config):
    run_pretraining(Toy, config)
    np.save(config.data, np.ones((50, 6)))
    with pytest.raises(UserError, match=r"sum is .* there and 300\.0 here"):
        run_pretraining(Toy, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compile": True, "strategy": "fsdp"}, "--compile together with --strategy fsdp"),
        ({"devices": 0}, "--devices must be at least 1, got 0"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"steps": -1}, "--steps must be at least 1, got -1"),
        ({"checkpoint_every": 0}, "--checkpoint_every must be at least 1, got 0"),
        ({"validate_every": 0}, "--validate_every must be at least 1, got 0"),
        ({"batch_size": 64}, "40 samples do not fill a batch of 64"),
        ({"micro_batch_size": 3}, "--batch_size 8 is not a multiple of --micro_batch_size 3"),
        ({"mask_ratio": "cl"}, "vision models have no curriculum weights"),
        ({"mask_ratio": "nope"}, "unknown mask scheme 'nope'"),
        ({"warmup": 1.5}, "--warmup must be at least 0 and at most 1, got 1.5"),
        ({"device": "cuda"}, "'cuda' was requested"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(config, change, message):
    with pytest.raises(UserError, match=message):
        run_pretraining(Toy, replace(config, **change))
    assert not config.out.exists()


def test_a_full_gpu_names_the_option(config, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried 3 GiB")

    monkeypatch.setattr(ToyModule, "masked_loss", full)
    with pytest.raises(UserError, match=r"Tried 3 GiB\); lower --micro_batch_size"):
        run_pretraining(Toy, config)


@pytest.mark.parametrize("option", [{"ratio_per": "sample"}, {"loss_weight": "inverse_ratio"}])
def test_an_option_that_the_modality_does_not_hand_on_is_refused(config, tmp_path, option):
    class Deaf(Toy):
        def build(self, sampler):
            self.config = replace(self.config, ratio_per="step")
            return super().build(sampler)

    name, value = next(iter(option.items()))
    with pytest.raises(UserError, match=f"--{name} {value} is not heeded by r2mae-toy's model"):
        run_pretraining(Deaf, replace(config, out=tmp_path / "deaf", **option))
    assert not (tmp_path / "deaf").exists()


def test_runs_say_their_scheme_and_seed_and_are_not_mixed_up(config, tmp_path):
    first = run_pretraining(Toy, config).path
    second = run_pretraining(Toy, replace(config, mask_ratio=0.75, seed=3, out=tmp_path / "b")).path
    assert run_identity(first, "vision") == ("r2mae", 0)
    assert run_identities([first, second], "vision") == {first: ("r2mae", 0), second: ("fixed 0.75", 3)}
    twin = run_pretraining(Toy, replace(config, out=tmp_path / "c")).path
    with pytest.raises(UserError, match="two runs of r2mae with the same options and seed 0"):
        run_identities([first, twin], "vision")
    with pytest.raises(UserError, match="is not a run folder"):
        run_identity(tmp_path, "vision")


def test_two_ranks_make_one_run(config, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start(*words, str(Path(__file__).with_name("toy.py")), str(config.data), str(tmp_path / "two"))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    ratios = read_metrics(tmp_path / "two" / "metrics.csv")["mask_ratio"]
    assert ratios == read_metrics(run_pretraining(Toy, config).metrics_file)["mask_ratio"]
    assert (tmp_path / "two" / "model" / "net.txt").exists()


def test_gradients_are_clipped_in_mixed_precision_by_a_fused_optimizer(config):
    """Lightning refuses it, unless told that bfloat16 is not scaled."""
    run = run_pretraining(Toy, replace(config, clip=0.5, precision="bf16-mixed", steps=3))
    assert len(run.results()) == 2
