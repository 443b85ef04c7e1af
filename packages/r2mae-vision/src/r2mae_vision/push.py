"""`r2mae-vision push`: a run's model on the hub, of pretrain, finetune or pretrain-mlp."""

from pathlib import Path

from r2mae_core import CardFacts, PushOptions, UserError, push, read_json
from r2mae_vision.mae import sharing
from r2mae_vision.mnist.model import MLPAutoencoder


def push_command(config: PushOptions) -> None:
    """`r2mae-vision push`."""
    from r2mae_vision.cli import COMMANDS

    push(config, "r2mae-vision", COMMANDS, write_model)


def write_model(run: Path, folder: Path) -> CardFacts:
    """Write the model of a finished run into a folder, and say what it is.

    Raises:
        UserError: the run has no finished model, or several, or it is damaged.
    """
    facts = run / "facts.json"
    if not facts.exists() or read_json(facts).get("command") != "pretrain-mlp":
        return sharing.write_model(run, folder)
    if not (run / "model").is_dir():
        raise UserError(f"{run} has no finished model; push the run folder of a pretraining that has ended")
    model = MLPAutoencoder.read_pretrained(run / "model")
    model.write_pretrained(folder)
    return model.card_facts()
