"""Masked-language pretraining: the module for Lightning, and one function from options to a finished run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r2mae_core import MaskDraw, MaskRatioSampler, ResumableLoader, RunFolder, UserError, sampler_from_config
from r2mae_core.commands import resolved, say
from r2mae_core.data_order import StepOrder
from r2mae_core.devices import device_name, out_of_memory, precision, resolve_device
from r2mae_core.masked_module import MaskedModule
from r2mae_core.run_folder import default_run_path
from r2mae_core.sampler_config import sampler_to_config
from r2mae_core.samplers import Curriculum
from r2mae_core.training import train
from r2mae_text.budget import n_steps
from r2mae_text.callbacks import Speed, Validation
from r2mae_text.data.shards import Corpus, TokenRows
from r2mae_text.evaluate import curve_records
from r2mae_text.export import export_run
from r2mae_text.masking import MaskedTokens, MaskingRule, mask_tokens
from r2mae_text.model import SIZES, build_model, load_checkpoint, masked_lm_loss, usable_positions
from r2mae_text.options import Pretrain


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
        super().__init__(mask_ratio, seed=seed, ratio_per=ratio_per)
        self.model, self.rule, self.batch_size = model, rule, batch_size
        self.lr, self.warmup, self.weight_decay, self.betas = lr, warmup, weight_decay, betas
        # The number of hidden tokens changes from step to step: compiled twice, the second time for any number.
        self._loss = torch.compile(masked_lm_loss) if compile else masked_lm_loss

    def masked_loss(self, batch: Tensor, draw: MaskDraw) -> Tensor:
        """Return the loss of a micro-batch, (B, L) integer ids.

        In training the noise belongs to the whole step: this micro-batch takes its own rows of it.
        """
        masked = self.mask(batch, draw)
        try:
            return self._loss(self.model, masked.inputs, masked.positions, masked.targets)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "--micro_batch_size: the result does not depend on it") from None

    def mask(self, batch: Tensor, draw: MaskDraw) -> MaskedTokens:
        """Return the micro-batch with its tokens hidden."""
        first = self._shard * len(batch) if self.training else 0
        rows = (first, self.batch_size) if self.training else None
        return mask_tokens(batch, draw.ratio, self.rule, generator=draw.generator, rows=rows)

    def draw(self, batch_idx: int) -> MaskDraw:
        """Return ratio and the masks' generator, which depends on (seed, step) alone; seed dropout per shard."""
        self._shard = self.shard(batch_idx)
        draw = super().draw(batch_idx)
        return replace(draw, generator=self.generator_for(self.seed, "mask", self.global_step))

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule; biases and norms do not decay, as in transformers."""
        groups = [{"params": [], "weight_decay": self.weight_decay}, {"params": [], "weight_decay": 0.0}]
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                groups[parameter.ndim < 2]["params"].append(parameter)
        fused = self.device.type in ("cpu", "cuda", "mps")
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
        total = self.total_steps() or 1
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def linear(step: int, total: int, warmup: float) -> float:
    """Return the factor on the learning rate: up over the first `warmup` share of steps, then down to zero."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(total - step, 0) / max(total - rising, 1)


def micro_batch_size(config: Pretrain, device: str) -> int:
    """Return the rows that one device computes at once: what was asked for, or what divides the batch."""
    world = config.devices * config.nodes
    if config.micro_batch_size is not None:
        return config.micro_batch_size
    largest = min(256 if device == "cuda" else 16, max(config.batch_size // world, 1))
    return next(size for size in range(largest, 0, -1) if config.batch_size % (size * world) == 0 or size == 1)


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


def pretrain_model(config: Pretrain) -> RunFolder:
    """Pretrain as the config says and return the run folder: `model/` (transformers' format), metrics, results.

    Goes on from the folder's last checkpoint if there is one.

    Raises:
        UserError: corpus, model, scheme, budget or device do not serve, memory is full, or the run was interrupted.
    """
    device = resolve_device(config.device)
    if config.devices * config.nodes > 1 and config.out is None:
        raise UserError("several devices need --out DIR: each of their processes must know the same run folder")
    corpus = Corpus.open(config.corpus)
    sampler = sampler_from_config(config.mask_ratio, "text", config.seed)
    if isinstance(sampler, Curriculum):
        raise UserError("text models have no curriculum weights; choose another scheme than cl")
    rows = corpus.rows("train", config.length)
    micro = micro_batch_size(config, device)
    order = StepOrder(len(rows), config.batch_size, micro, config.seed)
    accumulate = order.micro_batches(config.devices * config.nodes)
    settings = {key: value for key, value in resolved(config).items() if key not in _FREE}
    run = RunFolder(
        config.out or default_run_path("r2mae-text", "pretrain"), {**settings, "mask_ratio": sampler_to_config(sampler)}
    )
    if (run.path / "model" / "config.json").exists() and run.results():
        return run
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    module = build_module(config, corpus, sampler)
    steps = n_steps(config, run, module, rows, micro, accumulate, device)
    train(
        module,
        ResumableLoader(order, fetcher(rows, device)),  # pyright: ignore[reportArgumentType]
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
        log_every=config.log_every,
        callbacks=[
            Speed(config.batch_size, config.length, config.peak_tflops, corpus.unigram_entropy),
            Validation(corpus, config.length, config.validate_every or max(steps // 10, 1)),
        ],
        progress=config.progress,
    )
    if module.global_rank == 0:
        module.to(device)
        run.write_results(curve_records(module.model, corpus, config.length, sampler, config.seed, device))
        export_run(module.model, corpus.tokenizer, run.path / "model")
    return run


_FREE = ("micro_batch_size", "devices", "nodes", "strategy", "compile", "log_every", "peak_tflops", "checkpoint_every")
"""Options that a run may change when it goes on: none changes which masks and rows a step has."""


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


def fetcher(rows: TokenRows, device: str) -> Any:
    """Return what turns indices into a batch: 16-bit ids, pinned and sent without waiting where there is a GPU."""

    def fetch(indices: Any) -> Tensor:
        batch = torch.from_numpy(rows[indices])
        return batch.pin_memory() if device == "cuda" else batch

    return fetch


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-text pretrain`."""
    device = resolve_device(config.device)
    sampler = sampler_from_config(config.mask_ratio, "text", config.seed)
    say(f"Pretraining {config.model} on {config.corpus}, ratio {sampler.describe()}, on {device_name(device)}")
    run = pretrain_model(config)
    for record in run.results():
        if record.metric == "mlm_loss@0.15":
            say(f"Validation loss at ratio 0.15: {record.value:.4f} nats")
    say(f"Done: {run.path} (model/, metrics.csv). Next: r2mae-text finetune {run.path} --tasks '[movies]'")
