"""The negative-binomial likelihood of the hidden counts (paper, C.8), with its gradient written out.

Counts are mostly zero, so the terms with lgamma and digamma are computed at the non-zero counts alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _NegativeBinomialNLL(torch.autograd.Function):
    """Elementwise loss; the gradient is computed with it, because both use softplus, sigmoid and lgamma's places."""

    @staticmethod
    def forward(ctx: Any, log_mu: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
        theta = log_theta.exp()
        d = log_mu - log_theta
        softplus = F.softplus(d)
        total = x + theta
        # -log p = (x + θ) softplus(d) - x d - [lgamma(x + θ) - lgamma(θ) - lgamma(x + 1)], d = log μ - log θ
        nll = torch.addcmul(total * softplus, x, d, value=-1.0)
        towards_mean = torch.addcmul(-x, total, d.sigmoid_())  # d nll / d log μ
        slope = softplus.mul_(theta).sub_(towards_mean)  # d nll / d log θ without digamma
        few = x.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere: no host sync
        places = x.flatten().nonzero().squeeze(1) if few else slice(None)
        count = x.reshape(-1)[places]
        theta_there = theta.expand_as(x).reshape(-1)[places]
        nll.view(-1)[places] -= (count + theta_there).lgamma() - theta_there.lgamma() - (count + 1).lgamma()
        slope.view(-1)[places] -= theta_there * ((count + theta_there).digamma() - theta_there.digamma())
        ctx.save_for_backward(towards_mean, slope)
        return nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        towards_mean, slope = ctx.saved_tensors
        return grads[0] * towards_mean, (grads[0] * slope).sum(0), None


def negative_binomial_nll(log_mu: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
    """Return the negative log-likelihood of counts, elementwise and exact (no epsilon).

    Args:
        log_mu: (cells, genes) logarithm of the mean.
        log_theta: (genes,) logarithm of the inverse dispersion θ; the variance is μ + μ²/θ.
        x: (cells, genes) counts, not negative.

    Returns:
        (cells, genes), differentiable in `log_mu` and `log_theta`; float32 under autocast too.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        wanted = torch.promote_types(log_mu.dtype, torch.float32)
        return _NegativeBinomialNLL.apply(log_mu.to(wanted), log_theta.to(wanted), x.to(wanted))  # pyright: ignore[reportReturnType]
