"""TraitGym, ClinVar's VCF, gnomAD's frequencies, conservation tracks: against sklearn, numpy and rules by hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyBigWig
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from r2mae_core import UserError
from r2mae_dna.combination import combine
from r2mae_dna.evaluate import COMBINED, evaluate_table, load_labelled
from r2mae_dna.metrics import auprc_by_chromosome, pairwise_accuracy
from r2mae_dna.options import Evaluate

SIZES = {"1": 12, "2": 5, "X": 3}
"""Chromosome → groups of one positive and nine negatives."""


def matched(path, seed=0, ties=False):
    """Write a table as songlab/TraitGym's mendelian_traits_matched_9 is laid out; returns it."""
    rng = np.random.default_rng(seed)
    rows = []
    for chromosome, n in SIZES.items():
        for group, member in itertools.product(range(n), range(10)):
            score = -(rng.normal() + 1.5 * (member == 0))
            rows.append((chromosome, 1 + 20 * len(rows), "A", "C", member == 0, f"{chromosome}_{group}", score))
    names = ["chrom", "pos", "ref", "alt", "label", "match_group", "r2mae_llr"]
    frame = pl.DataFrame(rows, schema=names, orient="row").sample(fraction=1.0, shuffle=True, seed=1)
    if ties:
        frame = frame.with_columns(pl.col("r2mae_llr").round(0))
    frame = frame.with_columns(CADD=-pl.Series(rng.normal(size=len(frame))), maf=pl.lit(0.1), pip=pl.lit(0.5))
    frame.write_parquet(path)
    return frame


def by_hand(frame, column="r2mae_llr"):
    """Return the two metrics of TraitGym, written out."""
    total = pairs = 0.0
    for chromosome in SIZES:
        part = frame.filter(pl.col("chrom") == chromosome)
        total += len(part) * average_precision_score(part["label"], -part[column])
    shares = []
    for group in frame["match_group"].unique():
        part = frame.filter(pl.col("match_group") == group)
        (positive,) = part.filter("label")[column]
        others = part.filter(~pl.col("label"))[column].to_list()
        shares.append(sum(1.0 if positive < o else 0.5 if positive == o else 0.0 for o in others) / len(others))
    pairs = float(np.mean(shares))
    return total / len(frame), pairs, float(np.std(shares, ddof=1) / np.sqrt(len(shares)))


@pytest.mark.parametrize("ties", [False, True])
def test_traitgym_is_the_published_definition_by_hand(tmp_path, ties):
    frame = matched(tmp_path / "test.parquet", ties=ties)
    records, intervals, data = evaluate_table(Evaluate(tmp_path / "test.parquet", preset="traitgym", bootstrap=100))
    assert list(data.damage) == ["r2mae_llr", "CADD"]  # neither maf, pip nor the groups
    for column in data.damage:
        weighted, pairs, error = by_hand(frame, column)
        found = {r.metric: r.value for r in records if r.scheme == column}
        assert found["auprc_by_chromosome"] == pytest.approx(weighted)
        assert found["pairwise_accuracy"] == pytest.approx(pairs)
        assert intervals[column, "pairwise_accuracy"].error == pytest.approx(error)
        assert intervals[column, "pairwise_accuracy"].n == 20
        assert found["auprc"] == pytest.approx(average_precision_score(frame["label"], -frame[column]))
        assert "partial_auroc" not in found


def test_the_error_over_chromosomes_is_that_of_resampled_chromosomes():
    rng = np.random.default_rng(0)
    chromosomes = np.repeat([str(i) for i in range(20)], rng.integers(20, 60, 20))
    labels = rng.random(len(chromosomes)) < 0.3
    damage = rng.normal(size=len(labels)) + labels
    found = auprc_by_chromosome(labels, damage, chromosomes, 4000, 1)
    n, ap = zip(
        *(
            (m.sum(), average_precision_score(labels[m], damage[m]))
            for m in (chromosomes == c for c in set(chromosomes))
        ),
        strict=True,
    )
    n, ap = np.array(n), np.array(ap)
    assert found.value == pytest.approx(np.average(ap, weights=n))
    # The textbook's linearised error of a ratio of sums.
    residual = n * (ap - found.value)
    assert found.error == pytest.approx(np.sqrt((residual**2).sum()) / n.sum(), rel=0.1)


