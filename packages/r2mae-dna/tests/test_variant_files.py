"""What a user's variants may look like: BCF, streams, tables without a header, chromosomes in another style."""

import io
import subprocess
import sys

import numpy as np
import polars as pl
import pysam
import pytest

from dna_files import vcf
from r2mae_core import UserError
from r2mae_dna.data.aliases import Names
from r2mae_dna.data.chromosome_names import ChromosomeNames, canonical
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.store import AlignmentStore, StoreWriter
from r2mae_dna.data.tables import read_frame
from r2mae_dna.options import Score
from r2mae_dna.score import score_variants


def run(toy, variants, out, **options):
    return score_variants(Score("frequencies", toy[0], variants, out=out, device="cpu", progress=False, **options))


def scores(path):
    with pysam.VariantFile(str(path)) as file:
        return [(r.chrom, r.pos, r.alts, r.info["R2MAE_LLR"], r.info["R2MAE_STATUS"]) for r in file]


@pytest.fixture
def source(toy, tmp_path):
    """A VCF with contig and INFO lines, so that it can be a BCF."""
    path = vcf(tmp_path / "in.vcf", toy[1])
    head = "##contig=<ID=7,length=300>\n" + "".join(
        f'##INFO=<ID={k},Number=1,Type=Integer,Description="x">\n' for k in ("AC", "AN")
    )
    path.write_text(path.read_text().replace("#CHROM", head + "#CHROM", 1))
    return path


def test_bcf_in_and_out(toy, source, tmp_path):
    bcf = tmp_path / "in.bcf"
    with pysam.VariantFile(str(source)) as old, pysam.VariantFile(str(bcf), "wb", header=old.header) as new:
        for record in old:
            new.write(record)
    run(toy, source, tmp_path / "a.vcf")
    expected = scores(tmp_path / "a.vcf")
    assert len(expected) == 100
    for given, out in ((bcf, "b.vcf.gz"), (bcf, "b.bcf"), (source, "c.bcf")):
        run(toy, given, tmp_path / out)
        assert scores(tmp_path / out) == expected
    with pysam.VariantFile(str(tmp_path / "b.bcf")) as file:
        assert (file.format, next(iter(file)).info["AC"]) == ("BCF", 1)
    run(toy, bcf, tmp_path / "b.tsv")
    assert read_frame(tmp_path / "b.tsv")["r2mae_llr"].to_list() == pytest.approx([s[3][0] for s in expected], abs=1e-5)


def test_a_bcf_that_cannot_be_written_or_read_is_named(toy, source, tmp_path):
    text = source.read_text()
    source.write_text("\n".join(line for line in text.splitlines() if not line.startswith("##contig")) + "\n")
    with pytest.raises(UserError, match=r"o\.bcf: .*a BCF needs every chromosome"):
        run(toy, source, tmp_path / "o.bcf")
    assert not (tmp_path / "o.bcf").exists()
    (tmp_path / "bad.bcf").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.bcf cannot be read"):
        run(toy, tmp_path / "bad.bcf", tmp_path / "o.vcf")


@pytest.mark.parametrize("zipped", [False, True])
def test_standard_input_to_standard_output(toy, source, tmp_path, zipped):
    run(toy, source, tmp_path / "o.vcf")
    content = source.read_bytes()
    if zipped:
        import gzip

        content = gzip.compress(content)
    command = [sys.executable, "-m", "r2mae_dna.cli", "score", "frequencies", str(toy[0]), "-", "--no-progress"]
    done = subprocess.run(command, input=content, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "o.vcf").read_bytes()
    assert b"100 scored" in done.stderr


