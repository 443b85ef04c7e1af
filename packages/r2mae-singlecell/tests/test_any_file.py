"""What a lab has: several files, columns that are not there, values that are missing, genes of one name."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell import prepare_atlas
from r2mae_singlecell.data.prepared import missing_genes, read_prepared

pytestmark = pytest.mark.filterwarnings("ignore")


def lab(n_cells=60, genes=range(30), seed=0, **obs):
    """A lab's file: counts in X, and the given columns."""
    rng = np.random.default_rng(seed)
    rates = np.exp(np.random.default_rng(9).normal(0, 1, 100))[list(genes)]
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(rates, (n_cells, len(rates))).astype(np.float32)))
    adata.obs_names = [f"s{seed}c{i}" for i in range(n_cells)]
    adata.var_names = [f"g{i}" for i in genes]
    for name, values in obs.items():
        adata.obs[name] = values
    return adata


def prepared(*adatas, **options):
    """Write the data, prepare them, and return the store and what was said of it."""
    paths = []
    for i, adata in enumerate(adatas):
        paths.append(Path(f"{'abc'[i]}.h5ad"))
        adata.write_h5ad(paths[-1])
    found = prepare_atlas(paths, Path("p.h5ad"), progress=False, overwrite=True, **{"n_genes": 100, **options})
    return read_prepared(found.path).to_memory(), found


def test_a_file_with_a_batch_alone_keeps_everything(here_only):
    adata = lab(batch=["x", "y"] * 30, sample=np.arange(60), note=["a", None] * 30)
    adata.obsm["X_scgpt"] = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    adata.obsm["table"] = pd.DataFrame({"a": np.arange(60)}, index=adata.obs_names)
    X = adata.X.toarray()
    X[[3, 11]] = 0
    adata.X = sp.csr_matrix(X)
    store, found = prepared(adata)
    assert list(store.obs.columns) == ["batch", "is_reference", "sample", "note"]
    assert (found.preset, found.columns) == ("none", {"batch": "batch"})
    assert found.left_out["cells without a count in the variable genes"] == 2
    kept = [i for i in range(60) if i not in (3, 11)]
    assert list(store.obs_names) == [f"s0c{i}" for i in kept]
    assert store.obs["sample"].tolist() == kept
    assert store.obs["note"].isna().sum() == 30 - 2  # cells 3 and 11 had none
    assert np.array_equal(store.obsm["X_scgpt"], adata.obsm["X_scgpt"][kept])
    assert store.obsm["X_scgpt"].dtype == np.float32
    assert list(store.obsm) == ["X_scgpt"]
    assert any("'table' of obsm are left out" in note for note in found.notes)
    assert "embeddings kept, for `probe --baselines`: obsm:X_scgpt" in found.notes
    assert np.array_equal(store.X.toarray(), adata[kept, store.var_names].X.toarray())


@pytest.mark.parametrize("missing", [None, np.nan, "nan", "", "NA", "unknown"])
def test_missing_donors_are_missing_and_their_cells_stay(missing, here_only):
    donors = np.array(["d1", "d2", missing] * 20, dtype=object)
    store, found = prepared(lab(donor_id=donors, batch="one"))
    assert found.unlabelled == {"donor": 20}
    assert store.n_obs == 60
    assert list(store.obs["donor"].cat.categories) == ["d1", "d2"]
    assert store.obs["donor"].isna().sum() == 20


def test_numbers_name_the_same_donor_whatever_their_type(here_only):
    whole = lab(donor=np.arange(60) % 3)
    gaps = lab(seed=1, donor=np.where(np.arange(60) % 4 == 3, np.nan, np.arange(60) % 4))
    store, found = prepared(whole, gaps)
    assert list(store.obs["donor"].cat.categories) == ["0", "1", "2"]
    assert found.unlabelled["donor"] == 15
    assert any("3 names of a donor are in several" in note for note in found.notes)


def test_cells_without_a_batch(here_only):
    batch = np.array(["x", "y", None] * 20, dtype=object)
    with pytest.raises(UserError, match=r"20 cells have no batch \(no value in obs column 'batch'\), such as 's0c2'"):
        prepared(lab(batch=batch))
    store, found = prepared(lab(batch=batch), missing_batch="drop")
    assert store.n_obs == 40
    assert found.left_out["cells without a batch"] == 20
    store, found = prepared(lab(batch=batch), missing_batch="own")
    assert store.obs["batch"].value_counts().to_dict() == {"x": 20, "y": 20, "no batch (a.h5ad)": 20}
    none, other = lab(), lab(seed=1, batch="z")
    with pytest.raises(UserError, match=r"a.h5ad: 60 cells have no batch .there is no batch column"):
        prepared(none, other)
    assert set(prepared(none, other, missing_batch="own")[0].obs["batch"]) == {"z", "no batch (a.h5ad)"}
    by_file = prepared(none, other, columns={"batch": "file"})[0]
    assert by_file.obs["batch"].astype(str).tolist() == ["a.h5ad"] * 60 + ["b.h5ad"] * 60


