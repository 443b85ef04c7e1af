"""Published figures, as data: the paper's table 2, and GLUE over fixed ratios from the work that it builds on."""

TASKS = ("MNLI", "QQP", "SST-2", "QNLI")

# scheme → accuracy in % per task and the printed mean rank (paper, table 2)
TABLE2: dict[str, dict[str, tuple[float, float, float, float, float]]] = {
    "medium": {
        "fixed": (80.8, 89.8, 89.9, 86.3, 3.25),
        "high": (80.3, 89.7, 90.1, 86.6, 3.75),
        "mdlm": (79.4, 89.8, 89.3, 85.4, 4.50),
        "dynamic": (80.8, 90.1, 90.5, 87.1, 1.50),
        "r2mae": (80.9, 90.1, 90.6, 86.7, 1.25),
    },
    "base": {
        "fixed": (81.5, 90.7, 91.7, 87.8, 3.00),
        "high": (81.7, 90.7, 91.2, 88.5, 3.25),
        "mdlm": (80.3, 90.3, 91.4, 87.7, 4.50),
        "dynamic": (81.8, 90.7, 91.4, 89.1, 2.00),
        "r2mae": (81.9, 90.8, 91.9, 88.6, 1.25),
    },
}
TABLE2_NAMES = {
    "fixed": "MLM default", "high": "Fixed MR 0.4", "mdlm": "MDLM", "dynamic": "Dynamic MR", "r2mae": "R2MAE (Ours)",
}  # fmt: skip

# ratio → MNLI, QNLI, QQP, SST-2 of a large model, hidden tokens always shown as <mask>: the source of the paper's
# figure 1F (README of princeton-nlp/DinkyTrain, commit 67c5b37; it names no metric, and QQP near 88 reads as F1).
DINKYTRAIN: dict[float, tuple[float, float, float, float]] = {
    0.15: (84.2, 90.9, 87.8, 93.3),
    0.2: (84.1, 91.3, 87.9, 92.7),
    0.3: (84.2, 91.6, 88.0, 93.0),
    0.4: (84.5, 91.6, 88.1, 92.8),
    0.5: (84.1, 91.1, 88.1, 92.7),
    0.6: (83.2, 90.7, 87.8, 92.6),
    0.7: (82.3, 89.4, 87.5, 91.9),
    0.8: (80.8, 87.9, 87.1, 90.5),
}
DINKYTRAIN_TASKS = ("MNLI", "QNLI", "QQP", "SST-2")


def mean_ranks(size: str) -> dict[str, float]:
    """Return the mean rank of every scheme of table 2, computed from its accuracies; ties share the best rank."""
    from r2mae_core.comparison import competition_ranks

    rows = TABLE2[size]
    per_task = [competition_ranks([row[i] for row in rows.values()]) for i in range(len(TASKS))]
    return {name: sum(ranks[i] for ranks in per_task) / len(TASKS) for i, name in enumerate(rows)}


def normalised_errors(accuracies: dict[float, float]) -> dict[float, float]:
    """Return an error curve in the form of figure 1F (paper, C.2).

    The error rate, shifted so that the line through its values at ratios 0.15 and 0.3 meets zero at ratio 0, and scaled
    so that it rises by 1 from ratio 0.4 to 0.8.

    Args:
        accuracies: ratio → accuracy in %; must hold 0.15, 0.3, 0.4 and 0.8.

    Raises:
        ValueError: one of the four is missing, or the error is the same at 0.4 and 0.8.
    """
    if missing := [ratio for ratio in (0.15, 0.3, 0.4, 0.8) if ratio not in accuracies]:
        raise ValueError(f"figure 1F's form needs the accuracy at ratios {missing}")
    errors = {ratio: 1 - accuracy / 100 for ratio, accuracy in accuracies.items()}
    if errors[0.8] == errors[0.4]:
        raise ValueError("the error is the same at ratios 0.4 and 0.8: no common slope")
    at_zero = errors[0.15] - 0.15 * (errors[0.3] - errors[0.15]) / 0.15
    return {ratio: (error - at_zero) / (errors[0.8] - errors[0.4]) for ratio, error in errors.items()}
