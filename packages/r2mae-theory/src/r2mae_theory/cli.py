"""`r2mae-theory <command>`: parse, call, print. Exit codes: 0 done, 1 failed with a message, 2 wrong usage."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from r2mae_theory.arguments import Command, parse
from r2mae_theory.errors import TheoryError
from r2mae_theory.options import (
    AdviseConfig,
    DemoConfig,
    Experiments,
    ReproduceConfig,
    RiskConfig,
    SimulateConfig,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = [
    Command("demo", DemoConfig),
    Command("risk", RiskConfig),
    Command("simulate", SimulateConfig),
    Command("reproduce", ReproduceConfig, "what", Experiments, "Figure or table of the paper, or all."),
    Command("advise", AdviseConfig, "file", str, "Table of samples by features: npy, npz, csv, parquet or h5ad."),
]
_DESCRIPTION = "The linear model behind mask-based pretraining: exact risk, simulation, and advice for your data."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None reads the command line.

    Returns:
        0 when done, 1 when it failed with a message; wrong usage exits with 2.
    """
    command, config, positional, out = parse("r2mae-theory", _DESCRIPTION, COMMANDS, None if argv is None else [*argv])
    # Only now, so that --help needs neither numpy nor matplotlib.
    from r2mae_theory import commands

    try:
        commands.COMMANDS[command.name](config, positional, commands.folder(command.name, out))
    except (TheoryError, OSError) as error:
        sys.stderr.write(f"r2mae-theory {command.name}: {error}\n".replace("\n", " ").rstrip() + "\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"r2mae-theory {command.name}: interrupted\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
