"""`report`: figures and scib-metrics' table of an embedding whose cells are found by name."""

import dataclasses
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from r2mae_core import read_records
from r2mae_singlecell import integration, report
from r2mae_singlecell.options import Report
from r2mae_singlecell.plots import batch_mixing

pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning")  # umap's, of TensorFlow
DEVICE = ("--device", "cpu", "--no-progress")


@pytest.fixture(scope="module")
def cells():
    """Three cell types in two batches that are apart in the counts; an embedding that knows the types alone."""
    rng = np.random.default_rng(0)
    n, n_genes = 240, 60
    kind, batch = rng.integers(0, 3, n), rng.integers(0, 2, n)
    rates = np.full((3, n_genes), 0.5)
    for i in range(3):
        rates[i, 5 * i : 5 * i + 5] = 8.0
    shift = np.ones((2, n_genes))
    shift[1, 20:40] = 6.0
    data = anndata.AnnData(sp.csr_matrix(rng.poisson(rates[kind] * shift[batch]).astype(np.float32)))
    data.obs_names, data.var_names = [f"cell{i}" for i in range(n)], [f"gene{i}" for i in range(n_genes)]
    data.obs["cell_type"], data.obs["batch"] = np.array(["a", "b", "c"])[kind], np.array(["x", "y"])[batch]
    data.obs["score"] = rng.random(n)
    data.obsm["X_types"] = (np.eye(3)[kind] * 5 + rng.normal(0, 1, (n, 3))).astype(np.float32)
    return data


@pytest.fixture
def measured(monkeypatch):
    """What scib-metrics is asked for, which is not computed: it compiles for minutes."""
    there = pytest.importorskip("scib_metrics.benchmark")  # of the extra report

    asked = []

    class Asked(there.Benchmarker):
        def benchmark(self):
            asked.extend(dataclasses.asdict(group) for group in self._metric_collection_dict.values())
            assert all(len(ad) == self._adata.n_obs for ad in self._emb_adatas.values())

        def get_results(self, **_):
            table = pd.DataFrame({"Total": [0.5] * len(self._embedding_obsm_keys)}, index=self._embedding_obsm_keys)
            return pd.concat([table, pd.DataFrame({"Total": ["Aggregate score"]}, index=["Metric Type"])])

    monkeypatch.setattr(there, "Benchmarker", Asked)
    return asked


def written(cells, **changes):
    """Write the data, and the embedding in a file of its own; returns their paths."""
    data = anndata.AnnData(cells.X, obs=cells.obs.assign(**changes.get("obs", {})), var=cells.var)
    data.obs = data.obs.drop(columns=list(changes.get("without", ())))
    data.write_h5ad("d.h5ad")
    anndata.AnnData(obs=pd.DataFrame(index=cells.obs_names), obsm={"X_types": cells.obsm["X_types"]}).write_h5ad(
        "e.h5ad"
    )
    return Path("e.h5ad"), Path("d.h5ad")


@pytest.mark.long
def test_the_table_is_scib_metrics_and_tells_good_from_bad(cells):
    scib_metrics = pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import pynndescent

    z, batch, kind = cells.obsm["X_types"], cells.obs["batch"].to_numpy(), cells.obs["cell_type"].to_numpy()
    apart = z + 9.0 * (batch == "y")[:, None].astype(np.float32)
    embeddings = {"types": z, "apart": apart, "shuffled": z[np.random.default_rng(5).permutation(240)]}
    scores, notes = integration.integration_scores(
        embeddings, cells.obs["batch"], cells.obs["cell_type"], reference="apart"
    )
    found = {(name, metric): value for name, metric, value, _ in scores}
    near = pynndescent(z, n_neighbors=90, random_state=0, n_jobs=1)
    assert found["types", "ilisi_knn"] == pytest.approx(scib_metrics.ilisi_knn(near, batch), abs=1e-3)
    assert found["types", "silhouette_label"] == pytest.approx(scib_metrics.silhouette_label(z, kind), abs=1e-4)
    assert found["types", "batch_correction"] > found["apart", "batch_correction"] + 0.1
    assert found["types", "bio_conservation"] > found["shuffled", "bio_conservation"] + 0.3  # chance
    assert notes == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of the libraries' processes
def test_a_whole_report(call, cells, measured):
    code, out, err = call("report", *written(cells), "--out", "r", *DEVICE)
    assert code == 0, err
    assert "PCA of log-norm" in Path("r/table.md").read_text()
    assert {file.name for file in Path("r/figures").iterdir()} == {"umap.png", "markers.png", "mixing.png"}
    assert "Figure: r/figures/umap.png" in out


def test_cells_are_found_by_name(cells):
    embedding, data = written(cells)
    config = Report(embedding=embedding, data=data, progress=False)
    chosen, _ = report.read_cells(config, embedding)
    assert np.array_equal(chosen.embeddings["embedding"], cells.obsm["X_types"])
    order = np.random.default_rng(1).permutation(240)
    anndata.read_h5ad(embedding)[order].copy().write_h5ad("other.h5ad")
    again, _ = report.read_cells(config, Path("other.h5ad"))
    assert np.array_equal(again.embeddings["embedding"], cells.obsm["X_types"])
    some, remarks = report.read_cells(Report(embedding=embedding, data=data, max_cells=100, seed=3), Path("other.h5ad"))
    assert remarks == ["100 random cells of 240 are drawn and measured (--max_cells)"]
    rows = cells.obs_names.get_indexer(some.obs.index)
    assert np.array_equal(some.embeddings["embedding"], cells.obsm["X_types"][rows])
    assert np.array_equal(some.expression.toarray() > 0, cells.X.toarray()[rows] > 0)


