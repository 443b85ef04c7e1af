"""Images of any channels and depth, from their files to the exported model."""

import io
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from r2mae_core import UserError
from r2mae_vision.data.arrays import bounds, channels_last, read_array, read_stack, reframed_array, statistics
from r2mae_vision.data.decoding import Reading, UnreadableImageError
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import open_source
from r2mae_vision.mae.export import export
from r2mae_vision.mae.finetune import finetune
from r2mae_vision.mae.model_options import Export, Predict, Probe, Reconstruct
from r2mae_vision.mae.options import Finetune, Pretrain
from r2mae_vision.mae.predict import predict
from r2mae_vision.mae.pretrain import pretrain
from r2mae_vision.mae.probe import probe
from r2mae_vision.mae.reconstruct import reconstruct, shown_channels
from r2mae_vision.mae.weights import load_mae

QUICK = {"image_size": 16, "workers": 0, "progress": False}
TYPES = {"uint8": 255, "uint16": 12_000, "float32": 1.0}


@pytest.fixture(autouse=True)
def _nothing_is_said_yet():
    say_once.cache_clear()


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def images(n, in_chans, dtype, side=16, seed=0):
    """Return n images (H, W, C) of two kinds, whose channels have quite different levels."""
    rng = np.random.default_rng(seed)
    top = TYPES[dtype]
    levels = np.linspace(0.1, 0.8, in_chans)
    bright = np.arange(n)[:, None, None, None] % 2 * 0.1
    values = (rng.random((n, side, side, in_chans)) * 0.1 + levels + bright) * top
    return values.astype(dtype)


def folder_of(home, made, write=lambda file, values: file.with_suffix(".npy").write_bytes(npy(values))):
    for part, some in (("train", made[:-8]), ("val", made[-8:])):
        for k, values in enumerate(some):
            place = home / part / "ab"[k % 2]
            place.mkdir(parents=True, exist_ok=True)
            write(place / f"{k:03}", values)
    return home


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("in_chans", [1, 3, 13])
def test_a_store_keeps_the_numbers_and_measures_each_channel(tmp_path, in_chans, dtype, capsys):
    made = images(20, in_chans, dtype)
    home = folder_of(tmp_path / "set", made)
    out = prepare(Prepare(str(home), out=tmp_path / "s", in_chans=in_chans, depth="file", **QUICK))
    store = open_source(str(out))
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    assert store.images.dtype == dtype
    assert np.array_equal(store.images, made[order])
    low, high = {"uint8": (0, 255), "uint16": (0, 65535), "float32": (0, 1)}[dtype]
    assert store.span == (low, high)
    assert f"the range {low:g} … {high:g}" in capsys.readouterr().out
    pixels = made[:12].reshape(-1, in_chans).astype(np.float64) / high
    assert np.allclose(store.mean, pixels.mean(0), rtol=1e-9)
    assert np.allclose(store.std, pixels.std(0), rtol=1e-9)
    fetched = store.fetch(np.arange(12))[0]
    assert torch.allclose(fetched, torch.from_numpy(made[order].astype(np.float32) * (255 / high)).permute(0, 3, 1, 2))
    assert open_source(str(out), "val").span == store.span


def test_statistics_of_large_numbers_that_differ_little():
    values = np.random.default_rng(0).normal(50_000, 0.5, (40, 64, 64, 2)).astype(np.float32)
    mean, std = statistics(values, (-10.0, 90_000.0))
    exact = values.reshape(-1, 2).astype(np.float64)
    assert np.allclose(np.array(mean) * 90_010 - 10, exact.mean(0), rtol=1e-10)
    assert np.allclose(np.array(std) * 90_010, exact.std(0), rtol=1e-6)
    assert statistics(np.full((2, 4, 4, 1), 7, np.uint8), (0, 255))[1] == [1.0]


