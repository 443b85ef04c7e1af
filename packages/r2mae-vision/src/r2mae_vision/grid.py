"""What the paper's figures share: their ratios, and the names of schemes read back."""

from collections.abc import Sequence

from r2mae_core import Fixed, RatioSampler, Uniform, UserError, scheme, scheme_name


def grid_samplers(ratios: Sequence[float], ranges: Sequence[tuple[float, float]]) -> dict[str, RatioSampler]:
    """Return name → sampler of every fixed ratio and every range of R2MAE.

    Raises:
        UserError: a ratio is not in [0, 1], or a range is reversed.
    """
    try:
        samplers = [*map(Fixed, ratios), *(Uniform(low, high) for low, high in ranges)]
    except ValueError as error:
        raise UserError(f"--ratios or --ranges: {error}") from None
    return {scheme_name(sampler, "vision"): sampler for sampler in samplers}


def fixed_ratio(name: str) -> float | None:
    """Return the ratio in a scheme's name such as "fixed 0.75" or "low 0.5"; None if it has no fixed one."""
    word, _, number = name.partition(" ")
    return float(number) if word in ("fixed", "low", "high") and number else None


def drawn_range(name: str) -> tuple[float, float]:
    """Return the bounds in a scheme's name such as "Uniform(0.1, 0.5)" or "r2mae"."""
    if name.startswith("Uniform("):
        low, high = map(float, name.removeprefix("Uniform(").removesuffix(")").split(", "))
        return low, high
    return scheme(name, "vision").bounds(0)
