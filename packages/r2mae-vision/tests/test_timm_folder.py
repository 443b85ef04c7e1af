"""What `export` and `finetune` write is a model of timm's own, and can be evaluated and tuned further here."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

from r2mae_core import UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, build_encoder, open_encoder, save_mae
from r2mae_vision.mae.export import export
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.model_options import Export, Probe
from r2mae_vision.mae.options import Finetune
from r2mae_vision.mae.probe import probe

ARGUMENTS = {"depth": 3, "embed_dim": 48, "num_heads": 3}
DIGITS = MAEShape("vit_tiny_patch16_224", 8, 2, 1, ARGUMENTS, 16, 1, 2, mean=(0.4,), std=(0.3,))
TINY = Finetune(
    "unset", "digits", epochs=1, batch_size=64, auto_augment="none", flip=False, crop_pct=1.0, drop_path=0.1,
    mixup=0.0, cutmix=0.0, erase=0.0, max_train=256, device="cpu", workers=0, progress=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A pretrained model, and the runs fine-tuned from it with each kind of pooling."""
    home = tmp_path_factory.mktemp("runs")
    save_mae(MaskedAutoencoder(DIGITS, seed=2), home / "model")
    for pool in ("avg", "token"):
        finetune(replace(TINY, model=str(home / "model"), pool=pool, out=home / pool))
    return home


@pytest.mark.parametrize(
    "shape",
    [
        MAEShape("vit_tiny_patch16_224", 16, 4, 3, ARGUMENTS, 16, 1, 2, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        DIGITS,
        MAEShape("vit_tiny_patch16_224", 16, 4, 5, ARGUMENTS, 16, 1, 2, mean=(0.1,) * 5, std=(0.4,) * 5),
        MAEShape("vit_tiny_patch16_224", 16, 4, 3, {**ARGUMENTS, "init_values": 0.5, "reg_tokens": 2}, 16, 1, 2),
        MAEShape("vit_tiny_patch16_224", 32, None, 3, {}, 16, 1, 2, positions="learned"),
    ],
)
def test_timm_knows_all_about_an_exported_encoder(tmp_path, shape):
    model = MaskedAutoencoder(shape, seed=4).eval()
    save_mae(model, tmp_path / "run")
    name = f"local-dir:{export(Export(tmp_path / 'run', tmp_path / 'out')) / 'timm'}"
    theirs = timm.create_model(name, pretrained=True).eval()
    images = torch.randn(2, shape.in_chans, shape.image_size, shape.image_size)
    wanted = model.encoder.forward_features(images)
    assert torch.equal(theirs.forward_features(images), wanted)
    data = resolve_model_data_config(theirs)
    assert tuple(data["input_size"]) == (shape.in_chans, shape.image_size, shape.image_size)
    assert (tuple(data["mean"]), tuple(data["std"]), data["interpolation"]) == (shape.mean, shape.std, "bicubic")
    with_head = timm.create_model(name, pretrained=True, num_classes=7).eval()
    assert with_head(images).shape == (2, 7)
    assert torch.equal(with_head.forward_features(images), wanted)
    maps = timm.create_model(name, pretrained=True, features_only=True).eval()(images)
    assert maps[-1].shape[:2] == (2, model.encoder.embed_dim)
    ours = build_encoder(open_encoder(str(tmp_path / "out")), 0, num_classes=0, global_pool="").eval()
    assert torch.equal(ours.forward_features(images), wanted)
    assert open_encoder(str(tmp_path / "out")).shape.mean == shape.mean


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_fine_tuned_run_is_a_model_of_timm(runs, tmp_path, pool):
    out = export(Export(runs / pool, tmp_path / "out"))
    assert not (out / "transformers").exists()
    found = []
    for place in (runs / pool / "seed0", out / "timm"):
        theirs = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
        assert theirs.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]
        assert theirs.pretrained_cfg["crop_pct"] == 1.0
        found.append(theirs(torch.ones(2, 1, 8, 8)))
    assert torch.equal(*found)
    assert (found[0].shape, theirs.global_pool) == ((2, 10), pool)
    records = json.loads((runs / pool / "results.json").read_text())["records"]
    top1 = next(record["value"] for record in records if record["metric"] == "top1")
    from r2mae_vision import open_source

    images, labels = open_source("digits", "val").fetch(range(450))
    with torch.no_grad():
        guessed = theirs((images / 255 - 0.4) / 0.3).argmax(1)
    assert (guessed == labels).double().mean() == pytest.approx(top1)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_fine_tuned_run_is_probed_and_tuned_further(runs, tmp_path, pool):
    spec = open_encoder(str(runs / pool))
    assert spec.scheme == "model, fine-tuned"
    options = {"device": "cpu", "progress": False, "workers": 0, "crop_pct": 1.0}
    run = probe(Probe(str(runs / pool), pool=pool, out=tmp_path / "probe", **options))
    assert {record.scheme for record in run.results()} == {"model, fine-tuned"}
    theirs = timm.create_model(f"local-dir:{runs / pool / 'seed0'}", pretrained=True, num_classes=0).eval()
    ours = build_encoder(spec, 0, num_classes=0, global_pool=pool).eval()
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(ours(images), theirs(images))
    again = finetune(replace(TINY, model=str(runs / pool), pool=pool, out=tmp_path / "again"))
    assert again.results()
    if pool == "avg":
        with pytest.raises(UserError, match=r"was fine-tuned on the mean over patches.*; use --pool avg"):
            probe(Probe(str(runs / pool), pool="token", out=tmp_path / "other", **options))


def test_probing_the_mean_uses_its_norm(runs):
    from r2mae_vision import open_source
    from r2mae_vision.mae.probe import extract_features

    spec, source = open_encoder(str(runs / "avg")), open_source("digits", "val")
    model = build_encoder(spec, 0, num_classes=0, global_pool="avg")
    features, _ = extract_features(model, spec, source, pool="avg", crop_pct=1.0)
    theirs = timm.create_model(f"local-dir:{runs / 'avg' / 'seed0'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        wanted = theirs((source.fetch(range(450))[0] / 255 - 0.4) / 0.3)
    torch.testing.assert_close(features, wanted, atol=1e-5, rtol=1e-4)


def test_damaged_folders_and_several_seeds(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "avg", tmp_path / "run")
    file = tmp_path / "run" / "seed0" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        open_encoder(str(tmp_path / "run"))
    shutil.copytree(tmp_path / "run" / "seed0", tmp_path / "run" / "seed1")
    with pytest.raises(UserError, match=r"has 2 models, one per seed; name one, such as .*seed0"):
        open_encoder(str(tmp_path / "run"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": 3}')
    with pytest.raises(UserError, match=r"config.json is damaged: it does not describe a model of timm"):
        open_encoder(str(tmp_path / "odd"))
