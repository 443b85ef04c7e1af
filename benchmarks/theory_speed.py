"""The theory's speed: simulation against the obvious version, prediction against simulation, advice at 1,000 features.

Run with one BLAS thread, so that one core is compared with one core:
    OMP_NUM_THREADS=1 python benchmarks/theory_speed.py
"""

import os
import resource
import time

import numpy as np
from timing import verdict

from r2mae_theory import Fixed, advise, covariance, risk_curve, simulate_risk
from r2mae_theory.simulate import masked_rows
from r2mae_theory.solve import NormalSolver

P, N, RATIO, SIGMA = 400, 200, 0.5, 0.5
RATIOS = [round(0.05 * k, 2) for k in range(1, 20)]


def seconds(call, repeats=5):
    """Median wall time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def obvious_repeat(S, root, beta, n, ratio, rng):
    """The straightforward version: draw everything, mask, `np.linalg.pinv`, risk from Σ."""
    x = rng.standard_normal((n, len(S))) @ root.T
    y = x @ beta + SIGMA * rng.standard_normal(n)
    rows = rng.random(n) < ratio
    Z = (x * (rng.random(x.shape) >= ratio))[rows]
    error = np.linalg.pinv(Z) @ y[rows] - beta
    return error @ S @ error


def line(what, ours, other, target=None):
    ratio = other / ours
    print(f"| {what} | {ours * 1e3:,.3f} | {other * 1e3:,.3f} | {ratio:,.1f}× | {verdict(ratio, target)} |", flush=True)


def main():
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    print(f"BLAS threads: {threads}, numpy {np.__version__}, p = {P}, n = {N}, r = {RATIO}")
    print("\nThe linear model\n\n| what | ours, ms | other, ms | ours is faster by | target |\n|---|---|---|---|---|")
    dense = covariance.uniform_spectrum(P, seed=0)
    beta, root = dense.eigenvectors[:, -1].copy(), np.linalg.cholesky(dense.matrix)

    # The same masked samples for both solvers.
    rng = np.random.default_rng(0)
    sets = [masked_rows(dense, beta, SIGMA, N, Fixed(RATIO), rng)[:2] for _ in range(40)]
    risks = [
        [dense.quadratic(fit(Z, y) - beta) for Z, y in sets]
        for fit in (lambda Z, y: NormalSolver(Z).fit(y), lambda Z, y: np.linalg.pinv(Z) @ y)
    ]
    gap = np.abs(np.array(risks[0]) / np.array(risks[1]) - 1).max()
    line(
        f"solve, against np.linalg.pinv (risks equal to {gap:.0e})",
        seconds(lambda: [NormalSolver(Z).fit(y) for Z, y in sets]) / len(sets),
        seconds(lambda: [np.linalg.pinv(Z) @ y for Z, y in sets]) / len(sets),
        10,
    )
    for name, cov in (("dense", dense), ("spiked", covariance.spiked(P, 20, seed=0))):
        S = cov.matrix
        factor = np.linalg.cholesky(S)
        ours = seconds(lambda c=cov: simulate_risk(c, beta, SIGMA, N, RATIO, 40)) / 40
        other = seconds(lambda S=S, L=factor: [obvious_repeat(S, L, beta, N, RATIO, rng) for _ in range(40)]) / 40
        line(f"a whole repeat, {name} covariance, against the obvious version", ours, other, 3)

    # A risk curve against 50 repeats per point, by our simulation and by the obvious one (10 timed, times 5).
    ours_sim = 5 * seconds(lambda: [simulate_risk(dense, beta, SIGMA, N, r, 10) for r in RATIOS], 1)
    rng = np.random.default_rng(2)
    obvious_sim = 5 * seconds(
        lambda: [obvious_repeat(dense.matrix, root, beta, N, r, rng) for r in RATIOS for _ in range(10)], 1
    )
    for method in ("spectral", "exact"):
        curve = seconds(lambda m=method: risk_curve(dense, beta, SIGMA, N, RATIOS, m))
        path, target = ("spectral", 1000) if method == "spectral" else ("dense", 50)
        line(f"19-point curve, {path} path, against 50 of our repeats a point", curve, ours_sim, target)
        line(f"19-point curve, {path} path, against 50 obvious repeats a point", curve, obvious_sim, target)

    one, two = (seconds(lambda k=k: simulate_risk(dense, beta, SIGMA, 2 * P, 0.7, 400, n_jobs=k), 1) for k in (1, 2))
    line(f"400 repeats at n = {2 * P}, r = 0.7: two processes against one", two, one)

    big = covariance.spiked(4000, 20, seed=0)
    start = time.perf_counter()
    simulate_risk(big, big.directions[:, 0], SIGMA, 2000, 0.5, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\np = 4000, n = 2000: {(time.perf_counter() - start) / 2:.2f} s a repeat, {peak:.2f} GiB peak memory so far"
    )

    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 50)) @ rng.standard_normal((50, 1000)) + 3 * rng.standard_normal((2000, 1000))
    for bootstrap in (0, 20):
        start = time.perf_counter()
        advise(X, n_bootstrap=bootstrap)
        print(f"advise, 1,000 features, {bootstrap:>2} bootstrap replicates: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
