"""What an embedding knows about cells and donors it was not fitted to, and how well hidden genes come back (C.8)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from r2mae_core import Record, UserError
from r2mae_core.randomness import derived_seed
from r2mae_singlecell.probing import N_FOLDS, balanced_accuracy, fit_logistic, fit_ridge, macro_auroc

RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7)  # tables 7 and 8
PEARSON_BLOCK = 400
"""Cells that share one mask, as the cells of a training batch do."""


@dataclass(frozen=True)
class Task:
    """One thing to read off an embedding."""

    name: str
    """Also the column of `obs`."""
    kind: Literal["class", "auroc", "regression"]
    """What is measured: balanced accuracy and macro F1; macro AUROC of cells and donors; Spearman of both."""
    cap_first: bool = False
    """Take at most so many cells of a donor before those without a label are left out, not after."""


TASKS = {
    "hlca": (Task("cell_type", "class", cap_first=True), Task("disease", "class"), Task("age", "regression")),
    "seaad": (Task("cell_type", "class"), Task("disease", "auroc"), Task("age", "regression")),
}
TASKS["seaad-allen"] = TASKS["seaad"]
TASKS["none"] = (Task("cell_type", "class"), *TASKS["hlca"][1:])


@dataclass(frozen=True)
class Protocol:
    """The probing protocol. The paper gives grids, folds and metrics; the rest are our choices."""

    n_splits: int = 5
    """Random divisions of the donors; the paper shows one."""
    train_share: float = 0.5
    """Share of the donors to train on; the paper's is lost."""
    max_cells: int = 1000
    """Most cells of a donor, in training and in test; the paper's is lost."""
    standardize: bool = True
    """Scale features by the training cells' mean and deviation, so that the grids mean the same to every method."""
    n_folds: int = N_FOLDS
    shuffle_labels: bool = False
    """Give training donors each other's labels: what is left is chance."""
    seed: int = 0
    """Of divisions and samples; every method gets the same."""


@dataclass
class ProbeResult:
    """Records, and what was left out of them."""

    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def probe_embedding(
    embedding: np.ndarray,
    obs: pd.DataFrame,
    tasks: Sequence[Task],
    protocol: Protocol | None = None,
    *,
    scheme: str = "embedding",
    seed: int = 0,
) -> ProbeResult:
    """Probe an embedding across donors.

    Args:
        embedding: (cells, features); a scipy sparse matrix is made dense for the cells that are used.
        obs: standard columns of the same cells: `donor`, `cell_type`, `disease`, `age`, `is_reference`.
        tasks: what to read off.
        protocol: how; None: the default.
        scheme: name of the method in the records.
        seed: of the method's pretraining.

    Raises:
        UserError: shapes differ, a column is missing, there are too few donors, or nothing is labelled.
    """
    protocol = protocol or Protocol()
    if embedding.shape[0] != len(obs):
        raise UserError(f"the embedding has {embedding.shape[0]} cells and obs has {len(obs)}")
    result = ProbeResult()
    for task in tasks:
        if task.name not in obs:
            raise UserError(f"obs has no column {task.name!r}; `r2mae-singlecell prepare` makes it")
        for split in range(protocol.n_splits):
            start = time.perf_counter()
            train, test = donor_split(obs, task, protocol, split)
            measured, note = _measure(embedding, obs, task, protocol, split, train, test)
            if note:
                result.notes.append(f"{task.name}, donors {split}: {note}")
            seconds = time.perf_counter() - start
            result.records += [
                Record(task.name, metric, value, scheme, seed, n, f"donors {split}", seconds)
                for metric, (value, n) in measured.items()
            ]
    return result


