"""A model that was mapped to a query stays mapped: after `save` and `load`, and after `export` and `from_export`."""

import numpy as np
import pytest
import torch

from r2mae_singlecell import R2MAE

FREEZING = [{}, {"freeze_dropout": True, "freeze_batchnorm_decoder": True}, {"freeze_expression": False}]


def mapped(trained, make_adata, train, **options):
    query = make_adata(90, 40, seed=1)
    query.obs["batch"] = "new"
    query = query[:, [i for i in range(40) if i not in (4, 11)]].copy()
    R2MAE.prepare_query_anndata(query, trained)
    return R2MAE.load_query_data(query, trained, **options), query


def by_save(model, folder, query):
    model.save(folder / "m")
    return R2MAE.load(folder / "m", query)


def by_export(model, folder, query):
    return R2MAE.from_export(model.export(folder / "m"), query)


def trained_once(model):
    model.train(max_epochs=1, batch_size=30, accelerator="cpu", enable_progress_bar=False, log_every_n_steps=1)
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Training history cannot be updated")  # an export holds none
@pytest.mark.parametrize("options", FREEZING)
@pytest.mark.parametrize("again", [by_save, by_export])
def test_frozen_weights_stay_frozen(trained, make_adata, train, again, options, tmp_path):
    model, query = mapped(trained, make_adata, train, **options)
    trained_once(model)
    read = again(model, tmp_path, query)
    assert read.is_query_
    assert read.missing_genes_.tolist() == [4, 11]
    free = {name for name, value in model.module.named_parameters() if value.requires_grad}
    assert {name for name, value in read.module.named_parameters() if value.requires_grad} == free
    before = {name: value.clone() for name, value in read.module.state_dict().items()}
    torch.manual_seed(0)
    after = trained_once(read)
    torch.manual_seed(0)
    expected = trained_once(model)  # as if it had never been written
    assert all(torch.equal(value, expected[name]) for name, value in after.items())
    first = "encoder.fc_layers.Layer 0.0.weight"
    change = (after[first] - before[first]).abs().sum(0)
    assert change[-1] > 0  # the new batch
    if options.get("freeze_expression", True):
        assert not change[:-3].any()
    assert torch.equal(after["to_genes.weight"], before["to_genes.weight"])
    assert torch.equal(after["log_theta"], before["log_theta"])


def test_a_model_that_is_no_query_stays_free(trained, make_adata, train, tmp_path):
    read = by_export(trained, tmp_path, trained.adata)
    assert not read.is_query_
    assert all(value.requires_grad for value in read.module.parameters())
    model, query = mapped(trained, make_adata, train, unfrozen=True)
    model.is_trained_ = True
    read = by_save(model, tmp_path / "free", query)
    assert not read.is_query_
    assert all(value.requires_grad for value in read.module.parameters())


def test_a_second_query_lacks_only_its_own_genes(trained, make_adata, train):
    model, _ = mapped(trained, make_adata, train)
    model.is_trained_ = True
    other = make_adata(50, 40, seed=2)
    other.obs["batch"] = "third"
    assert R2MAE.load_query_data(other, model).missing_genes_ is None
    assert np.array_equal(model.missing_genes_, [4, 11])
