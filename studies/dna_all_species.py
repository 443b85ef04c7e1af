"""Reference alone against all species as targets, fixed 15 % against R2MAE: the bundled 30 vertebrates.

Run: `python -m studies.dna_all_species OUT --steps 300` (resumes; about 80 seconds of a CPU core for each of 18
trainings). Two layers, 192 wide, 32 windows a step, lr 3e-3, three seeds; the last 22.8 kb of mouse chr10's 103.7 kb
held out. It prints, as mean ± standard deviation over the seeds, the loss of the reference's bases on held-out windows
with 5, 15 and 30 % hidden and the species' letters shown, and the CPU time of a training against fixed 15 % on the
reference.
"""

import argparse
import statistics
import time
from itertools import product
from pathlib import Path

from r2mae_core import one_thread, read_json, write_json
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.samples import VERTEBRATES, sample_path
from r2mae_dna.data.windows import prepare
from r2mae_dna.options import Prepare, Pretrain
from r2mae_dna.pretrain import pretrain

SEEDS = (0, 1, 2)
RATIOS = (0.05, 0.15, 0.3)
ALL = {"targets": "all"}
ROWS: dict[str, dict[str, str]] = {
    "fixed 0.15, reference": {"mask_ratio": "fixed"},
    "r2mae, reference": {"mask_ratio": "r2mae"},
    "fixed 0.15, all by letters": {"mask_ratio": "fixed", **ALL},
    "r2mae, all by letters": {"mask_ratio": "r2mae", **ALL},
    "r2mae, all by columns": {"mask_ratio": "r2mae", **ALL, "mask_over": "columns"},
    "r2mae, all by rows": {"mask_ratio": "r2mae", **ALL, "mask_over": "rows"},
}
MAIN = list(ROWS)[:4]
"""Done first: two schemes by two objectives."""


def recipe(data: Path, steps: int) -> Pretrain:
    """Return the training that all rows share."""
    return Pretrain(
        data, n_hidden=192, n_layers=2, n_heads=4, dropout=0.0, steps=steps, batch_size=32, lr=3e-3, warmup=0.1,
        max_windows=500, validation_ratios=RATIOS, validate_every=steps, device="cpu", progress=False,
    )  # fmt: skip


def table(found: dict[str, list[tuple[list[float], float]]]) -> str:
    """Return the results as Markdown."""
    lines = ["| training | loss@0.05 | loss@0.15 | loss@0.3 | time |", "|---|---|---|---|---|"]
    first = statistics.mean(seconds for _, seconds in next(iter(found.values())))
    for name, runs in found.items():
        losses = zip(*(values for values, _ in runs), strict=True)
        cells = [f"{statistics.mean(values):.4f} ±{statistics.stdev(values):.4f}" for values in losses]
        seconds = statistics.mean(seconds for _, seconds in runs)
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds / first:.2f}× |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    out: Path = arguments.out
    if not (out / "windows").exists():
        build_alignment([sample_path(VERTEBRATES)], out / "store", reference="mm9")
        prepare(Prepare(out / "store", out=out / "windows", validation_regions="chr10:3,215,001-3,237,798"))
    found: dict[str, list[tuple[list[float], float]]] = {name: [] for name in ROWS}
    with one_thread():
        for names in (MAIN, [name for name in ROWS if name not in MAIN]):
            # Seeds outside, so that a load on the machine falls on all rows alike.
            for seed, name in product(SEEDS, names):
                changes = ROWS[name]
                home = out / name.replace(" ", "-").replace(",", "") / str(seed)
                options = {**vars(recipe(out / "windows", arguments.steps)), **changes, "seed": seed, "out": home}
                start = time.process_time()
                losses = {record.metric: record.value for record in pretrain(Pretrain(**options)).results()}
                if not (home / "cpu.json").exists():  # a training that was interrupted counts from its resumption
                    write_json(home / "cpu.json", {"seconds": time.process_time() - start})
                seconds = read_json(home / "cpu.json")["seconds"]
                values = [losses[f"loss@{ratio:g}"] for ratio in RATIOS]
                found[name].append((values, seconds))
                print(f"{name}, seed {seed}: {values}, {seconds:.0f} s", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