def test_chromosomes_and_groups_without_both_labels_are_left_out_and_counted():
    labels = np.array([True, False, False, False, True, True])
    damage = np.array([3.0, 1.0, 2.0, 9.0, 9.0, 9.0])
    names = np.array(["a", "a", "a", "b", "c", "c"])
    one = auprc_by_chromosome(labels, damage, names, 10, 0)
    assert (one.value, one.n, one.left_out, one.error) == (1.0, 1, 2, None)
    two = pairwise_accuracy(labels, damage, names)
    assert (two.value, two.n, two.left_out, two.error) == (1.0, 1, 2, None)


def test_a_distance_from_zero_counts_with_absolute(tmp_path):
    frame = matched(tmp_path / "t.parquet").with_columns(r2mae_llr=pl.col("r2mae_llr") + 1.0)
    frame.write_parquet(tmp_path / "t.parquet")
    records = evaluate_table(Evaluate(tmp_path / "t.parquet", bootstrap=0, absolute=True))[0]
    assert records[0].value == pytest.approx(roc_auc_score(frame["label"], frame["r2mae_llr"].abs()))
    with pytest.raises(UserError, match="--absolute and --higher_is_worse do not go together"):
        Evaluate(tmp_path / "t.parquet", absolute=True, higher_is_worse=True)


def track(path, values, chromosomes=("chr1", "chr2", "chrX")):
    """Write a bigWig with the values on every chromosome, from its first base on."""
    with_header = pyBigWig.open(str(path), "w")
    with_header.addHeader([(name, 10_000) for name in chromosomes])
    for name in chromosomes:
        with_header.addEntries(name, 0, values=values.tolist(), span=1, step=1)
    with_header.close()
    return path


def test_tracks_are_rows_beside_the_scores_at_the_variants_own_base(tmp_path):
    frame = matched(tmp_path / "t.parquet")
    values = np.random.default_rng(5).normal(size=4001).astype(np.float32)
    config = Evaluate(tmp_path / "t.parquet", bootstrap=0, phylop=track(tmp_path / "p.bw", values))
    records, _, data = evaluate_table(config)
    at = values[frame["pos"].to_numpy() - 1]
    found = {r.scheme: r.value for r in records if r.metric == "auroc"}
    assert found["phyloP"] == pytest.approx(roc_auc_score(frame["label"], at))  # it grows with the damage
    assert found["r2mae_llr"] == pytest.approx(roc_auc_score(frame["label"], -frame["r2mae_llr"]))
    assert len(data.labels) == 200
    shares = np.abs(values[:2000]) % 1
    short = evaluate_table(Evaluate(tmp_path / "t.parquet", bootstrap=0, phastcons=track(tmp_path / "s.bw", shares)))
    assert short[2].n_missing == int((frame["pos"] > 2000).sum()) > 0
    assert "with a missing score" in short[2].text()
    with pytest.raises(UserError, match="is no phastCons, which lies between 0 and 1"):
        evaluate_table(Evaluate(tmp_path / "t.parquet", bootstrap=0, phastcons=tmp_path / "p.bw"))
    other = track(tmp_path / "o.bw", values, ("scaffold",))
    with pytest.raises(UserError, match=r"has no value at any variant .* is it of another genome"):
        evaluate_table(Evaluate(tmp_path / "t.parquet", phylop=other))
    frame.with_columns(phyloP=pl.lit(1.0)).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="has a column phyloP already"):
        evaluate_table(Evaluate(tmp_path / "c.parquet", phylop=other))
    frame.drop("r2mae_llr", "CADD").write_parquet(tmp_path / "only.parquet")
    alone = evaluate_table(Evaluate(tmp_path / "only.parquet", bootstrap=0, phylop=tmp_path / "p.bw"))[0]
    assert {r.scheme for r in alone} == {"phyloP"}


def test_the_combination_never_sees_the_chromosome_that_it_predicts():
    rng = np.random.default_rng(3)
    chromosomes = np.repeat(["1", "2", "3", "4"], 100)
    labels = rng.random(400) < 0.3
    features = rng.normal(size=(400, 2)) + labels[:, None] * [1.0, 0.5]
    found = combine(features, labels, chromosomes)
    changed = combine(features, np.where(chromosomes == "2", ~labels, labels), chromosomes)
    two = chromosomes == "2"
    assert (found[two] == changed[two]).all()
    assert (found[~two] != changed[~two]).any()
    # It is one of the regressions of its grid, by sklearn.
    train = ~two
    scaler = StandardScaler().fit(features[train])
    fits = [
        LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(
            scaler.transform(features[train]), labels[train]
        )
        for c in np.logspace(-8, 0, 10)
    ]
    candidates = [fit.predict_proba(scaler.transform(features[two]))[:, 1] for fit in fits]
    assert min(np.abs(found[two] - candidate).max() for candidate in candidates) < 1e-9
    with pytest.raises(UserError, match="needs three with positive and negative rows; 2 have them"):
        combine(features, labels & np.isin(chromosomes, ["1", "2"]), chromosomes)


