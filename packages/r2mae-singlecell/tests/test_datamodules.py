"""scvi-tools' own data modules in place of AnnData; those that are not installed are skipped."""

import importlib.util
import warnings

import anndata
import numpy as np
import pytest
import scvi
import torch

from r2mae_core import UserError, quiet_lightning
from r2mae_singlecell import R2MAE
from r2mae_singlecell.data.datamodules import as_of_anndata, check_order
from r2mae_singlecell.data.foreign_batches import ForeignBatches

needs_annbatch = pytest.mark.skipif(
    importlib.util.find_spec("annbatch") is None or not hasattr(R2MAE, "setup_annbatch"),
    reason="annbatch needs Python 3.12 and scvi-tools 1.5",
)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def stores(make_adata, tmp_path):
    """Two h5ad files of the same genes, and what both hold."""
    parts = [make_adata(70, seed=1), make_adata(58, seed=2)]
    parts[1].obs_names = [f"other{i}" for i in range(58)]
    for i, part in enumerate(parts):
        part.write_h5ad(tmp_path / f"{i}.h5ad")
    return [str(tmp_path / f"{i}.h5ad") for i in range(2)], anndata.concat(parts)


def module_of(paths, where, **arguments):
    order = {"batch_size": 32, "chunk_size": 8, "preload_nchunks": 8, "preload_to_gpu": False, "batch_key": "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return R2MAE.setup_annbatch(collection_path=str(where), paths=paths, **{**order, **arguments})


def trained_on(module, max_epochs=2, **arguments):
    scvi.settings.seed = 0
    model = R2MAE(registry=module.registry, n_hidden=16, n_latent=4)
    with quiet_lightning():
        model.train(max_epochs=max_epochs, datamodule=module, **QUIET, **arguments)
    return model


@needs_annbatch
@pytest.mark.filterwarnings("ignore")
def test_annbatch_trains_embeds_and_works_with_anndata_afterwards(stores, same_weights, tmp_path):
    paths, adata = stores
    module = module_of(paths, tmp_path / "c.zarr")
    model = trained_on(module, 20)
    losses = model.history["train_loss"].to_numpy(float).ravel()
    assert losses[-3:].mean() < losses[:3].mean()
    z = model.get_latent_representation(dataloader=module.inference_dataloader())
    whole = model.get_latent_representation(adata)  # which had been set up with `setup_anndata` nowhere
    assert np.allclose(z, whole, atol=1e-5)
    model.save(tmp_path / "m")
    for loaded in (R2MAE.load(tmp_path / "m", adata=False), R2MAE.load(tmp_path / "m", adata=adata)):
        assert same_weights(model, loaded)
        assert np.allclose(whole, loaded.get_latent_representation(adata), atol=1e-5)
    model.embed_file(paths[1], tmp_path / "z.h5ad", batch_column="batch")
    written = anndata.read_h5ad(tmp_path / "z.h5ad")
    assert list(written.obs_names) == list(adata.obs_names[70:])
    found = written.X if written.X is not None else written.obsm["X_r2mae"]
    assert np.allclose(found, whole[70:], atol=1e-5)


@needs_annbatch
@pytest.mark.filterwarnings("ignore")
def test_annbatch_counts_have_the_library_size_of_the_cell(stores, tmp_path):
    """scvi-tools gives a size factor relative to the mean of a mini-batch, which no other form of the data has."""
    paths, adata = stores
    module = module_of(paths, tmp_path / "c.zarr")
    batch = next(iter(module.inference_dataloader()))
    assert 0.5 < float(batch["size_factor"].mean()) < 2
    model = trained_on(module, 1)
    size = model.module._get_inference_input(batch)["log_library"].exp().ravel()
    assert np.allclose(size, np.asarray(adata.X[: len(size)].sum(1)).ravel())
    expression = model.get_normalized_expression(dataloader=module.inference_dataloader(), library_size="latent")
    assert np.allclose(expression.sum(1), np.asarray(adata.X.sum(1)).ravel(), rtol=1e-4)


@needs_annbatch
@pytest.mark.filterwarnings("ignore")
def test_annbatch_does_what_is_asked_for(stores, tmp_path):
    paths, _ = stores
    module = module_of(paths, tmp_path / "c.zarr")
    model = trained_on(module, 1, batch_size=64, train_size=0.5)
    assert module.batch_size == 64
    assert len(module.train_idx) == 64
    with pytest.raises(UserError, match=r"datasplitter_kwargs \(shuffle\) are for AnnData; AnnbatchDataModule"):
        trained_on(module, 1, datasplitter_kwargs={"shuffle": "blocks"})
    mixed = module_of(paths, tmp_path / "m.zarr", shuffle=True)
    with pytest.raises(UserError, match=r"shuffles \(RandomSampler\), so the rows"):
        model.get_latent_representation(dataloader=torch.utils.data.DataLoader(list(range(9)), shuffle=True))
    with pytest.raises(UserError, match="shuffle"):
        check_order(mixed.train_dataloader())


@needs_annbatch
@pytest.mark.filterwarnings("ignore")
def test_annbatch_resumes_after_an_epoch_and_says_that_the_order_is_its_own(stores, caplog, monkeypatch, tmp_path):
    paths, _ = stores
    module = module_of(paths, tmp_path / "c.zarr")
    monkeypatch.setattr("r2mae_singlecell.r2mae.logger.propagate", True)
    steps = 4  # of 32 cells: 128 cells, of which the first 13 are held out
    trained_on(module, 3, resume=tmp_path / "run", max_steps=2 * steps)
    again = trained_on(module, 3, resume=tmp_path / "run")
    assert "does not end with the weights" in caplog.text
    log = (tmp_path / "run" / "metrics.csv").read_text()
    assert log.count(",train_loss,") == 3  # an epoch is trained once, before or after the interruption
    assert f"\n{3 * steps - 1},train_loss," in log
    assert again.is_trained
    other = module_of(paths[:1], tmp_path / "o.zarr")
    with pytest.raises(UserError, match="another data"):
        trained_on(other, 3, resume=tmp_path / "run")


class Rows(torch.utils.data.Dataset):
    """Cells one by one, as a data module of somebody gives them."""

    def __init__(self, adata):
        R2MAE.setup_anndata(adata, batch_key="batch")
        manager = R2MAE(adata, n_hidden=8, n_latent=4).adata_manager
        self.registry, self.n_obs = manager.registry, adata.n_obs
        self.x, self.codes = adata.X.toarray(), manager.get_from_registry("batch").astype(np.int64)

    def __len__(self):
        return self.n_obs

    def __getitem__(self, i):
        return {"X": torch.from_numpy(self.x[i]), "batch": torch.from_numpy(self.codes[i])}


def own(adata, batch_size=30):
    import lightning.pytorch as pl

    rows = Rows(adata)
    module = pl.LightningDataModule.from_datasets(rows, batch_size=batch_size)
    module.registry, module.n_obs = rows.registry, rows.n_obs
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch_size": 64}, "has its own batch_size; give it where the data module is made"),
        ({"train_size": 0.5}, "has its own train_size"),
        ({"validation_size": 0.1}, "has its own validation_size"),
        ({"datasplitter_kwargs": {"pool": 9}}, r"datasplitter_kwargs \(pool\) are for AnnData"),
    ],
)
def test_what_a_data_module_would_ignore_is_refused(adata, asked, message):
    with pytest.raises(UserError, match=message):
        trained_on(own(adata), 1, **asked)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_of_one_cell_is_named(make_adata):
    with pytest.raises(UserError, match="a batch has one cell, which batch norm cannot work with"):
        trained_on(own(make_adata(61)), 1)


