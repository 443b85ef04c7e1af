"""Images of several classes: labels in tables, sets and stores, training, judging; columns without `prepare`."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pyarrow import parquet

from r2mae_core import UserError, read_metrics
from r2mae_vision.data.labels import numbered
from r2mae_vision.data.multilabel import of_columns, separated, written
from r2mae_vision.data.pairs import open_pair, open_parts
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import how_to_open, open_source
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.model_options import Predict, Probe, Reconstruct
from r2mae_vision.mae.options import Finetune, Pretrain, Reproduce, Sweep
from r2mae_vision.mae.predict import predict
from r2mae_vision.mae.pretrain import pretrain
from r2mae_vision.mae.probe import judged, lars_scores, logistic_scores, probe
from r2mae_vision.mae.reconstruct import reconstruct
from r2mae_vision.mae.several import class_scores, means, mixed_targets, smoothed
from r2mae_vision.mae.sweep import sweep
from r2mae_vision.options import Prepare

COLOURS = ("blue", "green", "red")
QUIET = {"workers": 0, "progress": False}
TINY = Pretrain(
    "unset", model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 3}, image_size=8,
    patch_size=4, decoder_dim=16, decoder_depth=1, decoder_heads=2, epochs=5, batch_size=8, micro_batch_size=8,
    lr=3e-3, device="cpu", **QUIET,
)  # fmt: skip
TUNED = Finetune(
    "unset", "unset", epochs=2, batch_size=8, auto_augment="none", crop_pct=1.0, base_lr=0.1, device="cpu", **QUIET
)


def colours_of(i):
    return [name for k, name in enumerate(COLOURS) if i >> k & 1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """48 pictures, number i with the channels that the bits of i say, and tables that name these in every way."""
    home = tmp_path_factory.mktemp("several")
    (home / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(48):
        colours = colours_of(i % 8)
        on = [200 if name in colours else 20 for name in reversed(COLOURS)]  # red, green, blue
        pixels = np.clip(rng.normal(on, 25, (12, 12, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(home / "images" / f"{i}.png")
        rows.append((f"{i}.png", colours, "train" if i < 32 else "val"))
    write(home / "bits.csv", [["file", *COLOURS, "split"],
                              *([f, *(int(c in some) for c in COLOURS), s] for f, some, s in rows)])  # fmt: skip
    some = [row for row in rows if row[1]]
    write(home / "joined.csv", [["file", "tags", "split"], *([f, "|".join(c), s] for f, c, s in some)])
    lists = {"file": [f for f, _, _ in rows], "tags": [c for _, c, _ in rows], "split": [s for *_, s in rows]}
    parquet.write_table(pa.table(lists), home / "lists.parquet")
    return home


def write(file, rows):
    with file.open("w", newline="") as text:
        csv.writer(text).writerows(rows)


WAYS = {
    "bits.csv": {"label_columns": "blue,green,red"},
    "joined.csv": {"label_column": "tags", "label_separator": "|"},
    "lists.parquet": {"label_column": "tags"},
}


@pytest.mark.parametrize("table", WAYS)
def test_every_way_to_write_several_classes_is_read_alike(home, tmp_path, table):
    config = Prepare(
        str(home / "images"), labels=home / table, image_size=8, out=tmp_path / "store", **WAYS[table], **QUIET
    )
    train, val = open_pair(str(prepare(config)))
    assert train.classes == val.classes == COLOURS
    assert (train.labels.dtype, train.labels.ndim) == (np.int8, 2)
    for part in (train, val):
        for picture, label in zip(part.images, part.labels, strict=True):
            bright = picture.mean((0, 1)) > 100  # red, green, blue
            assert bright[::-1].tolist() == (label == 1).tolist()
    assert len(train) == (28 if table == "joined.csv" else 32)
    index = json.loads((tmp_path / "store" / "train" / "store.json").read_text())
    assert index["multi_label"] == 3
    assert prepare(config) == tmp_path / "store"
    for i in (1, 2):
        prepare(replace(config, part=f"{i}/2", out=tmp_path / "parts"))
    joined = open_source(str(prepare(replace(config, join=True, out=tmp_path / "parts"))))
    assert np.array_equal(joined.labels, train.labels)
    jpeg = open_source(str(prepare(replace(config, store="jpeg", out=tmp_path / "jpeg"))))
    assert np.array_equal(jpeg.labels, train.labels)
    assert np.array_equal(jpeg.read(3, 3)[1], train.labels[3])
    other = {"label_columns": "red,green,blue"} if "label_columns" in WAYS[table] else {"label_separator": "/"}
    with pytest.raises(UserError, match=r"holds images prepared in another way: columns"):
        prepare(replace(config, **other))


def test_sets_of_hugging_face_name_several_classes(tmp_path):
    import datasets
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

    features = Features({
        "image": datasets.Image(), "tags": Sequence(ClassLabel(names=list(COLOURS))), "words": Sequence(Value("string"))
    })  # fmt: skip
    content = {"image": [{"bytes": b"", "path": None}] * 4, "tags": [[0, 2], [], None, [1]]}
    content["words"] = [["a"], ["b", "a"], [], None]
    parts = DatasetDict(train=Dataset.from_dict(content, features=features))
    parts.save_to_disk(str(tmp_path / "saved"))
    from r2mae_vision.data.hub import open_hub
    from r2mae_vision.data.labels import Columns

    found = open_hub(f"hfds/{tmp_path / 'saved'}", "train", Columns())  # the type leaves no doubt
    assert found.classes == COLOURS
    assert found.labels.tolist() == [[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]]
    found = open_hub(f"hfds/{tmp_path / 'saved'}", "train", Columns(label="words"))
    assert (found.classes, found.labels.tolist()) == (("a", "b"), [[1, 0], [1, 1], [0, 0], [-1, -1]])


def test_labels_of_text_and_columns():
    found = numbered(["cat|dog", " dog ", "", "dog||dog", None], "t", separator="|")
    assert found.classes == ("cat", "dog")
    assert found.numbers.tolist() == [[1, 1], [0, 1], [-1, -1], [0, 1], [-1, -1]]
    assert numbered(["10,9", "9"], "t", separator=",").classes == ("9", "10")
    assert separated([" ", float("nan")], "|") == [None, None]
    with pytest.raises(UserError, match=r"t holds 'x' \(row 2\) among lists of classes"):
        numbered([["a"], "x"], "t")
    with pytest.raises(UserError, match=r"the label '3', which is none of the 2 classes"):
        numbered([[0, 3]], "t", ["a", "b"])
    table = {"a": ["1", "false", "", "0.0"], "b": [1, True, None, 0]}
    assert of_columns(table, ["b", "a"], "t").tolist() == [[1, 1], [1, 0], [-1, -1], [0, 0]]
    for bad, message in (("-1", r"column a holds '-1' \(row 1\), where 0 or 1"), ("", r"column a holds '' \(row 1\)"),
                         ("0.5", "holds '0.5'"), ("2", "holds '2'")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            of_columns({"a": [bad], "b": ["1"]}, ["a", "b"], "t")
    with pytest.raises(UserError, match="has no column 'c'; it has a, b"):
        of_columns(table, ["a", "c"], "t")
    assert written(np.array([1, 0, 1], np.int8), COLOURS) == "blue|red"
    assert (written(np.int64(1), COLOURS), written(-1, COLOURS)) == ("green", "")


def test_classes_of_the_parts_are_put_in_one_order(home, tmp_path):
    write(tmp_path / "val.csv", [["file", "tags"], [str(home / "images" / "4.png"), "red"],
                                 [str(home / "images" / "2.png"), "green"]])  # fmt: skip
    write(tmp_path / "train.csv", [["file", "tags"], *(
        [str(home / "images" / f"{i}.png"), "|".join(colours_of(i))] for i in range(1, 8))])  # fmt: skip
    how = Finetune("m", str(tmp_path / "train.csv"), label_column="tags", label_separator="|")
    say_once.cache_clear()
    train, val = open_parts(how.data, str(tmp_path / "val.csv"), how_to_open(how))
    assert val.classes == train.classes == COLOURS
    assert val.labels.tolist() == [[0, 0, 1], [0, 1, 0]]
    with pytest.raises(UserError, match=r"an image has several classes in train, and one in photographs: labels do"):
        open_parts(how.data, "photographs", how_to_open(how))
    write(tmp_path / "some.csv", [["file", "tags"], [str(home / "images" / "4.png"), ""],
                                  [str(home / "images" / "3.png"), "red|green"]])  # fmt: skip
    with pytest.raises(UserError, match=r"1 of 2 training images .* have no label \(an empty cell is no label; with"):
        open_pair(str(tmp_path / "some.csv"), str(tmp_path / "val.csv"), how_to_open(how))


def test_scores_of_classes_by_their_definition():
    """Average precision by its sum over the positives, the area under the curve by counting pairs."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(40, 5)).round(1)  # with ties
    labels = (rng.random((40, 5)) < 0.3).astype(np.int8)
    labels[:, 3], labels[:, 4] = 0, 1
    found = class_scores(scores, labels, "abcde")
    for k in range(3):
        s, y = scores[:, k], labels[:, k]
        pairs = s[y == 1][:, None] - s[y == 0][None]
        assert found[k].auroc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        precision = [(y[s >= t].mean(), (y[s >= t] == 1).sum() / y.sum()) for t in sorted(set(s), reverse=True)]
        last, area = 0.0, 0.0
        for p, r in precision:
            area, last = area + p * (r - last), r
        assert found[k].average_precision == pytest.approx(area)
        assert found[k].n_positive == y.sum()
    assert found[3][1:] == (0, None, None)
    assert found[4][1:] == (40, None, None)


