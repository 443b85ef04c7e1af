"""Few donors, donors that are missing, caps by task, and cells in place of donors: said in the notes, never silent."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler

from r2mae_core import UserError
from r2mae_singlecell import Protocol, Task, probe_embedding
from r2mae_singlecell import probing as module
from r2mae_singlecell.divisions import TASKS, donor_split
from r2mae_singlecell.linear_probes import ALPHAS

AGE, CELL_TYPE = Task("age", "regression"), Task("cell_type", "class")


def cells_of(n=400, n_donors=8, seed=0):
    rng = np.random.default_rng(seed)
    donor = rng.integers(0, n_donors, n)
    obs = pd.DataFrame({"donor": [f"d{i}" for i in donor], "age": 20.0 + 5 * donor})
    obs["cell_type"] = rng.choice(["t", "b", "nk"], n)
    obs["disease"] = np.array(["normal", "fibrosis"])[donor % 2]
    X = np.c_[obs["age"] / 50, obs["cell_type"] == "t", obs["cell_type"] == "b", obs["disease"] == "normal"]
    return obs, X.astype(float) + rng.normal(0, 0.3, X.shape)


@pytest.mark.parametrize("n_donors", [2, 3, 4, 6, 8, 12])
def test_any_number_of_donors_from_two_is_probed_and_what_is_special_is_said(n_donors):
    obs, X = cells_of(n_donors=n_donors)
    result = probe_embedding(X, obs, [CELL_TYPE, AGE])
    assert {r.task for r in result.records} == {"cell_type", "age"}
    n_train = round(0.5 * n_donors)
    said = " ".join(result.notes)
    assert ("one training donor" in said) == (n_train == 1)
    assert (f"{n_train} training donors: {n_train} folds" in said) == (1 < n_train < 5)
    different = {frozenset(obs["donor"].iloc[donor_split(obs, AGE, Protocol(), s)[0]]) for s in range(5)}
    assert (f"only {len(different)} of the 5 divisions" in said) == (len(different) < 5)


def test_four_training_donors_get_the_probe_of_four_folds():
    obs, X = cells_of()
    (rho, *_) = probe_embedding(X, obs, [AGE], Protocol(n_splits=1)).records
    train, test = donor_split(obs, AGE, Protocol(), 0)
    donors = obs["donor"].to_numpy()
    assert len(set(donors[train])) == 4
    scaler = StandardScaler().fit(X[train])
    search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, scoring="neg_mean_squared_error", cv=GroupKFold(4))
    search.fit(scaler.transform(X[train]), obs["age"].to_numpy()[train], groups=donors[train])
    predicted = pd.Series(search.predict(scaler.transform(X[test])))
    expected = predicted.corr(obs["age"].iloc[test].reset_index(drop=True), method="spearman")
    assert rho.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("missing", [None, np.nan, "nan", "", "Unknown", "NA"])
@pytest.mark.parametrize("kind", [object, "category"])
def test_cells_without_a_donor_are_in_no_division_and_counted(missing, kind):
    obs, X = cells_of()
    without = np.arange(60)
    obs.loc[without, "donor"] = missing
    obs["donor"] = obs["donor"].astype(kind)
    for task in TASKS["hlca"]:
        for split in range(5):
            assert not set(np.concatenate(donor_split(obs, task, Protocol(), split))) & set(without)
    assert any("60 of 400 cells have no donor" in note for note in probe_embedding(X, obs, [AGE]).notes)
    assert not any("donor" in note for note in probe_embedding(X, obs, [AGE], Protocol(held_out="cells")).notes[:-1])


def test_cells_of_reference_donors_and_without_a_value_are_counted():
    obs, X = cells_of()
    obs["is_reference"] = obs["donor"] == "d3"
    obs.loc[obs.index[:50], "age"] = np.nan
    notes = probe_embedding(X, obs, [AGE]).notes
    assert any(f"{sum(obs['is_reference'])} of 400 cells are of reference donors" in note for note in notes)
    n = int((obs["age"].isna() & ~obs["is_reference"]).sum())
    assert any(f"age: {n} of 400 cells have no value" in note for note in notes)


def test_each_task_may_have_a_cap_of_its_own():
    obs, _ = cells_of()
    protocol = Protocol(max_cells={"cell_type": 7})
    most = {
        task.name: max(obs["donor"].iloc[np.concatenate(donor_split(obs, task, protocol, 0))].value_counts())
        for task in (CELL_TYPE, AGE)
    }
    assert most["cell_type"] == 7
    assert most["age"] == obs["donor"].value_counts().max()  # the default is above


def test_a_division_that_cannot_be_measured_is_left_out_and_named():
    obs, X = cells_of(n_donors=3)
    disease = Task("disease", "class")
    result = probe_embedding(X, obs, [disease], Protocol(n_splits=12, train_share=0.6))
    two = [  # a probe needs two classes among the training cells
        split
        for split in range(12)
        if obs["disease"].iloc[donor_split(obs, disease, Protocol(train_share=0.6), split)[0]].nunique() == 2
    ]
    assert 0 < len(two) < 12
    assert [r.split for r in result.records if r.metric == "macro_f1"] == [f"test {split}" for split in two]
    assert sum("left out: only one class" in note for note in result.notes) == 12 - len(two)


def test_a_metric_without_a_value_is_left_out_and_named():
    obs, X = cells_of(n_donors=5)
    result = probe_embedding(X, obs, [Task("disease", "auroc")], Protocol(n_splits=12, train_share=0.6))
    assert result.records
    assert all(np.isfinite(record.value) for record in result.records)
    assert any("auroc_donor is left out: the test cells have one class" in note for note in result.notes)


def test_cells_are_divided_where_that_is_wanted():
    obs, X = cells_of(n_donors=1)
    with pytest.raises(UserError, match=r"1 donors cannot be divided .* --held_out cells"):
        probe_embedding(X, obs, [CELL_TYPE])
    protocol = Protocol(held_out="cells", max_cells=100)
    result = probe_embedding(X, obs.drop(columns="donor"), [CELL_TYPE, AGE], protocol)
    assert {r.metric for r in result.records} == {"balanced_accuracy", "macro_f1", "spearman_cell"}
    assert {r.n for r in result.records} == {50}
    assert any("cells are divided, not donors" in note for note in result.notes)
    train, test = donor_split(obs, CELL_TYPE, protocol, 0)
    assert len(train) == len(test) == len({*train, *test}) / 2 == 50


@pytest.mark.parametrize("at_once", [10**9, 1])
def test_only_the_cells_of_the_divisions_are_embedded(at_once, monkeypatch):
    monkeypatch.setattr(module, "CELLS_AT_ONCE", at_once)
    obs, X = cells_of(2000)
    asked = []

    def rows(cells):
        asked.append(cells)
        return X[cells]

    protocol = Protocol(n_splits=3, max_cells=10)
    lazily = probe_embedding(rows, obs, [CELL_TYPE, AGE], protocol)
    whole = probe_embedding(X, obs, [CELL_TYPE, AGE], protocol)
    assert [(r.task, r.split, r.value) for r in lazily.records] == [(r.task, r.split, r.value) for r in whole.records]
    wanted = {
        cell
        for task in (CELL_TYPE, AGE)
        for s in range(3)
        for side in donor_split(obs, task, protocol, s)
        for cell in side
    }
    assert {*np.concatenate(asked)} == wanted
    assert len(wanted) < 500
    assert len(asked) == (1 if at_once > 1 else 3)


def test_sparse_features_are_probed_as_dense_ones(monkeypatch):
    obs, X = cells_of()
    X = np.c_[X, np.ones(len(X)), np.zeros(len(X))]  # constant features too
    X[np.abs(X) < 0.3] = 0.0
    tasks = [CELL_TYPE, AGE, Task("disease", "auroc")]
    dense = probe_embedding(X, obs, tasks).records
    monkeypatch.setattr(sp.csr_matrix, "todense", None)
    sparse = probe_embedding(sp.csr_matrix(X), obs, tasks).records
    assert [r.value for r in sparse] == pytest.approx([r.value for r in dense], abs=0.01)
    assert [r.value for r in sparse if r.task == "age"] == pytest.approx(
        [r.value for r in dense if r.task == "age"], abs=1e-9
    )


def test_probe_of_a_lab_file_says_what_it_has_not(here, call):
    import anndata

    atlas = anndata.read_h5ad("a.h5ad")
    X = atlas.raw.X
    totals = np.asarray(X.sum(1)).ravel()
    kinds = np.array(["t", "b"])[(totals > np.median(totals)).astype(int)]
    lanes = np.array(["1", "2"])[np.arange(len(kinds)) % 2]
    obs = pd.DataFrame({"lane": lanes, "kind": kinds}, index=atlas.obs_names)
    lab = anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=atlas.raw.var_names))
    lab.write_h5ad("lab.h5ad")
    argv = (
        "--preset",
        "none",
        "--batch_column",
        "lane",
        "--cell_type_column",
        "kind",
        "--n_genes",
        30,
        "--out",
        "l.h5ad",
    )
    assert call("prepare", "lab.h5ad", *argv)[0] == 0
    size = ("--n_hidden", 16, "--n_latent", 4, "--epochs", 1, "--batch_size", 36, "--device", "cpu")
    assert call("pretrain", "l.h5ad", *size, "--out", "lab-run")[0] == 0
    code, _, err = call("probe", "lab-run", "l.h5ad", "--out", "no")
    assert code == 1
    assert "no column 'donor'" in err
    assert "--held_out cells" in err
    assert not Path("no").exists()
    code, out, _ = call("probe", "lab-run", "l.h5ad", "--held_out", "cells", "--n_splits", 2, "--out", "yes")
    assert code == 0
    assert "not predicted, because the data have no values: disease, age" in " ".join(out.split())
    assert "cells are divided, not donors" in " ".join(out.split())
    code, _, err = call("probe", "lab-run", "l.h5ad", "--tasks", "[age]", "--held_out", "cells")
    assert (code, "no column 'age'; name it" in err) == (1, True)


def test_evaluations_never_read_the_whole_file(here, monkeypatch, call):
    import anndata

    from r2mae_singlecell.data.count_rows import CountRows

    monkeypatch.setattr(anndata.AnnData, "to_memory", lambda self: pytest.fail("the whole file is read"))
    asked, original = [], CountRows.__getitem__
    monkeypatch.setattr(
        CountRows, "__getitem__", lambda self, cells: (asked.append(len(cells)), original(self, cells))[1]
    )
    argv = ("--n_splits", 1, "--max_cells", 2, "--baselines", "[log-norm,scvi]", "--epochs", 1, "--device", "cpu")
    assert call("probe", "run", "p.h5ad", "--tasks", "[cell_type]", *argv)[0] == 0
    assert 0 < max(asked) <= 40  # two cells of each of 20 donors, of 120 cells
    asked.clear()
    argv = ("--max_cells", 5, "--baselines", "[scvi]", "--epochs", 1, "--device", "cpu")
    code, out, _ = call("reconstruct", "run", "p.h5ad", *argv)
    assert code == 0
    assert "5 random ones of 12 validation cells" in " ".join(out.split())
    assert set(asked) == {5}


def test_some_cells_are_random_seeded_and_from_everywhere():
    from r2mae_singlecell.evaluate import some_cells

    cells = np.arange(100_000, 300_000)
    some = some_cells(cells, 20_000)
    assert np.array_equal(some, some_cells(cells, 20_000))
    assert len(np.unique(some)) == 20_000
    assert set(some) <= set(cells)
    assert np.median(some) == pytest.approx(200_000, rel=0.01)
    assert np.array_equal(some_cells(cells, None), cells)
