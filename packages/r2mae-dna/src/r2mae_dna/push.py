"""`r2mae-dna push`: a run's model on the hub, in GPN-MSA's own layout."""

import shutil
from dataclasses import replace
from pathlib import Path

from r2mae_core import SUMS, CardFacts, PushOptions, UserError, push, read_yaml
from r2mae_dna.model import AlignmentModel
from r2mae_dna.weights import load_model

_OURS = """\
from r2mae_dna import AlignmentModel

model = AlignmentModel.from_pretrained("{name}")
"""
_GPN = """\
import gpn
from transformers import AutoModelForMaskedLM

gpn.register_auto_classes("gpn")
model = AutoModelForMaskedLM.from_pretrained("{name}")
"""


def push_command(config: PushOptions) -> None:
    """`r2mae-dna push`."""
    from r2mae_dna.cli import COMMANDS

    push(config, "r2mae-dna", COMMANDS, write_model)


def write_model(run: Path, folder: Path) -> CardFacts:
    """Copy the model of a finished run into a folder, and say what it is.

    Raises:
        UserError: the run has no finished model, or it is damaged.
    """
    if not (run / "model").is_dir():
        raise UserError(f"{run} has no finished model; push the run folder of a pretraining that has ended")
    model = load_model(run).model
    for name in ("config.json", "model.safetensors", SUMS):
        shutil.copyfile(run / "model" / name, folder / name)
    facts = card_facts(model)
    if (weights := _weights(run)) is None:
        return facts
    return replace(facts, details={**facts.details, "weights": weights})


def _weights(run: Path) -> str | None:
    """Return of which step the weights are, where they need not be of the last."""
    if not (run / "config.yaml").exists() or read_yaml(run / "config.yaml").get("keep") != "best":
        return None
    if not (run / "results.json").exists():  # nothing was held out, so there is no best
        return None
    return "of the validation with the lowest loss on held-out windows, not of the last step"


def card_facts(model: AlignmentModel) -> CardFacts:
    """Return what a card says of a model."""
    shape, origin = model.config, model.origin
    details = {
        "parameters": f"{model.n_parameters:,}",
        "species": f"a reference and {shape.n_species} others",
        "layers, width, heads": f"{shape.n_layers}, {shape.n_hidden}, {shape.n_heads}",
        "objective": f"hidden letters of {'all species' if origin.targets == 'all' else 'the reference'}",
        **({} if origin.window is None else {"window": f"{origin.window} bases"}),
        **({} if origin.species is None else {"reference": origin.species[0]}),
    }
    order = "in the order of `config.json`" if origin.species is not None else "in the order of its training"
    return CardFacts(
        what="A masked language model of DNA that reads a whole-genome alignment (the network of GPN-MSA).",
        library="r2mae",
        code={"r2mae-dna": _OURS, "gpn": _GPN},
        task="fill-mask",
        tags=("biology", "genomics", "dna", "gpn-msa", "variant-effect-prediction"),
        details=details,
        limits=(
            f"It reads columns of an alignment of the species that it was trained on, {order}; it cannot score a "
            "sequence alone.",
            "Its scores compare changes of one base; insertions and deletions are not scored.",
            "It was not validated for use on patients.",
        ),
    )
