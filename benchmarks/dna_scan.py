"""Scores of every change of a region: `scan` against the bare network, and `frequencies` in sites per second.

Run: `nox -s "bench(dna)"`. The alignments are the package's bundled ones; with `--positions N`, a made one of 90
species is added, of that length.

- The network's path: `scan` as a user runs it (reading the store, windows, parts, a tabix-indexed TSV) against the bare
  forward passes of the same sites, both strands, with the windows ready in memory.
- Frequencies: the whole command, with a TSV and a bigWig written; by the processor's time and by the clock.

The network's times are the processor's for this process (`time.process_time`, all threads together): others on
the machine do not count. The clock counts them: read its line with the load that is printed beside it.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import best_of_turns, claim, report

from r2mae_dna import AlignmentStore, both_strands, build_alignment, load_model, save_model
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.samples import APES, VERTEBRATES, sample_path
from r2mae_dna.data.store import StoreWriter
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Scan
from r2mae_dna.scan import scan_genome

START, WINDOW, BATCH = 3_150_000, 128, 256


def bench_network(folder, size, hidden, layers, sites, rounds):
    build_alignment([sample_path(VERTEBRATES)], folder / "mm9", reference="mm9")
    store = AlignmentStore(folder / "mm9")
    model = AlignmentModel(ModelConfig.sized(size, store.n_species, n_hidden=hidden, n_layers=layers)).eval()
    save_model(model, folder / "model", store.species)
    model = load_model(folder / "model").model
    block = store.read("chr10", START - WINDOW, START + sites + WINDOW) & TOKEN_BITS
    places = np.flatnonzero(block[WINDOW:-WINDOW, 0]) + WINDOW
    windows = torch.from_numpy(np.stack([block[p - WINDOW // 2 : p + WINDOW // 2] for p in places]))
    shape = f"{model.config.n_layers} layers, {model.config.n_hidden} wide"
    region, count = f"chr10:{START + 1}-{START + sites}", iter(range(1000))
    common = {"regions": region, "device": "cpu", "progress": False, "batch_size": BATCH}

    def ours():
        scan_genome(Scan(str(folder / "model"), folder / "mm9", out=folder / f"scan{next(count)}", **common))

    def bare():
        with torch.inference_mode():
            for part in windows.split(BATCH):
                both_strands(model, part)

    seconds = best_of_turns({"scan": ours, "bare forward": bare}, rounds, clock=time.process_time)
    report(
        f"{len(places):,} sites of 30 species, {shape}, both strands",
        seconds,
        "scan",
    )
    claim("speed of scan as a share of the bare forward's", seconds["bare forward"] / seconds["scan"], 0.95)
    print(f"\nscan: {len(places) / seconds['scan']:,.0f} sites/s")


def bench_frequencies(name, store, regions, rounds):
    with tempfile.TemporaryDirectory() as scratch:
        count, found = iter(range(1000)), []

        def ours():
            options = {"regions": regions, "formats": ("tsv", "worst"), "progress": False}
            found.append(scan_genome(Scan("frequencies", store, out=Path(scratch) / f"f{next(count)}", **options)))

        for clock, what in ((time.process_time, "processor's time"), (time.perf_counter, "clock")):
            seconds = best_of_turns({"scan frequencies": ours}, rounds, clock=clock)["scan frequencies"]
            speed, load = found[0].sites / seconds, os.getloadavg()[0]
            print(f"\nfrequencies, {name}: {found[0].sites:,} sites in {seconds:.2f} s by the {what} (load {load:.1f})")
            claim(f"frequencies, {name}: sites per second by the {what} over 100,000", speed / 100_000, 1)


def made_store(path, positions, n_species=90):
    """A store of made letters: each species has the reference's in seven of ten places."""
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 5, (positions, 1), np.uint8).repeat(n_species, 1)
    for start in range(0, positions, 1 << 20):
        part = codes[start : start + (1 << 20), 1:]
        part[rng.random(part.shape, np.float32) < 0.3] = 0
    writer = StoreWriter(path, [f"s{i}" for i in range(n_species)])
    writer.write("chr22", codes)
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", help="network: tiny, small or base")
    parser.add_argument("--hidden", type=int, help="width, instead of the network's")
    parser.add_argument("--layers", type=int, help="layers, instead of the network's")
    parser.add_argument("--sites", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--positions", type=int, default=0, help="length of a made alignment of 90 species")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as scratch:
        bench_network(Path(scratch), options.size, options.hidden, options.layers, options.sites, options.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        build_alignment([sample_path(APES)], home / "apes", reference="Hsap")
        bench_frequencies("chr22 of human and three apes", home / "apes", "", 3)
        if options.positions:
            made_store(home / "made", options.positions)
            bench_frequencies(f"{options.positions:,} positions of 90 species", home / "made", "", 1)


if __name__ == "__main__":
    main()
