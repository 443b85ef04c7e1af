"""The classes that plain data names: found without importing anything."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from r2mae_core.lab.errors import UserError


def class_paths(config: Any) -> Iterator[str]:
    """Yield every class that plain data names, at every depth."""
    if isinstance(config, Mapping):
        if "class_path" in config:
            yield str(config["class_path"])
        config = list(config.values())
    if isinstance(config, list | tuple):
        for item in config:
            yield from class_paths(item)


SAMPLER = ("sample", "bounds", "mean", "describe")
"""What a class of mask-ratio samplers has."""


def imported_class(path: str) -> type:
    """Return the class that data names, out of the modules that this process has imported by itself.

    Data may come from somebody else: nothing is imported for it, and a class that is no sampler is not for it to call.

    Raises:
        UserError: the module is not imported (with what to do if it is trusted), or the class is not a sampler.
    """
    home, _, name = path.rpartition(".")
    if home not in sys.modules:
        raise UserError(
            f"{path!r} is not a built-in mask-ratio sampler, and data cannot import code; if you trust {home}, give "
            f"--trust {home} on the command line, or import it first in Python"
        )
    cls = vars(sys.modules[home]).get(name)  # not getattr: a module's own __getattr__ could import
    if not isinstance(cls, type) or not is_dataclass(cls) or not all(hasattr(cls, part) for part in SAMPLER):
        raise UserError(f"{path!r} is not a mask-ratio sampler: a dataclass with {', '.join(SAMPLER)} is needed")
    return cls
