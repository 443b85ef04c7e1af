"""`r2mae-text push`: a run's model on the hub, as a plain transformers folder."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r2mae_core import CardFacts, PushOptions, UserError, push, read_json, read_yaml
from r2mae_text.data.shards import Corpus
from r2mae_text.model import usable_positions
from r2mae_text.weights import load_pretrained, model_folder, without_model

_KINDS = {
    "MaskedLM": ("fill-mask", "A masked language model: a bidirectional transformer that fills in hidden words."),
    "SequenceClassification": ("text-classification", "A transformer that classifies texts, fine-tuned."),
    "TokenClassification": ("token-classification", "A transformer that classifies the words of a text, fine-tuned."),
}
"""End of the name of a transformers class → the hub's task, and what such a model is."""


def push_command(config: PushOptions) -> None:
    """`r2mae-text push`."""
    from r2mae_text.cli import COMMANDS

    push(config, "r2mae-text", COMMANDS, write_model)


def write_model(run: Path, folder: Path) -> CardFacts:
    """Copy the model of a finished run into a folder, and say what it is.

    Raises:
        UserError: the run has no finished model, or several, or it is damaged.
    """
    place = run / "model" if (run / "model" / "config.json").exists() else _only_model(run)
    if not isinstance(place, Path) or not (place / "config.json").exists():
        raise UserError(f"{run} is no run folder with a finished model")
    kind, auto = _kind_of(place)
    longest = _longest(run)
    model, tokenizer = load_pretrained(place, auto)
    shutil.copytree(place, folder, dirs_exist_ok=True)
    task, what = _KINDS[kind]
    labels = () if kind == "MaskedLM" else tuple(model.config.id2label.values())
    code = f"from transformers import {auto}, AutoTokenizer\n\n"
    code += f'model = {auto}.from_pretrained("{{name}}")\ntokenizer = AutoTokenizer.from_pretrained("{{name}}")\n'
    return CardFacts(
        what=what,
        library="transformers",
        code={"transformers": code},
        task=task,
        base_model=_on_the_hub(run),
        datasets=_datasets(run),
        details={
            "class": type(model).__name__,
            "parameters": f"{model.num_parameters():,}",
            "vocabulary": f"{len(tokenizer):,} tokens",
            "longest text": f"{usable_positions(model.config):,} tokens",
            **({"labels": ", ".join(labels)} if labels else {}),
            **_kept(place.parent / "epochs.csv"),
        },
        limits=(
            "It repeats what its training text says and leaves out, errors and prejudices included.",
            f"Longer texts than {usable_positions(model.config):,} tokens are cut off or refused.",
            *_untried(longest, usable_positions(model.config)),
            "It fills in words or classifies; it does not write text.",
        ),
    )


def _only_model(run: Path) -> str | Path:
    if (run / "config.yaml").exists() and not [*run.glob("model"), *run.glob("*/model/config.json")]:
        raise without_model(run)
    return model_folder(run)


def _longest(run: Path) -> int | None:
    """Return the length of the longest text of a run's training; None: it is not noted."""
    options = _read(run, "config.yaml", read_yaml)
    return options.get("length") or options.get("max_length")


def _untried(longest: int | None, positions: int) -> tuple[str, ...]:
    if longest is None or longest >= positions:
        return ()
    return (f"Its training had texts of at most {longest:,} tokens; how it does on longer ones was not tried.",)


def _kept(epochs: Path) -> dict[str, str]:
    """Return of which epoch a fine-tuned model's weights are."""
    if not epochs.exists():
        return {}
    with epochs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = next((row["epoch"] for row in rows if row.get("kept") == "1"), None)
    return {} if kept is None else {"weights": f"after epoch {kept} of {rows[-1]['epoch']}"}


def _kind_of(place: Path) -> tuple[str, str]:
    """Return the kind of a model, and transformers' class that loads it.

    Raises:
        UserError: it is another kind.
    """
    from r2mae_text.weights import load_config

    names = load_config(place).architectures or ["nothing"]
    for kind in _KINDS:
        if names[0].endswith(f"For{kind}"):
            return kind, f"AutoModelFor{kind}"
    raise UserError(f"{place} holds a {names[0]}; push takes models of pretrain and finetune")


def _on_the_hub(run: Path) -> str | None:
    """Return the name on the hub of the model that a training started from; None: a new one, or one of this machine.

    A run notes it with its commit, and a folder's weights by a digest: a relative path may look like a name.
    """
    facts = _facts(run)
    if str(_read(run, "config.yaml", read_yaml).get("model")).startswith("scratch:"):
        return None  # it has that model's shape, and nothing of its weights
    noted = str(facts.get("start_weights") or facts.get("weights") or "")
    name, space, _ = noted.partition(" ")
    return name if space else None


def _datasets(run: Path) -> tuple[str, ...]:
    """Return the names on the hub from which a pretraining's corpus was prepared, if the corpus is still there."""
    if not (run / "config.yaml").exists() or "corpus" not in (facts := _facts(run)):
        return ()
    corpus = Path(str(read_yaml(run / "config.yaml").get("data")))
    if not (corpus / "config.yaml").exists() or Corpus.open(corpus).digest != facts["corpus"]:
        return ()
    sources = map(str, read_yaml(corpus / "config.yaml").get("sources") or ())
    found = (re.fullmatch(r"hub:((?:[\w.-]+/)?[\w.-]+)(:.*)?", source) for source in sources)
    return tuple(dict.fromkeys(name[1] for name in found if name))


def _facts(run: Path) -> dict[str, Any]:
    return _read(run, "facts.json", read_json)


def _read(run: Path, name: str, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds of the run that a model is of: its folder's, or that above it."""
    homes = (home for home in (run, *run.absolute().parents[:2]) if (home / "config.yaml").exists())
    file = next(homes, run) / name
    return read(file) if file.exists() else {}
