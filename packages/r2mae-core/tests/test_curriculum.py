import math

import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import CurriculumWeights, sinkhorn, weighted_mean

torch.set_num_threads(1)


def positive(rows, cols, low=0.5, high=1.5, seed=0, batch=()):
    return torch.empty(*batch, rows, cols).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 1000))
def test_columns_are_exact_rows_are_close_all_is_positive(rows, cols, seed):
    S = positive(rows, cols, seed=seed)
    W = sinkhorn(S, cols, rows, 5)
    assert (W > 0).all()
    assert W.sum(0).allclose(torch.full((cols,), float(rows)), rtol=1e-5)
    assert W.sum(1).allclose(torch.full((rows,), float(cols)), rtol=1e-3)
    assert W.mean().item() == pytest.approx(1, rel=1e-5)


def test_row_error_falls_as_fast_as_the_recovered_notes_say():
    S = positive(200, 10)
    errors = [(sinkhorn(S, 10, 200, n).sum(1) / 10 - 1).abs().max().item() for n in (1, 3, 5)]
    assert errors[1] < 1e-4
    assert errors[2] <= errors[1] < errors[0]


def test_equal_input_gives_all_ones():
    assert sinkhorn(torch.full((7, 3), 0.3), 3, 7, 1).allclose(torch.ones(7, 3), rtol=1e-6)


def test_one_column_forces_every_weight_to_one_and_one_row_too():
    assert sinkhorn(positive(9, 1), 1, 9, 3).allclose(torch.ones(9, 1))
    assert sinkhorn(positive(1, 9), 9, 1, 3).allclose(torch.ones(1, 9))


def test_agrees_with_pot_up_to_scaling():
    S = positive(12, 5, seed=4).double()
    W = sinkhorn(S, 5, 12, 200)
    plan = ot.sinkhorn([1 / 12] * 12, [1 / 5] * 5, -S.log().numpy(), reg=1.0, stopThr=1e-14)
    assert torch.from_numpy(plan * 60).allclose(W, rtol=1e-8)


@pytest.mark.parametrize(("low", "high"), [(1e-38, 1e-37), (1e36, 1e38), (1e-30, 1e30)])
def test_extreme_values_stay_finite(low, high):
    S = torch.logspace(math.log10(low), math.log10(high), 40).view(8, 5)
    W = sinkhorn(S, 5, 8, 50)
    assert W.isfinite().all()
    assert W.sum(0).allclose(torch.full((5,), 8.0), rtol=1e-4)


