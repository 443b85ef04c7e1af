"""How results are ranked, and `compare`, which puts runs into one table."""

from r2mae_core import compare_runs
from r2mae_core.commands import say
from r2mae_core.comparison import Direction
from r2mae_vision.options import Compare

RANK_BY: dict[str, Direction] = {"probe_accuracy": "max", "linear_top1": "max", "top1": "max"}


def compare_command(config: Compare) -> None:
    """`r2mae-vision compare`."""
    table = compare_runs(config.runs, RANK_BY)
    say(table.markdown() if config.markdown else table.rich())
