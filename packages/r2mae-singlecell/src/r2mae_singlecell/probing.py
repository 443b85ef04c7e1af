"""Probing: how well cell type, disease and age are predicted from an embedding, for donors not seen (C.8)."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from r2mae_core import Record, UserError, derived_seed
from r2mae_singlecell.baselines import BaselineSettings, baseline_rows
from r2mae_singlecell.divisions import (
    Protocol,
    Task,
    different_divisions,
    donor_split,
    fold_groups,
    fold_note,
    left_out,
)
from r2mae_singlecell.linear_probes import fit_logistic, fit_ridge
from r2mae_singlecell.metrics import (
    auroc_of_cells_and_donors,
    balanced_accuracy,
    macro_f1,
    spearman_of_cells_and_donors,
)

CELLS_AT_ONCE = 200_000
"""If all divisions together have more cells, the cells of one division at a time are embedded."""

Rows = Callable[[np.ndarray], Any]
"""Takes cells' indices and returns their features, (cells, features), dense or sparse."""


@dataclass
class ProbeResult:
    """Records, and notes on what is special about them."""

    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, more: "ProbeResult") -> None:
        """Append another result to this one."""
        self.records += more.records
        self.note(*more.notes)

    def note(self, *lines: str) -> None:
        """Append notes that are not there yet."""
        self.notes += [line for line in dict.fromkeys(lines) if line not in self.notes]


def probe_embedding(
    embedding: Any | Rows,
    obs: pd.DataFrame,
    tasks: Sequence[Task],
    protocol: Protocol | None = None,
    *,
    scheme: str = "embedding",
    seed: int = 0,
) -> ProbeResult:
    """Probe an embedding across donors.

    A division in which nothing can be measured, such as one whose training cells have one class, is left out and named
    in the notes; so are few donors, fewer folds than wanted, and the cells that no division has.

    Args:
        embedding: (cells, features), dense or sparse; or a function that returns it for the cells that are asked for.
        obs: standard columns of the same cells: `donor`, `cell_type`, `disease`, `age`, `is_reference`. A cell without
            a donor is left out, unless the protocol divides cells.
        tasks: what to predict.
        protocol: how; None: the default.
        scheme: name of the method in the records.
        seed: seed of the method's pretraining.

    Raises:
        UserError: shapes differ, a value is NaN or infinite, a column is missing, there are too few donors, nothing is
            labelled, or no probe can be fitted in any division.
    """
    protocol = protocol or Protocol()
    rows: Rows = embedding if callable(embedding) else lambda cells: embedding[cells]
    if not callable(embedding) and embedding.shape[0] != len(obs):
        raise UserError(
            f"{scheme} has {embedding.shape[0]:,} rows and the data have {len(obs):,} cells; give the embedding of "
            "these cells, in their order"
        )
    for task in tasks:
        if task.name not in obs:
            raise UserError(
                f"obs has no column {task.name!r}; name it when the data are prepared (`r2mae-singlecell prepare … "
                f"--{task.name} COLUMN`), or leave the task out"
            )
    divisions, result = _divisions(obs, tasks, protocol)
    for part in _parts(divisions):
        cells = np.unique(np.concatenate([np.concatenate(divisions[key]) for key in part]))
        features = rows(cells)
        _refuse_gaps(features, obs.index[cells], scheme)
        for task, split in part:
            sides = divisions[task, split]
            X, X_test = (features[np.searchsorted(cells, side)] for side in sides)
            result.add(_measured(X, X_test, obs, task, protocol, split, sides, scheme, seed))
    order = {task.name: i for i, task in enumerate(tasks)}
    result.records.sort(key=lambda record: order[record.task])  # stable: the divisions stay in order
    for task in tasks:
        if not any(record.task == task.name for record in result.records):
            reason = next(note for note in result.notes if note.startswith(f"{task.name}, division"))
            raise UserError(f"{scheme}: no division can be measured, for instance {reason.replace(' left out:', '')}")
    return result


Divisions = dict[tuple[Task, int], tuple[np.ndarray, np.ndarray]]
"""(task, division) → cells to train and to test on."""


def _divisions(obs: pd.DataFrame, tasks: Sequence[Task], protocol: Protocol) -> tuple[Divisions, ProbeResult]:
    """Return all divisions of all tasks, by division first, and notes on what is special about them.

    Raises:
        UserError: `donor_split` refuses every division of a task, with its reason.
    """
    result, found = ProbeResult(), {}
    for task in tasks:
        result.note(*left_out(obs, task, protocol))
        for split in range(protocol.n_splits):
            try:
                found[task, split] = donor_split(obs, task, protocol, split)
            except UserError as error:
                if split == protocol.n_splits - 1 and not any(key[0] == task for key in found):
                    raise  # every division is refused
                result.note(f"{task.name}, division {split}: left out: {error}")
    if (n := different_divisions(obs, protocol)) < protocol.n_splits:
        result.note(f"only {n} of the {protocol.n_splits} divisions of the donors are different, so few are the donors")
    if protocol.held_out == "cells":
        result.note("cells are divided, not donors: these values do not tell how a probe does for donors not seen")
    return dict(sorted(found.items(), key=lambda item: item[0][1])), result


def _parts(divisions: Divisions) -> Iterator[list[tuple[Task, int]]]:
    """Yield the divisions whose cells are embedded together: all, or those of one number if all would be too many."""
    if len(np.unique(np.concatenate([side for sides in divisions.values() for side in sides]))) <= CELLS_AT_ONCE:
        yield list(divisions)
        return
    for number in sorted({split for _, split in divisions}):
        yield [key for key in divisions if key[1] == number]


