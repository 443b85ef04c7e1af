"""Judgement during pretraining: its numbers, its cost, its log over interruptions, and when it stops a training."""

import shutil

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from r2mae_core import UserError, read_metrics
from r2mae_vision import MAEShape, MaskedAutoencoder
from r2mae_vision.mae import judge as room
from r2mae_vision.mae.flops import train_flops
from r2mae_vision.mae.judge import Judged, images_to_judge, judge, mean_features, rankme, ridge_accuracy
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import pretrain

TINY = {
    "model": "vit_tiny_patch16_224", "image_size": 8, "patch_size": 2, "decoder_dim": 32, "decoder_depth": 1,
    "decoder_heads": 2, "model_args": {"depth": 1, "embed_dim": 48, "num_heads": 3}, "batch_size": 256, "lr": 1e-3,
    "workers": 0, "device": "cpu", "progress": False, "augment": "none", "norm_pix_loss": False,
}  # fmt: skip


def log(run):
    series = read_metrics(run.metrics_file)
    return {name: values for name, values in series.items() if name.startswith("judge/")}


def test_the_log_has_what_a_judgement_of_the_model_gives(tmp_path, capsys):
    run = pretrain(Pretrain(data="digits", epochs=4, judge_every=10, out=tmp_path / "run", **TINY))
    lines = log(run)
    assert [[step for step, _ in values] for values in lines.values()] == [[9, 19]] * 3, (
        "beside the losses of the same steps"
    )
    assert (run.path / "figures" / "judge.png").stat().st_size > 1000
    assert "of the time: knn20_top1" in capsys.readouterr().out
    from r2mae_vision.data.sources import open_source
    from r2mae_vision.mae.weights import load_mae

    model = load_mae(run.path)
    train, held_out = images_to_judge(
        model, open_source("digits"), open_source("digits", "val"), apart=True, every=10, batch_size=256, ratio=0.75
    )
    values = judge(model, train, held_out)
    assert {f"judge/{name}": value for name, value in values.items()} == pytest.approx(
        {name: found[-1][1] for name, found in lines.items()}, rel=1e-5
    )
    assert values["knn20_top1"] > 0.15


def test_an_interrupted_run_judges_as_one_that_was_not(tmp_path):
    options = {"data": "digits", "epochs": 3, "judge_every": 6, "checkpoint_every": 5, **TINY}
    whole = pretrain(Pretrain(out=tmp_path / "whole", **options))
    from r2mae_vision.mae.module import MaskedImageModule

    step, seen = MaskedImageModule.masked_loss, []

    def cut(self, batch, draw):
        seen.append(1)
        if len(seen) == 34:
            raise KeyboardInterrupt
        return step(self, batch, draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedImageModule, "masked_loss", cut)
        with pytest.raises(UserError, match="interrupted at step"):
            pretrain(Pretrain(out=tmp_path / "cut", **options))
    resumed = pretrain(Pretrain(out=tmp_path / "cut", **options))
    assert log(whole) == log(resumed)
    assert len(log(whole)["judge/rankme"]) == 2
    plain = pretrain(Pretrain(out=tmp_path / "plain", **{**options, "judge_every": None}))
    for other in (resumed, plain):  # judging changes nothing in the training
        weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (whole, other)]
        assert weights[0] == weights[1]


def test_a_training_whose_features_get_no_better_stops(tmp_path, monkeypatch, capsys):
    values = iter([0.5, 0.7, 0.7, 0.6, 0.9, 0.9])
    monkeypatch.setattr(room, "judge", lambda *_: {"knn20_top1": next(values), "rankme": 3.0})
    options = {"data": "digits", "epochs": 3, "judge_every": 3, "judge_patience": 1, **TINY}
    run = pretrain(Pretrain(out=tmp_path / "run", **options))
    assert [step for step, _ in log(run)["judge/rankme"]] == [2, 5, 8]
    assert "Stopped at step 9: knn20_top1 has not risen for 1 judgements" in capsys.readouterr().out
    assert next(values) == 0.6


