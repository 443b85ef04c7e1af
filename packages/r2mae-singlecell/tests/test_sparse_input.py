import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from r2mae_singlecell import sparse_input
from r2mae_singlecell.model import MaskedAutoencoder
from r2mae_singlecell.sparse_input import MIN_CELLS, SparseInputLinear


def sparse_rows(n_cells, n_genes, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(n_cells, n_genes, generator=generator) < density
    return there * torch.randint(1, 9, there.shape, generator=generator).float()


@pytest.fixture
def products(monkeypatch):
    """The sparse products computed so far, as (cells, non-zeros)."""
    seen = []
    original = sparse_input._SparseProduct.forward
    monkeypatch.setattr(
        sparse_input._SparseProduct,
        "forward",
        staticmethod(lambda ctx, w, rows: (seen.append((rows.shape[0], rows.nnz)), original(ctx, w, rows))[1]),
    )
    return seen


@given(
    n_cells=st.integers(MIN_CELLS, MIN_CELLS + 40),
    n_genes=st.integers(1, 60),
    width=st.integers(1, 20),
    density=st.floats(0.0, 0.1),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_the_dense_layer(n_cells, n_genes, width, density, bias, seed):
    """Output and gradients are those of float64, whatever rows and columns are empty."""
    torch.manual_seed(seed)
    layer = SparseInputLinear(nn.Linear(n_genes, width, bias=bias))
    x = sparse_rows(n_cells, n_genes, density, seed)
    exact = nn.Linear(n_genes, width, bias=bias, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    out, expected, weights = layer(x), exact(x.double()), torch.randn(n_cells, width)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-5)
    for name, parameter in layer.named_parameters():
        assert parameter.grad.is_contiguous()
        assert torch.allclose(parameter.grad.double(), exact.get_parameter(name).grad, rtol=1e-5, atol=1e-4)


def batch(n_cells=200, n_genes=300):
    x = sparse_rows(n_cells, n_genes, 0.08)
    x[[0, 7, n_cells - 1]] = 0.0  # empty cells
    generator = torch.Generator().manual_seed(1)
    return {
        "X": x,
        "batch": torch.randint(0, 3, (n_cells, 1), generator=generator),
        "extra_categorical_covs": torch.randint(0, 2, (n_cells, 1), generator=generator).float(),
        "extra_continuous_covs": torch.randn(n_cells, 1, generator=generator),
    }


def as_scvi_tools_makes_it(module):
    module = copy.deepcopy(module)
    first, layer = module.encoder.fc_layers[0], module.encoder.fc_layers[0][0]
    first[0] = nn.Linear(layer.in_features, layer.out_features)
    first[0].load_state_dict(layer.state_dict())
    return module


@pytest.mark.parametrize("n_hidden_genes", [1, 90, 300])
def test_network_equals_the_dense_one(n_hidden_genes, products):
    """Loss and every gradient, with one-hot and continuous covariates, hidden genes and empty cells."""
    torch.manual_seed(0)
    module = MaskedAutoencoder(300, 3, n_cats_per_cov=[2], n_continuous_cov=1, n_hidden=64, n_latent=16)
    for block in (*module.encoder.fc_layers, *module.decoder.fc_layers):
        block[3] = nn.Softplus()  # smooth: where rounding moves a unit across the kink of ReLU, its gradient jumps
    dense, tensors = as_scvi_tools_makes_it(module), batch()
    columns = torch.randperm(300, generator=torch.Generator().manual_seed(2))[:n_hidden_genes]
    losses = []
    for each in (module, dense):
        loss = each.hidden_nll(tensors, columns).mean()
        loss.backward()
        losses.append(loss.item())
    assert len(products) == 1  # the dense one has none
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    # A bias before batch norm has a gradient of rounding alone, so each is also measured against the whole.
    whole = torch.cat([parameter.grad.flatten() for parameter in dense.parameters()]).norm()
    for name, parameter in dense.named_parameters():
        gap = (module.get_parameter(name).grad - parameter.grad).norm()
        assert gap <= 1e-5 * parameter.grad.norm() + 1e-7 * whole, (name, gap, parameter.grad.norm(), whole)


def test_hidden_genes_are_not_read(products):
    module = MaskedAutoencoder(300, 3, n_cats_per_cov=[2], n_continuous_cov=1, n_hidden=64, n_latent=16)
    tensors, columns = batch(), torch.arange(0, 300, 3)
    module.hidden_nll(tensors, columns).sum().backward()
    shown = torch.ones(300, dtype=torch.bool).index_fill(0, columns, False)
    # To the counts come the covariates: a continuous one and two one-hot ones.
    assert products == [(200, int(tensors["X"][:, shown].count_nonzero()) + 3 * 200)]
    gradient = module.encoder.fc_layers[0][0].weight.grad
    assert gradient[:, columns].eq(0).all()
    assert gradient[:, :300][:, shown].ne(0).any()


def test_names_weights_and_random_state_stay():
    torch.manual_seed(3)
    dense = nn.Linear(7, 5)
    after = torch.rand(3)
    torch.manual_seed(3)
    original = nn.Linear(7, 5)
    layer = SparseInputLinear(original)
    assert torch.equal(torch.rand(3), after)
    assert layer.weight is original.weight
    assert layer.state_dict().keys() == dense.state_dict().keys()
    assert "encoder.fc_layers.Layer 0.0.weight" in MaskedAutoencoder(7, n_hidden=5, n_latent=2).state_dict()


@pytest.mark.parametrize("why", ["dense rows", "few cells", "float64", "no gradient", "frozen", "autocast", "input"])
def test_dense_product_elsewhere(why, products):
    layer, x = SparseInputLinear(nn.Linear(50, 6)), sparse_rows(150, 50, 0.08)
    layer(x)
    assert products  # the same layer on the same input, without the reason
    products.clear()
    if why == "float64":
        layer, x = layer.double(), x.double()
    elif why == "input":
        x.requires_grad_()
    x = {"dense rows": x + 1, "few cells": x[: MIN_CELLS - 1]}.get(why, x)
    layer.weight.requires_grad_(why != "frozen")
    with torch.set_grad_enabled(why != "no gradient"), torch.autocast("cpu", enabled=why == "autocast"):
        out = layer(x)
        expected = nn.functional.linear(x, layer.weight, layer.bias)
    assert not products
    assert torch.equal(out, expected)
    if why == "input":
        out.sum().backward()
        assert torch.allclose(x.grad, layer.weight.detach().sum(0).expand(150, -1), atol=1e-6)


@pytest.mark.slow
def test_scarches_trains_the_new_batch_alone(train, make_adata, products):
    """The hooks that freeze the reference's columns see the sparse product's gradient."""
    from r2mae_core import quiet_lightning
    from r2mae_singlecell import R2MAE

    def thinned(adata):
        X = adata.X.toarray() * (np.random.default_rng(0).random(adata.shape) < 0.07)
        X[:, 0] = 1  # no cell is empty
        adata.X = sp.csr_matrix(X)
        return adata

    reference = train(thinned(make_adata(300, 60)), batch_size=150, max_epochs=2)
    query = thinned(make_adata(300, 60, seed=1))
    query.obs["batch"] = "new"
    R2MAE.prepare_query_anndata(query, reference)
    with quiet_lightning():
        model = R2MAE.load_query_data(query, reference)
        before = {key: value.clone() for key, value in model.module.state_dict().items()}
        products.clear()
        model.train(max_epochs=2, batch_size=150, accelerator="cpu", enable_progress_bar=False)
    assert products
    weight = "encoder.fc_layers.Layer 0.0.weight"
    after = model.module.state_dict()[weight]
    assert torch.equal(after[:, :62], before[weight][:, :62])
    assert not torch.equal(after[:, 62:], before[weight][:, 62:])
