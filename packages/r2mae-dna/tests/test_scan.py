import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyBigWig
import pysam
import pytest
import torch

from r2mae_core import UserError
from r2mae_dna import scan as module_under_test
from r2mae_dna.data.chunks import plan_chunks
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.regions import Region
from r2mae_dna.data.store import AlignmentStore, StoreWriter
from r2mae_dna.data.tracks import SiteScores, TextWriter, index_text, tsv_header, vcf_header
from r2mae_dna.model import both_strands
from r2mae_dna.options import Scan
from r2mae_dna.scan import scan_genome
from r2mae_dna.scan_output import draw_region

ALL = ("tsv", "vcf", "worst", "mean", "alleles")


def expected(model, codes, position, window=128):
    """Logits of one 0-based site, cut and padded by hand."""
    padded = np.zeros((len(codes) + 2 * window, codes.shape[1]), np.uint8)
    padded[window : window + len(codes)] = codes & TOKEN_BITS
    start = position + window - window // 2
    with torch.no_grad():
        return both_strands(model, torch.from_numpy(padded[start : start + window][None]))[0].numpy()


def options(toy, model, out, **others):
    return Scan(str(model), toy[0], out=out, device="cpu", progress=False, **others)


def table(path):
    with pysam.TabixFile(str(path)) as file:
        return [tuple(row) for row in file.fetch(parser=pysam.asTuple())]


def test_every_change_is_written_as_the_network_scores_it(toy, toy_model, tmp_path):
    codes, out = toy[1], tmp_path / "scan"
    report = scan_genome(options(toy, toy_model[0], out, formats=ALL, chunk=64, batch_size=7))
    assert report.sites == 299
    assert report.left_out == {"without a reference base": 1}
    tokens = codes[:, 0] & TOKEN_BITS
    logits = np.array([expected(toy_model[1], codes, p) for p in range(300)])
    llr = logits - logits[np.arange(300), np.maximum(tokens, 1).astype(int) - 1][:, None]
    wanted = [(p, t, a) for p, t in enumerate(tokens) if t for a in range(1, 5) if a != t]
    rows = table(out / "scores.tsv.gz")
    assert [(r[0], int(r[1]), r[2], r[3]) for r in rows] == [("7", p + 1, "-ACGT"[t], "-ACGT"[a]) for p, t, a in wanted]
    found = np.array([float(r[4]) for r in rows])
    assert found == pytest.approx([llr[p, a - 1] for p, _, a in wanted], abs=1e-4)
    with pysam.VariantFile(str(out / "scores.vcf.gz")) as vcf:
        assert [(r.pos, r.ref, r.alts[0]) for r in vcf.fetch("7", 49, 60)] == [
            (int(r[1]), r[2], r[3]) for r in rows if 50 <= int(r[1]) <= 60
        ]
        vcf.reset()
        assert [r.info["R2MAE_LLR"][0] for r in vcf] == pytest.approx(found, abs=1e-6)
    three = np.array(
        [[llr[p, a] for a in range(4) if a != tokens[p] - 1] if tokens[p] else [np.nan] * 3 for p in range(300)]
    )
    for kind, values in {"worst": three.min(1), "mean": three.mean(1)}.items():
        with pyBigWig.open(str(out / f"{kind}.bw")) as track:
            assert track.chroms() == {"7": 300}
            assert track.values("7", 0, 300) == pytest.approx(values, abs=1e-4, nan_ok=True)
    for token, letter in enumerate("ACGT", start=1):
        values = np.where((tokens == 0) | (tokens == token), np.nan, llr[:, token - 1])
        with pyBigWig.open(str(out / f"{letter}.bw")) as track:
            assert track.values("7", 0, 300) == pytest.approx(values, abs=1e-4, nan_ok=True)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{k}.bw" for k in ("worst", "mean", *"ACGT")), "scan.json", "scores.tsv.gz", "scores.tsv.gz.tbi",
         "scores.vcf.gz", "scores.vcf.gz.tbi"]
    )  # fmt: skip


