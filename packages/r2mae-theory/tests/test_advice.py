"""Advice on real data: exact per target, close to real masked regressions, and clear about bad data."""

import time

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from r2mae_theory import Covariance, DataError, Fixed, TheoryError, Uniform, advise, predict_risk, read_table
from r2mae_theory.advice import _valley, standardise
from r2mae_theory.covariance import shrunk_moment
from r2mae_theory.data import RawTable, clean
from r2mae_theory.targets import Targets
from r2mae_theory.validate import held_out_rows

DATA = {"digits": load_digits().data, "cancer": load_breast_cancer().data}


@pytest.mark.parametrize("n", [12, 300])
@pytest.mark.parametrize("mask", [Fixed(0.4), Uniform(0.1, 0.7)])
def test_rank_one_updates_equal_leaving_the_feature_out(n, mask):
    X = standardise(DATA["cancer"])
    S, chosen = shrunk_moment(X, 0.1), np.array([0, 7, 29])
    got = Targets(X, 0.1, chosen)
    for risk, noise, null, j in zip(got.risks([mask], n)[0], got.noise, got.null, chosen, strict=True):
        rest = np.arange(len(S)) != j
        cov = Covariance.from_matrix(S[np.ix_(rest, rest)])
        beta = np.linalg.solve(cov.matrix, S[rest, j])
        assert noise == pytest.approx(S[j, j] - beta @ S[rest, j], rel=1e-10)
        assert null == pytest.approx(cov.quadratic(beta), rel=1e-10)
        assert risk == pytest.approx(predict_risk(cov, beta, noise**0.5, n, mask).total, rel=1e-7)


def test_predicted_minimum_is_where_real_regressions_have_theirs():
    """Where the measured minimum is clear, the predicted one is at most a grid step away."""
    cases = [(name, n) for name in DATA for n in (20, 60, 100, 200)]
    found = {case: advise(DATA[case[0]], case[1], n_bootstrap=0, validate=True).validation for case in cases}
    clear = {case: v.steps_apart for case, v in found.items() if v.is_clear}
    assert {name for name, _ in clear} == set(DATA)
    assert len(clear) >= 4
    assert max(clear.values()) <= 1, clear


def test_bootstrap_ranges_and_targets():
    found = advise(DATA["cancer"], 20, n_bootstrap=8, targets=[0, 3, 5])
    assert len(found.bootstrap_ratios) == 8
    low, high = found.ratio_interval
    assert low <= found.best_ratio <= high
    assert found.best_ratio == found.ratios[found.curve.argmin()]
    assert found.range_curve.min() == found.range_curve[found.ranges.index(found.best_range)]
    assert found.near_best[0] <= found.best_ratio <= found.near_best[1]
    assert found.targets == ("0", "3", "5")
    assert len(found.per_target) == 3
    again = advise(DATA["cancer"], 20, n_bootstrap=8, targets=[0, 3, 5])
    assert (again.bootstrap_ratios == found.bootstrap_ratios).all()


def notes_of(X, *arguments, **options):
    return " / ".join(advise(X, *arguments, n_bootstrap=0, **options).notes)


def test_reasons_against_the_advice_are_noted():
    X = DATA["cancer"]
    assert advise(X, 100, n_bootstrap=0).notes == ()  # the best is 0.1
    assert "at the end of the grid: a smaller one" in notes_of(X, 100, [0.1, 0.2, 0.4])
    assert "at the end of the grid: a larger one" in notes_of(X, 100, [0.05, 0.1])
    assert "at the end" not in notes_of(X, 100, [0.1])
    assert "null risk" not in notes_of(X, 100, [0.1])
    assert "no more samples than features (30 and 30)" in notes_of(X[:30], 30)
    assert "singular" not in notes_of(X[:31], 31)