def test_combined_scores_are_one_more_row(tmp_path, call):
    matched(tmp_path / "t.parquet")
    words = ["evaluate", tmp_path / "t.parquet", "--preset", "traitgym", "--combine", "--bootstrap", "20"]
    code, out, _ = call(*words, "--out", "run")
    assert code == 0
    assert "20 matched groups" in out
    assert "3 chromosomes" in out
    noted = json.loads(Path("run/intervals.json").read_text())["intervals"]
    assert {entry["scheme"] for entry in noted} == {"r2mae_llr", "CADD", COMBINED}
    assert all(entry["error"] > 0 for entry in noted if entry["metric"] == "pairwise_accuracy")
    one = ["evaluate", tmp_path / "t.parquet", "--scores", '["CADD"]', "--combine"]
    assert "--combine needs two scores at least" in call(*one)[2]


CLINVAR = """##fileformat=VCFv4.1
##INFO=<ID=CLNSIG,Number=.,Type=String,Description="">
##INFO=<ID=CLNREVSTAT,Number=.,Type=String,Description="">
##INFO=<ID=MC,Number=.,Type=String,Description="">
##INFO=<ID=R2MAE_LLR,Number=A,Type=Float,Description="">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO
"""
RECORDS = [  # ref, alt, CLNSIG, CLNREVSTAT, MC, score
    ("A", "C", "Pathogenic", "reviewed_by_expert_panel", "SO:0001583|missense_variant", -5),
    ("A", "C", "Pathogenic", "criteria_provided,_single_submitter", "SO:0001587|nonsense", -4),
    ("A", "C", "Benign", "criteria_provided,_multiple_submitters,_no_conflicts",
     "SO:0001627|intron_variant,SO:0001583|missense_variant", -1),
    ("A", "C", "Benign", "no_assertion_criteria_provided", "SO:0001583|missense_variant", 0),
    ("A", "C", "Pathogenic/Likely_pathogenic", "criteria_provided,_single_submitter",
     "SO:0001583|missense_variant", -3),
    ("A", "C", "Likely_benign", "criteria_provided,_single_submitter", "SO:0001583|missense_variant", -2),
    ("A", "C", "Uncertain_significance", "criteria_provided,_single_submitter", "SO:0001583|missense_variant", -2),
    ("A", "C", "Pathogenic|risk_factor", "criteria_provided,_single_submitter", "SO:0001583|missense_variant", -2),
    ("AG", "A", "Pathogenic", "criteria_provided,_single_submitter", "SO:0001589|frameshift_variant", -9),
    ("A", "C", "Benign", "a_new_status", "SO:0001583|missense_variant", -9),
    ("A", "C", "", "", "", -9),
]  # fmt: skip


@pytest.fixture
def clinvar(tmp_path):
    lines = []
    for i, (ref, alt, significance, status, terms, score) in enumerate(RECORDS):
        pairs = {"CLNREVSTAT": status, "CLNSIG": significance, "MC": terms, "R2MAE_LLR": str(score)}
        info = ";".join(f"{key}={value}" for key, value in pairs.items() if value)
        lines.append(f"1\t{100 + i}\t{i}\t{ref}\t{alt}\t.\t.\t{info}\n")
    (tmp_path / "clinvar.vcf").write_text(CLINVAR + "".join(lines))
    return tmp_path / "clinvar.vcf"


