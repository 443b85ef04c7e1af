"""The options of `pretrain` reach the optimizer, the schedule, the loader, the masks and the trainer."""

from dataclasses import fields, replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from r2mae_core import (
    KeepBest,
    PretrainOptions,
    RunFolder,
    StepCheckpoints,
    StepOrder,
    UserError,
    read_json,
    read_metrics,
    scheme,
    write_json,
)
from r2mae_dna.masking import MaskingConfig
from r2mae_dna.model import AlignmentModel
from r2mae_dna.options import Prepare, Pretrain
from r2mae_dna.pretrain import DnaModality, pretrain


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from r2mae_dna.data.build import build_alignment
    from r2mae_dna.data.samples import VERTEBRATES, sample_path
    from r2mae_dna.data.windows import prepare

    home = tmp_path_factory.mktemp("options")
    build_alignment([sample_path(VERTEBRATES)], home / "s", reference="mm9", species=["rn4", "hg18"])
    return prepare(Prepare(home / "s", out=home / "w", window=32, validation_regions="chr10:3,220,001-3,237,798"))


@pytest.fixture
def config(data):
    return Pretrain(
        data, max_windows=24, validation_ratios=(0.1, 0.2, 0.4), mask_ratio="r2mae+cl", ratio_per="micro_batch",
        mask_shape="spans", mean_span=4.0, freeze_steps=2, falls_from="start",
        mask_share=0.7, random_share=0.2, soft_mask_weight=0.3, conservation_weights=False,
        label_flip=0.4, model="tiny", n_hidden=32, n_layers=3, n_heads=4, dropout=0.25, steps=8, batch_size=16,
        micro_batch_size=4, lr=3e-3, warmup=0.5, weight_decay=0.07, clip=0.01, patience=9, keep="last", seed=5,
        device="cpu", precision="bf16-mixed", validate_every=4, checkpoint_every=3, log_every=2, peak_tflops=2.0,
        progress=False, out=Path("run"),
    )  # fmt: skip


class Spy(pl.Callback):
    """Keeps what the trainer was given, and the learning rate and gradients of every step."""

    def __init__(self):
        self.rates, self.batches, self.norms = [], [], []

    def on_train_start(self, trainer, pl_module):
        self.trainer, self.module = trainer, pl_module

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
        self.rates.append((trainer.global_step, *rates))
        self.batches.append(batch)

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        for part in (pl_module.model, pl_module.curriculum):
            found = [p.grad.flatten() for p in part.parameters() if p.grad is not None]
            if found:
                self.norms.append(torch.cat(found).norm().item())


def spied(config, monkeypatch):
    spy, original = Spy(), DnaModality.callbacks
    with monkeypatch.context() as patch:
        patch.setattr(DnaModality, "callbacks", lambda *a: [*original(*a), spy])
        pretrain(config)
    return spy


def test_options_reach_the_optimizer_schedule_loader_and_trainer(config, monkeypatch):
    for field in fields(config):  # every value differs from its default, so that a lost one is noticed
        all_species = ("targets", "mask_over", "species_weights", "others_weight", "tree")  # see test_all_species.py
        if field.name not in ("data", "nodes", "devices", "strategy", "compile", "loss_weight", "logger", *all_species):
            assert getattr(config, field.name) != field.default, field.name
    spy = spied(config, monkeypatch)
    module, trainer = spy.module, spy.trainer
    matrices, rest = trainer.optimizers[0].param_groups
    assert isinstance(trainer.optimizers[0], torch.optim.AdamW)
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.07, 0.0)
    assert matrices["betas"] == (0.9, 0.999)
    names = {id(p): name for name, p in module.named_parameters()}
    decayed = {names[id(p)] for p in matrices["params"]}
    network = {f"model.{name}" for name, p in module.model.named_parameters() if p.ndim == 2}
    assert decayed == network  # neither biases, norms nor the curriculum head
    assert {names[id(p)] for p in rest["params"]} == set(names.values()) - network
    # Four micro-batches a step; a rise over half of the eight steps, then a cosine to zero.
    per_step = dict(spy.rates)
    assert [step for step, _ in spy.rates] == [step for step in range(8) for _ in range(4)]
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 0.853553, 0.5, 0.146447]
    assert [per_step[step] / 3e-3 for step in range(8)] == pytest.approx(expected, rel=1e-5)
    order = StepOrder(2 * len(DnaModality(config).windows), 16, 4, 5)
    first = DnaModality(config).windows.batch(order.batch(0))
    assert all(torch.equal(spy.batches[0][name], values) for name, values in first.items())
    assert all(len(batch["codes"]) == 4 for batch in spy.batches)
    assert max(spy.norms) == pytest.approx(0.01, rel=1e-3)
    assert trainer.max_steps == trainer.global_step == 8
    assert trainer.accumulate_grad_batches == 4
    assert trainer.precision == "bf16-mixed"
    assert trainer.gradient_clip_val == 0.01
    assert trainer.log_every_n_steps == 2
    assert [callback.every for callback in trainer.callbacks if isinstance(callback, StepCheckpoints)] == [3]
    assert trainer.val_check_interval == 4 * 4
    assert sum(len(batch["codes"]) for batch in trainer.val_dataloaders) == 24
    assert {step for step, _ in read_metrics(Path("run/metrics.csv"))["val_loss/ratio_0.4"]} == {3, 7}
    assert module.masking == MaskingConfig(0.7, 0.2, 0.3, False, 0.4, 4.0)
    assert (module.seed, module.ratio_per, module.validation_ratios) == (5, "micro_batch", (0.1, 0.2, 0.4))
    assert module.mask_ratio == replace(scheme("r2mae+cl", "dna", seed=5), freeze_steps=2, falls_from="start")
    shape = module.model.config
    assert (shape.n_species, shape.n_hidden, shape.n_layers, shape.n_heads) == (2, 32, 3, 4)
    assert (shape.intermediate, shape.dropout) == (128, 0.25)
    assert {layer.dropout for layer in module.model.layers} == {0.25}


