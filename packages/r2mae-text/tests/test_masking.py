from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from r2mae_core import exact_mask, n_masked, scheme, span_mask
from r2mae_text import MaskedTokens, mask_tokens
from r2mae_text.masking import IGNORED, MaskingRule

RULE = MaskingRule(mask_id=4, special_ids=(0, 1, 2), vocab_size=300)
SPANS = replace(RULE, mask_shape="spans")
BERNOULLI = replace(RULE, count="bernoulli")


def rows(n=64, length=128, seed=0, ends=True):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 300, (n, length), generator=generator)
    tokens[:, 0] = 0
    if ends:
        tokens[::3, length // 3] = 2  # a document ends
    return tokens


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@given(st.floats(0, 1), st.integers(0, 100))
def test_count_is_exact_and_specials_are_never_hidden(ratio, seed):
    tokens = rows(8, 32, seed)
    masked = mask_tokens(tokens, ratio, RULE, generator=generator(seed))
    k = min(max(1, round(ratio * 31)), 31)
    assert masked.positions.shape == (8 * k,)
    labels = masked.labels()
    hidden = labels != IGNORED
    ordinary = ~torch.isin(tokens, torch.tensor(RULE.special_ids))
    assert not (hidden & ~ordinary).any()
    assert hidden.sum(1).tolist() == torch.minimum(ordinary.sum(1), torch.tensor(k)).tolist()
    assert torch.equal(labels[hidden], tokens[hidden])
    assert torch.equal(masked.inputs[~hidden], tokens[~hidden])


@pytest.mark.parametrize("rule", [RULE, replace(RULE, mask_shape="spans", mean_span=4.0)])
@given(st.lists(st.floats(0, 1), min_size=8, max_size=8), st.integers(0, 100))
def test_every_row_hides_the_exact_count_of_its_own_ratio(rule, ratios, seed):
    tokens = rows(8, 32, seed)
    tokens[1, 3:] = 2  # two ordinary tokens: the surplus has no target
    masked = mask_tokens(tokens, torch.tensor(ratios, dtype=torch.float64), rule, generator=generator(seed))
    wanted = [n_masked(ratio, 31) for ratio in ratios]
    assert torch.bincount(masked.positions // 32, minlength=8).tolist() == wanted
    labels, ordinary = masked.labels(), ~torch.isin(tokens, torch.tensor(RULE.special_ids))
    hidden = labels != IGNORED
    assert not (hidden & ~ordinary).any()
    assert hidden.sum(1).tolist() == torch.minimum(ordinary.sum(1), torch.tensor(wanted)).tolist()
    assert torch.equal(labels[hidden], tokens[hidden])
    assert torch.equal(masked.inputs[~hidden], tokens[~hidden])


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("span", [None, 1.0, 6.0])
def test_spans_are_those_of_core(per_row, span):
    tokens = rows(32, 64, ends=False)
    ratio = torch.linspace(0.01, 0.99, 32, dtype=torch.float64) if per_row else 0.3
    hidden = mask_tokens(tokens, ratio, replace(SPANS, mean_span=span), generator=generator()).labels() != IGNORED
    expected = span_mask(tokens.shape, ratio, mean_span=span or 3.0, generator=generator(), valid=tokens > 4)
    assert torch.equal(hidden, expected)


def test_a_ratio_for_each_row_hides_what_core_hides():
    tokens, ratio = rows(32, 64, ends=False), torch.linspace(0.01, 0.99, 32, dtype=torch.float64)
    hidden = mask_tokens(tokens, ratio, RULE, generator=generator()).labels() != IGNORED
    assert torch.equal(hidden, exact_mask(tokens.shape, ratio, generator=generator(), valid=tokens > 4))


def test_spans_join_neighbours_and_independent_places_do_not():
    tokens, runs = rows(400, 128, ends=False), {}
    for name, rule in {"independent": RULE, "3": SPANS, "9": replace(SPANS, mean_span=9.0)}.items():
        hidden = mask_tokens(tokens, 0.15, rule, generator=generator()).labels() != IGNORED
        runs[name] = int(hidden.sum()) / int((hidden[:, 1:] & ~hidden[:, :-1]).sum())
    assert runs["independent"] == pytest.approx(1 / (1 - 0.15), rel=0.03)
    assert 2.5 < runs["3"] < 4.0
    assert runs["9"] > 6


@pytest.mark.parametrize("rule", [RULE, SPANS, BERNOULLI])
def test_nothing_waits_for_the_device(rule):
    """Values of the meta device do not exist: whoever reads one fails."""
    tokens, ratio = rows(8, 32).to("meta"), torch.linspace(0, 1, 8, dtype=torch.float64)
    for given_ratio in (0.3, ratio):
        masked = mask_tokens(tokens, given_ratio, rule, rows=(8, 32))
        assert masked.positions.device.type == masked.inputs.device.type == "meta"


def test_bernoulli_draws_of_a_row_have_its_ratio():
    tokens, ratio = rows(4, 20_000, ends=False), torch.tensor([0.0, 0.1, 0.6, 1.0])
    hidden = mask_tokens(tokens, ratio, BERNOULLI, generator=generator()).labels() != IGNORED
    shares = hidden[:, 1:].float().mean(1)
    assert (shares[0], shares[3]) == (0, 1)
    assert shares.tolist() == pytest.approx(ratio.tolist(), abs=0.015)


def test_at_ratio_one_the_separators_stay():
    tokens = rows(6, 64)
    masked = mask_tokens(tokens, 1.0, MaskingRule(4, (0, 1, 2), 300, 1.0, 0.0), generator=generator())
    assert torch.equal(masked.inputs == 4, tokens > 4)


@pytest.mark.parametrize("shares", [(0.8, 0.1), (1.0, 0.0), (0.5, 0.5), (0.0, 0.0)])
def test_hidden_tokens_are_shown_in_the_stated_shares(shares):
    rule = MaskingRule(4, (0, 1, 2), 300, *shares)
    tokens = rows(2000)
    masked = mask_tokens(tokens, 0.3, rule, generator=generator())
    shown, true = masked.inputs.view(-1)[masked.positions], masked.targets
    n = len(true)
    counts = [int((shown == 4).sum()), int((shown == true).sum())]
    counts.append(n - sum(counts))
    # a random id is <mask> once in 300 times, and the true one as often
    mask, other = shares
    expected = np.array([mask + other / 300, 1 - mask - other + other / 300, other * 298 / 300]) * n
    assert [c for c, e in zip(counts, expected, strict=True) if e < 0.5] == [0] * int((expected < 0.5).sum())
    if (expected > 0.5).sum() > 1:
        assert chisquare(counts, expected * n / expected.sum()).pvalue > 1e-3


def test_every_place_and_every_random_id_is_equally_likely():
    masked = mask_tokens(rows(4000, 32, ends=False), 0.3, MaskingRule(4, (0,), 300, 0.0, 1.0), generator=generator())
    places = torch.bincount(masked.positions % 32, minlength=32)
    assert places[0] == 0
    assert chisquare(places[1:].numpy()).pvalue > 1e-3
    assert chisquare(torch.bincount(masked.inputs.view(-1)[masked.positions], minlength=300).numpy()).pvalue > 1e-3


@given(st.sampled_from([1, 2, 4, 8, 16]), st.booleans(), st.sampled_from([RULE, SPANS, BERNOULLI]))
def test_masks_do_not_depend_on_the_micro_batch(micro, per_row, rule):
    tokens = rows(16, 32)
    ratio = torch.linspace(0, 1, 16, dtype=torch.float64) if per_row else 0.3
    whole = mask_tokens(tokens, ratio, rule, generator=generator())
    parts = []
    for first in range(0, 16, micro):
        here = slice(first, first + micro)
        own = ratio[here] if per_row else ratio
        parts.append(mask_tokens(tokens[here], own, rule, generator=generator(), rows=(first, 16)))
    assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
    assert torch.equal(torch.cat([part.labels() for part in parts]), whole.labels())


def test_bernoulli_draws_have_the_ratio_on_average_and_vary():
    rule = MaskingRule(4, (0, 1, 2), 300, count="bernoulli")
    tokens = rows(500)
    hidden = mask_tokens(tokens, 0.3, rule, generator=generator()).labels() != IGNORED
    ordinary = tokens > 4
    share = (hidden.sum() / ordinary.sum()).item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / int(ordinary.sum())) ** 0.5
    assert not (hidden & ~ordinary).any()
    assert hidden.sum(1).float().std() > 3


def test_input_of_any_integer_type_is_left_as_it_was():
    tokens = torch.from_numpy(rows(4, 16).numpy().astype(np.uint16))
    before = tokens.clone()
    masked = mask_tokens(tokens, 0.5, RULE, generator=generator())
    assert torch.equal(tokens.long(), before.long())
    assert masked.inputs.dtype == torch.int64
    high = torch.full((1, 8), 60_000, dtype=torch.int32).to(torch.uint16)
    assert mask_tokens(high, 0.2, RULE, generator=generator()).targets.tolist() == [60_000]


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got 1.2"):
        mask_tokens(rows(2, 8), 1.2, RULE)
    with pytest.raises(ValueError, match="sum to 1 at most"):
        MaskingRule(4, (0,), 300, 0.9, 0.2)
    assert isinstance(mask_tokens(rows(2, 8), 0.0, RULE), MaskedTokens)
    with pytest.raises(ValueError, match=r"every ratio must lie in \[0, 1\], got -0.5"):
        mask_tokens(rows(2, 8), torch.tensor([0.2, -0.5]), RULE)
    with pytest.raises(ValueError, match=r"one for each of the 2 rows, on the CPU; got shape \(3,\) on cpu"):
        mask_tokens(rows(2, 8), torch.full((3,), 0.2), RULE)
    with pytest.raises(ValueError, match=r"on the CPU; got shape \(2,\) on meta"):
        mask_tokens(rows(2, 8), torch.zeros(2, device="meta"), RULE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_span": 3.0}, "mean_span 3 is of mask_shape spans; leave it out, or choose spans"),
        ({"mask_shape": "spans", "mean_span": 0.5}, "mean_span must be at least 1 token, got 0.5"),
        ({"mask_shape": "spans", "mean_span": float("nan")}, "mean_span must be at least 1 token, got nan"),
        ({"mask_shape": "spans", "count": "bernoulli"}, "choose one"),
        ({"mask_shape": "blocks"}, "mask_shape must be independent or spans, got 'blocks'"),
        ({"count": "poisson"}, "count must be exact or bernoulli, got 'poisson'"),
    ],
)
def test_shapes_that_contradict_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RULE, **changes)


def test_the_papers_ratios():
    r2mae = scheme("r2mae", "text")
    draws = np.array([r2mae.sample(step) for step in range(2000)])
    assert 0.15 <= draws.min() <= 0.151
    assert 0.399 <= draws.max() <= 0.4
    assert abs(draws.mean() - 0.275) < 4 * 0.25 / 12**0.5 / 2000**0.5
    assert kstest(draws, "uniform", (0.15, 0.25)).pvalue > 1e-3
    dynamic = scheme("dynamic", "text")
    assert (dynamic.sample(0, 100), dynamic.sample(99, 100)) == (0.4, pytest.approx(0.15, abs=0.0026))
    assert [scheme(name, "text").sample(0) for name in ("fixed", "high")] == [0.15, 0.4]


def test_the_rule_of_a_tokenizer(tokenizer):
    rule = MaskingRule.of(tokenizer)
    assert (rule.mask_id, rule.special_ids, rule.vocab_size) == (4, (0, 1, 2), 400)