def test_clinvars_own_labels_with_every_row_accounted_for(clinvar):
    data = load_labelled(Evaluate(clinvar, preset="clinvar"))
    assert data.labels.tolist() == [True, True, False]
    assert data.damage["R2MAE_LLR"].tolist() == [5, 4, 1]
    assert data.n_read == len(RECORDS)
    assert {reason: n for reason, n in data.skipped.items() if n} == {
        "fewer than 1 stars": 1, "CLNSIG Pathogenic/Likely_pathogenic": 1, "CLNSIG Likely_benign": 1,
        "CLNSIG Uncertain_significance": 1, "CLNSIG Pathogenic|risk_factor": 1, "not a single-nucleotide variant": 1,
        "unknown CLNREVSTAT a_new_status": 1, "CLNSIG missing": 1,
    }  # fmt: skip
    assert len(data.labels) + sum(data.skipped.values()) == len(RECORDS)


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"likely": True}, [True, True, False, True, False]),
        ({"stars": 0}, [True, True, False, False]),
        ({"stars": 2}, [True, False]),
        ({"molecular_consequence": "missense_variant"}, [True, False]),
        ({"molecular_consequence": "missense_variant", "likely": True, "stars": 0}, [True, False, False, True, False]),
    ],
)
def test_stars_likely_labels_and_consequences(clinvar, changes, labels):
    assert load_labelled(Evaluate(clinvar, preset="clinvar", **changes)).labels.tolist() == labels


def test_a_vcf_of_another_kind_and_options_of_clinvar_elsewhere_are_refused(clinvar, tmp_path):
    plain = tmp_path / "p.vcf"
    plain.write_text(clinvar.read_text().replace("ID=CLNREVSTAT", "ID=OTHER"))
    with pytest.raises(UserError, match="is not ClinVar's VCF: its header has no INFO field CLNREVSTAT"):
        load_labelled(Evaluate(plain, preset="clinvar"))
    with pytest.raises(UserError, match=r"--stars \(for --preset clinvar\) does not apply to --preset gnomad"):
        Evaluate(plain, preset="gnomad", stars=2)
    with pytest.raises(UserError, match="a VCF has labels only for --preset"):
        load_labelled(Evaluate(plain))
    matched(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"--likely \(for ClinVar's own VCF\) does not apply to"):
        load_labelled(Evaluate(tmp_path / "t.parquet", preset="clinvar", likely=True))


@pytest.mark.parametrize("as_vcf", [True, False])
def test_gnomads_frequencies_in_bins_against_common_alleles(tmp_path, as_vcf):
    rng = np.random.default_rng(0)
    share = np.concatenate([10.0 ** rng.uniform(-6, 0, 400), [0.0, 1.0]])
    frame = pl.DataFrame({
        "chrom": ["1"] * 402, "pos": np.arange(1, 403), "ref": ["A"] * 402, "alt": ["C"] * 402, "AF": share,
        "r2mae_llr": rng.normal(size=402) + np.log10(np.maximum(np.minimum(share, 1 - share), 1e-9)),
    })  # fmt: skip
    path = tmp_path / ("g.vcf" if as_vcf else "g.parquet")
    if as_vcf:
        head = "".join(f'##INFO=<ID={n},Number=A,Type=Float,Description="">\n' for n in ("AF", "R2MAE_LLR"))
        rows = "".join(
            f"1\t{p}\t.\tA\tC\t.\t.\tAF={f!r};R2MAE_LLR={s!r}\n"
            for p, f, s in frame.select("pos", "AF", "r2mae_llr").rows()
        )
        path.write_text(f"##fileformat=VCFv4.2\n{head}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n{rows}")
    else:
        frame.write_parquet(path)
    records, _, data = evaluate_table(Evaluate(path, preset="gnomad", bootstrap=0))
    assert list(data.damage) == ["R2MAE_LLR" if as_vcf else "r2mae_llr"]
    assert data.skipped["without a frequency between 0 and 1"] == 2
    minor, damage = np.minimum(share, 1 - share)[:400], -frame["r2mae_llr"].to_numpy()[:400]
    common = minor > 0.05
    for low, high in itertools.pairwise((0, 1e-5, 1e-4, 1e-3, 1e-2, 0.05)):
        rows = ((minor > low) & (minor <= high)) | common
        found = next(r for r in records if r.task == f"gnomad {low:g} to {high:g}")
        assert found.n == rows.sum()
        assert found.value == pytest.approx(roc_auc_score(~common[rows], damage[rows]))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"AF": [0.5, 1.5], "s": [1.0, 2.0]}, "1.5 is no allele frequency; they lie between 0 and 1"),
        ({"AF": ["a", "b"], "s": [1.0, 2.0]}, "frequencies must be numbers"),
        ({"AC": [1, 2], "s": [1.0, 2.0]}, "--preset gnomad needs a column AF, or AC and AN"),
    ],
)
def test_frequencies_that_cannot_be_are_refused(tmp_path, frame, message):
    pl.DataFrame(frame).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError) as error:
        load_labelled(Evaluate(tmp_path / "t.parquet", preset="gnomad"))
    assert message in str(error.value)
