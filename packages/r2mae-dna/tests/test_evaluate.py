import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from r2mae_core import Record, UserError, compare
from r2mae_dna.data.samples import VARIANTS, sample_path
from r2mae_dna.evaluate import RANK_BY, evaluate_table, load_labelled
from r2mae_dna.metrics import auprc, auroc, partial_auroc, with_interval
from r2mae_dna.options import Evaluate


def table(path, n=400, labels=("Pathogenic", "Benign"), seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    frame = pl.DataFrame(
        {
            "chrom": ["1"] * n,
            "pos": np.arange(1, n + 1),
            "ref": ["A"] * n,
            "alt": ["C"] * n,
            "label": [labels[0] if p else labels[1] for p in positive],
            "consequence": [("5' UTR", "ncRNA")[i % 2] for i in range(n)],
            "CADD": -(rng.normal(size=n) + positive),
            "r2mae_llr": -(rng.normal(size=n) + 2 * positive),
        }
    )
    frame.write_parquet(path)
    return frame, positive


@pytest.mark.parametrize(
    "labels", [("Pathogenic", "Benign"), ("Pathogenic", "Common"), (True, False), (1, 0), (1.0, 0.0)]
)
def test_the_published_labels_are_understood(tmp_path, labels):
    _, positive = table(tmp_path / "t.parquet", labels=labels)
    data = load_labelled(Evaluate(tmp_path / "t.parquet"))
    assert (data.labels == positive).all()
    assert list(data.damage) == ["r2mae_llr", "CADD"]  # ours first


def test_metrics_are_those_of_the_reference_notebook(tmp_path):
    frame, positive = table(tmp_path / "t.parquet")
    records, _, data = evaluate_table(
        Evaluate(tmp_path / "t.parquet", preset="omim", bootstrap=0, scheme="r2mae", seed=4)
    )
    found = {(r.scheme, r.task, r.metric): r for r in records}
    assert set(found) == {
        (scheme, task, metric)
        for scheme in ("r2mae", "CADD")
        for task, metric in [("omim", "auroc"), ("omim", "auprc"), ("omim", "partial_auroc"),
                             ("omim 5' UTR", "auprc"), ("omim ncRNA", "auprc")]
    }  # fmt: skip
    score = -frame["r2mae_llr"].to_numpy()
    assert found["r2mae", "omim", "auroc"].value == roc_auc_score(positive, score)
    assert found["r2mae", "omim", "partial_auroc"].value == roc_auc_score(positive, score, max_fpr=0.001)
    rows = np.arange(400) % 2 == 1
    assert found["r2mae", "omim ncRNA", "auprc"].value == auprc(positive[rows], score[rows])
    assert found["r2mae", "omim", "auroc"].seed == 4
    assert found["r2mae", "omim", "auroc"].n == 400
    assert f"{positive.sum()} positive and {400 - positive.sum()} negative of 400 rows" in data.text()
    clinvar = evaluate_table(Evaluate(tmp_path / "t.parquet", preset="clinvar", bootstrap=0))[0]
    assert {(r.task, r.metric) for r in clinvar} == {("clinvar", "auroc"), ("clinvar", "auprc")}


def test_partial_auroc_is_the_standardised_area_written_out():
    rng = np.random.default_rng(1)
    labels, damage = rng.random(5000) < 0.2, rng.normal(size=5000)
    damage[labels] += 1
    false, true, _ = roc_curve(labels, damage)
    limit = 0.05
    inside = false < limit
    x, y = np.append(false[inside], limit), np.append(true[inside], np.interp(limit, false, true))
    area = np.trapezoid(y, x)
    low, high = limit**2 / 2, limit
    assert partial_auroc(limit)(labels, damage) == pytest.approx(0.5 * (1 + (area - low) / (high - low)))
    assert partial_auroc(0.001)(labels, rng.normal(size=5000)) == pytest.approx(0.5, abs=0.01)


def test_missing_scores_of_any_column_drop_the_row_for_all(tmp_path):
    frame, _ = table(tmp_path / "t.parquet")
    frame = frame.with_columns(
        pl.when(pl.col("pos") <= 10).then(None).otherwise(pl.col("CADD")).alias("CADD"),
        pl.when(pl.col("pos").is_between(8, 20)).then(float("nan")).otherwise(pl.col("r2mae_llr")).alias("r2mae_llr"),
    )
    frame.write_parquet(tmp_path / "n.parquet")
    data = load_labelled(Evaluate(tmp_path / "n.parquet"))
    assert data.n_missing == 20
    assert all(len(values) == 380 for values in data.damage.values())
    only = load_labelled(Evaluate(tmp_path / "n.parquet", scores=("CADD",)))
    assert only.n_missing == 10
    assert "10 with a missing score" in only.text()


def test_every_row_of_a_duplicate_is_dropped(tmp_path):
    frame, _ = table(tmp_path / "t.parquet")
    pl.concat([frame, frame.head(3)]).write_csv(tmp_path / "d.tsv", separator="\t")
    data = load_labelled(Evaluate(tmp_path / "d.tsv"))
    assert (data.n_duplicates, len(data.labels)) == (6, 397)
    assert len(load_labelled(Evaluate(tmp_path / "d.tsv", keep_duplicates=True)).labels) == 403


def test_orientation(tmp_path):
    table(tmp_path / "t.parquet")
    low = evaluate_table(Evaluate(tmp_path / "t.parquet", bootstrap=0))[0]
    high = evaluate_table(Evaluate(tmp_path / "t.parquet", bootstrap=0, higher_is_worse=True))[0]
    assert low[0].value > 0.8
    assert high[0].value == pytest.approx(1 - low[0].value)


def test_a_larger_score_ranks_first_in_every_ranked_metric():
    records = [
        Record("t", metric, value, scheme, 0, 10)
        for metric in RANK_BY
        for scheme, value in (("good", 0.9), ("bad", 0.6))
    ]
    for metric in RANK_BY:
        table = compare([r for r in records if r.metric == metric], RANK_BY)
        assert table.mean_rank == {"good": 1.0, "bad": 2.0}, metric
    assert set(RANK_BY) == {"auroc", "auprc", "partial_auroc", "auprc_by_chromosome", "pairwise_accuracy"}


def test_the_interval_holds_the_value_and_depends_on_the_seed_alone():
    rng = np.random.default_rng(2)
    labels = rng.random(300) < 0.4
    damage = rng.normal(size=300) + labels
    first, second = (with_interval(auroc, labels, damage, 200, seed=1) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high
    # Hanley and McNeil's standard error, computed apart: the interval is about four of it wide.
    a, n1, n0 = first.value, labels.sum(), (~labels).sum()
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    se = np.sqrt((a * (1 - a) + (n1 - 1) * (q1 - a * a) + (n0 - 1) * (q2 - a * a)) / (n1 * n0))
    assert first.high - first.low == pytest.approx(3.92 * se, rel=0.25)
    assert with_interval(auroc, labels, damage, 0, seed=1).low is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "truth"}, "has no label column 'truth'; it has chrom"),
        ({"scores": ("REVEL",)}, "has no score column 'REVEL'"),
        ({"label": "consequence"}, "labels must be true/false, 1/0, Pathogenic/Benign or Pathogenic/Common, got"),
        ({"preset": "rare-common"}, "reads a VCF with AC and AN"),
    ],
)
def test_wrong_columns_are_named(tmp_path, change, message):
    table(tmp_path / "t.parquet")
    with pytest.raises(UserError) as error:
        evaluate_table(Evaluate(tmp_path / "t.parquet", **change))
    assert message in str(error.value)


