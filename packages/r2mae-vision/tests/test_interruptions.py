"""Runs that are cut off, again and again, moved, or given other data."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from r2mae_core import UserError, fit, read_json, write_json
from r2mae_vision import load_mae
from r2mae_vision.data.store import ImageStore, read_names
from r2mae_vision.mae import finetune as tuning
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.model_options import Probe
from r2mae_vision.mae.options import Finetune, Pretrain
from r2mae_vision.mae.pretrain import pretrain
from r2mae_vision.mae.probe import probe
from r2mae_vision.mnist import pretrain as mlp
from r2mae_vision.mnist.pretrain import pretrain_mlp
from r2mae_vision.options import PretrainMLP

TINY = Pretrain(
    "digits", model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 3}, image_size=8,
    patch_size=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, epochs=1, batch_size=128, micro_batch_size=64,
    lr=3e-3, flip=False, checkpoint_every=3, log_every=2, device="cpu", progress=False,
)  # fmt: skip
TUNED = Finetune(
    "unset", "digits", epochs=2, warmup=0.25, batch_size=64, micro_batch_size=32, base_lr=0.02, max_train=320,
    auto_augment="none", flip=False, crop_pct=1.0, ema=0.5, checkpoint_every=3, device="cpu", workers=0, progress=False,
)  # fmt: skip


class CutError(Exception):
    """A process that was killed: nothing is tidied up."""


class Cuts(pl.Callback):
    """Cuts a training off before and after the given micro-batches of this process."""

    def __init__(self, before, after):
        self.before, self.after, self.n = before, after, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.n == self.before:
            raise CutError

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.n += 1
        if self.n == self.after:
            raise CutError


# In the first micro-batch after a resume, in the middle of a step, between a step and its checkpoint, after it.
CUTS = [(5, None), (1, None), (0, None), (None, 1), (None, 6), (3, None)]


def through(monkeypatch, room, run):
    """Run something that is cut off many times, and once to its end."""
    for before, after in CUTS:
        cut = Cuts(before, after)
        monkeypatch.setattr(
            room,
            "fit",
            lambda *a, **k: fit(*a, **{**k, "log_every": 2, "callbacks": [cut, *k.get("callbacks", ())]}),  # noqa: B023
        )
        with pytest.raises(CutError):
            run()
    monkeypatch.setattr(room, "fit", lambda *a, **k: fit(*a, **{**k, "log_every": 2}))
    return run()


def log(file):
    """Return a log's lines without those of speed."""
    return [line for line in file.read_text().splitlines() if "per_second" not in line and "flops" not in line]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return pretrain(replace(TINY, out=tmp_path_factory.mktemp("start") / "run")).path


def test_fine_tuning_cut_off_many_times_is_the_same(start, tmp_path, monkeypatch):
    """Weights, their average (moved after the step, before its checkpoint), records, and the log with its windows."""
    config = replace(TUNED, model=str(start))
    monkeypatch.setattr(tuning, "fit", lambda *a, **k: fit(*a, **{**k, "log_every": 2}))
    whole = finetune(replace(config, out=tmp_path / "whole"))
    cut = through(monkeypatch, tuning, lambda: finetune(replace(config, out=tmp_path / "cut")))
    for name in ("model.safetensors", "model_ema.safetensors", "config.json", "SHA256SUMS"):
        assert (cut.path / "seed0" / name).read_bytes() == (whole.path / "seed0" / name).read_bytes(), name
    assert log(cut.path / "seed0" / "metrics.csv") == log(whole.path / "seed0" / "metrics.csv")
    assert len(log(whole.path / "seed0" / "metrics.csv")) == 1 + 5
    assert [r.value for r in cut.results()] == [r.value for r in whole.results()]


