"""Tables 5 and 9 explained: two protocols and a control beside the paper, and where the coupled protocol gains.

    r2mae-theory reproduce table5 --out runs/table5 && r2mae-theory reproduce table9 --out runs/table9
    OMP_NUM_THREADS=1 python benchmarks/theory_coupled.py runs/table5 runs/table9

Prints the tables of docs/theory-r2mae-vs-fixed.md and draws its first figure.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from r2mae_theory import Coupled, Fixed, Uniform, covariance, risk_curve

SCHEMES = {
    "paper": "C7",
    "stated": "C0",
    "coupled": "C3",
    "control": "C1",
}
LABELS = {
    "paper": "paper",
    "stated": "as stated",
    "coupled": "coupled: one number draws the ratio and keeps the row",
    "control": "control: ONE fixed ratio, as many rows",
}
P, N, SIGMA = 400, 100, 0.5


def table_rows(folder):
    """Return the rows of a reproduced table, each a dict."""
    files = sorted(folder.glob("*/rows/*.json"))
    if not files:
        raise SystemExit(f"{folder} holds no rows; run r2mae-theory reproduce first")
    from r2mae_theory.tables import TABLES

    found = []
    for file in files:
        table, (model, seed) = file.parts[-3], file.stem.rsplit("-", 1)
        printed = TABLES[table].printed[model][int(seed)]
        row = dict(zip(("paper best", "paper min", "paper mid", "paper r2mae"), printed, strict=True))
        found.append({"table": table, "model": model, **json.loads(file.read_text()), **row})
    return found


def gaps(rows, name, other):
    """Return by how many per cent a scheme is above the midpoint ("mid") or the best fixed ratio ("min")."""
    ours = f"paper {'r2mae' if name == 'paper' else name}" if name == "paper" else name
    against = f"paper {other}" if name == "paper" else other
    return np.array([100 * (row[ours] / row[against] - 1) for row in rows])


def print_tables(rows):
    print("| table, eigenvalues | | paper | as stated | coupled | control |\n| --- | --- | --- | --- | --- | --- |")
    for table in ("table5", "table9"):
        for model in ("beta", "latent"):
            part = [row for row in rows if (row["table"], row["model"]) == (table, model)]
            for other, what in (("mid", "against the midpoint"), ("min", "against the best fixed ratio")):
                cells = [
                    f"{found.mean():+.1f} ±{found.std(ddof=1):.1f} % ({int((found < 0).sum())}/{len(found)} below)"
                    for found in (gaps(part, name, other) for name in SCHEMES)
                ]
                print(f"| {table}, {model} | {what} | {' | '.join(cells)} |")
    pairs = np.array([[row["coupled - control"], row["sem of the difference"]] for row in rows])
    z = pairs[:, 0] / pairs[:, 1]
    print(
        f"coupled minus control, same rows and noise: mean {100 * pairs[:, 0].mean():+.3f} % of the null risk over "
        f"{len(rows)} rows, z from {z.min():+.1f} to {z.max():+.1f}, mean z {z.mean():+.2f}"
    )


def spectra():
    flat = covariance.uniform_spectrum(P, seed=2)
    beta, latent = covariance.beta_spectrum(P, seed=2), covariance.latent_space(P, P, seed=2)
    spiked = covariance.spiked(P, 20.0, seed=2)
    return {
        "Beta(1, 10), top eigenvector": (beta, beta.eigenvectors[:, -1]),
        "Beta(1, 10), quantile 0.9": (beta, beta.eigenvectors[:, 359]),
        "uniform, top eigenvector": (flat, flat.eigenvectors[:, -1]),
        "latent, top eigenvector": (latent, latent.eigenvectors[:, -1]),
        "spiked 20, along the spike": (spiked, spiked.directions[:, 0]),
    }


def theory_curves(half_widths, gammas):
    """Return (spectrum, γ, half-width) → (midpoints, % of coupled above the best fixed ratio, of stated above it)."""
    found = {}
    grid = np.round(np.arange(0.01, 0.991, 0.01), 2)
    for name, (cov, beta) in spectra().items():
        for gamma in gammas:
            n = P / gamma
            fixed = risk_curve(cov, beta, SIGMA, n, [Fixed(r) for r in grid], "spectral").normalized[:, 0].min()
            for half in half_widths:
                middles = np.array([m for m in grid if half < m < 1 - half])
                for protocol in (Coupled, Uniform):
                    masks = [protocol(float(m - half), float(m + half)) for m in middles]
                    risks = risk_curve(cov, beta, SIGMA, n, masks, "spectral").normalized[:, 0]
                    found[name, gamma, half, protocol.__name__] = middles, 100 * (risks / fixed - 1), grid
    return found


def print_curves(curves, half_widths, gammas):
    print("\n| eigenvalues, β | γ | " + " | ".join(f"half-width {half}" for half in half_widths) + " |")
    print("| --- | --- |" + " --- |" * len(half_widths))
    for name in spectra():
        for gamma in gammas:
            cells = []
            for half in half_widths:
                middles, gap, _ = curves[name, gamma, half, "Coupled"]
                below = middles[gap < 0]
                ends = f"midpoints {below.min():.2f} to {below.max():.2f}" if len(below) else "never"
                cells.append(f"{gap.min():+.1f} % ({ends})" if len(below) else f"never (least {gap.min():+.1f} %)")
            print(f"| {name} | {gamma:g} | {' | '.join(cells)} |")
    stated = {key: curve[1].min() for key, curve in curves.items() if key[3] == "Uniform"}
    print(f"as stated: the least of all these curves is {min(stated.values()):+.2f} % above the best fixed ratio")


def figure(rows, curves, path):
    drawing = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(drawing)
    left, middle, right = drawing.subplots(1, 3)
    groups = [("table5", "beta"), ("table5", "latent"), ("table9", "beta"), ("table9", "latent")]
    for axes, other, what in ((left, "mid", "the midpoint of its range"), (middle, "min", "the best fixed ratio")):
        for k, (name, color) in enumerate(SCHEMES.items()):
            for g, (table, model) in enumerate(groups):
                part = gaps([row for row in rows if (row["table"], row["model"]) == (table, model)], name, other)
                x = g + 0.18 * (k - 1.5)
                axes.plot(np.full(len(part), x), part, ".", ms=4, color=color, alpha=0.45)
                axes.plot(
                    [x - 0.07, x + 0.07], [part.mean()] * 2, color=color, lw=2.5, label=None if g else LABELS[name]
                )
        axes.axhline(0, color="0.5", lw=0.8, ls="--")
        axes.set_xticks(range(4), [f"{table.replace('table', 'table ')}\n{model}" for table, model in groups])
        axes.set_ylabel(f"% above {what}")
        axes.set_title(f"R2MAE against {what}", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=8, frameon=False)
    for half, style in ((0.02, ":"), (0.05, "-"), (0.15, "--")):
        for protocol, color in (("Coupled", "C3"), ("Uniform", "C0")):
            middles, gap, _ = curves["Beta(1, 10), top eigenvector", 4.0, half, protocol]
            label = f"{'coupled' if protocol == 'Coupled' else 'as stated'}, ±{half:g}"
            right.plot(middles, gap, style, color=color, lw=1.3, label=label)
    right.axhline(0, color="0.5", lw=0.8, ls="--")
    right.set(xlabel="midpoint of the range", ylabel="% above the best fixed ratio", xlim=(0.2, 0.95), ylim=(-12, 20))
    right.set_title("theory: Beta(1, 10), top eigenvector, p/n = 4", fontsize=10)
    right.legend(fontsize=7, frameon=False)
    drawing.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, nargs=2, help="run folders of reproduce table5 and table9")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    rows = [row for folder in options.tables for row in table_rows(folder)]
    print_tables(rows)
    half_widths, gammas = (0.02, 0.05, 0.15), (0.4, 2.0, 4.0)
    curves = theory_curves(half_widths, gammas)
    print_curves(curves, half_widths, gammas)
    figure(rows, curves, options.out / "theory-coupled.png")


if __name__ == "__main__":
    main()
