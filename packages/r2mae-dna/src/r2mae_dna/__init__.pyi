from .data.build import BuildReport, build_alignment
from .data.store import AlignmentStore
from .data.windows import WindowSet, prepare
from .evaluate import evaluate_table
from .masking import MaskingConfig, mask_windows
from .model import AlignmentModel, ModelConfig, both_strands
from .pretrain import AlignmentPretraining
from .probe import probe_model
from .score import score_variants
from .scorers import FrequencyScorer, ModelScorer
from .weights import Pretrained, load_model, save_model

__all__ = [
    "AlignmentModel",
    "AlignmentPretraining",
    "AlignmentStore",
    "BuildReport",
    "FrequencyScorer",
    "MaskingConfig",
    "ModelConfig",
    "ModelScorer",
    "Pretrained",
    "WindowSet",
    "both_strands",
    "build_alignment",
    "evaluate_table",
    "load_model",
    "mask_windows",
    "prepare",
    "probe_model",
    "save_model",
    "score_variants",
]
__version__: str
