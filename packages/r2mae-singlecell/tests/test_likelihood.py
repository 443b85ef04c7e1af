import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from scvi.distributions import NegativeBinomial

from r2mae_singlecell import negative_binomial_nll


def inputs(seed=0, shape=(7, 11), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    log_mu = torch.randn(shape, generator=generator, dtype=dtype)
    log_theta = torch.randn(shape[1], generator=generator, dtype=dtype)
    x = torch.poisson(2 * torch.rand(shape, generator=generator, dtype=dtype), generator=generator)
    return log_mu, log_theta, x


def test_equals_scipy():
    log_mu, log_theta, x = inputs()
    mu, theta = log_mu.exp().numpy(), log_theta.exp().numpy()
    expected = -nbinom.logpmf(x.numpy(), theta, theta / (theta + mu))
    assert np.allclose(negative_binomial_nll(log_mu, log_theta, x), expected, rtol=1e-12)


def test_equals_scvi_up_to_its_epsilon():
    log_mu, log_theta, x = inputs(1)
    theirs = -NegativeBinomial(mu=log_mu.exp(), theta=log_theta.exp()).log_prob(x)
    assert torch.allclose(negative_binomial_nll(log_mu, log_theta, x), theirs, rtol=1e-6, atol=1e-6)


def test_gradient():
    log_mu, log_theta, x = inputs(2, (4, 5))
    assert torch.autograd.gradcheck(
        lambda a, b: negative_binomial_nll(a, b, x), (log_mu.requires_grad_(), log_theta.requires_grad_())
    )


@pytest.mark.parametrize("log_mu", [-80.0, 0.0, 40.0])
@pytest.mark.parametrize("log_theta", [-10.0, 0.0, 15.0])
def test_extremes_are_finite(log_mu, log_theta):
    x = torch.tensor([[0.0, 1.0, 5000.0]])
    a, b = torch.full((1, 3), log_mu, requires_grad=True), torch.full((3,), log_theta, requires_grad=True)
    nll = negative_binomial_nll(a, b, x)
    nll.sum().backward()
    assert nll.isfinite().all()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_no_counts_at_all():
    nll = negative_binomial_nll(torch.zeros(3, 4), torch.zeros(4), torch.zeros(3, 4))
    assert torch.allclose(nll, torch.tensor(2.0).log())  # θ = μ = 1: p(0) = 1/2


def test_is_float32_under_autocast():
    log_mu, log_theta, x = inputs(3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nll = negative_binomial_nll(log_mu.bfloat16(), log_theta, x)
    assert nll.dtype == torch.float32
    assert torch.allclose(nll, negative_binomial_nll(log_mu.bfloat16().float(), log_theta, x))
