"""Masked-language pretraining: what is special to text, and `pretrain` (paper, C.6)."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from r2mae_core import (
    HeldOutLoss,
    InOrder,
    Modality,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    StepOrder,
    Throughput,
    check_output,
    pasteable,
    run_pretraining,
    say,
    without_prefix,
)
from r2mae_text.budget import n_steps
from r2mae_text.data.shards import Corpus, TokenRows
from r2mae_text.evaluate import MAX_ROWS, held_out_loss
from r2mae_text.isolation import Isolation
from r2mae_text.masking import MaskingRule
from r2mae_text.model import has_masked_head, train_flops_per_token
from r2mae_text.module import MaskedLanguageModule
from r2mae_text.options import Pretrain
from r2mae_text.weights import model_digest, refuse_shape, save_model, start_model

VALIDATION_ROWS, VALIDATION_BATCH = 256, 32
"""Rows of the validations during training, and how many are computed at once; the one at the end takes more."""


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain and return the run folder: `model/` (transformers' format), metrics, results; see `run_pretraining`.

    Raises:
        UserError: data, model, scheme, budget or device do not fit, memory is full, or the run was interrupted.
    """
    return run_pretraining(TextPretraining, config)


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-text pretrain`."""
    run_pretraining(TextPretraining, config, talk=True)


class TextPretraining(Modality[Pretrain, Any]):
    """The pretraining of a transformers model on the rows of a corpus.

    Raises:
        UserError: the corpus or an option does not fit.
    """

    program = "r2mae-text"
    name = "text"
    unit = "tokens"
    # The masks and rows of a step do not depend on the first three. Data and weights are known by their content.
    free = ("micro_batch_size", "devices", "nodes", "data", "start")

    def __init__(self, config: Pretrain) -> None:
        super().__init__(config)
        refuse_shape(config)
        if config.out is not None:
            check_output(config.out, [config.data, config.start])
        self.corpus = Corpus.open(config.data)
        self.rows = self.corpus.rows("train", config.length)
        self.n_samples = len(self.rows)
        held_out = self.corpus.n_rows("validation", config.length) > 0
        self.held_out_rows = self.corpus.rows("validation", config.length) if held_out else None
        self.rule = MaskingRule.of(
            self.corpus.tokenizer,
            mask_share=config.mask_share,
            random_share=config.random_share,
            count=config.count,
            mask_shape=config.mask_shape,
            mean_span=config.mean_span,
        )

    @override
    def facts(self) -> dict[str, Any]:
        start = self.config.start
        return {"corpus": self.corpus.digest} | ({} if start is None else {"start_weights": model_digest(start)})

    @override
    def largest_micro_batch(self, device: str) -> int:
        return 256 if device == "cuda" else 16

    @override
    def build(self, sampler: RatioSampler) -> MaskedLanguageModule:
        config, model = self.config, start_model(self.config, self.corpus)
        if not has_masked_head(model):
            say(f"The head of {type(model).__name__} computes all tokens, not the hidden ones alone: a slower step.")
        return MaskedLanguageModule(
            model,
            sampler,
            self.rule,
            batch_size=config.batch_size,
            lr=config.lr if config.lr is not None else (3e-4 if config.model == "base" else 7e-4),
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            betas=config.betas,
            optimizer=config.optimizer,
            isolation=self._isolation(model),
            compile=config.compile,
            seed=config.seed,
            ratio_per=config.ratio_per,
            loss_weight=config.loss_weight,
        )

    def _isolation(self, model: Any) -> Isolation | None:
        config = self.config
        return Isolation.of(model, self.corpus.tokenizer, config.length) if config.isolate_documents else None

    @override
    def title(self, module: MaskedLanguageModule) -> str:
        return f"{self.config.start or self.config.model} on {self.config.data}"

    @override
    def loader(self, order: StepOrder, device: str) -> ResumableLoader:
        def fetch(indices: Any) -> Tensor:
            batch = _tensor(self.rows, indices)
            return batch.pin_memory() if device == "cuda" else batch  # sent without waiting

        return ResumableLoader(order, fetch)

    @override
    def held_out(self, micro_batch_size: int) -> InOrder | None:
        if (rows := self.held_out_rows) is None:
            return None
        return InOrder(range(min(len(rows), VALIDATION_ROWS)), VALIDATION_BATCH, lambda which: _tensor(rows, which))

    @override
    def n_steps(self, module: MaskedLanguageModule, order: StepOrder, device: str, run: RunFolder) -> int:
        return n_steps(self.config, run, module, self.rows, order, device)

    @override
    def flops(self, module: MaskedLanguageModule, mask_ratio: float) -> float:
        share = mask_ratio if has_masked_head(module.model) else 1.0
        return train_flops_per_token(module.model.config, self.config.length, share)

    @override
    def throughput(self, module: MaskedLanguageModule) -> Throughput:
        return TokenThroughput(self, module)

    @override
    def trained(self, state: dict[str, Tensor], run: RunFolder) -> Any:
        model = start_model(self.config, self.corpus)  # a plain one: the module's own may be divided over the ranks
        model.load_state_dict(without_prefix(state, "model."))
        return model

    @override
    def evaluate(self, model: Any, device: str) -> HeldOutLoss | None:
        if (rows := self.held_out_rows) is None:
            return None
        isolation = self._isolation(model.cpu())
        losses = held_out_loss(model.to(device), rows, self.rule, device=device, isolation=isolation)
        return HeldOutLoss(self.corpus.path.name, losses, min(len(rows), MAX_ROWS))

    @override
    def save(self, model: Any, folder: Path) -> None:
        save_model(model.cpu(), self.corpus.tokenizer, folder)

    @override
    def next_command(self, run: RunFolder) -> str:
        return f"r2mae-text finetune {pasteable(run.path)} --tasks '[movies]'"


class TokenThroughput(Throughput):
    """Logs tokens per second and in all, operations, and the loss of a model that ignores context."""

    def __init__(self, task: TextPretraining, module: MaskedLanguageModule) -> None:
        config, self.unigram_entropy = task.config, task.corpus.unigram_entropy
        tokens = config.batch_size * config.length
        super().__init__(tokens, task.unit, lambda ratio: task.flops(module, ratio), config.peak_tflops)

    @override
    def metrics(self, rate: float, steps: range, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        seen = float(trainer.global_step * self.samples_per_step)
        line = {"tokens": seen, "unigram_entropy": self.unigram_entropy}
        return {**super().metrics(rate, steps, trainer, pl_module), **line}


def _tensor(rows: TokenRows, which: Any) -> Tensor:
    """Return rows as (B, L) uint16."""
    return torch.from_numpy(rows[which])
