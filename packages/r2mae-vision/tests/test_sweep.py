import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from r2mae_core import RunFolder, UserError
from r2mae_vision.mae import sweep as room
from r2mae_vision.mae.sweep import epochs_of, metrics_of, sweep
from r2mae_vision.options import Sweep

MODEL = {"model": "vit_tiny_patch16_224", "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 3}, "image_size": 8,
         "patch_size": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "batch_size": 128, "lr": 3e-3,
         "flip": False, "mask_shape": "blocks", "validate_every": 1000}  # fmt: skip
TUNED = {"epochs": 1, "batch_size": 64, "max_train": 128, "auto_augment": "none", "workers": 0, "warmup": 0}
TINY = Sweep("digits", epochs=5, ratios=(0.25, 0.75), ranges=((0.5, 0.9),), pretrain=MODEL,
             probe={"workers": 0, "k": [5]}, budget_runs=0.8, device="cpu", progress=False)  # fmt: skip


def test_a_sweep_end_to_end(tmp_path, monkeypatch, capsys):
    """On the command line, as a user calls it; the answer's command is one that pretrain takes."""
    from r2mae_vision.cli import main

    words = ["sweep", "digits", "--epochs", "5", "--ratios", "[0.25,0.75]", "--ranges", "[[0.5,0.9]]", "--pretrain",
             json.dumps(MODEL), "--probe", json.dumps(TINY.probe), "--budget_runs", "0.8", "--out", "s", "--device",
             "cpu", "--no-progress"]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    assert "Comparing 0.6-0.9, 0.75, 0.25, 0.5-0.9 by linear_top1" in capsys.readouterr().out
    answer = json.loads(Path("s/sweep.json").read_text())
    rows = {row["arm"]: row for row in answer["curve"]}
    assert set(rows) == {"0.25", "0.75", "0.6-0.9", "0.5-0.9"}
    assert all(row["n_short"] >= 1 for row in rows.values())
    assert answer["recommended"] in rows
    assert 0.2 < rows["0.25"]["mean"] < 1  # a tenth is chance
    trained = {path.parent.parent.parent.name: RunFolder.open(path.parent)
               for path in Path("s/trials").glob("*/0.2/pretrain/config.yaml")}  # fmt: skip
    assert set(trained) == {f"{name}-seed0" for name in rows}
    config = trained["0.5-0.9-seed0"].config
    assert (config["epochs"], config["seed"], config["mask_shape"]) == (1, 0, "blocks")
    assert config["mask_ratio"]["init_args"] == {"low": 0.5, "high": 0.9, "seed": 0}
    # It can be called: what it trains is what was compared.
    called = shlex.split(answer["pretrain"])
    assert called[:3] == ["r2mae-vision", "pretrain", "digits"]
    with pytest.raises(SystemExit) as end:
        main([*called[1:], "--print_config"])
    assert end.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert {name: shown[name] for name in MODEL} == MODEL
    assert shown["epochs"] == 5
    # With a larger budget it goes on; what was trained is not trained again.
    weights = {path: path.stat().st_mtime_ns for path in Path("s/trials").glob("*/0.2/pretrain/model/*.safetensors")}
    run = sweep(replace(TINY, budget_runs=1.2, out=Path("s")))
    more = json.loads((run.path / "sweep.json").read_text())
    assert more["trainings"] > answer["trainings"]
    assert all(path.stat().st_mtime_ns == before for path, before in weights.items())


def test_fine_tuning_can_judge(tmp_path):
    config = replace(TINY, evaluate="finetune", probe={}, finetune=TUNED, out=tmp_path / "run")
    run = sweep(config)
    answer = json.loads((run.path / "sweep.json").read_text())
    assert answer["metric"] == "top1"
    tuned = RunFolder.open(next((run.path / "trials").glob("0.25-seed0/0.2/finetune"))).config
    assert (tuned["max_train"], tuned["seeds"]) == (128, [0])


def test_lengths_and_metrics():
    assert [epochs_of(TINY, share) for share in (0.2, 0.4, 1.0)] == [1, 2, 5]
    assert [epochs_of(replace(TINY, epochs=150), share) for share in (0.2, 0.4, 1.0)] == [30, 60, 150]
    assert list(metrics_of(TINY)) == ["linear_top1", "linear_top5", "knn5_top1"]
    tuned = replace(TINY, evaluate="finetune", probe={}, finetune={"ema": 0.9})
    assert list(metrics_of(tuned)) == ["top1", "top5", "top1_ema", "top5_ema"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "auroc"}, "--metric auroc is not measured here; there is linear_top1, linear_top5, knn5_top1"),
        ({"metric": "top1"}, "--metric top1 is not measured here"),
        ({"data": "single"}, "single has a single class, a; a probe needs two"),
        ({"data": "nowhere"}, "nowhere: no such file or folder"),
        ({"epochs": 4}, "--epochs must be at least 5"),
        ({"ratios": (0.5, 0.98)}, "a mask ratio of 0.98 leaves no visible patch of 16"),
        ({"pretrain": {**MODEL, "seed": 3}}, "--pretrain seed is set by the sweep; leave it out"),
        ({"pretrain": {**MODEL, "mask_ratio": 0.3}}, "--pretrain mask_ratio is set by the sweep; leave it out"),
        ({"pretrain": {**MODEL, "deep": 3}}, "--pretrain has no option deep; known: "),
        ({"pretrain": {**MODEL, "devices": 2}}, "--pretrain devices: a training of a sweep has one device; start the"),
        ({"pretrain": {**MODEL, "batch_size": 5000}}, "1,347 samples do not fill a batch of 5,000"),
        ({"pretrain": {**MODEL, "image_size": 9}}, "image size 9 is not a multiple"),
        ({"probe": {"k": [5000]}}, "kNN with k = 5000 needs at least as many training images"),
        ({"finetune": TUNED}, "--finetune is not used with --evaluate probe; leave out one of the two"),
        ({"evaluate": "finetune"}, "--probe is not used with --evaluate finetune"),
        ({"evaluate": "finetune", "probe": {}, "finetune": {**TUNED, "micro_batch_size": 1}}, "mixup needs an even"),
        ({"evaluate": "finetune", "probe": {}, "finetune": {**TUNED, "max_train": 9}}, "9 samples do not fill a batch"),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_is_trained(tmp_path, monkeypatch, change, message):
    def never(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr(room, "pretrain", never)
    if change.get("data") == "single":
        for part in ("train", "val"):
            (tmp_path / "single" / part / "a").mkdir(parents=True)
            for i in range(128):
                Image.new("L", (8, 8), i).save(tmp_path / "single" / part / "a" / f"{i}.png")
    with pytest.raises(UserError, match=message):
        sweep(replace(TINY, **{"out": tmp_path / "run", **change}))
