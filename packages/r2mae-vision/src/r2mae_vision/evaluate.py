"""How results of every experiment are ranked, and `compare`, which puts runs into one table."""

from r2mae_core import Compare, Direction, print_comparison

RANK_BY: dict[str, Direction] = {
    "probe_accuracy": "max",
    "linear_top1": "max",
    "top1": "max",
    "linear_map": "max",
    "map": "max",
}


def compare_command(config: Compare) -> None:
    """`r2mae-vision compare`."""
    print_comparison(config, RANK_BY)
