"""The schemes of a figure's grid: every fixed ratio and every range."""

from r2mae_core import Fixed, RatioSampler, Uniform, UserError
from r2mae_vision.options import Reproduce


def grid_samplers(config: Reproduce) -> dict[str, RatioSampler]:
    """Return name → sampler of every fixed ratio and every range of R2MAE.

    Raises:
        UserError: a ratio is not in [0, 1], or a range is reversed.
    """
    try:
        samplers: dict[str, RatioSampler] = {f"fixed {ratio:g}": Fixed(ratio) for ratio in config.ratios}
        return samplers | {f"U({low:g}, {high:g})": Uniform(low, high) for low, high in config.ranges}
    except ValueError as error:
        raise UserError(f"--ratios or --ranges: {error}") from None
