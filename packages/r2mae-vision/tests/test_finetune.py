from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r2mae_core import RunFolder, UserError, fit
from r2mae_vision import MAEShape, build_encoder, open_encoder, open_source, save_mae
from r2mae_vision.mae.classifier import Classifier
from r2mae_vision.mae.encoders import EncoderSpec
from r2mae_vision.mae.finetune import fewer, finetune
from r2mae_vision.mae.inference import accuracy, logits_of
from r2mae_vision.mae.options import Finetune

TINY = Finetune(
    "unset", "digits", epochs=2, warmup=0.25, batch_size=64, base_lr=0.02, auto_augment="none", flip=False,
    crop_scale=(0.8, 1.0), crop_pct=1.0, drop_path=0.0, mixup=0.0, cutmix=0.0, erase=0.0, layer_decay=0.9,
    device="cpu", workers=0, progress=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    from r2mae_vision import MaskedAutoencoder

    shape = MAEShape(
        "vit_tiny_patch16_224",
        8,
        2,
        1,
        {"depth": 2, "embed_dim": 48, "num_heads": 3},
        16,
        1,
        2,
        mean=(0.5,),
        std=(0.5,),
    )
    return save_mae(MaskedAutoencoder(shape, seed=2), tmp_path_factory.mktemp("start"))


def test_fine_tuning_learns_the_digits(start, tmp_path):
    run = finetune(replace(TINY, model=str(start), epochs=12, out=tmp_path / "run"))
    results = {record.metric: record.value for record in run.results()}
    assert results["top1"] > 0.6  # chance is 0.1
    assert results["top5"] > results["top1"]
    again = finetune(replace(TINY, model=str(start), epochs=12, out=tmp_path / "run"))  # finished: read, not done again
    assert again.results() == run.results()


@pytest.mark.parametrize("extras", [{}, {"mixup": 0.8, "cutmix": 1.0, "erase": 0.5, "drop_path": 0.2, "ema": 0.9}])
def test_a_resumed_fine_tuning_equals_an_uninterrupted_one(start, tmp_path, monkeypatch, extras):
    import lightning.pytorch as pl
    from safetensors.torch import load_file

    import r2mae_vision.mae.finetune as room

    class PowerCutError(Exception):
        pass

    class CutAt(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 25:
                raise PowerCutError

    config = replace(TINY, model=str(start), auto_augment="rand-m9-mstd0.5-inc1", checkpoint_every=10, **extras)
    whole = finetune(replace(config, out=tmp_path / "whole"))

    def cut(*args, **kwargs):
        kwargs["callbacks"] = [*kwargs["callbacks"], CutAt()]
        return fit(*args, **kwargs)

    monkeypatch.setattr(room, "fit", cut)
    with pytest.raises(PowerCutError):
        finetune(replace(config, out=tmp_path / "cut"))
    monkeypatch.setattr(room, "fit", fit)
    resumed = finetune(replace(config, out=tmp_path / "cut"))
    first, second = (load_file(run.path / "seed0" / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    values = {(record.metric, record.value) for record in whole.results()}
    assert values == {(record.metric, record.value) for record in resumed.results()}
    assert {record.metric for record in whole.results()} == (
        {"top1", "top5", "top1_ema", "top5_ema"} if extras else {"top1", "top5"}
    )


def test_a_loss_that_is_not_finite_stops_fine_tuning(start, tmp_path):
    with pytest.raises(UserError, match=r"the loss is NaN or infinite from step \d+ on; lower the learning rate"):
        finetune(replace(TINY, model=str(start), base_lr=1e38, out=tmp_path / "run"))
    assert not (tmp_path / "run" / "parts").exists()


def test_the_parts_of_a_step_are_one_step(start, tmp_path):
    """Without randomness in training, accumulation changes neither weights, nor their average, nor the logged loss."""
    from safetensors.torch import load_file

    from r2mae_core import read_metrics

    config = replace(TINY, model=str(start), crop_scale=(1.0, 1.0), ema=0.5, max_train=128, base_lr=0.002)
    found = []
    for micro in (64, 16):
        home = tmp_path / str(micro)
        run = finetune(replace(config, micro_batch_size=micro, out=home))
        losses = read_metrics(home / "seed0" / "metrics.csv")["loss"]
        assert len(losses) == 1  # four steps: the last one is logged
        found.append((load_file(home / "seed0" / "model_ema.safetensors"), losses[0], run))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], rtol=1e-3, atol=1e-5)
    assert found[0][1] == (4, pytest.approx(found[1][1][1], rel=1e-3))
    with pytest.raises(UserError, match="micro_batch_size is 16 there and 64 here"):
        finetune(replace(config, micro_batch_size=64, out=tmp_path / "16"))


def test_a_fine_tuned_model_opens_in_timm(start, tmp_path):
    import timm

    finetune(replace(TINY, model=str(start), max_train=64, epochs=1, out=tmp_path / "run"))
    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'seed0'}", pretrained=True)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_layers_have_the_learning_rates_of_the_recipe(start):
    """The deepest layer learns fastest; each below by the decay less (He et al., 2022, after BEiT)."""
    spec = open_encoder(str(start))
    model = build_encoder(spec, 0, num_classes=10, global_pool="avg")
    config = replace(TINY, layer_decay=0.5, base_lr=1.0, batch_size=256)
    module = Classifier(model, spec, config, seed=0)
    module._trainer = SimpleNamespace(estimated_stepping_batches=100)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rate = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert rate[id(model.head.weight)] == pytest.approx(1.0)
    assert rate[id(model.blocks[1].mlp.fc1.weight)] == pytest.approx(0.5)
    assert rate[id(model.blocks[0].mlp.fc1.weight)] == pytest.approx(0.25)
    assert rate[id(model.patch_embed.proj.weight)] == pytest.approx(0.125)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.blocks[0].mlp.fc1.weight)] == 0.05
    assert decay[id(model.blocks[0].mlp.fc1.bias)] == decay[id(model.cls_token)] == 0.0