def test_dropped_cells_do_not_choose_the_genes(here_only):
    adata = lab(100, range(100), batch=np.array(["x"] * 50 + [None] * 50, dtype=object))
    X = adata.X.toarray()
    X[50:, :10] = 1000 * (np.arange(50)[:, None] % 2)
    adata.X = sp.csr_matrix(X)
    store, _ = prepared(adata, missing_batch="drop", n_genes=20)
    alone, _ = prepared(adata[:50].copy(), n_genes=20)
    assert list(store.var_names) == list(alone.var_names)


def test_a_clashing_column_is_kept_under_another_name(here_only):
    stages = ["63-year-old stage", "adult stage", "unknown"] * 20
    adata = lab(file="mine", batch=range(60), sample="s", age=stages, disease=["flu", "Unknown", None] * 20)
    store, found = prepared(adata, columns={"batch": "sample"})
    assert store.obs["batch"].astype(str).unique().tolist() == ["s"]
    assert store.obs["original_batch"].tolist() == list(range(60))
    assert store.obs["original_age"].astype(str).tolist() == stages
    assert store.obs["age"].dropna().tolist() == [63.0] * 20
    assert store.obs["original_disease"].astype(str).tolist()[1] == "Unknown"
    assert store.obs["file"].tolist() == ["mine"] * 60
    assert found.unlabelled == {"disease": 40, "age": 40}
    several, _ = prepared(adata, lab(seed=1, sample="t"), columns={"batch": "sample"})
    assert several.obs["original_file"].dropna().unique().tolist() == ["mine"]
    assert list(several.obs["file"].cat.categories) == ["a.h5ad", "b.h5ad"]


@pytest.mark.parametrize("join", ["intersection", "union"])
def test_several_files_become_one(join, here_only):
    one, two = lab(60, range(30), batch="x"), lab(50, range(35, 9, -1), seed=1, batch="y", own=np.arange(50))
    one.obsm["X_e"], two.obsm["X_e"] = np.ones((60, 2)), np.zeros((50, 2))
    one.obsm["X_f"] = np.ones((60, 2))
    store, found = prepared(one, two, genes=join)
    outer = {"intersection": "inner", "union": "outer"}[join]
    reference = anndata.concat([one, two], join=outer, fill_value=0)
    assert set(store.var_names) <= set(reference.var_names)
    assert np.array_equal(store.X.toarray(), reference[store.obs_names, store.var_names].X.toarray())
    assert store.obs["file"].value_counts().to_dict() == {"a.h5ad": 60, "b.h5ad": 50}
    assert store.obs["own"].notna().sum() == 50
    assert store.obsm["X_e"][:, 0].tolist() == [1] * 60 + [0] * 50
    assert "the embedding 'X_f' is left out: b.h5ad lacks it" in found.notes
    table = {(row.file, row.reason): row.n for row in found.table.itertuples() if row.what == "genes"}
    lacks = missing_genes(store)
    if join == "intersection":
        assert (lacks, table) == (
            {},
            {(f"{f}.h5ad", "genes that another file lacks"): n for f, n in (("a", 10), ("b", 6))},
        )
    else:
        assert table == {}
        names = {file: {store.var_names[i] for i in genes} for file, genes in lacks.items()}
        assert names["a.h5ad"] == {f"g{i}" for i in range(30, 36)} & set(store.var_names)
        assert names["b.h5ad"] == {f"g{i}" for i in range(10)} & set(store.var_names)
        assert names["a.h5ad"]
        assert names["b.h5ad"]
        part = store[:, ::-1][:, 3:].copy()  # a part of the genes knows its own
        assert {part.var_names[i] for i in missing_genes(part)["a.h5ad"]} <= names["a.h5ad"]


def test_genes_of_several_files_are_scanpys_choice_on_what_they_share(here_only):
    one, two = lab(80, range(90), batch="x"), lab(70, range(10, 100), seed=1, batch="y")
    store, _ = prepared(one, two, n_genes=25)
    reference = anndata.concat([one, two], join="inner")
    sc.pp.normalize_total(reference)
    sc.pp.log1p(reference)
    sc.pp.highly_variable_genes(reference, n_top_genes=25)
    assert set(store.var_names) == set(reference.var_names[reference.var["highly_variable"]])


def test_moments_of_a_gene_are_of_the_cells_that_could_have_it(here_only):
    whole = lab(120, range(60), batch="x")
    part = whole[:, :50].copy()
    part.obs_names = [f"other{i}" for i in range(120)]
    union, _ = prepared(whole, part, genes="union", n_genes=30)
    alone, _ = prepared(whole, n_genes=30)
    changed = set(union.var_names) ^ set(alone.var_names)
    assert len(changed) <= 6  # bins and totals shift a little; zeros for 120 cells would favour the ten genes
    assert len(set(union.var_names) & {f"g{i}" for i in range(50, 60)}) <= 3 + len(
        set(alone.var_names) & {f"g{i}" for i in range(50, 60)}
    )


