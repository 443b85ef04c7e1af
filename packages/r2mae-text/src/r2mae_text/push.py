"""`r2mae-text push`: a run's model on the hub, as a plain transformers folder."""

import re
import shutil
from pathlib import Path
from typing import Any

from r2mae_core import CardFacts, PushOptions, UserError, push, read_json, read_yaml
from r2mae_text.data.shards import Corpus
from r2mae_text.model import usable_positions
from r2mae_text.weights import load_pretrained, model_folder

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
    place = run / "model" if (run / "model" / "config.json").exists() else model_folder(run)
    if not isinstance(place, Path) or not (place / "config.json").exists():
        raise UserError(f"{run} is no run folder with a finished model")
    kind, auto = _kind_of(place)
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
        },
        limits=(
            "It repeats what its training text says and leaves out, errors and prejudices included.",
            f"Longer texts than {usable_positions(model.config):,} tokens are cut off or refused.",
            "It fills in words or classifies; it does not write text.",
        ),
    )


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
    """Return the facts of the run that a model is of: its folder's, or that above it."""
    homes = (home for home in (run, *run.absolute().parents[:2]) if (home / "config.yaml").exists())
    file = next(homes, run) / "facts.json"
    return read_json(file) if file.exists() else {}
