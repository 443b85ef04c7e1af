import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import UserError, block_mask, exact_mask
from r2mae_vision.mae.masking import (
    check_visible,
    fill_sequences,
    hidden_counts,
    n_hidden,
    pack_patches,
    patch_order,
    split_mask,
    split_order,
    split_patches,
)


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


def as_mask(split):
    n = split.visible.shape[1] + split.hidden.shape[1]
    return torch.zeros(len(split.hidden), n, dtype=torch.bool).scatter(1, split.hidden, True)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("area", [None, (0.2, 0.4)])
def test_a_mask_in_blocks_is_cores(ratio, inverse, area):
    shape = "inverse_blocks" if inverse else "blocks"
    ours = split_order(patch_order(6, (5, 7), generator(3), shape, area), ratio)
    theirs = block_mask(6, 5, 7, n_hidden(ratio, 35) / 35, block_area=area or (0.08, 0.3), inverse=inverse,
                        generator=generator(3))  # fmt: skip
    assert torch.equal(as_mask(ours), theirs)
    assert (as_mask(ours).sum(1) == n_hidden(ratio, 35)).all()
    if ratio == 0.5:  # not what independent patches would be
        assert not torch.equal(as_mask(ours), as_mask(split_patches(6, 35, ratio, generator(3))))


def test_each_images_count_is_that_of_exact_mask_but_one_patch_stays_visible():
    ratios = torch.tensor([0.0, 0.001, 0.25, 0.5, 0.61, 0.9, 0.999, 1.0], dtype=torch.float64)
    wanted = exact_mask((8, 50), ratios, generator=generator()).sum(1).clamp(max=49)
    assert hidden_counts(ratios, 50).tolist() == wanted.tolist() == [1, 1, 12, 25, 30, 45, 49, 49]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_sequences_hold_every_image_once_and_are_of_one_length(lengths):
    places, n, length = fill_sequences(lengths)
    owners = np.zeros(n * length, dtype=int)
    for i, (place, tokens) in enumerate(zip(places, lengths, strict=True)):
        assert place // length == (place + tokens - 1) // length  # not over the end of a sequence
        assert not owners[place : place + tokens].any()
        owners[place : place + tokens] = i + 1
    assert np.count_nonzero(owners) == sum(lengths)
    assert n * length <= len(lengths) * max(lengths)  # never more than plain padding


def test_sequences_have_little_padding():
    """Uniform ratios, ratios that are mostly high, and equal ones, which need no company."""
    rng = np.random.default_rng(0)
    for lengths in (rng.integers(20, 80, 64), rng.integers(2, 197, 64), np.where(rng.random(64) < 0.1, 180, 20)):
        _, n, length = fill_sequences(lengths.tolist())
        assert n * length < 1.09 * lengths.sum()
    assert fill_sequences([50] * 7) == ([0, 50, 100, 150, 200, 250, 300], 7, 50)


@given(st.integers(1, 9), st.integers(2, 60), st.integers(0, 3), st.integers(0, 1000))
def test_packing_keeps_every_visible_patch_of_every_image(n_images, n_patches, n_prefix, seed):
    """Any number of images, each with a count of its own; nothing is twice, and hidden patches are nowhere."""
    counts = np.random.default_rng(seed).integers(1, n_patches, n_images)
    order = patch_order(n_images, (1, n_patches), generator(seed))
    packed = pack_patches(order, counts, n_prefix)
    hidden = torch.zeros(n_images, n_patches, dtype=torch.bool)
    for row, (patches, count) in zip(hidden, zip(order, counts, strict=True), strict=True):
        row[patches[:count]] = True
    image, index = packed.image.flatten(), packed.patch.flatten()
    for i in range(n_images):
        first, n_tokens = int(packed.first[i]), n_prefix + n_patches - int(counts[i])
        assert (image == i).nonzero().flatten().tolist() == list(range(first, first + n_tokens))
        patches = index[first + n_prefix : first + n_tokens] - i * n_patches
        assert sorted(patches.tolist()) == (~hidden[i]).nonzero().flatten().tolist()
        assert patches.tolist() == packed.order[i, : n_patches - counts[i]].tolist()
    last = packed.order[:, n_patches - packed.hidden.shape[1] :]
    assert torch.equal(torch.zeros_like(hidden).scatter(1, last, packed.hidden), hidden)


def test_what_cannot_be_masked():
    with pytest.raises(UserError, match=r"a mask ratio of 0.99 leaves no visible patch of 16; .* is 0.9375"):
        check_visible(0.99, 16)
    check_visible(0.9, 16)
    with pytest.raises(UserError, match="an image of one patch"):
        check_visible(0.5, 1)
