"""The paper's hidden fractions (C.5 to C.8) and curriculum (A.3) as literals, against what `scheme` builds."""

import numpy as np
import pytest
import torch

from r2mae_core import Curriculum, CurriculumWeights, exact_mask, scheme, scheme_names, sinkhorn, weighted_mean

T = 10_000
RANGES = {  # (first bounds, last bounds)
    "vision": {  # C.5
        "fixed": ((0.75, 0.75), (0.75, 0.75)), "low": ((0.5, 0.5), (0.5, 0.5)), "high": ((0.9, 0.9), (0.9, 0.9)),
        "mdlm": ((0, 1), (0, 1)), "dynamic": ((0.9, 0.9), (0.6, 0.6)), "r2mae": ((0.6, 0.9), (0.6, 0.9)),
    },
    "text": {  # C.6
        "fixed": ((0.15, 0.15), (0.15, 0.15)), "high": ((0.4, 0.4), (0.4, 0.4)), "mdlm": ((0, 1), (0, 1)),
        "dynamic": ((0.4, 0.4), (0.15, 0.15)), "r2mae": ((0.15, 0.4), (0.15, 0.4)),
    },
    "dna": {  # C.7
        "fixed": ((0.15, 0.15), (0.15, 0.15)), "low": ((0.05, 0.05), (0.05, 0.05)), "high": ((0.3, 0.3), (0.3, 0.3)),
        "mdlm": ((0, 1), (0, 1)), "dynamic": ((0.3, 0.3), (0.05, 0.05)), "r2mae": ((0.05, 0.3), (0.05, 0.3)),
        "r2mae+dynamic": ((0.05, 0.55), (0.05, 0.05)), "cl": ((0.15, 0.15), (0.15, 0.15)),
        "r2mae+cl": ((0.05, 0.3), (0.05, 0.3)),
    },
    "singlecell": {  # C.8
        "fixed": ((0.25, 0.25), (0.25, 0.25)), "low": ((0.1, 0.1), (0.1, 0.1)), "high": ((0.5, 0.5), (0.5, 0.5)),
        "mdlm": ((0, 1), (0, 1)), "dynamic": ((0.5, 0.5), (0.1, 0.1)), "r2mae": ((0.1, 0.5), (0.1, 0.5)),
        "r2mae+dynamic": ((0.1, 0.5), (0.1, 0.1)), "cl": ((0.25, 0.25), (0.25, 0.25)),
        "r2mae+cl": ((0.1, 0.5), (0.1, 0.5)),
    },
}  # fmt: skip


@pytest.mark.parametrize(("modality", "name"), [(m, name) for m, found in RANGES.items() for name in found])
def test_ranges(modality, name):
    first, last = RANGES[modality][name]
    sampler = scheme(name, modality)
    assert sampler.bounds(0, T) == pytest.approx(first)
    assert sampler.bounds(T - 1, T) == pytest.approx(last)
    draws = np.array([sampler.sample(step, T) for step in range(0, T, 5)])
    low, high = first
    middle = {"dynamic": (low + last[0]) / 2, "r2mae+dynamic": (low + (high + last[1]) / 2) / 2}
    assert draws.mean() == pytest.approx(middle.get(name, (low + high) / 2), abs=0.02 * (high - low) + 1e-3)
    if name in ("mdlm", "r2mae"):  # uniform: quarters of the range come equally often
        share, _ = np.histogram(draws, 4, first)
        assert share / len(draws) == pytest.approx(0.25, abs=0.04)


def test_schemes_of_the_tables():
    assert {"fixed", "high", "low", "mdlm", "dynamic", "r2mae"} <= set(scheme_names("vision"))  # table 1
    for modality in ("dna", "singlecell"):  # tables 3, 4 and 6
        assert {"cl", "cl-k0", "r2mae+dynamic", "r2mae+cl", "r2mae+cl-k0"} <= set(scheme_names(modality))
    assert "low" not in scheme_names("text")  # table 2


@pytest.mark.parametrize("name", ["cl", "cl-k0", "r2mae+cl", "r2mae+cl-k0"])
@pytest.mark.parametrize("modality", ["dna", "singlecell"])
def test_curriculum(modality, name):
    sampler, steps = scheme(name, modality), {"dna": 30_000, "singlecell": 155_000}[modality]
    assert isinstance(sampler, Curriculum)
    assert sampler.n_columns == 10  # "with length 10"
    at = [sampler.multiplier(step, steps) for step in (0, 4999, 5000)]
    assert at == [0, 0, 1]  # "after being fixed for 5000 initial training steps"
    marks = {"dna": (5000, 17_500, 29_999), "singlecell": (30_000, 75_000, 120_000)}[modality]
    falling = [1, 1, 1] if name.endswith("k0") else [1, 0, -1]  # "with a linear decay"
    assert [sampler.multiplier(step, steps) for step in marks] == pytest.approx(falling, abs=1e-3)
    if name.startswith("r2mae"):
        low, high = {"dna": (0.05, 0.3), "singlecell": (0.1, 0.5)}[modality]
        values = {round(sampler.sample(step, steps), 9) for step in range(500)}
        assert sorted(values) == pytest.approx(np.linspace(low, high, 10))


def test_weights_conserve_their_mass():
    """A.3, equation 9: rows sum to K and columns to L, so that the mean weight is 1."""
    S = torch.rand(300, 10, generator=torch.Generator().manual_seed(0)) + 0.5
    W = sinkhorn(S, 10, 300)
    assert W.sum(0).tolist() == pytest.approx([300] * 10, rel=1e-5)
    assert W.sum(1).tolist() == pytest.approx([10] * 300, rel=1e-4)
    rows = S.double().numpy()
    for _ in range(5):  # our number of rounds
        rows = rows * 10 / rows.sum(1, keepdims=True)
        rows = rows * 300 / rows.sum(0)
    assert W.numpy() == pytest.approx(rows, rel=1e-4)
    assert CurriculumWeights(4, 2).n_iters == 5


def test_loss_of_the_curriculum_on_a_worked_example():
    loss, hidden, W = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.5, 9.0, 1.5])
    assert weighted_mean(loss, hidden, W).item() == pytest.approx((0.5 * 1 + 1.5 * 4) / 2)


def test_a_constant_fraction_of_tokens_is_hidden():
    for ratio, n, count in ((0.15, 128, 19), (0.75, 196, 147), (0.25, 5000, 1250), (0.4, 127, 51)):
        mask = exact_mask((6, n), ratio, generator=torch.Generator().manual_seed(0))
        assert mask.sum(1).tolist() == [count] * 6
