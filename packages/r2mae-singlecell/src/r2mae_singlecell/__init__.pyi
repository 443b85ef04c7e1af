from .baselines import baseline_embedding, log_normalized
from .data.counts import CountMatrix
from .data.pbmc import load_pbmc
from .data.prepare import prepare_atlas
from .data.simulate import Simulation, simulate_atlas
from .divisions import Protocol, Task
from .likelihood import negative_binomial_nll
from .model import MaskedAutoencoder
from .probing import probe_embedding
from .r2mae import R2MAE
from .reconstruction import reconstruction_pearson

__all__ = [
    "R2MAE",
    "CountMatrix",
    "MaskedAutoencoder",
    "Protocol",
    "Simulation",
    "Task",
    "baseline_embedding",
    "load_pbmc",
    "log_normalized",
    "negative_binomial_nll",
    "prepare_atlas",
    "probe_embedding",
    "reconstruction_pearson",
    "simulate_atlas",
]
__version__: str
