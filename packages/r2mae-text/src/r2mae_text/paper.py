"""The paper's text experiments as a grid, and `reproduce`, which walks it (paper, table 2, figures 1F and 2C; C.6)."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r2mae_core import Fixed, Record, RunFolder, UserError, compare, scheme
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.files import write_text
from r2mae_text.data.shards import Corpus
from r2mae_text.evaluate import RANK_BY
from r2mae_text.finetune import finetune_tasks
from r2mae_text.options import Finetune, Pretrain, Reproduce
from r2mae_text.plots import plot_ratios
from r2mae_text.pretrain import build_module, micro_batch_size, pretrain_model
from r2mae_text.published import (
    DINKYTRAIN,
    DINKYTRAIN_TASKS,
    TABLE2,
    TABLE2_NAMES,
    TASKS,
    mean_ranks,
    normalised_errors,
)  # fmt: skip

DEFAULT_OUT = Path("runs") / "r2mae-text-reproduce"
GLUE_TRAIN_ROWS = {"mnli": 392_702, "qqp": 363_846, "sst2": 67_349, "qnli": 104_743}
_PAPER_TASKS = {"mnli-matched": "MNLI", "qqp": "QQP", "sst2": "SST-2", "qnli": "QNLI"}


@dataclass(frozen=True)
class Cell:
    """One model of the grid."""

    size: str
    scheme: str
    sampler: Any


def grid(config: Reproduce) -> list[Cell]:
    """Return the models of a target: the paper's schemes, or the fixed ratios."""
    if config.target == "table2":
        samplers = {name: scheme(name, "text") for name in TABLE2_NAMES}
    else:
        samplers = {f"fixed {ratio:g}": Fixed(ratio) for ratio in config.ratios}
    return [Cell(size, name, sampler) for size in config.models for name, sampler in samplers.items()]


def reproduce(config: Reproduce) -> RunFolder | None:
    """Train and judge what is missing of the grid, print ours beside the published, and return the run folder.

    Without a corpus only the published figures are shown (None is returned), and so in a dry run.
    """
    if config.corpus is None:
        _published(config)
        return None
    device = resolve_device(config.device)
    if config.dry_run:
        _dry_run(config, device)
        return None
    free = ("target", "dry_run", "device", "models", "tasks", "ratios", "seeds", "micro_batch_size", "compile")
    settings = {key: value for key, value in resolved(config).items() if key not in free}
    run = RunFolder(config.out or DEFAULT_OUT, settings)
    cells, records = grid(config), []
    for i, cell in enumerate(cells):
        start = time.perf_counter()
        records += _cell(config, cell, run)
        say(f"({i + 1}/{len(cells)}) {cell.size}, {cell.scheme}: {time.perf_counter() - start:.0f} s")
    run.write_results(records)
    _show(config, records, run)
    return run


def _cell(config: Reproduce, cell: Cell, run: RunFolder) -> list[Record]:
    """Pretrain and fine-tune one model, as far as that is not done, and return its records."""
    home = run.path / f"{Path(cell.size).name}-{cell.scheme.replace(' ', '-')}"
    pretrained = pretrain_model(replace(_pretrain(config, cell), out=home / "pretrain"))
    tuned = finetune_tasks(
        Finetune(
            str(pretrained.path), config.tasks, config.data, seeds=config.seeds, epochs=config.epochs,
            lr=config.finetune_lr, device=config.device, out=home / "finetune", progress=config.progress,
        )
    )  # fmt: skip
    return [_named(record, cell) for record in (*pretrained.results(), *tuned.results())]


def _pretrain(config: Reproduce, cell: Cell) -> Pretrain:
    if config.corpus is None:
        raise UserError("reproduce needs a corpus")
    return Pretrain(
        config.corpus, cell.sampler, cell.size, length=config.length, batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size, tokens=config.tokens, lr=config.lr, device=config.device,
        compile=config.compile, progress=config.progress,
    )  # fmt: skip


def _named(record: Record, cell: Cell) -> Record:
    """Return the record with the grid's name of the scheme, the size in its task, and the paper's value."""
    column = _PAPER_TASKS.get(record.task)
    row = TABLE2.get(cell.size, {}).get(cell.scheme)
    paper = row[TASKS.index(column)] / 100 if row and column and record.metric == "accuracy" else None
    return replace(record, scheme=cell.scheme, task=f"{cell.size} {record.task}", paper=paper)


