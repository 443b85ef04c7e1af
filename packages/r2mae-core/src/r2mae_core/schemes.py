"""Named mask schemes: the paper's table of ratios per modality, and the user's own (paper, section 4 and C.5-C.8)."""

from collections.abc import Callable
from typing import Any

from r2mae_core.errors import UserError
from r2mae_core.samplers import (
    Curriculum,
    Fixed,
    Grid,
    LinearDecay,
    RatioSampler,
    Uniform,
)

Factory = Callable[..., RatioSampler]

# Hidden fractions of the paper: the default, the lowest and the highest fixed ratio, and the range of R2MAE.
# The text models have no fixed ratio below the default.
_PAPER: dict[str, dict[str, float]] = {
    "vision": {"ratio": 0.75, "lowest": 0.5, "highest": 0.9, "low": 0.6, "high": 0.9},
    "text": {"ratio": 0.15, "highest": 0.4, "low": 0.15, "high": 0.4},
    "dna": {"ratio": 0.15, "lowest": 0.05, "highest": 0.3, "low": 0.05, "high": 0.3},
    "singlecell": {"ratio": 0.25, "lowest": 0.1, "highest": 0.5, "low": 0.1, "high": 0.5},
}
# R2MAE + Dynamic: where the falling upper bound starts. DNA starts at 0.55 so that the mean equals Dynamic MR's.
_DYNAMIC_START = {"dna": 0.55, "singlecell": 0.5}
# Steps between which the curriculum's multiplier falls; DNA: over the whole training.
_CURRICULUM_RAMP: dict[str, tuple[int, int] | None] = {"dna": None, "singlecell": (30_000, 120_000)}

_registry: dict[tuple[str, str | None], Factory] = {}


def register_scheme(name: str, modality: str | None = None) -> Callable[[Factory], Factory]:
    """Register a function that builds a sampler under a name, for one modality or for all.

    Args:
        name: what users write, as in `scheme("mine")` or `--mask_ratio mine`.
        modality: "vision", "text", "dna", "singlecell", a name of your own, or None for every modality.

    Raises:
        ValueError: the name is taken.
    """

    def register(factory: Factory) -> Factory:
        if (name, modality) in _registry:
            raise ValueError(f"a scheme {name!r} exists already for {modality or 'every modality'}")
        _registry[name, modality] = factory
        return factory

    return register


def scheme_names(modality: str | None = None) -> list[str]:
    """Return the schemes known for a modality, the paper's first, in the order of its tables."""
    return list(dict.fromkeys(name for name, home in _registry if home in (modality, None)))


def scheme(name: str, modality: str | None = None, **overrides: Any) -> RatioSampler:
    """Build a named scheme.

    Args:
        name: one of `scheme_names(modality)`.
        modality: where the paper's ratios come from; without it the scheme's ratios must be given.
        **overrides: arguments of the scheme, such as `low`, `high`, `ratio`, `start`, `end`, `seed`.

    Raises:
        UserError: the scheme is unknown, or an argument is missing, unknown or out of range.

    Example:
        >>> scheme("r2mae", modality="dna")
        Uniform(low=0.05, high=0.3, seed=0)
        >>> scheme("r2mae", modality="dna", high=0.5, seed=7)
        Uniform(low=0.05, high=0.5, seed=7)
    """
    factory = _registry.get((name, modality)) or _registry.get((name, None))
    if factory is None:
        where = f" for {modality}" if modality else ""
        raise UserError(f"unknown mask scheme {name!r}{where}; known: {', '.join(scheme_names(modality))}")
    try:
        return factory(**overrides)
    except (TypeError, ValueError) as error:
        reason = str(error).split("() ")[-1]
        raise UserError(f"mask scheme {name!r}: {reason}") from None


def _fixed(ratio: float) -> RatioSampler:
    return Fixed(ratio)


def _mdlm(seed: int = 0) -> RatioSampler:
    return Uniform(0.0, 1.0, seed)


def _dynamic(start: float, end: float, stages: int | None = None) -> RatioSampler:
    return LinearDecay(start, end, stages)


def _r2mae(low: float, high: float, seed: int = 0) -> RatioSampler:
    return Uniform(low, high, seed)


def _r2mae_dynamic(low: float, high: float, seed: int = 0) -> RatioSampler:
    return Uniform(low, LinearDecay(high, low), seed)


def _cl(
    ratio: float,
    n_columns: int = 10,
    k0: bool = False,
    freeze_steps: int = 5000,
    ramp: tuple[int, int] | None = None,
) -> RatioSampler:
    return Curriculum(Fixed(ratio), n_columns, k0, freeze_steps, ramp)


def _r2mae_cl(
    low: float,
    high: float,
    n_columns: int = 10,
    k0: bool = False,
    freeze_steps: int = 5000,
    ramp: tuple[int, int] | None = None,
    seed: int = 0,
) -> RatioSampler:
    return Curriculum(Grid.spaced(low, high, n_columns, seed), n_columns, k0, freeze_steps, ramp)


def _preset(factory: Factory, **defaults: Any) -> Factory:
    def build(**overrides: Any) -> RatioSampler:
        return factory(**{**defaults, **overrides})

    return build


def _register_paper_schemes() -> None:
    general = {
        "fixed": _fixed,
        "low": _fixed,
        "high": _fixed,
        "mdlm": _mdlm,
        "dynamic": _dynamic,
        "r2mae": _r2mae,
        "r2mae+dynamic": _r2mae_dynamic,
        "cl": _cl,
        "cl-k0": _preset(_cl, k0=True),
        "r2mae+cl": _r2mae_cl,
        "r2mae+cl-k0": _preset(_r2mae_cl, k0=True),
    }
    for modality, ratios in _PAPER.items():
        spread = {"low": ratios["low"], "high": ratios["high"]}
        ramp = {"ramp": _CURRICULUM_RAMP.get(modality)}
        presets: dict[str, dict[str, Any]] = {
            "fixed": {"ratio": ratios["ratio"]},
            "high": {"ratio": ratios["highest"]},
            "mdlm": {},
            "dynamic": {"start": ratios["high"], "end": ratios["low"]},
            "r2mae": spread,
            "r2mae+dynamic": {**spread, "high": _DYNAMIC_START.get(modality, ratios["high"])},
            "cl": {"ratio": ratios["ratio"], **ramp},
            "cl-k0": {"ratio": ratios["ratio"], **ramp},
            "r2mae+cl": {**spread, **ramp},
            "r2mae+cl-k0": {**spread, **ramp},
        }
        if "lowest" in ratios:
            presets["low"] = {"ratio": ratios["lowest"]}
        for name, factory in general.items():
            if name in presets:
                register_scheme(name, modality)(_preset(factory, **presets[name]))
    for name, factory in general.items():
        if name not in ("low", "high"):  # these name nothing without a modality
            register_scheme(name)(factory)


_register_paper_schemes()
