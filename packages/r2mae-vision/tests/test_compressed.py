"""Stores of compressed images, stores prepared in parts, and what interruptions and other machines do to them."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from r2mae_core import StepOrder, UserError
from r2mae_vision.cli import main
from r2mae_vision.data import writing
from r2mae_vision.data.datasets import least_side, train_loader
from r2mae_vision.data.decoding import decode
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.pairs import open_pair
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.sources import open_source
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import pretrain

TINY = {
    "model": "vit_tiny_patch16_224", "image_size": 16, "patch_size": 4, "decoder_dim": 32, "decoder_depth": 1,
    "decoder_heads": 2, "model_args": {"depth": 1, "embed_dim": 48, "num_heads": 3}, "batch_size": 8, "epochs": 2,
    "workers": 0, "device": "cpu", "progress": False,
}  # fmt: skip


def scene(rng, width, height):
    """A smooth picture, as photographs are."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve and four pictures of several shapes in two classes."""
    home, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, n in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (home / part / name).mkdir(parents=True)
            for i in range(n):
                scene(rng, 60 + 10 * i, 90 - 5 * i).save(home / part / name / f"{i}.jpg", quality=95)
    return home


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("store", ["jpeg", "webp"])
def test_a_compressed_store_keeps_whole_pictures(photos, tmp_path, store):
    out = prepare(Prepare(str(photos), image_size=32, store=store, quality=95, out=tmp_path / "s", progress=False))
    train, val = open_pair(str(out))
    origin = open_source(str(photos))
    assert (len(train), len(val), train.classes) == (12, 4, ("cat", "dog"))
    assert train.labels.tolist() == origin.labels.tolist()
    for i in range(12):
        ours, label = train.read(i, 3)
        theirs = origin.read(i, 3)[0]
        factor = 32 / min(theirs.size)
        assert ours.size == tuple(max(32, round(n * factor)) for n in theirs.size)
        wanted = np.asarray(theirs.resize(ours.size, Image.Resampling.BICUBIC), float)
        assert np.abs(np.asarray(ours, float) - wanted).mean() < 3
        assert label == i // 6
    raw = prepare(Prepare(str(photos), image_size=32, out=tmp_path / "raw", progress=False))
    assert sum(map(len, contents(out).values())) < 0.6 * sum(map(len, contents(raw).values()))
    with pytest.raises(UserError, match="prepared in another way: quality is 95 there and 40 here"):
        prepare(Prepare(str(photos), image_size=32, store=store, quality=40, out=out, progress=False))


def test_smaller_pictures_are_not_enlarged_and_grey_ones_stay_grey(photos, tmp_path):
    options = {"store": "jpeg", "image_size": 70, "in_chans": 1, "progress": False}
    train = open_source(str(prepare(Prepare(str(photos), out=tmp_path / "s", **options))))
    sizes = [train.read(i, 1)[0].size for i in range(6)]
    assert sizes == [(60, 90), (70, 85), *[(n, m) for n, m in sizes[2:]]]
    assert min(map(min, sizes)) == 60
    assert (train.in_chans, train.read(0, 1)[0].mode) == (1, "L")
    run = pretrain(Pretrain(data=str(tmp_path / "s"), out=tmp_path / "run", **TINY))
    assert json.loads((run.path / "model" / "mae.json").read_text())["in_chans"] == 1


def test_training_from_a_compressed_store_resumes_exactly_and_workers_change_nothing(photos, tmp_path):
    store = prepare(Prepare(str(photos), image_size=24, store="jpeg", out=tmp_path / "s", progress=False))
    run = pretrain(Pretrain(data=str(store), out=tmp_path / "run", **TINY))
    source = open_source(str(store))

    def batches(workers, first):
        from r2mae_vision.mae.pretrain import worker_transform

        config = Pretrain(data=str(store), **TINY)
        loader = train_loader(
            source, worker_transform(config, own=True), StepOrder(12, 4, 4, 3), in_chans=3, num_workers=workers
        )
        loader.load_state_dict({"position": first})
        found = [batch[0] for batch in loader]
        loader.close()
        return torch.cat(found)

    whole = batches(0, 3)
    assert torch.equal(batches(2, 3), whole)
    assert torch.equal(batches(0, 4), whole[4:])
    shutil.move(store, tmp_path / "moved")
    again = pretrain(Pretrain(data=str(tmp_path / "moved"), out=tmp_path / "again", **TINY))
    for name in ("model.safetensors",):
        assert (run.path / "model" / name).read_bytes() == (again.path / "model" / name).read_bytes()


@pytest.mark.parametrize("damage", ["images.jpeg", "offsets.npy", "labels.npy", "store.json"])
def test_a_damaged_compressed_store_is_refused(photos, tmp_path, damage):
    out = prepare(Prepare(str(photos), image_size=16, store="jpeg", out=tmp_path / "s", progress=False))
    file = out / "train" / damage
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=damage.replace(".", r"\.")):
        open_source(str(out))
    file.write_bytes(content[:-3])
    with pytest.raises(UserError, match=damage.replace(".", r"\.")):
        open_source(str(out))
    file.unlink()
    with pytest.raises(UserError):
        open_source(str(out))


