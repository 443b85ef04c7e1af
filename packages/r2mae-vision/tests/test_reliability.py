"""Nothing that is read back is trusted, and nothing that was there is lost: stores, archives, images, outputs."""

import contextlib
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from r2mae_core import UserError, read_json, save_tensors, write_checksums
from r2mae_vision import (
    MAEShape,
    MaskedAutoencoder,
    export_timm,
    load_images,
    load_mae,
    open_celeba,
    open_encoder,
    open_pair,
    open_source,
    prepare_celeba,
    read_idx,
    save_mae,
)  # fmt: skip
from r2mae_vision.celeba import prepare as celeba
from r2mae_vision.cli import main
from r2mae_vision.data import writing
from r2mae_vision.data.decoding import UnreadableImageError, decode
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.shards import open_shards, shards_of
from r2mae_vision.data.tars import files_of_tar
from r2mae_vision.mae.export import export
from r2mae_vision.mae.model_options import Export, Reconstruct
from r2mae_vision.mae.reconstruct import reconstruct
from r2mae_vision.options import Prepare

READERS_LEAVE_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def write_class(home, n=4, seed=0, suffix="png"):
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(home / f"{i}.{suffix}")


@pytest.fixture
def folder(tmp_path):
    for i, part in enumerate(("train", "val")):
        for name in ("b", "c"):
            write_class(tmp_path / "images" / part / name, seed=i)
    return tmp_path / "images"


def prepared(folder, out, **changes):
    return prepare(Prepare(str(folder), **{"image_size": 8, "workers": 0, "out": out, "progress": False, **changes}))


def test_a_store_is_of_the_images_it_was_made_from(folder, tmp_path):
    store = prepared(folder, tmp_path / "store")
    before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    write_class(folder / "train" / "a")
    write_class(folder / "val" / "a")
    with pytest.raises(UserError, match=r"store/train was made from other data: train/a/ is new; put the data back"):
        prepared(folder, store)
    shutil.rmtree(folder / "train" / "a")
    shutil.rmtree(folder / "val" / "a")
    file = folder / "train" / "b" / "0.png"
    os.utime(file, (1, 1))
    with pytest.raises(UserError, match=r"store/train was made from other data: train/b/"):
        prepared(folder, store)
    assert before == {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}


