"""Mask distributions: how the ratio of hidden features varies from row to row.

A row enters the regression with probability equal to its ratio (section 3.1), so the ratios *of the rows that entered*
have density r·f(r)/E[r]. All that the theory needs are expectations under that density, by quadrature.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2mae_theory.arguments import array, number, sequence, shown
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError

_NODES = 48


class MaskDistribution(ABC):
    """The distribution of a row's mask ratio."""

    @abstractmethod
    def quadrature(self) -> tuple[Floats, Floats]:
        """Return ratios and weights, each of shape (Q,), with Σ weights·g(ratios) = E[r·g(r)] for smooth g."""

    @abstractmethod
    def ratios(self, uniforms: Floats) -> Floats:
        """Return the ratio for each uniform number in [0, 1), same shape: the inverse distribution function."""

    @property
    @abstractmethod
    def upper(self) -> float:
        """The largest ratio that can occur."""

    @property
    def is_continuous_at_one(self) -> bool:
        """Whether ratios arbitrarily near 1, but below it, occur."""
        return False

    @property
    def mean(self) -> float:
        """E[r], the share of rows that enter the regression."""
        return float(self.quadrature()[1].sum())


def _ratio(name: str, value: Any) -> float:
    return number(name, value, least=0, most=1)


def _uniforms(values: Any) -> Floats:
    found = array("uniforms", values)
    if found.min() < 0 or found.max() >= 1:
        raise TheoryError(f"uniforms must lie in [0, 1), got values from {found.min():g} to {found.max():g}")
    return found


@dataclass(frozen=True)
class Fixed(MaskDistribution):
    """Every row has the same ratio."""

    ratio: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", _ratio("a mask ratio", self.ratio))

    def quadrature(self) -> tuple[Floats, Floats]:
        """See `MaskDistribution.quadrature`."""
        return np.array([self.ratio]), np.array([self.ratio])

    def ratios(self, uniforms: Floats) -> Floats:
        """See `MaskDistribution.ratios`."""
        return np.full(_uniforms(uniforms).shape, self.ratio)

    @property
    def upper(self) -> float:
        """The largest ratio."""
        return self.ratio


@dataclass(frozen=True)
class Uniform(MaskDistribution):
    """R2MAE: each row's ratio is uniform on [low, high]; `Uniform(0, 1)` is MDLM's."""

    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _ratio("the lower mask ratio", self.low))
        object.__setattr__(self, "high", _ratio("the upper mask ratio", self.high))
        if self.low > self.high:
            raise TheoryError(f"the range of mask ratios is reversed: {self.low} > {self.high}")

    def quadrature(self) -> tuple[Floats, Floats]:
        """See `MaskDistribution.quadrature`."""
        width = self.high - self.low
        if width == 0:
            return Fixed(self.low).quadrature()
        x, w = np.polynomial.legendre.leggauss(_NODES)
        visible_end = 1 - self.high
        if 0 < visible_end < width:
            # Integrands behave like 1/(1 − r) near 1; substituting log(1 − r) makes them smooth.
            lo, hi = np.log(visible_end), np.log(1 - self.low)
            visible = np.exp(lo + (hi - lo) * (x + 1) / 2)
            ratios, density = 1 - visible, w / 2 * (hi - lo) * visible / width
        else:
            ratios, density = self.low + width * (x + 1) / 2, w / 2
        return ratios, density * ratios

    def ratios(self, uniforms: Floats) -> Floats:
        """See `MaskDistribution.ratios`."""
        return self.low + (self.high - self.low) * _uniforms(uniforms)

    @property
    def upper(self) -> float:
        """The largest ratio."""
        return self.high

    @property
    def is_continuous_at_one(self) -> bool:
        """Whether ratios just below 1 occur."""
        return self.high == 1 and self.low < 1


@dataclass(frozen=True)
class Discrete(MaskDistribution):
    """A row's ratio is `values[k]` with probability proportional to `weights[k]` (equal weights by default)."""

    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        values = array("the ratios of a discrete distribution", sequence("the ratios", self.values), None)
        if values.min() < 0 or values.max() > 1:
            raise TheoryError(f"mask ratios must lie in [0, 1], got values from {values.min():g} to {values.max():g}")
        weights = np.ones(len(values))
        if self.weights is not None:
            weights = array("weights", sequence("weights", self.weights), None)
        if len(weights) != len(values):
            raise TheoryError(f"{len(values)} ratios but {len(weights)} weights")
        if weights.min() < 0 or not weights.any():
            raise TheoryError(f"weights must not be negative, nor all zero, got {shown(self.weights)}")
        object.__setattr__(self, "values", tuple(values.tolist()))
        object.__setattr__(self, "weights", tuple(weights.tolist()))

    @property
    def _probabilities(self) -> Floats:
        weights = np.array(self.weights, float)
        return weights / weights.sum()

    def quadrature(self) -> tuple[Floats, Floats]:
        """See `MaskDistribution.quadrature`."""
        values = np.array(self.values, float)
        return values, self._probabilities * values

    def ratios(self, uniforms: Floats) -> Floats:
        """See `MaskDistribution.ratios`."""
        edges = np.cumsum(self._probabilities)[:-1]
        return np.array(self.values)[np.searchsorted(edges, _uniforms(uniforms), side="right")]

    @property
    def upper(self) -> float:
        """The largest ratio."""
        return max(v for v, w in zip(self.values, self._probabilities, strict=True) if w > 0)


def scheme_name(mask: float | tuple[float, float]) -> str:
    """Return what tables call a ratio or a range: "fixed 0.3", "Uniform(0.2, 0.5)"."""
    return f"Uniform({mask[0]:g}, {mask[1]:g})" if isinstance(mask, tuple) else f"fixed {mask:g}"


def as_mask(mask: MaskDistribution | float | tuple[float, float]) -> MaskDistribution:
    """Turn a number into `Fixed` and a pair into `Uniform`; return a distribution unchanged.

    Raises:
        TheoryError: for anything else, and for ratios outside [0, 1].
    """
    if isinstance(mask, MaskDistribution):
        return mask
    if isinstance(mask, list | tuple) or (isinstance(mask, np.ndarray) and mask.ndim):
        if len(mask) != 2:
            raise TheoryError(f"a range of mask ratios is a pair (low, high), got {shown(mask)}")
        return Uniform(*mask)
    return Fixed(mask)


def as_masks(masks: Any) -> tuple[MaskDistribution, ...]:
    """Turn each of a list of masks into a distribution; see `as_mask`."""
    return tuple(as_mask(mask) for mask in sequence("masks", masks))
