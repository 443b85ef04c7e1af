"""How far a finite simulation is from the asymptotic prediction, at p = 300 and p = 1200.

OMP_NUM_THREADS=1 python benchmarks/theory_accuracy.py
"""

import argparse

import numpy as np

from r2mae_theory import covariance, predict_risk, simulate_risk

MODELS = {
    "isotropic": covariance.isotropic,
    "spiked": lambda p: covariance.spiked(p, 20, seed=1),
    "uniform": lambda p: covariance.uniform_spectrum(p, seed=1),
    "beta": lambda p: covariance.beta_spectrum(p, seed=1),
    "block": lambda p: covariance.block(p, p // 10, 10.0, seed=1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for p, repeats in ((300, 60), (1200, 12)):
        models, rng, rows = {name: make(p) for name, make in MODELS.items()}, np.random.default_rng(options.seed), []
        for _ in range(options.settings):
            name = str(rng.choice(list(models)))
            low = rng.uniform(0.1, 0.8)
            high = min(low + rng.choice([0.0, 0.1, 0.3]), 0.9)
            gamma = float(rng.choice([0.15, 0.3, 0.6, 1.5, 3.0]))
            if 0.75 < gamma / ((low + high) / 2) < 1.35:
                gamma *= 2
            cov, sigma, n = models[name], rng.uniform(0.1, 1.5), round(p / gamma)
            beta = cov.eigenvectors[:, int(rng.choice([0, p // 2, int(0.9 * p), p - 1]))].copy()
            predicted = predict_risk(cov, beta, sigma, n, (low, high)).total
            measured = simulate_risk(cov, beta, sigma, n, (low, high), repeats, 11)
            gap, error = measured.mean / predicted - 1, measured.sem / predicted
            rows.append((gap, error, name, round(low, 3), round(high, 3), gamma, round(sigma, 2)))
        gaps = np.array([row[0] for row in rows])
        print(f"p = {p}, {len(rows)} settings, {repeats} repeats: mean {100 * gaps.mean():+.2f} %", end=", ")
        print(f"mean absolute {100 * np.abs(gaps).mean():.2f} %", end=", ")
        worst = max(rows, key=lambda row: abs(row[0]))
        print(f"worst {100 * worst[0]:+.1f} % ± {100 * worst[1]:.1f} %", end=" ")
        print(f"at {worst[2:]} (model, low, high, gamma, sigma)", flush=True)


if __name__ == "__main__":
    main()