def test_the_measures_are_those_of_others():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, 300))
    features = torch.from_numpy(rng.normal(size=(300, 12)) + 0.6 * np.eye(4, 12)[labels.numpy()])
    train, held_out = (features[:200], labels[:200]), (features[200:], labels[200:])
    scaler = StandardScaler().fit(train[0])
    theirs = Ridge(alpha=room.RIDGE * 200).fit(scaler.transform(train[0]), np.eye(4)[train[1]])
    wanted = (theirs.predict(scaler.transform(held_out[0])).argmax(1) == held_out[1].numpy()).mean()
    assert ridge_accuracy(train, held_out) == pytest.approx(wanted)
    assert 0.3 < wanted < 0.95
    assert rankme(torch.eye(7)) == pytest.approx(7, rel=1e-4)
    assert rankme(torch.ones(9, 5)) == pytest.approx(1, rel=1e-4)


def test_features_are_those_of_timms_model(tiny_model):
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = tiny_model.encoder.forward_features(tiny_model.normalise(images))
    assert torch.allclose(mean_features(tiny_model, images, 2), tokens[:, 1:].mean(1), atol=1e-5)


def test_without_labels_the_rank_is_left(tiny_model):
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    judged = Judged(images, torch.full((8,), -1))
    assert set(judge(tiny_model, judged, judged)) == {"rankme"}


class Counted:
    def __init__(self, n):
        self.images = np.zeros((n, 32, 32, 3), np.uint8)

    def of(self):
        from r2mae_vision.data.store import ImageStore

        return ImageStore("s", self.images, np.arange(len(self.images)) % 10, tuple("0123456789"))


def test_judging_takes_a_twentieth_of_the_operations_at_most():
    from r2mae_vision.mae.flops import features_flops

    model = MaskedAutoencoder(MAEShape("vit_tiny_patch16_224", 32, 4, decoder_dim=64, decoder_depth=2, decoder_heads=4))
    data, other = Counted(3000).of(), Counted(900).of()
    for every, batch in ((30, 64), (100, 64), (100, 2048)):
        train, held_out = images_to_judge(model, data, other, apart=True, every=every, batch_size=batch, ratio=0.75)
        cost = (len(train.images) + len(held_out.images)) * features_flops(model)
        assert cost <= 0.05 * every * batch * train_flops(model, 0.75)
    assert (len(train.images), len(held_out.images)) == (3000, 900)
    train, held_out = images_to_judge(model, data, data, apart=False, every=100, batch_size=64, ratio=0.75)
    assert len(train.images) == 3 * len(held_out.images) or abs(len(train.images) - 3 * len(held_out.images)) < 4
    with pytest.raises(UserError, match=r"judges only \d+ images; judge every \d+ steps or more"):
        images_to_judge(model, data, other, apart=True, every=1, batch_size=64, ratio=0.75)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="--judge_patience counts judgements; add --judge_every"):
        Pretrain(data="digits", judge_patience=2, **TINY)
    with pytest.raises(UserError, match="--judge_every 900 is more than the 5 steps of the training"):
        pretrain(Pretrain(data="digits", epochs=1, judge_every=900, out=tmp_path / "run", **TINY))
    assert not (tmp_path / "run").exists()