def test_the_axis_of_channels_is_told_or_refused():
    made = images(1, 5, "uint16", side=8)[0]
    how = Reading((0, 65535), depth="file", dtype="uint16")
    for values in (made, np.moveaxis(made, -1, 0)):
        assert np.array_equal(read_array(npy(values), 5, how), made)
    for values, in_chans, why in (
        (np.zeros((5, 8, 5), np.uint16), 5, "either the first or the last axis"),
        (made, 4, "no axis of 4 channels"),
        (made[:, :, 0], 5, "one channel, not 5"),
        (made[None], 5, r"an array of shape \(1, 8, 8, 5\)"),
        (made.astype(np.uint8), 5, "holds uint8 where other images of the set hold uint16"),
        (made.astype(complex), 5, "no numbers of pixels"),
        (np.array([["a"]]), 1, "no numbers of pixels"),
    ):
        with pytest.raises(UnreadableImageError, match=why):
            read_array(npy(values), in_chans, how)
    with pytest.raises(UnreadableImageError, match="allow_pickle"):
        read_array(npy(np.array([{}], object)), 1, how)
    with pytest.raises(UnreadableImageError):
        read_array(npy(made)[:200], 5, how)


@pytest.mark.parametrize(
    ("dtype", "value", "kept"),
    [
        ("int16", -3, "float32"),
        (">u2", 258, "uint16"),
        ("int32", 2**24, "float32"),
        ("float64", 0.1, "float32"),
        ("float16", 0.5, "float32"),
    ],
)
def test_other_types_become_one_that_holds_their_numbers(dtype, value, kept):
    values = read_stack(npy(np.full((2, 2), value, dtype)), 100).values
    assert values.dtype == kept
    assert np.allclose(values, value, rtol=1e-7)


@pytest.mark.parametrize("values", [np.full((2, 2), 2**24 + 1), np.full((2, 2), np.nan), np.full((2, 2), 1e300)])
def test_numbers_that_float32_does_not_hold_are_refused(values):
    with pytest.raises(UnreadableImageError):
        read_stack(npy(values), 100)


def test_ranges_are_kept_asked_for_or_exceeded(tmp_path):
    made = images(20, 4, "float32") * 3 - 1
    home = folder_of(tmp_path / "set", made)
    options = {"in_chans": 4, **QUICK}
    with pytest.raises(UserError, match=r"holds numbers from -0.\d+ to .*: state their range with prepare --range"):
        prepare(Prepare(str(home), out=tmp_path / "s", **options))
    out = prepare(Prepare(str(home), out=tmp_path / "s", range=(-0.5, 1.5), **options))
    store = open_source(str(out))
    wanted = np.clip(made[[*range(0, 12, 2), *range(1, 12, 2)]], -0.5, 1.5)
    assert np.array_equal(store.images, wanted)
    assert torch.allclose(
        store.fetch(np.arange(12))[0].permute(0, 2, 3, 1), torch.from_numpy((wanted + 0.5) * 127.5), atol=1e-4
    )
    assert bounds((10.5, 70_000), np.uint16) == (11, 65535)


def test_mixed_types_and_files_of_other_channels(tmp_path):
    made = images(20, 4, "uint16")
    home = folder_of(tmp_path / "set", made)
    (home / "train" / "a" / "odd.npy").write_bytes(npy(made[0][:, :, :3]))
    out = prepare(Prepare(str(home), out=tmp_path / "s", in_chans=4, **QUICK))
    assert len(open_source(str(out))) == 12
    assert "odd.npy: (16, 16, 3) has no axis of 4 channels" in (out / "train" / "skipped.txt").read_text()
    (home / "train" / "a" / "odd.npy").write_bytes(npy(made[0].astype(np.uint8)))
    with pytest.raises(UserError, match="mixes types, whose numbers cannot be compared: 12 of uint16, 1 of uint8"):
        prepare(Prepare(str(home), out=tmp_path / "t", in_chans=4, **QUICK))