def test_rows_in_random_order_are_refused(adata, train):
    model = train(adata, max_epochs=1)
    rows = Rows(adata)
    with pytest.raises(UserError, match=r"shuffles \(RandomSampler\)"):
        model.get_latent_representation(dataloader=torch.utils.data.DataLoader(rows, batch_size=9, shuffle=True))
    assert model.get_latent_representation(dataloader=torch.utils.data.DataLoader(rows, batch_size=9)).shape == (120, 8)


def spoiled(rows, key, value):
    """The same cells, the value of the 8th replaced, or of all where it is a tensor or None."""

    def cell(i):
        found = type(rows).__getitem__(rows, i)
        if value is None:
            del found[key]
        elif isinstance(value, torch.Tensor):
            found[key] = value
        elif i == 7:
            found[key] = found[key].to(torch.float64)
            found[key][-1] = value
        else:
            found[key] = found[key].to(torch.float64)
        return found

    return type(
        "Spoiled",
        (torch.utils.data.Dataset,),
        {"__len__": lambda self: len(rows), "__getitem__": lambda self, i: cell(i)},
    )()


WRONG = [
    ("X", float("nan"), r"cell \d+ of a batch .* gene 'gene39': a missing value"),
    ("X", float("inf"), r"cell \d+ of a batch .* gene 'gene39': an infinite value"),
    ("X", -1.0, "gene 'gene39': a negative value, -1"),
    ("X", 0.5, "gene 'gene39': 0.5 is fractional"),
    ("X", 3e9, "more than a count can be"),
    ("X", torch.ones(39), r"'X' of a batch has the shape \(30, 39\), not \(cells, 40\)"),
    ("X", None, "'X' is missing in a batch, which has 'batch'"),
    ("batch", 2.0, "'batch' is 2, no code of the registry: whole numbers from 0 to 1"),
    ("batch", -1.0, "'batch' is -1, no code"),
    ("batch", 0.5, "'batch' is 0.5, no code"),
    ("batch", float("nan"), "'batch' is nan, no code"),
    ("batch", torch.zeros(2), r"'batch' of a batch has the shape \(30, 2\), not \(30, 1\)"),
    ("batch", None, "'batch' is missing in a batch"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_wrong_batches_of_a_data_module_are_refused(adata, key, value, message):
    import lightning.pytorch as pl

    rows = Rows(adata)
    module = pl.LightningDataModule.from_datasets(spoiled(rows, key, value), batch_size=30)
    module.registry, module.n_obs = rows.registry, rows.n_obs
    with pytest.raises(UserError, match=message):
        trained_on(module, 1)


@pytest.mark.parametrize(("key", "value", "message"), [WRONG[i] for i in (0, 4, 8)])
def test_wrong_batches_of_a_loader_are_refused(adata, trained, key, value, message):
    loader = torch.utils.data.DataLoader(spoiled(Rows(adata), key, value), batch_size=30)
    for call in (trained.get_latent_representation, trained.get_normalized_expression):
        with pytest.raises(UserError, match=message) as refusal:
            call(dataloader=loader)
        assert "DataLoader, cell 7 of a batch" in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_batches_whole_up_to_rounding_and_names_are_taken(adata, trained):
    rows = Rows(adata)
    whole = next(iter(torch.utils.data.DataLoader(rows, batch_size=120)))
    expected = trained.get_latent_representation(dataloader=[whole])
    for x in (whole["X"].to_sparse_csr(), whole["X"].to_sparse(), whole["X"].double() * (1 + 1e-9), whole["X"].int()):
        batch = {**whole, "X": x, "names": ["a"] * 120}
        assert np.allclose(trained.get_latent_representation(dataloader=[batch]), expected, atol=1e-5)


def test_covariates_of_foreign_batches_are_checked():
    checker = ForeignBatches("M", ["a", "b"], 1, (2, 3), 1, sized=True)
    good = {
        "X": torch.ones(4, 2), "batch": torch.zeros(4, 1), "extra_categorical_covs": torch.tensor([[1, 2]] * 4),
        "extra_continuous_covs": torch.ones(4, 1), "size_factor": torch.ones(4, 1),
    }  # fmt: skip
    checker.check(good)
    for key, value, message in [
        ("extra_categorical_covs", torch.tensor([[1, 3]] * 4), "is 3, no code .* from 0 to 1, 2"),
        ("extra_continuous_covs", torch.full((4, 1), torch.inf), "is inf, not a finite number"),
        ("size_factor", torch.zeros(4, 1), "is 0, not above 0 and finite"),
        ("size_factor", None, "'size_factor' is NoneType|is missing"),
    ]:
        with pytest.raises(UserError, match=message):
            checker.check({**good, key: value})
    with pytest.raises(UserError, match="M gives tuple, not a dict"):
        checker.check((good["X"],))


def registry_of(mapping, batch_key="site"):
    """What a data module says of its batches and labels; the rest does not matter here."""
    empty = {"data_registry": {}, "state_registry": {}, "summary_stats": {}}
    field = {"data_registry": {"attr_name": "obs"}, "summary_stats": {"n": 2}}
    batch = {**field, "state_registry": {"categorical_mapping": mapping, "original_key": "site"}}
    labels = {**field, "state_registry": {"categorical_mapping": None, "original_key": None}}
    fields = {"X": empty, "batch": batch, "labels": labels}
    setup = {"batch_key": batch_key, "labels_key": None}
    return {"setup_method_name": "setup_datamodule", "setup_args": setup, "field_registries": fields}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (registry_of({"z": 0, "a": 1}), ["z", "a"]),  # lamindb: name → code
        (registry_of({"z": 1, "a": 0}), ["a", "z"]),
        (registry_of(np.array(["z", "a"]), "_scvi_batch"), ["a", "z"]),  # TileDB: as they come, but coded by alphabet
        (registry_of(np.array(["z", "a"])), ["z", "a"]),
    ],
)
def test_batches_keep_their_names(given, names):
    state = as_of_anndata(given)["field_registries"]["batch"]["state_registry"]
    assert list(state["categorical_mapping"]) == names


