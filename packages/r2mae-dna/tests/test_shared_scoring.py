"""Two processes score one file: each line is parsed by one of them, and the result is that of one process."""

import os
import socket
import subprocess
import sys

import pytest

from dna_files import vcf

RANK = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from r2mae_dna.data.variants import TableFile
from r2mae_dna.data.vcf import VcfFile
from r2mae_dna.options import Score
from r2mae_dna.score import score_variants

parsed, before = [], VcfFile._fields
def fields(self, number, item):
    parsed.append(number)
    return before(self, number, item)
VcfFile._fields = fields
write = VcfFile.write
def without_counting(self, *arguments):
    VcfFile._fields = before
    write(self, *arguments)
VcfFile.write = without_counting
model, store, variants, out, lines = sys.argv[1:]
counts = score_variants(Score(model, Path(store), Path(variants), out=Path(out), chunk=9, device="cpu", progress=False))
Path(lines).write_text(json.dumps({"parsed": parsed, "text": counts.text(), "names": counts.names.text(),
                                   "absent": sorted(counts.absent)}))
"""


def run_ranks(n, *argv, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-c", RANK, *map(str, argv)]
    ranks = [
        subprocess.Popen([*words, str(tmp_path / f"rank{i}.json")], env={**shared, "RANK": str(i)}) for i in range(n)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * n


def test_each_line_is_parsed_by_one_rank(toy, toy_model, tmp_path, call):
    import json

    source = vcf(tmp_path / "in.vcf", toy[1])
    text = source.read_text().replace("\n7\t1", "\nchr7\t1")  # some under another name, one in no alignment
    source.write_text(text + "9\t5\t.\tA\tC\t.\t.\t.\n")
    header = text.count("\n#") + 1
    run_ranks(2, toy_model[0], toy[0], source, tmp_path / "two.vcf", tmp_path=tmp_path)
    ranks = [json.loads((tmp_path / f"rank{i}.json").read_text()) for i in range(2)]
    assert sorted(ranks[0]["parsed"] + ranks[1]["parsed"]) == list(range(header + 1, header + 102))
    assert min(len(rank["parsed"]) for rank in ranks) >= 45
    code, out, _ = call("score", toy_model[0], toy[0], source, "--chunk", 9, "--device", "cpu", "--out", "one.vcf")
    assert code == 0
    assert ranks[0]["text"] in out
    assert f"Names of chromosomes: {ranks[0]['names']}" in out
    assert ranks[0]["absent"] == ["9"]
    assert (tmp_path / "one.vcf").read_text() == (tmp_path / "two.vcf").read_text()


@pytest.mark.parametrize("suffix", [".vcf", ".vcf.gz", ".bcf", ".tsv"])
def test_stretches_that_are_not_wanted_are_counted_only(toy, tmp_path, suffix):
    import pysam

    from r2mae_dna.data.variants import TableFile
    from r2mae_dna.data.vcf import VcfFile

    source, file = vcf(tmp_path / "in.vcf", toy[1], range(1, 24)), tmp_path / f"x{suffix}"
    lines = source.read_text().splitlines()
    if suffix == ".tsv":
        file.write_text("chrom\tpos\tid\tref\talt\n" + "\n".join("\t".join(x.split("\t")[:5]) for x in lines[2:]))
    elif suffix == ".bcf":
        head = ["##contig=<ID=7,length=300>", '##INFO=<ID=AC,Number=A,Type=Integer,Description="x">']
        head += ['##INFO=<ID=AN,Number=1,Type=Integer,Description="x">']
        source.write_text("\n".join([lines[0], *head, *lines[1:]]) + "\n")
        with pysam.VariantFile(str(source)) as text, pysam.VariantFile(str(file), "wb", header=text.header) as out:
            for record in text:
                out.write(record)
    else:
        opened = pysam.BGZFile(str(file), "wb") if suffix == ".vcf.gz" else file.open("wb")
        with opened as out:
            out.write(source.read_bytes() + b"\n")  # an empty line is no record
    read = TableFile(file) if suffix == ".tsv" else VcfFile(file)
    every, asked = list(read.chunks(5)), []

    def wanted(i):
        asked.append(i)
        return i % 2 == 1

    some = list(read.chosen_chunks(5, wanted))
    assert asked == [0, 1, 2, 3, 4]
    assert [chunk is None for chunk in some] == [True, False, True, False, True]
    assert [len(chunk) for chunk in every] == [5, 5, 5, 5, 3]
    for i in (1, 3):
        assert some[i].position.tolist() == every[i].position.tolist() == list(range(5 * i + 1, 5 * i + 6))
        assert some[i].alternative == every[i].alternative
