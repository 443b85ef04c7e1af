import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from r2mae_core import LinearDecay, Uniform, UserError, read_metrics, read_records
from r2mae_vision import load_mae, open_source, save_mae, split_patches
from r2mae_vision.mae import module as room
from r2mae_vision.mae.masking import n_hidden
from r2mae_vision.mae.module import MaskedImageModule
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import VisionModality, pretrain

TINY = Pretrain(
    "digits", model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 3}, image_size=8,
    patch_size=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, epochs=2, batch_size=128, lr=3e-3, flip=False,
    device="cpu", progress=False, log_every=5,
)  # fmt: skip


def weights(run):
    return load_mae(run.path).state_dict()


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_pretraining_learns_to_look_at_what_is_visible(tmp_path):
    """Trivial: the mean target of every position, the best that a model can say that ignores the visible patches."""
    bigger = {"model_args": {"depth": 2, "embed_dim": 48, "num_heads": 3}, "decoder_dim": 32}
    config = replace(TINY, **bigger, epochs=25, batch_size=64, augment="none", mask_ratio=0.5, lr=4e-3)
    run = pretrain(replace(config, out=tmp_path / "run"))
    model = load_mae(run.path)

    def targets(split):
        store = open_source("digits", split)
        images = model.normalise(store.fetch(np.arange(len(store)))[0])
        return images, model.targets(model.patchify(images))

    mean = targets("train")[1].mean(0)
    images, wanted = targets("val")
    trivial = (wanted - mean).square().mean()
    with torch.no_grad():
        loss = model(images, split_patches(len(images), 16, 0.5, torch.Generator().manual_seed(0)))[0]
    assert loss < 0.9 * trivial  # 0.353 against 0.427 when this was written
    losses = [value for _, value in read_metrics(run.metrics_file)["loss"]]
    assert losses[-1] < 0.8 * losses[0]
    curve = {record.metric: record.value for record in run.results()}
    assert curve["loss@0.5"] < curve["loss@0.75"] < curve["loss@0.9"]
    assert curve["loss@0.5"] == pytest.approx(float(loss), rel=0.05)  # other masks, the same images