def test_nothing_left_to_evaluate_is_named(tmp_path):
    frame, _ = table(tmp_path / "t.parquet")
    frame.with_columns(r2mae_llr=pl.lit(None, dtype=pl.Float64)).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(UserError, match=r"0 positive and 0 negative rows are left of 400 .* 400 with a missing score"):
        evaluate_table(Evaluate(tmp_path / "e.parquet"))
    frame.with_columns(label=pl.lit(True)).write_parquet(tmp_path / "o.parquet")
    with pytest.raises(UserError, match="400 positive and 0 negative rows are left"):
        evaluate_table(Evaluate(tmp_path / "o.parquet"))
    frame.select("chrom", "pos", "label").write_parquet(tmp_path / "s.parquet")
    with pytest.raises(UserError, match="has no numeric column to evaluate"):
        evaluate_table(Evaluate(tmp_path / "s.parquet"))


def test_the_frequency_baseline_on_the_real_variants(apes, tmp_path):
    from r2mae_dna.options import Score
    from r2mae_dna.score import score_variants

    store, _, variants = apes
    for source in (sample_path(VARIANTS), variants):  # the trimmed file holds the same rows
        out = tmp_path / f"{source.name}.out.vcf"
        score_variants(Score("frequencies", store, source, out=out, min_defined=1.0, progress=False))
        records, _, data = evaluate_table(Evaluate(out, preset="rare-common", bootstrap=0))
        # Measured apart from this code when the data were chosen.
        assert (int(data.labels.sum()), int((~data.labels).sum())) == (1921, 1246)
        assert {r.metric: round(r.value, 3) for r in records} == {
            "auroc": 0.684,
            "auprc": 0.710,
            "partial_auroc": 0.500,
        }
    with pytest.raises(UserError, match="contains no scores; run r2mae-dna score first"):
        evaluate_table(Evaluate(variants, preset="rare-common"))


def test_probe_compares_with_plurality_and_shuffling(tmp_path):
    from r2mae_dna.probe import fit_plurality, plurality_log_probabilities, shuffle_alignment

    generator = torch.Generator().manual_seed(0)
    reference = torch.randint(1, 5, (200, 32, 1), generator=generator)
    noise = torch.randint(0, 5, (200, 32, 4), generator=generator)
    same = torch.rand((200, 32, 4), generator=generator) < 0.7
    codes = torch.cat([reference, torch.where(same, reference, noise)], -1).to(torch.uint8)
    smoothing, background = fit_plurality(codes)
    log_p = plurality_log_probabilities(codes, smoothing, background)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(200, 32), atol=1e-5)
    hit = (log_p.argmax(-1) == codes[..., 0].long() - 1).float().mean()
    assert hit > 0.9
    shuffled = shuffle_alignment(codes, generator)
    assert torch.equal(shuffled[..., 0], codes[..., 0])
    assert not torch.equal(shuffled, codes)
    columns = lambda x: sorted(map(tuple, x[0, :, 1:].tolist()))  # noqa: E731
    assert columns(shuffled) == columns(codes)
