import numpy as np
import pytest
import torch
from PIL import Image

from r2mae_core import UserError
from r2mae_vision import save_mae
from r2mae_vision.mae.options import Reconstruct
from r2mae_vision.mae.reconstruct import feature_colours, load_pictures, reconstruct, reconstructions


@pytest.fixture
def photograph(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_visible_patches_are_the_images_own_and_hiding_is_nested(tiny_model, photograph):
    images = load_pictures([str(photograph)], 16, 3)
    filled = reconstructions(tiny_model, images, (0.25, 0.5, 0.9), seed=3)
    for (hidden, picture), ratio in zip(filled, (0.25, 0.5, 0.9), strict=True):
        assert hidden.double().mean() == pytest.approx(round(ratio * 16) / 16)
        visible = ~hidden[:, None].expand_as(picture)
        torch.testing.assert_close(picture[visible], (images.float() / 255)[visible], atol=1e-5, rtol=0)
        assert ((picture >= 0) & (picture <= 1)).all()
    assert (filled[0][0] <= filled[1][0]).all()
    assert (filled[1][0] <= filled[2][0]).all()


def test_colours_are_the_first_components(tiny_model, photograph):
    images = load_pictures([str(photograph)], 16, 3)
    colours = feature_colours(tiny_model, images)
    assert colours.shape == (1, 3, 4, 4)
    assert colours.min() == 0
    assert colours.max() == 1
    assert (colours.var((2, 3)) > 0).all()


def test_files_of_ones_own(tiny_model, photograph, tmp_path):
    save_mae(tiny_model, tmp_path / "model")
    config = Reconstruct(tmp_path / "model", (str(photograph),), device="cpu", out=tmp_path / "grid.png")
    assert reconstruct(config).stat().st_size > 10_000
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 3 * picture.height  # one row, eight columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ("nowhere.png",)}, "no image at nowhere.png"),
        ({"images": ("broken.png",)}, "broken.png cannot be decoded: not an image"),
        ({"ratios": (1.0,)}, "a ratio must lie between 0 and 1, got 1"),
        ({}, "does not state what it was trained on; name image files with --images"),
    ],
)
def test_bad_input(tiny_model, tmp_path, change, message):
    (tmp_path / "broken.png").write_bytes(b"x")
    save_mae(tiny_model, tmp_path / "model")
    with pytest.raises(UserError, match=message):
        reconstruct(Reconstruct(tmp_path / "model", device="cpu", **change))