def pictures(folder, names, n=3, seed=0):
    from PIL import Image

    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(n):  # a colour for each class
            colour = np.array([255 * (ord(name) % 2), 255 * (ord(name) // 2 % 2), 255 * (ord(name) // 4 % 2)])
            noise = rng.integers(0, 30, (16, 16, 3))
            Image.fromarray(np.abs(colour - noise).astype(np.uint8)).save(folder / name / f"{i}_{j}.png")


def sources(folder):
    from r2mae_vision.data.sources import open_source

    return open_source(str(folder)), open_source(str(folder), "val")


def judged_of(model, train, held_out, **changes):
    return images_to_judge(
        model, train, held_out, **{"apart": True, "every": 1000, "batch_size": 64, "ratio": 0.75, **changes}
    )


def test_classes_are_the_same_in_both_parts(tiny_model, tmp_path):
    """A class that validation lacks must not shift the numbers of the others."""
    pictures(tmp_path / "train", "abcd", n=8)
    pictures(tmp_path / "val", "bdz", n=4, seed=1)
    train, held_out = judged_of(tiny_model, *sources(tmp_path))
    assert held_out.labels.tolist() == [1] * 4 + [3] * 4 + [-1] * 4
    assert judge(tiny_model, train, held_out)["knn20_top1"] == 1.0


def test_several_classes_are_judged_by_mean_average_precision(tiny_model, capsys):
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 2, (60, 3), generator=generator).to(torch.int8)
    labels[:, 2] = 0  # a class that nothing has
    images[:, 0] = torch.where(labels[:, :1, None] == 1, 250, 5).to(torch.uint8)
    labels[5] = labels[45] = -1
    train, held_out = Judged(images[:40], labels[:40]), Judged(images[40:], labels[40:])
    values = judge(tiny_model, train, held_out)
    assert set(values) == {"rankme", "knn20_map", "linear_map"}
    kept, asked = [i for i in range(40) if i != 5], [i for i in range(20) if i != 5]
    features, others = mean_features(tiny_model, images[:40])[kept], mean_features(tiny_model, images[40:])[asked]
    truth = labels[40:][asked].numpy()
    theirs = Ridge(alpha=room.RIDGE * 39)
    scaler = StandardScaler().fit(features)
    scores = theirs.fit(scaler.transform(features), labels[:40][kept]).predict(scaler.transform(others))
    wanted = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in (0, 1)])
    assert values["linear_map"] == pytest.approx(wanted, abs=1e-3)
    from sklearn.neighbors import KNeighborsRegressor

    near = KNeighborsRegressor(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    scores = near.fit(features, labels[:40][kept]).predict(others)
    wanted = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in (0, 1)])
    assert values["knn20_map"] == pytest.approx(wanted, abs=1e-3)


def test_labels_of_several_classes_are_numbered_alike():
    labels = torch.tensor([[1, 0], [0, 1], [-1, -1]], dtype=torch.int8)
    found = room.numbered_as(["cat", "dog", "owl"], ["owl", "fox"], labels)
    assert found.tolist() == [[0, 0, 1], [0, 0, 0], [-1, -1, -1]]


@pytest.mark.parametrize(
    ("train", "held_out", "why"),
    [
        ([0, 1] * 5, [-1] * 4, "the held-out images have no labels"),
        ([-1] * 10, [0, 1], "the training images have no labels"),
        ([0] * 10, [0] * 4, "there is a single class"),
        ([[1, 0]] * 10, [[1, 0]] * 4, "no class has held-out images with it and without it"),
        ([[1, 0]] * 10, [0, 1], "several classes in one part of the data and one in the other"),
    ],
)
def test_where_labels_say_nothing_the_rank_is_left_and_it_is_said(tiny_model, capsys, train, held_out, why):
    from r2mae_vision.data.ranges import say_once
    from r2mae_vision.data.store import ImageStore

    say_once.cache_clear()
    stores = [
        ImageStore("s", np.zeros((len(y), 16, 16, 3), np.uint8), np.array(y), ("a", "b")) for y in (train, held_out)
    ]
    parts = judged_of(tiny_model, *stores)
    assert set(judge(tiny_model, *parts)) == {"rankme"}
    assert why in capsys.readouterr().out


def test_few_images(tiny_model, tmp_path):
    pictures(tmp_path / "train", "ab", n=4)
    pictures(tmp_path / "val", "ab", n=1, seed=1)
    train, held_out = judged_of(tiny_model, *sources(tmp_path))
    assert "knn8_top1" in judge(tiny_model, train, held_out)  # there are no 20 neighbours
    shutil.rmtree(tmp_path / "val" / "a")
    with pytest.raises(UserError, match="too few images to judge features by"):
        judged_of(tiny_model, *sources(tmp_path))
