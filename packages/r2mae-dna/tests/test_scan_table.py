"""Scores of a scan, or of another table, looked up: what brute force over the table's lines says."""

import json
import math
import random

import pysam
import pytest

from dna_files import vcf
from r2mae_core import UserError
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.tables import read_frame
from r2mae_dna.options import Scan, Score
from r2mae_dna.scan import scan_genome
from r2mae_dna.score import score_variants

HEAD = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def scan(toy, toy_model, tmp_path):
    """A scan of a part of the toy contig, of which 200 is N."""
    config = Scan(str(toy_model[0]), toy[0], out=tmp_path / "scan", regions="7:31-260", formats=("tsv", "vcf"))
    scan_genome(config, alone=True)
    return tmp_path / "scan"


def write(path, text, vcf_kind=None, **how):
    """Write a bgzipped, indexed file."""
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(text.encode())
    how = how or ({"preset": "vcf"} if ".vcf" in path.name else {"seq_col": 0, "start_col": 1, "end_col": 1})
    pysam.tabix_index(str(path), keep_original=True, force=True, **how)
    return path


def look_up(table, variants, out, **options):
    return score_variants(Score(str(table), table, variants, out=out, progress=False, **options))


def variants(toy, path, n=300):
    """Write changes of one to four bases all over the contig, some on a wrong reference base."""
    letters, rng, rows = ["-ACGT"[c] for c in toy[1][:, 0] & TOKEN_BITS], random.Random(1), []
    for _ in range(n):
        p, size = rng.randrange(1, 300), rng.choice([1, 1, 1, 2, 3, 4])
        reference = "".join(letters[p - 1 : p - 1 + size]).replace("-", "A")
        if rng.random() < 0.03:
            reference = "ACGT"[("ACGT".index(reference[0]) + 1) % 4] + reference[1:]
        alternative = "".join(rng.choice("ACGT") for _ in reference)
        rows.append(
            (rng.choice(["7", "chr7", "NC_000007.14"]), p, reference, rng.choice([alternative, alternative.lower()]))
        )
    rows += [("7", 40, letters[39], "*"), ("7", 41, letters[40], letters[40] + "A"), ("9", 5, "A", "C")]
    path.write_text(HEAD + "".join(f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for c, p, r, a in rows))
    return rows


def by_hand(lines, position, reference, alternative):
    """The status and the score of a change by all lines of a table."""
    if len(reference) != len(alternative):
        return "indel", None
    if reference == alternative:
        return "not_snv", None
    total, status = 0.0, "scored"
    sites = {position + k: {r: {} for p, r, *_ in lines if p == position + k} for k in range(len(reference))}
    for p, r, a, x in lines:
        if p in sites:
            sites[p][r][a] = x
    pairs = [(sites[position + k], r, a) for k, (r, a) in enumerate(zip(reference, alternative, strict=True))]
    if any(site and r not in site for site, r, _ in pairs):
        return "ref_mismatch", None
    if not all(site for site, *_ in pairs):
        return "site_not_in_scan", None
    for site, r, a in pairs:
        if r != a and a not in site[r]:
            status = "allele_not_in_scan"
        total += site[r].get(a, 0.0)
    return status, total if status == "scored" else None


