import math

import numpy as np
import pytest
import torch

from r2mae_core import Fixed, RunFolder, Uniform, compare
from r2mae_vision import (
    Member,
    MLPAutoencoder,
    effective_rank,
    embed,
    evaluate_members,
    linear_probe,
    masked_error,
    pretrain_members,
)
from r2mae_vision.mnist import evaluate


def test_effective_rank_of_known_spectra():
    orthogonal = torch.linalg.qr(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))[0]
    features = torch.stack([orthogonal, orthogonal * torch.tensor([1.0] + [0.0] * 7), 5 * orthogonal])
    assert effective_rank(features) == pytest.approx([8, 1, 8], rel=1e-5)


def test_effective_rank_against_the_definition_by_svd():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)) @ torch.diag(torch.arange(1.0, 7))
    p = np.linalg.svd(features.numpy(), compute_uv=False)
    p = p / p.sum()
    assert effective_rank(features[None])[0] == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_linear_probe_agrees_with_scikit_learns_logistic_regression(digits):
    from sklearn.linear_model import LogisticRegression

    train, test = digits.scale(digits.train_images), digits.scale(digits.test_images)
    ours = linear_probe(
        train[None], digits.train_labels, test[None], digits.test_labels, seeds=[0], epochs=60, batch_size=64
    )[0]
    reference = LogisticRegression(max_iter=2000).fit(train, digits.train_labels)
    assert ours == pytest.approx(reference.score(test, digits.test_labels), abs=0.02)


def test_probing_a_stack_is_probing_each_model(digits):
    features = torch.stack([digits.scale(digits.train_images), digits.scale(digits.train_images).flip(1) * 0.5])
    test = torch.stack([digits.scale(digits.test_images), digits.scale(digits.test_images).flip(1) * 0.5])
    labels = digits.train_labels, digits.test_labels
    both = linear_probe(features, labels[0], test, labels[1], seeds=[3, 4], epochs=3)
    each = [
        linear_probe(features[i : i + 1], labels[0], test[i : i + 1], labels[1], seeds=[3 + i], epochs=3)[0]
        for i in range(2)
    ]
    assert both == pytest.approx(each, abs=1 / 450)


def test_masked_error_uses_the_same_masks_for_every_model_and_is_the_loss(digits):
    model = MLPAutoencoder(64, (24, 12), (0, 0, 1))
    errors = masked_error(model, digits, digits.test_images, [0.2, 0.7])
    assert errors.shape == (3, 2)
    assert torch.equal(errors[0], errors[1])
    assert torch.equal(errors, masked_error(model, digits, digits.test_images, [0.2, 0.7]))


def test_masked_pretraining_learns_what_a_broken_model_cannot(tmp_path, digits):
    """End to end on real digits: pretrain, then beat two trivial answers.

    Reconstruction: the mean training image, which knows every pixel's marginal but looks at nothing.
    Representation: the same network before training, under the same linear probe.
    """
    members = [Member("fixed", Fixed(0.5), 0), Member("r2mae", Uniform(0.3, 0.7), 0)]
    model = pretrain_members(
        digits,
        members,
        RunFolder(tmp_path / "run", {}),
        hidden=(128, 64),
        epochs=30,
        batch_size=64,
        device="cpu",
        progress=False,
    )
    untrained = MLPAutoencoder(64, (128, 64), (0, 0))
    # Its batch-norm statistics are set, so that only learning makes the difference.
    untrained.train()(digits.scale(digits.train_images).expand(2, -1, -1))
    names = [member.scheme for member in members]
    table = compare(evaluate_members(model, digits, names, epochs=15))
    before = compare(evaluate_members(untrained, digits, names, epochs=15))
    scaled = digits.scale(digits.train_images)
    mean_image_error = (digits.scale(digits.test_images) - scaled.mean(0)).square().mean().item()
    for name in names:
        assert table.cells[name, "digits", "loss@0.5"].mean < 0.6 * mean_image_error
        assert before.cells[name, "digits", "loss@0.5"].mean > 1.0 * mean_image_error
        accuracy = table.cells[name, "digits", "probe_accuracy"].mean
        assert accuracy > before.cells[name, "digits", "probe_accuracy"].mean
        assert accuracy > 0.9


def test_embedding_is_the_second_layer_without_masking(digits):
    model = MLPAutoencoder(64, (24, 12), (0, 1)).eval()
    features = embed(model, digits, digits.test_images, batch_size=100)
    assert features.shape == (2, 450, 12)
    alone = model.single(1)[:6].eval()(digits.scale(digits.test_images))
    assert features[1].allclose(alone, atol=1e-6)


def test_a_stack_is_evaluated_in_parts_that_fit_into_memory(digits, monkeypatch):
    model = MLPAutoencoder(64, (24, 12), (0, 1, 2, 0, 5))
    whole = evaluate_members(model, digits, "abcde", epochs=2)
    monkeypatch.setattr(evaluate, "FEATURE_BYTES", 2 * 4 * 12 * len(digits.train_images))
    seen = []
    monkeypatch.setattr(evaluate, "embed", lambda model, *rest: seen.append(len(model.seeds)) or embed(model, *rest))
    parts = evaluate_members(model, digits, "abcde", epochs=2)
    assert seen == [2, 2, 2, 2, 1, 1]  # training and test images
    for one, other in zip(whole, parts, strict=True):
        assert (one.scheme, one.seed, one.metric) == (other.scheme, other.seed, other.metric)
        assert one.value == pytest.approx(other.value, abs=2 / 450 if one.metric == "probe_accuracy" else 1e-4)
