import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from r2mae_core import bernoulli_mask, exact_mask, nested_masks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.integers(1, 7), max_size=2), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_exact_count_in_every_row(lead, n, ratio, seed):
    mask = exact_mask((*lead, n), ratio, generator=generator(seed))
    assert mask.shape == (*lead, n)
    assert mask.dtype == torch.bool
    assert (mask.sum(-1) == max(1, round(ratio * n))).all()
    assert torch.equal(mask, exact_mask((*lead, n), ratio, generator=generator(seed)))


@given(st.integers(1, 6), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**31))
def test_only_valid_positions_are_hidden_and_their_count_is_exact(rows, n, ratio, seed):
    valid = torch.rand(rows, n, generator=generator(seed + 1)) < 0.6
    mask = exact_mask((rows, n), ratio, generator=generator(seed), valid=valid)
    assert not (mask & ~valid).any()
    for hidden, n_valid in zip(mask.sum(-1).tolist(), valid.sum(-1).tolist(), strict=True):
        assert hidden == (max(1, round(ratio * n_valid)) if n_valid else 0)


def test_valid_broadcasts_over_rows():
    valid = torch.tensor([False, True, True, True, False])
    mask = exact_mask((4, 5), 0.67, generator=generator(), valid=valid)
    assert (mask.sum(-1) == 2).all()
    assert not mask[:, [0, 4]].any()


@pytest.mark.parametrize("valid", [None, torch.ones(20_000, 5, dtype=torch.bool)])
def test_all_choices_are_equally_likely(valid):
    mask = exact_mask((20_000, 5), 0.4, generator=generator(1), valid=valid)
    codes = (mask.long() * 2 ** torch.arange(5)).sum(-1)
    counts = np.bincount(codes.numpy())
    counts = counts[counts > 0]
    assert len(counts) == 10  # 5 choose 2
    assert stats.chisquare(counts).pvalue > 0.01


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 2**31))
def test_nested_masks_are_nested_and_each_is_what_exact_mask_draws(ratios, seed):
    masks = nested_masks((3, 17), ratios, generator=generator(seed))
    for ratio, mask in zip(ratios, masks, strict=True):
        assert torch.equal(mask, exact_mask((3, 17), ratio, generator=generator(seed)))
    ordered = masks[torch.tensor(ratios).argsort()]
    assert not (ordered[:-1] & ~ordered[1:]).any()


def test_bernoulli_mask_is_binomial_and_respects_valid():
    mask = bernoulli_mask((400, 100), 0.3, generator=generator(2))
    assert abs(mask.float().mean().item() - 0.3) < 4 * np.sqrt(0.21 / 40_000)
    assert mask.sum(-1).double().var().item() == pytest.approx(21, rel=0.3)  # an exact mask would have 0
    valid = torch.arange(100) < 50
    assert not bernoulli_mask((400, 100), 0.9, generator=generator(3), valid=valid)[:, 50:].any()


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("mask", [exact_mask, bernoulli_mask, lambda shape, r: nested_masks(shape, [0.5, r])])
def test_bad_ratio(mask, ratio):
    with pytest.raises(ValueError, match="ratio must lie in"):
        mask((2, 3), ratio)


def test_rows_without_positions():
    with pytest.raises(ValueError, match="at least one position"):
        exact_mask((3, 0), 0.5)


def test_device_follows_valid_and_generator():
    assert exact_mask((2, 3), 0.5, valid=torch.ones(2, 3, dtype=torch.bool)).device.type == "cpu"
    assert exact_mask((2, 3), 0.5, device="meta").device.type == "meta"
