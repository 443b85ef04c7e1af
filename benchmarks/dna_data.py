"""Alignment in, windows out: our store and memory map, against Biopython's reader, a zarr of letters, and gpn's reader.

Run: `nox -s "bench(dna)"`. The data are the package's bundled alignments.

- MAF: the obvious program reads blocks with Biopython, aligns each row with the reference by numpy, and passes
  the array to the same store writer.
- Windows: the published layout as GPN-MSA's training reads it (zarr v2 of |S1, 512 positions per chunk, a slice per
  window, the other strand by table, `np.char.upper`, look-up); ours is the memory map, strands turned as on a device.
- Dense, sorted sites, as `score` reads them: gpn's own reader (PyPI gpn, `GenomeMSA.get_msa_batch_fwd_rev`) of the same
  zarr of letters; ours is the store, windows of neighbouring sites cut from one read. Tokens of both strands come out.
"""

import contextlib
import gzip
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import zarr
from Bio import AlignIO
from timing import best_of_turns, report

from r2mae_dna import AlignmentStore, WindowSet, build_alignment, prepare
from r2mae_dna.data.codes import ENCODE, ENCODE_REFERENCE, TOKEN_BITS, reverse_complement
from r2mae_dna.data.samples import APES, VERTEBRATES, sample_path
from r2mae_dna.data.sites import read_windows
from r2mae_dna.data.store import SHARD_ROWS, StoreWriter
from r2mae_dna.masking import turn_strands
from r2mae_dna.options import Prepare

BATCH, SITES = 64, 512


def biopython_build(maf, out, reference):
    """The obvious program."""
    with maf.open() as handle:
        species = list(
            dict.fromkeys(record.id.split(".")[0] for block in AlignIO.parse(handle, "maf") for record in block)
        )
    columns = {name: i for i, name in enumerate([reference, *(s for s in species if s != reference)])}
    arrays, shards = {}, {}
    with maf.open() as handle:
        for block in AlignIO.parse(handle, "maf"):
            rows = {record.id.split(".")[0]: record for record in block}
            own = rows[reference]
            chromosome, notes = own.id.partition(".")[2], own.annotations
            keep = np.frombuffer(str(own.seq).encode(), np.uint8) != ord("-")
            if chromosome not in arrays:
                name = out.parent / f"{out.name}-{chromosome}"
                arrays[chromosome] = np.memmap(name, np.uint8, "w+", shape=(notes["srcSize"], len(columns)))
                shards[chromosome] = set()
            part = arrays[chromosome][notes["start"] : notes["start"] + notes["size"]]
            for name, record in rows.items():
                table = ENCODE_REFERENCE if name == reference else ENCODE
                part[:, columns[name]] = table[np.frombuffer(str(record.seq).encode(), np.uint8)[keep]]
            shards[chromosome] |= {notes["start"] // SHARD_ROWS, (notes["start"] + notes["size"] - 1) // SHARD_ROWS}
    writer = StoreWriter(out, list(columns))
    for chromosome, array in arrays.items():
        writer.write(chromosome, array, shards[chromosome])
    return writer.close()


def bench_build(folder, name, reference):
    plain = folder / name.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(sample_path(name).read_bytes()))
    count = iter(range(10_000))
    ours = build_alignment([plain], folder / f"s{next(count)}", reference=reference)
    theirs = biopython_build(plain, folder / f"s{next(count)}", reference)
    assert ours.info.digest == theirs.digest
    contestants = {
        "ours": lambda: build_alignment([plain], folder / f"s{next(count)}", reference=reference),
        "Biopython": lambda: biopython_build(plain, folder / f"s{next(count)}", reference),
    }
    size = plain.stat().st_size / 1e6
    report(f"MAF to store, {name} ({size:.1f} MB)", best_of_turns(contestants, 5), "ours", targets={"Biopython": 1})


def bench_windows(folder):
    build_alignment([sample_path(VERTEBRATES)], folder / "mm9", reference="mm9")
    prepare(Prepare(folder / "mm9", out=folder / "w"))
    store, windows = AlignmentStore(folder / "mm9"), WindowSet(folder / "w")
    offset = 3_134_057
    codes = store.read("chr10", offset, offset + 103_741)
    letters = np.frombuffer(b"-ACGT----acgt---", np.uint8)[codes]
    group = zarr.open_group(folder / "letters.zarr", mode="w", zarr_format=2)
    group.create_array("10", data=letters.view("S1"), chunks=(512, letters.shape[1]))
    array = zarr.open_group(folder / "letters.zarr", mode="r")["10"]
    complement = np.arange(256, dtype=np.uint8)
    complement[np.frombuffer(b"ACGTacgt", np.uint8)] = np.frombuffer(b"TGCAtgca", np.uint8)
    rng = np.random.default_rng(0)
    rows = rng.permutation(2 * len(windows))[:BATCH]
    starts = windows.starts[rows % len(windows)] - offset
    strands = np.where(rows < len(windows), "+", "-")

    def ours():
        batch = windows.batch(rows)
        return turn_strands(batch["codes"], batch["reverse"]) & TOKEN_BITS

    def window(start, strand):
        found = array[start : start + 128].view("S1")
        if strand == "-":
            found = complement[found.view(np.uint8)][::-1].view("S1")
        return ENCODE[np.char.upper(found).view(np.uint8)]

    def theirs():
        return np.array([window(int(start), strand) for start, strand in zip(starts, strands, strict=True)])

    assert (ours().numpy() == theirs()).all()
    seconds = best_of_turns({"ours": ours, "zarr of letters": theirs}, 9)
    report(f"{BATCH} windows of 128 bases × 30 species, both strands", seconds, "ours", targets={"zarr of letters": 20})
    print(
        f"\nours: {BATCH / seconds['ours']:,.0f} windows/s, zarr: {BATCH / seconds['zarr of letters']:,.0f} windows/s"
    )


def bench_sites(folder):
    """After `bench_windows`, whose files are used."""
    from gpn.data import GenomeMSA

    store, offset = AlignmentStore(folder / "mm9"), 3_134_057
    with contextlib.redirect_stdout(io.StringIO()):
        reader = GenomeMSA(str(folder / "letters.zarr"))
    positions = np.arange(offset + 1000, offset + 1000 + 3 * SITES, 3)
    sites = np.stack([np.zeros_like(positions), positions], 1)
    starts = positions - 64 - offset

    def ours():
        forward = read_windows(store, sites, 128) & TOKEN_BITS
        return forward, reverse_complement(forward, axis=1)

    def theirs():
        return reader.get_msa_batch_fwd_rev(["10"] * SITES, starts, starts + 128, tokenize=True)

    assert all((a == b).all() for a, b in zip(ours(), theirs(), strict=True))
    seconds = best_of_turns({"ours": ours, "gpn's reader": theirs}, 5)
    report(f"{SITES:,} dense, sorted sites × 30 species, both strands", seconds, "ours", targets={"gpn's reader": 20})
    print("\n" + ", ".join(f"{name}: {SITES / each:,.0f} sites/s" for name, each in seconds.items()))


def main():
    torch.set_num_threads(1)  # as in a loader; 64 windows are too little work for two
    print(f"{os.cpu_count()} cores, numpy {np.__version__}, zarr {zarr.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        bench_build(Path(scratch), VERTEBRATES, "mm9")
    with tempfile.TemporaryDirectory() as scratch:
        bench_build(Path(scratch), APES, "Hsap")
    with tempfile.TemporaryDirectory() as scratch:
        bench_windows(Path(scratch))
        bench_sites(Path(scratch))


if __name__ == "__main__":
    main()
