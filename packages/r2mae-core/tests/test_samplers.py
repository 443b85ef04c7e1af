import inspect
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from r2mae_core import (
    Arccos,
    Beta,
    Choice,
    Cosine,
    Curriculum,
    Fixed,
    Grid,
    LinearDecay,
    MaskRatioSampler,
    Phases,
    PiecewiseLinear,
    Power,
    Ramp,
    RatioSampler,
    Slope,
    TruncatedNormal,
    Uniform,
    has_quantile,
    sampler_from_config,
    sampler_to_config,
    scheme,
)
from r2mae_core.ratio.config import BUILT_IN

ratio = st.floats(0, 1)
seed = st.integers(-(2**40), 2**70)


@st.composite
def samplers(draw):
    kind = draw(st.integers(0, 13))
    low, high = sorted([draw(ratio), draw(ratio)])
    if kind == 0:
        return Fixed(low)
    if kind == 1:
        return LinearDecay(draw(ratio), draw(ratio), draw(st.none() | st.integers(1, 20)))
    if kind == 2:
        return Uniform(low, high, draw(seed))
    if kind == 3:
        return Uniform(low, LinearDecay(high, low), draw(seed))
    if kind == 6:
        return Cosine(low, high)
    if kind == 7:
        return Slope(high, -draw(st.floats(1e-9, 0.5)), low)
    spans = st.floats(1e-3, 1e3)
    if kind == 8:
        values = tuple(draw(st.lists(ratio, min_size=2, max_size=6)))
        return PiecewiseLinear(values, tuple(draw(spans) for _ in values[1:]))
    if kind == 9:
        phases = tuple(
            draw(
                st.lists(
                    ratio | st.builds(Fixed, ratio) | st.builds(Uniform, st.just(0.1), st.just(0.4), seed),
                    min_size=1,
                    max_size=5,
                )
            )
        )
        return Phases(phases, tuple(draw(spans) for _ in phases))
    if kind == 10:
        return Power(
            draw(st.floats(0.05, 20) | st.builds(Ramp, st.floats(0.1, 5), st.floats(0.1, 5))), low, high, draw(seed)
        )
    if kind == 11:
        return Arccos(low, LinearDecay(high, low), draw(seed))
    if kind == 12:
        return Beta(draw(st.floats(0.05, 50)), draw(st.floats(0.05, 50)), low, high, draw(seed))
    if kind == 13:
        values = tuple(draw(st.lists(ratio, min_size=1, max_size=5)))
        return Choice(values, draw(st.none() | st.just(tuple(draw(spans) for _ in values))), draw(seed))
    grid = Grid(tuple(draw(st.lists(ratio, min_size=1, max_size=12))), draw(seed))
    return grid if kind == 4 else Curriculum(grid, n_columns=len(grid.values), ramp=(3, 9))


@given(samplers(), st.integers(0, 10**9), st.integers(1, 10**9))
def test_every_sample_lies_within_its_bounds_and_depends_on_seed_and_step_alone(sampler, step, total_steps):
    step = min(step, total_steps - 1)
    low, high = sampler.bounds(step, total_steps)
    value = sampler.sample(step, total_steps)
    assert 0 <= low <= value <= high <= 1
    assert low - 1e-12 <= sampler.mean(step, total_steps) <= high + 1e-12
    sampler.sample(0, total_steps)  # asking for another step in between changes nothing
    assert pickle.loads(pickle.dumps(sampler)).sample(step, total_steps) == value
    assert isinstance(sampler, MaskRatioSampler)
    assert isinstance(value, float)
    assert len(sampler.describe().splitlines()) == 1


@given(samplers())
def test_config_and_repr_round_trip(sampler):
    import yaml

    config = yaml.safe_load(yaml.safe_dump(sampler_to_config(sampler)))
    assert sampler_from_config(config) == sampler
    assert eval(repr(sampler)) == sampler


