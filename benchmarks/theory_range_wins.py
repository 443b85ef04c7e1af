"""A strong spike, a small optimum: a range of ratios below the best fixed ratio, by theory and by simulation.

OMP_NUM_THREADS=1 python benchmarks/theory_range_wins.py
"""

import argparse

import numpy as np

from r2mae_theory import covariance, risk_curve, simulate_risk


def best(p, strength, gamma, sigma):
    """Best fixed ratio and best range around it, β along a spike in the all-ones direction (exact spectral path)."""
    cov = covariance.spiked(p, strength, np.ones(p))
    beta, n = cov.directions[:, 0] / np.sqrt(1 + strength), p / gamma  # null risk 1
    ratios = np.geomspace(0.001, 0.95, 500)
    for _ in range(2):
        risks = risk_curve(cov, beta, sigma, n, ratios.tolist()).total[:, 0]
        centre, least = ratios[risks.argmin()], risks.min()
        ratios = np.linspace(0.97 * centre, min(1.03 * centre, 0.99), 201)
    ranges = [
        (max(centre * (middle - half), 1e-5), centre * (middle + half))
        for middle in np.arange(0.7, 1.35, 0.1)
        for half in np.arange(0.1, 1.01, 0.1)
        if middle >= half and centre * (middle + half) < 0.99
    ]
    ranged = risk_curve(cov, beta, sigma, n, ranges).total[:, 0]
    return cov, beta, n, float(centre), float(least), tuple(map(float, ranges[ranged.argmin()])), float(ranged.min())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=6000)
    options = parser.parse_args()
    print(
        "theory, p = 1e5: least margin of a range at least 0.1 of the best ratio wide, over gamma 0.05-3, sigma 0.03-1"
    )
    for strength in (1, 2, 5, 10, 20, 50, 100, 500):
        rows = []
        for gamma in (0.05, 0.15, 0.5, 1.0, 3.0):
            for sigma in (0.03, 0.1, 0.3, 0.6, 1.0):
                *_, centre, least, pair, ranged = best(100_000, strength, gamma, sigma)
                if centre > 0.005:
                    rows.append((ranged / least - 1, gamma, sigma, centre, *pair))
        won = sum(row[0] < -1e-6 for row in rows)
        least = min(rows)
        print(
            f"  strength {strength:>4}: {won:>2} of {len(rows)} settings below; least {100 * least[0]:+.2f} % at",
            end=" ",
        )
        print("gamma {:g}, sigma {:g}: best fixed {:.4f}, range U({:.4f}, {:.4f})".format(*least[1:]), flush=True)
    for strength, gamma, sigma in ((100, 1.0, 0.6), (20, 0.5, 0.6)):
        cov, beta, n, centre, least, pair, ranged = best(1000, strength, gamma, sigma)
        fixed, mixed = (simulate_risk(cov, beta, sigma, round(n), m, options.repeats, 1) for m in (centre, pair))
        gap = 100 * (mixed.samples.mean() / fixed.samples.mean() - 1)
        error = 100 * (mixed.samples - fixed.samples).std() / np.sqrt(options.repeats) / fixed.mean
        where = f"best fixed {centre:.4f}, U({pair[0]:.4f}, {pair[1]:.4f})"
        print(f"p = 1000, strength {strength}, gamma {gamma}, sigma {sigma}, {where}:")
        print(f"  theory {least:.5f} fixed, {ranged:.5f} range ({100 * (ranged / least - 1):+.2f} %)")
        print(f"  simulation {fixed.mean:.5f} ± {fixed.sem:.5f}, {mixed.mean:.5f} ± {mixed.sem:.5f}", end=" ")
        print(f"({gap:+.2f} ± {error:.2f} %)")


if __name__ == "__main__":
    main()