def test_arrays_beside_pictures_are_none_of_them(tmp_path, capsys):
    for k in range(4):
        home = tmp_path / "train" / "ab"[k % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(home / f"{k}.png")
        (home / f"{k}.npy").write_bytes(npy(np.zeros(5)))
    assert len(open_source(str(tmp_path))) == 4
    assert "4 .npy" in capsys.readouterr().out


def test_squares_stay_within_their_numbers_and_keep_what_fits():
    made = images(1, 7, "uint16", side=16)[0]
    assert np.array_equal(reframed_array(made, 16, "crop"), made)
    assert np.array_equal(reframed_array(made[:, 2:14], 12, "crop"), made[2:14, 2:14])
    small = reframed_array(made, 5, "squash")
    assert small.shape == (5, 5, 7)
    assert small.dtype == np.uint16
    assert np.allclose(small.mean((0, 1)), made.mean((0, 1)), rtol=0.02)
    assert (small <= made.max((0, 1))).all()


def test_an_array_among_pictures_of_eight_bits_is_named(tmp_path):
    home = folder_of(tmp_path / "set", images(20, 3, "uint8"))
    with pytest.raises(UserError, match="not an image that Pillow reads; r2mae-vision prepare FOLDER --depth file"):
        prepare(Prepare(str(home), out=tmp_path / "s", **QUICK))


TINY = {
    "model": "vit_tiny_patch16_224", "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 2}, "image_size": 8,
    "patch_size": 4, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "epochs": 1, "batch_size": 4,
    "device": "cpu", "workers": 0, "progress": False,
}  # fmt: skip


@pytest.mark.parametrize("in_chans", [None, 5])
def test_training_on_files_that_must_be_prepared_says_so(tmp_path, in_chans):
    home = folder_of(tmp_path / "set", images(16, 5, "uint16"))
    with pytest.raises(UserError, match=r"r2mae-vision prepare FOLDER .*--in_chans (N makes a store|5$)"):
        pretrain(Pretrain(str(home), in_chans=in_chans, out=tmp_path / "run", **TINY))


def test_held_out_images_that_cannot_be_decoded_are_counted(tmp_path, capsys):
    home = folder_of(tmp_path / "set", images(20, 3, "uint8"), lambda f, v: Image.fromarray(v).save(f"{f}.png"))
    (home / "val" / "a" / "zzz.png").write_bytes(b"\x89PNG cut off")
    say_once.cache_clear()
    run = pretrain(Pretrain(str(home), out=tmp_path / "run", **TINY))
    said = " ".join(capsys.readouterr().out.split())
    assert "set: 1 of 9 images cannot be decoded and are left out (a/zzz.png: not an image)" in said
    assert {record.n for record in run.results()} == {8}


@pytest.mark.parametrize("archive", ["zip", "tar"])
def test_parts_and_archives_make_the_same_store(tmp_path, archive):
    home = folder_of(tmp_path / "set", images(20, 4, "uint16"))
    packed = shutil.make_archive(str(tmp_path / "packed"), archive, home)
    options = {"in_chans": 4, **QUICK}
    whole = open_source(str(prepare(Prepare(str(home), out=tmp_path / "s", **options))))
    for i in (1, 2, 3):
        prepare(Prepare(packed, out=tmp_path / "p", part=f"{i}/3", **options))
    joined = open_source(str(prepare(Prepare(packed, out=tmp_path / "p", join=True, **options))))
    assert np.array_equal(joined.images, whole.images)
    assert (joined.mean, joined.std, joined.span) == (whole.mean, whole.std, whole.span)
    again = pickle.loads(pickle.dumps(whole.subset([1, 2])))
    assert torch.equal(again.fetch(np.arange(2))[0], whole.fetch(np.array([1, 2]))[0])


def test_options_that_do_not_go_together():
    for options, why in (
        ({"in_chans": 4, "depth": "8"}, "have 1 or 3 channels"),
        ({"in_chans": 4, "store": "jpeg"}, "use --store raw"),
        ({"depth": "file", "frames": "first"}, "must be split"),
    ):
        with pytest.raises(UserError, match=why):
            Prepare("x", **options)
    with pytest.raises(UserError, match="pictures of eight bits already"):
        prepare(Prepare("digits", depth="file", in_chans=1, **QUICK))


TIFFS = [
    ("contig", {"photometric": "minisblack", "planarconfig": "contig"}, (16, 16, 5), 5, None),
    ("separate", {"photometric": "minisblack", "planarconfig": "separate"}, (5, 16, 16), 5, None),
    ("pages", {"photometric": "minisblack"}, (5, 16, 16), 5, None),
    ("rgb", {"photometric": "rgb"}, (16, 16, 3), 3, None),
    ("grey", {"photometric": "minisblack"}, (16, 16), 1, None),
    ("imagej", {"imagej": True, "metadata": {"axes": "CYX"}}, (5, 16, 16), 5, None),
    ("ome", {"ome": True, "metadata": {"axes": "CYX"}}, (5, 16, 16), 5, None),
    ("stack", {"ome": True, "metadata": {"axes": "ZYX"}}, (5, 16, 16), 5, "it holds 5 planes"),
    ("time", {"imagej": True, "metadata": {"axes": "TYX"}}, (5, 16, 16), 5, "it holds 5 times"),
    ("both", {"ome": True, "metadata": {"axes": "ZCYX"}}, (2, 5, 16, 16), 5, "axes ZCYX"),
    ("other", {"photometric": "minisblack"}, (4, 16, 16), 5, "it holds 4 pages"),
]


@pytest.mark.parametrize(
    ("options", "shape", "in_chans", "why"), [case[1:] for case in TIFFS], ids=[c[0] for c in TIFFS]
)
def test_tiffs_as_tifffile_writes_them(options, shape, in_chans, why):
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 60_000, shape).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    how = Reading((0, 65535), depth="file", dtype="uint16")
    if why is not None:
        with pytest.raises(UnreadableImageError, match=why):
            read_array(file.getvalue(), in_chans, how)
        return
    wanted = values if shape[-1] == in_chans else values[:, :, None] if in_chans == 1 else np.moveaxis(values, 0, -1)
    assert np.array_equal(read_array(file.getvalue(), in_chans, how), wanted)
    with pytest.raises(UnreadableImageError):
        read_array(file.getvalue(), in_chans + 1, how)