def test_uniform_draws_are_uniform_and_independent_of_neighbours_and_seeds():
    draws = np.array([Uniform(0.2, 0.6, seed=1).sample(step) for step in range(4000)])
    assert stats.kstest((draws - 0.2) / 0.4, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05
    other = np.array([Uniform(0.2, 0.6, seed=2).sample(step) for step in range(4000)])
    assert abs(np.corrcoef(draws, other)[0, 1]) < 0.05
    assert abs(draws.mean() - Uniform(0.2, 0.6).mean(0)) < 4 * 0.4 / math.sqrt(12 * 4000)


def test_golden_draws():
    # Written on 2026-11-23 with numpy 2.4's Philox: a change would silently break resumed runs.
    assert [Uniform(0.0, 1.0, seed=0).sample(step) for step in (0, 1, 10**6)] == pytest.approx(GOLDEN, abs=0)


GOLDEN = [0.011546754286331562, 0.5023796042735054, 0.40449003178808973]


def test_grid_reaches_every_value_equally_and_index_agrees_with_sample():
    grid = Grid.spaced(0.05, 0.30, n=10, seed=3)
    assert grid.values[0] == 0.05
    assert grid.values[-1] == 0.30
    assert np.allclose(np.diff(grid.values), 0.25 / 9)
    indices = [grid.index(step, None) for step in range(5000)]
    assert [grid.values[i] for i in indices[:50]] == [grid.sample(step) for step in range(50)]
    assert stats.chisquare(np.bincount(indices, minlength=10)).pvalue > 0.01


def test_linear_decay_is_a_line_through_both_ends():
    decay = LinearDecay(0.9, 0.6)
    assert [decay.sample(step, 4) for step in range(4)] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert decay.sample(0, 1) == 0.9
    assert decay.sample(10, 4) == 0.6  # a step beyond the end stays there
    staged = LinearDecay(0.9, 0.6, stages=2)
    assert [staged.sample(step, 6) for step in range(6)] == [0.9] * 3 + [0.6] * 3


def test_nested_bounds_follow_the_schedule():
    sampler = Uniform(0.05, LinearDecay(0.55, 0.05), seed=5)
    assert sampler.bounds(0, 101) == (0.05, 0.55)
    assert sampler.bounds(100, 101) == (0.05, 0.05)
    assert sampler.sample(100, 101) == 0.05
    # DNA starts its upper bound at 0.55 so that the mean equals Dynamic MR's 0.30 -> 0.05 (paper, C.7).
    dynamic = LinearDecay(0.30, 0.05)
    assert all(sampler.mean(s, 101) == pytest.approx(dynamic.mean(s, 101)) for s in range(101))


def test_curriculum_multiplier_freezes_and_falls():
    cl = Curriculum(Fixed(0.25), ramp=(30_000, 120_000))
    assert [cl.multiplier(s, 200_000) for s in (0, 4999, 5000, 30_000, 75_000, 120_000, 199_999)] == [
        0, 0, 1, 1, 0, -1, -1,
    ]  # fmt: skip
    assert cl.column(17) == 0
    whole = Curriculum(Fixed(0.15), freeze_steps=0)
    assert (whole.multiplier(0, 11), whole.multiplier(5, 11), whole.multiplier(10, 11)) == (1, 0, -1)
    # C.7: the head starts after 5,000 of 30,000 steps and its multiplier falls "throughout its training".
    dna = Curriculum(Fixed(0.15))
    assert [dna.multiplier(s, 30_001) for s in (4999, 5000, 17_500, 30_000)] == [0, 1, 0, -1]
    early = replace(dna, falls_from="start")
    assert [early.multiplier(s, 30_001) for s in (4999, 5000, 15_000, 30_000)] == [0, pytest.approx(2 / 3), 0, -1]
    assert [Curriculum(Fixed(0.15), freeze_steps=9).multiplier(s, 10) for s in (8, 9)] == [0, 1]  # it thaws last of all
    assert Curriculum(Fixed(0.15), k0=True).multiplier(10**6, None) == 1
    grid = Grid.spaced(0.1, 0.5, seed=9)
    assert [Curriculum(grid).column(s) for s in range(30)] == [grid.index(s) for s in range(30)]


def test_user_object_that_satisfies_the_protocol_is_a_sampler():
    class Mine:
        def sample(self, step, total_steps=None):
            return 0.5

        def bounds(self, step, total_steps=None):
            return 0.5, 0.5

        def mean(self, step, total_steps=None):
            return 0.5

        def describe(self):
            return "mine"

    assert isinstance(Mine(), MaskRatioSampler)
    assert sampler_from_config(Mine()).sample(3) == 0.5
    assert Uniform(0.1, Mine(), seed=1).bounds(0) == (0.1, 0.5)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "half", None, True])
