"""Variants of regions: by an index or without one, the same rows as filtering the whole file by hand."""

import io
import os
import random
import shutil

import numpy as np
import polars as pl
import pysam
import pysam.bcftools
import pytest

from r2mae_core import UserError
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.index import find_index
from r2mae_dna.data.store import AlignmentStore, StoreWriter
from r2mae_dna.options import Score
from r2mae_dna.score import score_variants

LENGTH = 40_000
REGIONS = "chr22:101-400 22:16,384-16,385 X:1-39,999 chr22:300-600 22:610-700 NC_000022.11:39990-40000 HLA:1:5-900"
"""Overlapping, in another order than the file's, in three styles, across the 16-kb bins of an index."""
WANTED = {
    "22": [(101, 600), (610, 700), (16_384, 16_385), (39_990, 40_000)],
    "chrX": [(1, 39_999)],
    "HLA:1": [(5, 900)],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store, and a VCF of its variants: many at one position, some reaching over the edge of a region."""
    home, rng = tmp_path_factory.mktemp("regions"), random.Random(3)
    writer, rows = StoreWriter(home / "store", ["hg", "pt"]), []
    codes = np.random.default_rng(1).integers(1, 5, (LENGTH, 2)).astype(np.uint8)
    for own, name in (("chr22", "22"), ("chr9", "9"), ("chrX", "chrX"), ("HLA:1", "HLA:1")):
        writer.write(own, codes)
        letters = "".join("-ACGT"[c] for c in codes[:, 0] & TOKEN_BITS)
        edges = [p + d for ends in WANTED.get(name, [(1, 40)]) for p in ends for d in (-1, 0, 1)]
        for p in sorted([rng.randrange(1, LENGTH - 50) for _ in range(250)] + [min(max(p, 1), LENGTH) for p in edges]):
            n = 30 if p in edges or rng.random() < 0.2 else 1  # a long one overlaps the next region
            ref = letters[p - 1 : p - 1 + n]
            rows.append((name, p, ref, rng.choice([b for b in "ACGT" if b != ref[0]]) if n == 1 else ref[0]))
    writer.close()
    head = "##fileformat=VCFv4.2\n" + "".join(
        f"##contig=<ID={n},length={LENGTH}>\n" for n in ("22", "9", "chrX", "HLA:1")
    )
    lines = [f"{c}\t{p}\tid{i}\t{r}\t{a}\t.\t.\t.\n" for i, (c, p, r, a) in enumerate(rows)]
    (home / "v.vcf").write_text(head + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    table = [f"{c}\t{p}\t{r}\t{a}\tid{i}\n" for i, (c, p, r, a) in enumerate(rows)]
    (home / "v.tsv").write_text("#chrom\tpos\tref\talt\tid\n" + "".join(table))
    return home


def inside(name, position):
    return any(start <= position <= end for start, end in WANTED.get(name, []))


def score(home, variants, out, regions=REGIONS, **options):
    return score_variants(
        Score(
            "frequencies", home / "store", variants, out=out, regions=regions, device="cpu", progress=False, **options
        )
    )


def ids(out):
    """The ids of a scored file, with their scores."""
    if out.suffix == ".tsv":
        frame = pl.read_csv(out, separator="\t", infer_schema_length=None)
        return list(
            zip(frame["id"].to_list(), frame["r2mae_llr"].to_list(), frame["r2mae_status"].to_list(), strict=True)
        )
    with pysam.VariantFile(str(out)) as file:
        return [(r.id, r.info["R2MAE_LLR"][0], r.info["R2MAE_STATUS"][0]) for r in file]


@pytest.fixture(scope="module")
def whole(home):
    """Every variant scored, and filtered by hand."""
    score(home, home / "v.vcf", home / "whole.vcf", regions="")
    with pysam.VariantFile(str(home / "whole.vcf")) as file:
        wanted = [r.id for r in file if inside(r.chrom, r.pos)]
    rows = [row for row in ids(home / "whole.vcf") if row[0] in wanted]
    assert 150 < len(rows) < 600
    return rows


def indexed(home, folder, kind):
    """Copy the variants as a file of a kind, with an index."""
    bare, target = home / ("v.tsv" if "tsv" in kind else "v.vcf"), folder / f"v.{kind.removesuffix('+csi')}"
    if target.suffix == ".bcf":
        with pysam.VariantFile(str(bare)) as old, pysam.VariantFile(str(target), "wb", header=old.header) as new:
            for record in old:
                new.write(record)
        pysam.bcftools.index(str(target), catch_stdout=False)  # pyright: ignore[reportAttributeAccessIssue]
        return target
    if target.suffix != ".gz":
        return shutil.copy(bare, target)
    pysam.tabix_compress(str(bare), str(target))
    how = {"seq_col": 0, "start_col": 1, "end_col": 1} if "tsv" in kind else {"preset": "vcf"}
    csi = "+csi" in kind
    index = f"{target}.{'csi' if csi else 'tbi'}"
    pysam.tabix_index(str(target), keep_original=True, csi=csi, index=index, **how)
    return target


@pytest.mark.parametrize("kind", ["vcf", "vcf.gz", "vcf.gz+csi", "bcf", "tsv", "tsv.gz", "tsv.gz+csi"])
def test_regions_are_those_of_filtering_by_hand(home, whole, tmp_path, kind):
    source = indexed(home, tmp_path, kind)
    out = tmp_path / ("o.tsv" if "tsv" in kind else "o.vcf")
    counts = score(home, source, out, chunk=50)
    found = ids(out)
    assert [row[0] for row in found] == [row[0] for row in whole]
    assert [row[1:] for row in found] == [
        (pytest.approx(v, abs=1e-5) if v is not None else None, s) for _, v, s in whole
    ]
    assert ("read by the index" in counts.regions) == ("." in kind or kind == "bcf"), counts.regions
    assert ("the whole file was read" in counts.regions) == (kind in ("vcf", "tsv"))
    assert int(counts.status.sum()) == len(whole)


def test_standard_input_and_other_tables_are_filtered(home, whole, tmp_path, monkeypatch, capsys):
    frame = pl.read_csv(home / "v.tsv", separator="\t", schema_overrides={"#chrom": pl.String})
    frame = frame.rename({"#chrom": "chrom"})
    frame.write_parquet(tmp_path / "v.parquet")
    frame.write_csv(tmp_path / "v.csv")
    for source in (tmp_path / "v.parquet", tmp_path / "v.csv"):
        score(home, source, tmp_path / "o.tsv", overwrite=True)
        assert [row[0] for row in ids(tmp_path / "o.tsv")] == [row[0] for row in whole]
    from pathlib import Path

    class Input:
        buffer = io.BytesIO((home / "v.vcf").read_bytes())

    monkeypatch.setattr("sys.stdin", Input)
    score(home, Path("-"), tmp_path / "o.vcf")
    assert [row[0] for row in ids(tmp_path / "o.vcf")] == [row[0] for row in whole]


def test_only_the_regions_are_read(home, tmp_path, monkeypatch):
    """A block of another chromosome that is damaged is not seen; one of the regions is."""
    many = tmp_path / "many.vcf.gz"
    with pysam.BGZFile(str(many), "wb") as file:  # blocks of 64 kB
        file.write(b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for name in ("chr22", "chr9"):
            file.write(
                b"".join(
                    b"%s\t%d\t.\tN\tC\t.\t.\t%s\n" % (name.encode(), p, os.urandom(30).hex().encode())
                    for p in range(1, 20_000)
                )
            )
    pysam.tabix_index(str(many), preset="vcf", keep_original=True)
    content = bytearray(many.read_bytes())
    content[len(content) * 3 // 4] ^= 255  # in chr9
    many.write_bytes(content)
    os.utime(f"{many}.tbi")
    counts = score(home, many, tmp_path / "o.vcf", regions="chr22:5001-6000")
    assert int(counts.status.sum()) == 1000
    with pytest.raises(UserError, match=r"many\.vcf\.gz cannot be read"):
        score(home, many, tmp_path / "p.vcf", regions="chr9")
    assert not (tmp_path / "p.vcf").exists()


@pytest.mark.parametrize(
    ("harm", "message"),
    [("older", "is older than its file"), ("missing", "has no index"), ("foreign", "is of another file"),
     ("cut", "cannot be read"), ("text", "cannot be read"), ("columns", "is of other columns"),
     ("gzip", "not bgzipped")],
)  # fmt: skip
def test_an_index_that_cannot_be_believed_is_not(home, whole, tmp_path, harm, message):
    source = indexed(home, tmp_path, "tsv.gz")
    index = tmp_path / "v.tsv.gz.tbi"
    if harm == "older":
        os.utime(index, ns=(0, source.stat().st_mtime_ns - 1))
    elif harm == "missing":
        index.unlink()
    elif harm == "foreign":  # the same variants with one more
        more = tmp_path / "more.tsv"
        more.write_text((home / "v.tsv").read_text() + "HLA:1\t39999\tA\tC\tlast\n")
        pysam.tabix_compress(str(more), f"{more}.gz")
        pysam.tabix_index(f"{more}.gz", keep_original=True, seq_col=0, start_col=1, end_col=1)
        shutil.copy(f"{more}.gz.tbi", index)
    elif harm == "cut":
        index.write_bytes(index.read_bytes()[:-40])
    elif harm == "text":
        index.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif harm == "columns":
        pysam.tabix_index(
            str(source), force=True, keep_original=True, seq_col=0, start_col=1, end_col=1, zerobased=True
        )
    else:
        import gzip

        source.write_bytes(gzip.compress((home / "v.tsv").read_bytes()))
        os.utime(index)
    counts = score(home, source, tmp_path / "o.tsv")
    assert "the whole file was read, as" in counts.regions
    assert message in counts.regions
    assert [row[0] for row in ids(tmp_path / "o.tsv")] == [row[0] for row in whole]


def test_regions_that_cannot_be_are_refused_and_a_bed_adds_to_them(home, tmp_path):
    bed = tmp_path / "r.bed"
    bed.write_text("22\t100\t600\nchrUn\t1\t2\nNC_000022.11\t16383\t16385\n22\t39989\t40000\nX\t0\t39999\n")
    counts = score(home, home / "v.vcf", tmp_path / "o.vcf", regions="HLA:1:5-900", bed=bed)
    assert "Left out: 1 lines of" in counts.regions
    with pysam.VariantFile(str(tmp_path / "o.vcf")) as file:
        assert all(inside(r.chrom, r.pos) for r in file)
    for regions, message in (
        ("chr22:1-40001", "ends beyond chr22"), ("chr1", "has no chromosome 'chr1'"), ("chr22:9-3", "must not exceed"),
        ("chr9:20000-20000", "contains no variants in the regions"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            score(home, home / "v.vcf", tmp_path / "p.vcf", regions=regions)
    assert not (tmp_path / "p.vcf").exists()


def test_scores_of_other_regions_are_not_taken_for_these(home, tmp_path, monkeypatch):
    """An interrupted run leaves its parts; with other regions they are not used."""
    import r2mae_dna.score as module

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_refuse", stop)
        with pytest.raises(KeyboardInterrupt):
            score(home, home / "v.vcf", tmp_path / "o.vcf", regions="chr9")
    score(home, home / "v.vcf", tmp_path / "o.vcf", regions="chrX")
    score(home, home / "v.vcf", tmp_path / "p.vcf", regions="chrX")
    assert ids(tmp_path / "o.vcf") == ids(tmp_path / "p.vcf")


def test_the_command_says_what_was_read(home, tmp_path, call):
    source = indexed(home, tmp_path, "vcf.gz")
    _, out, _ = call(
        "score", "frequencies", home / "store", source, "--regions", "22:101-600", "--out", "o.vcf", "--no-progress"
    )
    assert f"Only chr22:101-600; read by the index {source}.tbi" in out
    assert 'Regions="chr22:101-600"' in (tmp_path / "o.vcf").read_text()


def test_indices_of_all_sizes_are_of_their_files(tmp_path):
    for n in (0, 1, 30_000):
        for csi in (False, True):
            file = tmp_path / f"{n}{csi}.tsv.gz"
            with pysam.BGZFile(str(file), "wb") as target:
                target.write(b"#chrom\tpos\tx\n" + b"".join(b"1\t%d\tx\n" % (p + 1) for p in range(n)))
            index = f"{file}.{'csi' if csi else 'tbi'}"
            pysam.tabix_index(str(file), seq_col=0, start_col=1, end_col=1, keep_original=True, csi=csi, index=index)
            assert (find_index(file)[0] is not None) == (n > 0), find_index(file)


def test_the_store_knows_its_chromosomes_in_every_style(home):
    store = AlignmentStore(home / "store")
    assert [store.chromosome(n) for n in ("22", "NC_000022.11", "X", "chr8")] == ["chr22", "chr22", "chrX", None]


@pytest.mark.parametrize("kind", ["tsv.gz", "tsv", "vcf.gz", "vcf"])
def test_evaluate_counts_the_rows_of_the_regions_alone(home, tmp_path, call, kind):
    """Labels and scores of the regions, in any style of the chromosomes, are those of a file of these rows alone."""
    rng = random.Random(5)
    rows = [(name, p, rng.random() < 0.5, rng.random()) for name in ("22", "9", "HLA:1") for p in range(1, 900, 3)]
    is_vcf = "vcf" in kind
    head = '##fileformat=VCFv4.2\n##INFO=<ID=R2MAE_LLR,Number=A,Type=Float,Description="x">\n' if is_vcf else ""
    head += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" if is_vcf else "#chrom\tpos\tref\talt\tlabel\tr2mae_llr\n"

    def write(path, chosen):
        lines = [
            f"{c}\t{p}\t.\tA\tC\t.\t.\tAC={1 if y else 500};AN=1000;R2MAE_LLR={x}\n" if is_vcf else
            f"{c}\t{p}\tA\tC\t{int(y)}\t{x}\n"
            for c, p, y, x in chosen
        ]  # fmt: skip
        path.write_text(head + "".join(lines))
        return path

    wanted = [row for row in rows if (row[0] == "22" and 100 <= row[1] <= 500) or (row[0] == "HLA:1" and row[1] <= 300)]
    alone, source = (
        write(tmp_path / f"alone.{kind.removesuffix('.gz')}", wanted),
        write(tmp_path / f"v.{kind[:3]}", rows),
    )
    if kind.endswith("gz"):
        how = {"preset": "vcf"} if is_vcf else {"seq_col": 0, "start_col": 1, "end_col": 1}
        source = pysam.tabix_index(str(source), **how)
    preset = ["--preset", "rare-common"] if is_vcf else []
    (tmp_path / "r.bed").write_text("NC_000022.11\t99\t500\n")
    regions = ["--regions", "HLA:1:1-300", "--bed", tmp_path / "r.bed"]
    code, out, err = call("evaluate", source, *regions, *preset, "--out", "a", "--bootstrap", "0")
    assert code == 0, err
    assert call("evaluate", alone, *preset, "--out", "b", "--bootstrap", "0")[0] == 0
    assert f"of {len(wanted):,} rows" in out
    assert ("read by the index" in out) == kind.endswith("gz")
    import json

    found, expected = (json.loads((tmp_path / name / "results.json").read_text())["records"] for name in "ab")
    assert [(r["metric"], r["value"], r["n"]) for r in found] == [(r["metric"], r["value"], r["n"]) for r in expected]
    code, _, err = call("evaluate", source, "--regions", "chr5:1-9", *preset, "--out", "c")
    assert (code, "has no chromosome 'chr5'" in err) == (1, True), err