def two_sites(make_adata):
    """Cells whose first batch in the data is the last one in the alphabet."""
    adata = make_adata()
    adata.obs["site"] = np.where(adata.obs["batch"] == adata.obs["batch"].iloc[0], "z", "a")
    return adata


@pytest.fixture
def soma(make_adata, tmp_path):
    """A TileDB-SOMA experiment, and the cells in it."""
    pytest.importorskip("tiledbsoma_ml", reason="the packages tiledbsoma and tiledbsoma-ml are not installed")
    import tiledbsoma
    import tiledbsoma.io

    adata = two_sites(make_adata)
    try:
        tiledbsoma.io.from_anndata(str(tmp_path / "soma"), adata.copy(), measurement_name="RNA")
    except Exception as error:  # tiledbsoma 2.2 writes with anndata < 0.13 and pandas < 3 alone
        pytest.skip(f"this tiledbsoma cannot write AnnData: {error}")
    with tiledbsoma.Experiment.open(str(tmp_path / "soma")) as experiment:
        yield experiment, adata


def soma_module(experiment, **arguments):
    from scvi.dataloaders import TileDBDataModule

    module = TileDBDataModule(
        experiment.axis_query("RNA"), layer_name="data", batch_column_names=["site"], batch_size=32,
        dataloader_kwargs={"num_workers": 0}, accelerator="cpu", **arguments,
    )  # fmt: skip
    module.setup()
    return module


