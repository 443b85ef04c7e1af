from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from r2mae_NAME import Pretrain, load_model, pretrain, read_rows
from r2mae_NAME import pretrain as pretrain_module
from r2mae_NAME.pretrain import RowModality

from r2mae_core import UserError, cosine


@pytest.fixture
def config(table, tmp_path):
    return Pretrain(
        table, steps=40, batch_size=32, lr=1e-2, device="cpu", progress=False, out=tmp_path / "run", log_every=5
    )


def test_it_learns_to_predict_what_is_hidden(config):
    untrained = pretrain(replace(config, steps=1, lr=1e-9, out=config.out.with_name("untrained"))).results()
    trained = pretrain(replace(config, steps=200)).results()
    assert [record.metric for record in trained] == ["loss@0.1", "loss@0.3", "loss@0.5", "loss@0.7", "loss@0.9"]
    assert trained[1].value < 0.3 * untrained[1].value


@pytest.mark.parametrize("options", [{}, {"ratio_per": "sample", "loss_weight": "inverse_ratio"}])
def test_an_interrupted_run_resumes_bit_for_bit(config, tmp_path, monkeypatch, options):
    config = replace(config, **options)
    whole = pretrain(config).path

    class PowerCutError(Exception):
        pass

    class Cut(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 21:
                raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(RowModality, "callbacks", lambda self, run: [Cut()])
        with pytest.raises(PowerCutError):
            pretrain(replace(config, out=tmp_path / "cut"))
    resumed = pretrain(replace(config, out=tmp_path / "cut")).path
    a, b = (load_model(run).state_dict() for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_options_reach_the_optimizer_and_its_schedule(config):
    task = RowModality(replace(config, lr=0.3, weight_decay=0.7, warmup=0.5, seed=4))
    module = task.build(task.sampler())
    module.total_steps = lambda: 8
    found = module.configure_optimizers()
    matrices, vectors = found["optimizer"].param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"], module.seed) == (0.7, 0.0, 4)
    factor = found["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in range(8)] == pytest.approx([cosine(step, 8, 0.5) for step in range(8)])


def test_schemes_have_the_ratios_of_this_modality(config):
    task = RowModality(replace(config, mask_ratio="r2mae"))
    assert task.sampler().bounds(0) == (0.1, 0.9)
    assert RowModality(replace(config, mask_ratio="fixed")).sampler().sample(0) == 0.5
    assert pretrain_module is not None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((9, 2), np.nan), "9 rows have a NaN or infinite value, the first of them row 0"),
        (np.zeros(4), "must be a table of numbers"),
        (np.array([["a", "b"]]), "must be a table of numbers"),
    ],
)
def test_bad_files_get_a_message(tmp_path, rows, message):
    np.save(tmp_path / "bad.npy", rows)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "bad.npy")
    with pytest.raises(UserError, match="is not there"):
        read_rows(tmp_path / "missing.npy")