@pytest.mark.parametrize(
    "build",
    [
        Fixed,
        lambda v: LinearDecay(v, 0.1),
        lambda v: Uniform(v, 1.0),
        lambda v: Uniform(0.0, v),
        lambda v: Grid((0.1, v)),
    ],
)
def test_ratio_out_of_range_is_refused_with_its_value(build, value):
    with pytest.raises(ValueError, match="must be a number in \\[0, 1\\]") as error:
        build(value)
    assert repr(value) in str(error.value)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match=r"low=0.9, high=0.6"):
        Uniform(0.9, 0.6)
    with pytest.raises(ValueError, match="at step 3"):
        Uniform(0.3, LinearDecay(0.5, 0.0)).sample(3, 4)
    with pytest.raises(ValueError, match="give another"):
        Uniform(0.1, Uniform(0.2, 0.5, seed=0), seed=0)
    with pytest.raises(ValueError, match="must know the length"):
        LinearDecay(0.9, 0.6).sample(0)
    with pytest.raises(ValueError, match="counts from 0"):
        Uniform(0, 1).sample(-1)
    with pytest.raises(ValueError, match="values must be a list of at least 1 ratio, got \\(\\)"):
        Grid(())
    with pytest.raises(ValueError, match="3 grid values need as many columns, got 10"):
        Curriculum(Grid((0.1, 0.2, 0.3)))
    with pytest.raises(ValueError, match="falls_from must be thaw or start, got 'end'"):
        Curriculum(Fixed(0.1), falls_from="end")
    with pytest.raises(ValueError, match="seed must be an integer"):
        Uniform(0.1, 0.2, seed=0.5)


def test_builtin_samplers_share_the_abc_so_that_the_command_line_lists_them():
    def below(cls):
        return {cls, *(name for each in cls.__subclasses__() for name in below(each))}

    offered = {cls.__name__ for cls in below(RatioSampler) if not inspect.isabstract(cls)}
    assert set(BUILT_IN) - {"Ramp"} <= offered


class ArccosOfScipy(stats.rv_continuous):
    """cos(π/2 · u) of a uniform u."""

    def _cdf(self, x):
        return 1 - 2 / np.pi * np.arccos(x)

    def _pdf(self, x):
        return 2 / np.pi / np.sqrt(1 - x**2)

    def _ppf(self, q):
        return np.sin(np.pi / 2 * q)

    def _stats(self):
        return 2 / np.pi, None, None, None


