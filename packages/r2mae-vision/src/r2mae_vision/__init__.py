"""Masked image models with any mask-ratio scheme. Names load on first use, so the import is quick."""

import importlib

_HOMES = {
    "ImageData": "data",
    "load_images": "data",
    "read_idx": "data",
    "MLPAutoencoder": "model",
    "Member": "pretrain",
    "pretrain": "pretrain",
    "pretrain_members": "pretrain",
    "effective_rank": "evaluate",
    "embed": "evaluate",
    "evaluate_members": "evaluate",
    "linear_probe": "evaluate",
    "masked_error": "evaluate",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
