import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from r2mae_core import UserError
from r2mae_vision import MAEShape, MaskedAutoencoder, build_encoder, open_source, save_mae
from r2mae_vision.mae.encoders import EncoderSpec
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.probe import extract_features, knn_accuracy, lars_scores, logistic_accuracy, probe, top_k


@pytest.fixture(scope="module")
def pixels():
    """The digits' own pixels as features."""
    train, val = open_source("digits", "train"), open_source("digits", "val")
    return tuple(
        (torch.from_numpy(part.images.reshape(len(part), -1).astype(np.float32)), torch.from_numpy(part.labels))
        for part in (train, val)
    )


def test_neighbours_vote_as_scikit_learns(pixels):
    train, val = pixels
    for k in (1, 5, 20):
        theirs = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        )
        wanted = theirs.fit(*(part.numpy() for part in train)).score(*(part.numpy() for part in val))
        assert knn_accuracy(train, val, k, 0.07, block=100)["top1"] == pytest.approx(wanted, abs=1e-9)
    with pytest.raises(UserError, match="k = 5000 needs at least as many training images, there are 1347"):
        knn_accuracy(train, val, 5000)


def test_the_linear_probe_is_scikit_learns(pixels):
    train, val = pixels
    scaler = StandardScaler().fit(train[0].numpy())
    theirs = LogisticRegression(max_iter=5000, tol=1e-6).fit(scaler.transform(train[0].numpy()), train[1].numpy())
    wanted = theirs.score(scaler.transform(val[0].numpy()), val[1].numpy())
    ours = logistic_accuracy(train, val)
    assert ours["top1"] == pytest.approx(wanted, abs=0.005)
    assert ours["top5"] > 0.99
    shuffled = (train[0], train[1][torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(0))])
    assert logistic_accuracy(shuffled, val)["top1"] < 0.25
    some = train[1] < 9  # a class that training lacks is never right, and nothing breaks
    assert logistic_accuracy((train[0][some], train[1][some]), val)["top1"] < 0.92


def test_lars_comes_near_with_steps_enough(pixels):
    train, val = pixels
    long = {"epochs": 60, "base_lr": 20.0, "warmup": 1 / 12}
    assert top_k(lars_scores(train, val, seed=0, **long), val[1])["top1"] == pytest.approx(
        logistic_accuracy(*pixels)["top1"], abs=0.03
    )
    assert torch.equal(*(lars_scores(train, val, seed=0, **long) for _ in range(2)))


def test_the_matrix_learns_at_the_layer_wise_rate_and_the_bias_does_not(pixels, monkeypatch):
    """One step of LARS from a known start: the matrix moves by lr · 0.001 · |w| / |g| · g, the bias by lr · g."""
    import r2mae_vision.mae.probe as room

    moved = {}
    original = torch.nn.Linear.forward

    def forward(layer, x):
        if layer.weight.grad is not None and "after" not in moved:
            moved["after"] = (layer.weight.detach().clone(), layer.bias.detach().clone())
            moved["grad"] = (layer.weight.grad.clone(), layer.bias.grad.clone())
        moved.setdefault("before", (layer.weight.detach().clone(), layer.bias.detach().clone()))
        return original(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    train, val = pixels
    room.lars_scores(train, val, seed=0, epochs=1, batch_size=134, base_lr=25.6, warmup=0.0)
    lr = 25.6 * 134 / 256
    (w, b), (w1, b1), (g, gb) = moved["before"], moved["after"], moved["grad"]
    torch.testing.assert_close(w1, w - lr * 0.001 * w.norm() / g.norm() * g, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(b1, b - lr * gb, rtol=1e-3, atol=1e-6)


def test_top_k():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 9)), rng.integers(0, 9, 200)
    order = np.argsort(-scores, axis=1)
    wanted = {"top1": (order[:, 0] == labels).mean(), "top5": (order[:, :5] == labels[:, None]).any(1).mean()}
    assert top_k(torch.from_numpy(scores), torch.from_numpy(labels)) == pytest.approx(wanted)


