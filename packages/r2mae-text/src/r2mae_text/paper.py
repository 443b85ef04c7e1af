"""`reproduce`: the paper's text experiments (table 2, figures 1F and 2C, C.6), published and ours.

Also GLUE over fixed ratios from the work that the paper builds on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from r2mae_core import (
    Fixed,
    RatioSampler,
    Record,
    RunFolder,
    UserError,
    cell_name,
    check_output,
    compare,
    competition_ranks,
    device_name,
    open_run,
    page_line,
    refuse_options,
    resolve_device,
    resolved,
    sampler_from_config,
    say,
    scheme,
    scheme_name,
    walk_grid,
    write_text,
)
from r2mae_text.budget import seconds_per_micro_batch
from r2mae_text.data.glue import task_sources
from r2mae_text.data.shards import Corpus
from r2mae_text.evaluate import RANK_BY
from r2mae_text.finetune import finetune
from r2mae_text.options import Finetune, Pretrain, Reproduce
from r2mae_text.plots import plot_ratios
from r2mae_text.pretrain import TextPretraining, pretrain

PAPER_TASKS = ("MNLI", "QQP", "SST-2", "QNLI")

# scheme, as `scheme_name` has it → accuracy in % per task and the printed mean rank (table 2)
TABLE2: dict[str, dict[str, tuple[float, float, float, float, float]]] = {
    "medium": {
        "fixed 0.15": (80.8, 89.8, 89.9, 86.3, 3.25),
        "high 0.4": (80.3, 89.7, 90.1, 86.6, 3.75),
        "mdlm": (79.4, 89.8, 89.3, 85.4, 4.50),
        "dynamic": (80.8, 90.1, 90.5, 87.1, 1.50),
        "r2mae": (80.9, 90.1, 90.6, 86.7, 1.25),
    },
    "base": {
        "fixed 0.15": (81.5, 90.7, 91.7, 87.8, 3.00),
        "high 0.4": (81.7, 90.7, 91.2, 88.5, 3.25),
        "mdlm": (80.3, 90.3, 91.4, 87.7, 4.50),
        "dynamic": (81.8, 90.7, 91.4, 89.1, 2.00),
        "r2mae": (81.9, 90.8, 91.9, 88.6, 1.25),
    },
}
TABLE2_NAMES = {
    "fixed 0.15": "MLM default",
    "high 0.4": "Fixed MR 0.4",
    "mdlm": "MDLM",
    "dynamic": "Dynamic MR",
    "r2mae": "R2MAE (Ours)",
}

# ratio → MNLI, QNLI, QQP, SST-2 of a large model, hidden tokens always shown as <mask>: the source of the paper's
# figure 1F (README of princeton-nlp/DinkyTrain, commit 67c5b37; it names no metric, and QQP near 88 looks like F1).
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

GLUE_TRAIN_ROWS = {"mnli": 392_702, "qqp": 363_846, "sst2": 67_349, "qnli": 104_743}
_COLUMNS = {"mnli-matched": "MNLI", "qqp": "QQP", "sst2": "SST-2", "qnli": "QNLI"}


def mean_ranks(size: str) -> dict[str, float]:
    """Return the mean rank of every scheme of table 2, computed from its accuracies; ties share the best rank."""
    rows = TABLE2[size]
    per_task = [competition_ranks([row[i] for row in rows.values()]) for i in range(len(PAPER_TASKS))]
    return {name: sum(ranks[i] for ranks in per_task) / len(PAPER_TASKS) for i, name in enumerate(rows)}


def normalised_errors(accuracies: dict[float, float]) -> dict[float, float]:
    """Return an error curve in the form of figure 1F (paper, C.2).

    The error rate, shifted so that the line through its values at ratios 0.15 and 0.3 meets zero at ratio 0, and scaled
    so that it rises by 1 from ratio 0.4 to 0.8.

    Args:
        accuracies: ratio → accuracy in %; must hold 0.15, 0.3, 0.4 and 0.8.

    Raises:
        UserError: one of the four is missing, or the error is the same at 0.4 and 0.8.
    """
    _check_ratios(tuple(accuracies))
    errors = {ratio: 1 - accuracy / 100 for ratio, accuracy in accuracies.items()}
    if errors[0.8] == errors[0.4]:
        raise UserError("the error is the same at ratios 0.4 and 0.8: no common slope")
    at_zero = errors[0.15] - 0.15 * (errors[0.3] - errors[0.15]) / 0.15
    return {ratio: (error - at_zero) / (errors[0.8] - errors[0.4]) for ratio, error in errors.items()}


def _check_ratios(ratios: Sequence[float]) -> None:
    if missing := [ratio for ratio in (0.15, 0.3, 0.4, 0.8) if ratio not in ratios]:
        raise UserError(f"figure 1F's form needs the accuracy at ratios {missing}; add them to --ratios, or take fig2c")


def grid(config: Reproduce) -> list[tuple[str, RatioSampler]]:
    """Return the models of a target as (size, sampler): the paper's schemes, or the fixed ratios."""
    if config.target == "table2":
        samplers = [scheme(name, "text") for name in ("fixed", "high", "mdlm", "dynamic", "r2mae")]
    else:
        samplers = [Fixed(ratio) for ratio in config.ratios]
    return [(size, sampler) for size in config.models for sampler in samplers]


