import io
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from r2mae_core import StepOrder, UserError
from r2mae_vision import ImageStore, MAEShape, open_pair, open_source
from r2mae_vision.data.datasets import AugmentedImages, collate, read_image, seeded, train_loader
from r2mae_vision.data.decoding import UnreadableImageError, decode, reframed
from r2mae_vision.data.prepare import prepare
from r2mae_vision.options import Prepare

READERS_LEAVE_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def picture(colour, size=(40, 30)):
    return Image.new("RGB", size, colour)


def as_bytes(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Images of three colours in ImageNet's layout, the red ones at the top of the alphabet."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("val", 4)):
        for name, colour in (("a_red", (200, 20, 20)), ("b_green", (20, 200, 20)), ("c_blue", (20, 20, 200))):
            home = tmp_path / "images" / split / name
            home.mkdir(parents=True)
            for i in range(n):
                noise = rng.integers(-20, 20, (30 + i, 40, 3))
                Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(home / f"{i}.jpg")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (picture((9, 99, 199)), (9, 99, 199)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), (255, 255, 255)),  # transparent: white
        (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("LA", (4, 4), (50, 255)), (50, 50, 50)),
        (picture((9, 99, 199)).convert("P", palette=Image.Palette.ADAPTIVE), (9, 99, 199)),
        (Image.fromarray(np.full((4, 4), 40_000, np.uint16)), (156, 156, 156)),  # 40000 · 255 / 65535
    ],
)
def test_every_mode_becomes_rgb(image, wanted):
    decoded = decode(as_bytes(image))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((1, 1)) == wanted
    assert decode(as_bytes(image), in_chans=1).mode == "L"


def test_files_that_are_no_image_say_why(tmp_path):
    whole = as_bytes(picture((1, 2, 3), (200, 200)), "JPEG")
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImageError, match="not an image"):
        decode(b"hello")
    with pytest.raises(UserError, match="1 or 3 channels here, not 4"):
        decode(whole, in_chans=4)


