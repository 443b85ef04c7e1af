"""Which images and which classes folders and archives have, whatever they are called and wherever they lie."""

import io
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from r2mae_core import UserError
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.pairs import open_pair
from r2mae_vision.data.parts import TRAIN_NAMES, VAL_NAMES
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.sources import NoValidationError, open_source
from r2mae_vision.data.trees import SYSTEM


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((16, 16, 3), value, np.uint8)
    pixels[0, 0] = np.random.default_rng(len(str(path))).integers(0, 255, 3)
    Image.fromarray(pixels).save(path)
    return path


def two_classes(home, n=2):
    for label, name in enumerate(("cat", "dog")):
        for k in range(n):
            image(home / name / f"{k}.png", 100 * label + k)


def packed(folder, target, top=""):
    """Pack a folder into a .tar or a .zip."""
    if target.suffix == ".tar":
        with tarfile.open(target, "w") as archive:
            archive.add(folder, top or ".")
    else:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, f"{top}/{file.relative_to(folder)}" if top else str(file.relative_to(folder)))
    return target


def everything(source):
    return [(source.file_name(i), source.read(i, 3)[1], source.read(i, 3)[0].tobytes()) for i in range(len(source))]


def test_on_a_clean_folder_labels_and_order_are_torchvisions_and_timms(tmp_path):
    from timm.data.readers.reader_factory import create_reader

    for name in ("ant", "bee", "cow"):
        for k in range(3):
            image(tmp_path / "set" / "train" / name / f"{k}.png")
    ours = open_source(str(tmp_path / "set"))
    theirs, timms = ImageFolder(str(tmp_path / "set" / "train")), create_reader("", str(tmp_path / "set" / "train"))
    mine = [(ours.file_name(i), label) for i, label in enumerate(ours.labels.tolist())]
    assert mine == [(file.split("/train/")[1], label) for file, label in theirs.samples]
    assert mine == [(timms.filename(i), label) for i, (_, label) in enumerate(timms.samples)]
    assert ours.classes == tuple(theirs.classes)


def test_the_class_is_the_top_folder_in_torchvisions_order(tmp_path):
    for name in ("cat/adult", "cat/young", "cat", "cat-2", "Dog/x/y", "10", "9"):
        image(tmp_path / "train" / name / "1.png")
        image(tmp_path / "train" / name / "10.png")
    theirs = ImageFolder(str(tmp_path / "train"))
    archives = [packed(tmp_path / "train", tmp_path / name) for name in ("one.tar", "z.zip")]
    for place in (tmp_path, *archives):
        ours = open_source(str(place))
        assert ours.classes == ("10", "9", "Dog", "cat", "cat-2")
        mine = [(ours.file_name(i), label) for i, label in enumerate(ours.labels.tolist())]
        assert mine == [(file.split("/train/")[1], label) for file, label in theirs.samples]


NAMES = [(train, val) for train in TRAIN_NAMES for val in VAL_NAMES]


@pytest.mark.parametrize("kind", ["folder", ".tar", ".zip", "wrapped.tar", "wrapped.zip", "wrapped folder"])
@pytest.mark.parametrize("number", range(3))
def test_parts_are_known_by_their_names(tmp_path, kind, number):
    case = (str.lower, str.title, str.upper)[number]
    for i, (train, val) in enumerate(NAMES[number::3]):
        place = tmp_path / f"set{i}"
        home = place / "one" / "two" if kind == "wrapped folder" else place
        two_classes(home / case(train), 2)
        two_classes(home / case(val), 1)
        if not kind.endswith("folder"):
            place = packed(place, tmp_path / f"a{i}{kind[-4:]}", "wrap/deep" if kind.startswith("wrapped") else "")
        first, second = open_pair(str(place))
        assert (len(first), len(second), first.classes, second.classes) == (4, 2, ("cat", "dog"), ("cat", "dog"))
        assert first.read(3, 3)[0].getpixel((3, 3)) == (101,) * 3
        assert second.read(1, 3)[1] == 1


