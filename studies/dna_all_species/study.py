"""Reference alone against all species as targets, fixed 15 % against R2MAE: the bundled vertebrates.

Run: `python -m studies.dna_all_species OUT` (resumes; `results.json` beside this file is what it wrote). Mouse chr10,
103.7 kb, 28 other species: all of the alignment but the rat, whose letters the second evaluation needs. Two layers, 192
wide, 200 steps of 32 windows, lr 3e-3; the last 22.8 kb are held out. Measured there:

- the loss of the mouse's bases with 5, 15 and 30 % hidden and the species' letters shown;
- the demo's evaluation: at the sites where the rat differs from the mouse, is its letter likelier than the two others?
- the processor's time of a training against that of fixed 15 % on the reference.

With `--fungi MAF` the same on 13 genomes of *Zymoseptoria* (Debian's package maffilter-examples 1.3.1+dfsg-4, CeCILL:
`Ztritici/tba_refIPO323.maf.gz`): chromosome 5 of IPO323, the last 360 kb held out; its result is `fungi.json`. There
are no changes of a hidden species to judge by, so losses and time alone.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from r2mae_core import Record, one_thread, read_json, read_records, write_json, write_records, write_text
from r2mae_dna.bundled import RAT_TASK, Bundled, Measure
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.samples import MOUSE, MOUSE_CHROMOSOME, MOUSE_TEST, RAT, VERTEBRATES, changes_of_rat, sample_path
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import prepare
from r2mae_dna.options import Prepare, Pretrain
from r2mae_dna.pretrain import pretrain
from r2mae_dna.scorers import FREQUENCIES

RATIOS = (0.05, 0.15, 0.3)
ROWS: dict[str, dict[str, str]] = {
    "fixed 0.15, reference": {"mask_ratio": "fixed"},
    "r2mae, reference": {"mask_ratio": "r2mae"},
    "fixed 0.15, all species": {"mask_ratio": "fixed", "targets": "all"},
    "r2mae, all species": {"mask_ratio": "r2mae", "targets": "all"},
}
LOSSES = tuple(f"loss@{ratio:g}" for ratio in RATIOS)
FUNGUS, FUNGUS_CHROMOSOME = "Ztritici_IPO323", "chr_5"
COLUMNS = (*LOSSES, "pairwise_accuracy", "auroc", "cpu_seconds")


def prepared(home: Path) -> Bundled:
    """Build the alignment without the rat, its windows, and the table of the rat's changes, if they are missing."""
    store, windows, changes = home / "store", home / "windows", home / "rat.tsv"
    if not changes.exists():
        first, last = MOUSE_TEST
        with tempfile.TemporaryDirectory() as scratch:
            build_alignment([sample_path(VERTEBRATES)], Path(scratch) / "all", reference=MOUSE)
            species = AlignmentStore(Path(scratch) / "all").species or ()
            both = Path(scratch) / "both"
            build_alignment([sample_path(VERTEBRATES)], both, reference=MOUSE, species=[RAT])
            others = [name for name in species if name not in (MOUSE, RAT)]
            build_alignment([sample_path(VERTEBRATES)], store, reference=MOUSE, species=others)
            prepare(Prepare(store, out=windows, validation_regions=f"{MOUSE_CHROMOSOME}:{first + 1}-{last}"))
            write_text(changes, changes_of_rat(AlignmentStore(both)))
    return Bundled(store, windows, changes, 128, "cpu", RAT_TASK)


def prepared_fungi(home: Path, maf: Path) -> Path:
    """Build the store of the fungi and cut the windows of chromosome 5, if they are missing."""
    store, windows = home / "store", home / "windows"
    if not windows.exists():
        build_alignment([maf], store, reference=FUNGUS)
        held_out = f"{FUNGUS_CHROMOSOME}:2,500,001-2,860,000"
        prepare(Prepare(store, out=windows, only=FUNGUS_CHROMOSOME, validation_regions=held_out))
    return windows


def trained(data: Path, name: str, seed: int, steps: int, home: Path) -> list[Record]:
    """Pretrain one row with one seed, unless it is there, and return its losses and its time."""
    options = Pretrain(
        data, n_hidden=192, n_layers=2, n_heads=4, dropout=0.0, steps=steps, batch_size=32, lr=3e-3, warmup=0.1,
        max_windows=500, validation_ratios=RATIOS, validate_every=steps, device="cpu", progress=False, seed=seed,
        out=home / "run",
    )  # fmt: skip
    start = time.process_time()
    run = pretrain(replace(options, **ROWS[name]))
    if not (home / "cpu.json").exists():  # a training that was interrupted counts from its resumption
        write_json(home / "cpu.json", {"seconds": time.process_time() - start})
    losses = [replace(record, scheme=name, git=None) for record in run.results() if record.metric in LOSSES]
    seconds = read_json(home / "cpu.json")["seconds"]
    return [*losses, Record("training", "cpu_seconds", seconds, name, seed, steps, split="train")]


def measured(mouse: Bundled, name: str, seed: int, steps: int, home: Path) -> list[Record]:
    """Pretrain one row with one seed, unless it is there, and measure it."""
    records = trained(mouse.data, name, seed, steps, home)
    return [*records[:-1], *mouse.score(str(home / "run"), home, name, seed), records[-1]]


def table(records: Sequence[Record]) -> str:
    """Return the results as Markdown: mean ± standard deviation over the seeds, the time as a ratio to the first."""
    base = statistics.mean(r.value for r in records if r.metric == "cpu_seconds" and r.scheme == next(iter(ROWS)))
    columns = [metric for metric in COLUMNS if any(record.metric == metric for record in records)]
    lines = [f"| training | {' | '.join((*columns[:-1], 'time'))} |", f"|---{'|---' * len(columns)}|"]
    for name in dict.fromkeys(record.scheme for record in records):
        cells = []
        for metric in columns:
            values = [r.value for r in records if r.scheme == name and r.metric == metric]
            if not values:
                cells.append("–")
            elif metric == "cpu_seconds":
                cells.append(f"{statistics.mean(values) / base:.2f}×")
            elif len(values) == 1:
                cells.append(f"{values[0]:.4f}")
            else:
                cells.append(f"{statistics.mean(values):.4f} ±{statistics.stdev(values):.4f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, print the table, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fungi", type=Path, metavar="MAF", help="on this alignment of fungi instead")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    with one_thread():
        work: dict[Path, Measure] = {}
        if arguments.fungi is None:
            mouse = prepared(out)
            work[out / FREQUENCIES] = mouse.floor
            measure_row = partial(measured, mouse)
        else:
            measure_row = partial(trained, prepared_fungi(out, arguments.fungi))
        # Seeds outside, so that a load on the machine falls on all rows alike.
        for seed, name in product(arguments.seeds, ROWS):
            home = out / name.replace(" ", "-").replace(",", "") / str(seed)
            work[home] = partial(measure_row, name, seed, arguments.steps)
        records = list[Record]()
        for home, measure in work.items():
            home.mkdir(parents=True, exist_ok=True)
            if not (home / "records.json").exists():
                write_records(home / "records.json", measure(home))
            found = read_records(home / "records.json")
            shown = ", ".join(f"{record.metric} {record.value:.4f}" for record in found)
            print(f"{found[0].scheme}, seed {found[0].seed}: {shown}", flush=True)
            records += found
    print(table(records))
    write_records(out / "results.json", records)


if __name__ == "__main__":
    main()