DENSITIES = {
    "uniform": (Uniform(0.2, 0.6, 1), stats.uniform(0.2, 0.4)),
    "power": (Power(2.5, 0.1, 0.9, 1), stats.powerlaw(2.5, 0.1, 0.8)),
    "power below 1": (Power(0.4, 0.1, 0.9, 1), stats.powerlaw(0.4, 0.1, 0.8)),
    "beta": (Beta(2.0, 5.0, 0.1, 0.7, 1), stats.beta(2, 5, 0.1, 0.6)),
    "beta with two peaks": (Beta(0.3, 0.6, seed=1), stats.beta(0.3, 0.6)),
    "a beta near 0": (Beta(0.3, 9.0, seed=1), stats.beta(0.3, 9)),
    "a narrow beta": (Beta(300.0, 100.0, seed=1), stats.beta(300, 100)),
    "mage": (TruncatedNormal(0.55, 0.25, 0.5, 1.0, 1), stats.truncnorm(-0.2, 1.8, 0.55, 0.25)),
    "a normal's upper tail": (TruncatedNormal(0.1, 0.02, 0.3, 1.0, 1), stats.truncnorm(10, 45, 0.1, 0.02)),
    "a normal's lower tail": (TruncatedNormal(0.9, 0.03, 0.0, 0.6, 1), stats.truncnorm(-30, -10, 0.9, 0.03)),
    "arccos": (Arccos(seed=1), ArccosOfScipy(a=0, b=1)()),
    "arccos on a range": (Arccos(0.2, 0.7, seed=1), ArccosOfScipy(a=0, b=1)(loc=0.2, scale=0.5)),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_is_scipys(name):
    sampler, known = DENSITIES[name]
    low, high = sampler.bounds(0)
    draws = np.array([sampler.sample(step) for step in range(300)])
    assert stats.kstest(draws, known.cdf).pvalue > 0.01
    assert stats.kstest(sampler.samples(7, n=3000), known.cdf).pvalue > 0.01
    u = np.linspace(0, 1, 41)
    assert sampler.quantile(u, 0) == pytest.approx(known.ppf(u), abs=1e-12)
    assert [sampler.quantile(float(x), 0) for x in u] == pytest.approx(sampler.quantile(u, 0), abs=1e-15)
    inside = np.linspace(low, high, 53)[1:-1]
    assert sampler.density(inside, 0) == pytest.approx(known.pdf(inside), rel=1e-9, abs=1e-12)
    assert not sampler.density(np.array([low - 0.01, high + 0.01]), 0).any()
    assert sampler.mean(0) == pytest.approx(known.mean(), abs=1e-9)


def test_weights_of_a_choice_are_its_frequencies():
    sampler = Choice((0.75, 0.25, 0.5), (1.0, 2.0, 5.0), seed=4)
    draws = np.array([sampler.sample(step) for step in range(4000)])
    counts = [(draws == value).sum() for value in sampler.values]
    assert stats.chisquare(counts, 4000 * np.array([1, 2, 5]) / 8).pvalue > 0.01
    assert sampler.mean(0) == pytest.approx((0.75 + 0.5 + 2.5) / 8)
    assert sampler.quantile(np.array([0.0, 0.249, 0.251, 0.874, 0.876, 1.0]), 0).tolist() == [
        0.25,
        0.25,
        0.5,
        0.5,
        0.75,
        0.75,
    ]


def test_schedules_step_by_step():
    assert [Cosine(0.5, 0.1).sample(s, 5) for s in range(6)] == pytest.approx(
        [0.1 + 0.2 * (1 + math.cos(math.pi * min(s, 4) / 4)) for s in range(6)]
    )
    assert (Cosine(0.5, 0.1).sample(0, 5), Cosine(0.5, 0.1).sample(4, 5)) == (0.5, 0.1)
    # The paper's lung atlas: 1/300000 of the range a step, which ends at 0.176 after 243,100 steps (C.8).
    slope = Slope(0.5, -0.4 / 300_000, 0.1)
    assert [slope.sample(s) for s in (0, 150_000, 243_100, 300_000, 10**9)] == pytest.approx(
        [0.5, 0.3, 0.5 - 0.4 * 243_100 / 300_000, 0.1, 0.1]
    )
    assert slope.sample(243_100) == pytest.approx(0.176, abs=5e-4)
    assert Slope(0.1, 0.25, 0.5).sample(1) == 0.35
    line = PiecewiseLinear((0.1, 0.5, 0.2), (1, 3))
    assert [line.sample(s, 9) for s in range(9)] == pytest.approx([0.1, 0.3, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2])
    assert (line.sample(0, 9), line.sample(2, 9), line.sample(8, 9)) == (0.1, 0.5, 0.2)


def test_rounding_leaves_no_schedule_outside_of_its_ends():
    """Or a range whose bound follows it would be reversed."""
    rng = np.random.default_rng(0)
    for value, step in zip(rng.random(3000), rng.integers(1000, size=3000), strict=True):
        for sampler in (LinearDecay(value, value), Cosine(value, value), PiecewiseLinear((value, value), (1,))):
            assert sampler.sample(int(step), 1000) == value


def test_phases_see_their_own_part_and_draw_by_the_trainings_step():
    draws = Uniform(0.2, 0.4, seed=3)
    phases = Phases((LinearDecay(0.05, 0.3), draws, 0.15, draws), (1, 2, 1, 1))
    values = [phases.sample(step, 50) for step in range(50)]
    assert values[:10] == [LinearDecay(0.05, 0.3).sample(step, 10) for step in range(10)]
    assert values[10:30] == [draws.sample(step) for step in range(10, 30)]
    assert values[30:40] == [0.15] * 10
    assert values[40:] == [draws.sample(step) for step in range(40, 50)]  # no draw comes twice
    assert phases.samples(12, 50, n=3).tolist() == draws.samples(12, n=3).tolist()
    assert phases.samples(33, 50, n=3).tolist() == [0.15] * 3


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        # mmBERT: 30, 15 and 5 % over 2,000, 600 and 100 of 2,700 billion tokens.
        ("mmbert", lambda t: 0.3 if t < 2000 / 2700 else 0.15 if t < 2600 / 2700 else 0.05),
        # Ettin: 30 % for 1.7 T + 250 B tokens, 15 % for the decay of 50 B.
        ("ettin", lambda t: 0.3 if t < 1950 / 2000 else 0.15),
    ],
)
def test_published_schedules(name, rule):
    sampler, total = scheme(name), 5400
    assert [sampler.sample(step, total) for step in range(total)] == [rule(step / total) for step in range(total)]


