"""The ideas that every r2mae package shares: mask-ratio samplers, masks, curriculum weights, and pretraining.

Names load on first use (`__init__.pyi` says from where), so `import r2mae_core` is quick: samplers, schemes and
`numpy_masks` need numpy alone, masks and weights need torch, training needs Lightning.
"""

import functools
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_EXTRAS = {"mask": "torch", "train": "train", "sweep": "train"}
"""The extra that a folder needs; what is in no other needs the command line's."""


@functools.cache
def _homes() -> dict[str, tuple[str, str]]:
    """Return public name → (module, name there), as the stub lists them."""
    import ast

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = (node for node in stub.body if isinstance(node, ast.ImportFrom))
    return {alias.name: (node.module or "", alias.name) for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _homes()[name]
    try:
        module = import_module(f"{__name__}.{home}")
        # A submodule that is public itself is imported by its own name.
        value = getattr(module, attribute) if hasattr(module, attribute) else import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing in ("", __name__):
            raise
        extra = _EXTRAS.get(home.partition(".")[0], "cli")
        raise ModuleNotFoundError(
            f"r2mae_core.{name} needs {missing}: pip install 'r2mae-core[{extra}]'", name=error.name
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_homes()]
