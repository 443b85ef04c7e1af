"""How well hidden genes are predicted: correlation with the truth (tables 7 and 8), and the loss at fixed ratios."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from r2mae_core import Record, derived_seed
from r2mae_singlecell.data.splitter import FILE, lacking_genes

RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7)  # tables 7 and 8
BLOCK = 400
"""Cells that share one mask, as the cells of a training batch do."""


def hidden_genes(n_genes: int, ratio: float, cells: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of cells and the genes hidden in each; they depend on ratio and block alone."""
    for i, at in enumerate(range(0, len(cells), BLOCK)):
        rng = np.random.default_rng(derived_seed(0, "reconstruction", i, round(ratio * 1e6)))
        hidden = np.sort(rng.choice(n_genes, max(1, round(ratio * n_genes)), replace=False))
        yield cells[at : at + BLOCK], hidden


@torch.inference_mode()
def held_out_loss(model: Any, cells: np.ndarray, ratios: Sequence[float] = RATIOS) -> dict[float, float]:
    """Return mask ratio → a model's mean loss of the hidden genes, on the masks of `reconstruction_pearson`.

    Args:
        model: a trained `R2MAE`.
        cells: indices into its data, of cells that it was not trained on.
        ratios: fractions hidden.
    """
    losses, lacking = dict.fromkeys(ratios, 0.0), lacking_genes(model.adata)
    for ratio in ratios:
        for block, hidden in hidden_genes(model.module.n_input, ratio, cells):
            (tensors,) = model.batches(None, block, BLOCK)
            columns = torch.from_numpy(hidden).to(model.module.device)
            nll = model.module.hidden_nll(tensors, columns)
            if lacking is not None:  # a gene that a cell's file lacks has no count to compare with
                present = ~lacking[tensors[FILE].flatten().cpu()][:, hidden].to(nll.device)
                nll = nll[present] if present.any() else nll.new_zeros(1)
            losses[ratio] += float(nll.mean()) * len(block)
    return {ratio: total / len(cells) for ratio, total in losses.items()}


def reconstruction_pearson(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    counts: Any,
    cells: np.ndarray,
    *,
    ratios: Sequence[float] = RATIOS,
    genes: Literal["hidden", "all"] = "hidden",
    target_sum: float = 1e4,
    scheme: str = "model",
    task: str = "reconstruction",
    seed: int = 0,
) -> list[Record]:
    """Return the mean Pearson correlation of predicted and true log-normalised expression (tables 7 and 8).

    The masks depend on ratio and block of cells alone, so every method and seed is evaluated on the same ones.

    Args:
        predict: takes cells' indices and the hidden genes' positions; returns (cells, genes) gene proportions, computed
            without the hidden counts.
        counts: (all cells, genes) sparse counts, or `CountRows`; read by blocks of cells.
        cells: indices of the cells to evaluate on.
        ratios: fractions hidden.
        genes: correlate over the hidden genes (our choice; the paper does not say) or over all.
        target_sum: both sides are log1p of proportions times this.
        scheme: name of the method in the records.
        task: the data set's name in the records.
        seed: seed of the method's training.
    """
    records = []
    for ratio in ratios:
        start, values = time.perf_counter(), []
        for block, hidden in hidden_genes(counts.shape[1], ratio, cells):
            x = counts[block].toarray().astype(np.float64)
            truth = np.log1p(x / np.maximum(x.sum(axis=1, keepdims=True), 1.0) * target_sum)
            guess = np.log1p(predict(block, hidden).astype(np.float64) * target_sum)
            columns = hidden if genes == "hidden" else slice(None)
            values.append(_row_pearson(truth[:, columns], guess[:, columns]))
        each = np.concatenate(values)
        each = each[np.isfinite(each)]  # a cell without any count among these genes has no correlation
        mean, seconds = float(each.mean()) if len(each) else float("nan"), time.perf_counter() - start
        records.append(Record(task, f"pearson@{ratio:g}", mean, scheme, seed, len(each), "validation", seconds))
    return records


def _row_pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
