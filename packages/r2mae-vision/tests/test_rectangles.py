"""Images that are no squares: store, crops, positions, loss, masks, the whole way from `prepare` to `export`."""

import json
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from r2mae_core import UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, build_encoder, load_mae, open_encoder, open_source, save_mae
from r2mae_vision.cli import with_sizes
from r2mae_vision.data.augment import RandomCrop, centre_crop, random_resized_crop
from r2mae_vision.data.datasets import least_side, sample_images
from r2mae_vision.data.decoding import fitted, reframed
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.mae.export import export
from r2mae_vision.mae.finetune import finetune, train_transform
from r2mae_vision.mae.fitting import load_published
from r2mae_vision.mae.inference import eval_transform
from r2mae_vision.mae.masking import patch_order, split_mask
from r2mae_vision.mae.model import take
from r2mae_vision.mae.model_options import Export, Predict, Probe, Reconstruct
from r2mae_vision.mae.options import Finetune, Pretrain
from r2mae_vision.mae.positions import fit_positions
from r2mae_vision.mae.predict import predict
from r2mae_vision.mae.pretrain import VisionModality, pretrain, worker_transform
from r2mae_vision.mae.probe import probe
from r2mae_vision.mae.reconstruct import reconstruct
from r2mae_vision.mae.shape import sincos_positions
from r2mae_vision.mae.sharing import write_model
from r2mae_vision.options import Prepare

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
WIDE = MAEShape("vit_tiny_patch16_224", (8, 32), 4, 3, SMALL, 32, 2, 4)
TALL = replace(WIDE, image_size=(32, 8))
TINY = Pretrain(
    "unset", model="vit_tiny_patch16_224", model_args={**SMALL, "depth": 1, "embed_dim": 24}, image_size=(8, 16),
    patch_size=4, decoder_dim=16, decoder_depth=1, decoder_heads=2, epochs=3, batch_size=8, micro_batch_size=4,
    lr=3e-3, checkpoint_every=2, mask_shape="blocks", device="cpu", workers=0, progress=False,
)  # fmt: skip
SETTLED = {"crop_pct": 1.0, "device": "cpu", "workers": 0, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of 40 x 60 pixels whose red rises along x and whose green rises along y; blue tells the class."""
    home = tmp_path_factory.mktemp("pictures")
    for split, n in (("train", 12), ("val", 4)):
        for blue, name in ((40, "dark"), (220, "light")):
            (home / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(ramps(40, 60, blue + i)).save(home / split / name / f"{i}.png")
    return home


def ramps(height, width, blue=0):
    """Four grey values a pixel, along x in red and along y in green."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 4 * y, np.full_like(x, blue)], axis=2).astype(np.uint8)


def steps(image):
    """Return how many pixels of the original one pixel of (3, H, W) is wide and high, by its ramps."""
    image = np.asarray(image, float)
    inner = slice(2, -2)
    return (
        abs(np.polyfit(range(image.shape[2])[inner], image[0].mean(0)[inner], 1)[0]) / 4,
        abs(np.polyfit(range(image.shape[1])[inner], image[1].mean(1)[inner], 1)[0]) / 4,
    )


def test_two_numbers_after_the_option_are_height_and_width():
    assert with_sizes(["pretrain", "x", "--image_size", "224", "448", "--flip", "false"]) == [
        "pretrain", "x", "--image_size", "[224,448]", "--flip", "false",
    ]  # fmt: skip
    assert with_sizes(["--image_size", "224", "448"])[-1] == "[224,448]"
    for same in (["--image_size", "32", "folder"], ["--image_size", "32"], ["--image_size=32", "64"], ["1", "2"]):
        assert with_sizes(same) == same
    assert replace(TINY, image_size=(16, 16)) == replace(TINY, image_size=16)  # one experiment, not two
    assert MAEShape(image_size=(16, 16)) == MAEShape(image_size=16)
    with pytest.raises(UserError, match=r"--image_size must be at least 1"):
        replace(TINY, image_size=(0, 16))


def test_the_encoder_and_the_loss_are_those_of_timm_and_transformers():
    """transformers refuses rectangles only where it cuts them into patches for the loss: 2 x 8 patches."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    from r2mae_vision.mae.layouts import to_transformers

    model = MaskedAutoencoder(WIDE, seed=3).eval()
    images = torch.randn(3, 3, 8, 32)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=(8, 32), patch_size=4, num_classes=0, **SMALL).eval()
    plain.load_state_dict(model.encoder.state_dict())
    every = torch.arange(16).expand(3, -1)
    with torch.no_grad():
        wanted = plain.forward_features(images)
        torch.testing.assert_close(model.encode(model.patchify(images), every), wanted, atol=2e-5, rtol=1e-4)
    assert torch.equal(model.unpatchify(model.patchify(images)), images)

    config = ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192, image_size=(8, 32),
        patch_size=4, decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=128, norm_pix_loss=True, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = ViTMAEForPreTraining(config).eval()
    named = {}
    for name, value in model.state_dict().items():
        named |= to_transformers(name, value)
    own = theirs.state_dict()
    renamed = {name.replace("vit.encoder.layer", "vit.layers"): value for name, value in named.items()}
    for old, new in (
        ("attention.attention.query", "attention.q_proj"), ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"), ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
    ):  # fmt: skip
        renamed = {name.replace(old, new): value for name, value in renamed.items()}
    assert set(renamed) == set(own)
    theirs.load_state_dict(renamed)
    cut = theirs.patchify
    theirs.patchify = lambda pixels, **_: cut(pixels, interpolate_pos_encoding=True)
    with torch.no_grad():
        out = theirs(images, noise=torch.rand(3, 16))
        loss, predicted = model(images, split := split_mask(out.mask.bool()))
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-5)
    torch.testing.assert_close(predicted, take(out.logits, split.hidden), atol=1e-5, rtol=1e-5)


def test_positions_have_rows_and_columns():
    wide, tall = (sincos_positions(24, grid)[0] for grid in ((2, 8), (8, 2)))
    assert torch.equal(wide.view(2, 8, 24)[1, 5, :12], sincos_positions(24, (8, 8))[0].view(8, 8, 24)[1, 5, :12])
    assert torch.equal(wide.view(2, 8, 24)[1, 5, 12:], sincos_positions(24, (8, 8))[0].view(8, 8, 24)[1, 5, 12:])
    assert not torch.allclose(wide, tall)


def test_masks_in_blocks_are_rectangles_of_the_grid():
    order = patch_order(64, (4, 16), torch.Generator().manual_seed(0), "blocks", (0.25, 0.25))
    for row in order[:, :8]:  # the first block has about sixteen patches, which lie side by side
        y, x = row // 16, row % 16
        assert (y.max() - y.min() + 1) * (x.max() - x.min() + 1) <= 20


@pytest.mark.parametrize("model_args", [SMALL, {**SMALL, "reg_tokens": 2}, {**SMALL, "class_token": False}])
def test_positions_are_resampled_on_both_axes(tmp_path, model_args, capsys):
    """Wide to tall has as many patches: they must not be taken as they are."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    wide, tall = (replace(shape, model_args=model_args, positions="learned") for shape in (WIDE, TALL))
    model = MaskedAutoencoder(wide, seed=3)
    save_mae(model, tmp_path / "run" / "model")
    n_prefix = 0 if model.encoder.no_embed_class else model.encoder.num_prefix_tokens
    wanted = resample_abs_pos_embed(model.encoder.pos_embed, [8, 2], [2, 8], num_prefix_tokens=n_prefix)
    assert not torch.allclose(wanted, model.encoder.pos_embed, atol=1e-3)
    turned = MaskedAutoencoder(tall)
    load_published(tmp_path / "run", turned)
    assert torch.equal(turned.encoder.pos_embed, wanted)
    if "class_token" not in model_args:
        built = build_encoder(open_encoder(str(tmp_path / "run"), image_size=(32, 8)), 0, num_classes=0)
        assert torch.equal(built.pos_embed, wanted)
    exported = export(Export(tmp_path / "run", tmp_path / "out"))
    for place in (exported, exported / "timm"):
        spec = open_encoder(str(place), image_size=(32, 8))
        assert torch.equal(build_encoder(spec, 0, num_classes=0, global_pool="").pos_embed, wanted)
    assert "does not state" not in capsys.readouterr().out


def test_a_file_that_does_not_state_its_grid(tmp_path, capsys):
    wide = MaskedAutoencoder(replace(WIDE, positions="learned"), seed=3)
    save_file(wide.encoder.state_dict(), tmp_path / "w.safetensors")
    say_once.cache_clear()
    load_published(tmp_path / "w.safetensors", MaskedAutoencoder(WIDE))
    assert "its 16 positions are taken for 4 x 4 patches" in capsys.readouterr().out  # as everybody does
    positions = torch.randn(1, 18, 8)
    assert torch.equal(fit_positions(positions, (3, 6), 0, "f"), positions)
    assert "f does not state the shape of its images: its 18 positions are taken for 3 x 6" in capsys.readouterr().out
    with pytest.raises(UserError, match="positions for 18 patches, which do not form a square"):
        fit_positions(positions, (4, 6), 0, "f")
    with pytest.raises(UserError, match="positions for 18 patches, but states images of 4 x 4"):
        fit_positions(positions, (4, 6), 0, "f", (4, 4))


def test_sizes_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="image size 8 x 30 is not a multiple of vit_tiny_patch16_224's patch size 4"):
        MaskedAutoencoder(replace(WIDE, image_size=(8, 30)))
    save_mae(MaskedAutoencoder(WIDE), tmp_path)
    with pytest.raises(UserError, match="image size 10 x 32 is not a multiple of"):
        build_encoder(open_encoder(str(tmp_path), image_size=(10, 32)), 0)
    stated = json.loads((tmp_path / "mae.json").read_text())
    for odd in ([8], [8, 0], [8, 8, 8], "8", True):
        with pytest.raises(UserError, match="image_size is"):
            MAEShape.of({**{k: v for k, v in stated.items() if k in MAEShape().plain()}, "image_size": odd})