@pytest.mark.parametrize(
    ("name", "density"),
    [
        ("mage", DENSITIES["mage"][1].cdf),
        ("maskgit", lambda x: 1 - 2 / np.pi * np.arccos(np.clip(x, 0, 1))),
        ("moirai", stats.uniform(0.15, 0.35).cdf),
        ("llada", stats.uniform(1e-3, 1 - 1e-3).cdf),  # (1 − ε) t + ε
    ],
)
def test_published_densities(name, density):
    assert stats.kstest(scheme(name, seed=5).samples(0, n=5000), density).pvalue > 0.01


def test_scgpt_draws_one_of_three():
    draws = scheme("scgpt", "singlecell", seed=2).samples(0, n=6000)
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75]
    assert stats.chisquare(counts).pvalue > 0.01


@given(samplers(), st.integers(0, 10**9), st.integers(1, 10**9), st.integers(0, 50), st.integers(1, 40))
def test_ratios_per_sample_depend_on_seed_step_and_place_alone(sampler, step, total, first, n):
    step = min(step, total - 1)
    if isinstance(sampler, Curriculum):
        assert not has_quantile(sampler)
        with pytest.raises(ValueError, match="cannot draw per sample"):
            sampler.samples(step, total, n=1)
        return
    whole = sampler.samples(step, total, n=first + n)
    assert sampler.samples(step, total, n=n, first=first).tolist() == whole[first:].tolist()
    low, high = sampler.bounds(step, total)
    assert whole.shape == (first + n,)
    assert (low <= whole).all()
    assert (whole <= high).all()