def test_classes_that_cannot_be_judged_are_counted(capsys):
    scores, labels = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[1, 0], [0, 0]])
    assert means(class_scores(scores, labels, ["x", "y"])) == {"map": 1.0, "auroc": 1.0}
    assert "1 of 2 classes are left out of the means" in capsys.readouterr().out
    with pytest.raises(UserError, match="no class has images with it and images without it"):
        means(class_scores(scores, labels * 0, ["x", "y"]))


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_labels_are_mixed_as_the_images_are(alphas):
    from timm.data.mixup import Mixup

    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]])
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).clone()  # image i is full of i
    for seed in range(5):
        np.random.seed(seed)  # noqa: NPY002
        mixed, targets = mixed_targets(Mixup(*alphas, label_smoothing=0.0, num_classes=3), images.clone(), labels)
        for i in range(4):  # with image 3 - i: what is left of i is read off the pixels
            share = (mixed[i].mean().item() - (3 - i)) / (i - (3 - i))
            torch.testing.assert_close(targets[i], share * labels[i] + (1 - share) * labels[3 - i], atol=1e-5, rtol=0)
    assert smoothed(torch.tensor([[1.0, 0.0]]), 0.1).tolist() == [[pytest.approx(0.95), pytest.approx(0.05)]]


def test_the_loss_is_the_binary_cross_entropy(home):
    from r2mae_vision.mae.classifier import Classifier
    from r2mae_vision.mae.encoders import EncoderSpec, build_encoder
    from r2mae_vision.mae.pretrain import shape_of

    store = open_source("photographs")
    spec = EncoderSpec(shape_of(TINY, store), None, "none")
    config = replace(TUNED, mixup=0.0, cutmix=0.0, erase=0.0, smoothing=0.2, drop_path=0.0)
    module = Classifier(build_encoder(spec, 0, num_classes=3, global_pool="avg"), spec, config, 0)
    images, labels = torch.randint(0, 255, (4, 3, 8, 8)), torch.tensor([[1, 0, 1]] * 4, dtype=torch.int8)
    logits = module.model(module.normalise(images)).double()
    y = labels.double() * 0.8 + 0.2 / 3
    wanted = -(y * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)).mean()
    assert module._binary_loss(module.normalise(images), labels.float()).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )


def test_linear_probes_of_each_class():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random((300, 3)) < 0.4).astype(np.int8))
    features = torch.from_numpy(rng.normal(size=(300, 6))).float()
    features[:, :2] += 3 * labels[:, :2]
    train, val = (features[:200], labels[:200]), (features[200:], labels[200:])
    for scores in (logistic_scores(train, val), lars_scores(train, val, seed=0, base_lr=25.6)):
        aucs = [one.auroc for one in class_scores(scores.numpy(), val[1].numpy(), "abc")]
        assert min(aucs[:2]) > 0.95
        assert 0.3 < aucs[2] < 0.7  # its features say nothing of it
    assert set(judged(scores, val[1], "abc")) == {"map", "auroc"}
    none = labels[:200].clone()
    none[:, 1] = 0
    assert torch.equal(logistic_scores((features[:200], none), val)[:, 1], torch.zeros(100, dtype=torch.float64))


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """A pretraining on a table that was never prepared."""
    out = tmp_path_factory.mktemp("run")
    config = replace(TINY, data=str(home / "images"), labels=home / "bits.csv", label_columns=COLOURS, out=out / "run")
    return pretrain(config)


def test_from_a_table_to_the_answers(home, run, tmp_path, capsys):
    assert run.config["label_columns"] == list(COLOURS)
    columns = {"labels": home / "bits.csv", "label_columns": COLOURS}
    found = probe(Probe(str(run.path), k=(3,), pool="avg", crop_pct=1.0, device="cpu", out=tmp_path / "p", **QUIET))
    records = {record.metric: record.value for record in found.results()}
    assert set(records) == {"linear_map", "linear_auroc"}
    assert records["linear_auroc"] > 0.9  # the colours are in the patches
    assert "no nearest neighbours" in capsys.readouterr().out
    assert reconstruct(Reconstruct(run.path, n_images=2, device="cpu", out=tmp_path / "r.png")).is_file()

    config = replace(TUNED, model=str(run.path), data=str(home / "images"), ema=0.5, out=tmp_path / "t", **columns)
    tuned = finetune(config)
    assert {record.metric for record in tuned.results()} == {"map", "auroc", "map_ema", "auroc_ema"}
    rows = list(csv.reader((tuned.path / "seed0" / "classes.csv").read_text().splitlines()))
    assert [row[:2] for row in rows] == [["class", "positives"], ["blue", "8"], ["green", "8"], ["red", "8"]]
    ap = [float(row[2]) for row in rows[1:]]
    assert next(r.value for r in tuned.results() if r.metric == "map") == pytest.approx(np.mean(ap))

    asked = Predict(str(tuned.path), str(home / "images"), device="cpu", workers=0, out=tmp_path / "a.csv", **columns)
    rows = list(csv.DictReader(predict(asked).read_text().splitlines()))
    assert list(rows[0]) == ["image", "label", "prediction", "p(blue)", "p(green)", "p(red)"]
    assert len(rows) == 16
    exact = 0
    for row in rows:
        wanted = colours_of(int(row["image"].removesuffix(".png")) % 8)
        assert row["label"] == "|".join(wanted)
        above = [name for name in COLOURS if float(row[f"p({name})"]) >= 0.5]
        assert row["prediction"] == "|".join(above)
        exact += above == wanted
    said = " ".join(capsys.readouterr().out.split())
    assert f"{exact} of 16 images with a known label are predicted right, all their classes and no other" in said

    import timm

    theirs = timm.create_model(f"local-dir:{tuned.path / 'seed0'}", pretrained=True).eval()
    with torch.no_grad(), Image.open(home / "images" / rows[3]["image"]) as picture:
        pixels = torch.from_numpy(np.array(picture.resize((8, 8), Image.Resampling.BICUBIC))).permute(2, 0, 1)[None]
        spec = theirs.pretrained_cfg
        mean, std = (torch.tensor(spec[name]).view(3, 1, 1) for name in ("mean", "std"))
        wanted = theirs((pixels / 255 - mean) / std).sigmoid()[0]
    assert [float(rows[3][f"p({name})"]) for name in COLOURS] == pytest.approx(wanted.tolist(), abs=1e-4)
    # Without the columns the same folder has no labels, and is predicted all the same.
    bare = predict(Predict(str(tuned.path), str(home / "images"), device="cpu", workers=0, out=tmp_path / "b.csv"))
    assert len(bare.read_text().splitlines()) == 49
    with pytest.raises(UserError, match=r"no label|no classes|no validation part"):
        finetune(replace(config, labels=None, label_columns=None, out=tmp_path / "u"))


