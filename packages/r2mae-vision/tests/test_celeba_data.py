import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CelebA as TorchvisionCelebA

from r2mae_core import UserError
from r2mae_vision import open_celeba, prepare_celeba
from r2mae_vision.celeba import prepare as data
from r2mae_vision.celeba.model import scale


@pytest.fixture
def root(celeba_root, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(celeba_root, tmp_path / "root")
    return tmp_path / "root"


def prepared(root, cache="cache", **settings):
    return prepare_celeba(root, root.parent / cache, **{"side": 32, "progress": False, **settings})


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_images_and_attributes_are_torchvisions(root, monkeypatch, split):
    """The peer: torchvision's CelebA on the same folder, resized by its own transform."""
    for name in ("identity_CelebA.txt", "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        rows = [f"{i + 1:06d}.jpg 1 2 3 4" for i in range(64)]
        header = [] if name.startswith("identity") else ["64", "a b c d"]
        (root / name).write_text("\n".join(header + rows) + "\n")
    monkeypatch.setattr(TorchvisionCelebA, "base_folder", "root")
    monkeypatch.setattr(TorchvisionCelebA, "_check_integrity", lambda self: True)  # made-up files have other sums
    peer = TorchvisionCelebA(
        str(root.parent), split, transform=transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    )
    store = prepared(root)
    assert [name for name in peer.attr_names if name] == store.names
    assert store.counts[split] == len(peer) > 0
    assert torch.equal(store.attributes(split).long(), peer.attr)
    assert torch.equal(scale(store.images(split)), torch.stack([image for image, _ in peer]))


def test_kaggles_layout_gives_the_same_set(tmp_path, write_celeba):
    write_celeba(tmp_path / "plain", (4, 1, 2))
    write_celeba(tmp_path / "kaggle", (4, 1, 2), kaggle=True)
    plain, kaggle = prepared(tmp_path / "plain", "a"), prepared(tmp_path / "kaggle", "b")
    assert plain.digest == kaggle.digest
    for split in ("train", "valid", "test"):
        assert torch.equal(plain.images(split), kaggle.images(split))
        assert torch.equal(plain.attributes(split), kaggle.attributes(split))


def test_the_central_square_keeps_proportions(root):
    file = root / "img_align_celeba" / "000001.jpg"
    square = Image.open(file).crop((0, 20, 178, 198)).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(data.read_image(file, 32, "center"), np.asarray(square))
    assert not np.array_equal(data.read_image(file, 32, "none"), np.asarray(square))


def test_bad_images_are_left_out_counted_and_named_and_others_become_rgb(root, celeba_root):
    folder = root / "img_align_celeba"
    (folder / "000002.jpg").unlink()
    whole = (folder / "000005.jpg").read_bytes()
    (folder / "000005.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "000042.jpg").write_text("not a picture")
    (folder / "000050.jpg").write_bytes(b"")
    Image.open(folder / "000003.jpg").convert("L").save(folder / "000003.jpg")
    Image.open(folder / "000004.jpg").convert("RGBA").save(folder / "000004.jpg", format="PNG")
    store, clean = prepared(root), prepared(celeba_root, "clean")
    assert store.counts == {"train": 38, "valid": 7, "test": 15}
    assert store.left_out == {"missing": 1, "unreadable": 3}
    assert store.named["000002.jpg"] == "missing"
    assert "truncated" in store.named["000005.jpg"]
    assert "not an image" in store.named["000042.jpg"]
    assert "left out: 1 missing, 3 unreadable (000002.jpg: missing" in store.summary()
    kept = [0, 2, 3, *range(5, 40)]
    assert torch.equal(store.attributes("train"), clean.attributes("train")[kept])
    assert torch.equal(store.images("train")[3:], clean.images("train")[kept][3:])
    grey = store.images("train")[1]
    assert torch.equal(grey[..., 0], grey[..., 1])
    assert (store.images("train")[2].float() - clean.images("train")[3]).abs().mean() < 3


def test_a_second_time_nothing_is_decoded_and_the_images_may_be_gone(root, monkeypatch):
    first = prepared(root)
    shutil.rmtree(root / "img_align_celeba")
    monkeypatch.setattr(data, "read_image", lambda *_: pytest.fail("decoded again"))
    assert prepared(root) == first
    assert torch.equal(open_celeba(first.folder).images("test"), first.images("test"))
    assert not (first.folder / ".parts").exists()


def test_an_interrupted_preparation_goes_on(root, monkeypatch):
    monkeypatch.setattr(data, "PART_SIZE", 10)
    read, calls = data.read_image, []

    def interrupted(*arguments):
        calls.append(arguments[0].name)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(data, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(root, workers=0)
    calls.clear()
    monkeypatch.setattr(data, "read_image", lambda *arguments: calls.append(arguments[0].name) or read(*arguments))
    store = prepared(root, workers=0)
    assert calls == [f"{i:06d}.jpg" for i in range(21, 65)]  # two parts of ten were whole
    whole = prepared(root, "whole", workers=0)
    for split in ("train", "valid", "test"):
        assert torch.equal(store.images(split), whole.images(split))


def test_workers_write_the_same_set(root, monkeypatch):
    monkeypatch.setattr(data, "PART_SIZE", 16)
    alone, together = prepared(root, "alone", workers=0), prepared(root, "together", workers=2)
    assert alone.counts == together.counts
    for name in ("train.npy", "valid.npy", "test.npy", "train_attributes.npy"):
        assert (alone.folder / name).read_bytes() == (together.folder / name).read_bytes()


def test_files_are_plain_numpy_and_json(root):
    store = prepared(root)
    assert np.load(store.folder / "train.npy").shape == (40, 32, 32, 3)
    assert np.load(store.folder / "train_attributes.npy").dtype == np.uint8
    assert json.loads((store.folder / "meta.json").read_text())["counts"] == {"train": 40, "valid": 8, "test": 16}


def test_an_empty_validation_split_will_do(tmp_path, write_celeba):
    write_celeba(tmp_path / "root", (3, 0, 2))
    assert prepared(tmp_path / "root").images("valid").shape == (0, 32, 32, 3)


ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (ATTRIBUTES, None, "no list_attr_celeba.txt or list_attr_celeba.csv in"),
        (PARTITION, None, "no list_eval_partition.txt or list_eval_partition.csv in"),
        (ATTRIBUTES, lambda t: t.replace("64\n", "65\n", 1), "line 1 announces 65 images, but 64 listed"),
        (ATTRIBUTES, lambda t: t.partition("\n")[2], "line 1: the number of images should be here, not '5_o_Clock"),
        (ATTRIBUTES, lambda t: t.replace(" Bald", "", 1), "line 2: 39 attribute names, CelebA has 40"),
        (ATTRIBUTES, lambda t: t.replace("000001.jpg -1", "000001.jpg  7", 1), "line 3: a file name and 40 values"),
        (ATTRIBUTES, lambda t: t.replace("000001.jpg -1", "000001.jpg", 1), "line 3: a file name and 40 values of 1"),
        (ATTRIBUTES, lambda t: t.replace("000002.jpg", "000001.jpg", 1), "line 4: 000001.jpg is listed twice"),
        (ATTRIBUTES, lambda t: "", "line 1: the number of images should be here"),
        (PARTITION, lambda t: t.replace("000003.jpg 0", "000003.jpg 3"), "line 3: a file name and 0 (train)"),
        (PARTITION, lambda t: t.replace("000003.jpg 0\n", ""), "list_attr_celeba.txt lists 1 images that list_eval"),
        (PARTITION, lambda t: t + "000099.jpg 2\n", "list_eval_partition.txt lists 1 images that list_attr_celeba"),
        (PARTITION, lambda t: t.replace(" 2\n", " 1\n"), "the lists name no test image"),
        (PARTITION, lambda t: "", "lists no image"),
    ],
)  # fmt: skip
def test_broken_lists_are_refused(root, file, change, message):
    path = root / file
    path.unlink() if change is None else path.write_text(change(path.read_text()))
    with pytest.raises(UserError) as error:
        prepared(root)
    assert message in str(error.value)


def test_missing_images_are_refused_and_nothing_stale_is_kept(root):
    shutil.move(root / "img_align_celeba", root / "elsewhere")
    with pytest.raises(UserError, match="no folder img_align_celeba in"):
        prepared(root)
    (root / "img_align_celeba").mkdir()
    with pytest.raises(
        UserError, match=r"no train image could be read; 64 of 64 failed, the first, 000001.jpg: missing"
    ):
        prepared(root)
    shutil.rmtree(root / "img_align_celeba")
    shutil.move(root / "elsewhere", root / "img_align_celeba")
    assert sum(prepared(root).left_out.values()) == 0


def test_a_folder_of_other_settings_or_contents_is_refused(root, tmp_path):
    prepared(root)
    with pytest.raises(UserError, match="side is 32 there and 48 here"):
        prepared(root, side=48)
    with pytest.raises(UserError, match="crop is 'none' there and 'center' here"):
        prepared(root, crop="center")
    text = (root / PARTITION).read_text()
    (root / PARTITION).write_text(text.replace("000001.jpg 0", "000001.jpg 2"))
    with pytest.raises(UserError, match="digest is"):
        prepared(root)
    with pytest.raises(UserError, match="is not empty and holds no prepared CelebA"):
        prepare_celeba(root, root, side=32, progress=False)
    with pytest.raises(UserError, match="no prepared CelebA in"):
        open_celeba(tmp_path / "nowhere")
    with pytest.raises(UserError, match="side must be at least 1"):
        prepared(root, "new", side=0)