def test_a_prediction_worse_than_none_is_noted():
    """Features that are almost unrelated: there is nothing to learn at any ratio."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 40)) + 0.3 * rng.standard_normal((300, 1))
    found = advise(X, n_bootstrap=0)
    assert found.curve.min() >= 1
    assert any("above the null risk at every ratio" in note for note in found.notes)


def test_unrelated_features_are_refused():
    with pytest.raises(TheoryError, match="features are unrelated"):
        advise(np.random.default_rng(0).standard_normal((300, 40)), n_bootstrap=2)


def test_many_features_take_seconds():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 30)) @ rng.standard_normal((30, 600)) + rng.standard_normal((400, 600))
    start = time.perf_counter()
    assert advise(X, n_bootstrap=0).n_features == 600
    assert time.perf_counter() - start < 10


def test_dirty_data_are_cleaned_and_the_loss_is_noted():
    X = DATA["cancer"].copy()
    X[:, 2] = 4.0
    X[3, 5] = np.nan
    X[7, 6] = np.inf
    X[: len(X) - 10, 9] = np.nan
    table = clean(RawTable(X, [f"f{k}" for k in range(30)]))
    assert table.X.shape == (len(X) - 2, 28)
    notes = " ".join(table.notes)
    assert "f2" in notes
    assert "f9" in notes
    assert "2 of 569 rows" in notes
    found = advise(table, 20, n_bootstrap=0, targets=[2, 5])
    assert found.targets == ("f5",)
    assert any("[2]" in note for note in found.notes)
    with pytest.raises(TheoryError, match="none of the target"):
        advise(table, 20, targets=[2])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((9, 5)), "only 9 complete samples"),
        (np.ones((50, 5)), "usable features"),
        (np.zeros((0, 5)), "only 0"),
        (np.ones(7), "shape"),
        ([["a", "b"]] * 20, "not numeric"),
    ],
)
def test_unusable_data_are_refused(X, message):
    with pytest.raises(DataError, match=message):
        advise(X)


def test_bad_arguments_are_refused():
    X = DATA["cancer"]
    for change in ({"ratios": [0.0, 0.5]}, {"n_samples": 0}, {"targets": "some"}, {"shrinkage": 2.0}):
        with pytest.raises(TheoryError):
            advise(X, **change)
    with pytest.raises(DataError, match="singular"):
        advise(np.column_stack([X, X[:, 0] + X[:, 1]]), 20, shrinkage=0.0)


def test_readers(tmp_path):
    X = DATA["cancer"][:40, :6]
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "a.npz", X=X, other=X[:, :2])
    np.savez(tmp_path / "two.npz", a=X, b=X)
    header = "id,f0,f1,f2,f3,f4,f5\n"
    body = "\n".join(f"row{k}," + ",".join(map(str, row)) for k, row in enumerate(X))
    (tmp_path / "a.csv").write_text(header + body + "\n")
    (tmp_path / "bare.csv").write_text("\n".join(",".join(map(str, row)) for row in X))
    for name in ("a.npy", "a.npz", "a.csv", "bare.csv"):
        assert np.allclose(read_table(tmp_path / name).X, X)
    table = read_table(tmp_path / "a.csv")
    assert table.names == ("f0", "f1", "f2", "f3", "f4", "f5")
    assert "id" in table.notes[0]
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "text.csv").write_text("a,b\nx,y\nz,w\n")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1\n")
    (tmp_path / "odd.txt").write_text("1")
    (tmp_path / "latin.csv").write_bytes(b"\xe9,a\n1,2\n")
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in (
        "empty.csv",
        "text.csv",
        "ragged.csv",
        "odd.txt",
        "latin.csv",
        "none.csv",
        "two.npz",
        "bad.npy",
        "pickle.npy",
    ):
        with pytest.raises(DataError):
            read_table(tmp_path / name)


@pytest.mark.filterwarnings("ignore::Warning:anndata")  # about pandas and about its own names
@pytest.mark.filterwarnings("ignore:.*infer_string.*")
def test_parquet_and_h5ad_are_read(tmp_path):
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, (30, 5)).astype(np.float32)
    frame = pd.DataFrame(X, columns=list("abcde")).assign(label="x", flag=X[:, 0] > 1)
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.names == ("a", "b", "c", "d", "e", "flag")
    assert np.array_equal(table.X[:, :5], X)
    assert table.notes == ("dropped 1 columns that are not numeric: label",)
    for name, counts in (("dense", X), ("sparse", sp.csr_matrix(X))):
        cells = anndata.AnnData(counts, var=pd.DataFrame(index=[f"gene{k}" for k in range(5)]))
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
        table = read_table(tmp_path / f"{name}.h5ad")
        assert np.array_equal(table.X, X)
        assert table.names[0] == "gene0"
    frame[["label"]].to_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no numeric column"):
        read_table(tmp_path / "text.parquet")
    for name in ("bad.parquet", "bad.h5ad"):
        (tmp_path / name).write_bytes(b"not really")
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            read_table(tmp_path / name)


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    import importlib

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for name, package in (("a.parquet", "pandas and pyarrow"), ("a.h5ad", "anndata")):
        (tmp_path / name).write_bytes(b"not really")
        with pytest.raises(DataError, match=rf"needs {package}: pip install 'r2mae-theory\[files\]'"):
            read_table(tmp_path / name)


def test_the_bootstrap_resamples_the_samples():
    """Each replicate is the advice for as many rows, drawn with replacement."""
    grid = np.arange(0.04, 0.5, 0.02).round(2)
    X = clean(DATA["cancer"][:60]).X
    found = advise(X, 40, grid, n_bootstrap=6, seed=3)
    rng = np.random.default_rng(3)
    again = [advise(X[rng.integers(0, len(X), len(X))], 40, grid, n_bootstrap=0) for _ in range(6)]
    assert found.bootstrap_ratios.tolist() == [replicate.best_ratio for replicate in again]
    assert found.bootstrap_ranges == tuple(replicate.best_range for replicate in again)
    assert len(set(found.bootstrap_ratios)) > 1
    assert found.ratio_interval == pytest.approx(np.percentile(found.bootstrap_ratios, [5, 95]))
    assert advise(X, 40, grid, n_bootstrap=0).ratio_interval is None


def test_a_bootstrap_uses_a_hundred_targets_at_most(monkeypatch):
    counts = []
    risks = Targets.risks
    monkeypatch.setattr(Targets, "risks", lambda self, *a: counts.append(len(self.noise)) or risks(self, *a))
    rng = np.random.default_rng(0)
    advise(rng.standard_normal((150, 3)) @ rng.standard_normal((3, 120)) + rng.standard_normal((150, 120)), 50,
           [0.2, 0.5], n_bootstrap=1)  # fmt: skip
    assert counts == [120, 100]


@pytest.mark.parametrize(
    ("curve", "valley"),
    [
        ([1.02, 1.01, 1.0, 1.005, 1.02], (0.2, 0.4)),
        ([1.0, 1.005, 1.02, 1.005, 1.02], (0.1, 0.2)),  # a second valley does not count
        ([1.1, 1.1, 1.1, 1.009, 1.0], (0.4, 0.5)),
        ([1.1, 1.0, 1.011, 1.1, np.inf], (0.2, 0.2)),
    ],
)
def test_near_best_is_the_valley_within_one_percent(curve, valley):
    grid = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert _valley(grid, np.array(curve), int(np.argmin(curve))) == valley


def test_near_best_is_that_of_the_predicted_curve():
    found = advise(DATA["cancer"], 60, np.arange(0.02, 0.5, 0.01), n_bootstrap=0)
    best = int(found.curve.argmin())
    assert found.near_best == _valley(found.ratios, found.curve, best)
    assert found.near_best[0] < found.best_ratio < found.near_best[1]


def test_the_predicted_error_has_the_noise_that_no_fit_removes():
    """Gaussian data: prediction and held-out error agree in level, which the excess risk alone would not."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 2)) @ rng.standard_normal((2, 20)) + 2 * rng.standard_normal((3000, 20))
    v = advise(X, 400, [0.5, 0.6, 0.7, 0.8], n_bootstrap=0, validate=True).validation
    assert v.predicted == pytest.approx(v.measured, rel=0.05)
    assert v.predicted.min() > 0.6
    assert v.measured_ratio == v_grid(v.measured)
    assert v.predicted_ratio == v_grid(v.predicted)


