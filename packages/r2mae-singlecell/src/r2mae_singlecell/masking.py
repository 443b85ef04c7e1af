"""How a ratio becomes a mask: one set of genes for the whole mini-batch (paper, C.8), or one for each cell."""

import math

import torch
from torch import Tensor

from r2mae_core import Groups, exact_mask, group_mask, n_masked, row_counts


def hidden_columns(
    n_genes: int,
    ratio: float,
    generator: torch.Generator,
    candidates: Tensor | None = None,
    groups: Groups | None = None,
) -> Tensor:
    """Draw the gene columns to hide: exactly max(1, round(ratio · n)) of the candidates.

    The count is known on the host, so nothing waits for the device.

    Args:
        n_genes: genes of the model.
        ratio: fraction of the candidates to hide.
        generator: source of randomness; its device is the result's.
        candidates: int64 indices of the genes that may be hidden; None: all. Genes that a query data set lacks are
            not candidates: they are hidden in any case, and there is nothing to compare a prediction with.
        groups: genes that are hidden together, the last group cut; None: each by itself.

    Returns:
        (n_hidden,) int64, ascending.
    """
    n = n_genes if candidates is None else len(candidates)
    if groups is None:
        chosen = torch.rand(n, generator=generator, device=generator.device).topk(n_masked(ratio, n)).indices
    else:
        scores = groups.scores(1, generator, generator.device)[0]
        scores = scores if candidates is None else scores[candidates]
        chosen = scores.topk(n_masked(ratio, n), largest=False).indices
    columns = chosen if candidates is None else candidates[chosen]
    return columns.sort().values


def hidden_in_cells(
    n_genes: int,
    ratio: Tensor,
    generator: torch.Generator,
    candidates: Tensor | None = None,
    groups: Groups | None = None,
    present: Tensor | None = None,
) -> tuple[Tensor, int | Tensor]:
    """Draw the genes to hide in each cell: exactly max(1, round(ratio · n)) of the candidates, by its own ratio.

    Args:
        n_genes: genes of the model.
        ratio: (cells,) on the CPU.
        generator: source of randomness; its device is the mask's.
        candidates: as in `hidden_columns`.
        groups: as in `hidden_columns`.
        present: (cells, n_genes) bool, the genes that each cell's file has, on the mask's device; None: all of them.

    Returns:
        (cells, n_genes) bool, True = hidden, and how many are hidden in all: known on the host, so nothing waits, or
        with `present` a tensor on the device.
    """
    shape, valid, device = (len(ratio), n_genes), None, generator.device
    if candidates is not None:
        valid = torch.zeros(n_genes, dtype=torch.bool, device=device).index_fill_(0, candidates, True)
    if present is not None:
        valid = present if valid is None else present & valid
    if groups is None:
        mask = exact_mask(shape, ratio, generator=generator, valid=valid, device=device)
    else:
        mask = group_mask(shape, ratio, groups, generator=generator, valid=valid, device=device)
    if present is not None:
        return mask, mask.sum()
    n = n_genes if candidates is None else len(candidates)
    return mask, int(row_counts((len(ratio), n), ratio, None, "cpu").sum())


def gene_folds(n_genes: int, ratio: float, seed: int) -> list[Tensor]:
    """Split the genes at random into groups of about `ratio` of them; hiding each in turn hides every gene once.

    Args:
        n_genes: genes of the model.
        ratio: fraction hidden in one pass, in (0, 1].
        seed: seed for the split.

    Returns:
        ceil(1 / ratio) groups, at most `n_genes`; int64 indices on the CPU.

    Raises:
        ValueError: the ratio is not in (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"mask_ratio must be in (0, 1] to hide every gene once, got {ratio}")
    n_folds = min(math.ceil(1.0 / ratio - 1e-9), n_genes)
    order = torch.randperm(n_genes, generator=torch.Generator().manual_seed(seed))
    return [fold.sort().values for fold in order.tensor_split(n_folds)]
