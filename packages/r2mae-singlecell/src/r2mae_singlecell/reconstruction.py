"""How well hidden genes are predicted: correlation with the truth (tables 7 and 8), and the loss at fixed ratios."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from r2mae_core import Record, derived_seed
from r2mae_singlecell.measured import Measured, measured_in_data

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

    Returns:
        The mean over the counts of genes that were measured in their cells; NaN where there is none.
    """
    losses, measured = {}, measured_in_data(model.adata, model.missing_genes_, model.module.n_input)
    for ratio in ratios:
        total, n = 0.0, 0
        for block, hidden in hidden_genes(model.module.n_input, ratio, cells):
            (tensors,) = model.batches(None, block, BLOCK)
            nll = model.module.hidden_nll(tensors, torch.from_numpy(hidden).to(model.module.device))
            there = torch.from_numpy(measured.in_cells(block)[:, hidden]).to(nll.device)
            total += float(nll.where(there, 0.0).double().sum())
            n += int(there.sum())
        losses[ratio] = total / n if n else float("nan")
    return losses


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
    measured: Measured | None = None,
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
        measured: which genes were measured in which cells; the others have no truth, so they are in no correlation, and
            proportions are those of the measured genes, on both sides. None: all were measured in all.

    Returns:
        A record for each ratio; its n is the number of cells that have a correlation. A cell has none if it has fewer
        than two such genes, or the same value in all of them.
    """
    if measured is None:
        measured = Measured(torch.ones(1, counts.shape[1], dtype=torch.bool))
    records = []
    for ratio in ratios:
        start, values = time.perf_counter(), []
        for block, hidden in hidden_genes(counts.shape[1], ratio, cells):
            there = measured.in_cells(block)
            x = np.where(there, counts[block].toarray().astype(np.float64), 0.0)
            truth = np.log1p(x / np.maximum(x.sum(axis=1, keepdims=True), 1.0) * target_sum)
            guess = np.log1p(_shared_by(there, predict(block, hidden).astype(np.float64)) * target_sum)
            columns = hidden if genes == "hidden" else slice(None)
            values.append(_row_pearson(truth[:, columns], guess[:, columns], there[:, columns]))
        each = np.concatenate(values)
        each = each[np.isfinite(each)]  # a cell without any count among these genes has no correlation
        mean, seconds = float(each.mean()) if len(each) else float("nan"), time.perf_counter() - start
        records.append(Record(task, f"pearson@{ratio:g}", mean, scheme, seed, len(each), "validation", seconds))
    return records


def left_out(measured: Measured, cells: np.ndarray, records: Sequence[Record]) -> list[str]:
    """Return notes on genes that were not measured, and on cells without a correlation."""
    lines = [said] if (said := measured.left_out(cells)) else []
    for metric in dict.fromkeys(record.metric for record in records):
        lowest = min(record.n for record in records if record.metric == metric)
        if lowest < len(cells):
            lines.append(
                f"{metric}: {len(cells) - lowest:,} of {len(cells):,} cells have no correlation, because their hidden "
                "genes have no counts, or fewer than two were measured"
            )
    return lines


def _shared_by(there: np.ndarray, proportions: np.ndarray) -> np.ndarray:
    """Return proportions that sum to 1 over the measured genes; as they are if all were measured."""
    if there.all():
        return proportions
    shares = np.where(there, proportions, 0.0)
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _row_pearson(a: np.ndarray, b: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the correlation of each row over the places that are there; NaN for fewer than two, or a constant."""
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    a, b = (np.where(there, x - x.sum(axis=1, where=there, keepdims=True) / n, 0.0) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
