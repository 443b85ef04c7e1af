from .build import BuildReport, build_alignment
from .evaluate import evaluate_table
from .masking import MaskingConfig, mask_windows
from .model import AlignmentModel, ModelConfig, both_strands
from .pretrain import AlignmentPretraining
from .probe import probe_model
from .score import FrequencyScorer, ModelScorer, score_variants
from .store import AlignmentStore
from .weights import Pretrained, load_model, save_model
from .windows import WindowSet, make_windows

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
    "make_windows",
    "mask_windows",
    "probe_model",
    "save_model",
    "score_variants",
]
__version__: str
