import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell import CountMatrix, Simulation, load_pbmc, prepare_atlas, simulate_atlas
from r2mae_singlecell.data import simulate as simulated
from r2mae_singlecell.data.presets import PRESETS, exact_age, known_labels, layout_of, numeric_age
from r2mae_singlecell.options import Simulate

SMALL = Simulation(n_donors=32, n_cells=800, n_genes=120, n_types=4, depth=300)


@pytest.fixture(scope="module", params=["hlca", "seaad", "seaad-allen"])
def atlas(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / f"{request.param}.h5ad"
    adata = simulate_atlas(SMALL, request.param)
    adata.write_h5ad(path)
    return request.param, adata, path


def counts_of(adata, layout):
    return adata.layers["UMIs"] if layout == "seaad-allen" else adata.raw.X


def test_layouts_are_detected_and_their_counts_kept(atlas, tmp_path):
    layout, source, path = atlas
    prepared = prepare_atlas(path, tmp_path / "p.h5ad", n_genes=60, progress=False, block=150)
    adata = anndata.read_h5ad(prepared.path)
    assert prepared.preset == layout
    assert np.issubdtype(adata.X.dtype, np.integer)
    whole = pd.DataFrame(counts_of(source, layout).toarray(), source.obs_names, source.var_names)
    assert np.array_equal(adata.X.toarray(), whole.loc[adata.obs_names, adata.var_names])
    assert list(adata.obs.columns)[:6] == ["donor", "batch", "cell_type", "disease", "age", "is_reference"]
    originals = set(source.obs.columns) - {"disease"}  # lung: all labels are known, so the standard column is the same
    assert originals <= set(adata.obs.columns)
    if layout == "hlca":
        unknown = source.obs["ann_finest_level"].loc[adata.obs_names] == "Unknown"
        assert np.array_equal(adata.obs["cell_type"].isna(), unknown)
        assert unknown.any()
        assert not adata.obs["is_reference"].any()
    else:
        assert adata.obs["is_reference"].sum() > 0
        kept = set(adata.obs["cell_type"].dropna())
        assert kept == {"Subclass0_1", "Subclass0_2", "Subclass0_2-SEAAD"}  # the subclass with a disease's type
        assert adata.obs["age"].isna().any()  # broad classes have no exact age


def test_genes_are_scanpys_choice(atlas, tmp_path):
    layout, source, path = atlas
    prepared = prepare_atlas(path, tmp_path / "p.h5ad", n_genes=50, progress=False, block=77)
    reference = anndata.AnnData(counts_of(source, layout).copy(), var=source.var[[]])
    sc.pp.normalize_total(reference)
    sc.pp.log1p(reference)
    sc.pp.highly_variable_genes(reference, n_top_genes=50)
    assert set(anndata.read_h5ad(prepared.path).var_names) == set(reference.var_names[reference.var["highly_variable"]])


def test_genes_are_scanpys_choice_on_real_counts(tmp_path):
    adata = load_pbmc()
    for name in ("donor", "batch", "disease"):
        adata.obs[name] = "one"
    adata.obs["age"] = 50
    adata.write_h5ad(tmp_path / "pbmc.h5ad")
    columns = {name: name for name in ("donor", "batch", "disease", "age", "cell_type")}
    prepared = prepare_atlas(tmp_path / "pbmc.h5ad", tmp_path / "p.h5ad", "none", columns, n_genes=200, progress=False)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=200)
    assert set(anndata.read_h5ad(prepared.path).var_names) == set(adata.var_names[adata.var["highly_variable"]])


def test_prepared_counts_are_memory_mapped(atlas, tmp_path):
    _, _, path = atlas
    prepared = prepare_atlas(path, tmp_path / "p.h5ad", n_genes=60, progress=False)
    backed = anndata.read_h5ad(prepared.path, backed="r")
    counts = CountMatrix(backed.X)
    assert isinstance(counts.csr.data, np.memmap)
    assert isinstance(counts.csr.indices, np.memmap)
    cells = np.array([600, 3, 51])
    in_memory = anndata.read_h5ad(prepared.path).X[cells].toarray()
    assert np.array_equal(counts.rows(cells).dense(60).numpy(), in_memory)


