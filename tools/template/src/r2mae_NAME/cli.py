"""`r2mae-NAME <command>`."""

import sys

import r2mae_core.interrupts  # noqa: F401  (first, so that Ctrl-C is answered from here on)
from r2mae_core import Command, Compare, run
from r2mae_NAME import options

COMMANDS = {
    "pretrain": Command(options.Pretrain, "r2mae_NAME.pretrain:pretrain_command", "Pretrain a masked autoencoder."),
    "compare": Command(Compare, "r2mae_NAME.evaluate:compare_command", "Put several runs into one table."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run("r2mae-NAME", "Masked models of NAME data with any mask-ratio scheme.", COMMANDS, argv))


if __name__ == "__main__":
    main()