@pytest.mark.parametrize("store", ["raw", "jpeg"])
@pytest.mark.parametrize("n", [1, 3])
def test_parts_joined_are_the_store_that_one_machine_prepares(photos, tmp_path, store, n, capsys):
    (photos / "train" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    try:
        options = {"image_size": 16, "store": store, "progress": False}
        whole = prepare(Prepare(str(photos), out=tmp_path / "whole", **options))
        for i in reversed(range(1, n + 1)):
            with pytest.raises(UserError, match=r"no parts to join|parts .*1/\d.* are missing|parts 1"):
                prepare(Prepare(str(photos), out=tmp_path / "parts", join=True, **options))
            prepare(Prepare(str(photos), out=tmp_path / "parts", part=f"{i}/{n}", **options))
        with pytest.raises(UserError, match=r"is prepared in parts .*; join them with --join"):
            prepare(Prepare(str(photos), out=tmp_path / "parts", **options))
        with pytest.raises(UserError, match="image_size is 16 there and 8 here"):
            prepare(Prepare(str(photos), out=tmp_path / "parts", join=True, **{**options, "image_size": 8}))
        joined = prepare(Prepare(str(photos), out=tmp_path / "parts", join=True, **options))
        assert contents(joined) == contents(whole)
        assert "1 unreadable (cat/broken.jpg" in capsys.readouterr().out
    finally:
        (photos / "train" / "cat" / "broken.jpg").unlink()


def test_a_damaged_part_and_parts_of_two_divisions_are_refused(photos, tmp_path):
    options = {"image_size": 16, "progress": False, "out": tmp_path / "s"}
    for part in ("1/2", "2/2"):
        prepare(Prepare(str(photos), part=part, **options))
    file = tmp_path / "s" / ".preparing" / "part-1-of-2" / "train" / "images.u8"
    content = bytearray(file.read_bytes())
    content[9] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"images.u8 is damaged: .*remove .*part-1-of-2 and run --part 1/2 again"):
        prepare(Prepare(str(photos), join=True, **options))
    prepare(Prepare(str(photos), part="1/3", **options))
    with pytest.raises(UserError, match="parts of several divisions"):
        prepare(Prepare(str(photos), join=True, **options))


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_part_is_written_as_one_of_several(part):
    with pytest.raises(UserError, match=r"--part is written I/N, such as 2/8"):
        Prepare("x", part=part, out="y")


def test_an_interrupted_compressed_prepare_goes_on(photos, tmp_path, monkeypatch):
    options = {"image_size": 16, "store": "jpeg", "progress": False, "workers": 0}
    whole = prepare(Prepare(str(photos), out=tmp_path / "whole", **options))
    monkeypatch.setattr("r2mae_vision.data.prepare.CHUNK", 3)
    monkeypatch.setattr(writing, "NOTED", 3)
    add = writing.PartWriter.add

    def cut(self, rows):
        add(self, rows)
        if self.n_read == 6:
            self.files["images.jpeg"].write(b"after the note")
            raise KeyboardInterrupt

    monkeypatch.setattr(writing.PartWriter, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        prepare(Prepare(str(photos), out=tmp_path / "cut", **options))
    monkeypatch.setattr(writing.PartWriter, "add", add)
    shutil.copytree(tmp_path / "cut", tmp_path / "damaged")
    assert contents(prepare(Prepare(str(photos), out=tmp_path / "cut", **options))) == contents(whole)
    file = tmp_path / "damaged" / ".preparing" / "train" / "labels.i64"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    with pytest.raises(UserError, match=r"labels.i64 is damaged: it does not begin with the 6 images noted"):
        prepare(Prepare(str(photos), out=tmp_path / "damaged", **options))


def test_the_note_of_an_unfinished_store_does_not_grow(tmp_path):
    sizes = []
    with writing.PartWriter(tmp_path / "p", {}, {"image_size": 2, "in_chans": 1}) as writer:
        for _ in range(5):
            writer.add([(b"abcd", 1, ""), (None, -1, "bad " * 20)] * 200)
            writer.keep()
            sizes.append(writer.note.stat().st_size)
    assert max(sizes) < 1.1 * min(sizes)


def test_large_jpegs_are_decoded_small_and_look_the_same():
    picture = scene(np.random.default_rng(1), 1600, 1200)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=95)
    assert decode(content.getvalue()).size == (1600, 1200)
    small = decode(content.getvalue(), least=128)
    assert small.size == (200, 150)
    assert min(decode(content.getvalue(), least=151).size) == 300
    wanted = np.asarray(picture.resize(small.size, Image.Resampling.BOX), float)
    assert np.abs(np.asarray(small, float) - wanted).mean() < 2
    assert least_side(224, 0.2) == 579  # the smallest crop: 0.2 of the area, 3 wide and 4 high