def test_thin_cells_are_dropped_and_counted(tmp_path):
    adata = simulate_atlas(SMALL, "hlca")
    raw = adata.raw.to_adata()
    thin = np.zeros(800, bool)
    thin[:30] = True
    X = raw.X.toarray()
    X[thin] = 0
    X[:25, 0] = 1  # one gene each; five cells are empty
    raw.X = sp.csr_matrix(X)
    adata.raw = raw
    adata.write_h5ad(tmp_path / "a.h5ad")
    prepared = prepare_atlas(tmp_path / "a.h5ad", tmp_path / "p.h5ad", n_genes=120, progress=False)
    assert prepared.n_cells == 770
    left_out = {"cells without a count in the variable genes": 5, "cells with fewer than 20 variable genes": 25}
    assert prepared.left_out == left_out
    assert anndata.read_h5ad(tmp_path / "p.h5ad", backed="r").uns["r2mae"]["left_out"] == left_out
    kept = prepare_atlas(tmp_path / "a.h5ad", tmp_path / "q.h5ad", n_genes=120, min_genes=0, progress=False)
    assert kept.n_cells == 795


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore:.*Consolidated.*", "ignore:.*separators.*")
def test_zarr_gives_the_same(tmp_path):
    adata = simulate_atlas(SMALL, "hlca")
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for name in ("h5ad", "zarr"):
        prepare_atlas(tmp_path / f"a.{name}", tmp_path / f"from-{name}.h5ad", n_genes=60, progress=False)
    one, two = (anndata.read_h5ad(tmp_path / f"from-{name}.h5ad") for name in ("h5ad", "zarr"))
    assert (one.X != two.X).nnz == 0
    assert one.obs.equals(two.obs)


def write(adata, path):
    adata.write_h5ad(path)
    return path


def test_bad_files(tmp_path):
    target = tmp_path / "p.h5ad"
    adata = simulate_atlas(SMALL, "hlca")

    def refused(path, match, *arguments):
        with pytest.raises(UserError, match=match):
            prepare_atlas(path, target, *arguments, progress=False)
        assert not target.exists()

    whole = write(adata, tmp_path / "a.h5ad")
    refused(tmp_path / "nothing.h5ad", "no file")
    (tmp_path / "cut.h5ad").write_bytes(whole.read_bytes()[:5000])
    refused(tmp_path / "cut.h5ad", "cannot be read: it is damaged, or not an h5ad file")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["x"] = 1
    refused(tmp_path / "other.h5ad", "is not an AnnData file: it has no obs")
    match = r"X, cell 0 'cell0', gene 4 'ENSG\d+' \(counted from 0\): [\d.]+ is fractional.*there are also raw/X"
    refused(whole, match, "hlca", {"counts": "X"})
    refused(whole, "has no counts at layers/raw", "hlca", {"counts": "layers/raw"})
    refused(whole, "unknown preset 'mouse'; known: auto, none, hlca", "mouse")
    refused(whole, "obs has no column 'ADNC'", "seaad", {"donor": "donor_id", "batch": "dataset"})
    refused(whole, "obs has no column 'sample'", "none", {"batch": "sample"})
    negative = adata.copy()
    raw = negative.raw.to_adata()
    raw.X.data[7] = -1
    negative.raw = raw
    refused(
        write(negative, tmp_path / "n.h5ad"),
        r"raw/X, cell \d+ 'cell\d+', gene \d+ 'ENSG\d+' \(counted from 0\): a negative value, -1",
    )


