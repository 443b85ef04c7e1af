"""E[y | Z] and Var[y | Z], row by row: what Lemma 1 and Theorem 3 condition on."""

import numpy as np
import scipy.linalg as sla
from numpy.typing import NDArray

from r2mae_theory.arrays import Floats
from r2mae_theory.covariance import Covariance, LowRankCovariance


def conditional_targets(
    covariance: Covariance, beta: Floats, sigma: float, Z: Floats, visible: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return the mean and variance of y given the visible entries of each row.

    Args:
        covariance: Σ, p×p.
        beta: shape (p,).
        sigma: standard deviation of the noise.
        Z: masked rows, shape (m, p).
        visible: which entries of Z are visible, shape (m, p).

    Returns:
        E[y | Z] and Var[y | Z], each of shape (m,).
    """
    one = _low_rank_row if isinstance(covariance, LowRankCovariance) else _dense_row
    pairs = np.array([one(covariance, beta, z, o) for z, o in zip(Z, visible, strict=True)]).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1] + sigma**2


def _dense_row(covariance: Covariance, beta: Floats, z: Floats, seen: NDArray[np.bool_]) -> tuple[float, float]:
    S, hidden = covariance.matrix, ~seen
    own = float(beta[hidden] @ S[np.ix_(hidden, hidden)] @ beta[hidden])
    if not seen.any():
        return 0.0, own
    cross = S[np.ix_(seen, hidden)] @ beta[hidden]  # covariance of x_seen and the hidden features' share of y
    weights = sla.solve(S[np.ix_(seen, seen)], cross, assume_a="pos")
    return float(z[seen] @ (beta[seen] + weights)), own - float(cross @ weights)


def _low_rank_row(covariance: Covariance, beta: Floats, z: Floats, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Do the same through the k shared directions: x = √level·noise + U·f with independent factors f."""
    assert isinstance(covariance, LowRankCovariance)
    level, strengths, U = covariance.level, covariance.strengths, covariance.directions
    hidden = ~seen
    visible_gram = U[seen].T @ U[seen] / level
    k = len(strengths)
    shrink = strengths[:, None] * np.linalg.solve(np.eye(k) + visible_gram * strengths, np.eye(k))  # Var[f | seen]
    load = U[hidden].T @ beta[hidden]
    mean = float(z[seen] @ beta[seen] + load @ shrink @ (U[seen].T @ z[seen]) / level)
    return mean, float(level * beta[hidden] @ beta[hidden] + load @ shrink @ load)