def test_crops_keep_the_proportions_of_the_picture():
    """Whatever the picture's proportions: an object is not made wider or higher than random crops make it."""
    picture, size = Image.fromarray(ramps(60, 50)), (8, 24)
    shape = replace(WIDE, image_size=size)
    tuning = Finetune("x", "x", auto_augment="none", crop_scale=(0.2, 0.3))
    transforms = [
        train_transform(tuning, shape),
        worker_transform(replace(TINY, image_size=size, crop_scale=(0.2, 0.3))),
    ]
    crop = RandomCrop(size, (0.2, 0.3), True)
    transforms.append(lambda image: crop(image, torch.Generator().manual_seed(int(torch.randint(999, ())))))
    batch = torch.from_numpy(ramps(60, 50)).permute(2, 0, 1)[None]
    generator = torch.Generator().manual_seed(1)
    transforms.append(lambda _: random_resized_crop(batch, size, generator, scale=(0.2, 0.3))[0])
    torch.manual_seed(0)
    for transform in transforms:
        crops = [np.asarray(transform(picture)) for _ in range(40)]
        assert crops[0].shape == (3, *size)
        wide, high = np.array([steps(one) for one in crops]).T
        ratio = wide / high
        assert 0.7 < ratio.min() < 0.9 < 1.1 < ratio.max() < 1.42
        assert 0.18 * 3000 < (wide * high).mean() * 8 * 24 < 0.32 * 3000
    for middle in (
        eval_transform(size, 1.0)(picture),
        pixels_of(reframed(picture, size, "crop")),
        centre_crop(batch, size)[0],
    ):
        assert steps(middle) == pytest.approx((50 / 24, 50 / 24), rel=0.05)
        assert np.asarray(middle, float)[1].mean() == pytest.approx(4 * 29.5, abs=4.5)  # the middle, to half a pixel
    assert least_side((8, 32), 0.5) == int(np.ceil((8 * 32 / 0.375) ** 0.5))


