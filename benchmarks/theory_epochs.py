"""How do the best ratio and R2MAE's gain change with the number of epochs? The exact theory, checked by simulation.

    OMP_NUM_THREADS=1 python benchmarks/theory_epochs.py

Prints the tables of docs/theory-epochs.md and draws its figure.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r2mae_theory import Uniform, covariance, equivalent_ratio, optimal_range, optimal_ratio, predict_risk, risk_curve
from r2mae_theory import simulate_risk as simulate

EPOCHS = (1, 2, 3, 5, 10, 20, 50, 100, 1000, math.inf)
SIGMA, P = 0.5, 400
GAMMAS = (0.25, 1.0, 4.0)
RANGE = (0.2, 0.7)
CHECKED = ((4.0, 0.3, 2), (4.0, RANGE, 5), (1.0, 0.3, 5), (4.0, 0.3, math.inf), (1.0, RANGE, math.inf))


def settings():
    beta, latent = covariance.beta_spectrum(P, seed=2), covariance.latent_space(P, P, seed=2)
    spiked = covariance.spiked(P, 20.0, seed=2)
    return {
        "spiked (λ = 20), along the spike": (spiked, spiked.directions[:, 0]),
        "Beta(1, 10), top eigenvector": (beta, beta.eigenvectors[:, -1]),
        "latent, top eigenvector": (latent, latent.eigenvectors[:, -1]),
    }


def name_of(epochs):
    return "∞" if math.isinf(epochs) else f"{epochs}"


def best_ratios():
    """Return (setting, γ) → [(best ratio, risk/null), …] over EPOCHS."""
    found = {}
    for name, (cov, beta) in settings().items():
        for gamma in GAMMAS:
            row = []
            for epochs in EPOCHS:
                best = optimal_ratio(cov, beta, SIGMA, P / gamma, method="spectral", epochs=epochs)
                row.append((best.mask.ratio, best.normalized))
            found[name, gamma] = row
    return found


def print_best(found):
    print("| eigenvalues, β | p/n | " + " | ".join(f"E = {name_of(e)}" for e in EPOCHS) + " |")
    print("| --- | --- |" + " --- |" * len(EPOCHS))
    for (name, gamma), row in found.items():
        print(f"| {name} | {gamma:g} | " + " | ".join(f"{ratio:.2f} ({risk:.3f})" for ratio, risk in row) + " |")


def range_against_equals():
    """Return rows: setting, γ, E, and by how many % R2MAE's risk is above its equivalent and the best fixed ratio."""
    low, high = RANGE
    twin, rows = equivalent_ratio((low, high)), []
    for name, (cov, beta) in settings().items():
        for gamma in GAMMAS:
            for epochs in EPOCHS:
                masks = [Uniform(low, high), twin]
                ours, same = risk_curve(cov, beta, SIGMA, P / gamma, masks, "spectral", epochs).normalized[:, 0]
                best = optimal_ratio(cov, beta, SIGMA, P / gamma, method="spectral", epochs=epochs).normalized
                rows.append((name, gamma, epochs, *(100 * (ours / other - 1) for other in (same, best))))
    return rows


def print_range(rows):
    print(
        f"\nU{RANGE}, equivalent ratio {equivalent_ratio(RANGE):.3f}, midpoint {sum(RANGE) / 2:g}; % of its risk above"
    )
    print("| eigenvalues, β | p/n | against | " + " | ".join(f"E = {name_of(e)}" for e in EPOCHS) + " |")
    print("| --- | --- | --- |" + " --- |" * len(EPOCHS))
    for name in settings():
        for gamma in GAMMAS:
            part = [row for row in rows if row[:2] == (name, gamma)]
            for k, what in ((3, "its equivalent"), (4, "the best fixed ratio")):
                print(f"| {name} | {gamma:g} | {what} | " + " | ".join(f"{row[k]:+.1f}" for row in part) + " |")


def best_ranges():
    """Return (setting, γ, E, range, % of the best range below the best fixed ratio)."""
    rows = []
    for name, (cov, beta) in settings().items():
        for gamma in GAMMAS:
            for epochs in (1, 2, 5, 20, 100):
                fixed = optimal_ratio(cov, beta, SIGMA, P / gamma, method="spectral", epochs=epochs)
                ranged = optimal_range(cov, beta, SIGMA, P / gamma, method="spectral", epochs=epochs)
                rows.append((name, gamma, epochs, ranged.mask, 100 * (ranged.normalized / fixed.normalized - 1)))
    return rows