def test_ratio_per_sample_and_the_loss_weight_reach_the_module(config):
    task = DnaModality(
        replace(config, mask_ratio="r2mae", falls_from=None, ratio_per="sample", loss_weight="inverse_ratio")
    )
    module = task.build(task.sampler())
    assert (module.ratio_per, module.loss_weight) == ("sample", "inverse_ratio")


@pytest.mark.parametrize(
    ("shape", "given", "used"), [("independent", None, None), ("spans", None, 3.0), ("spans", 2, 2)]
)
def test_spans_have_a_usual_length_that_the_run_folder_names(config, shape, given, used):
    task = DnaModality(replace(config, mask_shape=shape, mean_span=given))
    assert task.masking.mean_span == used
    assert task.settings(4) == {"mean_span": used}


def test_a_named_model_and_the_default_micro_batch(config):
    task = DnaModality(replace(config, n_hidden=None, n_layers=None, n_heads=None, model="small"))
    assert (task.shape.n_layers, task.shape.n_hidden, task.shape.n_heads) == (8, 512, 8)
    large = DnaModality(replace(config, batch_size=2048, micro_batch_size=None))
    assert large.micro_batch_size("cpu") == 512
    assert task.title(None).startswith("small on ")


def test_the_start_depends_on_the_seed(config):
    def start(seed):
        task = DnaModality(replace(config, seed=seed))
        module = task.build(task.sampler())
        return module.model.head.dense.weight, next(module.curriculum.parameters())

    (network, head), (same, same_head), (other, other_head) = start(5), start(5), start(6)
    assert torch.equal(network, same)
    assert torch.equal(head, same_head)
    assert not torch.equal(network, other)
    assert not torch.equal(head, other_head)
    assert not torch.equal(network, AlignmentModel(DnaModality(config).shape, 0).head.dense.weight)


def test_the_middle_ratio_decides_on_stopping_and_the_best_model(config):
    task = DnaModality(replace(config, keep="best"))
    best, stop = task.callbacks(RunFolder(Path("x"), {}))
    assert isinstance(best, KeepBest)
    assert isinstance(stop, EarlyStopping)
    assert best.monitor == stop.monitor == "val_loss/ratio_0.2"
    assert stop.mode == "min"
    assert stop.patience == 9
    assert best.file == Path("x/checkpoints/best.ckpt")
    assert DnaModality(replace(config, patience=None)).callbacks(RunFolder(Path("x"), {})) == []


@pytest.mark.parametrize("change", [{"seed": 6}, {"lr": 1e-3}, {"weight_decay": 0.0}, {"dropout": 0.0}])
def test_resuming_with_other_options_is_refused(config, change):
    pretrain(replace(config, steps=2, validate_every=2))
    (name, value), *_ = change.items()
    with pytest.raises(UserError, match=rf"{name} is {getattr(config, name)} there and {value} here"):
        pretrain(replace(config, steps=2, validate_every=2, **change))


def test_data_of_another_digest_are_refused(config, data):
    pretrain(replace(config, steps=2, validate_every=2))
    before = (data / "windows.json").read_bytes()
    try:
        write_json(data / "windows.json", {**read_json(data / "windows.json"), "digest": "0" * 16})
        with pytest.raises(UserError, match="windows_digest is"):
            pretrain(replace(config, steps=2, validate_every=2))
    finally:
        (data / "windows.json").write_bytes(before)


def test_shared_options_are_the_cores():
    own = {field.name for field in fields(Pretrain)}
    assert {field.name for field in fields(PretrainOptions)} <= own
    assert Pretrain(Path("w")).ratio_per == "step"
    with pytest.raises(TypeError, match="positional"):
        Pretrain(Path("w"), "r2mae")
