import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import pearsonr, spearmanr

from r2mae_core import UserError
from r2mae_singlecell import Protocol, Simulation, Task, log_normalized, probe_embedding, reconstruction_pearson
from r2mae_singlecell.data.simulate import simulate_atlas
from r2mae_singlecell.divisions import TASKS, donor_split
from r2mae_singlecell.metrics import spearman_of_cells_and_donors

CELL_TYPE, DISEASE, AGE = TASKS["hlca"]


def atlas_obs(n=600, n_donors=12, seed=0):
    rng = np.random.default_rng(seed)
    donor = rng.integers(0, n_donors, n)
    obs = pd.DataFrame({"donor": [f"d{i}" for i in donor], "cell_type": rng.choice(["t", "b"], n)})
    obs["disease"] = np.array(["normal", "fibrosis"])[donor % 2]
    obs["age"] = 20.0 + 5 * donor
    obs["is_reference"] = donor == 0
    return obs


@pytest.mark.parametrize("task", TASKS["hlca"])
def test_no_donor_is_on_both_sides_and_none_is_a_reference(task):
    obs = atlas_obs()
    for split in range(5):
        train, test = donor_split(obs, task, Protocol(max_cells=20), split)
        donors = obs["donor"].to_numpy()
        assert not set(donors[train]) & set(donors[test])
        assert "d0" not in {*donors[train], *donors[test]}
        assert max(pd.Series(donors[np.r_[train, test]]).value_counts()) == 20
        assert len(set(donors[np.r_[train, test]])) == 11


