"""What the options of several commands may be. Nothing heavy is imported here, because `--help` reads this module."""

from typing import Annotated

from r2mae_core import Bound, UserError

MAX_POSITIONS = 1536
"""Longest window, as the published models declare."""
DEFAULT_WINDOW = 128
"""Bases that a model sees where neither it nor an option says so: the published models'."""
Window = Annotated[int, Bound(2, MAX_POSITIONS)]
"""Bases of a window."""
Ratio = Annotated[float, Bound(0, 1, above=True)]
"""A mask ratio, or another share of more than nothing."""
Width = Annotated[int, Bound(1, 65_536)]
"""Features of a network's layer, or its heads."""
Layers = Annotated[int, Bound(1, 1024)]
"""Layers of a network."""


def refuse_repeats(option: str, values: tuple[object, ...]) -> None:
    """Refuse an empty list, and one that names something twice, which a table would mix up.

    Raises:
        UserError: with the option.
    """
    if not values:
        raise UserError(f"--{option} is empty; name at least one")
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise UserError(f"--{option} names {twice} twice")


_TEXT = (".tsv", ".txt", ".csv", ".vcf", ".bcf")


def is_scan_table(model: str) -> bool:
    """Return whether what stands in a model's place is a table of scores; a model is a folder."""
    return model.lower().removesuffix(".gz").removesuffix(".bgz").endswith(_TEXT)
