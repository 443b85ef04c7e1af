import lightning.pytorch as pl
import pytest
import torch

from r2mae_core import Fixed, LinearDecay, RunFolder, Uniform, UserError, fit, scheme
from r2mae_vision import load_unet, prepare_celeba, pretrain_unet
from r2mae_vision.celeba import pretrain as room
from r2mae_vision.celeba.evaluate import held_out_loss
from r2mae_vision.celeba.model import scale

SMALL = {"base_channels": 2, "epochs": 3, "batch_size": 16, "device": "cpu", "progress": False}


@pytest.fixture
def few(celeba_root, tmp_path):
    return prepare_celeba(celeba_root, tmp_path / "cache", side=16, progress=False)


class PowerCutError(Exception):
    pass


class CutAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise PowerCutError


@pytest.mark.parametrize("sampler", [Uniform(0.3, 0.8), LinearDecay(0.9, 0.6)], ids=["r2mae", "dynamic"])
def test_interrupted_pretraining_resumes_to_the_same_model(tmp_path, few, monkeypatch, sampler):
    whole = pretrain_unet(few, sampler, RunFolder(tmp_path / "whole", {}), **SMALL)
    monkeypatch.setattr(room, "fit", lambda *args, **kwargs: fit(*args, callbacks=[CutAt(5)], **kwargs))
    with pytest.raises(PowerCutError):
        pretrain_unet(few, sampler, RunFolder(tmp_path / "cut", {}), **SMALL)
    monkeypatch.undo()
    assert (tmp_path / "cut" / "checkpoints" / "last.ckpt").exists()
    resumed = pretrain_unet(few, sampler, RunFolder(tmp_path / "cut", {}), **SMALL)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_seed_decides_everything(tmp_path, few):
    one, same, other = (
        pretrain_unet(few, Fixed(0.5), RunFolder(tmp_path / str(i), {}), seed=seed, **{**SMALL, "epochs": 1})
        for i, seed in enumerate([4, 4, 5])
    )
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_it_learns_more_than_the_mean_image(tmp_path, faces):
    """The mean training image knows every pixel's marginal but looks at nothing."""
    arguments = {**SMALL, "base_channels": 4, "epochs": 9, "batch_size": 32, "lr": 3e-3}
    model = pretrain_unet(faces, Uniform(0.3, 0.7), RunFolder(tmp_path / "run", {}), **arguments)
    train_images, test_images = scale(faces.images("train")), scale(faces.images("test"))
    blind = (test_images - train_images.mean(0)).square().mean().item()
    assert held_out_loss(model, faces.images("test"), [0.5])[0.5] < 0.5 * blind


def test_mixed_precision_trains(tmp_path, few):
    run = RunFolder(tmp_path / "run", {})
    model = pretrain_unet(few, scheme("mdlm", "vision"), run, **SMALL, precision="bf16-mixed")
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_batches_are_uint8_until_the_step(few):
    batch = room.batch_reader(few.images("train"), "cpu")(torch.tensor([3, 1]).numpy())
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, few.images("train")[[3, 1]])


def test_saved_models_load_with_their_shape(tmp_path, few):
    run = RunFolder(tmp_path / "run", {})
    model = pretrain_unet(few, Fixed(0.5), run, **{**SMALL, "epochs": 1, "output": "linear"})
    assert {(r.metric, r.split, r.n, r.scheme) for r in run.results()} == {
        (f"loss@{ratio}", "validation", 8, "low 0.5") for ratio in (0.1, 0.5, 0.9)
    }
    loaded = load_unet(run)
    assert (loaded.base_channels, loaded.output, loaded.training) == (2, "linear", False)
    images = scale(few.images("test"))
    assert torch.allclose(loaded(images), model(images), atol=1e-6)
    (run.path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"model.safetensors is damaged: its checksum is not that in SHA256SUMS"):
        load_unet(run)
    (run.path / "model" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"model.safetensors cannot be read: it is damaged, or not a U-Net of r2mae"):
        load_unet(run)
    with pytest.raises(UserError, match="no finished model"):
        load_unet(RunFolder(tmp_path / "empty", {}))


def test_bad_settings(tmp_path, few, celeba_root):
    def run(store=few, sampler=None, **changes):
        pretrain_unet(store, sampler or Fixed(0.5), RunFolder(tmp_path / "run", {}), **{**SMALL, **changes})

    with pytest.raises(UserError, match="the U-Net has no curriculum weights; leave out cl"):
        run(sampler=scheme("cl", "vision"))
    with pytest.raises(UserError, match="40 samples do not fill a batch of 41"):
        run(batch_size=41)
    odd = prepare_celeba(celeba_root, tmp_path / "odd", side=20, progress=False)
    with pytest.raises(UserError, match="must be a multiple of 16; got 20"):
        run(store=odd)
    with pytest.raises(UserError, match="'cuda' was requested"):
        run(device="cuda")
