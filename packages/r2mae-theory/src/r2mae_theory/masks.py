"""Mask distributions: how the ratio of hidden features varies from row to row.

A row enters the regression with probability equal to its ratio (section 3.1), so the ratios *of the rows that entered*
have density r·f(r)/E[r]. All that the theory needs are expectations under that density, by quadrature. `Coupled` and
`Thinned` let rows enter by other rules, and so have other densities.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2mae_theory.arguments import array, number, sequence, shown
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError

_NODES = 48


class MaskDistribution(ABC):
    """The distribution of a row's mask ratio."""

    @abstractmethod
    def quadrature(self) -> tuple[Floats, Floats]:
        """Return ratios and weights, each of shape (Q,), with Σ weights·g(ratios) = E[g(r); the row enters], g smooth.

        Where a row enters with probability r that is E[r·g(r)].
        """

    @abstractmethod
    def ratios(self, uniforms: Floats) -> Floats:
        """Return the ratio for each uniform number in [0, 1), same shape: the inverse distribution function."""

    def drawn(self, n: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """Draw n rows and return their ratios, and which of them enter the regression."""
        ratios = self.ratios(rng.random(n))
        return ratios, rng.random(n) < ratios

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
        """The share of rows that enter the regression: E[r] where a row enters with probability r."""
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


@dataclass(frozen=True)
class Coupled(MaskDistribution):
    """R2MAE where one number u ~ U(0, 1) draws a row's ratio r = low + (high − low)·u *and* lets it enter, if u < r.

    The second protocol of tables 5 and 9: what comes out where two random generators are seeded alike. Rows enter up to
    u* = low / (1 − (high − low)), so their ratios are uniform on [low, u*] and there are n·u* of them: more rows, at a
    lower ratio, than under `Uniform`, whose rows enter independently.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        checked = Uniform(self.low, self.high)
        object.__setattr__(self, "low", checked.low)
        object.__setattr__(self, "high", checked.high)

    @property
    def share(self) -> float:
        """u*, the share of rows that enter; it is also the largest ratio among them."""
        visible = 1 - (self.high - self.low)
        return min(self.low / visible, 1.0) if visible > 0 else 0.0

    def quadrature(self) -> tuple[Floats, Floats]:
        """See `MaskDistribution.quadrature`."""
        if self.share <= self.low:  # no width, or no row
            return np.array([self.low]), np.array([self.share])
        ratios, weights = Uniform(self.low, self.share).quadrature()
        return ratios, weights / ratios * self.share

    def ratios(self, uniforms: Floats) -> Floats:
        """See `MaskDistribution.ratios`."""
        return Uniform(self.low, self.high).ratios(uniforms)

    def drawn(self, n: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """See `MaskDistribution.drawn`; without width it draws the same rows as `Fixed` from the same generator."""
        rng.random(n)
        uniforms = rng.random(n)
        ratios = self.ratios(uniforms)
        return ratios, uniforms < ratios

    @property
    def upper(self) -> float:
        """The largest ratio."""
        return self.high

    @property
    def is_continuous_at_one(self) -> bool:
        """Whether ratios just below 1 enter."""
        return self.share == 1 and self.low < 1

    def control(self) -> "Thinned":
        """Return one fixed ratio, the mean of the rows that enter here, on as many rows: all but the randomness."""
        ratios, weights = self.quadrature()
        return Thinned(float(ratios @ weights / weights.sum()) if self.share > 0 else self.low, self.share)


@dataclass(frozen=True)
class Thinned(MaskDistribution):
    """Every row has the same ratio, and enters with probability `share` instead."""

    ratio: float
    share: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", _ratio("a mask ratio", self.ratio))
        object.__setattr__(self, "share", number("the share of rows", self.share, least=0, most=1))

    def quadrature(self) -> tuple[Floats, Floats]:
        """See `MaskDistribution.quadrature`."""
        return np.array([self.ratio]), np.array([self.share])

    def ratios(self, uniforms: Floats) -> Floats:
        """See `MaskDistribution.ratios`."""
        return np.full(_uniforms(uniforms).shape, self.ratio)

    def drawn(self, n: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """See `MaskDistribution.drawn`; the same generator lets in the same rows as for a `Coupled` of its share."""
        rng.random(n)
        return np.full(n, self.ratio), rng.random(n) < self.share

    @property
    def upper(self) -> float:
        """The largest ratio."""
        return self.ratio


def scheme_name(mask: "float | tuple[float, float] | MaskDistribution") -> str:
    """Return what tables call a ratio or a range: "fixed 0.3", "Uniform(0.2, 0.5)", "Coupled(0.2, 0.5)"."""
    if isinstance(mask, Coupled | Uniform):
        return f"{type(mask).__name__}({mask.low:g}, {mask.high:g})"
    if isinstance(mask, MaskDistribution):
        return str(mask)
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