def test_a_page_and_a_card_of_such_runs(home, run, tmp_path):
    from r2mae_core import run_summary
    from r2mae_vision.mae.sharing import write_model
    from r2mae_vision.page import pictures

    assert len(pictures(run_summary(run.path))) == 1  # of images whose place in the table the run states
    tuned = finetune(
        replace(TUNED, model=str(run.path), data=str(home / "images"), labels=home / "bits.csv", epochs=1,
                label_columns=COLOURS, out=tmp_path / "t")
    )  # fmt: skip
    (tmp_path / "card").mkdir()
    facts = write_model(tuned.path, tmp_path / "card")
    assert "one or several" in facts.what
    assert json.loads((tmp_path / "card" / "config.json").read_text())["multi_label"] is True


def test_judged_in_training_by_the_precision_of_classes(home, tmp_path):
    columns = {"labels": home / "bits.csv", "label_columns": "blue,green,red"}
    run = pretrain(replace(TINY, data=str(home / "images"), epochs=25, judge_every=75, out=tmp_path / "run", **columns))
    judged = {name for name in read_metrics(run.metrics_file) if name.startswith("judge/")}
    assert {"judge/linear_map", "judge/rankme"} <= judged
    assert any(name.endswith("_map") and name.startswith("judge/knn") for name in judged)