def v_grid(curve):
    return [0.5, 0.6, 0.7, 0.8][int(curve.argmin())]


def test_each_target_has_its_own_best_ratio():
    grid = np.arange(0.04, 0.5, 0.02).round(2)
    X = DATA["cancer"]
    found = advise(X, 60, grid, n_bootstrap=0, targets=[0, 9, 14])
    alone = [advise(X, 60, grid, n_bootstrap=0, targets=[j]).best_ratio for j in (0, 9, 14)]
    assert found.per_target.tolist() == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize(("n", "clear"), [(20, False), (100, True)])
def test_a_flat_curve_has_no_clear_minimum(n, clear):
    """Two of the cases in the README."""
    v = advise(DATA["cancer"], n, n_bootstrap=0, validate=True).validation
    assert v.is_clear == clear
    assert v.steps_apart == round(abs(v.measured_ratio - v.predicted_ratio) / 0.05)
    assert (v.n_samples, v.n_targets) == (n, 24)


@pytest.mark.parametrize(
    ("n", "planned", "held_out"),
    [(100, 20, 50), (100, 50, 50), (100, 70, 30), (100, 80, 20), (100, 95, 20), (10, 9, 5)],
)
def test_as_many_rows_are_held_out_as_the_planned_size_leaves(n, planned, held_out):
    assert held_out_rows(n, planned) == held_out


@pytest.mark.parametrize(
    ("planned", "at", "said"), [(40, 40, False), (70, 70, False), (None, 80, True), (500, 80, True)]
)
def test_the_validation_is_at_the_planned_size_or_says_at_which(planned, at, said):
    found = advise(DATA["cancer"][:100, :8], planned, [0.2, 0.4], n_bootstrap=0, validate=True)
    assert found.validation is not None
    assert found.validation.n_samples == at
    notes = [note for note in found.notes if "validated at n = 80, not at the planned" in note]
    assert len(notes) == said
