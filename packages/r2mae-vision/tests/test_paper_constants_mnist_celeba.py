"""The numbers of appendices C.3 and C.4 as literals, against what the two `reproduce` commands and recipes build."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from r2mae_vision import ImageData
from r2mae_vision.celeba import evaluate as celeba_evaluate
from r2mae_vision.celeba import paper as celeba
from r2mae_vision.celeba import pretrain as celeba_pretrain
from r2mae_vision.celeba.options import ReproduceCeleba
from r2mae_vision.cli import main
from r2mae_vision.mnist import evaluate as mnist_evaluate
from r2mae_vision.mnist import paper as mnist
from r2mae_vision.mnist import pretrain as mnist_pretrain
from r2mae_vision.mnist.options import ReproduceMNIST

RATIOS = [
    "fixed 0.1",
    "fixed 0.2",
    "fixed 0.3",
    "fixed 0.4",
    "low 0.5",
    "fixed 0.6",
    "fixed 0.7",
    "fixed 0.8",
    "high 0.9",
]
"""C.3, C.4: "masking ratios {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}"."""


class CountedAdam(torch.optim.Adam):
    """Adam that is counted: what it was made with, and its steps."""

    made: ClassVar = []

    def __init__(self, parameters, **settings):
        super().__init__(parameters, **settings)
        self.n_steps = 0
        self.made.append(self)

    def step(self, *arguments):
        self.n_steps += 1
        return super().step(*arguments)


@pytest.fixture
def adams(monkeypatch):
    """The optimizers that are made."""
    monkeypatch.setattr(CountedAdam, "made", [])
    monkeypatch.setattr(torch.optim, "Adam", CountedAdam)
    return CountedAdam.made


@pytest.fixture
def fitted(monkeypatch):
    """What is handed to `fit`, which trains nothing."""
    seen = []
    for place in (mnist_pretrain, celeba_pretrain):
        monkeypatch.setattr(
            place, "fit", lambda module, loader, run, **settings: seen.append((module, loader, settings))
        )
    return seen


@pytest.fixture
def call():
    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert stop.value.code == 0

    return run


@pytest.fixture
def images(monkeypatch):
    """700 training and 40 test images of 28 x 28 pixels instead of MNIST."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (740, 784), np.uint8), np.arange(740) % 10
    pixels, labels = torch.from_numpy(pixels), torch.from_numpy(labels)
    data = ImageData("MNIST", 28, 255, pixels[:700], labels[:700], pixels[700:], labels[700:])
    for place in (mnist, mnist_pretrain):
        monkeypatch.setattr(place, "load_digits_or_mnist", lambda *_: data)
    return data


def test_mnist_grid():
    config = ReproduceMNIST("fig2a")
    assert set(mnist.shapes(config)) == {(h1, h2) for h1 in (16, 512) for h2 in (16, 32, 64, 256, 1024)}  # C.3
    stack = mnist.members(config)
    assert [member.scheme for member in stack][:9] == RATIOS
    assert [member.sampler.sample(0, 10) for member in stack][:9] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.mark.parametrize(
    "words", [("reproduce-mnist", "fig2a", "--data", "x", "--seeds", "[0]"), ("pretrain-mlp", "x")]
)
def test_mnist_network_and_training(call, fitted, adams, images, words):
    recipe = ("-c", "paper-mnist") if words[0] == "pretrain-mlp" else ("--n_hidden", "[512]", "--n_latent", "[64]")
    call(*words, *recipe, "--device", "cpu", "--no-progress")
    ((module, loader, settings),) = fitted
    layers = list(module.model.single(0))
    assert [type(layer).__name__ for layer in layers] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "Sigmoid"
    ]  # fmt: skip
    assert [layer.out_features for layer in layers if isinstance(layer, torch.nn.Linear)] == [512, 64, 784]
    assert layers[0].in_features == 784
    assert settings["max_epochs"] == 15  # "15 epochs using Adam optimizer (learning rate 0.003, batch size 128)"
    assert next(iter(loader)).shape[1:] == (128, 784)
    optimizer = module.configure_optimizers()
    assert type(optimizer) is CountedAdam
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.003, (0.9, 0.999), 0)]
    if words[0] == "reproduce-mnist":  # "The linear probing classifier was trained for 15 epochs using Adam"
        probe = adams[0]
        assert probe.param_groups[0]["lr"] == 0.003
        assert probe.n_steps == 15 * 6  # batches of 128, ours
        assert probe.param_groups[0]["params"][0].shape[1:] == (64, 10)


def test_mnist_loss_on_a_worked_example(images):
    """The mean squared error of the hidden pixels, which the network sees as zeros."""
    model = mnist_pretrain.MLPAutoencoder(784, (16, 8)).eval()
    pixels = images.scale(images.train_images[:4])[None]
    masks = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    answer = model.single(0).eval()(torch.where(masks, 0.0, pixels)[0])
    expected = np.mean((answer.detach().numpy() - pixels[0].numpy())[masks[0].numpy()] ** 2)
    assert model.masked_errors(pixels, masks).item() == pytest.approx(expected, rel=1e-5)
    assert images.scale(images.train_images).max() <= 1


