"""What a sweep compares: fixed ratios and ranges."""

from dataclasses import dataclass

from r2mae_core.ratio.protocol import RatioSampler
from r2mae_core.ratio.samplers import Fixed, Uniform
from r2mae_core.ratio.schemes import scheme


@dataclass(frozen=True)
class Arm:
    """A fixed ratio, or a range that the ratio is drawn from."""

    low: float
    """Smallest ratio."""
    high: float
    """Largest ratio; equal to `low` for a fixed one."""

    @property
    def name(self) -> str:
        """How it is called in tables and folders: "0.4" or "0.15-0.4"."""
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"

    def sampler(self, seed: int) -> RatioSampler:
        """Return the scheme."""
        return Fixed(self.low) if self.low == self.high else Uniform(self.low, self.high, seed)

    def as_option(self) -> str:
        """Return what `pretrain` takes for `--mask_ratio`."""
        if self.low == self.high:
            return f"--mask_ratio {self.low:g}"
        return f"--mask_ratio Uniform --mask_ratio.low {self.low:g} --mask_ratio.high {self.high:g}"


def paper_range(modality: str) -> Arm:
    """Return the range of R2MAE for a modality."""
    low, high = scheme("r2mae", modality).bounds(0)
    return Arm(low, high)


def usual_ratio(modality: str) -> Arm:
    """Return the fixed ratio that models of a modality usually have."""
    ratio = scheme("fixed", modality).mean(0)
    return Arm(ratio, ratio)


def arms_of(ratios: tuple[float, ...], ranges: tuple[tuple[float, float], ...] | None, modality: str) -> list[Arm]:
    """Return what to compare, in the order in which it is tried first: spread out, from coarse to fine.

    The modality's range and its usual ratio always belong to it, so that the answer can say what they lose.
    """
    default = paper_range(modality)
    wanted = [Arm(low, high) for low, high in ranges] if ranges is not None else [default, Arm(0.0, 1.0)]
    fixed = _coarse_to_fine(sorted({*ratios, usual_ratio(modality).low}))
    return list(dict.fromkeys([default, *(Arm(ratio, ratio) for ratio in fixed), *wanted]))


def _coarse_to_fine(values: list[float]) -> list[float]:
    """Return the middle value, then the middles of both halves, and so on."""
    found: list[float] = []
    parts = [values]
    while parts:
        found += [part[len(part) // 2] for part in parts]
        halves = [half for part in parts for half in (part[: len(part) // 2], part[len(part) // 2 + 1 :])]
        parts = [half for half in halves if half]
    return found