def test_empty_standard_input_is_refused(toy, monkeypatch, tmp_path):
    class Empty:
        buffer = io.BytesIO()

    from pathlib import Path

    monkeypatch.setattr(sys, "stdin", Empty)
    with pytest.raises(UserError, match="standard input is empty"):
        run(toy, Path("-"), tmp_path / "o.vcf")


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.tsv", "7\t{p}\t{r}\t{a}\tnote\n", ["chrom", "pos", "ref", "alt", "column_5"]),
        ("a.tsv", "chr7\t{p}\trs12\t{r}\t{a}\n", ["chrom", "pos", "id", "ref", "alt"]),
        ("a.csv", "7,{p},{r},{a}\n", ["chrom", "pos", "ref", "alt"]),
        ("a.tsv", "#CHROM\tPOS\tID\tREF\tALT\n7\t{p}\tx\t{r}\t{a}\n", ["#CHROM", "POS", "ID", "REF", "ALT"]),
        ("a.txt", "#chrom\tPos\tRef\tAlt\n7\t{p}\t{r}\t{a}\n", ["#chrom", "Pos", "Ref", "Alt"]),
    ],
)
def test_tables_without_a_header_or_with_capitals(toy, tmp_path, name, content, columns):
    base = "-ACGT"[toy[1][49, 0] & TOKEN_BITS]
    alternative = "CGTA"["ACGT".index(base)]
    (tmp_path / name).write_text(content.format(p=50, r=base, a=alternative))
    run(toy, tmp_path / name, tmp_path / "o.tsv")
    frame = pl.read_csv(tmp_path / "o.tsv", separator="\t")
    assert frame.columns == [*columns, "r2mae_llr", "r2mae_status"]
    assert frame["r2mae_status"].to_list() == ["scored"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("7\t5\tA\tC\tG\n", "could be several things"),
        ("7\t5\tx\ty\n", "could be several things"),
        ("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n", "begins like a VCF"),
        ("Chrom\tCHROM\tpos\tref\talt\n7\t7\t5\tA\tC\n", "columns Chrom and CHROM"),
    ],
)
def test_tables_that_could_be_several_things_are_refused(toy, tmp_path, content, message):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        run(toy, tmp_path / "a.tsv", tmp_path / "o.tsv")


def names_of(tmp_path, chromosomes, aliases="auto"):
    writer = StoreWriter(tmp_path / "named", ["a", "b"])
    for name in chromosomes:
        writer.write(name, np.ones((10, 2), np.uint8))
    writer.close()
    return Names(AlignmentStore(tmp_path / "named"), aliases)


def test_styles_of_names(tmp_path):
    names = names_of(tmp_path, ["chr1", "22", "MT", "NC_000023.11", "chrUn_x"])
    for name, own in {
        "1": "chr1", "chr22": "22", "NC_000022.10": "22", "NC_000001.11": "chr1", "chrM": "MT", "M": "MT",
        "NC_012920.1": "MT", "X": "NC_000023.11", "chrX": "NC_000023.11", "Un_x": "chrUn_x", "chr2": None,
        "NC_000002.12": None,
        "NC_000022": None, "NC_001807.4": None, "122": None,
    }.items():  # fmt: skip
        assert names.find(name) == own, name
    assert canonical("NC_000086.8") == "X"


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [("chr22", ["22"], "22"), ("22", ["chr22"], "chr22"), ("22", ["chr22", "22"], "22"), ("chrM", ["MT"], "MT"),
     ("MT", ["chrM"], "chrM"), ("chrUn", ["22"], None), ("2", ["22"], None), ("NC_000022.11", ["chr22"], "chr22"),
     ("NC_000022.10", ["chr22", "22"], None)],
)  # fmt: skip
def test_one_rule_for_the_names_of_all_kinds_of_files(name, known, found):
    assert ChromosomeNames(known).find(name) == found


def test_ambiguous_styles_are_no_aliases_and_none_takes_own_names_only(tmp_path):
    names = names_of(tmp_path, ["chr1", "1", "2"])
    assert [names.find(name) for name in ("chr1", "1", "NC_000001.11", "chr2")] == ["chr1", "1", None, "2"]
    assert Names(AlignmentStore(tmp_path / "named"), "none").find("chr2") is None


def test_a_table_of_aliases(toy, source, tmp_path):
    source.write_text(source.read_text().replace("\n7\t", "\nCM000669.2\t"))
    with pytest.raises(UserError, match="none of the variants' chromosomes"):
        run(toy, source, tmp_path / "o.vcf")
    table = tmp_path / "aliases.tsv"
    table.write_text("CM000669.2\t7\n")
    counts = run(toy, source, tmp_path / "o.vcf", aliases=str(table))
    assert counts.text() == "100 scored"
    assert counts.names.text() == "CM000669.2 as 7 (100 alleles)"
    for content, message in (
        ("a\tb\n", "has no chromosome 'b'"),
        ("a b\n", "a line is a name, a tab"),
    ):
        table.write_text(content)
        with pytest.raises(UserError, match=message):
            run(toy, source, tmp_path / "p.vcf", aliases=str(table))


