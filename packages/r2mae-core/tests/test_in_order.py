import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import InOrder, UserError, spread
from r2mae_core.train import in_order


def batches(n, batch_size, rank, world_size, monkeypatch):
    monkeypatch.setattr(in_order, "rank_and_world_size", lambda: (rank, world_size))
    loader = InOrder(range(n), batch_size, lambda rows: rows.tolist())
    found = list(loader)
    assert len(found) == len(loader)
    return found


def test_one_process_takes_full_batches_and_a_smaller_last_one(monkeypatch):
    assert batches(10, 4, 0, 1, monkeypatch) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 5))
def test_every_row_once_and_every_rank_the_same_number_of_batches(n, batch_size, world_size):
    with pytest.MonkeyPatch.context() as patch:
        try:
            ranks = [batches(n, batch_size, rank, world_size, patch) for rank in range(world_size)]
        except UserError:
            assert n < world_size
            return
    assert len({len(found) for found in ranks}) == 1
    in_turn = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    assert [row for batch in in_turn for row in batch] == list(range(n))
    assert max(map(len, in_turn)) <= max(batch_size, 2)  # two: where batches of one do not come out even
    assert min(map(len, in_turn)) >= 1


def test_too_few_rows_are_refused(monkeypatch):
    with pytest.raises(UserError, match="3 held-out rows cannot be shared by 4 devices"):
        batches(3, 8, 0, 4, monkeypatch)
    with pytest.raises(UserError, match="nothing to validate on"):
        InOrder([], 8, lambda rows: rows)


def test_spread_takes_rows_from_the_first_to_the_last():
    assert spread(100, 5).tolist() == [0, 24, 49, 74, 99]
    assert np.array_equal(spread(3, 10), [0, 1, 2])
