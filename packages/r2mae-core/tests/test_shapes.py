import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from r2mae_core import (
    Groups,
    bernoulli_mask,
    block_mask,
    counted_ratio,
    exact_mask,
    group_mask,
    inverse_ratio_loss,
    n_masked,
    numpy_masks,
    span_mask,
)

GROUPS = Groups([[0, 1, 2, 3], [3, 4, 5], list(range(8, 15))], 24)
SHAPES = {
    "independent": lambda n, ratio, g: exact_mask((n, 24), ratio, generator=g),
    "spans": lambda n, ratio, g: span_mask((n, 24), ratio, generator=g),
    "blocks": lambda n, ratio, g: block_mask(n, 4, 6, ratio, generator=g),
    "inverse blocks": lambda n, ratio, g: block_mask(n, 4, 6, ratio, inverse=True, generator=g),
    "groups": lambda n, ratio, g: group_mask((n, 24), ratio, GROUPS, generator=g),
}
VALID = {
    "independent": lambda ratio, g, valid: exact_mask(valid.shape, ratio, generator=g, valid=valid),
    "spans": lambda ratio, g, valid: span_mask(valid.shape, ratio, generator=g, valid=valid),
    "groups": lambda ratio, g, valid: group_mask(valid.shape, ratio, GROUPS, generator=g, valid=valid),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SHAPES)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 2**31))
def test_every_row_hides_its_own_exact_count(name, ratios, seed):
    mask = SHAPES[name](len(ratios), torch.tensor(ratios, dtype=torch.float64), generator(seed))
    assert mask.sum(-1).tolist() == [n_masked(ratio, 24) for ratio in ratios]
    same = SHAPES[name](len(ratios), ratios[0], generator(seed))
    assert (same.sum(-1) == n_masked(ratios[0], 24)).all()
    assert torch.equal(same, SHAPES[name](len(ratios), ratios[0], generator(seed)))


@pytest.mark.parametrize("name", VALID)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 2**31))
def test_counts_are_of_the_valid_positions(name, ratios, seed):
    valid = torch.rand(len(ratios), 24, generator=generator(seed + 1)) < 0.5
    mask = VALID[name](torch.tensor(ratios, dtype=torch.float64), generator(seed), valid)
    assert not (mask & ~valid).any()
    for hidden, ratio, n in zip(mask.sum(-1).tolist(), ratios, valid.sum(-1).tolist(), strict=True):
        assert hidden == (n_masked(ratio, n) if n else 0)


@pytest.mark.parametrize("n", [5, 300, 1500])  # the last is long enough for the other way on a CPU
def test_a_tensor_of_equal_ratios_draws_what_the_number_draws(n):
    ratios = torch.full((7,), 0.4, dtype=torch.float64)
    assert torch.equal(
        exact_mask((7, n), 0.4, generator=generator(3)), exact_mask((7, n), ratios, generator=generator(3))
    )


def test_equal_scores_do_not_change_the_count(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    for n in (10, 1500):
        mask = exact_mask((2, n), torch.tensor([0.3, 0.6], dtype=torch.float64))
        assert mask.sum(-1).tolist() == [round(0.3 * n), round(0.6 * n)]


def test_all_choices_of_a_row_are_equally_likely_whatever_the_others_hide():
    ratios = torch.tensor([0.4, 0.8, 0.2, 0.0] * 8_000, dtype=torch.float64)
    mask = exact_mask((32_000, 5), ratios, generator=generator(1))[::4]
    counts = np.bincount((mask.long() * 2 ** torch.arange(5)).sum(-1).numpy())
    counts = counts[counts > 0]
    assert len(counts) == 10  # 5 choose 2
    assert stats.chisquare(counts).pvalue > 0.01


def test_bernoulli_masks_have_a_probability_for_each_row():
    ratios = torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64)
    share = bernoulli_mask((3, 40_000), ratios, generator=generator(2)).double().mean(-1)
    assert share.tolist() == pytest.approx(ratios.tolist(), abs=0.01)