def checks(n_repeats):
    """Print simulations beside the theory at p = 400."""
    print("\n| eigenvalues, β | p/n | masks | E | theory | simulation |\n| --- | --- | --- | --- | --- | --- |")
    for name, (cov, beta) in settings().items():
        for gamma, mask, epochs in CHECKED:
            n = round(P / gamma)
            predicted = predict_risk(cov, beta, SIGMA, n, mask, epochs=epochs).normalized
            got = simulate(cov, beta, SIGMA, n, mask, n_repeats, seed=1, epochs=epochs)
            shown = f"{mask}" if isinstance(mask, float) else f"U{mask}"
            measured = f"{got.normalized:.4f} ± {got.sem / got.null:.4f}"
            print(f"| {name} | {gamma:g} | {shown} | {name_of(epochs)} | {predicted:.4f} | {measured} |")


def figure(best, rows, path):
    drawing = Figure(figsize=(13, 4.3), layout="constrained")
    FigureCanvasAgg(drawing)
    left, middle, right = drawing.subplots(1, 3)
    x = [1e4 if math.isinf(e) else e for e in EPOCHS]
    ticks = [1, 2, 5, 10, 100, 1000, 1e4]
    names = ["1", "2", "5", "10", "100", "1000", "∞"]
    styles = dict(zip(GAMMAS, (":", "--", "-"), strict=True))
    colors = dict(zip(settings(), ("C3", "C0", "C2"), strict=True))
    for (name, gamma), row in best.items():
        label = f"{name.rpartition(',')[0]}, p/n = {gamma:g}"
        left.plot(x, [r for r, _ in row], styles[gamma], color=colors[name], marker=".", ms=4, label=label)
    left.set(xscale="log", xlabel="epochs", ylabel="best fixed ratio", ylim=(0, None))
    left.set_title("the best ratio falls, then jumps over the threshold", fontsize=10)
    left.legend(fontsize=6, frameon=False)
    for name in settings():
        for gamma in GAMMAS:
            part = [row for row in rows if row[:2] == (name, gamma)]
            middle.plot(x[:-1], [row[3] for row in part[:-1]], styles[gamma], color=colors[name], marker=".", ms=4)
    middle.plot(x[1:-1], [30 / e for e in x[1:-1]], color="0.6", lw=1)
    middle.text(300, 0.14, "∝ 1/E", color="0.4")
    middle.set(xscale="log", xlabel="epochs", ylabel="% above ONE fixed ratio, the equivalent one")
    middle.set_yscale("log")
    middle.set_title(f"R2MAE, U{RANGE}, becomes one fixed ratio", fontsize=10)
    cov, beta = settings()["Beta(1, 10), top eigenvector"]
    grid = np.round(np.arange(0.02, 0.981, 0.02), 2)
    for epochs, color in ((1, "C0"), (2, "C1"), (5, "C2"), (20, "C4"), (math.inf, "C3")):
        curve = risk_curve(cov, beta, SIGMA, P / 4.0, list(grid), "spectral", epochs).normalized[:, 0]
        right.plot(grid, curve, color=color, lw=1.4, label=f"E = {name_of(epochs)}")
    right.axhline(1, color="0.5", lw=0.8, ls="--")
    right.set(xlabel="mask ratio", ylabel="risk / null risk", ylim=(0, 1.8))
    right.set_title("Beta(1, 10), top eigenvector, p/n = 4", fontsize=10)
    right.legend(fontsize=7, frameon=False)
    for axes in (left, middle):
        axes.set_xticks(ticks, names)
        axes.minorticks_off()
    drawing.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="training sets per simulated risk")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    best, rows = best_ratios(), range_against_equals()
    print_best(best)
    print_range(rows)
    print("\nbest range of all against the best fixed ratio")
    for name, gamma, epochs, mask, gap in best_ranges():
        if gap < -0.005:
            print(f"{name}, p/n = {gamma:g}, E = {epochs}: U({mask.low:.3f}, {mask.high:.3f}) {gap:+.2f} %")
    checks(options.repeats)
    figure(best, rows, options.out / "theory-epochs.png")


if __name__ == "__main__":
    main()
