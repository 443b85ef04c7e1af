"""When can a range of ratios beat the best fixed ratio? A search with the exact theory, and its figure.

    OMP_NUM_THREADS=1 python benchmarks/theory_range_search.py

Settings are drawn on the spectral path (diag(Σ) ∝ I), where one evaluation costs microseconds. There the risk is
Σ_k c_k²·ρ(λ_k) + σ²·v for β = Σ_k c_k u_k, so the average over several targets, each divided by any constant, is
the risk of one β that mixes them: a search over mixtures is a search over collections of targets as well.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r2mae_theory import Fixed, Uniform, risk_curve
from r2mae_theory.covariance import DenseCovariance

P = 200
FIXED = [Fixed(float(r)) for r in np.round(np.linspace(0.005, 0.995, 199), 6)]


class Diagonal(DenseCovariance):
    """Only a spectrum: the spectral path needs nothing else, and the eigenvectors can be the axes."""

    def __init__(self, values):
        self.p = len(values)
        self._matrix = np.diag(values)
        self.__dict__["_eigh"] = (values, np.eye(len(values)))


def draw(rng):
    """One random setting: spectrum, β over eigenvectors, γ on both sides of 1, noise."""
    kind = rng.choice(["spikes", "power", "uniform", "two levels"])
    values = np.ones(P)
    if kind == "spikes":
        values[: rng.integers(1, 6)] += 10 ** rng.uniform(0, 3)
    elif kind == "power":
        values = np.arange(1, P + 1) ** -rng.uniform(0.2, 2.5)
    elif kind == "uniform":
        values = rng.uniform(0.01, 1, P) * 10 ** rng.uniform(0, 2)
    else:
        values[: rng.integers(1, P)] = 10 ** rng.uniform(0, 3)
    values = np.sort(values)
    power = rng.exponential(size=P) * rng.choice([0, 1], P, p=[0.8, 0.2]) * values ** rng.uniform(-1, 1)
    power[rng.integers(P)] += power.sum() * rng.uniform(0, 2)  # some settings are nearly one eigenvector
    power[-1] += power.sum() * rng.choice([0, 1]) * rng.uniform(0, 5)
    power /= power @ values
    return Setting(values, np.sqrt(power), 10 ** rng.uniform(-1.3, 1.3), 10 ** rng.uniform(-2, 0.5))


class Setting:
    """A spectrum, β in its basis with null risk 1, γ = p/n and σ."""

    def __init__(self, values, beta, gamma, sigma):
        self.cov, self.beta, self.gamma, self.sigma = Diagonal(values), beta, gamma, sigma

    def risks(self, masks):
        total = risk_curve(self.cov, self.beta, self.sigma, P / self.gamma, masks, "spectral").total[:, 0]
        return np.where(np.isfinite(total), total, np.inf)

    def best_fixed(self):
        """The best fixed ratio to 1e-6: the grid of 199 refined twice around its minimum."""
        ratios = np.array([m.ratio for m in FIXED])
        step = 0.005
        for _ in range(3):
            risks = self.risks([Fixed(float(r)) for r in ratios])
            k = int(np.argmin(risks))
            centre, best = float(ratios[k]), float(risks[k])
            ratios = np.clip(np.linspace(centre - step, centre + step, 41), 1e-4, 1 - 1e-4)
            step /= 20
        return centre, best

    def margins(self, ranges):
        """(range − best fixed)/best fixed and (range − its midpoint)/midpoint, each of shape (len(ranges),)."""
        centre, best = self.best_fixed()
        ranged = self.risks([Uniform(*pair) for pair in ranges])
        middles = self.risks([Fixed((lo + hi) / 2) for lo, hi in ranges])
        return ranged / best - 1, ranged / middles - 1, centre, best


def random_search(count, rng):
    """Random settings, each with random ranges and with narrow and wide ranges around its own best ratio."""
    rows = []
    for _ in range(count):
        setting = draw(rng)
        centre, _ = setting.best_fixed()
        room = min(centre, 1 - centre) * 0.999
        ranges = [(centre - h * room, centre + h * room) for h in (0.02, 0.1, 0.3, 0.6)]
        while len(ranges) < 10:
            lo, hi = np.sort(rng.uniform(0.01, 0.98, 2))
            if hi - lo > 0.02:
                ranges.append((float(lo), float(hi)))
        above_best, above_middle, centre, best = setting.margins(ranges)
        for k, (lo, hi) in enumerate(ranges):
            if not np.isfinite(above_best[k]):
                continue
            rows.append((lo, hi, setting.gamma, setting.sigma, centre, best, above_best[k], above_middle[k], k < 4))
    return np.array(rows, float)


def targets_with_different_optima():
    """The "universal representation" case: a strong and a weak direction, averaged, over the strong one's weight."""
    values = np.sort(np.concatenate([np.ones(P - 2), [6.0, 60.0]]))
    rows = []
    for weight in np.linspace(0, 1, 21):
        beta = np.zeros(P)
        beta[-2], beta[-1] = np.sqrt((1 - weight) / 6), np.sqrt(weight / 60)
        setting = Setting(values, beta, 2.0, 0.3)
        ratio, fixed = setting.best_fixed()
        half = np.linspace(0.01, 0.45, 45)
        pairs = [(m - h, m + h) for h in half for m in np.arange(0.05, 0.95, 0.02) if m - h > 0.005 and m + h < 0.99]
        risks = setting.risks([Uniform(*pair) for pair in pairs])
        widths = np.array([hi - lo for lo, hi in pairs])
        best = [float(risks[widths >= w].min() / fixed - 1) for w in (0.019, 0.19, 0.39)]
        rows.append((weight, ratio, fixed, *best))
    return np.array(rows)