def reproduce(config: Reproduce) -> RunFolder | None:
    """Train and evaluate what is missing of the grid, print ours beside the published, and return the run folder.

    Without a corpus only the published figures are shown (None is returned); in a dry run only the estimated cost.

    Raises:
        UserError: an option was changed that does not apply to the target; or whatever the parts of the work raise.
    """
    if config.target == "table2":
        refuse_options(config, {"ratios": "fig1f, fig2c"}, config.target)
    if config.data is None:
        _published(config)
        return None
    if config.target == "fig1f":
        _check_ratios(config.ratios)
    runs = [_pretrain(config, config.data, size, sampler) for size, sampler in grid(config)]
    if config.dry_run:
        _dry_run(config, runs)
        return None
    if config.out is not None:
        check_output(config.out, [config.data, config.task_data])
    for task in config.tasks:
        task_sources(task, config.task_data)  # refuses what is missing before days of pretraining
    # Targets share models, and a grid may be widened; the data are known by their content.
    free = ("target", "models", "tasks", "ratios", "seeds", "micro_batch_size", "data", "task_data")
    facts = {"corpus": Corpus.open(config.data).digest}
    with open_run("r2mae-text", "reproduce", config.out, resolved(config), facts=facts, free=free, shared=True) as run:
        cells = {
            cell_name(Path(one.model).name, _scheme(one), one.seed): partial(_measure, config, one) for one in runs
        }
        _show(config, walk_grid(run, cells, again=True), run)  # the fine-tunings know themselves what is missing
        return run


def reproduce_command(config: Reproduce) -> None:
    """`r2mae-text reproduce`."""
    if run := reproduce(config):
        say(f"Done: {run.path} (results.json, {config.target}.md)")
        say(page_line("r2mae-text", run.path))


def _pretrain(config: Reproduce, data: Path, size: str, sampler: RatioSampler) -> Pretrain:
    return Pretrain(
        data, length=config.length, mask_ratio=sampler, model=size, tokens=config.tokens, batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size, lr=config.lr, device=config.device, precision=config.precision,
        compile=config.compile, progress=config.progress,
    )  # fmt: skip


def _scheme(options: Pretrain) -> str:
    return scheme_name(sampler_from_config(options.mask_ratio), "text")


def _measure(config: Reproduce, options: Pretrain, home: Path) -> list[Record]:
    """Pretrain and fine-tune one model, as far as that is not done, and return its records."""
    pretrained = pretrain(replace(options, out=home / "pretrain"))
    tuned = finetune(
        Finetune(
            str(pretrained.path), config.tasks, config.task_data, epochs=config.epochs, lr=config.finetune_lr,
            seeds=config.seeds, device=config.device, precision=config.precision, out=home / "finetune",
            progress=config.progress, keep="none", evaluate="end",
        )
    )  # fmt: skip
    return [_beside_the_papers(record, options.model) for record in (*pretrained.results(), *tuned.results())]


def _beside_the_papers(record: Record, size: str) -> Record:
    """Return the record with the size in its task, and the paper's value."""
    column = _COLUMNS.get(record.task)
    row = TABLE2.get(size, {}).get(record.scheme)
    paper = row[PAPER_TASKS.index(column)] / 100 if row and column and record.metric == "accuracy" else None
    return replace(record, task=f"{size} {record.task}", paper=paper)