def test_sweep_finds_the_ratio_by_the_precision_of_classes(home, tmp_path):
    options = {
        name: getattr(TINY, name)
        for name in (
            "model_args",
            "image_size",
            "patch_size",
            "decoder_dim",
            "decoder_depth",
            "decoder_heads",
            "workers",
        )
    }
    pretraining = {**options, "model": TINY.model, "batch_size": 8}
    config = Sweep(
        data=str(home / "images"), labels=home / "bits.csv", label_columns=COLOURS, epochs=5, budget_runs=2,
        ratios=(0.25, 0.5, 0.75), ranges=(), pretrain=pretraining, probe={"workers": 0, "crop_pct": 1.0},
        device="cpu", progress=False, out=tmp_path / "sweep",
    )  # fmt: skip
    assert {record.metric for record in sweep(config).results()} == {"linear_map"}
    from r2mae_vision.mae.paper import reproduce

    with pytest.raises(UserError, match="table 1 is of images with one class each"):
        reproduce(Reproduce("table1", data=config.data, labels=config.labels, label_columns=COLOURS, device="cpu"))


def test_held_out_images_by_which_nothing_can_be_judged(home, tmp_path):
    rows = [["file", "a", "b", "split"], *([f"{i}.png", i % 2, i % 3 == 0, "train"] for i in range(40))]
    rows = [[int(x) if isinstance(x, bool) else x for x in row] for row in rows]
    write(tmp_path / "t.csv", [*rows, *([f"{i}.png", 0, 0, "val"] for i in range(40, 48))])
    columns = {"labels": tmp_path / "t.csv", "label_columns": ("a", "b")}
    config = replace(TUNED, model="scratch:vit_tiny_patch16_224", data=str(home / "images"), **columns)
    with pytest.raises(UserError, match="no class has images with it and images without it, so nothing can be judged"):
        finetune(replace(config, out=tmp_path / "t"))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("digits", {"label_column": "x"}, "--label_column has no meaning for digits, whose labels are known; leave"),
        ("store", {"labels": "t.csv"}, "--labels has no meaning for .*store, whose labels are known"),
        ("images", {"label_column": "x"}, "--label_column is of a table: name the table of .*images with --labels"),
        ("bits.csv", {"config_name": "x"}, "--config_name has no meaning for .*bits.csv; it takes --image_column"),
        ("bits.csv", {"labels": "t.csv"}, "--labels has no meaning for .*bits.csv"),
        ("hfds/x", {"split_column": "x"}, "--split_column has no meaning for hfds/x; it takes --image_column"),
        ("wds/x", {"label_columns": "x"}, "--label_columns has no meaning for wds/x"),
    ],
)
def test_options_without_effect_are_refused(home, tmp_path, data, options, message):
    if data == "store":
        prepare(Prepare(str(home / "images"), image_size=8, out=tmp_path / "store", **QUIET))
    place = {"store": tmp_path / "store", "images": home / "images", "bits.csv": home / "bits.csv"}.get(data, data)
    with pytest.raises(UserError, match=message):
        pretrain(replace(TINY, data=str(place), out=tmp_path / "run", **options))


def test_options_that_contradict_each_other():
    for options, message in (
        ({"label_columns": "a", "label_column": "b"}, "--label_columns are the labels; leave out --label_column"),
        ({"label_columns": "a,b", "label_separator": ";"}, "leave out --label_separator"),
        ({"label_columns": "a,,b"}, "--label_columns has an empty name"),
        ({"label_columns": "a,a"}, "--label_columns has a twice"),
        ({"label_separator": ""}, "--label_separator is empty"),
    ):
        for kind in (Prepare, Finetune, Predict):
            with pytest.raises(UserError, match=message):
                kind(*["x", "x"][: 1 + (kind is not Prepare)], **options)
    assert Prepare("x", label_columns="a, b").label_columns == ("a", "b")


def test_a_parquet_table_names_its_parts(home, tmp_path):
    """As a .csv does: its validation rows are no training images."""
    table = parquet.read_table(home / "lists.parquet").to_pydict()
    table["file"] = [f"images/{name}" for name in table["file"]]
    parquet.write_table(pa.table(table), home / "whole.parquet")
    train, val = open_parts(str(home / "whole.parquet"))
    assert (len(train), len(val)) == (32, 16)
