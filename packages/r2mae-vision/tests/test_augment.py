import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from r2mae_vision.data.augment import Rectangles, cut_each, cut_together, draw_rectangles, random_resized_crop, resize


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(n, mirrored=False):
    one, zero = torch.ones(n), torch.zeros(n)
    return Rectangles(zero, zero, one, one, torch.full((n,), mirrored))


@pytest.mark.parametrize("cut", [cut_each, cut_together])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_whole_picture_at_its_own_size_is_itself(cut, mirrored):
    images = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8)
    wanted = images.flip(3) if mirrored else images
    torch.testing.assert_close(cut(images, whole(3, mirrored), 12).float(), wanted.float(), atol=1e-3, rtol=0)


def test_half_of_the_pictures_are_mirrored():
    images = torch.randint(0, 256, (400, 1, 4, 4), dtype=torch.uint8)
    out = random_resized_crop(images, 4, generator(), scale=(1, 1), ratio=(1, 1))
    same = (out - images.float()).abs().amax((1, 2, 3)) < 1e-2
    mirrored = (out - images.float().flip(3)).abs().amax((1, 2, 3)) < 1e-2
    assert (same | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250
    still = random_resized_crop(images, 4, generator(), scale=(1, 1), ratio=(1, 1), flip=False)
    assert torch.equal(still, images.float())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_rectangles_have_the_areas_and_shapes_that_torchvision_draws(height, width):
    n = 3000
    ours = draw_rectangles(n, height / width, generator(), (0.2, 1.0), (3 / 4, 4 / 3), flip=True)
    torch.manual_seed(0)
    picture, crop = torch.zeros(1, height, width), v2.RandomResizedCrop(16, (0.2, 1.0))
    boxes = [crop.make_params([picture]) for _ in range(n)]
    theirs = {name: torch.tensor([box[name] for box in boxes]).double() for name in ("top", "left", "height", "width")}
    size = {"top": height, "height": height, "left": width, "width": width}
    for name, values in theirs.items():
        for q in (0.1, 0.5, 0.9):
            wanted = float((values / size[name]).quantile(q))
            assert float(getattr(ours, name).double().quantile(q)) == pytest.approx(wanted, abs=0.03), (name, q)
    assert (ours.left + ours.width).max() <= 1 + 1e-6
    assert (ours.top + ours.height).max() <= 1 + 1e-6


def test_a_cut_of_one_image_is_torchvisions():
    images = torch.randint(0, 256, (2, 3, 40, 60), dtype=torch.uint8)
    part = torch.tensor([0.25, 0.5])
    rectangles = Rectangles(part / 2, part / 4, part, part, torch.tensor([False, True]))
    ours = cut_each(images, rectangles, 16)
    # Top and left of the first lie at 2.5 and 7.5 pixels: rounded to even.
    for i, box in enumerate([(2, 8, 10, 15), (5, 15, 20, 30)]):
        wanted = v2.functional.resized_crop(images[i], *box, [16, 16], v2.InterpolationMode.BICUBIC)
        assert torch.equal(ours[i], (wanted.flip(2) if i else wanted).float())


def test_all_at_once_resizes_as_torch_does():
    images = torch.rand(2, 3, 12, 12) * 255
    wanted = torch.nn.functional.interpolate(images, (30, 30), mode="bicubic").clamp(0, 255)
    torch.testing.assert_close(cut_together(images, whole(2), 30), wanted, atol=1e-2, rtol=0)


def test_both_ways_cut_out_the_same():
    """On a smooth picture they differ by the rounding to whole pixels alone."""
    line = torch.linspace(0, 200, 96)
    images = torch.stack([line.expand(96, 96), line[:, None].expand(96, 96)]).expand(50, -1, -1, -1)
    rectangles = draw_rectangles(50, 1.0, generator(), (0.2, 1.0), (3 / 4, 4 / 3), flip=True)
    apart = cut_each(images, rectangles, 32) - cut_together(images, rectangles, 32)
    assert apart.abs().max() < 2 * 200 / 95


def test_resize_is_antialiased_and_leaves_the_right_size_alone():
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2 * 255.0).float().expand(1, 1, -1, -1)
    assert (resize(board, 8)[:, :, 2:-2, 2:-2] - 127.5).abs().max() < 10
    assert resize(board, 32) is board