def pixels_of(picture):
    return np.asarray(picture).transpose(2, 0, 1)


def test_stores_of_rectangles(folder, tmp_path):
    small = prepare(Prepare(str(folder), image_size=(8, 24), out=tmp_path / "crop", workers=0, progress=False))
    index = json.loads((small / "train" / "store.json").read_text())
    assert (index["side"], index["n_images"]) == ([8, 24], 24)
    train = open_source(str(small))
    assert (train.size, train.images.shape) == ((8, 24), (24, 8, 24, 3))
    assert "of 8 x 24 in 2 classes" in train.identity["images"]
    assert steps(train.images[0].transpose(2, 0, 1)) == pytest.approx((2.5, 2.5), rel=0.03)
    squashed = prepare(
        Prepare(str(folder), image_size=(10, 30), fit="squash", out=tmp_path / "s", workers=0, progress=False)
    )
    assert steps(open_source(str(squashed)).images[0].transpose(2, 0, 1)) == pytest.approx((2, 4), rel=0.03)
    assert torch.equal(sample_images(train, 5, (8, 24), 3), train.fetch(np.array([0, 6, 12, 17, 23]))[0])
    whole = Prepare(str(folder), image_size=(20, 15), store="webp", out=tmp_path / "w", workers=0, progress=False)
    pictures = open_source(str(prepare(whole)))
    assert pictures.read(0, 3)[0].size == (30, 20)  # (width, height): as small as covers 20 x 15
    assert fitted(Image.new("RGB", (60, 40)), (50, 15), "whole").size == (60, 40)  # never enlarged
    assert prepare(Prepare(str(folder), image_size=(8, 24), out=tmp_path / "crop", workers=0, progress=False)) == small
    with pytest.raises(UserError, match=r"image_size is \[8, 24\] there and \[24, 8\] here"):
        prepare(Prepare(str(folder), image_size=(24, 8), out=tmp_path / "crop", workers=0, progress=False))
    for i in (1, 2):
        part = Prepare(str(folder), image_size=(8, 24), out=tmp_path / "p", part=f"{i}/2", workers=0, progress=False)
        prepare(part)
    joined = prepare(replace(part, part="", join=True))
    assert np.array_equal(open_source(str(joined)).images, train.images)


