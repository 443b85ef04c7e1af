"""The card of a model: what it is, how to load it, how it was trained, what was measured, and its limits."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from r2mae_core.lab.setups import FREE
from r2mae_core.share.hub import hub_library
from r2mae_core.share.run_summary import EvaluationRow, RunSummary

FIGURE = "training.png"
"""The picture of the training beside the card."""
_OWN_LINE = ("seed", "seeds", "start", "ratio_per", "loss_weight")
"""Options that the card says elsewhere."""
_OF_THE_MACHINE = (*FREE, "data", "devices", "nodes", "micro_batch_size", "validate_every", "micro_batches")


@dataclass(frozen=True)
class CardFacts:
    """What a package says of a model that it shares."""

    what: str
    """One sentence: what kind of model it is."""
    library: str
    """The library that loads it, as the hub writes it, such as "transformers"."""
    code: Mapping[str, str]
    """Library → Python that loads it with that alone; `{name}` stands for the name on the hub."""
    limits: Sequence[str]
    """Sentences: what it cannot do, and what was not tried."""
    task: str | None = None
    """The hub's `pipeline_tag`, such as "fill-mask"."""
    tags: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    """Rows about the model, such as "parameters"."""
    datasets: Sequence[str] = ()
    """Names on the hub of the data sets that it was trained on."""
    base_model: str | None = None
    """Name on the hub of the model from whose weights the training started."""
    scheme: str | None = None
    """The mask ratio of its training in words, where the card has no run to read it from."""


def model_card(
    facts: CardFacts,
    name: str,
    *,
    title: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    note: str | None = None,
    summary: RunSummary | None = None,
    figure: bool = False,
) -> str:
    """Return a card: Markdown with the metadata that the hub reads, valid by huggingface_hub's own check.

    Args:
        facts: what the package says of the model.
        name: of the model on the hub, for the code that loads it.
        title: of the card; None: the name's last part.
        license: the hub's name of the licence; None: not decided, as in a folder that is not sent.
        license_name: of a licence that the hub does not know.
        note: a paragraph of the user's.
        summary: of the training; None: nothing is known of it.
        figure: whether `FIGURE` lies beside the card.

    Raises:
        UserError: huggingface_hub is missing.
    """
    hub = hub_library()
    header = hub.ModelCardData(
        library_name=facts.library,
        license=license,
        license_name=license_name,
        pipeline_tag=facts.task,
        base_model=facts.base_model,
        datasets=list(facts.datasets) or None,
        tags=list(dict.fromkeys(["r2mae", "masked-modeling", *facts.tags])),
    )
    heading = title or name.rpartition("/")[2]
    parts = [f"---\n{header.to_yaml()}\n---", f"# {heading}", _first_paragraph(facts, summary)]
    parts += [note] if note else []
    parts += ["## How to load it"]
    for library, code in facts.code.items():
        parts += [f"With {library}:", f"```python\n{code.format(name=name).strip()}\n```"]
    if facts.details:
        parts += ["## Model", _table(["", ""], [[key, text] for key, text in facts.details.items()])]
    if summary is not None:
        parts += ["## Training", _table(["", ""], training_rows(summary, facts.library))]
        parts += [f"![Loss by optimizer step]({FIGURE})"] if figure else []
        if summary.evaluation:
            parts += ["## Evaluation", _evaluation(summary.evaluation)]
    parts += ["## Limits", "\n".join(f"- {sentence}" for sentence in facts.limits)]
    text = "\n\n".join(parts) + "\n"
    hub.ModelCard(text)  # reads the metadata back, and refuses what is not YAML
    return text


def training_rows(summary: RunSummary, library: str) -> list[list[str]]:
    """Return what is known of a training, without the places of files, as (what, value).

    Args:
        summary: of the run.
        library: one whose version matters, besides torch's.
    """
    steps = max((step for series in summary.metrics.values() for step, _ in series), default=None)
    rows: list[tuple[str, Any]] = [
        ("mask ratio", summary.scheme_in_words),
        ("scheme", summary.scheme),
        ("pretrained with", "; ".join(f"{scheme} (seed {seed})" for scheme, seed in summary.models) or None),
        ("seed", ", ".join(map(str, summary.seeds)) or None),
        ("data", _place(summary.data)),
        ("digest of the data", f"`{summary.data_digest}`" if summary.data_digest else None),
        ("began with the weights", None if summary.start is None else public_text(summary.start)),
        ("options besides the defaults", _options(summary.changed_options)),
        ("last step in the log", None if steps is None else f"{steps:,}"),
        ("began", summary.started),
        ("took", None if summary.seconds is None else _duration(summary.seconds)),
        ("on", summary.device),
        ("command", " ".join(part for part in (summary.program, summary.command) if part) or None),
        ("commit", summary.commit),
        ("versions", _versions(summary, library)),
    ]
    return [[name, str(value)] for name, value in rows if value is not None]


def public_text(value: Any) -> str:
    """Return an option's value without the place of a file: of a path the last part alone."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {public_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(public_text, value))
    text = str(value)
    if (prefixed := re.fullmatch(r"(?!hub:)([a-z_]{2,}:)(?!//)(.+)", text)) is not None:  # scratch:PLACE is not PLACE
        return prefixed[1] + public_text(prefixed[2])
    if ("/" not in text and "\\" not in text) or text.startswith(("hfds/", "hub:")):  # names on the hub
        return text
    return PurePosixPath(text.replace("\\", "/")).name


def _first_paragraph(facts: CardFacts, summary: RunSummary | None) -> str:
    scheme = facts.scheme if summary is None else summary.scheme_in_words
    return facts.what if scheme is None else f"{facts.what} Its mask ratio in training was {scheme}."


def _place(data: str | None) -> str | None:
    """Return the name of a place of data; None: it has none, as the current folder."""
    text = "" if data is None else public_text(data)
    return None if text.strip(".") == "" else text


def _options(changed: Mapping[str, Any] | None) -> str | None:
    shown = {key: value for key, value in (changed or {}).items() if key not in (*_OWN_LINE, *_OF_THE_MACHINE)}
    return ", ".join(f"`{key}` {public_text(value)}" for key, value in shown.items()) or None


def _versions(summary: RunSummary, library: str) -> str | None:
    own = ["r2mae-core", summary.program, "torch", "lightning", library]
    names = [name for name in dict.fromkeys(own) if name in summary.versions]
    python = [] if summary.python is None else [f"Python {summary.python}"]
    return ", ".join([*python, *(f"{name} {summary.versions[name]}" for name in names)]) or None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _evaluation(rows: Iterable[EvaluationRow]) -> str:
    body = []
    for row in rows:
        spread = f" ± {row.sd:.3g}" if row.sd is not None else ""
        value = f"{row.mean:.4g}{spread}" if math.isfinite(row.mean) else "not finite"
        n = "" if row.n is None else f"{row.n:,}"
        body.append([row.scheme, public_text(row.task), row.split, row.metric, value, n, str(row.n_seeds)])
    return _table(["scheme", "task", "split", "metric", "mean ± sd", "examples", "seeds"], body)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def write_card(folder: Path, text: str) -> None:
    """Write a card as the hub's `README.md`."""
    (folder / "README.md").write_text(text, encoding="utf-8")
