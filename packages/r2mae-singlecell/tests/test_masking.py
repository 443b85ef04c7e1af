import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_singlecell.masking import gene_folds, hidden_columns


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(n=st.integers(1, 300), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_exact_count_without_repetition(n, ratio, seed):
    columns = hidden_columns(n, ratio, generator(seed))
    assert len(columns) == max(1, round(ratio * n))
    assert columns.unique().tolist() == columns.tolist()
    assert set(columns.tolist()) <= set(range(n))


def test_every_gene_is_hidden_equally_often():
    hits = torch.zeros(20)
    for seed in range(2000):
        hits[hidden_columns(20, 0.3, generator(seed))] += 1
    assert (hits / 2000 - 0.3).abs().max() < 0.04  # four deviations


def test_only_candidates():
    candidates = torch.tensor([3, 5, 8, 13])
    assert set(hidden_columns(20, 0.5, generator(), candidates).tolist()) < set(candidates.tolist())
    assert len(hidden_columns(20, 0.5, generator(), candidates)) == 2
    assert hidden_columns(20, 1.0, generator(), candidates).tolist() == candidates.tolist()


@given(n=st.integers(1, 200), ratio=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_folds_hide_every_gene_once(n, ratio, seed):
    folds = gene_folds(n, ratio, seed)
    assert torch.cat(folds).sort().values.tolist() == list(range(n))
    assert max(map(len, folds)) <= max(1, ratio * n + 1)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_folds_refuse_what_hides_nothing(ratio):
    with pytest.raises(ValueError, match="must be in"):
        gene_folds(10, ratio, 0)