def test_squares():
    image = Image.new("RGB", (60, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    assert reframed(image, 10, "crop").getpixel((5, 5)) == (0, 0, 255)  # the middle alone is blue
    assert reframed(image, 10, "crop").getpixel((0, 5))[2] > 200
    squashed = reframed(image, 12, "squash")
    assert squashed.size == (12, 12)
    assert squashed.getpixel((1, 5))[0] > 200


def test_a_folder_of_class_folders(folder):
    train, val = open_pair(str(folder))
    assert (len(train), len(val)) == (24, 12)
    assert train.classes == ("a_red", "b_green", "c_blue")
    image, label = read_image(train, 0, 3)
    assert (image.size, label) == ((40, 30), 0)
    assert open_source(str(folder / "val"), "train").classes == train.classes
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(folder / "train"))
    assert [label for _, label in theirs.samples] == train.labels.tolist()


@READERS_LEAVE_FILES_OPEN
def test_a_tar_of_class_folders(folder, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name in ("a_red", "b_green"):
            tar.add(folder / "train" / name, name)
    source = open_source(str(tmp_path / "train.tar"))
    assert source.classes == ("a_red", "b_green")
    with pytest.raises(UserError, match="has no validation part; name one with --validation"):
        open_pair(str(tmp_path / "train.tar"))
    train, val = open_pair(str(tmp_path / "train.tar"), str(tmp_path / "train.tar"))
    assert len(train) == len(val) == 16
    image, label = read_image(source, 15, 3)
    assert label == 1
    assert image.getpixel((5, 5))[1] > 150


def test_what_is_wrong_with_a_folder_is_said(folder, tmp_path, monkeypatch):
    (folder / "train" / "d_empty").mkdir()
    with pytest.raises(UserError, match=r"no images in class folder d_empty \(1 in all\); fill it or remove it"):
        open_source(str(folder))
    (folder / "train" / "d_empty").rmdir()
    (folder / "val" / "c_blue").rename(folder / "val" / "z_violet")
    with pytest.raises(UserError, match=r"1 classes that training does not have \(z_violet\): labels do not fit"):
        open_pair(str(folder))
    with pytest.raises(UserError, match="no such file or folder; it can be digits"):
        open_source("nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="void holds no images"):
        open_source(str(tmp_path / "void"))
    with pytest.raises(UserError, match=r"no validation part: no val or validation or valid or .* beside train"):
        open_source(str(folder / "train"), "val")
    monkeypatch.setitem(sys.modules, "datasets", None)  # not installed
    with pytest.raises(UserError, match=r"hfds/no/such needs Hugging Face's datasets: pip install"):
        open_source("hfds/no/such")


def test_prepare_writes_what_training_reads(folder, tmp_path, capsys):
    (folder / "train" / "a_red" / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    out = prepare(Prepare(str(folder), image_size=16, workers=0, out=tmp_path / "store", progress=False))
    text = capsys.readouterr().out
    assert "24 images of 16 x 16, 3 classes" in text
    assert "left out: 1 unreadable (a_red/broken.jpg: " in text
    assert "broken.jpg" in (out / "train" / "skipped.txt").read_text()
    train, val = open_pair(str(out))
    assert isinstance(train, ImageStore)
    assert open_source(str(folder)).name == "images"  # not "train"
    assert (len(train), len(val), train.size, train.in_chans) == (24, 12, (16, 16), 3)
    images, labels = train.fetch(np.array([0, 9, 23]))
    assert images.shape == (3, 3, 16, 16)
    assert labels.tolist() == [0, 1, 2]
    assert images.float().mean((2, 3)).argmax(1).tolist() == [0, 1, 2]
    # The same again is not done again; other settings are refused.
    prepare(Prepare(str(folder), image_size=16, workers=0, out=out, progress=False))
    assert "there already, 24 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="prepared in another way"):
        prepare(Prepare(str(folder), image_size=8, workers=0, out=out, progress=False))


def test_an_interrupted_prepare_goes_on(folder, tmp_path, monkeypatch):
    import r2mae_vision.data.prepare as room
    from r2mae_vision.data import writing

    whole = prepare(Prepare(str(folder), image_size=8, workers=0, out=tmp_path / "whole", progress=False))
    monkeypatch.setattr(room, "CHUNK", 4)
    monkeypatch.setattr(writing, "NOTED", 4)
    add, calls = writing.PartWriter.add, []

    def cut(self, rows):
        add(self, rows)
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(writing.PartWriter, "add", cut)
    options = Prepare(str(folder), image_size=8, workers=0, out=tmp_path / "cut", progress=False)
    with pytest.raises(KeyboardInterrupt):
        prepare(options)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [".preparing"]
    with pytest.raises(UserError, match="cut is not finished; run the same r2mae-vision prepare again with --out"):
        open_source(str(tmp_path / "cut"))
    with (tmp_path / "cut" / ".preparing" / "train" / "images.u8").open("ab") as file:
        file.write(b"half a row that was written after the last note")
    read = []
    monkeypatch.setattr(writing.PartWriter, "add", lambda self, rows: read.append(len(rows)) or add(self, rows))
    prepare(options)
    assert sum(read) == 36 - 12
    for part in ("train", "val"):
        for name in ("images.u8", "labels.npy", "store.json"):
            assert (tmp_path / "cut" / part / name).read_bytes() == (whole / part / name).read_bytes()


@READERS_LEAVE_FILES_OPEN
def test_webdataset_shards(tmp_path, capsys):
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard:03d}.tar", "w") as tar:
            for i in range(3):
                broken = (shard, i) == (1, 1)
                content = b"nothing" if broken else as_bytes(picture((80 * i, 0, 0)))
                for ending, data in (("png", content), ("cls", str(i).encode())):
                    member = tarfile.TarInfo(f"{shard}{i}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    pattern = f"wds/{tmp_path}/s-{{000..001}}.tar"
    out = prepare(Prepare(pattern, image_size=8, out=tmp_path / "store", progress=False))
    assert "left out: 1 unreadable (11.png: not an image)" in capsys.readouterr().out
    store = open_source(str(out))
    assert store.labels.tolist() == [0, 1, 2, 0, 2]
    assert store.images[:, 0, 0, 0].tolist() == [0, 80, 160, 0, 160]
    assert store.classes == ("0", "1", "2")
    assert len(pickle.dumps(store)) < 1000  # workers get the folder, not the bytes
    assert np.array_equal(pickle.loads(pickle.dumps(store)).images, store.images)
    with pytest.raises(UserError, match="no shard matches"):
        prepare(Prepare("wds/none-*.tar", out=tmp_path / "x", progress=False))


def test_a_store_that_is_not_whole(folder, tmp_path):
    out = prepare(Prepare(str(folder), image_size=8, workers=0, out=tmp_path / "store", progress=False))
    content = (out / "train" / "images.u8").read_bytes()
    (out / "train" / "images.u8").write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"images.u8 is damaged: 4,603 bytes, but 4,608 were written; restore it, or"):
        open_source(str(out))
    (out / "train" / "images.u8").write_bytes(content)
    (out / "train" / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"train is not whole: it has no labels.npy"):
        open_source(str(out))


def write_cifar(folder, n=20, labels=10):
    rng = np.random.default_rng(1)
    folder.mkdir()
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        rows = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(n) % labels
        rows.tofile(folder / name)
    return folder


def test_cifar_in_its_binary_files(tmp_path):
    folder = write_cifar(tmp_path / "cifar")
    train, val = open_pair(str(folder))
    assert (len(train), len(val), train.classes[3]) == (100, 20, "cat")
    row = np.fromfile(folder / "data_batch_2.bin", np.uint8)[:3073]
    assert train.labels[20] == row[0]
    assert np.array_equal(train.images[20], row[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    own = write_cifar(tmp_path / "own", n=10)
    assert len(open_pair(str(folder), str(own))[1]) == 10  # its test file, not its five training files
    (folder / "data_batch_3.bin").write_bytes(b"123")
    with pytest.raises(UserError, match=r"data_batch_3.bin is truncated: 3 bytes are not a multiple of 3073"):
        open_source(str(folder))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"holds cifar10 but data_batch_3.bin is missing"):
        open_source(str(folder))
    wrong = write_cifar(tmp_path / "wrong", labels=15)
    with pytest.raises(UserError, match="a label is 14, but there are 10 classes"):
        open_source(str(wrong))


def test_mnist_and_the_bundled_sets(tmp_path, digits, write_mnist):
    write_mnist(tmp_path / "mnist", digits)
    train, val = open_pair(str(tmp_path / "mnist"))
    assert np.array_equal(train.images[:, :, :, 0].reshape(-1, 64), digits.train_images.numpy())
    bundled, _ = open_pair("digits")
    assert bundled.images.max() == 255
    train, val = open_pair("photographs")
    assert (train.size, train.in_chans, train.classes) == ((96, 96), 3, ("china", "flower"))
    assert len(train) > 3 * len(val) > 0


def test_augmentation_depends_on_seed_epoch_and_index_alone(folder):
    from r2mae_vision.mae.finetune import train_transform
    from r2mae_vision.mae.options import Finetune

    transform = train_transform(Finetune("m", "d"), MAEShape(image_size=16))
    source = open_source(str(folder))
    dataset = AugmentedImages(source, transform, 3, seed=5)
    first = dataset[4, 0][0]
    np.random.seed(9)  # noqa: NPY002
    assert np.array_equal(dataset[4, 0][0], first)
    assert first.dtype == np.uint8
    assert first.shape == (3, 16, 16)
    assert not np.array_equal(dataset[4, 1][0], first)
    assert not np.array_equal(AugmentedImages(source, transform, 3, seed=6)[4, 0][0], first)


def test_workers_change_nothing(folder):
    from r2mae_vision.mae.finetune import train_transform
    from r2mae_vision.mae.options import Finetune

    transform, source = train_transform(Finetune("m", "d"), MAEShape(image_size=16)), open_source(str(folder))
    batches = []
    for workers in (0, 2):
        loader = train_loader(source, transform, StepOrder(len(source), 8, 4, seed=1), in_chans=3, num_workers=workers)
        batches.append([torch.cat([batch[0] for batch in loader]) for _ in range(2)])
        loader.close()
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert not torch.equal(batches[0][0], batches[0][1])


def test_unreadable_images_are_replaced_and_named(folder):
    from r2mae_vision.mae.inference import eval_transform

    (folder / "train" / "a_red" / "2.jpg").write_bytes(b"nothing")
    source = open_source(str(folder))
    dataset = AugmentedImages(source, eval_transform(16, 1.0), 3, seed=0)
    images, labels, bad = collate([dataset[i, 0] for i in range(4)])
    assert bad.tolist() == [2]
    assert torch.equal(images[2], images[3])
    assert labels.tolist() == [0, 0, 0, 0]
    for file in (folder / "train").rglob("*.jpg"):
        file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="24 images in a row of images cannot be decoded"):
        dataset[0, 0]


def test_seeding_leaves_no_trace():
    import random

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    with seeded(3):
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
    after = random.getstate(), np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()
    assert torch.equal(before[2], after[2])