def donor_split(obs: pd.DataFrame, task: Task, protocol: Protocol, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells to train and to test on; no donor is in both.

    Raises:
        UserError: there are fewer than two donors with labels.
    """
    rng = np.random.default_rng(derived_seed(protocol.seed, "donors", split))
    usable = ~obs["is_reference"].to_numpy(bool) if "is_reference" in obs else np.ones(len(obs), bool)
    labelled = usable & obs[task.name].notna().to_numpy()
    if not labelled.any():
        raise UserError(f"no cell has a {task.name}")
    donors = obs["donor"].astype(str).to_numpy()
    names = np.unique(donors[usable])
    n_train = round(protocol.train_share * len(names))
    if not 0 < n_train < len(names):
        raise UserError(f"{len(names)} donors cannot be divided into training and test donors")
    training = set(rng.permutation(names)[:n_train])
    eligible = usable if task.cap_first else labelled
    chosen = np.zeros(len(obs), bool)
    by_donor = pd.Series(np.flatnonzero(eligible)).groupby(donors[eligible]).indices
    cells = np.flatnonzero(eligible)
    for donor in sorted(map(str, by_donor)):
        own = cells[by_donor[donor]]
        chosen[rng.permutation(own)[: protocol.max_cells]] = True
    chosen &= labelled
    in_training = np.fromiter((donor in training for donor in donors), bool, len(donors))
    train, test = np.flatnonzero(chosen & in_training), np.flatnonzero(chosen & ~in_training)
    if not len(train) or not len(test):
        raise UserError(f"all cells with a {task.name} are on one side of the donors' division; give more donors")
    return train, test


def _measure(
    embedding: Any,
    obs: pd.DataFrame,
    task: Task,
    protocol: Protocol,
    split: int,
    train: np.ndarray,
    test: np.ndarray,
) -> tuple[dict[str, tuple[float, int]], str]:
    """Return metric → (value, n) and a note on what was special."""
    X, X_test = _dense(embedding[train]), _dense(embedding[test])
    if protocol.standardize:
        mean, deviation = X.mean(axis=0), X.std(axis=0)
        deviation[deviation == 0] = 1.0
        X, X_test = (X - mean) / deviation, (X_test - mean) / deviation
    donors = obs["donor"].astype(str).to_numpy()
    y = obs[task.name].to_numpy()
    y_train, y_test = y[train], y[test]
    if protocol.shuffle_labels:
        y_train = _shuffled(y_train, donors[train], task, derived_seed(protocol.seed, "shuffle", split))
    if task.kind == "regression":
        model = fit_ridge(X, y_train.astype(float), donors[train], n_folds=protocol.n_folds)
        return _spearman(y_test.astype(float), model.predict(X_test), donors[test]), ""
    y_train, y_test = y_train.astype(str), y_test.astype(str)
    probe = fit_logistic(X, y_train, donors[train], n_folds=protocol.n_folds)
    unseen = sorted(set(y_test) - set(y_train))
    absent = sorted(set(y_train) - set(y_test))
    notes = [f"classes without training cells: {', '.join(unseen)}"] if unseen else []
    notes += [f"classes without test cells: {', '.join(absent)}"] if absent else []
    notes += [] if probe.converged else ["the logistic regression reached its iteration limit"]
    if task.kind == "auroc":
        return _auroc(y_test, probe.model.predict_proba(X_test), probe.model.classes_, donors[test]), "; ".join(notes)
    predicted = probe.model.predict(X_test)
    values = {"balanced_accuracy": balanced_accuracy(y_test, predicted), "macro_f1": _macro_f1(y_test, predicted)}
    return {name: (value, len(test)) for name, value in values.items()}, "; ".join(notes)


def _dense(X: Any) -> np.ndarray:
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)


def _shuffled(y: np.ndarray, donors: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Shuffle what belongs to donors among the donors, and cell types among the cells."""
    rng = np.random.default_rng(seed)
    if task.name == "cell_type":
        return rng.permutation(y)
    names, first = np.unique(donors, return_index=True)
    other = dict(zip(names, rng.permutation(y[first]), strict=True))
    return np.array([other[donor] for donor in donors], dtype=y.dtype)


def _macro_f1(y: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(y, predicted, average="macro", labels=np.unique(y), zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _spearman(y: np.ndarray, predicted: np.ndarray, donors: np.ndarray) -> dict[str, tuple[float, int]]:
    from scipy.stats import spearmanr

    table = pd.DataFrame({"y": y, "predicted": predicted}).groupby(donors).mean()

    def rho(a: Any, b: Any) -> float:
        if np.ptp(a) == 0 or np.ptp(b) == 0:  # a constant has no order
            return 0.0
        result: Any = spearmanr(a, b)
        return float(result.statistic)

    return {
        "spearman_cell": (rho(y, predicted), len(y)),
        "spearman_donor": (rho(table["y"], table["predicted"]), len(table)),
    }


def _auroc(
    y: np.ndarray, probabilities: np.ndarray, classes: np.ndarray, donors: np.ndarray
) -> dict[str, tuple[float, int]]:
    table = pd.DataFrame(probabilities).groupby(donors).mean()
    first = pd.Series(y).groupby(donors).first().loc[table.index].to_numpy()
    return {
        "auroc_cell": (macro_auroc(y, probabilities, classes), len(y)),
        "auroc_donor": (macro_auroc(first, table.to_numpy(), classes), len(first)),
    }


Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(cells, genes) uncorrupted counts and the positions of the hidden genes → (cells, genes) gene proportions."""


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

    The masks depend on ratio and block of cells alone, so every method and seed is judged on the same ones.

    Args:
        predict: takes cells' indices and the hidden genes' positions; returns (cells, genes) gene proportions, computed
            without the hidden counts.
        counts: (all cells, genes) sparse counts.
        cells: indices of the cells to judge.
        ratios: fractions hidden.
        genes: correlate over the hidden genes (our choice; the paper does not say) or over all.
        target_sum: both sides are log1p of proportions times this.
        scheme: name of the method in the records.
        task: name in the records.
        seed: of the method's training.
    """
    records = []
    n_genes = counts.shape[1]
    for ratio in ratios:
        start, values = time.perf_counter(), []
        for i, at in enumerate(range(0, len(cells), PEARSON_BLOCK)):
            block = cells[at : at + PEARSON_BLOCK]
            rng = np.random.default_rng(derived_seed(0, "reconstruction", i, round(ratio * 1e6)))
            hidden = np.sort(rng.choice(n_genes, max(1, round(ratio * n_genes)), replace=False))
            x = _dense(counts[block])
            truth = np.log1p(x / np.maximum(x.sum(axis=1, keepdims=True), 1.0) * target_sum)
            guess = np.log1p(predict(block, hidden).astype(np.float64) * target_sum)
            columns = hidden if genes == "hidden" else slice(None)
            values.append(_row_pearson(truth[:, columns], guess[:, columns]))
        each = np.concatenate(values)
        each = each[np.isfinite(each)]  # a cell without any count among these genes has no correlation
        seconds = time.perf_counter() - start
        records.append(
            Record(task, f"pearson@{ratio:g}", float(each.mean()), scheme, seed, len(each), "validation", seconds)
        )
    return records


def _row_pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