def test_folders_that_may_be_parts_or_classes_are_refused(tmp_path):
    two_classes(tmp_path / "a" / "val")
    with pytest.raises(UserError, match="has a folder val but none named train: it may be a part or a class"):
        open_source(str(tmp_path / "a"))
    two_classes(tmp_path / "b" / "train")
    two_classes(tmp_path / "b" / "Training")
    with pytest.raises(UserError, match="has Training and train: which is the part"):
        open_source(str(tmp_path / "b"))
    for name in ("train", "val", "bus"):
        image(tmp_path / "c" / name / "0.png")
    with pytest.raises(UserError, match="has train and val beside bus: they may be parts or classes"):
        open_source(str(tmp_path / "c"))
    for name in ("train", "car", "bus"):  # CIFAR-100 has a class train
        image(tmp_path / "d" / name / "0.png")
    assert open_source(str(tmp_path / "d")).classes == ("bus", "car", "train")
    two_classes(tmp_path / "e" / "train")
    (tmp_path / "e" / "val" / "cat").mkdir(parents=True)
    (tmp_path / "e" / "val" / "cat" / "0.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"e/val holds no images \(ignored: 1 .heic\)"):
        open_source(str(tmp_path / "e"))


@pytest.mark.parametrize("names", [("train_images", "test_images"), ("2012-Train", "2012-val", "my test")])
def test_folders_that_sound_like_parts_are_no_classes(tmp_path, names):
    for name in names:
        image(tmp_path / name / "0.png")
    with pytest.raises(UserError, match=f"{names[0]}.*: they sound like parts, but would be classes"):
        open_source(str(tmp_path))
    image(tmp_path / "bus" / "0.png")
    assert len(open_source(str(tmp_path)).classes) == len(names) + 1


def test_what_is_neither_part_is_named(tmp_path, capsys):
    for name in ("train", "val", "test", "extra"):
        two_classes(tmp_path / name)
    assert len(open_source(str(tmp_path), "val")) == 4
    line = capsys.readouterr().out
    assert "4 images in test" in line
    assert "4 images in extra" in line


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", *sorted(SYSTEM), "@eaDir", "__MACOSX"])
def test_hidden_and_system_folders_are_no_classes(tmp_path, capsys, name):
    two_classes(tmp_path / "set" / "train")
    image(tmp_path / "set" / "train" / name / "0.png")
    image(tmp_path / "set" / "train" / "cat" / name / "0.png")
    image(tmp_path / "set" / name / "0.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "set" / "train" / "cat" / "._0.png")
    archives = [packed(tmp_path / "set", tmp_path / name) for name in ("a.tar", "a.zip")]
    for place in (tmp_path / "set", *archives):
        source = open_source(str(place))
        assert (len(source), source.classes) == (4, ("cat", "dog"))
        line = capsys.readouterr().out
        assert f"{name} (hidden or system)" in line
        assert "1 hidden or of the system" in line


def test_links_are_followed_and_loops_are_found(tmp_path, capsys):
    two_classes(tmp_path / "set")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cow").symlink_to(tmp_path / "set" / "dog")
    source = open_source(str(tmp_path / "set"))
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "link cat/again that leads back into its own folder" in capsys.readouterr().out


SUFFIXES = ("png", "webp", "bmp", "tif", "tiff", "gif", "avif", "jp2", "jpg", "jpeg", "ppm", "tga", "ico", "pcx", "sgi")


@pytest.mark.parametrize("kind", ["folder", ".tar", ".zip"])
def test_everything_that_pillow_reads_is_read(tmp_path, capsys, kind):
    for suffix in SUFFIXES:
        for name in (f"a.{suffix}", f"B.{suffix.upper()}"):
            image(tmp_path / "set" / "cat" / name, 50)
    for other in ("notes.txt", "list.txt", "photo.heic", "README"):
        (tmp_path / "set" / "cat" / other).write_text("x")
    place = tmp_path / "set" if kind == "folder" else packed(tmp_path / "set", tmp_path / f"a{kind}")
    source = open_source(str(place))
    assert len(source) == 2 * len(SUFFIXES)
    for i in range(len(source)):
        assert abs(source.read(i, 3)[0].getpixel((12, 12))[0] - 50) < 12, source.file_name(i)
    assert "ignored: 2 .txt, 1 .heic, 1 without suffix" in capsys.readouterr().out


def test_a_folder_without_classes_is_unlabelled(tmp_path):
    for k in range(4):
        image(tmp_path / "flat" / f"{k}.png")
        image(tmp_path / "parts" / "train" / f"{k}.png")
        image(tmp_path / "parts" / "test" / f"{k}.png")
    for place in (tmp_path / "flat", packed(tmp_path / "flat", tmp_path / "f.tar"), tmp_path / "parts"):
        source = open_source(str(place))
        assert (source.classes, source.labels.tolist(), source.read(0, 3)[1]) == ((), [-1] * 4, -1)
        out = prepare(Prepare(str(place), image_size=4, workers=0, out=tmp_path / f"{place.name}.s", progress=False))
        store = open_source(str(out))
        assert (store.classes, store.labels.tolist()) == ((), [-1] * 4)
    assert open_source(str(out), "val").labels.tolist() == [-1] * 4
    for spec in (tmp_path / "parts", out):
        with pytest.raises(UserError, match=r"4 of 4 training images of .* have no label; labels are needed here"):
            open_pair(str(spec))


def test_an_unlabelled_folder_pretrains(tmp_path):
    from r2mae_vision.mae.options import Pretrain
    from r2mae_vision.mae.pretrain import pretrain

    for k in range(6):
        image(tmp_path / "flat" / f"{k}.png")
    tiny = {"model": "vit_tiny_patch16_224", "model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}}
    run = pretrain(
        Pretrain(str(tmp_path / "flat"), **tiny, image_size=8, patch_size=4, decoder_dim=16, decoder_depth=1,
                 decoder_heads=2, epochs=1, batch_size=4, device="cpu", workers=0, progress=False, out=tmp_path / "run")
    )  # fmt: skip
    assert run.results()


def test_images_beside_class_folders_are_left_out_and_counted(tmp_path, capsys):
    two_classes(tmp_path / "train")
    image(tmp_path / "train" / "stray.png")
    image(tmp_path / "stray.png")
    source = open_source(str(tmp_path))
    assert Counter(source.labels.tolist()) == {0: 2, 1: 2}
    line = capsys.readouterr().out
    assert "1 images of train beside its class folders" in line
    assert "1 images in (loose)" in line


def test_archives_hold_what_the_folder_holds(tmp_path):
    two_classes(tmp_path / "set", 3)
    with tarfile.open(tmp_path / "nested.tar", "w") as outer:  # ImageNet's way: an archive per class
        for name in ("cat", "dog"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for file in sorted((tmp_path / "set" / name).iterdir()):
                    archive.add(file, file.name)
            member = tarfile.TarInfo(f"{name}.tar")
            member.size = len(inner.getvalue())
            outer.addfile(member, io.BytesIO(inner.getvalue()))
    (tmp_path / "set" / "cat" / "3.png").hardlink_to(tmp_path / "set" / "cat" / "0.png")
    wanted = everything(open_source(str(tmp_path / "set")))
    for place in (packed(tmp_path / "set", tmp_path / "a.tar"), packed(tmp_path / "set", tmp_path / "a.zip", "set")):
        assert everything(open_source(str(place))) == wanted
    without = [row for row in wanted if row[0] != "cat/3.png"]
    assert everything(open_source(str(tmp_path / "nested.tar"))) == without


def test_archives_are_read_by_workers(tmp_path):
    from r2mae_core import StepOrder
    from r2mae_vision.data.datasets import train_loader
    from r2mae_vision.mae.inference import eval_transform

    two_classes(tmp_path / "set", 8)
    batches = []
    archives = [packed(tmp_path / "set", tmp_path / name) for name in ("a.tar", "a.zip")]
    for place in (tmp_path / "set", *archives):
        source = open_source(str(place))
        source.read(0, 3)  # opened before the workers are made
        loader = train_loader(source, eval_transform(6, 1.0), StepOrder(16, 8, 4, seed=1), in_chans=3, num_workers=2)
        batches.append(np.concatenate([batch[0].numpy() for batch in loader]))
        loader.close()
    assert np.array_equal(batches[0], batches[1])
    assert np.array_equal(batches[0], batches[2])


def test_damaged_archives(tmp_path):
    two_classes(tmp_path / "set", 3)
    for name in ("a.tar", "a.zip"):
        file = packed(tmp_path / "set", tmp_path / name)
        content = file.read_bytes()
        for cut in (0, 10, len(content) // 3, len(content) // 2):
            (tmp_path / f"cut{cut}{name}").write_bytes(content[:cut])
            with pytest.raises(UserError, match=rf"cut{cut}{name} (is truncated|cannot be read)"):
                open_source(str(tmp_path / f"cut{cut}{name}"))
    (tmp_path / "a.rar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.rar is not a folder of images or a \.tar or \.zip of one"):
        open_source(str(tmp_path / "a.rar"))
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name in ("0.png", "0.cls"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"1"))
    with pytest.raises(UserError, match="looks like a shard of WebDataset; run r2mae-vision prepare wds/"):
        open_source(str(tmp_path / "shard.tar"))


def test_class_folders_that_differ_between_parts(tmp_path, capsys):
    for name in ("ant", "bee", "cow"):
        image(tmp_path / "set" / "train" / name / "0.png")
    for name in ("bee", "cow"):
        image(tmp_path / "set" / "val" / name / "0.png")
    train, val = open_pair(str(tmp_path / "set"))
    assert (val.classes, [val.read(i, 3)[1] for i in range(2)]) == (train.classes, [1, 2])
    assert "1 of 3 classes have no validation images: ant" in capsys.readouterr().out
    out = prepare(Prepare(str(tmp_path / "set"), image_size=4, workers=0, out=tmp_path / "s", progress=False))
    assert open_pair(str(out))[1].labels.tolist() == [1, 2]
    (tmp_path / "set" / "val" / "bee").rename(tmp_path / "set" / "val" / "Bee")
    with pytest.raises(
        UserError, match=r"1 classes that training does not have \(Bee; names must agree in case, too\)"
    ):
        open_pair(str(tmp_path / "set"))
    with pytest.raises(NoValidationError):
        open_pair(str(tmp_path / "set" / "train"))


@pytest.mark.parametrize("command", ["finetune", "probe"])
def test_a_single_class_is_refused_where_classes_are_told_apart(tmp_path, command):
    from r2mae_vision import options
    from r2mae_vision.data import sources
    from r2mae_vision.mae import finetune, probe
    from r2mae_vision.mae.shape import MAEShape

    image(tmp_path / "set" / "train" / "cat" / "0.png")
    image(tmp_path / "set" / "val" / "cat" / "0.png")
    data = str(tmp_path / "set")
    check = {
        "probe": lambda: probe.open_labelled(data, options.Probe("m"), sources.AS_IT_IS),
        "finetune": lambda: finetune.checked(options.Finetune("m", data), MAEShape(), "cpu"),
    }[command]
    with pytest.raises(UserError, match=r"set has a single class, cat; (fine-tuning|a probe) needs two"):
        check()
