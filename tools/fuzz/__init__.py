"""Mutated commands over the five command lines: `nox -s fuzz`, or `python -m tools.fuzz`."""