def test_frequencies_equal_counting_on_the_real_alignment(vertebrates, tmp_path):
    store = AlignmentStore(vertebrates[0])
    region = "chr10:3,150,001-3,151,500"
    config = Scan("frequencies", vertebrates[0], regions=region, out=tmp_path / "s", progress=False, chunk=1000)
    scan_genome(config)
    rows = table(tmp_path / "s" / "scores.tsv.gz")
    codes = store.read("chr10", 3_150_000, 3_151_500) & TOKEN_BITS
    assert len(rows) == 3 * int((codes[:, 0] > 0).sum()) > 3000
    for _, pos, ref, alt, score in rows[::7]:
        column = ["-ACGT"[c] for c in codes[int(pos) - 3_150_001].tolist()]
        assert column[0] == ref
        own = np.log(column[1:].count(alt) + 1) - np.log(column[1:].count(ref) + 1)
        assert float(score) == pytest.approx(own, abs=1e-4)


def test_a_bed_is_scanned_once_sorted_and_its_other_chromosomes_are_named(toy, tmp_path, capsys):
    (tmp_path / "in.bed").write_text(
        "track name=x\n#c\nchr7\t250\t260\tlate\nchr7\t10\t20\n7\t15\t30\nchrUn\t1\t2\nchr7\t20\t21\n"
    )
    config = options(toy, "frequencies", tmp_path / "s", bed=tmp_path / "in.bed", regions="7:100-101", chunk=8)
    assert scan_genome(config).sites == 20 + 2 + 10
    positions = [int(row[1]) for row in table(tmp_path / "s" / "scores.tsv.gz")][::3]
    assert positions == [*range(11, 31), 100, 101, *range(251, 261)]
    assert "1 lines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr7\t290\t301\n", r"line 1: chr7:290-301 ends beyond 7, which is 300 long"),
        ("chr7\t20\t20\n", "line 1: the interval 20-20 is empty"),
        ("chr7\t-1\t20\n", "line 1: a BED line is"),
        ("chr7\t5\n", "line 1: a BED line is"),
        ("chr9\t5\t6\n", "none of its chromosomes"),
        ("#\n", "no interval"),
    ],
)
def test_bad_beds_are_refused(toy, tmp_path, line, message):
    (tmp_path / "in.bed").write_text(line)
    with pytest.raises(UserError, match=message):
        scan_genome(options(toy, "frequencies", tmp_path / "s", bed=tmp_path / "in.bed"))
    assert not (tmp_path / "s").exists()