@pytest.mark.parametrize("file", ["scores.tsv.gz", "scores.vcf.gz"])
def test_a_scan_gives_what_brute_force_over_its_lines_gives(toy, toy_model, scan, tmp_path, file):
    rows = variants(toy, tmp_path / "in.vcf")
    with pysam.TabixFile(str(scan / "scores.tsv.gz")) as table:
        lines = [(int(r[1]), r[2], r[3], float(r[4])) for r in table.fetch(parser=pysam.asTuple())]
    counts = look_up(scan / file, tmp_path / "in.vcf", tmp_path / "o.tsv", chunk=70)
    found = read_frame(tmp_path / "o.tsv")
    for (name, p, r, a), llr, status in zip(rows, found["r2mae_llr"], found["r2mae_status"], strict=True):
        if name == "9" or a == "*":
            assert (status, llr) == ("outside" if name == "9" else "overlapping_deletion", None)
            continue
        wanted, value = by_hand(lines, p, r.upper(), a.upper())
        assert status == wanted, (p, r, a)
        assert llr == (value if value is None else pytest.approx(value, abs=1e-5))
    assert {"scored", "ref_mismatch", "site_not_in_scan", "indel"} <= set(found["r2mae_status"])
    assert counts.absent == {"9"}
    assert counts.names.used["chr7", "7"] == sum(row[0] == "chr7" for row in rows)
    # The network itself says the same, where the scan has been, to the digits of the scan.
    score_variants(
        Score(str(toy_model[0]), toy[0], tmp_path / "in.vcf", out=tmp_path / "m.tsv", progress=False, device="cpu")
    )
    model = read_frame(tmp_path / "m.tsv")
    both = (frame[name] for frame in (found, model) for name in ("r2mae_llr", "r2mae_status"))
    for llr, status, own, own_status in zip(*both, strict=True):
        assert status == own_status or status == "site_not_in_scan"
        assert llr is None or llr == pytest.approx(own, abs=3e-4)


def test_the_command_takes_a_scan_in_the_models_place(scan, toy, tmp_path, call):
    vcf(tmp_path / "in.vcf", toy[1], range(1, 101))
    for argv in (
        ["score", scan / "scores.tsv.gz", "in.vcf", "--out", "a.vcf", "--no-progress"],
        ["score", "--out", "b.vcf", "--no-progress", scan / "scores.tsv.gz", "--strict", "false", "in.vcf"],
        ["score", "--progress=false", scan / "scores.tsv.gz", scan / "scores.tsv.gz", "in.vcf", "--out", "c.vcf"],
    ):
        code, out, err = call(*argv)
        assert code == 0, err
        assert "70 scored, 30 site_not_in_scan" in out
        assert " on cpu" not in out.lower()
    text = (tmp_path / "a.vcf").read_text()
    assert text == (tmp_path / "b.vcf").read_text() == (tmp_path / "c.vcf").read_text()
    assert 'Model="toy-model"' in text
    assert 'Scan="scores.tsv.gz",ScanColumn="r2mae_llr"' in text
    code, out, _ = call("score", scan / "scores.tsv.gz", "in.vcf", "--regions", "chr7:51-60", "--out", "d.vcf")
    assert (code, "10 scored" in out) == (0, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"window": 64}, r"--window \(for a model\) does not apply"), ({"min_defined": 0.5}, "--min_defined"),
     ({"msa": "toy"}, "leave it out: score SCAN VARIANTS"), ({"scan_column": "x"}, "has no score 'x'")],
)  # fmt: skip
def test_options_of_a_model_are_refused(scan, toy, tmp_path, change, message):
    vcf(tmp_path / "in.vcf", toy[1])
    if "msa" in change:
        change = {"msa": toy[0]}
    options = {"msa": scan / "scores.tsv.gz", "out": tmp_path / "o.vcf", "variants": tmp_path / "in.vcf", **change}
    with pytest.raises(UserError, match=message):
        score_variants(Score(str(scan / "scores.tsv.gz"), **options))


