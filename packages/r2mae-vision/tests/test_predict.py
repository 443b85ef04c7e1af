"""`predict`: names of images and classes, whatever data and whatever numbers the classes have there."""

import csv

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from r2mae_core import UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, save_mae
from r2mae_vision.cli import main
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.pairs import open_parts
from r2mae_vision.data.prepare import prepare
from r2mae_vision.mae.export import export
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.model_options import Export, Predict
from r2mae_vision.mae.options import Finetune
from r2mae_vision.mae.predict import predict

COLOURS = {"blue": (0, 0, 220), "green": (0, 220, 0), "red": (220, 0, 0)}
ARGUMENTS = {"depth": 1, "embed_dim": 48, "num_heads": 3}
SHAPE = MAEShape("vit_tiny_patch16_224", 16, 4, 3, ARGUMENTS, 16, 1, 2)
QUIET = {"workers": 0, "device": "cpu"}


def paint(home, names, n, start=0):
    for name in names:
        (home / name).mkdir(parents=True)
        for i in range(start, start + n):
            pixels = np.clip(np.array(COLOURS[name]) + np.random.default_rng(i).integers(-30, 30, (16, 16, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(home / name / f"{name}{i}.png")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A model that knows three colours."""
    home = tmp_path_factory.mktemp("tuned")
    paint(home / "set" / "train", COLOURS, 16)
    paint(home / "set" / "val", COLOURS, 4, start=50)
    save_mae(MaskedAutoencoder(SHAPE, seed=2), home / "model")
    config = Finetune(
        str(home / "model"), str(home / "set"), epochs=10, batch_size=16, base_lr=3e-2, auto_augment="none", erase=0.0,
        mixup=0.0, cutmix=0.0, drop_path=0.0, crop_pct=1.0, progress=False, out=home / "run", **QUIET,
    )  # fmt: skip
    run = finetune(config)
    assert next(r.value for r in run.results() if r.metric == "top1") == 1.0
    return home


def rows(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_predictions_have_names_and_are_those_of_timms_model(tuned, tmp_path, capsys):
    table = rows(predict(Predict(str(tuned / "run"), str(tuned / "set"), out=tmp_path / "p.csv", **QUIET)))
    assert "12 of 12 images with a known label are predicted right" in capsys.readouterr().out
    assert list(table[0]) == ["image", "label", "prediction", "p(blue)", "p(green)", "p(red)"]
    assert [row["image"] for row in table[:2]] == ["blue/blue50.png", "blue/blue51.png"]
    assert all(row["label"] == row["prediction"] == row["image"].split("/")[0] for row in table)
    model = timm.create_model(f"local-dir:{tuned / 'run' / 'seed0'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for row in table[::5]:
        image = transform(Image.open(tuned / "set" / "val" / row["image"]))
        wanted = model(image[None]).softmax(1)[0]
        assert torch.allclose(torch.tensor([float(row[f"p({name})"]) for name in COLOURS]), wanted, atol=1e-4)


def test_any_source_and_classes_in_another_order(tuned, tmp_path, capsys):
    paint(tmp_path / "other", ["red", "green"], 3)  # here green is 0 and red is 1
    (tmp_path / "other" / "red").rename(tmp_path / "other" / "crimson")
    table = rows(predict(Predict(str(tuned / "run"), str(tmp_path / "other"), out=tmp_path / "a.csv", **QUIET)))
    assert [row["prediction"] for row in table] == ["red"] * 3 + ["green"] * 3
    text = capsys.readouterr().out
    assert "3 images have labels that the model does not know: crimson" in text
    assert "3 of 3 images with a known label are predicted right" in text
    files = rows(predict(Predict(str(tuned / "run"), str(tuned / "set"), "train", out=tmp_path / "b.csv", **QUIET)))
    for kind in ("raw", "webp"):
        store = prepare(Prepare(str(tuned / "set"), image_size=16, store=kind, out=tmp_path / kind, progress=False))
        out = tmp_path / f"{kind}.csv"
        table = rows(predict(Predict(str(tuned / "run"), str(store), "train", out=out, **QUIET)))
        assert len(table) == 48
        for name in ("image", "label", "prediction"):
            assert [row[name] for row in table] == [row[name] for row in files]
    one = tuned / "set" / "val" / "green" / "green51.png"
    (row,) = rows(predict(Predict(str(tuned / "run"), str(one), out=tmp_path / "c.csv", **QUIET)))
    assert (row["image"], row["prediction"], "label" in row) == ("green51.png", "green", False)


def test_what_cannot_be_read_has_a_row_without_a_prediction(tuned, tmp_path, capsys):
    paint(tmp_path / "flat", ["red"], 3)
    (tmp_path / "flat" / "red" / "red1.png").write_bytes(b"nothing")
    data = str(tmp_path / "flat" / "red")
    table = rows(predict(Predict(str(tuned / "run"), data, out=tmp_path / "a.csv", **QUIET)))
    assert [(row["image"], row["prediction"]) for row in table] == [
        ("red0.png", "red"), ("red1.png", ""), ("red2.png", "red"),
    ]  # fmt: skip
    assert "1 images cannot be read and have no prediction (red1.png: not an image)" in capsys.readouterr().out
    for file in (tmp_path / "flat" / "red").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none of 3 images of .* can be read"):
        predict(Predict(str(tuned / "run"), data, out=tmp_path / "b.csv", **QUIET))
    assert not (tmp_path / "b.csv").exists()


def test_models_without_a_head_and_files_that_are_there(tuned, tmp_path, capsys):
    with pytest.raises(UserError, match="is no fine-tuned model; name a run folder of r2mae-vision finetune"):
        predict(Predict(str(tuned / "model"), str(tuned / "set"), out=tmp_path / "a.csv", **QUIET))
    out = export(Export(tuned / "model", tmp_path / "exported"))
    with pytest.raises(UserError, match="has no head that answers; fine-tune it first"):
        predict(Predict(str(out), str(tuned / "set"), out=tmp_path / "a.csv", **QUIET))
    words = ["predict", str(tuned / "run" / "seed0"), str(tuned / "set"), "--out", str(tmp_path / "p.csv")]
    for more, code in (([], 0), ([], 1), (["--overwrite"], 0)):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--device", "cpu", "--workers", "0", *more])
        assert ended.value.code == code
    assert "p.csv is there already; give --overwrite" in capsys.readouterr().err


def deep(home, names, level, n=4):
    """Write images of 16 bits per class, of which the level is the brightest."""
    for name in names:
        (home / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, level, (16, 16)) // (1 if name == "bright" else 8)
            Image.fromarray(pixels.astype(np.uint16)).save(home / name / f"{i}.png")


@pytest.mark.parametrize("prepared", [False, True])
def test_deep_pixels_are_read_as_in_training_whatever_the_images_at_hand_suggest(tmp_path, prepared):
    deep(tmp_path / "set" / "train", ["bright", "dim"], 4096, 16)
    deep(tmp_path / "set" / "val", ["bright", "dim"], 4096)
    data = str(tmp_path / "set")
    if prepared:
        data = str(prepare(Prepare(data, out=tmp_path / "s", image_size=16, workers=0, progress=False)))
    save_mae(MaskedAutoencoder(SHAPE, seed=2), tmp_path / "model")
    run = finetune(
        Finetune(
            str(tmp_path / "model"), data, epochs=1, batch_size=16, auto_augment="none", erase=0.0, mixup=0.0,
            cutmix=0.0, crop_pct=1.0, progress=False, out=tmp_path / "run", **QUIET,
        )
    )  # fmt: skip
    export(Export(run.path, out=tmp_path / "export"))
    whole = rows(predict(Predict(str(tmp_path / "run"), str(tmp_path / "set"), out=tmp_path / "w.csv", **QUIET)))
    for model in ("run", "export"):
        # Dim images alone suggest 0 … 1023, at which they would be four times as bright; a single one suggests nothing.
        home = tmp_path / "set" / "val" / "dim"
        alone = rows(predict(Predict(str(tmp_path / model), str(home), out=tmp_path / f"{model}.csv", **QUIET)))
        one = rows(
            predict(Predict(str(tmp_path / model), str(home / "2.png"), out=tmp_path / f"{model}1.csv", **QUIET))
        )
        expected = [row["p(dim)"] for row in whole if row["image"].startswith("dim")]
        assert np.allclose([float(row["p(dim)"]) for row in alone], [float(p) for p in expected], atol=1e-5)
        assert abs(float(one[0]["p(dim)"]) - float(expected[2])) < 1e-5
    other = Prepare(
        str(tmp_path / "set" / "val"), out=tmp_path / "o", range=(0, 8191), image_size=16, workers=0, progress=False
    )
    prepare(other)
    with pytest.raises(UserError, match=r"black and white were \[0,4095\] .* and \[0,8191\]"):
        predict(Predict(str(tmp_path / "run"), str(tmp_path / "o"), out=tmp_path / "x.csv", **QUIET))


def test_training_and_validation_of_different_ranges(tmp_path):
    for name in ("a", "b"):
        for part in ("train", "val"):
            deep(tmp_path / name / part, ["bright", "dim"], 4096)
    ranges = {"a": (0, 4095), "b": (0, 65535), "c": (0, 4095)}
    for out, span in ranges.items():
        options = {"range": span, "image_size": 16, "workers": 0, "progress": False, "out": tmp_path / f"{out}s"}
        prepare(Prepare(str(tmp_path / ("b" if out == "c" else out)), **options))
    with pytest.raises(UserError, match=r"black and white are 0 … 4095 in a.* and 0 … 65535 in b.*: prepare both"):
        open_parts(str(tmp_path / "as"), str(tmp_path / "bs"))
    assert len(open_parts(str(tmp_path / "as"), str(tmp_path / "cs"))) == 2
