"""What shuffling in blocks does to a model, against an exact shuffle: a simulated atlas sorted by donor and cell type.

Run: `python -m studies.singlecell_shuffling OUT` (resumes; `results.json` beside this file is what it wrote). 8,000
cells of 40 donors, 600 genes, in the order that is hardest for blocks: all cells of a donor's cell type are neighbours.
R2MAE, 128/64 wide, batches of 128, 20 epochs. How well blocks mix depends on the number of places of the file that a
pool comes from: 256 by default, whatever the size of the file. The rows keep that number, or lower it. Measured:

- the masked loss (negative log-likelihood of each count) of the tenth of the cells that is held out, with 10, 25 and
  50 % of the genes hidden, the same masks for all;
- probes of cell type, disease and age for donors that the probe has not seen, three divisions.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import Record, one_thread, read_records, write_records

N_CELLS, N_GENES, EPOCHS, BATCH = 8000, 600, 20, 128
ROWS: dict[str, dict[str, Any]] = {
    "exact": {"shuffle": "exact"},
    "blocks, 256 places": {"shuffle": "blocks", "chunk": 8, "pool": 2048},
    "blocks, 16 places": {"shuffle": "blocks", "chunk": 128, "pool": 2048},
    "blocks, 1 place": {"shuffle": "blocks", "chunk": 512, "pool": 512},
}
RATIOS = (0.1, 0.25, 0.5)
PROBES = {"cell_type": "balanced_accuracy", "disease": "balanced_accuracy", "age": "spearman_cell"}
COLUMNS = (*(f"loss@{ratio:g}" for ratio in RATIOS), *(f"{task} {metric}" for task, metric in PROBES.items()))


def sorted_atlas(n_cells: int) -> Any:
    """Return a simulated atlas with counts in X, its cells sorted by donor and cell type."""
    from r2mae_singlecell import Simulation, simulate_atlas
    from r2mae_singlecell.data.presets import PRESETS

    cells = simulate_atlas(Simulation(n_cells=n_cells, n_genes=N_GENES))
    cells.obs = PRESETS["hlca"].standard_obs(cells.obs)
    cells.X, cells.raw = cells.raw.X.astype(np.float32), None
    return cells[np.lexsort((cells.obs["cell_type"].astype(str), cells.obs["donor"].astype(str)))].copy()


def measured(cells: Any, name: str, seed: int, epochs: int) -> list[Record]:
    """Train one row with one seed, and measure it."""
    import scvi

    from r2mae_singlecell import R2MAE
    from r2mae_singlecell.divisions import TASKS, Protocol
    from r2mae_singlecell.probing import probe_embedding

    scvi.settings.seed, scvi.settings.verbosity = seed, 30
    R2MAE.setup_anndata(cells, batch_key="batch")
    model = R2MAE(cells, n_hidden=128, n_latent=64)
    start = time.process_time()
    model.train(
        epochs, batch_size=BATCH, train_size=0.9, datasplitter_kwargs=ROWS[name], accelerator="cpu",
        enable_progress_bar=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    held_out = model.validation_indices.tolist()
    losses = [
        Record("loss", f"loss@{ratio:g}", float(nll.mean()), name, seed, len(nll), "held-out cells", seconds)
        for ratio in RATIOS
        for nll in [model.get_masked_nll(indices=held_out, mask_ratio=ratio)]
    ]
    embedding = model.get_latent_representation()
    return (
        losses
        + probe_embedding(embedding, cells.obs, TASKS["hlca"], Protocol(n_splits=3), scheme=name, seed=seed).records
    )


def by_seed(records: Sequence[Record], row: str) -> dict[str, list[float]]:
    """Return the column's values, one of each seed; a probe's is the mean over its divisions."""
    mine = [record for record in records if record.scheme == row]
    found = dict[str, list[float]]()
    for column, seed in product(COLUMNS, sorted({record.seed for record in mine})):
        values = [
            record.value
            for record in mine
            if record.seed == seed and column in (record.metric, f"{record.task} {record.metric}")
        ]
        found.setdefault(column, []).append(statistics.mean(values))
    return found


def table(records: Sequence[Record]) -> str:
    """Return Markdown: mean ± standard deviation over the seeds; of blocks, of the difference to exact of each seed."""
    base = by_seed(records, "exact")
    lines = [f"| shuffle | {' | '.join(column.replace('_', ' ') for column in COLUMNS)} |", f"|---{'|---' * 6}|"]
    for row in ROWS:
        values = by_seed(records, row)
        sign = "" if row == "exact" else "+"
        if row != "exact":
            values = {c: [a - b for a, b in zip(v, base[c], strict=True)] for c, v in values.items()}
        cells = [
            f"{statistics.mean(v):{sign}.4f}" + (f" ±{statistics.stdev(v):.4f}" if len(v) > 1 else "")
            for v in values.values()
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, print the table, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cells", type=int, default=N_CELLS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = list[Record]()
    with one_thread():
        cells = sorted_atlas(arguments.cells)
        for seed, name in product(
            arguments.seeds, ROWS
        ):  # seeds outside: a load on the machine falls on all rows alike
            file = arguments.out / f"{name.replace(',', '').replace(' ', '-')}-{seed}.json"
            if not file.exists():
                write_records(file, measured(cells, name, seed, arguments.epochs))
            found = read_records(file)
            print(f"{name}, seed {seed}: {found[0].metric} {found[0].value:.4f}", flush=True)
            records += found
    print(table(records))
    write_records(arguments.out / "results.json", records)


if __name__ == "__main__":
    main()