@pytest.mark.parametrize(
    ("name", "text", "column", "expected"),
    [
        ("cadd.tsv.gz", "## CADD\n#Chrom\tPos\tRef\tAlt\tRawScore\tPHRED\n7\t50\tA\tC\t0.5\t7.25\n", "PHRED", 7.25),
        ("gpn.tsv.bgz", "7\t50\tA\tC\t-1.5\n7\t50\tA\tG\t-2\n", "", -1.5),
        ("low.tsv.gz", "#chrom\tpos\tref\talt\tscore\nchr7\t50\ta\tc\t-1.25\n", "", -1.25),
        ("ours.tsv.gz", "#chrom\tpos\tref\talt\tr2mae_llr\tother\n7\t50\tA\tC\t3\t9\n", "", 3),
        ("id.tsv.gz", "#chrom\tpos\tid\tref\talt\tscore\n7\t50\trs1\tA\tC\t0.25\n", "", 0.25),
        ("many.vcf.gz", HEAD.replace("#CHROM", '##INFO=<ID=S,Number=A,Type=Float,Description="x">\n#CHROM') +
         "7\t40\t.\tACGTACGTACGTA\tA\t.\t.\tS=9\n7\t50\t.\tA\tG,C,AT\t.\t.\tAC=1;S=1,2.5,3\n", "S", 2.5),
        ("twice.tsv.gz", "#chrom\tpos\tref\talt\tscore\n7\t50\tA\tC\t1\n7\t50\tA\tC\t1\n7\t50\tA\tAT\t4\n", "", 1),
    ],
)  # fmt: skip
def test_tables_of_others(tmp_path, name, text, column, expected):
    table = write(tmp_path / name, text, **({"seq_col": 0, "start_col": 1, "end_col": 1} if "tsv" in name else {}))
    (tmp_path / "in.vcf").write_text(HEAD + "chr7\t50\t.\tA\tC\t.\t.\t.\n")
    look_up(table, tmp_path / "in.vcf", tmp_path / "o.tsv", scan_column=column)
    assert read_frame(tmp_path / "o.tsv")["r2mae_llr"].to_list() == [expected]