def test_splits_differ_and_repeat():
    obs = atlas_obs()
    first, again, other = (donor_split(obs, AGE, Protocol(), split)[0] for split in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_cells_without_a_label_leave_before_the_cap_or_after():
    obs = atlas_obs()
    obs.loc[obs.index % 2 == 0, "cell_type"] = None
    after = donor_split(obs, Task("cell_type", "class"), Protocol(max_cells=20), 0)
    before = donor_split(obs, CELL_TYPE, Protocol(max_cells=20), 0)  # the paper's exception for HLCA cell types
    assert all(obs["cell_type"].iloc[cells].notna().all() for cells in (*before, *after))
    counts = [pd.Series(obs["donor"].iloc[np.concatenate(cells)]).value_counts() for cells in (before, after)]
    labelled = obs[obs["cell_type"].notna() & ~obs["is_reference"]]["donor"].value_counts()
    assert counts[1].to_dict() == labelled.clip(upper=20).to_dict()
    assert counts[0].sum() < 0.7 * counts[1].sum()


def test_perfect_and_useless_embeddings():
    obs = atlas_obs()
    truth = np.c_[obs["age"] / 80, obs["disease"] == "normal", obs["cell_type"] == "t"].astype(float)
    protocol = Protocol(n_splits=2, n_folds=3)
    values = {(r.task, r.metric): r.value for r in probe_embedding(truth, obs, TASKS["hlca"], protocol).records}
    assert values["cell_type", "balanced_accuracy"] == values["disease", "macro_f1"] == 1.0
    assert values["age", "spearman_cell"] > 0.95  # the two other columns cost a little
    noise = np.random.default_rng(0).normal(size=(600, 5))
    records = probe_embedding(noise, obs, TASKS["hlca"], Protocol(n_splits=6, n_folds=3)).records
    assert np.mean([r.value for r in records if r.metric == "balanced_accuracy"]) == pytest.approx(0.5, abs=0.05)
    assert abs(np.mean([r.value for r in records if r.metric == "spearman_cell"])) < 0.15


def test_leakage_would_show():
    """Cells of one donor are alike: a random division of cells finds an 'age' where there is none, ours does not."""
    obs, rng = atlas_obs(seed=1), np.random.default_rng(0)
    names = obs["donor"].unique()
    age = dict(zip(names, rng.permutation(len(names)) * 5.0 + 20, strict=True))
    obs["age"], obs["is_reference"] = obs["donor"].map(age), False
    own = {name: rng.normal(size=20) for name in names}
    embedding = np.stack([own[d] for d in obs["donor"]]) + rng.normal(0, 0.5, (600, 20))
    leaky = obs.assign(donor=[f"c{i % 40}" for i in range(600)])  # donors forgotten
    result = {
        name: np.mean(
            [r.value for r in probe_embedding(embedding, o, [AGE], Protocol()).records if r.metric == "spearman_cell"]
        )
        for name, o in (("donors apart", obs), ("leaky", leaky))
    }
    assert result["leaky"] > 0.8
    assert abs(result["donors apart"]) < 0.5


def test_simulated_truth_is_found_and_shuffling_destroys_it():
    adata = simulate_atlas(Simulation(n_donors=20, n_cells=1000, n_genes=200, age_effect=0.4))
    from r2mae_singlecell.data.presets import PRESETS

    obs = PRESETS["hlca"].standard_obs(adata.obs)
    X = log_normalized(adata.raw.X)
    real = probe_embedding(X, obs, [AGE], Protocol(n_splits=3))
    shuffled = probe_embedding(X, obs, [AGE], Protocol(n_splits=3, shuffle_labels=True))
    donor = [np.mean([r.value for r in x.records if r.metric == "spearman_donor"]) for x in (real, shuffled)]
    assert donor[0] > 0.7
    assert donor[1] < donor[0] - 0.4


def test_auroc_task_and_a_class_that_one_side_lacks():
    obs = atlas_obs(n_donors=12)
    obs["disease"] = np.where(obs["donor"] == "d5", "rare", obs["disease"])
    embedding = np.c_[obs["disease"] == "normal", obs["disease"] == "rare"].astype(float)
    result = probe_embedding(embedding, obs, [Task("disease", "auroc")], Protocol(n_splits=2, n_folds=2))
    assert {r.metric for r in result.records} == {"auroc_cell", "auroc_donor"}
    assert len([note for note in result.notes if "classes without" in note]) == 2
    assert all(np.isfinite(r.value) for r in result.records)


def test_spearman_of_cells_and_donors_equals_scipy():
    rng = np.random.default_rng(0)
    donors = rng.integers(0, 8, 100)
    y, predicted = donors * 3.0 + 20, donors + rng.normal(0, 4, 100)
    values = spearman_of_cells_and_donors(y, predicted, donors.astype(str))
    assert values["spearman_cell"] == (pytest.approx(spearmanr(y, predicted).statistic), 100)
    means = [predicted[donors == d].mean() for d in range(8)]
    assert values["spearman_donor"] == (pytest.approx(spearmanr(range(8), means).statistic), 8)
    assert spearman_of_cells_and_donors(y, np.ones(100), donors.astype(str))["spearman_cell"][0] == 0.0


def test_what_cannot_be_probed_is_named():
    obs = atlas_obs()
    with pytest.raises(UserError, match="embedding has 5 rows and the data have 600 cells"):
        probe_embedding(np.zeros((5, 2)), obs, [AGE])
    with pytest.raises(UserError, match="obs has no column 'age'"):
        probe_embedding(np.zeros((600, 2)), obs.drop(columns="age"), [AGE])
    with pytest.raises(UserError, match="no cell has a value in 'age'"):
        probe_embedding(np.zeros((600, 2)), obs.assign(age=np.nan), [AGE])
    with pytest.raises(UserError, match="1 donors cannot be divided"):
        probe_embedding(np.zeros((600, 2)), obs.assign(donor="one", is_reference=False), [AGE])
    with pytest.raises(
        UserError, match=r"obs has no column 'donor'; name it .* --donor_column COLUMN.* --held_out cells"
    ):
        probe_embedding(np.zeros((600, 2)), obs.drop(columns="donor"), [AGE])


def test_pearson_equals_scipy_on_shared_masks():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (450, 30)).astype(np.float32))
    cells, seen = np.arange(10, 440), []

    def predict(block, hidden):
        seen.append((block, hidden))
        return np.random.default_rng(int(block[0])).dirichlet(np.ones(30), len(block))

    (record,) = reconstruction_pearson(predict, counts, cells, ratios=(0.3,))
    expected = []
    for block, hidden in seen:
        x = counts[block].toarray()
        truth = np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)[:, hidden]
        guess = np.log1p(np.random.default_rng(int(block[0])).dirichlet(np.ones(30), len(block)) * 1e4)[:, hidden]
        expected += [pearsonr(a, b).statistic for a, b in zip(truth, guess, strict=True) if np.ptp(a)]
    assert record.value == pytest.approx(np.mean(expected), rel=1e-6)
    assert [len(hidden) for _, hidden in seen] == [9, 9]
    first = [hidden.tolist() for _, hidden in seen]
    reconstruction_pearson(predict, counts, cells, ratios=(0.3,), seed=7, scheme="other")
    assert [hidden.tolist() for _, hidden in seen[2:]] == first
    assert reconstruction_pearson(predict, counts, cells, ratios=(0.3,), genes="all")[0].value != record.value


def test_perfect_prediction_correlates_perfectly():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(3.0, (50, 30)).astype(np.float32))
    x = counts.toarray()
    records = reconstruction_pearson(
        lambda block, hidden: x[block] / x[block].sum(1, keepdims=True), counts, np.arange(50)
    )
    assert [r.metric for r in records] == ["pearson@0.1", "pearson@0.2", "pearson@0.3", "pearson@0.5", "pearson@0.7"]
    assert all(r.value == pytest.approx(1.0) for r in records)