@pytest.mark.parametrize(
    "options",
    [{}, {"ratio_per": "sample"},
     {"ratio_per": "sample", "mask_shape": "inverse_blocks", "loss_weight": "inverse_ratio", "mask_ratio": "mage"}],
    ids=["step", "sample", "sample in blocks, weighted"],
)  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, options):
    class PowerCutError(Exception):
        pass

    class CutAt(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 13:
                raise PowerCutError

    config = replace(TINY, **options, checkpoint_every=4)
    whole = pretrain(replace(config, out=tmp_path / "whole"))

    monkeypatch.setattr(VisionModality, "callbacks", lambda self, run: [CutAt()])
    with pytest.raises(PowerCutError):
        pretrain(replace(config, out=tmp_path / "cut"))
    monkeypatch.undo()
    resumed = pretrain(replace(config, out=tmp_path / "cut"))
    assert equal(weights(whole), weights(resumed))
    assert not equal(weights(whole), weights(pretrain(replace(config, seed=1, out=tmp_path / "other"))))


def assert_close(one, two):
    """Equal to rounding. A key's bias changes no attention: its gradient is rounding alone, which Adam makes large."""
    for name, value in one.items():
        keys = slice(len(value) // 3, len(value) * 2 // 3) if name.endswith("qkv.bias") else slice(0)
        first, second = (weight.clone() for weight in (value, two[name]))
        first[keys] = second[keys] = 0
        torch.testing.assert_close(first, second, rtol=1e-4, atol=2e-5)


def two_ranks(*words):
    """Run the script of the two-process tests."""
    script = Path(__file__).with_name("two_ranks.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(script), *map(str, words)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    spec = importlib.util.spec_from_file_location("vision_two_ranks", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("ratio_per", ["step", "sample"])
def test_two_ranks_are_one_process_that_accumulates(tmp_path, ratio_per):
    """With whole or with divided models: images, masks, ratios, weights. Images and masks of two ranks differ."""
    script = two_ranks(ratio_per, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert len(ranks[0]["ddp"]) == len(ranks[1]["ddp"]) == 10
    for rank in ranks:
        assert rank["ddp"] == rank["fsdp"]
    for (step0, ratio0, images0, hidden0), (step1, ratio1, images1, hidden1) in zip(
        *(rank["ddp"] for rank in ranks), strict=True
    ):
        assert step0 == step1
        if ratio_per == "sample":  # each image's own, by its place in the global batch
            assert [*ratio0, *ratio1] == Uniform(0.6, 0.9).samples(step0, 10, n=128).tolist()
        else:
            assert ratio0 == ratio1
        assert images0 != images1
        assert hidden0 != hidden1
    alone = script.traced(tmp_path / "one", 1, "auto", ratio_per)
    assert [entry for pair in zip(*(rank["ddp"] for rank in ranks), strict=True) for entry in pair] == alone
    one = load_mae(tmp_path / "one").state_dict()
    for strategy in ("ddp", "fsdp"):
        assert_close(one, load_mae(tmp_path / strategy).state_dict())
    losses = [{r.metric: r.value for r in read_records(tmp_path / name)} for name in ("one", "ddp", "fsdp")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    curves = [read_metrics(tmp_path / name / "metrics.csv") for name in ("ddp", "fsdp")]
    for name in ("val_loss/ratio_0.25", "val_loss/ratio_0.9"):
        assert len(curves[0][name]) == 10
        assert [value for _, value in curves[0][name]] == pytest.approx([v for _, v in curves[1][name]], rel=1e-4)


def test_the_loss_on_held_out_images_is_logged_in_training(tmp_path):
    """The last validation is of the finished model: it agrees with results.json, whose masks are others."""
    run = pretrain(replace(TINY, out=tmp_path / "run"))
    curves, found = read_metrics(run.metrics_file), {record.metric: record.value for record in run.results()}
    assert {record.split for record in run.results()} == {"validation"}
    for ratio in ("0.25", "0.5", "0.75", "0.9"):
        steps = [step for step, _ in curves[f"val_loss/ratio_{ratio}"]]
        assert len(steps) == 10  # every tenth of the training
        assert curves[f"val_loss/ratio_{ratio}"][-1][1] == pytest.approx(found[f"loss@{ratio}"], rel=0.02)
    assert read_metrics(pretrain(replace(TINY, validate_every=10, out=tmp_path / "b")).metrics_file)[
        "val_loss/ratio_0.5"
    ][0][1] == pytest.approx(curves["val_loss/ratio_0.5"][4][1])


def test_a_run_goes_on_in_the_same_parts_but_may_be_compiled(tmp_path):
    run = pretrain(replace(TINY, out=tmp_path / "run"))
    (run.path / "model" / "mae.json").unlink()
    with pytest.raises(UserError, match="micro_batch_size is 64 there and 32 here"):
        pretrain(replace(TINY, micro_batch_size=32, out=tmp_path / "run"))
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    assert set(state) == {f"model.{name}" for name in load_mae_names(run)}
    pretrain(replace(TINY, compile=True, out=tmp_path / "run"))  # the last checkpoint loads; nothing is left to do
    assert (run.path / "model" / "mae.json").exists()


def load_mae_names(run):
    from safetensors.torch import load_file

    return load_file(run.path / "model" / "model.safetensors").keys()


def test_losses_are_logged_once_a_step_over_all_its_parts(tmp_path):
    """A step in four parts logs the mean of the same losses; masks differ, so only roughly the same values."""
    curves = []
    for micro in (128, 32):
        run = pretrain(replace(TINY, micro_batch_size=micro, augment="none", log_every=2, out=tmp_path / str(micro)))
        rows = [line for line in run.metrics_file.read_text().splitlines() if ",loss," in line]
        assert len(rows) == 10
        curves.append([value for _, value in read_metrics(run.metrics_file)["loss"]])
    assert curves[0] == pytest.approx(curves[1], rel=0.1)


@pytest.mark.parametrize("micro", [128, 32])
@pytest.mark.parametrize("scheme", ["r2mae", "r2mae+dynamic", "mdlm"])
def test_the_ratios_of_images_are_the_samplers_however_the_batch_is_divided(tmp_path, monkeypatch, scheme, micro):
    """And so are the masks' counts; the log has their mean, over the last part of the step."""
    seen, counts = {}, {}
    masked_loss, pack = MaskedImageModule.masked_loss, room.pack_patches

    def note(module, batch, draw):
        if module.training:
            seen.setdefault(module.global_step, []).extend(draw.ratio.tolist())
            step = module.global_step
            monkeypatch.setattr(
                room, "pack_patches", lambda *a: counts.setdefault(step, []).extend(a[1].tolist()) or pack(*a)
            )
        return masked_loss(module, batch, draw)

    monkeypatch.setattr(MaskedImageModule, "masked_loss", note)
    config = replace(TINY, ratio_per="sample", mask_ratio=scheme, micro_batch_size=micro, log_every=1, epochs=1)
    run = pretrain(replace(config, out=tmp_path / "run"))
    sampler = VisionModality(config).sampler()
    for step in range(10):
        wanted = sampler.samples(step, 10, n=128)
        assert seen[step] == wanted.tolist()
        assert counts[step] == [n_hidden(ratio, 16) for ratio in wanted]
    logged = [value for _, value in read_metrics(run.metrics_file)["mask_ratio"]]
    assert logged == pytest.approx([np.mean(seen[step][-micro:]) for step in range(10)])
    assert {record.scheme for record in run.results()} == {f"{scheme} per sample"}


def test_what_is_not_the_papers_has_its_own_name_in_tables_and_reaches_the_module(tmp_path):
    options = {"mask_shape": "inverse_blocks", "block_area": (0.1, 0.2), "loss_weight": "inverse_ratio"}
    config = replace(TINY, **options, epochs=1, batch_size=64, micro_batch_size=64)
    run = pretrain(replace(config, out=tmp_path / "run"))
    assert {record.scheme for record in run.results()} == {"r2mae, loss / ratio, in inverse blocks 0.1 to 0.2"}
    modality = VisionModality(replace(config, ratio_per="sample"))
    module = modality.build(modality.sampler())
    assert (module.mask_shape, module.block_area) == ("inverse_blocks", (0.1, 0.2))
    assert (module.loss_weight, module.ratio_per) == ("inverse_ratio", "sample")


def test_an_odd_number_of_images_may_have_a_ratio_each(tmp_path):
    config = replace(TINY, ratio_per="sample", batch_size=129, micro_batch_size=43, epochs=1)
    assert pretrain(replace(config, out=tmp_path / "run")).results()


def test_the_ratio_of_every_step_is_the_samplers(tmp_path):
    run = pretrain(replace(TINY, log_every=1, out=tmp_path / "run"))
    logged = [value for _, value in read_metrics(run.metrics_file)["mask_ratio"]]
    assert logged == pytest.approx([Uniform(0.6, 0.9).sample(step, 20) for step in range(20)])


def test_dynamic_goes_down_once_an_epoch():
    sampler = VisionModality(replace(TINY, mask_ratio="dynamic", epochs=4)).sampler()
    assert sampler == LinearDecay(0.9, 0.6, stages=4)
    assert [round(sampler.sample(step, 8), 3) for step in range(8)] == [0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(
        UserError, match=r"the loss is NaN or infinite from step \d+ \(mask ratio 0\.\d+\) on; .*lower --lr or"
    ):
        pretrain(replace(TINY, lr=1e30, checkpoint_every=2, epochs=5, out=tmp_path / "run"))


def test_full_memory_says_what_to_lower(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore")

    monkeypatch.setattr("r2mae_vision.mae.module.patch_order", full)
    with pytest.raises(UserError, match=r"memory is full \(CUDA out of memory.*20 GiB\); lower --micro_batch_size"):
        pretrain(replace(TINY, out=tmp_path / "run"))


def test_images_of_folders_are_cut_by_the_workers_and_named_if_broken(tmp_path, capsys):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)).save(
                tmp_path / "images" / name / f"{i}.png"
            )
    (tmp_path / "images" / "a" / "3.png").write_bytes(b"nothing")
    config = replace(TINY, data=str(tmp_path / "images"), batch_size=20, workers=0, out=tmp_path / "run")
    run = pretrain(config)
    assert (run.path / "skipped.txt").read_text() == "a/3.png\n"
    assert "1 images could not be decoded and were replaced by their neighbours" in capsys.readouterr().out
    assert load_mae(run.path).shape.in_chans == 3


def test_starting_from_weights(tmp_path, tiny_model, capsys):
    save_mae(tiny_model, tmp_path / "w")
    shape = tiny_model.shape
    config = replace(
        TINY, data="photographs", model_args=shape.model_args, image_size=16, patch_size=4, decoder_dim=32,
        decoder_depth=2, decoder_heads=4, lr=0.0, epochs=1, batch_size=64, start=tmp_path / "w", out=tmp_path / "run",
    )  # fmt: skip
    assert equal(weights(pretrain(config)), tiny_model.state_dict())
    with pytest.raises(UserError, match="checkpoint of another size"):
        pretrain(replace(config, decoder_dim=16, out=tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_ratio": 0.98}, "a mask ratio of 0.98 leaves no visible patch of 16"),
        ({"mask_ratio": "cl"}, "no curriculum weights"),
        ({"mask_ratio": 0.0, "loss_weight": "inverse_ratio"}, "inverse_ratio cannot divide by the mask ratio 0 of"),
        ({"mask_ratio": "r3mae"}, "unknown mask scheme"),
        ({"image_size": 9}, "image size 9 is not a multiple"),
        ({"in_chans": 3}, "digits has 1 channels, the model reads 3; use --in_chans 1"),
        ({"batch_size": 100_000}, "1,347 samples do not fill a batch of 100,000"),
        ({"micro_batch_size": 50}, "--batch_size 128 is not a multiple of --micro_batch_size 50 × 1 devices"),
        ({"devices": 2, "out": None}, "several devices need --out"),
        ({"strategy": "fsdp", "compile": True}, "--compile together with --strategy fsdp is not tested; choose one"),
        ({"data": "imagenet"}, "imagenet: no such file or folder; it can be digits"),
        ({"start": Path("nowhere.pth")}, "no weights at nowhere.pth"),
    ],
)
def test_bad_input(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        pretrain(replace(TINY, **{"out": tmp_path / "run", **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_area": (0.1, 0.2)}, "--block_area is of a mask in blocks; add --mask_shape blocks or inverse_blocks"),
        ({"block_area": (0.3, 0.2), "mask_shape": "blocks"}, r"--block_area must rise, got \[0.3,0.2\]"),
        ({"block_area": (0.0, 0.2), "mask_shape": "blocks"}, "block_area"),
        ({"block_area": (0.1, 1.2), "mask_shape": "blocks"}, "block_area"),
    ],
)
def test_blocks_that_cannot_be(change, message):
    with pytest.raises(UserError, match=message):
        replace(TINY, **change)