@pytest.mark.filterwarnings("ignore")
def test_tiledb_trains_embeds_and_resumes(soma, tmp_path):
    experiment, adata = soma
    module = soma_module(experiment, shuffle=False)
    trained_on(module, 2, resume=tmp_path / "run", max_steps=4)
    model = trained_on(module, 2, resume=tmp_path / "run")
    assert (tmp_path / "run" / "metrics.csv").read_text().count(",train_loss,") == 2
    z = model.get_latent_representation(dataloader=module.inference_dataloader())
    assert z.shape == (120, 4)
    adata.var_names = [str(i) for i in range(40)]  # the module names genes by their ids in the experiment
    adata.obs["batch"] = adata.obs["site"]
    assert np.allclose(z, model.get_latent_representation(adata), atol=1e-5)
    mixed = soma_module(experiment, shuffle=True)
    with pytest.raises(UserError, match="data set shuffles, so the rows of the result could not be told"):
        model.get_latent_representation(dataloader=mixed.inference_dataloader())


@pytest.mark.filterwarnings("ignore")
def test_lamindb_trains_embeds_and_resumes(make_adata, tmp_path):
    """Its reader of files is tried; a collection cannot be registered without lamindb's server."""
    lamindb = pytest.importorskip("lamindb.core", reason="the package lamindb is not installed")
    from scvi.dataloaders import MappedCollectionDataModule

    adata = two_sites(make_adata)
    paths = [tmp_path / "0.h5ad", tmp_path / "1.h5ad"]
    adata[:70].write_h5ad(paths[0])
    adata[70:].write_h5ad(paths[1])
    collection = type("Collection", (), {"mapped": lambda _, **given: lamindb.MappedCollection(paths, **given)})()
    module = MappedCollectionDataModule(collection, batch_key="site", batch_size=30, join="inner", parallel=False)
    trained_on(module, 2, resume=tmp_path / "run", max_steps=4)
    model = trained_on(module, 2, resume=tmp_path / "run")
    assert (tmp_path / "run" / "metrics.csv").read_text().count(",train_loss,") == 2
    z = model.get_latent_representation(dataloader=module.inference_dataloader())
    assert np.allclose(z, model.get_latent_representation(adata), atol=1e-5)