def test_an_mlp_cut_off_many_times_is_the_same(tmp_path, monkeypatch):
    config = PretrainMLP("digits", n_hidden=(12, 6), epochs=3, device="cpu", progress=False)
    monkeypatch.setattr(mlp, "fit", lambda *a, **k: fit(*a, **{**k, "log_every": 2}))
    whole = pretrain_mlp(replace(config, out=tmp_path / "whole"))
    cut = through(monkeypatch, mlp, lambda: pretrain_mlp(replace(config, out=tmp_path / "cut")))
    name = "model/model.safetensors"
    assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert log(cut.metrics_file) == log(whole.metrics_file)
    assert [r.value for r in cut.results()] == [r.value for r in whole.results()]


def write_images(folder, names, n=12):
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


def test_a_run_and_its_data_may_be_moved_but_the_data_not_changed(tmp_path):
    write_images(tmp_path / "images", ("a", "b"))
    config = replace(TINY, data=str(tmp_path / "images"), batch_size=8, micro_batch_size=8, workers=0)
    run = pretrain(replace(config, out=tmp_path / "run"))
    weights = load_file(run.path / "model" / "model.safetensors")
    (tmp_path / "there").mkdir()
    (tmp_path / "run").rename(tmp_path / "there" / "moved")
    (tmp_path / "images").rename(tmp_path / "there" / "images")
    shutil.rmtree(tmp_path / "there" / "moved" / "model")  # as if it had been cut off before it was saved
    moved = replace(config, data=str(tmp_path / "there" / "images"), out=tmp_path / "there" / "moved")
    again = load_file(pretrain(moved).path / "model" / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    write_images(tmp_path / "there" / "images", ("c",))
    with pytest.raises(UserError, match=r"moved was made from other data: training data images/c/ is new"):
        pretrain(moved)


def test_what_is_made_from_a_model_goes_by_its_weights(start, tmp_path):
    shutil.copytree(start, tmp_path / "copy")
    options = {"data": "digits", "crop_pct": 1.0, "k": (3,), "device": "cpu", "progress": False, "out": tmp_path / "p"}
    run = probe(Probe(str(start), **options))
    assert probe(Probe(str(tmp_path / "copy"), **options)).results() == run.results()  # another place
    pretrain(replace(TINY, seed=1, out=tmp_path / "other"))
    with pytest.raises(UserError, match=r"p was made from other data: model was .* tensors and was|model was"):
        probe(Probe(str(tmp_path / "other"), **{**options, "seeds": (0,)}))
    config = replace(TUNED, model=str(start), epochs=1, out=tmp_path / "tuned", seeds=(0,))
    finetune(config)
    with pytest.raises(UserError, match=r"tuned was made from other data: model was"):
        finetune(replace(config, model=str(tmp_path / "other")))


def test_a_stack_resumes_with_its_own_images(tmp_path, digits, write_mnist):
    write_mnist(tmp_path / "mnist", digits)
    config = PretrainMLP(str(tmp_path / "mnist"), n_hidden=(8, 4), epochs=1, device="cpu", progress=False)
    pretrain_mlp(replace(config, out=tmp_path / "run"))
    (tmp_path / "mnist").rename(tmp_path / "elsewhere")
    pretrain_mlp(replace(config, data=str(tmp_path / "elsewhere"), out=tmp_path / "run"))
    write_mnist(tmp_path / "elsewhere", digits, **{"train-labels-idx1-ubyte": 9 - digits.train_labels.to(torch.uint8)})
    with pytest.raises(UserError, match=r"run was made from other data: training images was changed since"):
        pretrain_mlp(replace(config, data=str(tmp_path / "elsewhere"), out=tmp_path / "run"))


def test_a_failed_start_leaves_the_folder_to_the_next(start, tmp_path):
    with pytest.raises(UserError, match="timm cannot build"):  # known only when the model is built
        finetune(replace(TUNED, model=str(start), pool="nonsense", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="1347 samples do not fill a batch"):
        pretrain_mlp(PretrainMLP("digits", batch_size=10**6, device="cpu", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_workers_do_not_outlive_a_caller_that_is_killed(tmp_path):
    code = "import multiprocessing, os, sys, time\n"
    code += "from r2mae_core import end_with_caller\n"
    code += "def work():\n    end_with_caller(0)\n    time.sleep(60)\n"
    code += "process = multiprocessing.get_context('fork').Process(target=work); process.start()\n"
    code += "print(process.pid, flush=True); time.sleep(60)"
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    for _ in range(100):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or ") Z " in state.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the worker lives")


def test_a_broken_line_of_skipped_images_is_mended(tmp_path):
    """A process may be killed while it writes one; names come once, in the order in which they were met."""
    write_images(tmp_path / "images", ("a", "b"))
    for name in ("a/3.png", "b/7.png", "b/8.png"):
        (tmp_path / "images" / name).write_bytes(b"nothing")
    config = replace(TINY, data=str(tmp_path / "images"), batch_size=8, micro_batch_size=8, workers=0, epochs=2)
    whole = (pretrain(replace(config, out=tmp_path / "whole")).path / "skipped.txt").read_text()
    assert sorted(whole.splitlines()) == ["a/3.png", "b/7.png", "b/8.png"]
    run = pretrain(replace(config, out=tmp_path / "cut"))
    (run.path / "model" / "mae.json").unlink()
    (run.path / "skipped.txt").write_text(whole[:-3])
    (run.path / "checkpoints" / "last.ckpt").unlink()
    pretrain(replace(config, out=tmp_path / "cut"))
    assert (run.path / "skipped.txt").read_text() == whole
    assert load_mae(run.path).shape.in_chans == 3


def test_a_files_name_is_one_line_of_text(tmp_path, capsys):
    from r2mae_vision.data.prepare import prepare
    from r2mae_vision.options import Prepare

    write_images(tmp_path / "images", ("a", "b"), n=2)
    for name in (b"line\nbreak.png", b"latin\xe9.png"):
        (tmp_path / "images" / "a").joinpath(name.decode("utf-8", "surrogateescape")).write_bytes(b"nothing")
    out = prepare(Prepare(str(tmp_path / "images"), image_size=8, workers=0, out=tmp_path / "store", progress=False))
    lines = (out / "train" / "skipped.txt").read_text().splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == ["a/latin\\udce9.png", "a/line\\nbreak.png"]
    assert json.loads((out / "train" / "store.json").read_text())["left_out"] == {"unreadable": 2}


def test_a_store_knows_the_names_of_its_files(tmp_path):
    """Whatever a file is called, its name is one line, and what was left out has none."""
    from r2mae_vision.data.prepare import prepare
    from r2mae_vision.options import Prepare

    images = tmp_path / "images"
    write_images(images, ("a", "b"), n=3)
    (images / "a" / "0.png").write_bytes(b"nothing")
    odd = [b"line\nbreak.png", b"return\r\n.png", b"latin\xe9.png", "\u2028\x85.png".encode()]
    for name in odd:
        shutil.copy(images / "a" / "1.png", images / "a" / name.decode("utf-8", "surrogateescape"))
    out = prepare(Prepare(str(images), image_size=8, workers=0, out=tmp_path / "store", progress=False)) / "train"
    names = read_names(out)
    assert names is not None
    assert [name for name in names if name.isascii() and "\\" not in name] == [
        "a/1.png",
        "a/2.png",
        "b/0.png",
        "b/1.png",
        "b/2.png",
    ]
    assert len(names) == 5 + len(odd)
    (out / "names.txt").write_bytes((out / "names.txt").read_bytes().replace(b"b/1", b"b/7"))
    with pytest.raises(UserError, match=r"names\.txt is damaged"):
        read_names(out)
    index = read_json(out / "store.json")
    del index["names"]
    write_json(out / "store.json", index)
    assert ImageStore.open(out).file_name(3) == "image 3"  # of an earlier version
