from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_core.training import train
from r2mae_vision import MAEShape, build_encoder, open_encoder, open_source, save_mae
from r2mae_vision.encoders import EncoderSpec
from r2mae_vision.finetune import Classifier, accuracy, fewer, finetune
from r2mae_vision.options import Finetune

TINY = Finetune(
    "unset", "digits", epochs=2, warmup_epochs=0.5, batch_size=64, base_lr=0.02, auto_augment="none", flip=False,
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

    import r2mae_vision.finetune as room

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
        return train(*args, **kwargs)

    monkeypatch.setattr(room, "train", cut)
    with pytest.raises(PowerCutError):
        finetune(replace(config, out=tmp_path / "cut"))
    monkeypatch.setattr(room, "train", train)
    resumed = finetune(replace(config, out=tmp_path / "cut"))
    first, second = (load_file(run.path / "seed0" / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    values = {(record.metric, record.value) for record in whole.results()}
    assert values == {(record.metric, record.value) for record in resumed.results()}
    assert {record.metric for record in whole.results()} == (
        {"top1", "top5", "top1_ema", "top5_ema"} if extras else {"top1", "top5"}
    )


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

    values = accuracy(Oracle(), open_encoder(str(start)), store, crop_pct=1.0, device="cpu", batch_size=64)
    assert values["top1"] == pytest.approx(100 / 450)
    assert values["top5"] >= 200 / 450
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
    file = export_timm(mae, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="say which VisionTransformer of timm it is, with --timm_model"):
        open_encoder(str(file))
    with pytest.raises(
        UserError, match=r"of another size: .* in vit_tiny_patch16_224; choose the model and patch size"
    ):
        build_encoder(open_encoder(str(file), "vit_tiny_patch16_224"), 0, num_classes=0)
    lacking = EncoderSpec(mae.shape, {k: v for k, v in mae.encoder.state_dict().items() if "blocks.1" not in k}, "x")
    with pytest.raises(UserError, match=r"the weights of x lack blocks.1.* and 11 more of vit_tiny"):
        build_encoder(lacking, 0, num_classes=0)
    larger = open_encoder(str(start), image_size=12)
    assert build_encoder(larger, 0, num_classes=0).pos_embed.shape == (1, 37, 48)
    for name, message in (
        ("no_such_model", "no folder, no file and no model of timm"),
        ("a/b.pth", "no model at a/b.pth"),
    ):
        with pytest.raises(UserError, match=message):
            open_encoder(name)
    with pytest.raises(UserError, match="holds no finished model"):
        open_encoder(str(tmp_path))


def test_fewer_images_are_drawn_by_the_seed():
    store = open_source("digits", "train")
    some = [fewer(store, 50, seed) for seed in (0, 0, 1)]
    assert np.array_equal(some[0].images, some[1].images)
    assert not np.array_equal(some[0].images, some[2].images)
    assert fewer(store, 10**6, 0) is store


def test_mixup_needs_even_batches(start, tmp_path):
    with pytest.raises(UserError, match="mixup needs an even number of images at once, not 3"):
        finetune(replace(TINY, model=str(start), mixup=0.8, batch_size=63, micro_batch_size=3, out=tmp_path / "r"))
