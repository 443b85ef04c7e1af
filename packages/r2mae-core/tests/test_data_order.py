import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import BatchOrder, ResumableLoader, StepOrder, UserError, micro_batch_size, permutation


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**63), st.integers(1, 3))
def test_ranks_share_an_epoch_without_overlap(n, batch_size, seed, world_size):
    if n < batch_size * world_size:
        return
    order = BatchOrder(n, batch_size, seed)
    n_batches = order.n_batches(world_size)
    for epoch in (0, 2):
        positions = range(epoch * n_batches, (epoch + 1) * n_batches)
        seen = np.concatenate([order.batch(p, rank, world_size) for p in positions for rank in range(world_size)])
        assert len(seen) == len(set(seen.tolist())) == n_batches * world_size * batch_size
        assert set(seen.tolist()) <= set(range(n))


def test_two_ranks_see_what_one_sees_under_accumulation():
    order = BatchOrder(40, 5, seed=1)
    one = [order.batch(p) for p in range(8)]
    two = [order.batch(p, rank, 2) for p in range(4) for rank in range(2)]
    assert np.array_equal(one, two)


def test_epochs_and_seeds_differ_and_repeat():
    assert not np.array_equal(permutation(50, 0, 0), permutation(50, 0, 1))
    assert not np.array_equal(permutation(50, 0, 0), permutation(50, 1, 0))
    first = permutation(50, 0, 0).copy()
    permutation.cache_clear()
    assert np.array_equal(first, permutation(50, 0, 0))


def test_last_batch_can_be_kept_on_one_rank():
    order = BatchOrder(10, 4, drop_last=False)
    assert [len(order.batch(p)) for p in range(4)] == [4, 4, 2, 4]
    with pytest.raises(UserError, match="drop_last=True"):
        order.n_batches(2)


def test_too_few_samples():
    with pytest.raises(UserError, match="7 samples do not fill a batch of 8; lower the batch size"):
        BatchOrder(7, 8)
    with pytest.raises(UserError, match="10 samples do not fill 2 batches of 8"):
        BatchOrder(10, 8).n_batches(2)


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, i):
        return i * i


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_at_any_position(workers):
    def loader():
        return ResumableLoader(BatchOrder(23, 4, seed=3), dataset=Squares(), num_workers=workers)

    def epochs(source, n):
        return [batch.tolist() for _ in range(n) for batch in source]

    whole = epochs(loader(), 3)
    assert len(whole) == 15
    order = BatchOrder(23, 4, seed=3)
    assert whole == [(order.batch(position) ** 2).tolist() for position in range(15)]
    for stop in (0, 3, 5, 7) if workers == 0 else (7,):
        first = loader()
        taken = []
        while len(taken) < stop:
            for batch in first:
                taken.append(batch.tolist())
                if len(taken) == stop:
                    state = first.state_dict()
                    break
        again = loader()
        if stop:
            again.load_state_dict(state)
        rest = []
        while len(rest) < 15 - stop:
            rest += epochs(again, 1)
        assert taken + rest == whole


def test_loader_over_a_function():
    loader = ResumableLoader(BatchOrder(8, 4), lambda indices: torch.from_numpy(indices) + 100)
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(100, 108))
    with pytest.raises(ValueError, match="either fetch or dataset"):
        ResumableLoader(BatchOrder(8, 4))


def test_the_order_serves_whole_steps():
    order = StepOrder(100, 16, 4, seed=3)
    assert order.n_batches() == 24
    whole = StepOrder(100, 16, 16, seed=3)
    for step in range(14):
        parts = np.concatenate([order.batch(step * 4 + i) for i in range(4)])
        assert (parts == whole.batch(step)).all()
        ranks = np.concatenate([order.batch(step * 2 + i, rank, 2) for i in range(2) for rank in range(2)])
        assert (ranks == parts).all()
    epoch = np.concatenate([whole.batch(i) for i in range(6)])
    assert len(set(epoch.tolist())) == 96
    with pytest.raises(UserError, match="10 samples do not fill a batch of 16"):
        StepOrder(10, 16, 4)
    with pytest.raises(UserError, match="cannot be divided into micro-batches of 3"):
        StepOrder(100, 16, 3).n_batches()


@given(st.integers(1, 4096), st.integers(1, 8), st.integers(1, 256), st.booleans())
def test_the_micro_batch_divides_the_batch(batch_size, world_size, largest, even):
    fitting = [n for n in range(1, largest + 1) if batch_size % (n * world_size) == 0 and not (even and n % 2)]
    if not fitting:
        with pytest.raises(UserError, match="cannot be shared by"):
            micro_batch_size(None, batch_size, world_size, largest, even=even)
        return
    assert micro_batch_size(None, batch_size, world_size, largest, even=even) == max(fitting)


def test_a_micro_batch_that_was_asked_for_is_taken_or_refused():
    assert micro_batch_size(512, 2048, 4, 16) == 512
    for asked in (0, 100):
        with pytest.raises(UserError, match=f"2048 is not a multiple of --micro_batch_size {asked} × 4 devices"):
            micro_batch_size(asked, 2048, 4, 16)


class Broken(torch.utils.data.Dataset):
    def __init__(self, kill):
        self.kill = kill

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("image 3 cannot be read")


@pytest.mark.parametrize(("kill", "message"), [(False, r"^image 3 cannot be read$"), (True, "ended from outside")])
def test_an_error_in_a_worker_is_one_line(kill, message):
    loader = ResumableLoader(BatchOrder(8, 4), dataset=Broken(kill), num_workers=1)
    with pytest.raises(UserError, match=message):
        list(loader)
    loader.close()
