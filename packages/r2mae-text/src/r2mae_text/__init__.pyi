from .collator import R2MAECollator
from .data.glue import TASKS, Task
from .data.shards import Corpus, TokenRows
from .evaluate import held_out_loss
from .masking import MaskedTokens, mask_tokens
from .model import build_model, masked_lm_loss, train_flops_per_token
from .module import MaskedLanguageModule
from .tokenizer import gpt2_tokenizer, load_tokenizer, train_tokenizer
from .trainer import R2MAETrainer
from .tuning import finetune_task
from .weights import export_run, load_pretrained

__all__ = [
    "TASKS",
    "Corpus",
    "MaskedLanguageModule",
    "MaskedTokens",
    "R2MAECollator",
    "R2MAETrainer",
    "Task",
    "TokenRows",
    "build_model",
    "export_run",
    "finetune_task",
    "gpt2_tokenizer",
    "held_out_loss",
    "load_pretrained",
    "load_tokenizer",
    "mask_tokens",
    "masked_lm_loss",
    "train_flops_per_token",
    "train_tokenizer",
]
__version__: str
