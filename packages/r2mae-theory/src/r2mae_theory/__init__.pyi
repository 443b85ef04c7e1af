from . import covariance
from .advice import Advice, advise
from .closed_form import isotropic_risk, spiked_risk, sweet_spot, transition_ratio
from .density import OptimalDensity, Sampled, optimal_density, optimal_family
from .epochs import equivalent_ratio
from .errors import ConvergenceError, DataError, DivergentRiskError, TheoryError
from .files import read_table
from .masks import Coupled, Discrete, Fixed, Thinned, Uniform
from .optimum import Optimum, optimal_range, optimal_ratio
from .probe_advice import ProbeAdvice, advise_probe
from .probe_risk import ProbeCurve, probe_curve
from .representations import Covariance
from .risk import Risk, RiskTable, predict_risk, risk_curve, risk_table
from .simulate import RiskEstimate, simulate_risk

__all__ = [
    "Advice",
    "ConvergenceError",
    "Coupled",
    "Covariance",
    "DataError",
    "Discrete",
    "DivergentRiskError",
    "Fixed",
    "OptimalDensity",
    "Optimum",
    "ProbeAdvice",
    "ProbeCurve",
    "Risk",
    "RiskEstimate",
    "RiskTable",
    "Sampled",
    "TheoryError",
    "Thinned",
    "Uniform",
    "advise",
    "advise_probe",
    "covariance",
    "equivalent_ratio",
    "isotropic_risk",
    "optimal_density",
    "optimal_family",
    "optimal_range",
    "optimal_ratio",
    "predict_risk",
    "probe_curve",
    "read_table",
    "risk_curve",
    "risk_table",
    "simulate_risk",
    "spiked_risk",
    "sweet_spot",
    "transition_ratio",
]
__version__: str
