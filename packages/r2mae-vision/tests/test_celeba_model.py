import pytest
import torch

from r2mae_core import UserError
from r2mae_vision import UNet
from r2mae_vision.celeba.model import nested_pixel_masks, pixel_mask, scale


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def half_hidden(images, seed=0):
    return pixel_mask(images, 0.5, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("c", [1, 8, 16, 32])
def test_parameter_count_by_hand(c):
    """Summed by hand over the blocks of C.4: 9io + 9o² + 4o for two convolutions with batch norm, i → o channels.

    Down and bottleneck: 4599c² + 151c. Up, k = 8c, 4c, 2c, c: 8k² + k for the transposed convolution and 27k² + 4k for
    the block, which is 2975c² + 75c. The last 1 × 1: 3c + 3.
    """
    assert sum(p.numel() for p in UNet(c).parameters()) == 7574 * c**2 + 229 * c + 3


def test_shapes_of_every_level():
    model = UNet(4)
    bottom, skips = model.encode(rand(2, 3, 64, 32))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4, 64, 32), (8, 32, 16), (16, 16, 8), (32, 8, 4)]
    assert bottom.shape == model.representation(rand(2, 3, 64, 32)).shape == (2, 64, 4, 2)
    assert model.n_features == 64
    assert model(rand(2, 3, 64, 32)).shape == (2, 3, 64, 32)


@pytest.mark.parametrize("level", range(4))
def test_every_skip_connection_carries_the_input(level):
    """With bottleneck and all other skips cut, the output still depends on the input through this skip alone."""
    model = UNet(4).eval()
    model.bottleneck.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))

    def cut(own):
        return lambda module, inputs: inputs if own else (inputs[0], torch.zeros_like(inputs[1]))

    for i, block in enumerate(reversed(model.up)):  # the finest first, as the skips
        block.register_forward_pre_hook(cut(i == level))
    images = rand(1, 3, 32, 32).requires_grad_()
    model(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_without_skips_and_bottleneck_nothing_is_left():
    model = UNet(4).eval()
    model.bottleneck.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    for block in model.up:
        block.register_forward_pre_hook(lambda module, inputs: (inputs[0], torch.zeros_like(inputs[1])))
    assert torch.equal(model(rand(1, 3, 32, 32)), model(rand(1, 3, 32, 32, seed=1)))


def test_the_output_does_not_depend_on_what_is_hidden():
    model = UNet(4).eval()
    images, mask = rand(4, 3, 32, 32), half_hidden(rand(4, 3, 32, 32))
    others = torch.where(mask, rand(4, 3, 32, 32, seed=1), images)
    assert torch.equal(model.reconstruct(images, mask), model.reconstruct(others, mask))
    seen = torch.where(mask, images, rand(4, 3, 32, 32, seed=1))
    assert not torch.equal(model.reconstruct(images, mask), model.reconstruct(seen, mask))
    assert not torch.equal(model(images), model(others))


def test_the_loss_is_the_mean_over_hidden_pixels_of_all_colours():
    model = UNet(4).eval()
    images, mask = rand(4, 3, 32, 32), half_hidden(rand(4, 3, 32, 32))
    with torch.no_grad():
        everywhere = (model(images * ~mask) - images).square()
        expected = everywhere[mask.expand_as(images)].mean()
        assert model.masked_error(images, mask).item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_hidden_pixels_are_answered_for(monkeypatch):
    model = UNet(4)
    images, mask = rand(4, 3, 32, 32), half_hidden(rand(4, 3, 32, 32))
    answer = rand(4, 3, 32, 32, seed=1).requires_grad_()
    monkeypatch.setattr(model, "reconstruct", lambda images, masks: answer)
    model.masked_error(images, mask).backward()
    assert torch.equal(answer.grad != 0, mask.expand_as(images))


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.75, 1.0])
def test_masks_hide_an_exact_number_of_positions_of_each_image(ratio):
    mask = pixel_mask(rand(5, 3, 16, 32), ratio, torch.Generator().manual_seed(3))
    assert mask.shape == (5, 1, 16, 32)
    assert mask.sum((1, 2, 3)).tolist() == [max(1, round(ratio * 512))] * 5
    if ratio == 0.75:
        assert len({tuple(row.flatten().tolist()) for row in mask}) == 5  # each image has its own


def test_nested_masks_grow():
    low, high = nested_pixel_masks(rand(3, 3, 16, 16), [0.2, 0.6], torch.Generator().manual_seed(0))
    assert (low & ~high).sum() == 0
    assert high.sum((1, 2, 3)).tolist() == [round(0.6 * 256)] * 3


def test_stored_images_become_channels_last_without_a_copy_of_their_order():
    stored = torch.randint(0, 256, (2, 16, 32, 3), dtype=torch.uint8)
    images = scale(stored)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[1, 2, 3, 4] == stored[1, 3, 4, 2] / 255


def test_equal_seeds_start_equal_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = UNet(2, seed=5), UNet(2, seed=5), UNet(2, seed=6)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_output_functions():
    linear, sigmoid = UNet(2, output="linear").eval(), UNet(2).eval()
    assert torch.equal(linear(rand(1, 3, 16, 16)).sigmoid(), sigmoid(rand(1, 3, 16, 16)))


def test_autocast_computes_in_bf16_and_answers_in_float32():
    images, mask = rand(2, 3, 32, 32), half_hidden(rand(2, 3, 32, 32))
    model = UNet(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.representation(images).dtype == torch.bfloat16
        answer, loss = model(images), model.masked_error(images, mask)
    assert answer.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model.masked_error(images, mask).item(), rel=0.02)


@pytest.mark.parametrize("shape", [(1, 3, 64, 40), (1, 3, 24, 32)])
def test_a_side_that_cannot_be_halved_four_times(shape):
    with pytest.raises(UserError, match=r"must be a multiple of 16; got (40|24)"):
        UNet(2)(rand(*shape))


def test_no_channels():
    with pytest.raises(UserError, match="base_channels must be at least 1, got 0"):
        UNet(0)
