import numpy as np
import pytest
import torch
from PIL import Image

from r2mae_core import UserError
from r2mae_vision import save_mae
from r2mae_vision.mae.model_options import Reconstruct
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


def test_nothing_of_the_hidden_patches_is_in_the_picture(tiny_model):
    """What is hidden may be changed as one likes; with the true level it shows, and that is named in the picture."""
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (hidden, picture), *_ = reconstructions(tiny_model, images, (0.5,))
    changed = torch.where(hidden[:, None], 255 - images // 3, images)
    torch.testing.assert_close(reconstructions(tiny_model, changed, (0.5,))[0][1], picture, atol=0, rtol=0)
    given_away = [reconstructions(tiny_model, given, (0.5,), level="true")[0][1] for given in (images, changed)]
    assert (given_away[0] - given_away[1]).abs().max() > 0.1


def test_the_level_of_a_hidden_patch_is_that_of_its_neighbours(tiny_model):
    """A guess by hand: one visible patch left and one two steps to the right, weights 1 and 1/4."""
    from r2mae_vision.mae.masking import PatchSplit
    from r2mae_vision.mae.model import visible_levels

    patches = torch.zeros(1, 16, 48)
    patches[0, 4], patches[0, 7] = 1.0 + torch.linspace(-1, 1, 48), 11.0
    split = PatchSplit(torch.tensor([[4, 7]]), torch.tensor([[5]]))
    mean, deviation = visible_levels(patches, split, (4, 4))
    assert mean.item() == pytest.approx((1 * 1.0 + 0.25 * 11.0) / 1.25)
    assert deviation.item() == pytest.approx((1 * np.linspace(-1, 1, 48).std(ddof=1) + 0.25 * 1e-3) / 1.25, rel=1e-4)


@pytest.mark.parametrize(
    ("level", "words"), [("visible", "guessed from the visible patches"), ("true", "its true ones")]
)
def test_the_picture_says_where_its_levels_come_from(tiny_model, photograph, tmp_path, monkeypatch, level, words):
    import r2mae_vision.mae.reconstruct as room

    notes = []
    draw = room.plot_reconstructions
    monkeypatch.setattr(room, "plot_reconstructions", lambda *given: notes.append(draw(*given)) or notes[-1])
    save_mae(tiny_model, tmp_path / "model")
    config = Reconstruct(tmp_path / "model", (str(photograph),), level=level, device="cpu", out=tmp_path / "grid.png")
    reconstruct(config)
    assert words in notes[0].get_supxlabel()


def test_patches_of_one_value(tmp_path):
    """Their normalised target would be NaN; their own value can be predicted."""
    from r2mae_vision import MAEShape, MaskedAutoencoder, split_patches

    small = {"model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}, "mean": (0.5,), "std": (0.5,)}
    small |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    with pytest.raises(
        UserError, match=r"a patch of one grey pixel has no deviation to be normalised by; add --norm_pix_loss false"
    ):
        MaskedAutoencoder(MAEShape("vit_tiny_patch16_224", 8, 1, 1, **small))
    model = MaskedAutoencoder(MAEShape("vit_tiny_patch16_224", 8, 1, 1, norm_pix_loss=False, **small))
    split = split_patches(2, 64, 0.75, torch.Generator().manual_seed(0))
    assert torch.isfinite(model(torch.randn(2, 1, 8, 8), split)[0])
    colour = MaskedAutoencoder(
        MAEShape("vit_tiny_patch16_224", 8, 1, 3, **{**small, "mean": (0.5,) * 3, "std": (0.5,) * 3})
    )
    assert torch.isfinite(colour(torch.randn(2, 3, 8, 8), split)[0])
