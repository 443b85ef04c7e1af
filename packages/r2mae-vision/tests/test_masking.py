import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import UserError, exact_mask
from r2mae_vision.mae.masking import check_visible, n_hidden, pack_patches, split_mask, split_patches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 9), st.integers(2, 80), st.floats(0, 1), st.integers(0, 1000))
def test_a_split_is_a_partition_with_the_exact_count(n_images, n_patches, ratio, seed):
    split = split_patches(n_images, n_patches, ratio, generator(seed))
    count = n_hidden(ratio, n_patches)
    assert split.hidden.shape == (n_images, count)
    assert 1 <= count <= n_patches - 1
    together = torch.cat([split.visible, split.hidden], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(n_patches).expand(n_images, -1))


def test_a_split_hides_what_cores_exact_mask_hides():
    split = split_patches(5, 49, 0.75, generator(3))
    mask = exact_mask((5, 49), 0.75, generator=generator(3))
    assert torch.equal(torch.zeros(5, 49, dtype=torch.bool).scatter(1, split.hidden, True), mask)
    again = split_mask(mask)
    assert torch.equal(again.hidden.sort(1).values, split.hidden.sort(1).values)


def test_every_patch_is_hidden_equally_often():
    split = split_patches(4000, 16, 0.25, generator())
    counts = torch.bincount(split.hidden.flatten(), minlength=16).double()
    assert (counts / 4000).sub(0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


@given(st.integers(1, 8), st.integers(3, 70), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_packing_keeps_the_budget_and_owns_every_position(pairs, n_patches, a, b, seed):
    low, high = sorted((a, b))
    packed = pack_patches(2 * pairs, n_patches, low, high, generator(seed))
    hidden = packed.hidden.view(pairs, 2, n_patches)
    counts = hidden.sum(2)
    assert (counts.sum(1) == counts.sum(1)[0]).all()
    assert counts.min() >= 1
    assert counts.max() <= n_patches - 1
    seen = torch.zeros(pairs, 2 * n_patches, dtype=torch.bool)
    seen.scatter_(1, packed.patch + packed.second * n_patches, True)
    assert torch.equal(seen.view(pairs, 2, n_patches), ~hidden)
    assert packed.patch.shape[1] == int((~hidden).sum()) // pairs  # nothing twice, nothing padded


def test_ratios_per_image_are_uniform_on_the_range():
    ratios = pack_patches(20_000, 100, 0.3, 0.8, generator()).hidden.double().mean(1)
    assert ratios.mean() == pytest.approx(0.55, abs=0.005)
    assert ratios.min() == pytest.approx(0.3, abs=0.006)
    assert ratios.max() == pytest.approx(0.8, abs=0.006)
    inner = ratios[(ratios > 0.31) & (ratios < 0.79)]
    assert torch.histc(inner, 8).std() / torch.histc(inner, 8).mean() < 0.1


def test_what_cannot_be_masked():
    with pytest.raises(UserError, match=r"a mask ratio of 0.99 leaves no visible patch of 16; .* is 0.9375"):
        check_visible(0.99, 16)
    check_visible(0.9, 16)
    with pytest.raises(UserError, match="an image of one patch"):
        check_visible(0.5, 1)
    with pytest.raises(UserError, match="the batch holds 7; make it even"):
        pack_patches(7, 16, 0.5, 0.9, generator())