def _show(config: Reproduce, records: list[Record], run: RunFolder) -> None:
    for size in config.models:
        accuracies = [r for r in records if r.metric == "accuracy" and r.task.startswith(f"{size} ")]
        table = compare(accuracies, RANK_BY)
        write_text(run.path / f"{config.target}-{Path(size).name}.md", table.markdown())
        say(table.rich(f"{size}: accuracy, mean ± sd over {len(config.seeds)} seeds of fine-tuning"))
    if config.target != "table2":
        say(f"Figure: {_draw(config, records, run)}")
    say(f"Run folder: {run.path}")


def _draw(config: Reproduce, records: list[Record], run: RunFolder) -> Path:
    ours: dict[str, dict[float, list[float]]] = {}
    for record in records:
        if record.metric == "accuracy":
            ours.setdefault(record.task, {}).setdefault(float(record.scheme.split()[1]), []).append(100 * record.value)
    means = {task: {ratio: sum(v) / len(v) for ratio, v in curve.items()} for task, curve in ours.items()}
    published = _published_curves()
    if config.target == "fig1f":
        means = {task: normalised_errors(curve) for task, curve in means.items()}
        published = {task: normalised_errors(curve) for task, curve in published.items()}
        ylabel, title = "shifted and scaled error rate", "Figure 1F: the curve depends on the task"
    else:
        ylabel, title = "accuracy (%)", "Figure 2C: accuracy over the ratio"
    return run.save_figure(f"{config.target}.png", plot_ratios(means, published, ylabel, title))


def _published_curves() -> dict[str, dict[float, float]]:
    return {
        f"{task} (published, large)": {ratio: row[i] for ratio, row in DINKYTRAIN.items()}
        for i, task in enumerate(DINKYTRAIN_TASKS)
    }


def _published(config: Reproduce) -> None:
    """Print the published figures; for table 2 with its ranks computed again."""
    from rich.table import Table

    if config.target == "table2":
        for size in TABLE2:
            table = Table(*("scheme", *TASKS, "rank, printed", "rank, computed"), title=f"RoBERTa-{size} (published)")
            ranks = mean_ranks(size)
            for name, (*accuracies, printed) in TABLE2[size].items():
                table.add_row(TABLE2_NAMES[name], *map(str, accuracies), f"{printed:.2f}", f"{ranks[name]:.2f}")
            say(table)
    else:
        table = Table("ratio", *DINKYTRAIN_TASKS, title="Fine-tuned large models over the fixed ratio (published)")
        for ratio, row in DINKYTRAIN.items():
            table.add_row(f"{ratio:g}", *map(str, row))
        say(table)
    say("To walk the grid, name a corpus: r2mae-text reproduce " + config.target + " --corpus DIR (see --dry-run)")


def _dry_run(config: Reproduce, device: str) -> None:
    """Print the grid, and what it would cost by the time of a few steps."""
    from r2mae_text.budget import seconds_per_micro_batch

    corpus, total = Corpus.open(config.corpus or ""), 0.0
    rows = corpus.rows("train", config.length)
    rate: dict[str, float] = {}
    for cell, first in _with_first(grid(config)):
        settings = replace(_pretrain(config, cell), model=cell.size)
        micro = micro_batch_size(settings, device)
        if first:  # the schemes of a size differ little
            module = build_module(settings, corpus, cell.sampler)
            rate[cell.size] = micro * config.length / seconds_per_micro_batch(module, rows, micro, device)
        hours = config.tokens / rate[cell.size] / 3600
        # A fine-tuning row has some 40 tokens, and its step costs about as much a token as one of pretraining.
        tuned = sum(GLUE_TRAIN_ROWS.get(task, 10_000) for task in config.tasks) * config.epochs * 40
        tuning = len(config.seeds) * tuned / rate[cell.size] / 3600
        total += hours + tuning
        say(f"  {cell.size}, {cell.scheme}: {hours:.1f} h of pretraining, about {tuning:.1f} h of fine-tuning")
    say(f"{len(grid(config))} models, about {total:.0f} h on {device_name(device)}")


def _with_first(cells: list[Cell]) -> Iterator[tuple[Cell, bool]]:
    seen: set[str] = set()
    for cell in cells:
        yield cell, cell.size not in seen
        seen.add(cell.size)
