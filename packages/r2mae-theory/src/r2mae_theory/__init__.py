"""The linear model behind mask-based pretraining: its exact risk for any covariance and any mask distribution."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from r2mae_theory import covariance
    from r2mae_theory.advice import Advice, advise
    from r2mae_theory.closed_form import isotropic_risk, spiked_risk, sweet_spot, transition_ratio
    from r2mae_theory.covariance import Covariance
    from r2mae_theory.data import read_table
    from r2mae_theory.errors import ConvergenceError, DataError, DivergentRiskError, TheoryError
    from r2mae_theory.masks import Discrete, Fixed, Uniform
    from r2mae_theory.optimum import Optimum, optimal_range, optimal_ratio
    from r2mae_theory.risk import Risk, RiskTable, predict_risk, risk_curve, risk_table
    from r2mae_theory.simulate import RiskEstimate, simulate_risk

_HOMES = {
    "Advice": "advice",
    "advise": "advice",
    "read_table": "data",
    "Covariance": "covariance",
    "isotropic_risk": "closed_form",
    "spiked_risk": "closed_form",
    "sweet_spot": "closed_form",
    "transition_ratio": "closed_form",
    "ConvergenceError": "errors",
    "DataError": "errors",
    "DivergentRiskError": "errors",
    "TheoryError": "errors",
    "Discrete": "masks",
    "Fixed": "masks",
    "Uniform": "masks",
    "Optimum": "optimum",
    "optimal_range": "optimum",
    "optimal_ratio": "optimum",
    "Risk": "risk",
    "RiskTable": "risk",
    "predict_risk": "risk",
    "risk_curve": "risk",
    "risk_table": "risk",
    "RiskEstimate": "simulate",
    "simulate_risk": "simulate",
}

__all__ = [
    "Advice",
    "ConvergenceError",
    "Covariance",
    "DataError",
    "Discrete",
    "DivergentRiskError",
    "Fixed",
    "Optimum",
    "Risk",
    "RiskEstimate",
    "RiskTable",
    "TheoryError",
    "Uniform",
    "advise",
    "covariance",
    "isotropic_risk",
    "optimal_range",
    "optimal_ratio",
    "predict_risk",
    "read_table",
    "risk_curve",
    "risk_table",
    "simulate_risk",
    "spiked_risk",
    "sweet_spot",
    "transition_ratio",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562), so that importing the package costs nothing."""
    if name == "covariance":
        return importlib.import_module("r2mae_theory.covariance")
    if name in _HOMES:
        return getattr(importlib.import_module(f"r2mae_theory.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