def test_an_interrupted_store_goes_on_with_the_same_images_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("r2mae_vision.data.prepare.CHUNK", 2)
    monkeypatch.setattr(writing, "NOTED", 2)
    add = writing.PartWriter.add

    def cut(self, rows):
        add(self, rows)
        if self.n_read == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(writing.PartWriter, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        prepared(folder, tmp_path / "store")
    monkeypatch.setattr(writing.PartWriter, "add", add)
    shutil.copytree(tmp_path / "store", tmp_path / "damaged")
    write_class(folder / "train" / "a")
    write_class(folder / "val" / "a")
    with pytest.raises(UserError, match=r"\.preparing/train was made from other data: train/a/ is new"):
        prepared(folder, tmp_path / "store")
    shutil.rmtree(folder / "train" / "a")
    shutil.rmtree(folder / "val" / "a")
    with pytest.raises(UserError, match="in another way: image_size is 8 there and 4 here; name another folder"):
        prepared(folder, tmp_path / "store", image_size=4)
    flip(tmp_path / "damaged" / ".preparing" / "train" / "images.u8")
    with pytest.raises(UserError, match=r"images.u8 is damaged: it does not begin with the 6 images noted beside it"):
        prepared(folder, tmp_path / "damaged")
    whole, resumed = prepared(folder, tmp_path / "whole"), prepared(folder, tmp_path / "store")
    for name in ("train/images.u8", "train/store.json", "val/labels.npy"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    assert not (resumed / ".preparing").exists()


def test_a_store_may_be_moved_but_not_lose_a_part(folder, tmp_path):
    store = prepared(folder, tmp_path / "store")
    identity = open_source(str(store)).identity
    store.rename(tmp_path / "moved")
    assert open_source(str(tmp_path / "moved")).identity == identity
    shutil.rmtree(tmp_path / "moved" / "val")  # the loss would be measured on training images
    with pytest.raises(UserError, match=r"val is not a prepared image set: it has no store.json"):
        open_source(str(tmp_path / "moved"), "val")
    shutil.rmtree(folder / "val")
    prepared(folder, tmp_path / "one")
    write_class(tmp_path / "one" / "val" / "x")
    with pytest.raises(UserError, match="has a part val, which the source does not have now"):
        prepared(folder, tmp_path / "one")


def flip(file, place=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["images.u8", "labels.npy", "store.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_store_is_one_line_with_the_files_name(folder, tmp_path, name, damage):
    file = prepared(folder, tmp_path / "store") / "train" / name
    content = file.read_bytes()
    if damage == "flipped":
        flip(file, 0.9)
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"\xff\xfe hello"}[damage])
    with pytest.raises(UserError, match=name) as error:
        open_source(str(tmp_path / "store"))
    assert len(str(error.value).splitlines()) == 1


def test_a_failed_prepare_leaves_nothing(folder, tmp_path):
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of 8 images could be read, the first, b/0.png: not an image"):
        prepared(folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(UserError, match="is not empty and is no prepared image set"):
        prepared(folder, tmp_path / "mine")
    for out in (folder, folder / "train" / "store", tmp_path / "link"):
        with contextlib.suppress(FileExistsError):
            (tmp_path / "link").symlink_to(folder)
        with pytest.raises(UserError, match=r"is an input of this command|lies inside the input"):
            prepared(folder, out)


def test_classes_and_files_have_one_order(tmp_path):
    """timm takes A and a, 1 and 01 for equal, and orders them by chance; here they are ordered as torchvision does."""
    for name in ("01", "1", "x"):
        write_class(tmp_path / "images" / name)
    for name in ("B1.png", "b1.png", "b01.png"):
        shutil.copy(tmp_path / "images" / "x" / "0.png", tmp_path / "images" / "x" / name)
    source = open_source(str(tmp_path / "images"))
    assert source.classes == ("01", "1", "x")
    names = [source.file_name(i) for i in range(len(source))]
    assert names[-3:] == ["x/B1.png", "x/b01.png", "x/b1.png"]


def write_tar(file, folder):
    with tarfile.open(file, "w") as tar:
        for name in ("b", "c"):
            tar.add(folder / "train" / name, name)
    return file


@READERS_LEAVE_FILES_OPEN
@pytest.mark.parametrize("damage", ["header", "cut", "no end", "text"])
def test_a_damaged_tar_is_not_a_shorter_one(folder, tmp_path, damage):
    file = write_tar(tmp_path / "images.tar", folder)
    assert len(open_source(str(file))) == 8
    with tarfile.open(file) as tar:
        header = tar.getmembers()[5].offset
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[header + 3] ^= 1
    changed = {"header": content, "cut": content[: header + 100], "no end": content[:header], "text": b"hello" * 300}
    file.write_bytes(changed[damage])
    with pytest.raises(UserError, match=r"images.tar (is truncated or damaged|cannot be read: it is damaged)"):
        files_of_tar(file, lambda *_: None)
    with pytest.raises(UserError, match=r"images.tar"):
        open_source(str(file))


class Opens:
    def __reduce__(self):
        return open, ("ran", "w")


@READERS_LEAVE_FILES_OPEN
def test_data_runs_no_code(folder, tmp_path):
    file = write_tar(tmp_path / "images.tar", folder)
    (tmp_path / "_images_tarinfos.pickle").write_bytes(pickle.dumps(Opens()))  # timm's cache of the archive
    assert len(open_source(str(file))) == 8
    shutil.copy(file, "pipe:touch ran #.tar")  # webdataset would run it
    assert shards_of("*.tar") == [str(tmp_path / "images.tar"), str(tmp_path / "pipe:touch ran #.tar")]
    open_shards("*.tar")
    (tmp_path / "x.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) (w) file\n"
    )
    with pytest.raises(UnreadableImageError, match="not an image"):  # Ghostscript would run it
        decode(tmp_path / "x.jpg")
    shape = MAEShape("vit_tiny_patch16_224", 16, 4, model_args={"checkpoint_path": "x.pth"})
    with pytest.raises(UserError, match="checkpoint_path is not an argument of a VisionTransformer"):
        MaskedAutoencoder(shape)
    torch.save({"w": Opens()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth is damaged, or holds more than tensors"):
        open_encoder(str(tmp_path / "w.pth"), "vit_tiny_patch16_224")
    assert not Path("ran").exists()


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_unreadable_and_nothing_else(tmp_path):
    """Whatever Pillow and its libraries raise."""
    rng, reasons = np.random.default_rng(0), list[str]()
    picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PCX", "TGA", "PPM"):
        picture.save(tmp_path / "x", kind)
        whole = (tmp_path / "x").read_bytes()
        for _ in range(40):
            content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, min(len(content), 120), 3):
                content[place] = rng.integers(0, 256)
            try:
                decode(bytes(content))
            except UnreadableImageError as error:
                reasons.append(str(error))
    assert len(reasons) > 200
    assert all(len(reason.splitlines()) == 1 for reason in reasons)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train-labels-idx1-ubyte",
            np.full(1347, 12, np.uint8),
            "t10k-labels.* that the training images do not have: 0, 1",
        ),
        ("train-images-idx3-ubyte", np.zeros((0, 8, 8), np.uint8), "should hold square images of bytes, but it holds"),
        (
            "t10k-images-idx3-ubyte",
            np.zeros((450, 9, 9), np.uint8),
            "training images have 8 pixels a side, test images 9",
        ),
    ],
)
def test_mnist_of_another_kind(tmp_path, digits, write_mnist, name, array, message):
    write_mnist(tmp_path, digits, **{name: torch.from_numpy(array)})
    with pytest.raises(UserError, match=message):
        load_images("mnist", tmp_path)


def test_a_header_that_promises_too_much(tmp_path):
    for content in (b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x08\xff" + b"\xff" * 1020 + b"x"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(UserError, match=r"a is truncated: \d+ bytes, its header says \d+"):
            read_idx(tmp_path / "a")


def test_celeba_is_of_the_images_it_was_made_from(tmp_path, write_celeba, monkeypatch):
    root, cache = tmp_path / "root", tmp_path / "cache"
    write_celeba(root, (6, 2, 3))
    monkeypatch.setattr(celeba, "PART_SIZE", 4)
    decode_part, done = celeba._decode_part, []

    def cut(task):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(decode_part(task))
        return done[-1]

    monkeypatch.setattr(celeba, "_decode_part", cut)
    settings = {"side": 16, "workers": 0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        prepare_celeba(root, cache, **settings)
    assert [path.name for path in cache.iterdir()] == [".parts"]
    monkeypatch.setattr(celeba, "_decode_part", decode_part)
    file = root / "img_align_celeba" / "000001.jpg"
    content = file.read_bytes()
    shutil.copy(root / "img_align_celeba" / "000002.jpg", file)
    for _ in range(2):  # in the middle, and when it is finished
        with pytest.raises(UserError, match=r"cache was made from other data: img_align_celeba/000001.jpg"):
            prepare_celeba(root, cache, **settings)
        file.write_bytes(content)
        shutil.rmtree(cache, ignore_errors=True)
        store = prepare_celeba(root, cache, **settings)
        shutil.copy(root / "img_align_celeba" / "000002.jpg", file)
    flip(cache / "train.npy")
    with pytest.raises(UserError, match=r"train.npy is damaged: its checksum is not the one that was written"):
        open_celeba(cache)
    other = prepare_celeba(root, tmp_path / "other", **settings)
    assert other.digest != store.digest  # one picture differs
    with pytest.raises(UserError, match="is an input of this command"):
        prepare_celeba(root, root / "img_align_celeba", **settings)
    lists = root / "list_eval_partition.txt"
    lists.write_text(lists.read_text().replace("000003.jpg", "../../secret.jpg"))
    with pytest.raises(UserError, match=r"line 3: '../../secret.jpg' is not the name of an image"):
        prepare_celeba(root, tmp_path / "third", **settings)


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A model folder as a run has it."""
    save_mae(tiny_model, tmp_path / "run" / "model")
    write_checksums(tmp_path / "run" / "model")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["model.safetensors", "mae.json"])
def test_a_flipped_bit_in_a_model_is_noticed(saved, name):
    flip(saved / "model" / name, 0.9)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_mae(saved)


def test_weights_that_are_no_numbers_are_named(tiny_model, tmp_path):
    state = {name: value.clone() for name, value in tiny_model.encoder.state_dict().items()}
    state["norm.bias"][3] = torch.nan
    save_tensors(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w.safetensors: norm.bias has NaN or infinite numbers"):
        open_encoder(str(tmp_path / "w.safetensors"), "vit_tiny_patch16_224")


def test_an_export_replaces_nothing_unasked(saved, tmp_path, capsys):
    out = export(Export(saved, tmp_path / "out"))
    export(Export(saved, out))
    assert "there already" in capsys.readouterr().out
    flip(out / "timm" / "model.safetensors", 0.9)
    with pytest.raises(UserError, match=r"timm/model.safetensors is damaged.*; or give --overwrite to write it again"):
        export(Export(saved, out))
    export(Export(saved, out, overwrite=True))
    save_mae(MaskedAutoencoder(load_mae(saved).shape, seed=5), tmp_path / "other")
    with pytest.raises(UserError, match="out holds the export of another model; give --overwrite to replace it"):
        export(Export(tmp_path / "other", out))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="was not written by export; name another folder"):
            export(Export(saved, tmp_path / "mine", overwrite=overwrite))
    with pytest.raises(UserError, match="lies inside the input"):
        export(Export(saved, saved / "exported"))


def test_a_picture_replaces_nothing_unasked(saved, tmp_path):
    write_class(tmp_path, n=1)
    config = {"images": (str(tmp_path / "0.png"),), "ratios": (0.5,), "features": False, "device": "cpu"}
    with pytest.raises(UserError, match=r"0.png is an input of this command"):
        reconstruct(Reconstruct(saved, **config, out=tmp_path / "0.png", overwrite=True))
    (tmp_path / "there.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"there.png is there already; give --overwrite to replace it"):
        reconstruct(Reconstruct(saved, **config, out=tmp_path / "there.png"))
    reconstruct(Reconstruct(saved, **config, out=tmp_path / "there.png", overwrite=True))
    for name in ("x", "x.docx"):
        with pytest.raises(UserError, match="suffix must be one of"):
            reconstruct(Reconstruct(saved, **config, out=tmp_path / name))


@contextlib.contextmanager
def largest_file(n_bytes):
    """Let the system refuse to write more, as it does where the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Nor may a module that is imported meanwhile leave a cut-off .pyc for all later processes.
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = bytecode


def test_a_full_disk_is_one_message_and_no_half_output(saved, folder, tmp_path, tiny_model):
    out = export(Export(saved, tmp_path / "out"))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    write_class(tmp_path, n=1)
    picture = {"images": (str(tmp_path / "0.png"),), "ratios": (0.5,), "device": "cpu"}
    with largest_file(20_000):
        with pytest.raises(UserError, match="the disk or the quota is full"):
            export(Export(saved, out, overwrite=True))
        with pytest.raises(UserError, match="the disk or the quota is full"):
            prepared(folder, tmp_path / "store", image_size=64)
        with largest_file(2_000), pytest.raises(UserError, match="the disk or the quota is full"):
            reconstruct(Reconstruct(saved, **picture, out=tmp_path / "p.pdf"))
        with pytest.raises(UserError, match="the disk or the quota is full"):
            export_timm(tiny_model, tmp_path / "w.safetensors")
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run", "out", "images", "0.png"}


def test_one_writer(folder, tmp_path):
    code = "import sys, time; from pathlib import Path; from r2mae_core import one_writer\n"
    code += "with one_writer(Path('store')): print('locked', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=rf"store is being written by process {holder.pid} on"):
            prepared(folder, tmp_path / "store")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    prepared(folder, tmp_path / "store")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain digits --patch_size 0", "--patch_size must be at least 1"),
        ("pretrain digits --image_size -1", "--image_size must be at least 1"),
        ("pretrain digits --checkpoint_every -1", "--checkpoint_every must be at least 1"),
        ("pretrain digits --lr .nan", "--lr must be a finite number"),
        ("pretrain digits --crop_scale [0.9,0.1]", "--crop_scale must rise, got [0.9,0.1]"),
        ("pretrain digits --workers 99999999999999999999", "--workers must be at least 0 and at most 1024"),
        ("pretrain digits --betas [0.9,1]", "--betas must be"),
        ("finetune a digits --seeds [1,1]", "--seeds has 1 twice"),
        ("finetune a digits --erase 2", "--erase must be"),
        (
            "finetune scratch:vit_tiny_patch16_224 digits --auto_augment nonsense",
            "--auto_augment nonsense: timm does not",
        ),
        ("probe scratch:vit_tiny_patch16_224 --data digits --k [0]", "--k must be at least 1"),
        ("probe scratch:vit_tiny_patch16_224 --data digits --k [9999]", "kNN with k = 9999 needs"),
        ("prepare images --in_chans 0", "--in_chans must be at least 1"),
        ("prepare images --image_size 0", "--image_size must be at least 1"),
        ("reconstruct run --ratios [2]", "--ratios must be"),
        ("demo --n_hidden [0,4]", "--n_hidden must be"),
        ("pretrain-mlp digits --batch_size 1", "--batch_size must be at least 2"),
        ("reproduce-mnist fig2a --data digits --ratios [] --ranges []", "the grid is empty"),
        ("reproduce-celeba fig5 --dropout 1", "--dropout must be"),
        ("reproduce table1 --data digits --schemes [nonsense]", "unknown mask scheme 'nonsense'"),
        ('reproduce table1 --data digits --pretrain {"epochs":1}', "--pretrain epochs is set by the grid"),
        (
            'reproduce table1 --data digits --finetune {"epochs":"x"}',
            "--finetune: --epochs x: this is not a whole number",
        ),
        ('reproduce table1 --data digits --pretrain {"lr":-1}', "--lr must be at least 0"),
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_written(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), *(["--out", "out/put"] if not words.startswith("reconstruct") else [])])
    text = capsys.readouterr().err
    assert stop.value.code == 1
    assert message in text
    assert len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_several_parts_are_of_the_same_classes_after_a_move(folder, tmp_path):
    store = prepared(folder, tmp_path / "store")
    train, val = open_pair(str(store))
    assert train.classes == val.classes == ("b", "c")
    assert read_json(store / "train" / "store.json")["parts"] == ["train", "val"]
