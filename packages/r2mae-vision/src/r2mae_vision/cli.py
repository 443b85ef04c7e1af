"""`r2mae-vision <command>`."""

import sys

from r2mae_core.commands import Command, run
from r2mae_vision import options

COMMANDS = {
    "demo": Command(
        options.Demo, "r2mae_vision.demo:demo", "Pretrain every scheme on small real images; a table and a picture."
    ),
    "pretrain": Command(
        options.Pretrain, "r2mae_vision.mnist.pretrain:pretrain_command", "Pretrain a masked autoencoder."
    ),
    "probe": Command(
        options.Probe, "r2mae_vision.mnist.evaluate:probe_command", "Judge what a pretrained model has learned."
    ),
    "reproduce": Command(options.Reproduce, "r2mae_vision.paper:reproduce", "Walk a figure of the paper."),
    "compare": Command(
        options.Compare, "r2mae_vision.mnist.evaluate:compare_command", "Put several runs into one table."
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run("r2mae-vision", "Masked image models with any mask-ratio scheme.", COMMANDS, argv))


if __name__ == "__main__":
    main()
