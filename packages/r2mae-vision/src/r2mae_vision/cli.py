"""`r2mae-vision <command>`."""

import sys

from r2mae_core import Command, Compare, run
from r2mae_vision import options

COMMANDS = {
    "demo": Command(
        options.Demo, "r2mae_vision.demo:demo", "Pretrain every scheme on small real images; a table and a picture."
    ),
    "prepare": Command(
        options.Prepare, "r2mae_vision.data.prepare:prepare_command", "Decode images once, into a store of bytes."
    ),
    "pretrain": Command(
        options.Pretrain, "r2mae_vision.pretrain:pretrain_command", "Pretrain a masked autoencoder on a timm ViT."
    ),
    "finetune": Command(
        options.Finetune, "r2mae_vision.finetune:finetune_command", "Fine-tune for classification by MAE's recipe."
    ),
    "probe": Command(
        options.Probe, "r2mae_vision.probe:probe_command", "Judge frozen features: linear probe and neighbours."
    ),
    "reconstruct": Command(
        options.Reconstruct, "r2mae_vision.reconstruct:reconstruct_command", "Draw what the model fills in."
    ),
    "export": Command(options.Export, "r2mae_vision.export:export_command", "Write a model for timm and transformers."),
    "reproduce": Command(options.Reproduce, "r2mae_vision.paper:reproduce", "Walk a table or figure of the paper."),
    "compare": Command(Compare, "r2mae_vision.evaluate:compare_command", "Put several runs into one table."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run("r2mae-vision", "Masked image models with any mask-ratio scheme.", COMMANDS, argv))


if __name__ == "__main__":
    main()