def test_stores_of_numbers_of_files(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "arrays").mkdir()
    values = rng.integers(0, 4000, (6, 12, 36, 5)).astype(np.uint16)
    for i, one in enumerate(values):
        np.save(tmp_path / "arrays" / f"{i}.npy", one)
    config = Prepare(
        str(tmp_path / "arrays"), image_size=(12, 36), in_chans=5, out=tmp_path / "o", workers=0, progress=False
    )
    found = open_source(str(prepare(config)))
    assert np.array_equal(np.asarray(found.images), values)
    np.testing.assert_allclose(np.array(found.mean) * 65535, values.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(sample_images(found, 6, (4, 12), 5).shape, (6, 5, 4, 12))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("trained")
    store = prepare(Prepare(str(folder), image_size=(10, 20), out=home / "store", workers=0, progress=False))
    config = replace(TINY, data=str(store), out=home / "run")
    return home, config, pretrain(config)


def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    class PowerCutError(Exception):
        pass

    class CutAt(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 5:
                raise PowerCutError

    _, config, whole = trained
    monkeypatch.setattr(VisionModality, "callbacks", lambda self, run: [CutAt()])
    with pytest.raises(PowerCutError):
        pretrain(replace(config, out=tmp_path / "cut"))
    monkeypatch.undo()
    resumed = load_mae(pretrain(replace(config, out=tmp_path / "cut")).path)
    for name, value in load_mae(whole.path).state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert resumed.shape.image_size == (8, 16)
    assert resumed.grid == (2, 4)


def test_from_the_run_to_probe_finetune_predict_picture_and_export(trained, folder, tmp_path):
    home, _, run = trained
    store = str(home / "store")
    assert {r.metric for r in probe(Probe(str(run.path), k=(3,), out=tmp_path / "probe", **SETTLED)).results()} >= {
        "linear_top1"
    }
    tuning = Finetune(
        str(run.path), store, epochs=1, batch_size=8, auto_augment="none", out=tmp_path / "tuned", **SETTLED
    )
    tuned = finetune(tuning)
    answers = predict(Predict(str(tuned.path), str(folder), device="cpu", workers=0, out=tmp_path / "p.csv"))
    assert len(answers.read_text().splitlines()) == 9
    picture = reconstruct(Reconstruct(run.path, n_images=2, device="cpu", out=tmp_path / "r.png"))
    with Image.open(picture) as drawn:
        width, height = drawn.size
    assert width > 3 * height  # eight columns of two rows, each twice as wide as high
    with_files = Reconstruct(
        run.path, images=(str(folder / "val/dark/0.png"),), device="cpu", out=tmp_path / "f.png", features=False
    )
    assert reconstruct(with_files).is_file()

    out = export(Export(run.path, tmp_path / "out"))
    assert not (out / "transformers").exists()
    assert "squares alone, not images of 8 x 16" in json.loads((out / "export.json").read_text())["no_transformers"]
    images = torch.randn(2, 3, 8, 16)
    with torch.no_grad():
        wanted = load_mae(run.path).encoder.forward_features(images)
        theirs = timm.create_model(f"local-dir:{out / 'timm'}", pretrained=True).eval()
        assert torch.equal(theirs.forward_features(images), wanted)
        assert tuple(timm.data.resolve_model_data_config(theirs)["input_size"]) == (3, 8, 16)
        again = build_encoder(open_encoder(str(out)), 0, num_classes=0, global_pool="").eval()
        assert torch.equal(again.forward_features(images), wanted)
    assert open_encoder(str(out)).shape.image_size == (8, 16)
    (tmp_path / "card").mkdir()
    card = write_model(run.path, tmp_path / "card")
    assert card.details["images"] == "8 × 16, channels: 3"
    assert any("squares alone" in line for line in card.limits)
    # Tuned at the transposed size: another model, of positions that were turned.
    turned = finetune(replace(tuning, image_size=(16, 8), data=str(folder), out=tmp_path / "turned"))
    assert open_encoder(str(turned.path)).shape.size == (16, 8)


def test_a_folder_trains_without_prepare(folder, tmp_path):
    run = pretrain(replace(TINY, data=str(folder), epochs=1, out=tmp_path / "run"))
    assert load_mae(run.path).shape.size == (8, 16)
