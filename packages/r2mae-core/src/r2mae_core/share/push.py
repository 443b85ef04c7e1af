"""`push RUN NAME`: a model, its card and the picture of its training in one folder, on the hub or on the disk."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2mae_core.lab.commands import Command
from r2mae_core.lab.errors import UserError
from r2mae_core.lab.figures import save_figure
from r2mae_core.lab.files import whole_folder
from r2mae_core.lab.metrics_file import read_metrics
from r2mae_core.lab.outputs import check_output
from r2mae_core.lab.run_folder import default_run_path
from r2mae_core.lab.sealed import read_json
from r2mae_core.lab.setups import digest_of_sources
from r2mae_core.lab.terminal import say
from r2mae_core.share.hub import check_licence, check_name, hub_library, send
from r2mae_core.share.loss_curve import plot_training
from r2mae_core.share.model_card import FIGURE, CardFacts, model_card, write_card
from r2mae_core.share.options import PushOptions
from r2mae_core.share.private import refuse_private
from r2mae_core.share.run_summary import RunSummary, run_summary

WriteModel = Callable[[Path, Path], CardFacts]
"""Writes the model of a run folder into a new folder, in the format of its field, and says what it is."""


def push(config: PushOptions, program: str, commands: Mapping[str, Command], write_model: WriteModel) -> str:
    """Send a run's model to the hub with its card, or write what would be sent; return where it is.

    Args:
        config: the options.
        program: the console script, such as "r2mae-text".
        commands: its verbs, for the defaults of the run's options.
        write_model: the package's.

    Raises:
        UserError: the run has no finished model, the name exists, there is no token or network, or a file of the folder
            names a place of this machine.
    """
    hub_library()
    check_name(config.name)
    license = check_licence(config.license, config.license_name)
    summary = summary_of_model(config.run, commands)
    if summary.program not in (None, program):
        raise UserError(f"{config.run} is a run of {summary.program}, not of {program}; push it with that")
    with _folder(config, program) as (folder, kept):
        facts = write_model(config.run, folder)
        figure = _draw(summary, folder)
        card = model_card(
            facts,
            config.name,
            license=license,
            license_name=config.license_name,
            note=config.note,
            summary=summary,
            figure=figure,
        )
        write_card(folder, card)
        refuse_private(folder, [config.run, summary.path.parent, *absolute_paths(summary.options)])
        size = _size(folder)
        if config.dry_run:
            place = str(kept)
        else:
            message = f"{summary.scheme or program} model of {program}"
            given = {"private": config.private, "update": config.update, "revision": config.revision}
            place = "@".join(send(folder, config.name, message=message, **given))
    if config.dry_run:
        say(f"Done: {place} holds what would be sent ({size}); nothing was.")
    else:
        say(f"Done: {place.replace('@', ', revision ')}")
    return place


def summary_of_model(place: Path, commands: Mapping[str, Command]) -> RunSummary:
    """Return the summary of the run that a model is of, with the model's own seed, task, results and training curve.

    Args:
        place: a run folder; or the folder of one of its models, as a fine-tuning with several seeds has them.
        commands: of the package.

    Raises:
        UserError: it is neither.
    """
    homes = [folder for folder in (place, *list(place.absolute().parents)[:2]) if (folder / "config.yaml").exists()]
    with_results = [folder for folder in homes if (folder / "results.json").exists()]
    home = (with_results or homes or [place])[0]
    summary = run_summary(home, commands)
    parts = place.absolute().relative_to(home.absolute()).parts
    own = _own(parts)
    if own.get("seed") in summary.seeds:  # else the numbers are of something else, such as the widths of a grid's cell
        summary = run_summary(home, commands, **own)
    logs = sorted(log for where in ("*", "logs/*") for log in home.glob(f"{where}/metrics.csv"))
    names = list(dict.fromkeys(log.parent.name for log in logs))
    name = parts[0] if parts else names[0] if len(names) == 1 else None
    return summary if name is None else _with_what_is_its_own(summary, [log for log in logs if log.parent.name == name])


def _with_what_is_its_own(summary: RunSummary, logs: Sequence[Path]) -> RunSummary:
    """Return a summary with the log of one of its models, and the digest of what that alone was trained on."""
    if not logs:
        return summary
    part = summary.path / "parts" / f"{logs[0].parent.name}.json"
    sources = read_json(part).get("sources") if part.exists() else None
    return replace(
        summary,
        metrics=summary.metrics or read_metrics(logs[0]),
        data_digest=summary.data_digest or digest_of_sources(sources or {}),
    )


def _own(parts: Sequence[str]) -> dict[str, Any]:
    """Return which seed, and which task, a folder within a run is of: "seed0", "movies-0"; nothing for another."""
    found = re.fullmatch(r"(?:seed|(.+)-)(\d+)", parts[0]) if parts else None
    return {} if found is None else {"seed": int(found[2]), "task": found[1]}


def absolute_paths(value: Any) -> Iterator[str]:
    """Yield the paths from a root of the file system among a command's options, at every depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from absolute_paths(item)
    elif isinstance(value, str) and Path(value).is_absolute():
        yield value


@contextmanager
def _folder(config: PushOptions, program: str) -> Iterator[tuple[Path, Path | None]]:
    """Give the folder that is filled, and where it will be: the user's, whole or not at all; None: it is removed."""
    out = config.out or (default_run_path(program, "push") if config.dry_run else None)
    if out is None:
        with tempfile.TemporaryDirectory(prefix=f"{program}-push-") as new:
            yield Path(new), None
        return
    check_output(out, [config.run])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; name a new folder with --out")
    with whole_folder(out) as new:
        yield new, out


def _size(folder: Path) -> str:
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"


def _draw(summary: RunSummary, folder: Path) -> bool:
    figure = plot_training(summary)
    if figure is not None:
        save_figure(figure, folder / FIGURE)
    return figure is not None
