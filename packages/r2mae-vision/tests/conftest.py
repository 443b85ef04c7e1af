import gzip
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine; GPU checks are benchmarks
torch.set_num_threads(1)  # small tensors; threads would only wait for each other


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout


@pytest.fixture(scope="session")
def digits():
    from r2mae_vision import load_images

    return load_images("digits")


def _idx_bytes(array, code=0x08):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _write_mnist(folder, data, compress=False, **changes):
    """Write the digits in MNIST's own files."""
    arrays = {
        "train-images-idx3-ubyte": data.train_images.view(-1, 8, 8),
        "train-labels-idx1-ubyte": data.train_labels.to(torch.uint8),
        "t10k-images-idx3-ubyte": data.test_images.view(-1, 8, 8),
        "t10k-labels-idx1-ubyte": data.test_labels.to(torch.uint8),
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = _idx_bytes(np.asarray(array))
        (folder / (name + ".gz" if compress else name)).write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture(scope="session")
def idx_bytes():
    return _idx_bytes


@pytest.fixture(scope="session")
def write_mnist():
    return _write_mnist


CELEBA_NAMES = [
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
]  # fmt: skip


def _draw_face(rng, has):
    """Draw a 178 x 218 face whose hair, glasses, hat, lips and smile are what the attributes say."""
    from PIL import Image, ImageDraw, ImageFilter

    def shade(*colour):
        return tuple(int(c) for c in np.clip(np.array(colour) + rng.integers(-15, 16, 3), 0, 255))

    picture = Image.new("RGB", (178, 218), tuple(int(c) for c in rng.integers(60, 200, 3)))
    draw = ImageDraw.Draw(picture)
    x, y = 89 + int(rng.integers(-8, 9)), 118 + int(rng.integers(-8, 9))
    hair = shade(225, 200, 110) if has["Blond_Hair"] else shade(25, 20, 20) if has["Black_Hair"] else shade(120, 75, 40)
    draw.ellipse((x - 62, y - 88, x + 62, y + 60), fill=hair)
    draw.ellipse((x - 46, y - 56, x + 46, y + 66), fill=shade(215, 165, 135))
    if has["Wearing_Hat"]:
        draw.rectangle((x - 70, y - 100, x + 70, y - 48), fill=shade(180, 30, 160))
    for side in (-20, 20):
        draw.ellipse((x + side - 7, y - 20, x + side + 7, y - 10), fill=shade(240, 240, 240))
        if has["Eyeglasses"]:
            draw.rectangle((x + side - 17, y - 28, x + side + 17, y - 2), outline=(10, 10, 10), width=5)
    lips = shade(200, 20, 40) if has["Wearing_Lipstick"] else shade(170, 100, 90)
    draw.arc((x - 24, y + 10, x + 24, y + 44), *((20, 160) if has["Smiling"] else (200, 340)), fill=lips, width=7)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))


def _write_celeba(folder, counts=(40, 8, 16), seed=0, kaggle=False):
    """Write faces as JPEGs with CelebA's own lists (or Kaggle's); return (files, attributes of 1 and -1, split)."""
    rng = np.random.default_rng(seed)
    rates = dict.fromkeys(CELEBA_NAMES, 0.3) | {"Attractive": 0.5, "Blond_Hair": 0.4, "Wearing_Hat": 0.4}
    images = folder / "img_align_celeba" / "img_align_celeba" if kaggle else folder / "img_align_celeba"
    images.mkdir(parents=True)
    n = sum(counts)
    values = np.array([[rng.random() < rates[name] for name in CELEBA_NAMES] for _ in range(n)])
    files = [f"{i + 1:06d}.jpg" for i in range(n)]
    split = np.repeat([0, 1, 2], counts)
    for file, row in zip(files, values, strict=True):
        _draw_face(rng, dict(zip(CELEBA_NAMES, row, strict=True))).save(images / file, quality=90)
    signed = np.where(values, 1, -1)
    if kaggle:
        lines = [
            ",".join(["image_id", *CELEBA_NAMES]),
            *(",".join([f, *map(str, r)]) for f, r in zip(files, signed, strict=True)),
        ]
        (folder / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
        lines = ["image_id,partition", *(f"{f},{s}" for f, s in zip(files, split, strict=True))]
        (folder / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
    else:
        rows = [f + " " + " ".join(f"{v:2d}" for v in r) for f, r in zip(files, signed, strict=True)]
        # The real list has a blank after the last name, and two before a 1.
        (folder / "list_attr_celeba.txt").write_text("\n".join([str(n), " ".join(CELEBA_NAMES) + " ", *rows]) + "\n")
        (folder / "list_eval_partition.txt").write_text(
            "".join(f"{f} {s}\n" for f, s in zip(files, split, strict=True))
        )
    return files, signed, split


@pytest.fixture(scope="session")
def write_celeba():
    return _write_celeba


@pytest.fixture(scope="session")
def celeba_names():
    return CELEBA_NAMES


@pytest.fixture(scope="session")
def celeba_root(tmp_path_factory):
    """64 faces in CelebA's layout, not to be changed."""
    root = tmp_path_factory.mktemp("celeba")
    _write_celeba(root)
    return root


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A prepared set of 700 + 20 + 300 faces of 32 x 32 pixels."""
    from r2mae_vision import prepare_celeba

    root = tmp_path_factory.mktemp("faces")
    _write_celeba(root, (700, 20, 300), seed=1)
    return prepare_celeba(root, root / "cache", side=32, progress=False)


@pytest.fixture(scope="session")
def tiny_shape():
    from r2mae_vision import MAEShape

    return MAEShape(
        "vit_tiny_patch16_224", 16, 4, model_args={"depth": 2, "embed_dim": 48, "num_heads": 3},
        decoder_dim=32, decoder_depth=2, decoder_heads=4,
    )  # fmt: skip


@pytest.fixture
def tiny_model(tiny_shape):
    from r2mae_vision import MaskedAutoencoder

    return MaskedAutoencoder(tiny_shape, seed=1).eval()
