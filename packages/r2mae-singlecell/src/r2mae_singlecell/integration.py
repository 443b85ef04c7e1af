"""scib-metrics' table of embeddings: how well batches mix and cell types stay apart."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import Direction, UserError

BIO = {"isolated_labels": "both", "nmi_ari_cluster_labels_kmeans": "labels", "silhouette_label": "labels",
       "clisi_knn": "labels"}  # fmt: skip
MIXING = {"bras": "both", "ilisi_knn": "batches", "kbet_per_label": "both", "graph_connectivity": "both",
          "pcr_comparison": "batches"}  # fmt: skip
"""Metric → what it needs; graph_connectivity needs labels alone, but says nothing of mixing where nothing mixes."""
SCORES = {"Bio conservation": "bio_conservation", "Batch correction": "batch_correction", "Total": "total"}
NEIGHBORS = 90
"""That scib-metrics looks at."""
RANK_BY: dict[str, Direction] = dict.fromkeys(SCORES.values(), "max")
Score = tuple[str, str, float, int]
"""Embedding, metric, value, cells."""


def integration_scores(
    embeddings: dict[str, np.ndarray],
    batches: pd.Series | None,
    labels: pd.Series | None,
    *,
    reference: str,
    progress: bool = False,
) -> tuple[list[Score], list[str]]:
    """Measure embeddings with scib-metrics' `Benchmarker`.

    Args:
        embeddings: name → (cells, dimensions).
        batches: of each cell; None: what needs them is left out.
        labels: of each cell; None: likewise.
        reference: the embedding that no batch was corrected in, for `pcr_comparison`.
        progress: show the bars of scib-metrics.

    Returns:
        The scores, each between 0 and 1, higher is better; and what was left out.

    Raises:
        UserError: scib-metrics is missing.
    """
    if batches is None and labels is None:
        return [], ["no table of scib-metrics: it needs batches or cell types"]
    try:
        from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install 'r2mae-singlecell[report]'") from None
    import anndata

    notes: list[str] = []
    given = [column for column in (batches, labels) if column is not None]
    keep = np.logical_and.reduce([column.notna().to_numpy() for column in given])
    if not keep.all():
        notes.append(
            f"{int((~keep).sum()):,} cells without a batch or a cell type are not in the table of scib-metrics"
        )
    n = int(keep.sum())
    if n <= NEIGHBORS:
        return [], [*notes, f"no table of scib-metrics: it looks at {NEIGHBORS} neighbours, and there are {n} cells"]
    there = {"batches": _varies(batches, keep), "labels": _varies(labels, keep)}
    there["both"] = there["batches"] and there["labels"]
    wanted = {name for name, needs in (BIO | MIXING).items() if there[needs]}
    if not wanted:
        return [], [*notes, "no table of scib-metrics: these cells are of one batch and one cell type"]
    if lacking := [name for name in BIO | MIXING if name not in wanted]:
        notes.append(f"not measured for lack of batches or cell types: {', '.join(lacking)}")
    obs = pd.DataFrame({"batch": _texts(batches, keep), "label": _texts(labels, keep)})
    obs.index = obs.index.astype(str)
    obs["batch"], obs["label"] = obs["batch"].astype("category"), obs["label"].astype("category")
    points: Any = {name: z[keep].astype(np.float32) for name, z in embeddings.items()}
    adata = anndata.AnnData(obs=obs, obsm=points)
    bio, mixing = ({name: name in wanted for name in group} for group in (BIO, MIXING))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        benchmark = Benchmarker(
            adata, "batch", "label", list(embeddings), BioConservation(**bio) if any(bio.values()) else None,
            BatchCorrection(**mixing) if any(mixing.values()) else None, pre_integrated_embedding_obsm_key=reference,
            progress_bar=progress,
        )  # fmt: skip
        benchmark.prepare()
        benchmark.benchmark()
        table: Any = benchmark.get_results(clean_names=False).drop(index="Metric Type").astype(float)
    scores = [
        (str(name), SCORES.get(str(metric), str(metric)), float(table.loc[name, metric]), n)
        for name in table.index
        for metric in table.columns
    ]
    return scores, notes


def _varies(column: Any, keep: np.ndarray) -> bool:
    return column is not None and column[keep].nunique() > 1


def _texts(column: Any, keep: np.ndarray) -> np.ndarray:
    """Return a column as text; of what is not known, all cells are the same."""
    return np.full(keep.sum(), "all") if column is None else column[keep].astype(str).to_numpy()
