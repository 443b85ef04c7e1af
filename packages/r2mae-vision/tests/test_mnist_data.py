import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r2mae_core import UserError
from r2mae_vision import load_images, open_pair, open_source, read_idx

CODES = {"uint8": 0x08, "int8": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def test_digits_are_all_there_split_without_overlap(digits):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    assert digits.train_images.shape == (1347, 64)
    assert digits.test_images.shape == (450, 64)
    both = np.concatenate([digits.train_images, digits.test_images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, pixels.astype(np.uint8)))
    together = torch.cat([digits.train_labels, digits.test_labels])
    assert torch.bincount(together).tolist() == np.bincount(labels).tolist()
    scaled = digits.scale(digits.train_images)
    assert (scaled.min().item(), scaled.max().item(), digits.n_classes, digits.n_pixels) == (0, 1, 10, 64)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_mnist_files_are_read_as_they_come(tmp_path, digits, write_mnist, compress, below):
    write_mnist(tmp_path / below, digits, compress)
    data = load_images("mnist", tmp_path)
    assert torch.equal(data.train_images, digits.train_images)
    assert torch.equal(data.test_labels, digits.test_labels)
    assert (data.side, data.white) == (8, 255)


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(sorted(CODES)))
    elements = {"allow_nan": False} if "f" in dtype else None
    return draw(hnp.arrays(np.dtype(dtype), hnp.array_shapes(max_dims=4, max_side=5), elements=elements))


@given(arrays())
def test_idx_round_trip_for_every_type(tmp_path_factory, idx_bytes, array):
    file = tmp_path_factory.mktemp("idx") / "a"
    code = CODES[next(k for k in CODES if np.dtype(k) == array.dtype)]
    file.write_bytes(idx_bytes(array, code))
    assert np.array_equal(read_idx(file), array)


def test_agrees_with_torchvisions_reader(tmp_path, digits, write_mnist):
    from torchvision.datasets.mnist import read_image_file

    write_mnist(tmp_path, digits)
    file = tmp_path / "train-images-idx3-ubyte"
    assert np.array_equal(read_idx(file), read_image_file(str(file)).numpy())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "is not an IDX file: it starts with nothing"),
        (lambda good: b"<!DOCTYPE html>", "is not an IDX file: it starts with 3c 21 44 4f"),
        (lambda good: good[:9], "is truncated: 9 bytes, its header alone needs 16"),
        (lambda good: good[:100], "is truncated: 100 bytes, its header says 336; fetch it again"),
        (lambda good: good + b"x", "is too long: 337 bytes, its header says 336"),
        (lambda good: gzip.compress(good)[:-9], "is truncated or damaged"),
        (lambda good: gzip.compress(good)[:15] + b"\xff\xff\xff", "is truncated or damaged"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, idx_bytes, damage, message):
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(idx_bytes(np.zeros((5, 8, 8), np.uint8))))
    with pytest.raises(UserError, match=message) as error:
        read_idx(file)
    assert str(file) in str(error.value)


def test_missing_and_mismatched_files(tmp_path, digits, write_mnist):
    with pytest.raises(UserError, match="mnist needs --data DIR"):
        load_images("mnist")
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte or .*\.gz in"):
        load_images("mnist", tmp_path)
    write_mnist(tmp_path, digits, **{"train-labels-idx1-ubyte": torch.zeros(5, dtype=torch.uint8)})
    with pytest.raises(UserError, match="1347 train images but 5 train labels"):
        load_images("mnist", tmp_path)
    write_mnist(tmp_path, digits, **{"t10k-images-idx3-ubyte": torch.zeros(450, dtype=torch.uint8)})
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte should hold square images"):
        load_images("mnist", tmp_path)
    with pytest.raises(UserError, match="unknown data set 'imagenet'; known: digits, mnist"):
        load_images("imagenet")


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import torchvision

    def no_network(*arguments, **options):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "MNIST", no_network)
    with pytest.raises(UserError, match=r"could not download MNIST \(Error downloading.*leave out --download"):
        load_images("mnist", tmp_path, download=True)


@pytest.mark.parametrize(("home", "name"), [("kmnist", "kmnist"), ("FashionMNIST/raw", "FashionMNIST")])
def test_a_set_in_mnists_files_is_called_as_its_folder(tmp_path, digits, write_mnist, home, name):
    write_mnist(tmp_path / home, digits)
    assert load_images("mnist", tmp_path / home).name == name
    assert open_source(str(tmp_path / home), "val").name == name
    here = load_images("mnist", tmp_path / home).identity
    (tmp_path / home).rename(tmp_path / "elsewhere")
    assert load_images("mnist", tmp_path / "elsewhere").identity == here


def test_letters_have_26_classes_numbered_from_one(tmp_path, digits, write_mnist):
    train, test = (torch.arange(n, dtype=torch.uint8) % 26 + 1 for n in (1347, 450))
    files = {"train-labels-idx1-ubyte": train, "t10k-labels-idx1-ubyte": test}
    write_mnist(tmp_path / "letters", digits, **files)
    assert load_images("mnist", tmp_path / "letters").n_classes == 27
    first, second = open_pair(str(tmp_path / "letters"))
    assert first.classes == second.classes == tuple(str(label) for label in range(1, 27))
    assert second.labels.tolist() == [label - 1 for label in test.tolist()]
    write_mnist(tmp_path / "letters", digits, **{**files, "t10k-labels-idx1-ubyte": test + 1})
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte has labels that the training images do not have: 27"):
        load_images("mnist", tmp_path / "letters")
