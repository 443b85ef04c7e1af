"""Monte-Carlo risk of masked regression, by the protocol of appendix C.1.

A row draws its ratio r, enters the regression with probability r (by other rules in `Coupled` and `Thinned`), and each
of its features is then hidden with probability r. β̂ is the minimum-norm fit on the masked rows; its risk ‖β̂ − β‖²_Σ is
exact or measured on fresh rows. Every repeat has its own
random stream, so results do not depend on the number of processes, and a range with low = high consumes the same random
numbers as the fixed ratio: bit for bit the same result.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2mae_core import in_processes
from r2mae_theory.arguments import array, check_memory, finite, flag, number, seed_number, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.conditional import conditional_targets
from r2mae_theory.covariance import Covariance
from r2mae_theory.epochs import checked_epochs, equivalent_ratio
from r2mae_theory.errors import TheoryError
from r2mae_theory.masks import MaskDistribution, as_mask
from r2mae_theory.representations import as_covariance
from r2mae_theory.risk import Mask, positive_null
from r2mae_theory.solve import NormalSolver

_MAX_REPEATS = 10**7
_MAX_PROCESSES = 1024


@dataclass(frozen=True)
class RiskEstimate:
    """Measured risk over repeats."""

    mean: float
    sd: float
    """Standard deviation over repeats, the paper's error bars."""
    sem: float
    """Standard error of the mean."""
    null: float
    """βᵀΣβ."""
    mean_bias: float
    """‖E β̂ − β‖²_Σ over samples, masks and noise, corrected for the Monte-Carlo error; comparable with `Risk.bias`."""
    bias: float | None
    """Lemma 1's bias, ‖E[β̂ | Z] − β‖²_Σ averaged over masked samples Z; None without `decompose`."""
    variance: float | None
    """Lemma 1's variance, E[‖β̂ − E[β̂ | Z]‖²_Σ | Z] averaged over Z; None without `decompose`."""
    magnitude: float
    """Mean of β̂ᵀΣβ̂, the mean square prediction (figure 1D)."""
    samples: Floats
    """The risk of each repeat, shape (n_repeats,)."""
    n_fallback: int
    """Repeats too ill-conditioned for the normal equations, which used the pseudo-inverse."""

    @property
    def normalized(self) -> float:
        """The mean risk as a share of the null risk; refused if that is 0."""
        return self.mean / positive_null(self.null)


@dataclass(frozen=True)
class _Repeat:
    risk: float
    magnitude: float
    estimate: Floats
    bias: float
    variance: float
    fell_back: bool