def test_features_are_timms(tmp_path):
    shape = MAEShape("vit_tiny_patch16_224", 8, 2, 1, {"depth": 1, "embed_dim": 24, "num_heads": 3}, 16, 1, 2,
                     mean=(0.5,), std=(0.5,))  # fmt: skip
    model = MaskedAutoencoder(shape).eval()
    spec = EncoderSpec(shape, dict(model.encoder.state_dict()), "x")
    store = open_source("digits", "val")
    encoder = build_encoder(spec, 0, num_classes=0, global_pool="")
    images = model.normalise(store.fetch(np.arange(len(store)))[0])
    with torch.no_grad():
        tokens = model.encoder.forward_features(images)
    for pool, wanted in (("token", tokens[:, 0]), ("avg", tokens[:, 1:].mean(1))):
        features, labels = extract_features(encoder, spec, store, pool=pool, crop_pct=1.0, batch_size=100)
        torch.testing.assert_close(features, wanted, atol=1e-5, rtol=1e-4)
        assert labels.tolist() == store.labels.tolist()
        slow, _ = extract_features(
            encoder, spec, store, pool=pool, crop_pct=0.999999, batch_size=100
        )  # timm's transform
        torch.testing.assert_close(features, slow, atol=1e-5, rtol=1e-4)


def test_probe_of_a_folder_and_of_a_model_that_does_not_say_its_data(tmp_path):
    shape = MAEShape("vit_tiny_patch16_224", 8, 2, 1, {"depth": 1, "embed_dim": 24, "num_heads": 3}, 16, 1, 2,
                     mean=(0.5,), std=(0.5,))  # fmt: skip
    place = save_mae(MaskedAutoencoder(shape), tmp_path / "model")
    with pytest.raises(UserError, match="does not state what it was trained on; name the images with --data"):
        probe(Probe(str(place), out=tmp_path / "p", device="cpu", progress=False))
    config = Probe(
        str(place), data="digits", crop_pct=1.0, k=(1, 20), seeds=(0, 1), linear="lars", base_lr=20.0, epochs=20,
        device="cpu", workers=0, out=tmp_path / "p", progress=False,
    )  # fmt: skip
    run = probe(config)
    found = {(record.metric, record.seed) for record in run.results()}
    assert found == {
        ("linear_top1", 0), ("linear_top5", 0), ("linear_top1", 1), ("linear_top5", 1), ("knn1_top1", 0),
        ("knn20_top1", 0),
    }  # fmt: skip
    assert all(record.value > 0.15 for record in run.results())  # chance is 0.1; random features of pixels know more


def test_every_seed_of_a_new_network_is_another_network(tmp_path):
    """The control of the tables: its spread over seeds is that of networks, and each row is the one seed's own."""
    shape = MAEShape("vit_tiny_patch16_224", 8, 2, 1, {"depth": 1, "embed_dim": 24, "num_heads": 3}, 16, 1, 2,
                     mean=(0.5,), std=(0.5,))  # fmt: skip
    place = save_mae(MaskedAutoencoder(shape), tmp_path / "model")

    def rows(model, *seeds):
        out = tmp_path / f"probe-{'-'.join(map(str, seeds))}-{model[:4]}"
        how = {"data": "digits", "crop_pct": 1.0, "pool": "avg", "k": (5,), "device": "cpu", "progress": False}
        records = probe(Probe(model, seeds=seeds, out=out, **how)).results()
        return {(r.metric, r.seed): r.value for r in records}

    both = rows(f"scratch:{place}", 3, 4)
    assert both == rows(f"scratch:{place}", 3) | rows(f"scratch:{place}", 4)
    assert set(both) == {(metric, seed) for metric in ("linear_top1", "linear_top5", "knn5_top1") for seed in (3, 4)}
    assert both["linear_top1", 3] != both["linear_top1", 4]
    assert both["knn5_top1", 3] != both["knn5_top1", 4]
    kept = rows(str(place), 3, 4)  # one network, and a logistic regression draws nothing
    assert {seed for _, seed in kept} == {3}