def test_bf16_input_is_computed_in_float32_also_under_autocast():
    S = positive(20, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        W = sinkhorn(S.bfloat16(), 4, 20, 5)
    assert W.dtype == torch.float32
    assert W.sum(0).allclose(torch.full((4,), 20.0), rtol=1e-5)


def test_batched_matrices_are_scaled_on_their_own():
    S = positive(6, 3, batch=(4, 2))
    W = sinkhorn(S, 3, 6, 5)
    assert W[2, 1].allclose(sinkhorn(S[2, 1], 3, 6, 5))


def test_gradient_against_finite_differences():
    S = positive(5, 3, seed=8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: sinkhorn(s, 3, 5, 3), S)


def test_bad_arguments():
    with pytest.raises(ValueError, match="do not have the same positive total"):
        sinkhorn(positive(4, 3), 1.0, 1.0, 5)
    with pytest.raises(ValueError, match="at least 1"):
        sinkhorn(positive(4, 3), 3, 4, 0)
    with pytest.raises(ValueError, match="must be"):
        sinkhorn(torch.ones(3), 1, 1, 1)


def trained_head(**arguments):
    torch.manual_seed(0)
    weights = CurriculumWeights(8, 10, **arguments)
    with torch.no_grad():
        weights.head[-1].weight.normal_(0, 2)
    return weights


def test_weights_are_exactly_one_before_the_head_has_learned():
    x = torch.randn(50, 8)
    head = CurriculumWeights(8, 10)
    assert head(x, column=3, multiplier=1.0).allclose(torch.ones(50), rtol=1e-6)
    frozen = trained_head()(x, column=3, multiplier=0.0)
    assert torch.equal(frozen, torch.ones(50))


def test_frozen_head_has_zero_gradient_not_none():
    head = trained_head()
    (head(torch.randn(50, 8), 3, 0.0) * torch.rand(50)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("arguments", [{}, {"n_features": 30, "hidden": (16, 32), "offset": 1e-9}])
def test_selected_column_has_mean_one(arguments):
    x = torch.randn(6, 8)
    w = trained_head(**arguments)(x, column=2)
    assert w.shape == ((6, 30) if arguments else (6,))
    assert w.mean(-1).allclose(torch.ones(()), rtol=1e-5)
    assert w.std() > 0.05  # the head says something


@pytest.mark.parametrize("arguments", [{}, {"n_features": 30, "hidden": (16, 32), "offset": 1e-9}])
def test_one_column_is_that_of_the_whole_matrix_with_its_gradient(arguments):
    torch.manual_seed(0)
    head = CurriculumWeights(30, **arguments)
    torch.nn.init.normal_(head.head[-1].weight, std=3.0)
    x, slope = torch.randn(12, 30), torch.randn(12, 30) if arguments else torch.randn(12)
    gradients = []
    for weights in (head(x, 4), head.matrix(x)[..., 4]):
        head.zero_grad()
        (weights * slope).sum().backward()
        gradients.append(head.head[0].weight.grad.clone())
    assert head(x, 4).allclose(head.matrix(x)[..., 4], rtol=1e-4, atol=1e-6)
    assert gradients[0].allclose(gradients[1], rtol=1e-3, atol=1e-5)


def test_multiplier_scales_the_heads_gradient_and_nothing_flows_into_the_input():
    loss = torch.rand(50, generator=torch.Generator().manual_seed(1))
    grads = {}
    for multiplier in (1.0, -0.5):
        head, x = trained_head(), torch.randn(50, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
        weighted_mean(loss, torch.ones(50), head(x, 4, multiplier)).backward()
        grads[multiplier] = head.head[0].weight.grad
        assert x.grad is None
    assert grads[1.0].abs().sum() > 0
    assert grads[-0.5].allclose(-0.5 * grads[1.0])


def test_plus_one_lowers_the_loss_and_minus_one_raises_it():
    loss = torch.linspace(0, 1, 40)
    x = torch.eye(40)[:, :40]
    results = {}
    for multiplier in (1.0, -1.0):
        torch.manual_seed(0)
        head = CurriculumWeights(40, 10)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            value = weighted_mean(loss, torch.ones(40), head(x, 0, multiplier))
            value.backward()
            optimizer.step()
        results[multiplier] = value.item()
    assert results[1.0] < 0.49 < 0.51 < results[-1.0]


def test_weighted_mean_keeps_the_curriculum_out_of_the_denominator():
    loss, w, W = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.8, 0.2, 1.0])
    assert weighted_mean(loss, w).item() == 1.5
    assert weighted_mean(loss, w, W).item() == pytest.approx((1.8 + 0.4) / 2)


def test_log_spread():
    assert CurriculumWeights.log_spread(torch.ones(5)).item() == 0
    assert CurriculumWeights.log_spread(torch.tensor([math.e, 1 / math.e])).item() == pytest.approx(1)


def test_the_offset_bounds_the_raw_weights_away_from_zero():
    """A.3 and C.7: a sigmoid with 0.5 added lies between 0.5 and 1.5, so no weight is over three times another's."""
    head = CurriculumWeights(4, 2, hidden=(8,), offset=0.5)
    with torch.no_grad():
        head.head[-1].bias.copy_(torch.tensor([50.0, -50.0]))
    raw = head._positive(torch.randn(6, 4))
    assert torch.allclose(raw, torch.tensor([1.5, 0.5]).expand(6, 2))
    assert CurriculumWeights(4, 2, offset=1e-9)._positive(torch.zeros(1, 4)).max() < 0.51
