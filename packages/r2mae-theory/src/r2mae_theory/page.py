"""`report RUN…`: one HTML page of runs: predicted risks, figures, what was asked."""

from r2mae_core import Page, Reporter, write_page_command
from r2mae_theory.cli import COMMANDS


def report_command(config: Page) -> None:
    """Run `r2mae-theory report`."""
    write_page_command(config, Reporter("r2mae-theory", COMMANDS, {"risk": "min"}))
