"""`sweep`: which mask ratio suits a user's atlas and task, by short pretrainings and the package's own probes."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from r2mae_core import (
    SHORTEST,
    Direction,
    RatioSampler,
    Record,
    RunFolder,
    UserError,
    check_output,
    device_name,
    options_as_words,
    read_records,
    resolve_device,
    run_sweep,
    stamped,
    typed_options,
    write_records,
)
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.divisions import TASKS, Protocol, Task, donor_split
from r2mae_singlecell.options import Pretrain, Probe, Sweep
from r2mae_singlecell.pretrain import SingleCells, load_run, pretrain
from r2mae_singlecell.probing import probe_embedding

METRICS: Mapping[str, tuple[str, ...]] = {
    "class": ("balanced_accuracy", "macro_f1"),
    "auroc": ("auroc_cell", "auroc_donor"),
    "regression": ("spearman_cell", "spearman_donor"),
}
"""Kind of task → what its probe measures; the default first. Of all of them, more is better."""
PROTOCOL = ("n_splits", "train_share", "max_cells", "standardize")
"""Options of `probe` that a sweep takes."""

Options = TypeVar("Options")


def sweep_command(config: Sweep) -> None:
    """Run `r2mae-singlecell sweep`."""
    sweep(config)


def sweep(config: Sweep) -> RunFolder:
    """Find the mask ratio for an atlas and a task, and return the run folder with the answer.

    A trial's pretraining, and the records of its probe, stay in the folder; its checkpoints do not.

    Raises:
        UserError: what `pretrain`, `probe_embedding` and `run_sweep` refuse, before anything is trained.
    """
    full = pretrain_options(config)
    if config.out is not None:
        check_output(config.out, [config.data, full.gene_sets])
    probing = _Probing(config)
    resolve_device(config.device)
    opened = SingleCells(full)  # refuses what a pretraining would
    opened.micro_batch_size("cpu")

    def measure(sampler: RatioSampler, seed: int, share: float, folder: Path) -> Sequence[Record]:
        if (folder / "results.json").exists():
            return read_records(folder)
        options = replace(
            full, mask_ratio=sampler, seed=seed, epochs=max(round(share * full.epochs), 1), out=folder / "pretrain"
        )
        records = probing.records(pretrain(options))
        write_records(folder / "results.json", records)
        shutil.rmtree(folder / "pretrain" / "checkpoints", ignore_errors=True)  # each is three times the model
        return records

    return run_sweep(
        "r2mae-singlecell",
        "singlecell",
        config,
        measure,
        metrics=probing.metrics,
        sources=opened.sources(),
        pretrain_command=lambda option: pretrain_command(config, option),
    )


class _Probing:
    """The evaluation of a sweep: one task of `probe`, with its division of the donors or of the cells.

    Args:
        config: the options.

    Raises:
        UserError: an option is not one of probe's, or the task cannot be evaluated on these data.
    """

    def __init__(self, config: Sweep) -> None:
        self.config, self.adata = config, read_prepared(config.data)
        tasks = TASKS[str(self.adata.uns["r2mae"]["preset"])]
        self.task = next(task for task in tasks if task.name == config.task)
        given = typed_options(Probe, config.probe, "probe", PROTOCOL)
        self.obs = self.adata.obs
        self.protocol = Protocol(held_out=config.held_out, **given)
        self.metrics: dict[str, Direction] = {
            name: "max"
            for name in METRICS[self.task.kind]
            if not (config.held_out == "cells" and name.endswith("_donor"))  # it would be that of cells again
        }
        try:
            check_probe(self.obs, self.task, self.protocol)
        except UserError as error:
            remedy = "; --held_out cells divides the cells instead" if config.held_out == "donors" else ""
            raise UserError(f"--task {config.task} cannot be evaluated here: {error}{remedy}") from None

    def records(self, run: RunFolder) -> list[Record]:
        """Return what the probe measures of a pretrained model, for every division."""
        model = load_run(run.path, self.adata, self.config.device)
        embedding = model.get_latent_representation()
        found = probe_embedding(embedding, self.obs, [self.task], self.protocol, seed=run.config["seed"])
        return stamped(found.records, device_name(resolve_device(self.config.device)))


def check_probe(obs: pd.DataFrame, task: Task, protocol: Protocol) -> None:
    """Refuse a task that a probe cannot be fitted to or measured by, in any division, without fitting one.

    Args:
        obs: standard columns.
        task: what is predicted.
        protocol: how.

    Raises:
        UserError: too few donors, classes or values are left.
    """
    y = obs[task.name].to_numpy()
    for split in range(protocol.n_splits):
        train, test = donor_split(obs, task, protocol, split)
        for part, cells in (("training", train), ("test", test)):
            needed = 2 if part == "training" or task.kind != "class" else 1  # one class can be recalled, not ranked
            if len(values := np.unique(y[cells].astype(float if task.kind == "regression" else str))) < needed:
                raise UserError(f"the {part} cells of division {split} have one value of {task.name!r}: {values[0]}")


def pretrain_options(config: Sweep) -> Pretrain:
    """Return the options of a pretraining of full length.

    Raises:
        UserError: one is unknown, of another kind, or belongs to the sweep.
    """
    own = {"data": config.data, "device": config.device, "progress": config.progress}
    alone = {field.name for field in fields(Pretrain)} - {*own, "mask_ratio", "seed", "out", "devices", "nodes"}
    made = Pretrain(**own, **typed_options(Pretrain, config.pretrain, "pretrain", alone))
    if made.epochs < SHORTEST:
        raise UserError(
            f"--pretrain epochs must be at least {SHORTEST}, because the shortest trainings have a fifth of them; "
            f"got {made.epochs}"
        )
    return made


def pretrain_command(config: Sweep, option: str) -> str:
    """Return the command that pretrains with a mask ratio and everything else as the sweep did."""
    words = ["r2mae-singlecell pretrain", shlex.quote(str(config.data)), options_as_words(config.pretrain), option]
    return " ".join(word for word in words if word)
