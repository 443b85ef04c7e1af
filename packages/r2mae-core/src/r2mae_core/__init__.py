"""The ideas that every r2mae package shares: mask-ratio samplers, masks, curriculum weights, and the training seam.

Names load on first use, so `import r2mae_core` is quick: samplers and schemes need no torch, masks and weights need
torch, the training seam needs Lightning.
"""

import importlib

_HOMES = {
    "CurriculumWeights": "curriculum",
    "sinkhorn": "curriculum",
    "weighted_mean": "curriculum",
    "bernoulli_mask": "masks",
    "exact_mask": "masks",
    "Record": "records",
    "read_records": "records",
    "write_records": "records",
    "ComparisonTable": "compare",
    "compare": "compare",
    "RunFolder": "run_folder",
    "Curriculum": "samplers",
    "Fixed": "samplers",
    "Grid": "samplers",
    "LinearDecay": "samplers",
    "MaskRatioSampler": "samplers",
    "RatioSampler": "samplers",
    "Uniform": "samplers",
    "register_scheme": "schemes",
    "sampler_from_config": "schemes",
    "sampler_to_config": "samplers",
    "scheme": "schemes",
    "scheme_names": "schemes",
    "UserError": "errors",
    "MaskedModule": "training",
    "train": "training",
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