def masked_rows(
    covariance: Covariance, beta: Floats, sigma: float, n: int, mask: MaskDistribution, rng: np.random.Generator
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Draw one training set: masked rows Z (m, p), targets y (m,) and which entries are visible (m, p).

    Rows that do not enter are never drawn.
    """
    ratios, enters = mask.drawn(n, rng)
    ratios = ratios[enters]
    x = covariance.sample(len(ratios), rng)
    y = x @ beta + sigma * rng.standard_normal(len(ratios))
    # Single precision suffices for a mask (ratios are resolved to 6e-8) and costs half as much to draw.
    visible = rng.random(x.shape, dtype=np.float32) >= ratios[:, None].astype(np.float32)
    return np.multiply(x, visible, out=x), y, visible


def estimate_of_epochs(
    x: Floats, y: Floats, mask: MaskDistribution, epochs: float, rng: np.random.Generator
) -> tuple[Floats, bool]:
    """Fit the masked rows that samples give in several epochs, or infinitely many.

    Args:
        x: (n, p) samples.
        y: (n,) or (n, k) targets.
        mask: drawn again in every epoch.
        epochs: how often each sample is seen.
        rng: generator for the masks.

    Returns:
        (p,) or (p, k) the fit, and whether it needed the pseudo-inverse.
    """
    if np.isinf(epochs):
        r, moment = equivalent_ratio(mask), x.T @ x / len(x)
        moment *= 1 - r
        moment.flat[:: len(moment) + 1] /= 1 - r  # the diagonal has the weight q + r = 1
        return np.linalg.solve(moment, x.T @ y / len(x)), False
    rows, targets = [], []
    for _ in range(int(epochs)):
        ratios, enters = mask.drawn(len(x), rng)
        part = x[enters]
        rows.append(part * (rng.random(part.shape, dtype=np.float32) >= ratios[enters, None].astype(np.float32)))
        targets.append(y[enters])
    solver = NormalSolver(np.concatenate(rows))
    return solver.fit(np.concatenate(targets)), solver.fell_back


def _repeat(
    seed: np.random.SeedSequence,
    covariance: Covariance,
    beta: Floats,
    sigma: float,
    n: int,
    mask: MaskDistribution,
    n_test: int,
    decompose: bool,
    epochs: float,
) -> _Repeat:
    rng = np.random.default_rng(seed)
    if epochs > 1:
        x = covariance.sample(n, rng)
        y = x @ beta + sigma * rng.standard_normal(n)
        estimate, fell_back = estimate_of_epochs(x, y, mask, epochs, rng)
        risk = _measured(covariance, estimate - beta, n_test, rng)
        return _Repeat(risk, covariance.quadratic(estimate), estimate, np.nan, np.nan, fell_back)
    Z, y, visible = masked_rows(covariance, beta, sigma, n, mask, rng)
    solver = NormalSolver(Z)
    estimate = solver.fit(y)
    error = estimate - beta
    risk = _measured(covariance, error, n_test, rng)
    bias = variance = np.nan
    if decompose:
        expected, spread = conditional_targets(covariance, beta, sigma, Z, visible)
        bias = covariance.quadratic(solver.fit(expected) - beta)
        weights = solver.pseudo_inverse()
        variance = float(((weights * covariance.multiply(weights)).sum(axis=0) * spread).sum())
    return _Repeat(risk, covariance.quadratic(estimate), estimate, bias, variance, solver.fell_back)


def _measured(covariance: Covariance, error: Floats, n_test: int, rng: np.random.Generator) -> float:
    return covariance.quadratic(error) if n_test == 0 else float(((covariance.sample(n_test, rng) @ error) ** 2).mean())


def _several(
    job: Callable[[np.random.SeedSequence], _Repeat], seeds: list[np.random.SeedSequence], size: int, start: int
) -> list[_Repeat]:
    """Do the repeats that one process takes at a time: the covariance is sent to it once for all of them."""
    return [job(seed) for seed in seeds[start : start + size]]


def simulate_risk(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: float,
    n: int,
    mask: Mask,
    n_repeats: int = 50,
    seed: int = 0,
    n_jobs: int = 1,
    *,
    n_test: int = 0,
    decompose: bool = False,
    epochs: float = 1,
) -> RiskEstimate:
    """Measure the risk of masked regression.

    Args:
        covariance: Σ, p×p.
        beta: ground truth, shape (p,).
        sigma: standard deviation of the noise.
        n: training samples, before the choice of those that enter.
        mask: a distribution of ratios; a number means `Fixed`, a pair `Uniform`.
        n_repeats: independent training sets, at least 2: one has no spread.
        seed: seed for the whole simulation; the result does not depend on n_jobs.
        n_jobs: processes.
        n_test: fresh test rows per repeat; 0: the exact risk ‖β̂ − β‖²_Σ.
        decompose: also measure Lemma 1's conditional bias and variance (one Gaussian conditional expectation per row).
        epochs: how often each sample is seen, each time with fresh masks: a whole number or `math.inf`.

    Raises:
        TheoryError: for input of the wrong shape or range.
        UserError: a process was ended from outside, such as by a full memory.
    """
    vector = array("beta", beta, as_covariance(covariance).p)
    spread = number("sigma", sigma, least=0)
    n, n_test = whole("the number of samples n", n, 1), whole("n_test", n_test)
    n_repeats, n_jobs = whole("n_repeats", n_repeats, 2, _MAX_REPEATS), whole("n_jobs", n_jobs, 1, _MAX_PROCESSES)
    law, decompose = as_mask(mask), flag("decompose", decompose)
    epochs = checked_epochs(epochs)
    if decompose and epochs > 1:
        raise TheoryError("decompose is for one epoch: the rows of a sample are dependent in several")
    rows = n * (1 + epochs) if 1 < epochs < np.inf else n
    check_size(max(rows, n_test), covariance.p, min(n_jobs, n_repeats))
    setting = {"covariance": covariance, "beta": vector, "sigma": spread, "n": n, "mask": law}
    job = partial(_repeat, **setting, n_test=n_test, decompose=decompose, epochs=epochs)
    seeds = np.random.SeedSequence(seed_number(seed)).spawn(n_repeats)
    n_jobs = min(n_jobs, n_repeats)
    if n_jobs == 1:
        repeats = [job(s) for s in seeds]
    else:
        size = max(1, n_repeats // (4 * n_jobs))
        starts = range(0, n_repeats, size)
        with _single_threaded_children():
            done = dict(in_processes(partial(_several, job, seeds, size), starts, n_jobs))
        repeats = [repeat for start in starts for repeat in done[start]]
    found = _summary(repeats, covariance, vector, decompose)
    finite("the simulated risk", found.samples, found.sd, found.mean_bias, found.magnitude)
    return found


def check_size(n: float, p: int, processes: int) -> None:
    """Refuse training or test sets of n rows that the memory cannot hold, one in each process.

    Raises:
        TheoryError: if there is less than one of them needs.
    """
    check_memory(f"a simulation of {n:g} rows of p = {p} features", 4.0 * n * p * processes)


def _summary(repeats: list[_Repeat], covariance: Covariance, beta: Floats, decompose: bool) -> RiskEstimate:
    samples = np.array([r.risk for r in repeats])
    count = len(repeats)  # at least 2
    exact = np.array([covariance.quadratic(r.estimate - beta) for r in repeats])
    centre = covariance.quadratic(np.mean([r.estimate for r in repeats], axis=0) - beta)
    # E[centre] = bias + variance/count
    mean_bias = (count * centre - exact.mean()) / (count - 1)
    sd = float(samples.std(ddof=1))
    return RiskEstimate(
        mean=float(samples.mean()),
        sd=sd,
        sem=sd / np.sqrt(count),
        null=covariance.quadratic(beta),
        mean_bias=float(mean_bias),
        bias=float(np.mean([r.bias for r in repeats])) if decompose else None,
        variance=float(np.mean([r.variance for r in repeats])) if decompose else None,
        magnitude=float(np.mean([r.magnitude for r in repeats])),
        samples=samples,
        n_fallback=sum(r.fell_back for r in repeats),
    )


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Let processes started inside use one BLAS thread each, unless the user has set another number."""
    names = [n for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if n not in os.environ]
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