def figure(rows, mixture, path):
    drawing = Figure(figsize=(13, 3.9), layout="constrained")
    FigureCanvasAgg(drawing)
    left, middle, right = drawing.subplots(1, 3)
    width = rows[:, 1] - rows[:, 0]
    won = rows[:, 6] < -1e-9
    left.scatter(
        width[~won], 100 * rows[~won, 6], s=2, alpha=0.25, lw=0, color="C0", label="above the best fixed ratio"
    )
    left.scatter(width[won], 100 * rows[won, 6], s=5, lw=0, color="C3", label="below the best fixed ratio")
    left.set(xscale="log", xlabel="width of the range", ylabel="% above the best fixed ratio", xlim=(1e-3, 1))
    left.set_yscale("symlog", linthresh=0.01)
    left.legend(fontsize=7, frameon=False)
    left.set_title(f"range against best fixed ratio: {won.sum()} of {len(rows)} below", fontsize=10)
    below = rows[:, 7] < 0
    middle.scatter(
        rows[~below, 2], 100 * rows[~below, 7], s=2, alpha=0.25, lw=0, color="C0", label="above its midpoint"
    )
    middle.scatter(rows[below, 2], 100 * rows[below, 7], s=5, lw=0, color="C3", label="below its midpoint")
    middle.set(xscale="log", yscale="symlog", xlabel="γ = p/n", ylabel="% above its midpoint")
    middle.set_title(f"range against its midpoint: {100 * below.mean():.1f} % below", fontsize=10)
    middle.legend(fontsize=7, frameon=False)
    for k, w in ((3, "0.02"), (4, "0.2"), (5, "0.4")):
        right.plot(mixture[:, 0], 100 * mixture[:, k], label=f"best range, at least {w} wide")
    right.set(xlabel="weight of the strong target", ylabel="% above the best fixed ratio")
    right.axhline(0, color="0.5", lw=0.8, ls="--")
    right.set_ylim(bottom=0)
    twin = right.twinx()
    twin.plot(mixture[:, 0], mixture[:, 1], color="0.6", ls=":")
    twin.set_ylabel("best fixed ratio (dotted)")
    right.set_title("average of a strong and a weak target", fontsize=10)
    right.legend(fontsize=7, frameon=False)
    drawing.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1500, help="random settings, ten ranges each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    start, rng = time.perf_counter(), np.random.default_rng(options.seed)
    rows = random_search(options.count, rng)
    narrow = rows[rows[:, 8] == 1]
    print(f"{options.count} settings, {len(rows)} ranges ({time.perf_counter() - start:.0f} s)")
    print(f"below the best fixed ratio: {(rows[:, 6] < -1e-9).sum()}; least margin {rows[:, 6].min():.3e}")
    won = rows[rows[:, 6] < -1e-9]
    if len(won):
        print(f"  their best fixed ratio: median {np.median(won[:, 4]):.4f}, largest {won[:, 4].max():.4f}")
    print(f"  of these centred on the best ratio: {(narrow[:, 6] < -1e-9).sum()} of {len(narrow)}")
    for name, part in (("all", rows), ("gamma < 0.5", rows[rows[:, 2] < 0.5]), ("gamma > 2", rows[rows[:, 2] > 2])):
        low = (part[:, 7] < 0).mean()
        margin = 100 * np.median(part[:, 7])
        print(f"below its midpoint, {name}: {100 * low:.2f} % of {len(part)}; median margin {margin:.2f} %")
    outcome = {"settings": options.count, "ranges": len(rows), "below best": int((rows[:, 6] < -1e-9).sum())}
    mixture = targets_with_different_optima()
    print("strong and weak target averaged: weight, best fixed ratio, % above it of the best range 0.02/0.2/0.4 wide")
    for row in mixture[::4]:
        print(f"  {row[0]:.1f}  {row[1]:.3f}  {100 * row[3]:.4f}  {100 * row[4]:.3f}  {100 * row[5]:.3f}")
    figure(rows, mixture, options.out / "theory-r2mae-vs-fixed.png")
    print(json.dumps(outcome), f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