def runs(row):
    """Return the lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_spans_are_as_long_as_asked():
    def mean_run(mask):
        return np.mean(np.concatenate([runs(row) for row in mask.numpy()]))

    shape = (30, 4000)
    independent = mean_run(exact_mask(shape, 0.05, generator=generator(0)))
    spans = {length: mean_run(span_mask(shape, 0.05, mean_span=length, generator=generator(0))) for length in (1, 3, 8)}
    assert spans[1] == pytest.approx(independent, rel=0.05)
    assert spans[3] == pytest.approx(3, rel=0.1)
    assert spans[8] == pytest.approx(8, rel=0.1)


def test_every_position_is_hidden_equally_often():
    for mask in (
        span_mask((20_000, 24), 0.3, generator=generator(1)),
        group_mask((20_000, 24), 0.5, Groups([[0, 1], [2, 3, 4]], 24), generator=generator(1))[:, 5:],
    ):
        often = mask.double().mean(0)
        assert (often - often.mean()).abs().max() < 0.02


def test_blocks_are_rectangles_and_inverse_blocks_show_them():
    """A grid's neighbours agree more often than by chance; a single block is a full rectangle."""
    for inverse in (False, True):
        mask = block_mask(300, 14, 14, 0.5, inverse=inverse, generator=generator(0)).view(-1, 14, 14)
        assert (mask[:, 1:] == mask[:, :-1]).double().mean() > 0.8
    one = block_mask(200, 14, 14, 0.04, block_area=(0.08, 0.3), generator=generator(0)).view(-1, 14, 14)
    shown = block_mask(200, 14, 14, 0.96, inverse=True, generator=generator(0)).view(-1, 14, 14)
    for mask in [*one, *~shown]:
        rows, columns = mask.any(1), mask.any(0)
        box = rows.sum() * columns.sum()
        assert mask.sum() <= box < mask.sum() + columns.sum()  # whole rows of a rectangle, the last one cut


