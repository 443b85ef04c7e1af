import numpy as np
import pytest
import torch
import torch.nn.functional as F

from r2mae_core import UserError
from r2mae_vision import UNet, attribute_probe, evaluate_unet
from r2mae_vision.celeba.evaluate import (
    AttributeHead,
    attribute_scores,
    held_out_loss,
    pooled_features,
    reconstruction_error,
)
from r2mae_vision.celeba.model import scale


@pytest.fixture(scope="module")
def settled(faces):
    """An untrained network whose batch norm has seen the images."""
    model = UNet(4, seed=1)
    with torch.no_grad():
        for part in scale(faces.images("train")).split(100) * 5:  # momentum 0.1: 35 batches leave 2 % of the start
            model.train()(part)
    return model.eval()


def test_reconstruction_error_is_the_mse_of_uncorrupted_images(settled, faces):
    images = faces.images("test")
    with torch.no_grad():
        expected = F.mse_loss(settled(scale(images)), scale(images)).item()
    assert reconstruction_error(settled, images) == pytest.approx(expected, rel=1e-5)

    class Echo(torch.nn.Module):
        def forward(self, x):
            return x

    assert reconstruction_error(Echo(), images) == 0.0


def test_held_out_loss_use_the_same_masks_whenever_they_are_asked(settled, faces):
    images = faces.images("test")[:64]
    both = held_out_loss(settled, images, [0.2, 0.8])
    assert both == held_out_loss(settled, images, [0.2, 0.8])
    assert held_out_loss(settled, images, [0.8]) == pytest.approx({0.8: both[0.8]}, rel=1e-6)
    assert both[0.2] != both[0.8]


def test_pooled_features_are_the_bottlenecks_means(settled, faces):
    images = faces.images("test")[:6]
    features = pooled_features(settled, images)
    with torch.no_grad():
        bottom = settled.bottleneck(settled.pool(settled.encode(scale(images))[1][-1]))
    assert features.shape == (6, 64)
    assert torch.allclose(features, bottom.flatten(2).mean(2), atol=1e-6)


def test_forty_heads_are_one_linear_layer():
    head = AttributeHead(7, 40, seed=3)
    features = torch.rand(5, 7)
    hidden = F.relu(F.linear(features, head.shared.weight, head.shared.bias))
    assert hidden.shape == (5, 512)
    each = [F.linear(hidden, head.heads.weight[i : i + 1], head.heads.bias[i : i + 1]) for i in range(40)]
    assert torch.allclose(head(features), torch.cat(each, 1), atol=1e-6)


@torch.no_grad()
def test_dropout_keeps_the_expectation_and_is_drawn_from_its_generator():
    head = AttributeHead(4, 2, dropout=0.5).double()
    x = torch.rand(1, 4).double()
    many = head(x.expand(20_000, -1), torch.Generator().manual_seed(0))
    assert torch.allclose(many.mean(0), head(x)[0], atol=6 * float(many.std(0).max()) / 20_000**0.5)
    assert torch.equal(many, head(x.expand(20_000, -1), torch.Generator().manual_seed(0)))
    with pytest.raises(UserError, match=r"dropout must lie in \[0, 1\), got 1"):
        AttributeHead(4, 2, dropout=1.0)


def test_the_probe_finds_what_is_in_the_features_and_nothing_else():
    """Independent oracle: labels that are a known function of the features, and labels that are coins."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1500, 8, generator=generator)
    coins = torch.rand(1500, generator=generator) < 0.5
    labels = torch.stack([features[:, 0] > 0, features[:, 1] * features[:, 2] > 0, coins], 1).to(torch.uint8)
    answers = attribute_probe(features[:1000], labels[:1000], features[1000:], epochs=20, batch_size=50)
    scores = attribute_scores(answers, labels[1000:], labels[:1000])
    assert scores.accuracy[0] > 0.95
    assert scores.accuracy[1] > 0.85  # not linear: the shared layer is needed
    assert abs(scores.balanced[2] - 0.5) < 0.08
    again = attribute_probe(features[:1000], labels[:1000], features[1000:], epochs=20, batch_size=50)
    assert torch.equal(answers, again)


def test_scores_against_scikit_learn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    rng = np.random.default_rng(0)
    truth, answers, train = (rng.random((200, 3)) < [0.2, 0.5, 0.9] for _ in range(3))
    scores = attribute_scores(*map(torch.from_numpy, (answers, truth, train)))
    for i in range(3):
        assert scores.accuracy[i].item() == pytest.approx(accuracy_score(truth[:, i], answers[:, i]))
        assert scores.balanced[i].item() == pytest.approx(balanced_accuracy_score(truth[:, i], answers[:, i]))
        constant = np.full(200, train[:, i].mean() > 0.5)
        assert scores.majority[i].item() == pytest.approx(accuracy_score(truth[:, i], constant))
    alike = attribute_scores(*[torch.ones(4, 1, dtype=torch.uint8)] * 3)
    assert alike.balanced.isnan().all()


def test_visible_attributes_beat_the_majority_and_coins_do_not(settled, faces):
    """End to end on faces: what is drawn can be found even with random features; labels without pixels cannot."""
    records = evaluate_unet(settled, faces, "untrained", epochs=20, batch_size=32, lr=3e-3)
    value = {(r.task, r.metric): r.value for r in records}
    for visible in ("Wearing_Hat", "Blond_Hair"):
        task = f"celeba/{visible}"
        assert value[task, "attribute_accuracy"] > value[task, "majority_accuracy"] + 0.1
        assert value[task, "balanced_accuracy"] > 0.75
    assert abs(value["celeba/Attractive", "balanced_accuracy"] - 0.5) < 0.1  # a coin: sd 0.03 at 300 images
    rates = faces.attributes("train").double().mean(0)
    wearing_hat = faces.names.index("Wearing_Hat")
    test_rate = faces.attributes("test").double().mean(0)[wearing_hat].item()
    majority = test_rate if rates[wearing_hat] > 0.5 else 1 - test_rate
    assert value["celeba/Wearing_Hat", "majority_accuracy"] == pytest.approx(majority)
    per_attribute = [value[f"celeba/{name}", "attribute_accuracy"] for name in faces.names]
    assert value["celeba", "attribute_accuracy"] == pytest.approx(np.mean(per_attribute))
    assert {metric for task, metric in value if task == "celeba"} == {
        "reconstruction_mse", "loss@0.1", "loss@0.5", "loss@0.9",
        "attribute_accuracy", "balanced_accuracy", "majority_accuracy",
    }  # fmt: skip
    assert {record.n for record in records} == {300}
