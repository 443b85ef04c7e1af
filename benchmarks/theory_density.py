"""Which density of ratios is best? The exact risk over all densities, where a spread wins, and what it is that wins.

    OMP_NUM_THREADS=1 python benchmarks/theory_density.py

Prints the tables of docs/theory-density.md and draws its figure. The second part asks the question that separates the
ratio from the number of rows: for a *given number of rows* that enter, is one ratio always best?
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from theory_range_search import draw

from r2mae_theory import Thinned, covariance, optimal_density, optimal_family, optimal_range, risk_curve
from r2mae_theory.masks import MaskDistribution

P = 400
GAMMAS = (0.1, 0.3, 1.0, 3.0)
STRENGTHS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
NOISES = (0.3, 0.6)
RATIOS = np.round(np.arange(0.02, 0.99, 0.02), 2)


@dataclass(frozen=True)
class Entering(MaskDistribution):
    """A share of the rows enters, with these ratios, whatever the ratios are."""

    values: tuple[float, ...]
    weights: tuple[float, ...]
    share: float

    def quadrature(self):
        return np.array(self.values), self.share * np.array(self.weights) / sum(self.weights)

    def ratios(self, uniforms):
        raise NotImplementedError

    @property
    def upper(self):
        return max(self.values)


def unit_signal(strength):
    """A spike along β with null risk 1."""
    cov = covariance.spiked(P, strength, seed=0)
    return cov, cov.directions[:, 0] / np.sqrt(1 + strength)


def atoms(found):
    return " + ".join(f"{w:.2f} at {v:.3f}" for v, w in zip(found.mask.values, found.mask.weights, strict=True))


def spectrum_map():
    """Return (λ, γ, σ) → (optimal density, gain of the best range) for spikes along β."""
    found = {}
    for strength in STRENGTHS:
        cov, beta = unit_signal(strength)
        for sigma in NOISES:
            for gamma in GAMMAS:
                best = optimal_density(cov, beta, sigma, P / gamma, "spectral")
                ranged = optimal_range(cov, beta, sigma, P / gamma, method="spectral")
                found[strength, gamma, sigma] = best, 1 - ranged.normalized / best.fixed.normalized
    return found


def print_map(found):
    print("| λ | p/n | σ | best fixed ratio | best range gains | best density gains | its atoms | certificate |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (strength, gamma, sigma), (best, ranged) in found.items():
        print(
            f"| {strength:g} | {gamma:g} | {sigma:g} | {best.fixed.mask.ratio:.3f} | {100 * max(ranged, 0):.1f} % | "
            f"{100 * max(best.gain, 0):.1f} % | {atoms(best)} | {best.certificate:+.0e} |"
        )
    certified = sum(best.is_certified for best, _ in found.values())
    wide = [best for best, _ in found.values() if best.gain > 1e-4]
    print(f"certified: {certified} of {len(found)}; a spread wins in {len(wide)}")
    drop = [best for best in wide if best.mask.values[0] < 0.002 and len(best.mask.values) == 2]
    print(f"of these, {len(drop)} are one ratio and rows that are left out (an atom at 0)")


def others():
    """Print the same for other spectra."""
    beta, latent = covariance.beta_spectrum(P, seed=2), covariance.latent_space(P, P, seed=2)
    flat = covariance.uniform_spectrum(P, seed=2)
    print("\n| eigenvalues, β | p/n | best fixed ratio | best density gains | its atoms | certificate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, cov in (("Beta(1, 10)", beta), ("latent", latent), ("uniform", flat)):
        for quantile in (0.5, 0.9, 1.0):
            vector = cov.eigenvectors[:, round(quantile * (P - 1))]
            for gamma in (0.3, 1.0, 4.0):
                best = optimal_density(cov, vector, 0.5, P / gamma, "spectral")
                print(
                    f"| {name}, quantile {quantile:g} | {gamma:g} | {best.fixed.mask.ratio:.3f} | "
                    f"{100 * max(best.gain, 0):.2f} % | {atoms(best)} | {best.certificate:+.0e} |"
                )


def families():
    print("\n| λ | p/n | σ | uniform | truncated normal | Beta | free density |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for strength, gamma, sigma in ((100.0, 1.0, 0.6), (20.0, 0.3, 0.6)):
        cov, beta = unit_signal(strength)
        setting = (cov, beta, sigma, P / gamma)
        best = optimal_density(*setting, "spectral")
        gains = [optimal_range(*setting, method="spectral").normalized]
        gains += [optimal_family(*setting, name, "spectral").normalized for name in ("truncated normal", "beta")]
        shown = [f"{100 * (1 - gain / best.fixed.normalized):.1f} %" for gain in (*gains, best.normalized)]
        print(f"| {strength:g} | {gamma:g} | {sigma:g} | {' | '.join(shown)} |")


def one_ratio_for_given_rows(count, rng):
    """Return rows: share that enters, best ratio for it, and the least directional derivative with the share held.

    Settings are those of the random search of ranges.
    """
    rows, small = [], 1e-4
    while len(rows) < count:
        setting = draw(rng)
        share = float(rng.uniform(0.02, 1.0))
        n = setting.cov.p / setting.gamma

        def risks(masks, setting=setting, n=n):
            return risk_curve(setting.cov, setting.beta, setting.sigma, n, masks, "spectral").normalized[:, 0]

        fine = np.linspace(0.002, 0.99, 400)
        curve = risks([Thinned(float(r), share) for r in fine])
        if not np.isfinite(curve).any():
            continue
        k = int(np.argmin(curve))
        for _ in range(6):  # zoom into the valley
            low, high = fine[max(k - 1, 0)], fine[min(k + 1, len(fine) - 1)]
            fine = np.linspace(low, high, 41)
            curve = risks([Thinned(float(r), share) for r in fine])
            k = int(np.argmin(curve))
        best, here = float(fine[k]), float(curve[k])
        slopes = {}
        for e in (small, small / 2):
            mixed = risks([Entering((best, float(r)), (1 - e, e), share) for r in RATIOS])
            slopes[e] = (mixed - here) / e
        slope = (2 * slopes[small / 2] - slopes[small]) / here
        rows.append((share, best, float(slope.min()), float(RATIOS[np.argmin(slope)]), setting.gamma, setting.sigma))
    return np.array(rows)


def figure(found, rows, path):
    drawing = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(drawing)
    left, middle, right = drawing.subplots(1, 3)
    gains = np.array([[100 * max(found[s, g, NOISES[1]][0].gain, 0) for g in GAMMAS] for s in STRENGTHS])
    image = left.imshow(gains, cmap="magma_r", aspect="auto", origin="lower")
    left.set_xticks(range(len(GAMMAS)), [f"{g:g}" for g in GAMMAS])
    left.set_yticks(range(len(STRENGTHS)), [f"{s:g}" for s in STRENGTHS])
    left.set(xlabel="p/n", ylabel="strength λ of the spike", title=f"gain of the best density [%], σ = {NOISES[1]:g}")
    for (i, j), value in np.ndenumerate(gains):
        left.text(
            j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color="w" if value > gains.max() / 2 else "k"
        )
    drawing.colorbar(image, ax=left)
    best, _ = found[100.0, 1.0, NOISES[1]]
    cov, beta = unit_signal(100.0)
    n = P / 1.0
    grid = np.linspace(0.002, 0.6, 150)
    fixed = risk_curve(cov, beta, NOISES[1], n, list(grid), "spectral").normalized[:, 0]
    middle.plot(grid, fixed, color="C0", label="fixed ratio r: r·n rows")
    share = best.mask.weights[-1] / sum(best.mask.weights) * best.mask.values[-1]
    held = risk_curve(cov, beta, NOISES[1], n, [Thinned(float(r), share) for r in grid], "spectral").normalized[:, 0]
    middle.plot(grid, held, color="C3", label=f"ratio r, always {share:.3f}·n rows")
    middle.plot([best.mask.values[-1]], [best.normalized], "o", color="C3", label="the best density")
    middle.plot([best.fixed.mask.ratio], [best.fixed.normalized], "o", color="C0", label="the best fixed ratio")
    middle.set(xlabel="mask ratio", ylabel="risk / null risk", ylim=(0, 4 * best.fixed.normalized))
    middle.set_title("λ = 100, p/n = 1, σ = 0.6: fewer rows win, not a spread", fontsize=10)
    middle.legend(fontsize=7, frameon=False)
    right.scatter(rows[:, 1], rows[:, 2], s=6, color="C2", alpha=0.5, lw=0)
    right.axhline(0, color="0.5", lw=0.8, ls="--")
    right.set_yscale("symlog", linthresh=1e-4)
    right.set(xlabel="best ratio for the given number of rows", ylabel="least directional derivative / risk")
    right.set_title(f"given the rows, one ratio is best ({len(rows):,} settings)", fontsize=10)
    drawing.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="random settings of the second part")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    found = spectrum_map()
    print_map(found)
    others()
    families()
    rows = one_ratio_for_given_rows(options.count, np.random.default_rng(0))
    print(
        f"\n{len(rows)} random settings with a given number of rows: the least directional derivative is "
        f"{rows[:, 2].min():+.1e} of the risk; below -1e-3 in {(rows[:, 2] < -1e-3).sum()}; the best ratio is above "
        f"0.005 in {(rows[:, 1] > 0.005).sum()} of them"
    )
    for row in rows[np.argsort(rows[:, 2])[:5]]:
        print("  share, best ratio, derivative, towards, gamma, sigma:", np.round(row, 4))
    figure(found, rows, options.out / "theory-density.png")


if __name__ == "__main__":
    main()
