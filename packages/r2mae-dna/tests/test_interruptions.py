"""A training that is cut off, moved and resumed equals one that never was; a failed start leaves nothing."""

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest

from r2mae_core import UserError, read_metrics
from r2mae_dna.data.windows import prepare
from r2mae_dna.options import Prepare, Pretrain, Probe, Score
from r2mae_dna.pretrain import DnaModality, pretrain
from r2mae_dna.probe import probe
from r2mae_dna.score import score_variants


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def power_cut(config, monkeypatch, step):
    original = DnaModality.callbacks
    with monkeypatch.context() as patch:
        patch.setattr(DnaModality, "callbacks", lambda *a: [*original(*a), StopAt(step)])
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(config)


@pytest.fixture
def small(toy, tmp_path):
    """A training whose validation loss soon rises."""
    prepare(Prepare(toy[0], out=tmp_path / "w", window=16, step=4, validation_regions="7:202-300"))
    return Pretrain(
        tmp_path / "w", mask_ratio="r2mae", n_hidden=32, n_layers=2, n_heads=2, steps=40, batch_size=8,
        micro_batch_size=4, lr=0.3, warmup=0.1, clip=None, checkpoint_every=3, validate_every=2, log_every=1,
        patience=4, max_windows=8, device="cpu", progress=False,
    )  # fmt: skip


def lines(run):
    """Return the log without what depends on the time."""
    found = read_metrics(run.metrics_file).items()
    return {name: values for name, values in found if "per_second" not in name and name not in ("tflops", "mfu")}


def same(a, b):
    assert lines(a) == lines(b)
    assert (a.path / "model" / "model.safetensors").read_bytes() == (
        b.path / "model" / "model.safetensors"
    ).read_bytes()
    assert [(r.metric, r.value) for r in a.results()] == [(r.metric, r.value) for r in b.results()]


def test_a_run_that_is_moved_and_cut_off_again_and_again_keeps_its_best_model(small, monkeypatch):
    whole = pretrain(replace(small, out=Path("whole")))
    losses = read_metrics(whole.metrics_file)["val_loss/ratio_0.15"]
    last = losses[-1][0] + 1  # the step of early stopping
    assert last < 40
    assert min(losses, key=lambda point: point[1]) != losses[-1]
    for i, step in enumerate((1, 4, 5, last - 1)):
        power_cut(replace(small, out=Path(f"cut{i}")), monkeypatch, step)
        Path(f"cut{i}").rename(f"cut{i + 1}")
    same(pretrain(replace(small, out=Path("cut4"))), whole)


def test_a_decision_to_stop_is_not_forgotten(small, monkeypatch):
    config = replace(small, checkpoint_every=1)
    whole = pretrain(replace(config, out=Path("whole")))
    with monkeypatch.context() as patch:
        patch.setattr(DnaModality, "trained", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(replace(config, out=Path("cut")))
    same(pretrain(replace(config, out=Path("cut"))), whole)


def test_a_lost_best_model_is_noticed(small, monkeypatch):
    power_cut(replace(small, out=Path("cut")), monkeypatch, 7)
    Path("cut/checkpoints/best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt, the best model so far, is missing"):
        pretrain(replace(small, out=Path("cut")))


def test_a_start_that_fails_leaves_nothing(small, toy, toy_model, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    bad = toy_model[0] / "model"
    for start in (
        lambda: pretrain(replace(small, out=Path("run"), mask_share=0.9, random_share=0.9)),
        lambda: pretrain(replace(small, out=Path("run"), n_hidden=8, n_heads=2)),
        lambda: pretrain(replace(small, out=Path("run"), micro_batch_size=3)),
        lambda: probe(Probe(bad, tmp_path / "w", split="test", device="cpu", out=Path("run"))),
        lambda: score_variants(Score(str(bad), toy[0], tmp_path / "no.vcf", out=Path("run") / "o.vcf")),
    ):
        with pytest.raises(UserError):
            start()
        assert sorted(path.name for path in tmp_path.iterdir()) == before
