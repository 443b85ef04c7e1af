"""The paper's own differences: its tables, as the packages hold them. One training per cell, without a spread."""

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One table of the paper: R2MAE minus a fixed ratio in each column, in points (hundredths; per cent where it says
    so), positive where R2MAE is better."""

    table: str
    title: str
    filling_in: bool
    from_default: tuple[float, ...]
    from_best: tuple[float, ...]
    """Against the best of the paper's fixed ratios in that column."""

    @staticmethod
    def counts(differences: tuple[float, ...]) -> tuple[int, int, int]:
        """Return in how many columns R2MAE is better, equal and worse, as printed."""
        return (
            sum(d > 0 and not math.isclose(d, 0, abs_tol=1e-9) for d in differences),
            sum(math.isclose(d, 0, abs_tol=1e-9) for d in differences),
            sum(d < 0 and not math.isclose(d, 0, abs_tol=1e-9) for d in differences),
        )

    @staticmethod
    def mean(differences: tuple[float, ...]) -> float:
        """Return the mean over the columns."""
        return statistics.fmean(differences)


def tables() -> list[Published]:
    """Return the paper's tables that compare the schemes."""
    from r2mae_dna.paper import TABLE3
    from r2mae_singlecell.published import PUBLISHED
    from r2mae_text.paper import TABLE2
    from r2mae_vision.mae.paper import PAPER

    text = {
        size: {name.partition(" ")[0]: row[:-1] for name, row in rows.items()}  # the last is the mean rank
        for size, rows in TABLE2.items()
    }
    images = {name: tuple(row.values()) for name, row in PAPER.items()}
    return [
        _of("1", "ImageNet-1K, ViT-B, fine-tuned", images, 1),
        _of("2", "GLUE, RoBERTa medium", text["medium"], 1),
        _of("2", "GLUE, RoBERTa base", text["base"], 1),
        _of("3", "ClinVar and OMIM, GPN-MSA", TABLE3, 100),
        _of("4", "SEA-AD, probes", PUBLISHED["table4"], 100),
        _of("6", "HLCA, probes", PUBLISHED["table6"], 100),
        _of("7", "SEA-AD, hidden genes", PUBLISHED["table7"], 100, filling_in=True),
        _of("8", "HLCA, hidden genes", PUBLISHED["table8"], 100, filling_in=True),
    ]


def _of(
    table: str, title: str, rows: dict[str, tuple[float, ...]], scale: float, *, filling_in: bool = False
) -> Published:
    ours, default = rows["r2mae"], rows["fixed"]
    best = [
        max(values) for values in zip(*(rows[name] for name in ("fixed", "low", "high") if name in rows), strict=True)
    ]
    return Published(
        table,
        title,
        filling_in,
        tuple(scale * (a - b) for a, b in zip(ours, default, strict=True)),
        tuple(scale * (a - b) for a, b in zip(ours, best, strict=True)),
    )