def test_effective_rank_on_a_worked_example():
    """exp of the entropy of the sum-normalised singular values: three equal ones and one half as large."""
    features = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))[None]
    p = np.array([2, 2, 2, 1]) / 7
    assert mnist_evaluate.effective_rank(features) == pytest.approx([np.exp(-(p * np.log(p)).sum())])


@pytest.fixture
def unet(call, fitted, adams, faces, monkeypatch):
    """What `reproduce-celeba` builds on a prepared set of faces, and the records of its evaluation."""
    monkeypatch.setattr(celeba, "_open", lambda config: faces)
    found = {}
    original = celeba.evaluate_unet
    monkeypatch.setattr(
        celeba, "evaluate_unet", lambda *a, **k: found.setdefault("records", original(*a, **k)) or found["records"]
    )
    call("reproduce-celeba", "fig5", "--data", "x", "--seeds", "[0]", "--ratios", "[0.5]", "--ranges", "[]",
         "--device", "cpu", "--no-progress", "--side", 32)  # fmt: skip
    return *fitted[0], adams, found["records"]


def test_celeba_grid():
    for target, channels in {"fig2b": [8, 16, 32], "fig5": [8], "fig6": [16], "fig7": [32]}.items():
        grid = celeba.cells(ReproduceCeleba(target))
        assert list(dict.fromkeys(cell.base_channels for cell in grid)) == channels  # "{8, 16, 32}"
        assert [cell.scheme for cell in grid][:9] == RATIOS
    assert celeba.PAPER_OPTIMA == {8: 0.6, 16: 0.7, 32: 0.8}  # section 3.5


def test_celeba_network_and_training(unet):
    module, loader, settings, adams, records = unet
    network, c = module.model, 8
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    inner = [layer for layer in convolutions if layer.kernel_size == (3, 3)]
    # "four downsampling blocks in the encoder, a bottleneck, and four upsampling blocks", two convolutions in each
    assert [layer.out_channels for layer in inner] == [
        c, c, 2 * c, 2 * c, 4 * c, 4 * c, 8 * c, 8 * c, 16 * c, 16 * c, 8 * c, 8 * c, 4 * c, 4 * c, 2 * c, 2 * c, c, c
    ]  # fmt: skip
    assert [layer.in_channels for layer in inner[10::2]] == [16 * c, 8 * c, 4 * c, 2 * c]  # with the skip connections
    kinds = [type(layer) for layer in network.modules()]
    assert kinds.count(torch.nn.BatchNorm2d) == kinds.count(torch.nn.ReLU) == 18
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert settings["max_epochs"] == 10  # "10 epochs using Adam optimizer (learning rate 0.001, batch size 256)"
    assert len(next(iter(loader))) == 256
    optimizer = module.configure_optimizers()
    assert type(optimizer) is CountedAdam
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.001, (0.9, 0.999), 0)]
    probe = adams[0]
    # "global average pooling, a shared feature extraction layer (512 units with dropout), and 40 … heads"
    assert [tuple(p.shape) for p in probe.param_groups[0]["params"]] == [(512, 16 * c), (512,), (40, 512), (40,)]
    assert probe.param_groups[0]["lr"] == 0.001
    assert probe.n_steps == 10 * 3  # 700 images in batches of 256
    assert {r.metric for r in records if r.task == "celeba-8"} >= {"reconstruction_mse", "attribute_accuracy"}


def test_celeba_losses_on_worked_examples(faces):
    network = celeba_pretrain.UNet(8).eval()
    images = celeba_pretrain.scale(faces.images("test")[:4])
    answer = network(images).detach()
    # "inputting uncorrupted images and evaluating the reconstruction MSE of the output"
    error = celeba_evaluate.reconstruction_error(network, faces.images("test")[:4])
    assert error == pytest.approx((answer - images).square().mean().item(), rel=1e-5)
    mask = celeba_pretrain.pixel_mask(images, 0.25, torch.Generator().manual_seed(0))
    assert mask.sum((1, 2, 3)).tolist() == [256] * 4  # a quarter of 32 · 32
    answer = network(images * ~mask).detach()
    expected = (answer - images).square()[mask.expand_as(images)].mean().item()
    assert network.masked_error(images, mask).item() == pytest.approx(expected, rel=1e-5)


def test_celebas_probe_drops_half_of_the_shared_layer():
    head = celeba_evaluate.AttributeHead(4, 40, ReproduceCeleba("fig5").dropout)
    with torch.no_grad():
        head.shared.weight.zero_()
        head.shared.bias.fill_(1.0)
        head.heads.weight.fill_(1.0)
        head.heads.bias.zero_()
    answer = head(torch.zeros(200, 4), torch.Generator().manual_seed(0))
    assert answer.mean().item() == pytest.approx(512, rel=0.02)
    assert (answer[0, 0].item() / 2).is_integer()  # whole units at twice their size: a rate of 0.5, ours