def test_from_the_command_line(photos, tmp_path, capsys):
    words = ["prepare", str(photos), "--image_size", "16", "--store", "webp", "--out", str(tmp_path / "s")]
    for last in (["--part", "1/2"], ["--part", "2/2"], ["--join"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, *last, "--progress", "false"])
        assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "train: 12 images as webp of quality 90, 2 classes" in text
    assert text.count("the same command with --join instead") == 2
    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(photos), "--fit", "whole"])
    assert ended.value.code != 0


def test_crops_in_workers_are_those_of_the_device():
    """The oracle: Pillow's crop and resize at the rectangle that the same draws give."""
    from r2mae_vision.data.augment import RandomCrop, draw_rectangles

    picture = scene(np.random.default_rng(3), 90, 60)
    for seed in range(12):
        ours = RandomCrop(32, (0.2, 1.0), flip=True)(picture, torch.Generator().manual_seed(seed))
        found = draw_rectangles(1, 60 / 90, torch.Generator().manual_seed(seed), (0.2, 1.0), (3 / 4, 4 / 3), True)
        left, top, width, height, mirrored = (float(part) for part in found)
        w, h = round(width * 90), round(height * 60)
        x, y = min(round(left * 90), 90 - w), min(round(top * 60), 60 - h)
        assert 0.15 < w * h / 5400 <= 1
        assert 0.7 < w / h < 1.5
        wanted = picture.resize((32, 32), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
        wanted = wanted.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else wanted
        assert ours.shape == (3, 32, 32)
        assert np.abs(ours.transpose(1, 2, 0).astype(int) - np.asarray(wanted)).max() <= 2
    grey = RandomCrop(16, (0.2, 1.0), flip=False)(picture.convert("L"), torch.Generator())
    assert (grey.shape, grey.dtype) == ((1, 16, 16), np.uint8)


@pytest.mark.parametrize(("in_chans", "quality"), [(3, 60), (3, 95), (1, 80)])
def test_the_quick_decoder_gives_pillows_pixels(photos, tmp_path, in_chans, quality):
    pytest.importorskip("simplejpeg")
    from r2mae_vision.data.encoded import quick_reader

    options = {"store": "jpeg", "image_size": 40, "quality": quality, "in_chans": in_chans, "progress": False}
    source = open_source(str(prepare(Prepare(str(photos), out=tmp_path / "s", **options))))
    reader = quick_reader(source, in_chans, 21)
    assert reader is not None
    for i in range(len(source)):
        wanted = np.atleast_3d(np.asarray(Image.open(source.reader[i])))
        assert np.array_equal(reader.pixels(i), wanted)
    # Where the decoder would make pictures smaller, or convert them, it is Pillow's.
    assert quick_reader(source, in_chans, 20) is None
    assert quick_reader(source, 4 - in_chans, None) is None


def test_an_image_of_a_compressed_store_that_cannot_be_decoded_is_replaced(photos, tmp_path):
    pytest.importorskip("simplejpeg")
    from dataclasses import replace

    from r2mae_vision.data.augment import RandomCrop
    from r2mae_vision.data.datasets import AugmentedImages
    from r2mae_vision.data.encoded import EncodedReader

    source = open_source(str(prepare(Prepare(str(photos), image_size=40, store="jpeg", out=tmp_path / "s"))))
    content = bytearray(source.reader.file.read_bytes())
    content[: int(source.reader.offsets[1])] = b"x" * int(source.reader.offsets[1])
    (tmp_path / "bad.jpeg").write_bytes(content)
    source = replace(source, reader=EncodedReader(tmp_path / "bad.jpeg", source.reader.offsets, 40))
    images = AugmentedImages(source, RandomCrop(16, (0.2, 1.0), flip=True), 3, seed=0)
    assert images.quick is not None
    assert [images[i, 0][2] for i in (0, 1)] == [[0], []]
    source = replace(source, reader=EncodedReader(tmp_path / "bad.jpeg", source.reader.offsets[[0, 1, 2]] + 10**9))
    with pytest.raises(UserError, match=r"2 images in a row of .* cannot be decoded"):
        AugmentedImages(source, RandomCrop(16, (0.2, 1.0), flip=True), 3, seed=0)[0, 0]


def test_without_the_quick_decoder_batches_are_the_same_and_it_is_named(photos, tmp_path, monkeypatch, capsys):
    pytest.importorskip("simplejpeg")
    from r2mae_vision.data import encoded
    from r2mae_vision.data.augment import RandomCrop
    from r2mae_vision.data.datasets import AugmentedImages
    from r2mae_vision.data.ranges import say_once

    source = open_source(str(prepare(Prepare(str(photos), image_size=40, store="jpeg", out=tmp_path / "s"))))
    quick = AugmentedImages(source, RandomCrop(16, (0.2, 1.0), flip=True), 3, seed=0)
    say_once.cache_clear()
    monkeypatch.setattr(encoded, "find_spec", lambda _name: None)
    plain = AugmentedImages(source, RandomCrop(16, (0.2, 1.0), flip=True), 3, seed=0)
    assert "with simplejpeg: pip install 'r2mae-vision[jpeg]'" in capsys.readouterr().out
    assert (quick.quick is None, plain.quick is None) == (False, True)
    assert all(np.array_equal(quick[i, 1][0], plain[i, 1][0]) for i in range(12))
