"""A run on the hub: the same features and losses from there, by timm and transformers alone."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r2mae_core import UserError, write_yaml
from r2mae_vision import MAEShape, MaskedAutoencoder, MLPAutoencoder, UNet
from r2mae_vision.cli import main
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.options import Finetune, Pretrain
from r2mae_vision.mae.pretrain import pretrain
from r2mae_vision.mae.sharing import _datasets

sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from hub_check import Hub, code_of, push_code, run_python, sent

ARGUMENTS = {"depth": 2, "embed_dim": 48, "num_heads": 3}
IMAGES = "import torch\ntorch.manual_seed(3)\nimages = torch.rand(2, 1, 8, 8)\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    size = {"patch_size": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "image_size": 8}
    training = {"epochs": 1, "batch_size": 512, "device": "cpu", "workers": 0, "progress": False, "log_every": 1}
    options = Pretrain("digits", model="vit_tiny_patch16_224", model_args=ARGUMENTS, **size, **training)
    return pretrain(replace(options, out=tmp_path_factory.mktemp("pushed") / "run")).path


@pytest.fixture
def call(capsys):
    """Run a command in this process; returns (exit code, stdout, stderr)."""

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_push_and_load_by_name(run, call, tmp_path):
    code, _, err = call("push", run, "lab/digits", "--license", "mit", "--dry_run", "--out", "dry")
    assert code == 0, err
    model = MaskedAutoencoder.from_pretrained(run)
    card = Path("dry/README.md").read_text()
    code = code_of(card)
    timms, transformers, ours = (code[name] for name in ("timm", "transformers", "r2mae-vision"))
    with Hub() as hub:
        env = hub.environment(tmp_path / "home")
        ours = f"{push_code('r2mae_vision', run, 'lab/digits')}{ours}{IMAGES}"
        ours += "found = [code, {name: value.tolist() for name, value in model.state_dict().items()}, str(model.shape)]"
        code, state, shape = run_python(ours, env, tmp_path)
        assert sent(hub, "lab/digits") == {
            file.relative_to("dry").as_posix(): file.read_bytes() for file in Path("dry").rglob("*") if file.is_file()
        }
        theirs = f"{timms}{transformers}{IMAGES}encoder.eval(), model.eval()\n"
        theirs += "features = encoder.forward_features(images)\nnoise = torch.rand(2, 16)\n"
        theirs += "found = [features.tolist(), noise.tolist(), model(images, noise=noise).loss.item()]"
        features, noise, loss = run_python(theirs, env, tmp_path, peers_only=True)
    assert code == 0
    assert shape == str(model.shape)
    assert all(torch.equal(torch.tensor(state[name]), value) for name, value in model.state_dict().items())
    scope: dict = {}
    exec(IMAGES, scope)
    with torch.no_grad():
        assert torch.equal(torch.tensor(features), model.encoder.forward_features(scope["images"]))
    assert loss > 0
    assert len(noise) == 2


@pytest.mark.parametrize("changes", [{}, {"model_args": {**ARGUMENTS, "reg_tokens": 2}}, {"norm_eps": 1e-5}])
def test_save_and_load_gives_equal_bits(tmp_path, changes):
    shape = MAEShape("vit_tiny_patch16_224", 8, 2, 1, ARGUMENTS, 16, 1, 2, mean=(0.4,), std=(0.3,))
    model = MaskedAutoencoder(replace(shape, **changes), seed=4).eval()
    model.save_pretrained(tmp_path / "m")
    again = MaskedAutoencoder.from_pretrained(tmp_path / "m")
    assert again.shape == model.shape
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert (tmp_path / "m" / "transformers").exists() == ("model_args" not in changes)
    limits = " ".join(model.card_facts().limits)
    assert ("no folder for transformers" in limits) == ("model_args" in changes)
    assert ("epsilon is 1e-05" in limits) == ("norm_eps" in changes)
    file = tmp_path / "m" / "mae" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="damaged"):
        MaskedAutoencoder.from_pretrained(tmp_path / "m")


def test_a_fine_tuned_model(run, call, tmp_path):
    tiny = Finetune(
        str(run), "digits", epochs=1, batch_size=128, auto_augment="none", flip=False, crop_pct=1.0, mixup=0.0,
        cutmix=0.0, erase=0.0, max_train=128, seeds=(0, 1), device="cpu", workers=0, progress=False,
    )  # fmt: skip
    tuned = finetune(replace(tiny, out=tmp_path / "tuned")).path
    code, _, err = call("push", tuned, "lab/classes", "--license", "mit", "--dry_run")
    assert code == 1
    assert "2 models, one per seed" in err
    code, _, err = call("push", tuned / "seed1", "lab/classes", "--license", "mit", "--dry_run", "--out", "dry")
    assert code == 0, err
    card = Path("dry/README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "| classes | 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |" in card
    assert "| pretrained with | r2mae (seed 0) |" in card
    assert "| validation | top1 |" in card
    assert "training.png" in card
    assert json.loads(Path("dry/config.json").read_text())["num_classes"] == 10


@pytest.mark.parametrize(
    ("data", "names"),
    [("hfds/lab/pictures", ("lab/pictures",)), ("hfds/mnist", ("mnist",)), ("lab/pictures", ()), ("hfds/../x/y", ())],
)
def test_data_from_the_hub_is_named(tmp_path, data, names):
    write_yaml(tmp_path / "config.yaml", {"data": data})
    assert _datasets(tmp_path) == names


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_a_unet(tmp_path, output):
    model = UNet(2, output=output, seed=3).eval()
    model.save_pretrained(tmp_path / "m")
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(UNet.from_pretrained(tmp_path / "m")(images), model(images))


def test_mlps(tmp_path, call):
    model = MLPAutoencoder(64, (24, 12), (5, 6)).eval()
    model.save_pretrained(tmp_path / "m")
    again = MLPAutoencoder.from_pretrained(tmp_path / "m")
    assert again.seeds == (5, 6)
    images = torch.rand(2, 4, 64)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    training = ["--n_hidden", "[24,12]", "--epochs", "1", "--device", "cpu", "--no-progress", "--out", "run"]
    assert call("pretrain-mlp", "digits", *training)[0] == 0
    code, _, err = call("push", "run", "lab/mlp", "--license", "mit", "--dry-run", "--out", "dry")
    assert code == 0, err
    assert MLPAutoencoder.from_pretrained("dry").hidden == (24, 12)
    assert "| hidden layers | 24 and 12;" in Path("dry/README.md").read_text()
