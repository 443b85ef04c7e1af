"""Memory of `msa-build`: a process's own (RssAnon) and pages of its mapped scratch file (RssFile), at their peaks.

Run: `nox -s "bench(dna)" -- dna_build`. A made alignment of 30 species, of two lengths: the own memory must not grow
with the length, while mapped pages, which the system takes back when it needs them, do. Linux only (/proc).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import claim

BUILD = """
import sys, threading, time
from pathlib import Path
from r2mae_dna.data.build import build_alignment
import zarr, r2mae_dna.data.store  # what is imported is no memory of the build's
peak = {"RssAnon": 0, "RssFile": 0}
def look():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1e3 for name in peak}
def watch():
    while True:
        for name, value in look().items():
            peak[name] = max(peak[name], value)
        time.sleep(0.005)
before = look()
threading.Thread(target=watch, daemon=True).start()
build_alignment([Path(sys.argv[1])], Path(sys.argv[2]), reference="s0")
print(*(round(value, 1) for value in (before["RssAnon"], peak["RssAnon"], before["RssFile"], peak["RssFile"])))
"""


def write_maf(path, positions, n_species, block=1000):
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 1 << 20)].tobytes().decode()
    with path.open("w") as out:
        out.write("##maf version=1\n")
        for start in range(0, positions, block):
            out.write("a\n")
            for i in range(n_species):
                first = int(rng.integers(0, len(letters) - block))
                place = start if i == 0 else 0
                out.write(f"s s{i}.chr1 {place} {block} + {positions} {letters[first : first + block]}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, nargs=2, default=[1_000_000, 4_000_000])
    parser.add_argument("--species", type=int, default=30)
    options = parser.parse_args()
    own = []
    print("\n| positions | own memory, MB | of that before | mapped, MB | of that before |\n|---|---|---|---|---|")
    for positions in options.positions:
        with tempfile.TemporaryDirectory() as folder:
            maf = Path(folder) / "x.maf"
            write_maf(maf, positions, options.species)
            words = [sys.executable, "-c", BUILD, str(maf), str(Path(folder) / "s")]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
        before, peak, mapped_before, mapped = map(float, done.stdout.split())
        own.append(peak)
        print(f"| {positions:,} | {peak:.0f} | {before:.0f} | {mapped:.0f} | {mapped_before:.0f} |", flush=True)
    first, second = options.positions
    claim(f"own memory at {second:,} positions as a share of that at {first:,}", own[1] / own[0], 1.2, at_most=True)


if __name__ == "__main__":
    main()
