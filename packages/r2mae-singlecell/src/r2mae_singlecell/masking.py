"""How a ratio becomes a mask of gene columns: one set for the whole mini-batch (paper, C.8)."""

import math

import torch
from torch import Tensor

from r2mae_core import n_masked


def hidden_columns(n_genes: int, ratio: float, generator: torch.Generator, candidates: Tensor | None = None) -> Tensor:
    """Draw the gene columns to hide: exactly max(1, round(ratio · n)) of the candidates.

    The count is known on the host, so nothing waits for the device.

    Args:
        n_genes: genes of the model.
        ratio: fraction of the candidates to hide.
        generator: source of randomness; its device is the result's.
        candidates: int64 indices of the genes that may be hidden; None: all. Genes that a query data set lacks are
            not candidates: they are hidden in any case, and there is nothing to compare a prediction with.

    Returns:
        (n_hidden,) int64, ascending.
    """
    n = n_genes if candidates is None else len(candidates)
    chosen = torch.rand(n, generator=generator, device=generator.device).topk(n_masked(ratio, n)).indices
    columns = chosen if candidates is None else candidates[chosen]
    return columns.sort().values


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
