"""Masked-language pretraining: the module for Lightning, and one function from options to a finished run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from r2mae_core import (
    Curriculum,
    MaskDraw,
    MaskedModule,
    MaskRatioSampler,
    RatioSampler,
    RunFolder,
    StepOrder,
    Throughput,
    UserError,
    decay_groups,
    device_name,
    fit,
    gathered_state,
    linear,
    micro_batch_size,
    open_run,
    operations_metrics,
    out_of_memory,
    precision,
    resolve_device,
    resolved,
    sampler_from_config,
    sampler_to_config,
    say,
)
from r2mae_text.budget import n_steps
from r2mae_text.data.loading import training_loader, validation_loader
from r2mae_text.data.shards import Corpus
from r2mae_text.evaluate import VALIDATION_RATIO, curve_records, shown_as_mask
from r2mae_text.masking import MaskedTokens, MaskingRule, mask_tokens
from r2mae_text.model import (
    SIZES,
    build_model,
    load_checkpoint,
    masked_lm_loss,
    train_flops_per_token,
    usable_positions,
)
from r2mae_text.options import Pretrain
from r2mae_text.weights import export_run


class MaskedLanguageModule(MaskedModule):
    """Lightning's view of a masked language model: hides tokens on the device and takes the loss there alone.

    Args:
        model: a transformers masked-LM model.
        mask_ratio: the scheme.
        rule: how tokens are hidden.
        batch_size: rows of an optimizer step, over all micro-batches and ranks.
        lr: peak learning rate of AdamW.
        warmup: share of the steps in which it rises; it then falls linearly to zero.
        weight_decay: on matrices.
        betas: AdamW's.
        compile: torch.compile the loss.
        seed: of masks and dropout.
        ratio_per: "step" or "micro_batch".
    """

    def __init__(
        self,
        model: Any,
        mask_ratio: MaskRatioSampler,
        rule: MaskingRule,
        *,
        batch_size: int,
        lr: float,
        warmup: float = 0.03,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        compile: bool = False,
        seed: int = 0,
        ratio_per: Any = "step",
    ) -> None:
        super().__init__(mask_ratio, seed=seed, ratio_per=ratio_per, validation_ratios=(VALIDATION_RATIO,))
        self.model, self.rule, self.batch_size = model, rule, batch_size
        self.lr, self.warmup, self.weight_decay, self.betas = lr, warmup, weight_decay, betas
        # The number of hidden tokens changes from step to step: compiled twice, the second time for any number.
        self._loss = torch.compile(masked_lm_loss) if compile else masked_lm_loss

    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        """Return the loss of a micro-batch, (B, L) integer ids.

        In training the noise belongs to the whole step: this micro-batch takes its own rows of it. In validation every
        hidden token is shown as <mask>.
        """
        masked = self.mask(batch, draw)
        loss = self._loss if self.training else masked_lm_loss  # validation's shapes are not worth compiling
        try:
            return loss(self.model, masked.inputs, masked.positions, masked.targets)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "--micro_batch_size: the result does not depend on it") from None

    def mask(self, batch: Tensor, draw: MaskDraw) -> MaskedTokens:
        """Return the micro-batch with its tokens hidden."""
        if not self.training:
            return mask_tokens(batch, draw.ratio, shown_as_mask(self.rule), generator=draw.generator)
        rows = (self._shard * len(batch), self.batch_size)
        return mask_tokens(batch, draw.ratio, self.rule, generator=draw.generator, rows=rows)

    def draw(self, batch_idx: int) -> MaskDraw:
        """Return ratio and the masks' generator, which depends on (seed, step) alone; seed dropout per shard."""
        self._shard = self.shard(batch_idx)
        draw = super().draw(batch_idx)
        return replace(draw, generator=self.generator_for(self.seed, "mask", self.global_step))

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule; biases and norms do not decay, as in transformers."""
        groups = decay_groups(self.model.named_parameters(), self.weight_decay)
        fused = self.device.type in ("cpu", "cuda", "mps")
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
        total = self.total_steps() or 1
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Speed(Throughput):
    """Logs tokens and operations per second, MFU where the device's peak is known, and the unigram line.

    Args:
        batch_size: rows of an optimizer step.
        length: tokens per row.
        peak_tflops: the device's peak; None: that of known GPUs.
        unigram_entropy: loss of a model that ignores context, nats.
    """

    def __init__(self, batch_size: int, length: int, peak_tflops: float | None, unigram_entropy: float) -> None:
        super().__init__(batch_size * length, unit="tokens")
        self.length, self.peak_tflops, self.unigram_entropy = length, peak_tflops, unigram_entropy

    @override
    def metrics(self, rate: float, steps: range, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        total = pl_module.total_steps()
        share = sum(pl_module.mask_ratio.mean(step, total) for step in steps) / len(steps)
        operations = rate * train_flops_per_token(pl_module.model.config, self.length, share)
        return {
            **super().metrics(rate, steps, trainer, pl_module),
            "tokens": float(trainer.global_step * self.samples_per_step),
            "unigram_entropy": self.unigram_entropy,
            **operations_metrics(operations, trainer, self.peak_tflops),
        }


def start_model(config: Pretrain, corpus: Corpus) -> Any:
    """Return the model that training starts from.

    Raises:
        UserError: the name is unknown, or a checkpoint's vocabulary or positions do not fit the corpus.
    """
    tokenizer, folder = corpus.tokenizer, Path(config.model)
    from transformers import CONFIG_MAPPING

    if config.model in SIZES or config.model in CONFIG_MAPPING:
        return build_model(
            config.model,
            tokenizer,
            length=config.length,
            seed=config.seed,
            model_args=config.model_args,
            dropout=config.dropout,
            pad_vocab_to=config.pad_vocab_to,
            position_start=config.position_start,
        )
    if config.model_args or config.pad_vocab_to != 1 or config.position_start != "default":
        raise UserError(
            f"{config.model} is not a size or model type, so a checkpoint, whose shape is given; leave out "
            "--model_args, --pad_vocab_to and --position_start"
        )
    if (folder / "model" / "config.json").exists():
        folder = folder / "model"  # a run folder
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    settings = {} if config.dropout is None else dict.fromkeys(rates, config.dropout)
    model = load_checkpoint(folder if folder.is_dir() else config.model, **settings)
    _check_fit(model, corpus, config, folder)
    return model.train()  # loaded models are in evaluation mode, without dropout


def _check_fit(model: Any, corpus: Corpus, config: Pretrain, folder: Path) -> None:
    from r2mae_text.tokenizer import digest, load_tokenizer

    if config.length > usable_positions(model.config):
        raise UserError(f"{config.model} has {usable_positions(model.config)} positions, fewer than --length")
    if model.config.vocab_size < len(corpus.tokenizer):
        raise UserError(
            f"{config.model} has {model.config.vocab_size:,} words but the corpus was prepared with "
            f"{len(corpus.tokenizer):,}; prepare it with --tokenizer {config.model}"
        )
    own = load_tokenizer(folder if folder.is_dir() else config.model)
    if digest(own) != digest(corpus.tokenizer):
        raise UserError(
            f"{config.model} was trained with another tokenizer than the corpus was prepared with: every id would mean "
            f"another word; prepare the corpus again with --tokenizer {folder if folder.is_dir() else config.model}"
        )


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain as the config says and return the run folder: `model/` (transformers' format), metrics, results.

    Goes on from the folder's last checkpoint if there is one.

    Raises:
        UserError: corpus, model, scheme, budget or device do not serve, memory is full, or the run was interrupted.
    """
    device, world_size = resolve_device(config.device), config.devices * config.nodes
    if config.compile and config.strategy == "fsdp":
        raise UserError("--compile and --strategy fsdp were not tested together; choose one")
    corpus, sampler = Corpus.open(config.corpus), sampler_of(config)
    rows = corpus.rows("train", config.length)
    micro = micro_batch_size(config.micro_batch_size, config.batch_size, world_size, largest_micro_batch(device))
    order = StepOrder(len(rows), config.batch_size, micro, config.seed)
    accumulate = order.micro_batches(world_size)
    settings = {**resolved(config), "mask_ratio": sampler_to_config(sampler)}
    free = ("micro_batch_size", "devices", "nodes")  # the masks and rows of a step do not depend on its division
    run = open_run("r2mae-text", "pretrain", config.out, settings, n_processes=world_size, free=free)
    if (run.path / "model" / "config.json").exists():
        return run
    module = build_module(config, corpus, sampler)
    steps = n_steps(config, run, module, rows, micro, accumulate, device)
    trainer = fit(
        module,
        training_loader(rows, order, device),
        run,
        max_steps=steps,
        device=device,
        devices=config.devices,
        strategy=config.strategy,
        num_nodes=config.nodes,
        precision=precision(config.precision, device),
        accumulate_grad_batches=accumulate,
        gradient_clip_val=config.clip,
        checkpoint_every=config.checkpoint_every or max(steps // 10, 1),
        validation_loader=validation_loader(corpus, config.length, device),
        validate_every=config.validate_every or max(steps // 10, 1),
        log_every=config.log_every,
        callbacks=[Speed(config.batch_size, config.length, config.peak_tflops, corpus.unigram_entropy)],
        progress=config.progress,
    )
    state = gathered_state(module)
    if trainer.is_global_zero:
        _finish(config, corpus, sampler, state, run, device)
    trainer.strategy.barrier()
    return run


def _finish(
    config: Pretrain, corpus: Corpus, sampler: RatioSampler, state: dict[str, Tensor], run: RunFolder, device: str
) -> None:
    """Judge and save the trained model: a plain one, because the module's own may be divided over the ranks."""
    model = start_model(config, corpus)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    model.to(device)
    run.write_results(curve_records(model, corpus, config.length, sampler, config.seed, device))
    export_run(model, corpus.tokenizer, run.path / "model")  # last: where it is, the run is done


def sampler_of(config: Pretrain) -> RatioSampler:
    """Return the sampler that the config names.

    Raises:
        UserError: there is none of that name, or it is one that text models cannot use.
    """
    sampler = sampler_from_config(config.mask_ratio, "text", config.seed)
    if isinstance(sampler, Curriculum):
        raise UserError("text models have no curriculum weights; choose another scheme than cl")
    return sampler


def largest_micro_batch(device: str) -> int:
    """Return how many rows a device computes at once, unless it is told."""
    return 256 if device == "cuda" else 16


def build_module(config: Pretrain, corpus: Corpus, sampler: Any) -> MaskedLanguageModule:
    """Return the module that the config describes, untrained."""
    try:
        rule = MaskingRule.of(
            corpus.tokenizer, mask_share=config.mask_share, random_share=config.random_share, count=config.count
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    return MaskedLanguageModule(
        start_model(config, corpus),
        sampler,
        rule,
        batch_size=config.batch_size,
        lr=config.lr if config.lr is not None else (3e-4 if config.model == "base" else 7e-4),
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        betas=config.betas,
        compile=config.compile,
        seed=config.seed,
        ratio_per=config.ratio_per,
    )


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-text pretrain`."""
    where = device_name(resolve_device(config.device))
    say(f"Pretraining {config.model} on {config.corpus}, ratio {sampler_of(config).describe()}, on {where}")
    run = pretrain(config)
    for record in run.results():
        if record.metric == f"loss@{VALIDATION_RATIO:g}":
            say(f"Validation loss at ratio {VALIDATION_RATIO:g}: {record.value:.4f} nats")
    say(f"Done: {run.path} (results.json, model/). Next: r2mae-text finetune {run.path} --tasks '[movies]'")