def _show(config: Reproduce, records: list[Record], run: RunFolder) -> None:
    """Write and print a table per size, because the paper ranks the schemes within each."""
    markdown = []
    for size in config.models:
        accuracies = [r for r in records if r.metric == "accuracy" and r.task.startswith(f"{size} ")]
        table = compare(accuracies, RANK_BY)
        title = f"{size}: accuracy, mean ± sd over {len(config.seeds)} seeds of fine-tuning"
        markdown.append(f"{title}\n\n{table.markdown()}")
        say(table.rich(title))
    write_text(run.path / f"{config.target}.md", "\n".join(markdown))
    if config.target != "table2":
        say(f"Figure: {_draw(config, records, run)}")


def _draw(config: Reproduce, records: list[Record], run: RunFolder) -> Path:
    ours: dict[str, dict[float, list[float]]] = {}
    for record in records:
        if record.metric == "accuracy":
            ours.setdefault(record.task, {}).setdefault(float(record.scheme.split()[1]), []).append(100 * record.value)
    means = {task: {ratio: sum(v) / len(v) for ratio, v in curve.items()} for task, curve in ours.items()}
    published = _published_curves()
    if config.target == "fig1f":
        means = dict(_in_form_1f(means))
        published = {task: normalised_errors(curve) for task, curve in published.items()}
        ylabel, title = "shifted and scaled error rate", "Figure 1F: the curve depends on the task"
    else:
        ylabel, title = "accuracy (%)", "Figure 2C: accuracy over the ratio"
    return run.save_figure(f"{config.target}.png", plot_ratios(means, published, ylabel, title))


def _in_form_1f(means: dict[str, dict[float, float]]) -> Iterator[tuple[str, dict[float, float]]]:
    for task, curve in means.items():
        try:
            yield task, normalised_errors(curve)
        except UserError as error:
            say(f"Left out of the figure: {task}, because {error}")


def _published_curves() -> dict[str, dict[float, float]]:
    return {
        f"{task} (published, large)": {ratio: row[i] for ratio, row in DINKYTRAIN.items()}
        for i, task in enumerate(DINKYTRAIN_TASKS)
    }


def _published(config: Reproduce) -> None:
    """Print the published figures; for table 2 with its ranks computed again."""
    if config.target == "table2":
        for size in TABLE2:
            ranks = mean_ranks(size)
            rows = [
                [TABLE2_NAMES[name], *map(str, accuracies), f"{printed:.2f}", f"{ranks[name]:.2f}"]
                for name, (*accuracies, printed) in TABLE2[size].items()
            ]
            _print_table(
                f"RoBERTa-{size} (published)", ["scheme", *PAPER_TASKS, "rank, printed", "rank, computed"], rows
            )
    else:
        rows = [[f"{ratio:g}", *map(str, row)] for ratio, row in DINKYTRAIN.items()]
        title = "Fine-tuned large models over the fixed ratio (published)"
        _print_table(title, ["ratio", *DINKYTRAIN_TASKS], rows)
    say(f"To train the models, give a corpus: r2mae-text reproduce {config.target} --data DIR (see also --dry_run)")


def _print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    say(title)
    for first, *rest in (header, *rows):
        say("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]))
    say()


def _dry_run(config: Reproduce, runs: list[Pretrain]) -> None:
    """Print the grid, and what it would cost by the time of a few steps."""
    device, total, rate = resolve_device(config.device), 0.0, dict[str, float]()
    for options in runs:
        size = options.model
        if size not in rate:  # the schemes of a size differ little
            task = TextPretraining(options)
            micro = task.micro_batch_size(device)
            seconds = seconds_per_micro_batch(task.build(task.sampler()), task.rows, micro, device)
            rate[size] = micro * config.length / seconds
        hours = config.tokens / rate[size] / 3600
        # A fine-tuning row has some 40 tokens, and its step costs about as much a token as one of pretraining.
        tuned = sum(GLUE_TRAIN_ROWS.get(task, 10_000) for task in config.tasks) * config.epochs * 40
        tuning = len(config.seeds) * tuned / rate[size] / 3600
        total += hours + tuning
        say(f"  {size}, {_scheme(options)}: {hours:.1f} h of pretraining, about {tuning:.1f} h of fine-tuning")
    say(f"{len(runs)} models, about {total:.0f} h on {device_name(device)}")