def test_ratios_of_places_steps_and_seeds_are_independent():
    sampler = Uniform(0.0, 1.0, seed=1)
    table = np.array([sampler.samples(step, n=60) for step in range(200)])
    assert stats.kstest(table.ravel(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.04
    other = np.array([Uniform(0.0, 1.0, seed=2).samples(step, n=60) for step in range(200)])
    assert abs(np.corrcoef(table.ravel(), other.ravel())[0, 1]) < 0.04
    per_step = np.array([sampler.sample(step) for step in range(200)])
    assert abs(np.corrcoef(table[:, 0], per_step)[0, 1]) < 0.25


GOLDEN_SAMPLES = [0.12488714011463542, 0.47450648796670525, 0.6194382285194644, 0.77842656478045]


def test_golden_draws_per_sample():
    # Written on 2026-11-28: a change would silently break resumed runs.
    assert Uniform(0.0, 1.0, seed=0).samples(3, n=4, first=2).tolist() == pytest.approx(GOLDEN_SAMPLES, abs=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Phases((), ()), "phases must be a list"),
        (lambda: Phases((0.3, 0.15), (74,)), "spans must be a list of 2"),
        (lambda: Phases((0.3, 0.15), (74, 0)), r"spans\[1\] must be a positive number"),
        (lambda: Phases((0.3, 0.15), (-1, 2)), r"spans\[0\] must be a positive number"),
        (lambda: Phases((0.3, math.nan), (1, 2)), r"phases\[1\] must be a number in \[0, 1\]"),
        (lambda: Phases((0.3, 0.1), (1, 2)).sample(0), "must know the length"),
        (lambda: PiecewiseLinear((0.3, 0.1), (1, 2)), "spans must be a list of 1"),
        (lambda: PiecewiseLinear((0.3,), ()), "values must be a list of at least 2 ratios"),
        (lambda: PiecewiseLinear((0.3, 0.1), (1,)).sample(0), "must know the length"),
        (lambda: Cosine(0.3, math.nan), "end must be a number"),
        (lambda: Cosine(0.3, 0.1).sample(0, 0), "must know the length"),
        (lambda: Slope(0.3, 0.001, 0.1), "away from the bound"),
        (lambda: Slope(0.3, 0.0, 0.1), "other than 0"),
        (lambda: Slope(0.3, math.nan, 0.1), "other than 0"),
        (lambda: Power(0.0), "exponent must be a positive"),
        (lambda: Power(2.0, 0.9, 0.6), "low must not exceed high"),
        (lambda: Beta(math.nan, 1.0), "alpha must be a positive"),
        (lambda: Beta(1.0, math.inf), "beta must be a positive"),
        (lambda: Ramp(0.0, 1.0), "start must be a positive"),
        (lambda: Beta(Ramp(1, 2), 1.0).sample(0), "must know the length"),
        (lambda: TruncatedNormal(0.5, 0.0), "sd must be positive"),
        (lambda: TruncatedNormal(0.5, 0.1, 0.8, 0.2), "low must be below high"),
        (lambda: TruncatedNormal(0.0, 0.001, 0.9, 1.0), "has no mass there"),
        (lambda: TruncatedNormal(Uniform(0.1, 0.2), 0.1), "not be drawn"),
        (lambda: TruncatedNormal(math.nan, 0.1), "mean_ratio must be a number"),
        (lambda: Choice((0.1, 0.2), (1.0,)), "weights must be as many as values"),
        (lambda: Choice((0.1, 0.2), (1.0, 0.0)), r"weights\[1\] must be a positive"),
        (lambda: Choice(()), "values must be a list of at least 1 ratio"),
        (lambda: Uniform(0.1, Phases((Uniform(0.2, 0.4, 7), 0.3), (1, 1)), 7), "give another"),
        (lambda: Uniform(0.2, 0.2).density(0.2, 0), "has no density"),
    ],
)
def test_bad_schedules_and_densities(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_seed_reaches_what_draws_the_ratio_and_no_bound():
    inner = {"class_path": "Uniform", "init_args": {"low": 0.1, "high": 0.2}}
    seeded = {"class_path": "Uniform", "init_args": {"low": 0.1, "high": 0.2, "seed": 9}}
    phases = {"class_path": "Phases", "init_args": {"phases": [inner, seeded, 0.3], "spans": [1, 1, 1]}}
    built = sampler_from_config(phases, seed=5)
    assert [phase.seed for phase in built.phases[:2]] == [5, 9]
    bound = {
        "class_path": "Uniform",
        "init_args": {"low": 0.1, "high": {**inner, "init_args": {"low": 0.3, "high": 0.4}}},
    }
    built = sampler_from_config(bound, seed=5)
    assert (built.seed, built.high.seed) == (5, 0)
    with pytest.raises(ValueError, match="is not a sampler, but a parameter"):
        sampler_from_config({"class_path": "Ramp", "init_args": {"start": 1, "end": 2}})
