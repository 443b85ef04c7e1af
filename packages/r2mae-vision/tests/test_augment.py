import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from r2mae_vision.data.augment import random_resized_crop, resize


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_whole_picture_at_its_own_size_is_itself():
    images = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8)
    whole = random_resized_crop(images, 12, generator(), scale=(1, 1), ratio=(1, 1), flip=False)
    torch.testing.assert_close(whole, images.float(), atol=1e-3, rtol=0)


def test_half_of_the_pictures_are_mirrored():
    images = torch.randint(0, 256, (400, 1, 4, 4), dtype=torch.uint8)
    out = random_resized_crop(images, 4, generator(), scale=(1, 1), ratio=(1, 1))
    same = (out - images.float()).abs().amax((1, 2, 3)) < 1e-2
    mirrored = (out - images.float().flip(3)).abs().amax((1, 2, 3)) < 1e-2
    assert (same | mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_rectangles_have_the_areas_and_shapes_that_torchvision_draws():
    """A picture whose channels are its coordinates shows what was cut out of it."""
    n, side = 2000, 64
    line = torch.linspace(0, 255, side)
    picture = torch.stack([line.expand(side, side), line[:, None].expand(side, side)])
    out = random_resized_crop(picture.expand(n, -1, -1, -1), 16, generator(), flip=False) / 255
    width = (out[:, 0, 0, -1] - out[:, 0, 0, 0]) * 16 / 15
    height = (out[:, 1, -1, 0] - out[:, 1, 0, 0]) * 16 / 15
    torch.manual_seed(0)
    boxes = [v2.RandomResizedCrop(16, (0.2, 1.0)).make_params([picture]) for _ in range(n)]
    theirs = torch.tensor([[box["width"], box["height"]] for box in boxes]) / side
    ours = torch.stack([width, height], 1)
    for q in (0.1, 0.5, 0.9):
        area, other = float(ours.prod(1).quantile(q)), float(theirs.prod(1).quantile(q))
        assert area == pytest.approx(other, abs=0.04)
        aspect, other = (float((size[:, 0] / size[:, 1]).quantile(q)) for size in (ours, theirs))
        assert aspect == pytest.approx(other, abs=0.04)
    assert out.min() >= 0
    assert out.max() <= 1


def test_it_resizes_as_torch_does():
    images = torch.rand(2, 3, 12, 12) * 255
    larger = random_resized_crop(images, 30, generator(), scale=(1, 1), ratio=(1, 1), flip=False)
    wanted = torch.nn.functional.interpolate(images, (30, 30), mode="bicubic").clamp(0, 255)
    torch.testing.assert_close(larger, wanted, atol=1e-2, rtol=0)


def test_resize_is_antialiased_and_leaves_the_right_size_alone():
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2 * 255.0).float().expand(1, 1, -1, -1)
    assert (resize(board, 8)[:, :, 2:-2, 2:-2] - 127.5).abs().max() < 10
    assert resize(board, 32) is board