def test_accuracy_is_what_the_logits_say(start):
    store = open_source("digits", "val")

    class Oracle(torch.nn.Module):
        """Right for the first hundred images, second-best for the next, wrong for the rest."""

        def __init__(self):
            super().__init__()
            self.n = 0

        def forward(self, images):
            labels = torch.from_numpy(store.labels[self.n : self.n + len(images)])
            position = torch.arange(self.n, self.n + len(images))
            self.n += len(images)
            logits = torch.zeros(len(images), 10)
            logits[torch.arange(len(images)), labels] = torch.where(
                position < 100, 3.0, torch.where(position < 200, 1.0, -1.0)
            )
            logits[torch.arange(len(images)), (labels + 1) % 10] = 2.0
            return logits

    values = accuracy(logits_of(Oracle(), open_encoder(str(start)), store, crop_pct=1.0, device="cpu", batch_size=64))
    assert values["top1"] == pytest.approx(100 / 450)
    assert values["top5"] >= 200 / 450  # others tie at zero
    assert values["unreadable"] == 0


def test_encoders_come_from_everywhere(start, tmp_path):
    from r2mae_vision import export_timm, load_mae

    mae = load_mae(start)
    images = torch.randn(2, 1, 8, 8)
    wanted = mae.encoder.eval().forward_features(images)
    ours = build_encoder(open_encoder(str(start)), 0, num_classes=0, global_pool="").eval()
    assert torch.equal(ours.forward_features(images), wanted)
    scratch = open_encoder(f"scratch:{start}")
    assert (scratch.weights, scratch.scheme) == (None, "no pretraining")
    drawn = [build_encoder(scratch, seed, num_classes=10).head.weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    learned = replace(open_encoder(str(start)), weights=None, shape=replace(mae.shape, positions="learned"))
    first, again = (build_encoder(learned, 0, num_classes=10).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    file = export_timm(mae, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="name the VisionTransformer of timm that it is, with --timm_model"):
        open_encoder(str(file))
    with pytest.raises(UserError, match=r"of another size: .*; choose the model, patch size"):
        build_encoder(open_encoder(str(file), "vit_tiny_patch16_224"), 0, num_classes=0)
    assert open_encoder(str(file), "vit_tiny_patch16_224").shape.mean == (0.485, 0.456, 0.406)  # not timm's 0.5
    assert open_encoder(str(file), "vit_tiny_patch16_224", mean=(0.5,) * 3).shape.mean == (0.5,) * 3
    with pytest.raises(UserError, match=r"do not fit 1 channels"):
        open_encoder(str(start), mean=(0.5,) * 3)
    with pytest.raises(UserError, match="resnet18"):
        build_encoder(open_encoder("scratch:resnet18"), 0, num_classes=10)
    lacking = EncoderSpec(mae.shape, {k: v for k, v in mae.encoder.state_dict().items() if "blocks.1" not in k}, "x")
    with pytest.raises(
        UserError, match=r"the weights of x: missing: encoder.blocks.1.* and 11 more of the model's encoder"
    ):
        build_encoder(lacking, 0, num_classes=0)
    larger = open_encoder(str(start), image_size=12)
    assert build_encoder(larger, 0, num_classes=0).pos_embed.shape == (1, 37, 48)
    for name, message in (
        ("no_such_model", "neither a folder nor a file nor a model of timm"),
        ("a/b.pth", "no model at a/b.pth"),
    ):
        with pytest.raises(UserError, match=message):
            open_encoder(name)
    with pytest.raises(UserError, match="no finished model"):
        open_encoder(str(tmp_path))


def test_fewer_images_are_drawn_by_the_seed():
    store = open_source("digits", "train")
    some = [fewer(store, 50, seed) for seed in (0, 0, 1)]
    assert np.array_equal(some[0].images, some[1].images)
    assert not np.array_equal(some[0].images, some[2].images)
    assert fewer(store, 10**6, 0) is store


def test_two_ranks_fine_tune_as_one_that_accumulates(start, tmp_path):
    """Augmentation, mixup, erasing and stochastic depth depend on the image and the part of the step alone."""
    import importlib.util
    import shutil
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).with_name("two_ranks.py")
    shutil.copytree(start, tmp_path / "start")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*launcher, str(script), "finetune", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    spec = importlib.util.spec_from_file_location("vision_two_ranks", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    alone = module.tuned(tmp_path / "start", tmp_path / "one")
    for first, second, one in zip(*ranks, alone, strict=True):  # the two seeds
        for name, value in one.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=2e-5)
    records = [RunFolder.open(tmp_path / name).results() for name in ("one", "two")]
    assert len(records[1]) == 2 * 4  # written once
    assert [(r.metric, r.seed) for r in records[1]] == [(r.metric, r.seed) for r in records[0]]
    assert [r.value for r in records[1]] == pytest.approx([r.value for r in records[0]], abs=0.01)


def test_mixup_needs_even_batches(start, tmp_path):
    with pytest.raises(UserError, match="mixup needs an even number of images at once, not 3"):
        finetune(replace(TINY, model=str(start), mixup=0.8, batch_size=63, micro_batch_size=3, out=tmp_path / "r"))