def test_columns_of_an_unknown_file_are_taken_by_these_names_alone():
    def layout(*columns, preset="auto", **named):
        found = layout_of(set(columns), preset, named, "a.h5ad")
        return {name: getattr(found, name) for name in ("donor", "batch", "cell_type", "disease", "age")}

    none = dict.fromkeys(("donor", "batch", "cell_type", "disease", "age"))
    assert layout("sample", "leiden", "patient", "celltype") == none
    assert layout("donor_id", "batch", "development_stage") == {
        **none, "donor": "donor_id", "batch": "batch", "age": "development_stage"
    }  # fmt: skip
    assert layout("batch", "sample", batch="sample") == {**none, "batch": "sample"}
    assert layout("donor_id", "batch", preset="none", batch="batch") == {**none, "batch": "batch"}
    with pytest.raises(UserError, match="has the columns 'donor' and 'donor_id'; name one with --donor_column"):
        layout("donor", "donor_id")
    assert layout("donor", "donor_id", donor="donor")["donor"] == "donor"
    both = set(PRESETS["hlca"].columns()) | set(PRESETS["seaad"].columns())
    with pytest.raises(UserError, match=r"several layouts \(hlca, seaad\); choose one with --preset"):
        layout(*both)


def test_ages_and_labels():
    stages = pd.Series(
        ["63-year-old stage", "80 year-old and over stage", "unknown", "7-year-old stage", "adult stage"]
    )
    assert exact_age(stages).tolist()[::3] == [63, 7]
    assert exact_age(stages).isna().tolist() == [False, True, True, False, True]
    assert numeric_age(pd.Series(["71", "90+", 55.5, None])).tolist()[:3:2] == [71, 55.5]
    labels = known_labels(pd.Series(["T cell", "Unknown", "None", None, "nan"]))
    assert labels.notna().tolist() == [True, False, False, False, False]


def test_blood_cells_are_whole_counts():
    adata = load_pbmc()
    assert adata.shape == (700, 765)
    assert (adata.X.data == adata.X.data.round()).all()
    assert adata.X.data.min() == 1
    assert adata.obs["cell_type"].nunique() == 10


def test_simulation_is_reproducible_and_has_the_wanted_size():
    one, two, other = (simulate_atlas(Simulation(n_cells=300, n_genes=50, seed=s)) for s in (0, 0, 1))
    assert (one.raw.X != two.raw.X).nnz == 0
    assert one.shape == (300, 50)
    assert (one.raw.X != other.raw.X).nnz > 0
    totals = np.asarray(one.raw.X.sum(1)).ravel()
    assert 1000 < np.median(totals) < 2200
    with pytest.raises(UserError, match="n_donors must be at least 6, got 3"):
        Simulation(n_donors=3)
    with pytest.raises(UserError, match="unknown layout 'mouse'"):
        simulate_atlas(SMALL, "mouse")


@pytest.mark.parametrize("layout", ["hlca", "seaad-allen"])
def test_a_simulation_is_the_same_in_a_file_and_in_pieces(layout, tmp_path, monkeypatch):
    size = {"n_donors": 32, "n_cells": 300, "n_genes": 50, "n_types": 4}
    monkeypatch.setattr(simulated, "AT_ONCE", (70, 10**8))
    whole = simulate_atlas(Simulation(**size), layout)
    monkeypatch.setattr(simulated, "_PIECE", 500)
    path = simulated.simulate(Simulate(layout=layout, out=tmp_path / "new" / "a.h5ad", **size))
    read = anndata.read_h5ad(path)
    for one, other in ((read.X, whole.X), (counts_of(read, layout), counts_of(whole, layout))):
        assert np.array_equal(one.toarray(), other.toarray())
    pd.testing.assert_frame_equal(read.obs.astype(str), whole.obs.astype(str))
    pd.testing.assert_frame_equal(read.var, whole.var)
    if layout == "hlca":
        pd.testing.assert_frame_equal(read.raw.var, whole.var)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.h5ad"]