def _measured(
    X: Any,
    X_test: Any,
    obs: pd.DataFrame,
    task: Task,
    protocol: Protocol,
    split: int,
    sides: tuple[np.ndarray, np.ndarray],
    scheme: str,
    seed: int,
) -> ProbeResult:
    """Measure one division; one that has no value is left out and noted.

    Raises:
        UserError: the fit fails.
    """
    start, where = time.perf_counter(), f"{task.name}, division {split}"
    try:
        values, remarks = measure(X, X_test, obs, task, protocol, split, *sides)
    except UserError as error:
        return ProbeResult(notes=[f"{where}: left out: {error}"])
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise UserError(f"{scheme}, {where}: no probe can be fitted: {error}") from None
    seconds, result = time.perf_counter() - start, ProbeResult()
    for metric, (value, n) in values.items():
        if np.isfinite(value):
            result.records.append(Record(task.name, metric, value, scheme, seed, n, f"test {split}", seconds))
        else:
            result.note(f"{where}: {metric} is left out: the test cells have one class")
    result.note(*(f"{where}: {remark}" for remark in remarks))
    return result


def measure(
    X: Any,
    X_test: Any,
    obs: pd.DataFrame,
    task: Task,
    protocol: Protocol,
    split: int,
    train: np.ndarray,
    test: np.ndarray,
) -> tuple[dict[str, tuple[float, int]], list[str]]:
    """Fit a probe to the training cells and evaluate it on the test cells.

    Args:
        X: (training cells, features), dense or sparse; sparse features stay so.
        X_test: (test cells, features).
        obs: standard columns of all cells.
        task: what to predict.
        protocol: how.
        split: which division.
        train: indices of the training cells.
        test: indices of the test cells.

    Returns:
        Metric → (value, n), and remarks.

    Raises:
        UserError: the training cells have one class.
    """
    X, X_test = _features(X), _features(X_test)
    if protocol.standardize:
        from sklearn.preprocessing import StandardScaler

        # The intercept has no penalty and takes up the mean: without centring sparse features get the same probe.
        scaler = StandardScaler(with_mean=not sp.issparse(X)).fit(X)
        X, X_test = scaler.transform(X), scaler.transform(X_test)
    groups, test_groups = fold_groups(obs, protocol, train), fold_groups(obs, protocol, test)
    y_train, y_test = (obs[task.name].to_numpy()[side] for side in (train, test))
    if protocol.shuffle_labels:
        y_train = _shuffled(y_train, groups, task, derived_seed(protocol.seed, "shuffle", split))
    remarks = [fold_note(groups, protocol.n_folds)]
    if task.kind == "regression":
        model = fit_ridge(X, y_train.astype(float), groups, n_folds=protocol.n_folds)
        values = spearman_of_cells_and_donors(y_test.astype(float), model.predict(X_test), test_groups)
    else:
        y_train, y_test = y_train.astype(str), y_test.astype(str)
        probe = fit_logistic(X, y_train, groups, n_folds=protocol.n_folds)
        unseen, absent = sorted(set(y_test) - set(y_train)), sorted(set(y_train) - set(y_test))
        remarks += [f"classes without training cells: {', '.join(unseen)}"] if unseen else []
        remarks += [f"classes without test cells: {', '.join(absent)}"] if absent else []
        remarks += [] if probe.converged else ["the logistic regression reached its iteration limit"]
        if task.kind == "auroc":
            probabilities = probe.model.predict_proba(X_test)
            values = auroc_of_cells_and_donors(y_test, probabilities, probe.model.classes_, test_groups)
        else:
            predicted, n = probe.model.predict(X_test), len(test)
            values = {
                "balanced_accuracy": (balanced_accuracy(y_test, predicted), n),
                "macro_f1": (macro_f1(y_test, predicted), n),
            }
    if protocol.held_out == "cells":  # each would be a donor of its own
        values = {metric: value for metric, value in values.items() if not metric.endswith("_donor")}
    return values, [remark for remark in remarks if remark]


def _features(X: Any) -> Any:
    """Return features in float64, sparse ones as CSR."""
    return sp.csr_matrix(X, dtype=np.float64) if sp.issparse(X) else np.asarray(X, dtype=np.float64)


def _shuffled(y: np.ndarray, donors: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Shuffle labels of donors among the donors, and cell types among the cells."""
    rng = np.random.default_rng(seed)
    if task.name == "cell_type":
        return rng.permutation(y)
    names, first = np.unique(donors, return_index=True)
    other = dict(zip(names, rng.permutation(y[first]), strict=True))
    return np.array([other[donor] for donor in donors], dtype=y.dtype)


def _refuse_gaps(features: Any, names: pd.Index, scheme: str) -> None:
    """Refuse features with NaN or infinite values.

    Raises:
        UserError: with the first such cell.
    """
    values = features.data if sp.issparse(features) else np.asarray(features)
    if np.isfinite(values).all():
        return
    table = features.toarray() if sp.issparse(features) else values
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    raise UserError(
        f"{scheme} has NaN or infinite values in {len(bad):,} cells, the first of them {names[bad[0]]!r}; correct the "
        "embedding, or leave it out"
    )


def probe_baseline(
    name: str, adata: Any, tasks: Sequence[Task], protocol: Protocol, settings: BaselineSettings
) -> ProbeResult:
    """Probe a baseline; "shuffled" is the expression with shuffled training labels."""
    rows, remarks = baseline_rows(name, adata, settings)
    protocol = replace(protocol, shuffle_labels=name == "shuffled")
    result = probe_embedding(rows, adata.obs, tasks, protocol, scheme=name, seed=settings.seed)
    result.note(*remarks)
    return result
