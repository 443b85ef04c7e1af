"""`r2mae-theory <command>`."""

import sys

import r2mae_core.interrupts  # noqa: F401  (first, so that Ctrl-C is answered from here on)
from r2mae_core import Command, Page, run
from r2mae_theory import options

COMMANDS = {
    "demo": Command(options.Demo, "r2mae_theory.demo:demo", "Figures 1A to 1C: simulated dots on predicted lines."),
    "risk": Command(options.RiskCurve, "r2mae_theory.curve:risk", "Predict the risk curve of one setting."),
    "simulate": Command(
        options.Simulate, "r2mae_theory.curve:simulate", "Simulate the risk curve of one setting beside its prediction."
    ),
    "advise": Command(
        options.Advise,
        "r2mae_theory.advice_command:advise_command",
        "Recommend a mask ratio and a range for your data.",
        {"file": "DATA", "splits": "--n_splits"},
    ),
    "reproduce": Command(
        options.Reproduce,
        "r2mae_theory.paper:reproduce",
        "Reproduce a table or figure of the paper.",
        {"n_seeds": "--seeds '[2, 12]'"},
    ),
    "report": Command(Page, "r2mae_theory.page:report_command", "Write one HTML page of a run, or of several."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(
        run("r2mae-theory", "The linear model behind masked pretraining: risk, simulation, advice.", COMMANDS, argv)
    )


if __name__ == "__main__":
    main()
