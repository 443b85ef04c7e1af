"""The page: what was gathered, in the order in which a reader asks for it, as one HTML file."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2mae_core.lab.figures import OWN_COLOUR, scheme_style
from r2mae_core.pages.charts import drawn, scripts, shades
from r2mae_core.pages.cost import cost_table
from r2mae_core.pages.curves import (
    Chart,
    chart_of_sweep,
    charts_over_pretraining_ratios,
    charts_over_ratios,
    charts_over_time,
)
from r2mae_core.pages.examples import Example
from r2mae_core.pages.gather import Gathered
from r2mae_core.pages.tables import Table, evaluation_table, text_table
from r2mae_core.share.run_summary import RunSummary

_DASHES = {"dashed": "6 3", "dotted": "2 2", "dashdot": "6 2 2 2"}
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Code:
    """How a model is loaded."""

    title: str
    text: str


def write_html(
    gathered: Gathered, examples: Sequence[Example], no_examples: Sequence[str], load: Sequence[Code]
) -> str:
    """Return the page.

    Args:
        gathered: what the runs hold.
        examples: pictures, texts.
        no_examples: lines on what could not be shown.
        load: how the models are loaded.
    """
    from jinja2 import Environment, FileSystemLoader

    over_time = charts_over_time([member.training for member in gathered.members])
    over_ratios = [chart_of_sweep(answer) for _, answer in gathered.answers]
    for _, table in gathered.tables:
        over_ratios += [*charts_over_ratios(table), *charts_over_pretraining_ratios(table)]
    numbers = _numbers([*over_ratios, *over_time], gathered)
    charts: dict[str, Any] = {}
    page = {
        "title": _title(gathered),
        "sentence": _sentence(gathered),
        "notices": [without_places(text) for text in gathered.notices],
        "asked": _asked(gathered.runs),
        "differing": _differing(gathered),
        "options": _options(gathered.runs[0]) if len(gathered.runs) == 1 else [],
        "verdict": _verdict(gathered),
        "legend": [_entry(name, number) for name, number in numbers.items()],
        "over_time": [_placed(chart, numbers, charts) for chart in over_time if not chart.secondary],
        "more": [_placed(chart, numbers, charts) for chart in over_time if chart.secondary],
        "over_ratios": [_placed(chart, numbers, charts) for chart in over_ratios],
        "tables": [evaluation_table(title, table, numbers) for title, table in gathered.tables],
        "examples": examples,
        "no_examples": [without_places(text) for text in no_examples],
        "cost": cost_table(gathered, numbers),
        "origin": _origin(gathered.runs),
        "versions": sorted(gathered.runs[0].versions.items()) if len(gathered.runs) == 1 else [],
        "load": load,
        "made_by": _made_by(gathered.runs),
        "made_on": time.strftime("%Y-%m-%d"),
    }
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=False)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh names a thing where it first stands
    css, js = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        page=page,
        colours={entry["number"]: entry["colour"] for entry in page["legend"]},
        css=css,
        js=js,
        scripts=scripts() if charts else "",
        charts_data=charts,
    )


def _numbers(charts: Sequence[Chart], gathered: Gathered) -> dict[str, int]:
    """Return scheme → its number, which decides its colour, of all that a chart shows: rows of the tables first."""
    shown = dict.fromkeys(line.scheme for chart in charts for line in (*chart.horizontal, *chart.lines))
    rows = [name for _, table in gathered.tables for name in table.schemes if name in shown]
    names = dict.fromkeys([*rows, *shown])
    # Controls and the curve over fixed ratios have colours of their own.
    return {name: i for i, name in enumerate(sorted(names, key=lambda name: name in OWN_COLOUR))}


def _entry(name: str, number: int) -> dict[str, Any]:
    style = scheme_style(name, number)
    return {"name": name, "number": number, "colour": style["color"], "dash": _DASHES.get(style["linestyle"], "")}


def _placed(chart: Chart, numbers: Mapping[str, int], charts: dict[str, Any]) -> dict[str, Any]:
    name = f"chart-{len(charts)}"
    charts[name] = drawn(chart, numbers)
    return {"id": name, "title": chart.title, "caption": chart.caption, "key": shades(chart)}


def _title(gathered: Gathered) -> str:
    names = [gathered.names[run.path] for run in gathered.runs]
    if len(names) == 1:
        run = gathered.runs[0]
        what = " ".join(part for part in (run.program, run.command) if part)
        return f"{what}: {names[0]}" if what else names[0]
    return f"{len(names)} runs: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"


def _sentence(gathered: Gathered) -> str:
    run = gathered.runs[0]
    n, tuned = len(gathered.members), sum(bool(member.training.kind) for member in gathered.members)
    kinds = f" ({tuned} of them {'fine-tunings' if tuned > 1 else 'a fine-tuning'})" if 0 < tuned < n else ""
    what = f"{'fine-tuning' if tuned == n else 'training'}{'s' if n != 1 else ''}"
    trainings = f", with {n} {what}{kinds} in {'them' if len(gathered.runs) > 1 else 'it'}" if n else ""
    if len(gathered.runs) > 1:
        return f"A comparison of {len(gathered.runs)} runs{trainings}: what was asked, how it went, and what came out."
    scheme = f" with the mask-ratio scheme {run.scheme}" if run.scheme else ""
    data = f" on {_name(run.data)}" if run.data else ""
    what = " ".join(part for part in (run.program or "r2mae", run.command) if part)
    return f"One run of {what}{scheme}{data}{trainings if n > 1 else ''}."


_PLACE = re.compile(r"(?<![\w.~/:])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"<>]+[/\\])+")


def without_places(text: str) -> str:
    """Return a text with the last part alone of absolute paths: a page is made to be given away."""
    return _PLACE.sub("", text)


def _name(value: Any) -> str:
    return without_places(str(value)) or str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "{}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else _name(value)


def _asked(runs: Sequence[RunSummary]) -> list[tuple[str, str | None]]:
    """Return what was asked: one line where all runs agree; where they differ, the table of differences says it."""
    rows: list[tuple[str, str | None]] = []
    for title, value in (
        ("Command", lambda run: " ".join(part for part in (run.program, run.command) if part) or None),
        ("Scheme", lambda run: run.scheme_in_words or run.scheme),
        ("Data", lambda run: None if run.data is None else _name(run.data)),
        ("Digest of the data", lambda run: run.data_digest),
        ("Continued from", lambda run: None if run.start is None else _name(run.start)),
        ("Seeds", lambda run: ", ".join(map(str, run.seeds)) or None),
    ):
        values = list(dict.fromkeys(value(run) for run in runs))
        if title == "Scheme" and len(values) > 1:  # the words name the seed, too
            values = list(dict.fromkeys(run.scheme for run in runs))
        if title == "Continued from" and values == [None]:
            continue
        if title == "Scheme" and values == [None] and not any("mask_ratio" in run.options for run in runs):
            continue  # of a grid each training has its own
        if len(values) == 1:
            rows.append((title, values[0]))
    return rows


def _options(run: RunSummary) -> list[tuple[str, str]]:
    changed = run.changed_options
    return [] if changed is None else [(name, _shown(value)) for name, value in changed.items() if name != "data"]


def _differing(gathered: Gathered) -> Table | None:
    if not gathered.differing:
        return None
    names = [gathered.names[run.path] for run in gathered.runs]
    rows = [[name, *(values[i] for values in gathered.differing.values())] for i, name in enumerate(names)]
    return text_table(["run", *gathered.differing], rows)


def _verdict(gathered: Gathered) -> list[dict[str, str]]:
    """Return the lines of verdicts and answers of sweeps, with how they are marked."""
    lines = []
    block: list[str] = []
    for line in gathered.verdict:
        if block and not line.startswith(" "):
            lines.append("\n".join(block))
            block = []
        block.append(line)
    lines += ["\n".join(block)] if block else []
    found = [{"text": without_places(text), "kind": _kind(text)} for text in lines]
    several = len(gathered.runs) > 1
    for name, answer in gathered.answers:
        from r2mae_core.sweep.command import lines_of  # here: it imports Optuna

        text = "\n".join(lines_of({"seconds": math.nan, "lost": {}, **answer})).replace(" and nan minutes", "")
        text = without_places(f"{name}: {text}" if several else text)
        found.append({"text": text, "kind": "good"})
    return found


def _kind(text: str) -> str:
    if "NOT met" in text.partition("\n")[0] or "not met" in text.partition("\n")[0]:
        return "bad"
    return "good" if " met" in text.partition("\n")[0] else ""


def _origin(runs: Sequence[RunSummary]) -> list[tuple[str, str | None]]:
    def of(value: Any) -> str | None:
        found = list(dict.fromkeys(str(value(run)) if value(run) is not None else "not recorded" for run in runs))
        return "; ".join(found)

    packages = ("r2mae-core", "torch", "lightning", "numpy")
    rows: list[tuple[str, str | None]] = [
        ("Began", of(lambda run: run.started)),
        ("Commit", of(lambda run: run.commit)),
        ("Python", of(lambda run: run.python)),
        ("Device", of(lambda run: run.device)),
    ]
    own = dict.fromkeys(run.program for run in runs if run.program)
    rows += [(name, of(lambda run, name=name: run.versions.get(name))) for name in (*own, *packages)]
    for run in runs[:1] if len(runs) == 1 else ():
        rows += [(f"Source: {_name(name)}", str(value)) for name, value in list(run.sources.items())[:20]]
        rows += [(name, _shown(value)) for name, value in run.facts.items()]
    return rows


def _made_by(runs: Sequence[RunSummary]) -> str:
    return f"Made by {runs[0].program or 'r2mae-core'} report"
