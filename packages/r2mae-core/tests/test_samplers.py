import inspect
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from r2mae_core import (
    Curriculum,
    Fixed,
    Grid,
    LinearDecay,
    MaskRatioSampler,
    RatioSampler,
    Uniform,
    sampler_from_config,
    sampler_to_config,
)
from r2mae_core.ratio.config import BUILT_IN

ratio = st.floats(0, 1)
seed = st.integers(-(2**40), 2**70)


@st.composite
def samplers(draw):
    kind = draw(st.integers(0, 5))
    low, high = sorted([draw(ratio), draw(ratio)])
    if kind == 0:
        return Fixed(low)
    if kind == 1:
        return LinearDecay(draw(ratio), draw(ratio), draw(st.none() | st.integers(1, 20)))
    if kind == 2:
        return Uniform(low, high, draw(seed))
    if kind == 3:
        return Uniform(low, LinearDecay(high, low), draw(seed))
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
    with pytest.raises(ValueError, match="seed must be an integer"):
        Uniform(0.1, 0.2, seed=0.5)


def test_builtin_samplers_share_the_abc_so_that_the_command_line_lists_them():
    def below(cls):
        return {cls, *(name for each in cls.__subclasses__() for name in below(each))}

    offered = {cls.__name__ for cls in below(RatioSampler) if not inspect.isabstract(cls)}
    assert set(BUILT_IN) - {"Ramp"} <= offered
