"""Named mask schemes: the paper's, with its ratios per modality (section 4, C.5-C.8), the literature's, the user's."""

from collections.abc import Callable
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.ratio.densities import Arccos, Choice
from r2mae_core.ratio.protocol import RatioSampler
from r2mae_core.ratio.samplers import Curriculum, Fixed, Grid, Uniform
from r2mae_core.ratio.schedules import LinearDecay, Phases
from r2mae_core.ratio.truncated_normal import TruncatedNormal

Factory = Callable[..., RatioSampler]

_registry: dict[tuple[str, str | None], Factory] = {}
_modalities: dict[str, tuple[Any, ...]] = {}


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


_GENERAL: dict[str, Factory] = {
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


def register_modality(
    name: str,
    *,
    ratio: float,
    low: float,
    high: float,
    lowest: float | None = None,
    highest: float | None = None,
    dynamic_start: float | None = None,
    ramp: tuple[int, int] | None = None,
) -> None:
    """Give the schemes of the paper their ratios in a modality: `scheme("r2mae", name)` and its siblings.

    Args:
        name: of the modality.
        ratio: the fraction that models of its kind hide by default; "fixed".
        low: lower bound of R2MAE's range, and where "dynamic" ends.
        high: upper bound of R2MAE's range, and where "dynamic" starts.
        lowest: the fixed ratio of "low"; None: there is no such scheme.
        highest: the fixed ratio of "high"; None: that is `high`.
        dynamic_start: where the falling upper bound of "r2mae+dynamic" starts; None: `high`.
        ramp: steps between which the curriculum's multiplier falls; None: from the thaw to the end.

    Raises:
        ValueError: the modality is registered already with other ratios, or a ratio is not in [0, 1].
    """
    ratios = (ratio, low, high, lowest, highest, dynamic_start, ramp)
    if name in _modalities:
        if _modalities[name] != ratios:
            raise ValueError(f"the modality {name!r} is registered already, with other ratios")
        return
    spread = {"low": low, "high": high}
    presets: dict[str, dict[str, Any]] = {
        "fixed": {"ratio": ratio},
        "high": {"ratio": high if highest is None else highest},
        "mdlm": {},
        "dynamic": {"start": high, "end": low},
        "r2mae": spread,
        "r2mae+dynamic": {"low": low, "high": high if dynamic_start is None else dynamic_start},
        "cl": {"ratio": ratio, "ramp": ramp},
        "cl-k0": {"ratio": ratio, "ramp": ramp},
        "r2mae+cl": {**spread, "ramp": ramp},
        "r2mae+cl-k0": {**spread, "ramp": ramp},
    }
    if lowest is not None:
        presets["low"] = {"ratio": lowest}
    schemes = {key: _preset(factory, **presets[key]) for key, factory in _GENERAL.items() if key in presets}
    for factory in schemes.values():
        factory()  # a ratio out of range is refused here
    _modalities[name] = ratios
    _registry.update({(key, name): factory for key, factory in schemes.items()})


# The paper's hidden fractions (C.5 to C.8). The text models have no fixed ratio below the default; the upper bound of
# DNA's R2MAE + Dynamic starts at 0.55, so that its mean ratio equals Dynamic MR's.
register_modality("vision", ratio=0.75, lowest=0.5, highest=0.9, low=0.6, high=0.9)
register_modality("text", ratio=0.15, highest=0.4, low=0.15, high=0.4)
register_modality("dna", ratio=0.15, lowest=0.05, highest=0.3, low=0.05, high=0.3, dynamic_start=0.55)
register_modality("singlecell", ratio=0.25, lowest=0.1, highest=0.5, low=0.1, high=0.5, ramp=(30_000, 120_000))
for _name, _factory in _GENERAL.items():
    if _name not in ("low", "high"):  # these name nothing without a modality
        register_scheme(_name)(_factory)


@register_scheme("mmbert")
def mmbert() -> RatioSampler:
    """30 % hidden, then 15 %, then 5 %, over 2,000, 600 and 100 of 2,700 billion tokens.

    mmBERT (Marone et al., 2025, arXiv:2509.06888, section 3): pre-training, mid-training, decay. One ratio for a batch.
    """
    return Phases((0.3, 0.15, 0.05), (2000.0, 600.0, 100.0))


@register_scheme("ettin")
def ettin() -> RatioSampler:
    """30 % hidden, then 15 % in the decay, over 1,950 and 50 of 2,000 billion tokens.

    Ettin (Weller et al., 2025, arXiv:2507.11412), the training files of its encoders: 0.3 for 1.7 T tokens and for the
    250 B of the longer context, 0.15 for the last 50 B. One ratio for a batch.
    """
    return Phases((0.3, 0.15), (1950.0, 50.0))


@register_scheme("mage")
def mage(seed: int = 0) -> RatioSampler:
    """A normal of mean 0.55 and deviation 0.25, cut to [0.5, 1].

    MAGE (Li et al., 2023, arXiv:2211.09117, section 4.1). One ratio for a batch.
    """
    return TruncatedNormal(0.55, 0.25, 0.5, 1.0, seed)


@register_scheme("maskgit")
def maskgit(seed: int = 0) -> RatioSampler:
    """cos(π/2 · u) of a uniform u, for each sample.

    MaskGIT (Chang et al., 2022, arXiv:2202.04200, section 3.3) and Muse. As published with `ratio_per="sample"`.
    """
    return Arccos(0.0, 1.0, seed)


@register_scheme("moirai")
def moirai(seed: int = 0) -> RatioSampler:
    """Uniform from 0.15 to 0.5, for each sample.

    Moirai (Woo et al., 2024, arXiv:2402.02592, section 3.2). As published with `ratio_per="sample"`.
    """
    return Uniform(0.15, 0.5, seed)


@register_scheme("scgpt")
def scgpt(seed: int = 0) -> RatioSampler:
    """25, 50 or 75 % hidden, equally likely.

    scGPT (Cui et al., 2024, Nature Methods 21, methods: generative pretraining), which draws for a batch.
    """
    return Choice((0.25, 0.5, 0.75), seed=seed)


@register_scheme("llada")
def llada(eps: float = 1e-3, seed: int = 0) -> RatioSampler:
    """(1 - ε) t + ε with t uniform on [0, 1], for each sample, and a loss divided by it.

    LLaDA (Nie et al., 2025, arXiv:2502.09992, algorithm 1). As published with `ratio_per="sample"` and
    `loss_weight="inverse_ratio"`; its masks hide every token by itself (`bernoulli_mask`).
    """
    return Uniform(eps, 1.0, seed)
