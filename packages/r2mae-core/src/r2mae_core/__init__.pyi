from .comparison import ComparisonTable, compare, compare_runs
from .curriculum import CurriculumWeights, sinkhorn, weighted_mean
from .data_order import BatchOrder, ResumableLoader
from .errors import UserError
from .masked_module import MaskDraw, MaskedModule
from .masks import bernoulli_mask, exact_mask, nested_masks
from .records import Record, read_records, write_records
from .run_folder import RunFolder
from .sampler_config import sampler_from_config, sampler_to_config, scheme_name, short_name, with_seed
from .samplers import Curriculum, Fixed, Grid, LinearDecay, MaskRatioSampler, RatioSampler, Uniform
from .schemes import register_scheme, scheme, scheme_names
from .training import train

__all__ = [
    "BatchOrder",
    "ComparisonTable",
    "Curriculum",
    "CurriculumWeights",
    "Fixed",
    "Grid",
    "LinearDecay",
    "MaskDraw",
    "MaskRatioSampler",
    "MaskedModule",
    "RatioSampler",
    "Record",
    "ResumableLoader",
    "RunFolder",
    "Uniform",
    "UserError",
    "bernoulli_mask",
    "compare",
    "compare_runs",
    "exact_mask",
    "nested_masks",
    "read_records",
    "register_scheme",
    "sampler_from_config",
    "sampler_to_config",
    "scheme",
    "scheme_name",
    "scheme_names",
    "short_name",
    "sinkhorn",
    "train",
    "weighted_mean",
    "with_seed",
    "write_records",
]
__version__: str