def test_pictures_of_pillow_are_read_by_their_bands():
    values = np.random.default_rng(0).integers(0, 255, (8, 8, 4)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values, "RGBA").save(file, "PNG")
    assert np.array_equal(channels_last(read_stack(file.getvalue(), 100), 4), values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a store of five channels and a model pretrained on it."""
    home = tmp_path_factory.mktemp("channels")
    folder_of(home / "set", images(40, 5, "uint16"))
    store = prepare(Prepare(str(home / "set"), out=home / "store", in_chans=5, **QUICK))
    run = pretrain(
        Pretrain(
            data=str(store), model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 2},
            image_size=16, patch_size=4, decoder_dim=16, decoder_depth=1, decoder_heads=2, epochs=2, batch_size=16,
            device="cpu", workers=0, progress=False, out=home / "run", validate_every=None,
        )
    )  # fmt: skip
    return home, store, run.path


def test_the_model_normalises_by_the_store(trained):
    _, store, run = trained
    model, source = load_mae(run), open_source(str(store))
    assert (model.shape.mean, model.shape.std, model.shape.pixel_range) == (source.mean, source.std, (0, 65535))
    normal = model.normalise(source.fetch(np.arange(len(source)))[0])
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(5), atol=1e-3)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(5), atol=1e-2)


def test_probe_finetune_predict_and_export_of_five_channels(trained):
    home, store, run = trained
    probed = probe(
        Probe(str(run), crop_pct=1.0, pool="avg", k=(1,), device="cpu", workers=0, progress=False, out=home / "p")
    )
    values = {record.metric: record.value for record in probed.results()}
    assert values["linear_top1"] == 1.0  # the two kinds differ in brightness, by two deviations
    options = {"device": "cpu", "workers": 0, "progress": False, "epochs": 1, "batch_size": 16}
    with pytest.raises(UserError, match="add --auto_augment none"):
        finetune(Finetune(str(run), str(store), out=home / "no", **options))
    tuned = finetune(Finetune(str(run), str(store), auto_augment="none", out=home / "t", **options))
    out = predict(Predict(str(tuned.path), str(store), device="cpu", workers=0, out=home / "answers.csv"))
    assert len(out.read_text().splitlines()) == 9
    exported = export(Export(run, home / "e"))
    stated = json.loads((exported / "timm" / "config.json").read_text())
    assert stated["pixel_range"] == [0, 65535]
    assert stated["pretrained_cfg"]["input_size"] == [5, 16, 16]
    import timm
    from transformers import ViTMAEForPreTraining

    opened = timm.create_model(f"local-dir:{exported / 'timm'}", pretrained=True)
    model, source = load_mae(run), open_source(str(store))
    pixels = model.normalise(source.fetch(np.arange(3))[0])
    every = torch.arange(model.n_patches).expand(3, -1)
    with torch.no_grad():
        ours = model.encode(model.patchify(pixels), every)
        assert torch.allclose(opened.eval().forward_features(pixels), ours, atol=1e-5)
    assert ViTMAEForPreTraining.from_pretrained(exported / "transformers").config.num_channels == 5
    processor = json.loads((exported / "transformers" / "preprocessor_config.json").read_text())
    raw = torch.from_numpy(source.images[:3].astype(np.float32)).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(processor[f"image_{name}"]).view(-1, 1, 1) for name in ("mean", "std"))
    assert torch.allclose((raw * processor["rescale_factor"] - mean) / std, pixels, atol=1e-3)


def test_numbers_of_another_range_are_refused(trained):
    home, _, run = trained
    other = prepare(Prepare(str(folder_of(home / "u8", images(20, 5, "uint8"))), out=home / "s8", in_chans=5, **QUICK))
    why = re.escape("trained on numbers of the range [0,65535], and the images of u8 have the range [0,255]")
    with pytest.raises(UserError, match=why):
        probe(Probe(str(run), data=str(other), k=(1,), device="cpu", workers=0, progress=False, out=home / "q"))
    with pytest.raises(UserError, match="are pictures"):
        probe(Probe(str(run), data="digits", device="cpu", workers=0, progress=False, out=home / "q"))


def test_named_channels_are_shown(trained):
    home, _, run = trained
    with pytest.raises(UserError, match="name one or three to show"):
        reconstruct(Reconstruct(run, device="cpu", out=home / "a.png"))
    with pytest.raises(UserError, match="--channels 5: the model reads 5 channels, 0 to 4"):
        reconstruct(Reconstruct(run, channels=(5,), device="cpu", out=home / "a.png"))
    assert reconstruct(Reconstruct(run, channels=(3, 2, 1), n_images=2, device="cpu", out=home / "a.png")).is_file()
    values = torch.rand(2, 5, 4, 4) * 30
    shown, [(_, picture)] = shown_channels(values, [(torch.zeros(2, 4, 4) > 0, values / 255)], (3, 1), stretch=False)
    assert torch.equal(shown[:, 0], values[:, 3])
    assert torch.allclose(picture[:, 1] * 255, values[:, 1], atol=1e-4)
    shown, [(_, picture)] = shown_channels(values, [(torch.zeros(2, 4, 4) > 0, values / 255)], (3, 1), stretch=True)
    assert shown.max() == 255
    assert torch.allclose(picture * 255, shown, atol=1e-3)