def test_groups_are_hidden_as_wholes():
    groups = Groups([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], 12)
    mask = group_mask((50, 12), 8 / 12, groups, generator=generator(0)).view(50, 3, 4)
    assert ((mask.sum(-1) == 4) | (mask.sum(-1) == 0)).all()
    cut = group_mask((50, 12), 2 / 12, groups, generator=generator(0)).view(50, 3, 4)
    assert ((cut.sum(-1) == 2).sum(-1) == 1).all()
    assert cut.any(1).any(0).all()  # not always the same half of a group
    overlapping = group_mask((400, 6), 0.5, Groups([[0, 1, 2], [2, 3, 4]], 6), generator=generator(0))
    rows = {tuple(row.nonzero().flatten().tolist()) for row in overlapping}
    assert {(0, 1, 2), (2, 3, 4)} <= rows


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: exact_mask((2, 5), torch.tensor([0.5, 1.5])), r"must lie in \[0, 1\], got 1.5"),
        (lambda: exact_mask((2, 5), torch.tensor([0.5, float("nan")])), "got nan"),
        (lambda: exact_mask((2, 5), torch.tensor([0.1, 0.2, 0.3])), "one each is needed"),
        (lambda: bernoulli_mask((2, 5), torch.tensor([0.5, -0.1])), r"must lie in \[0, 1\]"),
        (lambda: span_mask((2, 5), 0.5, mean_span=0.5), "at least 1 position"),
        (lambda: span_mask((2, 5), 0.5, mean_span=float("nan")), "at least 1 position"),
        (lambda: block_mask(2, 4, 4, 0.5, block_area=(0.3, 0.1)), "two increasing fractions"),
        (lambda: block_mask(2, 4, 4, 0.5, block_area=(0.0, 0.1)), "two increasing fractions"),
        (lambda: Groups([], 5), "at least one group"),
        (lambda: Groups([[0], []], 5), "group 1 covers nothing"),
        (lambda: Groups([[0, 5]], 5), "names position 5"),
        (lambda: Groups([[-1, 2]], 5), "names position -1"),
        (lambda: group_mask((2, 6), 0.5, Groups([[0]], 5)), "are of 5 features, and the mask has 6"),
        (lambda: inverse_ratio_loss(torch.ones(3), torch.ones(2), n_rows=2, n_positions=2), "the row of each loss"),
    ],
)
def test_bad_shapes(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_inverse_ratio_loss_is_lladas_and_mdlms():
    """LLaDA, algorithm 1: Σ over hidden of CE / p_mask, over batch · length; MDLM's weight is 1 / t as well."""
    g = generator(4)
    rows, length = 6, 30
    t = torch.rand(rows, generator=g, dtype=torch.float64) * 0.9 + 0.05
    loss = torch.rand(rows, length, generator=g)
    hidden = torch.rand(rows, length, generator=g) < t[:, None]
    row, column = hidden.nonzero(as_tuple=True)
    plain = sum(loss[i, j].item() / t[i].item() for i, j in zip(row.tolist(), column.tolist(), strict=True))
    ours = inverse_ratio_loss(loss[hidden], t, row, n_rows=rows, n_positions=length)
    assert ours.item() == pytest.approx(plain / (rows * length), rel=1e-6)
    once = inverse_ratio_loss(loss[hidden], 0.4, n_rows=rows, n_positions=length)
    assert once.item() == pytest.approx(loss[hidden].sum().item() / 0.4 / (rows * length), rel=1e-6)
    block = inverse_ratio_loss(loss[:, :7], t, n_rows=rows, n_positions=length)
    assert block.item() == pytest.approx((loss[:, :7] / t[:, None]).sum().item() / (rows * length), rel=1e-6)


def test_a_position_that_is_hidden_though_none_should_be_counts_as_its_row():
    ratios = torch.tensor([0.001, 0.016, 0.0156, 0.3], dtype=torch.float64)
    assert counted_ratio(ratios, 32).tolist() == [1 / 32, 0.016, 1 / 32, 0.3]  # 0.5 / 32 = 0.015625
    assert [counted_ratio(ratio, 32) for ratio in ratios.tolist()] == counted_ratio(ratios, 32).tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 2**31), st.booleans())
def test_numpy_masks_follow_the_same_rule(ratios, seed, some):
    shape = (len(ratios), 24)
    valid = np.random.default_rng(seed).random(shape) < 0.5 if some else None
    mask = numpy_masks.exact_mask(shape, ratios, rng=numpy_masks.step_generator(seed, 3), valid=valid)
    n_valid = [24] * len(ratios) if valid is None else valid.sum(-1).tolist()
    wanted = [n_masked(ratio, n) if n else 0 for ratio, n in zip(ratios, n_valid, strict=True)]
    assert mask.sum(-1).tolist() == wanted
    again = numpy_masks.exact_mask(shape, ratios, rng=numpy_masks.step_generator(seed, 3), valid=valid)
    assert (mask == again).all()


def test_numpy_masks_are_uniform_pure_and_checked():
    mask = numpy_masks.exact_mask((20_000, 5), 0.4, rng=numpy_masks.step_generator(0, 0))
    counts = np.bincount((mask * 2 ** np.arange(5)).sum(-1))
    assert stats.chisquare(counts[counts > 0]).pvalue > 0.01
    bernoulli = numpy_masks.bernoulli_mask((2, 20_000), [0.2, 0.7], rng=numpy_masks.step_generator(0, 1))
    assert bernoulli.mean(-1) == pytest.approx([0.2, 0.7], abs=0.02)
    draws = {
        tuple(numpy_masks.step_generator(*where).integers(9, size=8)) for where in [(0, 0), (0, 1), (1, 0), (0, 0, 1)]
    }
    assert len(draws) == 4
    for ratio, message in (
        (1.2, "must lie in"),
        ([0.1, float("nan")], "must lie in"),
        ([0.1] * 3, "do not fit the rows"),
    ):
        with pytest.raises(ValueError, match=message):
            numpy_masks.exact_mask((2, 5), ratio, rng=np.random.default_rng(0))
