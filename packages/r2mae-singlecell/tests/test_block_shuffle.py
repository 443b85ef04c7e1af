import threading

import anndata
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from r2mae_core import BatchOrder, StepOrder, UserError
from r2mae_singlecell import CountMatrix
from r2mae_singlecell.data import block_shuffle
from r2mae_singlecell.data.block_shuffle import BlockLoader, BlockOrder, chosen_shuffle
from r2mae_singlecell.data.memory import _folders, _left, available_memory

SIZES = [(100, 10, 8, 32), (103, 10, 8, 32), (97, 16, 5, 5), (64, 64, 100, 1000), (201, 7, 1, 50), (50, 9, 50, 60)]


@pytest.mark.parametrize(("n", "batch", "chunk", "pool"), SIZES)
def test_an_epoch_has_every_sample_once(n, batch, chunk, pool):
    order = BlockOrder(BatchOrder(n, batch, seed=3, drop_last=False), chunk, pool)
    first, second = (
        np.concatenate([order.batch(epoch * order.n_batches() + i) for i in range(order.n_batches())])
        for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(n))
    assert not np.array_equal(first, second)
    whole = BlockOrder(BatchOrder(n, batch, seed=3), chunk, pool)
    assert all(len(whole.batch(i)) == batch for i in range(whole.n_batches()))