def test_rows_that_do_not_match(cells, refused):
    embedding, data = written(cells)
    other = anndata.read_h5ad(embedding)
    other[:200].copy().write_h5ad("few.h5ad")
    refused(["report", "few.h5ad", data], r"the rows of few.h5ad \(200, such as 'cell0'\) are not the cells of d.h5ad "
            r"\(240, such as 'cell0'\); 200 names are in both")  # fmt: skip
    other.obs_names = [f"{name}-1" for name in other.obs_names]
    other.write_h5ad("named.h5ad")
    refused(["report", "named.h5ad", data], "0 names are in both")
    refused(["report", embedding, data, "--key", "X_umap"], r"no embedding 'X_umap' in obsm.*there are: X_types")
    refused(["report", embedding, data, "--batch_column", "lane"], "obs has no column 'lane'")
    refused(["report", data, data], "no embedding 'X_r2mae' in obsm")
    other.obs_names = cells.obs_names
    other.obsm["X_types"][7, 1] = np.nan
    other.write_h5ad("nan.h5ad")
    refused(["report", "nan.h5ad", data], "X_types is NaN or infinite in 1 cells, such as 'cell7'")
    assert not Path("runs").exists() or not [*Path("runs").iterdir()]


@pytest.mark.parametrize(
    ("without", "figures", "said"),
    [
        (["batch"], {"umap.png", "markers.png"}, "no column 'batch' of batches (name one with --batch_column)"),
        (["cell_type"], {"umap.png", "mixing.png"}, "no column 'cell_type' of cell types"),
        (["batch", "cell_type"], {"umap.png"}, "no table of scib-metrics: it needs batches or cell types"),
    ],
)
def test_what_can_be_had_without_some_columns(call, cells, measured, without, figures, said):
    code, out, err = call("report", *written(cells, without=without), "--out", "r", *DEVICE)
    assert code == 0, err
    assert {file.name for file in Path("r/figures").iterdir()} == figures
    assert said in out
    assert said in Path("r/notes.txt").read_text()
    asked = {name for group in measured for name, wanted in group.items() if wanted}
    assert not asked & {"bras", "kbet_per_label", "isolated_labels"}  # these need both
    assert ("ilisi_knn" in asked) == ("batch" not in without)
    assert ("silhouette_label" in asked) == ("cell_type" not in without)


def test_missing_values_and_small_sets(cells, measured):
    labels = cells.obs["cell_type"].astype(object).where(np.arange(240) >= 40)
    z = {"PCA": cells.obsm["X_types"]}
    scores, notes = integration.integration_scores(z, cells.obs["batch"], labels, reference="PCA")
    assert scores == [("PCA", "total", 0.5, 200)]
    assert "40 cells without a batch or a cell type are not in the table of scib-metrics" in notes
    few = cells.obs.iloc[:80]
    scores, notes = integration.integration_scores(
        {"PCA": cells.obsm["X_types"][:80]}, few["batch"], few["cell_type"], reference="PCA"
    )
    assert scores == []
    assert "it looks at 90 neighbours, and there are 80 cells" in notes[-1]


def test_markers_are_those_of_the_type(cells):
    whole = report.Cells(sp.csr_matrix(np.log1p(cells.X.toarray())), cells.var_names, cells.obs, {})
    found = report.markers(whole, "cell_type", 5)
    assert {name: sorted(map(int, genes)) for name, genes in found.items()} == {
        name: list(range(5 * i, 5 * i + 5)) for i, name in enumerate("abc")
    }


def test_mixing_by_brute_force():
    rng = np.random.default_rng(0)
    z, codes = rng.normal(size=(50, 4)), rng.integers(-1, 3, 50)
    counts, there = np.zeros((3, 3)), np.flatnonzero(codes >= 0)
    for i in there:
        others = there[there != i]
        near = others[np.argsort(((z[others] - z[i]) ** 2).sum(1))[:7]]
        for j in near:
            counts[codes[i], codes[j]] += 1
    sizes = np.array([(codes == k).sum() for k in range(3)])
    chance = np.array([[(sizes[j] - (i == j)) / (len(there) - 1) for j in range(3)] for i in range(3)])
    assert batch_mixing(z, codes, 3, 7) == pytest.approx(counts / counts.sum(1, keepdims=True) / chance)


def test_of_a_model(call, trained, make_adata, measured):
    trained.export("m")
    make_adata(120, 40, seed=4).write_h5ad("q.h5ad")
    argv = ("--label_column", "kind", "--columns", "[kind,percent_mito,chemistry]", "--out", "r")
    code, _, err = call("report", "m", "q.h5ad", *argv, *DEVICE)
    assert code == 0, err
    assert anndata.read_h5ad("r/embedding.h5ad").obsm["X_r2mae"].shape == (120, 8)
    assert {record.scheme for record in read_records(Path("r"))} == {"embedding", "PCA of log-norm", "shuffled"}
