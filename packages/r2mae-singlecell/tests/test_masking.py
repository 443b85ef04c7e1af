import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import Groups
from r2mae_singlecell.masking import gene_folds, hidden_columns, hidden_in_cells


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


SETS = [range(0, 7), range(7, 15), range(15, 20)]
"""With 20 genes each in one set; genes 20 to 29 are in none."""


@pytest.mark.parametrize("candidates", [None, torch.tensor([1, 2, 3, 8, 9, 15, 21, 22, 28, 29])])
@pytest.mark.parametrize("groups", [None, Groups(SETS, 30)])
@given(ratios=st.lists(st.floats(0, 1), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_every_cell_hides_its_own_exact_count_of_the_candidates(candidates, groups, ratios, seed):
    ratio = torch.tensor(ratios, dtype=torch.float64)
    mask, n_hidden = hidden_in_cells(30, ratio, generator(seed), candidates, groups)
    n = 30 if candidates is None else len(candidates)
    assert mask.sum(1).tolist() == [max(1, round(r * n)) for r in ratios]
    assert mask.sum() == n_hidden
    if candidates is not None:
        others = torch.ones(30, dtype=torch.bool).index_fill_(0, candidates, False)
        assert not mask[:, others].any()


def test_cells_of_one_ratio_hide_other_genes():
    mask, _ = hidden_in_cells(200, torch.full((50,), 0.3, dtype=torch.float64), generator())
    assert len(mask.unique(dim=0)) == 50
    assert (mask.float().mean(0) - 0.3).abs().max() < 0.3  # no gene is always hidden


@given(ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_genes_of_a_set_are_hidden_together_and_at_most_one_set_is_cut(ratio, seed):
    groups = Groups(SETS, 30)
    columns = hidden_columns(30, ratio, generator(seed), None, groups)
    assert len(columns.unique()) == len(columns) == max(1, round(ratio * 30))
    mask, _ = hidden_in_cells(30, torch.tensor([ratio, 0.5], dtype=torch.float64), generator(seed), None, groups)
    for hidden in (set(columns.tolist()), set(mask[0].nonzero()[:, 0].tolist())):
        cut = [own for own in map(set, SETS) if own & hidden and not own <= hidden]
        assert len(cut) <= 1
    candidates = torch.tensor([0, 1, 2, 7, 8, 25])
    among = hidden_columns(30, ratio, generator(seed), candidates, groups)
    assert set(among.tolist()) <= set(candidates.tolist())
    assert len(among) == max(1, round(ratio * 6))


def test_sets_are_hidden_equally_often():
    groups, hits = Groups(SETS, 30), torch.zeros(30)
    for seed in range(2000):
        hits[hidden_columns(30, 0.3, generator(seed), None, groups)] += 1
    # The last set is cut, so small ones are hidden a little more often; no gene is left out or hidden always.
    assert ((hits / 2000 - 0.3).abs() < 0.1).all()
    for own in SETS:  # alike within a set: the end at which it is cut is drawn
        assert hits[list(own)].max() - hits[list(own)].min() < 150


@given(n=st.integers(1, 200), ratio=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_folds_hide_every_gene_once(n, ratio, seed):
    folds = gene_folds(n, ratio, seed)
    assert torch.cat(folds).sort().values.tolist() == list(range(n))
    assert max(map(len, folds)) <= max(1, ratio * n + 1)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_folds_refuse_what_hides_nothing(ratio):
    with pytest.raises(ValueError, match="must be in"):
        gene_folds(10, ratio, 0)