def test_aliases_are_said(toy, tmp_path, call):
    path = vcf(tmp_path / "in.vcf", toy[1])
    path.write_text(path.read_text().replace("\n7\t", "\nNC_000007.14\t"))
    out = call("score", "frequencies", toy[0], path, "--out", "o.vcf", "--no-progress")[1]
    assert "Names of chromosomes: NC_000007.14 as 7 (100 alleles)" in out


def test_a_sorted_vcf_gets_an_index_and_an_older_one_is_removed(tmp_path):
    import pysam

    from r2mae_dna.data.variants import Result
    from r2mae_dna.data.vcf import VcfFile

    head = "##fileformat=VCFv4.2\n##contig=<ID=7>\n##contig=<ID=8>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    rows = ["7\t5\t.\tA\tC\t.\t.\t.\n", "7\t9\t.\tA\tC\t.\t.\t.\n", "8\t2\t.\tA\tC,G\t.\t.\t.\n"]
    out, index = tmp_path / "o.vcf.gz", tmp_path / "o.vcf.gz.tbi"
    for order, ascending in (([0, 1, 2], True), ([1, 0, 2], False), ([2, 0, 1], True), ([0, 2, 1], False)):
        (tmp_path / "i.vcf").write_text(head + "".join(rows[i] for i in order))
        file = VcfFile(tmp_path / "i.vcf")
        results = [Result(np.zeros(n, np.float32), np.zeros(n, np.uint8)) for n in (len(a) for a in file.chunks(2))]
        file.write(out, results, 2, "r2mae_llr", {"Model": "m"})
        assert index.exists() == ascending, order
        if ascending:
            with pysam.VariantFile(str(out)) as found:
                assert [record.pos for record in found.fetch("7")] == [5, 9]
                assert [record.pos for record in found.fetch("8", 1, 2)] == [2]


@pytest.mark.parametrize("kind", ["tsv", "csv", "tsv.gz"])
def test_a_users_columns_are_written_as_they_were(toy, tmp_path, kind):
    """Numbers with leading or trailing zeros, NA, capitals: nothing is put into another form, by an index or not."""
    base = "-ACGT"[toy[1][49, 0] & TOKEN_BITS]
    other = "CGTA"["ACGT".index(base)]
    rows = [
        ["007", "0.10", "NA", "True", "01"],
        ["8", "1e-05", "", "false", "02"],
        ["x9", "5", "nan", "TRUE", "10"],
        ["1", "1", "1", "1", "11"],
    ]
    separator = "," if kind == "csv" else "\t"
    lines = [separator.join(["chrom", "pos", "ref", "alt", "name", "af", "gap", "flag", "code"])]
    lines += [separator.join(["7", "50", base, other, *row]) for row in rows]
    plain, given = tmp_path / f"in.{kind.removesuffix('.gz')}", tmp_path / f"in.{kind}"
    plain.write_text("\n".join(lines) + "\n")
    options = {}
    if kind == "tsv.gz":
        pysam.tabix_compress(str(plain), str(given))
        pysam.tabix_index(str(given), seq_col=0, start_col=1, end_col=1, line_skip=1)
        options = {"regions": "7:1-100"}
    out = tmp_path / f"out.{kind.removesuffix('.gz')}"
    run(toy, given, out, **options)
    assert [line.rsplit(separator, 2)[0] for line in out.read_text().splitlines()] == lines
    run(toy, given, tmp_path / "o.parquet", **options)
    frame = pl.read_parquet(tmp_path / "o.parquet")  # has types
    assert frame["name"].to_list() == [row[0] for row in rows]
    assert frame["code"].to_list() == ["01", "02", "10", "11"]
    assert frame["af"].to_list() == [0.1, 1e-5, 5.0, 1.0]
    assert frame["gap"].to_list() == [None, None, None, 1]