def test_names_of_cells_and_genes_that_clash(here_only):
    one, two = lab(), lab(seed=1)
    two.obs_names = one.obs_names
    one.var["feature_name"], two.var["feature_name"] = "n", ["m", *["n"] * 29]
    store, found = prepared(one, two)
    assert store.obs_names.is_unique
    assert store.obs_names[0] == "s0c0-a.h5ad"
    assert "60 cells have the name of another cell and were renamed" in found.notes
    assert any("1 genes have another feature_name in b.h5ad than in a.h5ad, such as 'g0'" in n for n in found.notes)
    assert set(store.var["feature_name"]) == {"n"}
    symbols = lab(seed=1)
    symbols.var_names = [f"S{i}" for i in range(30)]
    one.var["symbol"] = symbols.var_names
    with pytest.raises(UserError, match=r"no gene is in all files: a.h5ad names genes like 'g0'.*--gene_column"):
        prepared(one, symbols)
    assert prepared(one, symbols, gene_column="symbol")[0].n_vars > 20


def test_genes_of_one_name(here_only):
    adata = lab(batch="x")
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    X = adata.X.toarray()
    for option, columns in (
        ("sum", {"g0": X[:, 0] + X[:, 1]}),
        ("first", {"g0": X[:, 0]}),
        ("unique", {"g0": X[:, 0], "g0-1": X[:, 1]}),
    ):
        store, found = prepared(adata, duplicates=option)
        assert store.var_names.is_unique
        for name, counts in columns.items():
            assert np.array_equal(store[:, name].X.toarray().ravel(), counts)
        assert found.table.query("what == 'genes'")["n"].tolist() == [1]


def test_places_by_file_and_files_that_cannot_be_joined(here_only):
    one, two = lab(batch="x"), lab(seed=1, batch="y")
    two.layers["raw"] = two.X.copy()
    two.X = two.X * 0.5
    one.write_h5ad("a.h5ad")
    two.write_h5ad("b.h5ad")
    with pytest.raises(UserError, match=r"b.h5ad: X, cell 0 .*fractional.*there are also layers/raw"):
        prepare_atlas([Path("a.h5ad"), Path("b.h5ad")], Path("p.h5ad"), progress=False)
    found = prepare_atlas([Path("a.h5ad"), Path("b.h5ad::layers/raw")], Path("p.h5ad"), progress=False)
    assert found.n_cells == 120
    with pytest.raises(UserError, match=r"a.h5ad is given twice"):
        prepare_atlas([Path("a.h5ad"), Path("a.h5ad")], Path("q.h5ad"), progress=False)
    with pytest.raises(UserError, match=r"p.h5ad is an input of this command"):
        prepare_atlas([Path("a.h5ad"), Path("p.h5ad")], Path("p.h5ad"), progress=False, overwrite=True)


def test_rounding_is_counted(here_only):
    adata = lab(batch="x")
    close = adata.copy()
    close.X = sp.csr_matrix(adata.X.astype(np.float64) * (1 - 1e-9))
    store, found = prepared(close)
    assert np.array_equal(store.X.toarray(), adata[:, store.var_names].X.toarray())
    assert found.table.query("what == 'values'")["reason"].tolist() == [
        "counts that were whole up to rounding, rounded"
    ]
    soup = adata.copy()
    soup.X = soup.X * np.float32(0.7)
    with pytest.raises(UserError, match=r"fractional.*--round makes them whole"):
        prepared(soup)
    store, found = prepared(soup, rounding=True)
    assert np.array_equal(store.X.toarray(), np.rint(soup[:, store.var_names].X.toarray()))
    n_fractions = int((np.abs(soup.X.data - np.rint(soup.X.data)) > 1e-5).sum())  # ten times 0.7 is whole
    assert found.table.query("reason == 'fractional counts, rounded'")["n"].tolist() == [n_fractions]


def test_stores_of_other_versions(here_only):
    prepared(lab(batch="x"))
    with h5py.File("p.h5ad", "r+") as file:
        file["uns/r2mae/format"][()] = 3
    with pytest.raises(UserError, match="has the format 3, and this version reads up to 2"):
        read_prepared(Path("p.h5ad"))
    with h5py.File("p.h5ad", "r+") as file:
        file["uns/r2mae/format"][()] = 2
        file["obs/batch/codes"][0] = -1
    with pytest.raises(UserError, match=r"damaged or was edited"):
        read_prepared(Path("p.h5ad"))


def test_what_files_lack_is_part_of_the_digest(here_only):
    prepared(lab(60, range(30)), lab(50, range(10, 40), seed=1), genes="union")
    with h5py.File("p.h5ad", "r+") as file:
        file["varm/r2mae_missing"][0, 0] ^= True
    with pytest.raises(UserError, match=r"damaged or was edited"):
        read_prepared(Path("p.h5ad"))


def test_nothing_to_prepare(here_only):
    with pytest.raises(UserError, match=r"a.h5ad has no cells"):
        prepared(lab()[:0].copy())
    empty = lab()
    empty.X = empty.X * 0
    with pytest.raises(UserError, match=r"a.h5ad: X holds no counts at all"):
        prepared(empty)
    with pytest.raises(UserError, match=r"no cell has 99 of the .* variable genes"):
        prepared(lab(), min_genes=99)
    assert not Path("p.h5ad").exists()
    assert not list(Path().glob(".partial*"))


@pytest.fixture
def here_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