def test_an_interrupted_scan_goes_on_and_leaves_the_same_files(toy, toy_model, tmp_path, monkeypatch):
    whole = options(toy, toy_model[0], tmp_path / "whole", chunk=50, formats=("tsv", "worst"))
    scan_genome(whole)
    cut = replace(whole, out=tmp_path / "cut")
    original, calls = module_under_test.score_chunk, []

    def stop(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(module_under_test, "score_chunk", stop)
    with pytest.raises(KeyboardInterrupt):
        scan_genome(cut)
    (part,) = (cut.out / "parts").iterdir()
    with part.open("r+b") as file:  # killed in the middle of the fourth chunk
        file.truncate(part.stat().st_size - 5)
    assert not (cut.out / "scores.tsv.gz").exists()
    calls.clear()
    monkeypatch.setattr(module_under_test, "score_chunk", lambda *a: (calls.append(1), original(*a))[1])
    scan_genome(cut)
    assert len(calls) == 3
    for name in ("scores.tsv.gz", "scores.tsv.gz.tbi", "worst.bw"):
        assert (cut.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert scan_genome(cut).done_before
    with pytest.raises(UserError, match=r"min_defined was 0\.0 there and is 0\.5 here"):
        scan_genome(replace(cut, min_defined=0.5))
    assert scan_genome(replace(cut, min_defined=0.9, overwrite=True)).left_out["with too few reference bases around"]


def test_parts_join_into_the_same_files(toy, toy_model, tmp_path):
    whole = options(toy, toy_model[0], tmp_path / "whole", chunk=32, formats=("tsv", "mean"))
    scan_genome(whole)
    shared = replace(whole, out=tmp_path / "parts")
    for part in ("3/3", "1/3"):
        assert scan_genome(replace(shared, part=part)) is None
    with pytest.raises(UserError, match=r"3 of 10 chunks are in no part"):
        scan_genome(replace(shared, join=True))
    scan_genome(replace(shared, part="2/3"))
    assert sum(1 for _ in (shared.out / "parts").iterdir()) == 3  # no file per chunk
    scan_genome(replace(shared, join=True))
    for name in ("scores.tsv.gz", "mean.bw"):
        assert (shared.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert not (shared.out / "parts").exists()


def test_parts_of_another_scan_or_damaged_ones_are_refused(toy, toy_model, tmp_path):
    shared = options(toy, toy_model[0], tmp_path / "s", chunk=150)
    scan_genome(replace(shared, part="1/2"))
    with pytest.raises(UserError, match="another run: Window was 128 there and is 64 here"):
        scan_genome(replace(shared, part="2/2", window=64))
    with pytest.raises(UserError, match="made with min_defined"):
        scan_genome(replace(shared, join=True, min_defined=0.5))
    scan_genome(replace(shared, part="2/2"))
    part = shared.out / "parts" / "0002-of-0002.scores"
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=r"0002-of-0002\.scores is damaged"):
        scan_genome(replace(shared, join=True))
    part.write_bytes(b"something else" * 10)
    with pytest.raises(UserError, match="damaged, or of another program"):
        scan_genome(replace(shared, join=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": "7:290-301"}, "ends beyond 7"),
        ({"regions": "8"}, "has no chromosome '8'"),
        ({"part": "3/2"}, "write I/N"),
        ({"figure": "7 7"}, "name one region"),
        ({"figure": "7:201-201"}, "nothing to draw"),
        ({"figure": "7:1-9", "regions": "7:10-20"}, "nothing to draw"),
        ({"name": "a b"}, "letters, digits"),
        ({"regions": "7:201-201"}, "no position has scores: 1 without a reference base"),
    ],
)
def test_what_cannot_be_scanned_is_refused(toy, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        scan_genome(replace(options(toy, "frequencies", tmp_path / "s"), **change))
    assert not list(tmp_path.glob("s/scores*"))


def test_another_folder_is_not_written_into(toy, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which is not of a scan"):
        scan_genome(options(toy, "frequencies", tmp_path / "s"))
    with pytest.raises(UserError, match="lies inside the input"):
        scan_genome(options(toy, "frequencies", toy[0] / "s"))


def test_scores_that_are_not_finite_are_counted_and_not_written(toy, tmp_path, monkeypatch):
    from r2mae_dna.scorers import FrequencyScorer

    original = FrequencyScorer.at

    def broken(self, block, sites):
        scores = original(self, block, sites)
        scores[::10, 2] = np.nan
        return scores

    monkeypatch.setattr(FrequencyScorer, "at", broken)
    report = scan_genome(options(toy, "frequencies", tmp_path / "s"))
    assert report.left_out == {"without a reference base": 1, "without a finite score": 30}
    assert len(table(tmp_path / "s" / "scores.tsv.gz")) == 3 * 269


def test_the_plan_is_what_brute_force_says(tmp_path):
    writer = StoreWriter(tmp_path / "s", ["a", "b"])
    for name in ("2", "10"):
        writer.write(name, np.ones((1000, 2), np.uint8))
    writer.close()
    store, rng = AlignmentStore(tmp_path / "s"), np.random.default_rng(0)
    for size in (1, 7, 64, 5000):
        starts = rng.integers(0, 990, 12)
        regions = [Region(str(rng.choice(["2", "10"])), s, s + int(rng.integers(1, 11))) for s in starts.tolist()]
        wanted = {(r.chromosome, p) for r in regions for p in range(r.start, r.end)}
        found = [(c.chromosome, p) for c in plan_chunks(store, regions, size) for p in c.positions().tolist()]
        assert found == sorted(wanted, key=lambda item: (["2", "10"].index(item[0]), item[1]))
        assert all(c.end - c.start <= size for c in plan_chunks(store, regions, size))
    assert sum(map(len, plan_chunks(store, [], 64))) == 2000


def test_the_picture_shows_the_scores(toy, toy_model, tmp_path):
    with pyBigWig.open(str(tmp_path / "phylop.bw"), "w") as track:
        track.addHeader([("chr7", 300)])
        track.addEntries("chr7", 190, values=[float(i) for i in range(20)], span=1, step=1)
    config = options(
        toy, toy_model[0], tmp_path / "s", figure="7:191-210", tracks=(tmp_path / "phylop.bw",), regions="7:181-205"
    )
    scan_genome(config)
    assert (tmp_path / "s" / "region.png").read_bytes()[:4] == b"\x89PNG"
    store, region = AlignmentStore(toy[0]), Region("7", 190, 210)
    reference = toy[1][195:200, 0] & TOKEN_BITS
    llr = np.full((5, 4), -3, np.float32)
    llr[np.arange(5), reference.astype(int) - 1] = 0
    sites = module_under_test.SiteScores(np.arange(195, 200), reference, llr)
    figure = draw_region(store, region, [sites], config.tracks)
    heat, bars, track, *_ = figure.axes
    image = heat.images[0].get_array()
    assert image.shape == (4, 20)
    assert np.isfinite(image.filled(np.nan)).any(0).tolist() == [5 <= i < 10 for i in range(20)]
    assert [bar.get_height() for bar in bars.patches][5:10] == [-3.0] * 5
    assert [bar.get_height() for bar in track.patches] == list(range(20))


def test_command(call, toy, tmp_path):
    code, out, _ = call("scan", "frequencies", toy[0], "--formats", '["tsv","worst"]', "--out", "s", "--no-progress")
    assert code == 0
    assert "299 sites, 897 changes scored" in out
    assert "Left out: 1 positions without a reference base" in out
    assert call("scan", "frequencies", toy[0], "--formats", '["tsv","worst"]', "--out", "s", "--no-progress")[
        1
    ].startswith("Done before")


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(toy, toy_model, tmp_path):
    scan_genome(options(toy, toy_model[0], tmp_path / "one", chunk=30))
    words = ["scan", toy_model[0], toy[0], "--out", tmp_path / "two", "--device", "cpu", "--chunk", "30"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "r2mae_dna.cli", *words]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done:") == 1
    name = Path("scores.tsv.gz")
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("vcf", [False, True])
def test_a_chromosome_beyond_the_reach_of_tbi_gets_a_csi(tmp_path, vcf):
    """Wheat's chromosomes are longer than the 2^29 bases of a .tbi; the regions are read back by tabix."""
    length, places = 700_000_000, np.array([5, 536_870_911, 536_870_912, 699_999_999])
    path = tmp_path / ("s.vcf.gz" if vcf else "s.tsv.gz")
    header = vcf_header("X", {"3B": length}, {}) if vcf else tsv_header("x")
    writer = TextWriter(path, header, vcf=vcf, name="X")
    llr = np.zeros((4, 4), np.float32)
    writer.add("3B", SiteScores(places, np.full(4, 2, np.uint8), llr))
    writer.close()
    index = index_text(path, {"3B": length}, vcf=vcf)
    assert index.name == f"{path.name}.csi"
    with pysam.TabixFile(str(path), index=str(index)) as file:
        for place in places.tolist():
            rows = [row.split("\t") for row in file.fetch("3B", place, place + 1)]
            assert [row[1] for row in rows] == [str(place + 1)] * 3
        assert len(list(file.fetch("3B", 600_000_000, length))) == 3