def test_batches_come_from_the_chunks_of_a_pool_and_are_mixed():
    order = BlockOrder(BatchOrder(10_000, 100, seed=0), chunk=50, pool=1000)
    chunks = [set(order.batch(i) // 50) for i in range(10)]
    assert len(set().union(*chunks)) == 20  # a pool is twenty chunks, and ten batches
    assert min(map(len, chunks)) > 15  # of which a batch has nearly all
    # Which of the chunks of a pool, and which place in it, a sample has is uniform.
    places = [np.flatnonzero(np.concatenate([o.batch(i) for i in range(10)]) == 7) for o in _orders(400)]
    counts = np.histogram(np.concatenate(places), bins=10, range=(0, 1000))[0]
    assert 20 < counts.sum() < 70  # a tenth of 400
    assert chisquare(counts).pvalue > 1e-3


def _orders(n):
    return [BlockOrder(BatchOrder(10_000, 100, seed=s), chunk=50, pool=1000) for s in range(n)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_step_of_one_rank(world_size):
    alone = BlockOrder(StepOrder(103, 16, 16, seed=1), 8, 24)
    several = BlockOrder(StepOrder(103, 16, 16 // world_size, seed=1), 8, 24)
    for step in range(2 * alone.n_batches()):
        parts = [several.batch(step, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), alone.batch(step))


def test_orders_that_cannot_be():
    with pytest.raises(UserError, match="a chunk of 64 cells does not fit a pool of 32"):
        BlockOrder(BatchOrder(100, 10), 64, 32)
    with pytest.raises(UserError, match="a chunk of 0"):
        BlockOrder(BatchOrder(100, 10), 0, 32)


def test_what_auto_chooses(adata, tmp_path, monkeypatch):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = CountMatrix(anndata.read_h5ad(tmp_path / "a.h5ad", backed="r").X)
    assert chosen_shuffle("auto", backed)[0] == "exact"
    monkeypatch.setattr(block_shuffle, "available_memory", lambda: int(1.9 * backed.nbytes))
    chosen, why = chosen_shuffle("auto", backed)
    assert chosen == "blocks"
    assert "MB of counts" in why
    assert chosen_shuffle("auto", CountMatrix(adata.X)) == ("exact", "the counts are in memory")
    assert chosen_shuffle("blocks", CountMatrix(adata.X))[0] == "blocks"
    assert chosen_shuffle("exact", backed)[0] == "exact"
    with pytest.raises(UserError, match="shuffle must be one of auto, exact, blocks, got 'yes'"):
        chosen_shuffle("yes", backed)


@pytest.mark.parametrize(("limit", "left"), [("max", []), ("1000", [300])])
def test_memory_within_a_control_group(tmp_path, limit, left):
    inner = tmp_path / "fs" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a/b\n")
    (inner / "memory.max").write_text(limit)
    (inner / "memory.current").write_text("900")
    (inner / "memory.stat").write_text("anon 600\ninactive_file 200\n")
    folders = _folders(tmp_path / "fs", tmp_path / "own")
    assert folders == [inner, inner.parent, tmp_path / "fs"]
    assert [value for folder in folders for value in _left(folder)] == left
    assert 0 < available_memory() < 2**50


def loader(adata, source, cells, seed=0, batch=16, chunk=4, pool=32):
    counts = CountMatrix(source)
    covariates = {"batch": torch.arange(adata.n_obs)[:, None]}
    order = BlockOrder(BatchOrder(len(cells), batch, seed), chunk, pool)
    return BlockLoader(
        order, cells, counts, covariates, lambda c: {"X": counts.rows(c), "batch": covariates["batch"][c]}
    )


@pytest.mark.parametrize("form", ["memory", "mapped", "compressed"])
@pytest.mark.parametrize("sparse", [False, True])
def test_batches_are_those_of_the_order_wherever_they_are_read(make_adata, here, form, sparse):
    from r2mae_singlecell.data.prepared import read_prepared

    adata = read_prepared(here / "p.h5ad").to_memory()
    adata.write_h5ad(here / "z.h5ad", compression="gzip")
    source = {
        "memory": lambda: adata.X,
        "mapped": lambda: anndata.read_h5ad(here / "p.h5ad", backed="r").X,
        "compressed": lambda: anndata.read_h5ad(here / "z.h5ad", backed="r").X,
    }[form]()
    X = adata.X.toarray()
    cells = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: 40 if sparse else 100])
    ours = loader(adata, source, cells)
    found = list(ours)
    assert len(found) == len(ours) == len(cells) // 16
    for i, batch in enumerate(found):
        expected = cells[ours.order.batch(i)]
        assert batch["batch"].ravel().tolist() == expected.tolist()
        assert np.array_equal(batch["X"].dense(X.shape[1]).numpy(), X[expected])
    second = next(iter(ours))  # of the next epoch
    assert second["batch"].ravel().tolist() == cells[ours.order.batch(len(ours))].tolist()
    index, again = ours.batch_at(1)
    assert np.array_equal(index, ours.order.batch(1))
    assert torch.equal(again["X"].dense(X.shape[1]), found[1]["X"].dense(X.shape[1]))


def test_from_any_position_and_no_thread_is_left(adata):
    cells, before = np.arange(120), threading.active_count()
    whole = [batch["batch"].ravel().tolist() for batch in loader(adata, adata.X, cells)]
    for start in range(len(whole)):
        part = loader(adata, adata.X, cells)
        part.load_state_dict({"position": start})
        assert [batch["batch"].ravel().tolist() for batch in part] == whole[start:]
        assert part.state_dict() == {"position": len(whole)}
    stopped = iter(loader(adata, adata.X, cells))
    next(stopped)
    stopped.close()
    assert threading.active_count() == before


def test_a_fault_while_reading_ahead_is_the_same_message(adata, tmp_path):
    adata.X.data[adata.X.indptr[70]] = -2
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(UserError, match=r"a.h5ad: a negative value, -2 \(cell 70"):
        list(loader(adata, backed.X, np.arange(120)))


def test_training_in_blocks_resumes_to_the_bit(make_adata, train, same_weights, tmp_path):
    make_adata().write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    backed = lambda: anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")  # noqa: E731
    blocks = {"datasplitter_kwargs": {"shuffle": "blocks", "chunk": 4, "pool": 48}}
    whole = train(backed(), max_epochs=4, **blocks)
    assert same_weights(whole, train(make_adata(), max_epochs=4, **blocks))
    assert not same_weights(whole, train(make_adata(), max_epochs=4))
    train(backed(), max_epochs=4, max_steps=7, resume=tmp_path / "run", **blocks)  # within the third epoch
    assert same_weights(whole, train(backed(), max_epochs=4, resume=tmp_path / "run", **blocks))
    with pytest.raises(UserError, match=r"another shuffle.*\(blocks there, exact here\)"):
        train(make_adata(), max_epochs=4, resume=tmp_path / "run")