@pytest.mark.parametrize(
    ("row", "status"),
    [("7\t50\tA\tG\t1", "allele_not_in_scan"), ("7\t51\tA\tC\t1", "site_not_in_scan"),
     ("7\t50\tA\tC\t.", "allele_not_in_scan"), ("7\t50\tA\tC\tNA", "allele_not_in_scan"),
     ("7\t50\tA\tC\tinf", "not_finite"), ("7\t50\tAC\tCC\t1", "site_not_in_scan"),
     ("8\t50\tA\tC\t1", "site_not_in_scan")],
)  # fmt: skip
def test_what_has_no_score_has_a_status_of_its_own(tmp_path, row, status):
    table = write(tmp_path / "t.tsv.gz", f"#chrom\tpos\tref\talt\tscore\n{row}\n7\t90\tT\tC\t1\n")
    (tmp_path / "in.vcf").write_text(HEAD + "7\t50\t.\tA\tC\t.\t.\t.\n7\t90\t.\tT\tC\t.\t.\t.\n")
    look_up(table, tmp_path / "in.vcf", tmp_path / "o.tsv", scan_column="score")
    found = read_frame(tmp_path / "o.tsv")
    assert found["r2mae_status"].to_list() == [status, "scored"]
    assert found["r2mae_llr"].to_list() == [None, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#chrom\tpos\tref\talt\ta\tb\n7\t50\tA\tC\t1\t2\n", "has the scores a, b; name one with --scan_column"),
        (
            "#chrom\tpos\tref\talt\tscore\n7\t50\tA\tC\t1\n7\t50\tA\tC\t2\n",
            r"two scores \(score\) of 7:50 A>C, 1 and 2",
        ),
        ("#chrom\tpos\tref\talt\tscore\n7\t10\tA\tC\t1\n7\t50\tA\tC\thigh\n", "is no line of scores"),
        ("#chrom\tpos\tref\talt\tscore\n7\t10\tA\tC\t1\n7\t50\tA\tC\n", "is no line of scores"),
        ("#chrom\tpos\tref\tscore\n7\t50\tA\t1\n", "has no column alt"),
        ("#chrom\tpos\tref\talt\tgene\n7\t50\tA\tC\tBRCA\n", "no score that can be told"),
        ("#chrom\tpos\tref\talt\tscore\n7\t50\tT\tC\t1\n", "1 of 1 reference alleles disagree"),
        ("#chrom\tpos\tref\talt\tscore\n9\t50\tT\tC\t1\n", "none of the variants' chromosomes"),
    ],
)
def test_tables_that_cannot_be_looked_up_are_one_line(tmp_path, text, message):
    table = write(tmp_path / "t.tsv.gz", text)
    (tmp_path / "in.vcf").write_text(HEAD + "7\t50\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(UserError, match=message):
        look_up(table, tmp_path / "in.vcf", tmp_path / "o.tsv")
    assert not (tmp_path / "o.tsv").exists()


def test_a_table_without_an_index_says_how_to_make_one(tmp_path):
    (tmp_path / "in.vcf").write_text(HEAD + "7\t50\t.\tA\tC\t.\t.\t.\n")
    table = write(tmp_path / "t.tsv.gz", "#chrom\tpos\tref\talt\tscore\n7\t50\tA\tC\t1\n")
    (tmp_path / "t.tsv.gz.tbi").unlink()
    with pytest.raises(UserError, match=r"has no index .*tabix -s 1 -b 2 -e 2 t\.tsv\.gz"):
        look_up(table, tmp_path / "in.vcf", tmp_path / "o.tsv")
    (tmp_path / "plain.vcf").write_text(HEAD.replace("#CHROM", "##INFO=<ID=R2MAE_LLR,Number=A>\n#CHROM"))
    with pytest.raises(UserError, match=r"is not bgzipped.*tabix -p vcf"):
        look_up(tmp_path / "plain.vcf", tmp_path / "in.vcf", tmp_path / "o.tsv")
    with pytest.raises(UserError, match="no file"):
        look_up(tmp_path / "nowhere.tsv.gz", tmp_path / "in.vcf", tmp_path / "o.tsv")
    with pytest.raises(UserError, match="looked up in a bgzipped TSV or VCF"):
        look_up(tmp_path / "t.csv", (tmp_path / "t.csv").write_text("x") and tmp_path / "in.vcf", tmp_path / "o.tsv")


def test_evaluate_looks_scores_up_beside_the_files_own(tmp_path, call):
    rng = random.Random(2)
    rows = [("7" if p % 2 else "8", p, rng.random() < 0.5, rng.random(), rng.random()) for p in range(1, 200)]
    lines = [f"{c}\t{p}\tA\tC\t{x}\n" for c, p, _, x, _ in sorted(rows) if p != 50]
    scan = write(tmp_path / "scores.tsv.gz", "#chrom\tpos\tref\talt\tr2mae_llr\n" + "".join(lines))
    head = "chrom\tpos\tref\talt\tlabel\tr2mae_llr\tlooked\n"
    (tmp_path / "t.tsv").write_text(
        head + "".join(f"chr{c}\t{p}\tA\tC\t{int(y)}\t{z}\t{x if p != 50 else ''}\n" for c, p, y, x, z in rows)
    )
    code, out, err = call("evaluate", "t.tsv", "--scan", f'["{scan}"]', "--out", "e", "--bootstrap", "0")
    assert code == 0, err
    assert "198 scored, 1 site_not_in_scan" in out
    records = json.loads((tmp_path / "e" / "results.json").read_text())["records"]
    values = {(r["scheme"], r["metric"]): r["value"] for r in records}
    assert {scheme for scheme, _ in values} == {"r2mae_llr", "looked", "r2mae_llr (scores.tsv.gz)"}
    for metric in ("auroc", "auprc"):
        assert math.isclose(values["looked", metric], values["r2mae_llr (scores.tsv.gz)", metric], abs_tol=1e-9)
        assert values["r2mae_llr", metric] != values["looked", metric]
    code, _, err = call("evaluate", "t.tsv", "--scan_column", "x", "--out", "f")
    assert (code, "--scan_column (for --scan)" in err) == (1, True)
