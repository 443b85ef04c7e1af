"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r2mae_core import Device, Precision, PretrainOptions, RatioSampler, RunOptions


@dataclass(frozen=True)
class Prepare:
    """Turn text into shards of token ids, once."""

    sources: tuple[Path, ...]
    """Files or folders (.txt, .md, .jsonl, .parquet, GPT-2 token shards .bin), sotu, or hub:OWNER/NAME:CONFIG:SPLIT."""
    tokenizer: str = "train"
    """train (byte-level BPE, trained here), gpt2 (from the demo extra), a local folder, or a name on the hub."""
    vocab_size: int = 8192
    """Size of a tokenizer that is trained here."""
    document: Literal["file", "line"] = "file"
    """What a document is in a plain text file."""
    text_field: str = "text"
    """Field or column of the text in .jsonl, .parquet and hub data sets."""
    validation_share: float = 0.01
    """Share of documents held out. The text of a document decides its side, so duplicates fall on one side."""
    max_tokens: int | None = None
    """Stop taking further pieces of input once this many tokens have been written."""
    workers: int | None = None
    """Processes; default one per core."""
    out: Path | None = None
    """Folder of the shards; default runs/r2mae-text-prepare-TIME. An interrupted run resumes there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(PretrainOptions):
    """Pretrain a masked language model (paper, C.6). The defaults are the paper's for RoBERTa-medium."""

    data: Path = field(kw_only=False)
    """Folder that prepare wrote."""
    length: int = 128
    """Tokens of a row, <s> included. Rows run across documents."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, high, mdlm, dynamic, r2mae, r2mae+dynamic), a number, or a sampler."""
    ratio_per: Literal["step", "micro_batch"] = "step"
    """Draw the ratio once per optimizer step, or for each micro-batch."""
    mask_share: float = 0.8
    """Share of hidden tokens shown as <mask>; BERT's rule, because the paper does not state it."""
    random_share: float = 0.1
    """Share of hidden tokens shown as a random token; the rest is shown unchanged."""
    count: Literal["exact", "bernoulli"] = "exact"
    """exact: the same number of hidden tokens in every row; bernoulli: each token independently, as in transformers."""
    model: str = "medium"
    """tiny, small, medium, base, or a transformers model type such as bert."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Changes to the model's transformers config, such as {"layer_norm_eps": 1e-12}."""
    position_start: Literal["default", "sinusoidal"] = "default"
    """Initial values of learned position embeddings: the model's own, or sinusoids of the same size."""
    pad_vocab_to: int = 1
    """Round the vocabulary up to a multiple, for speed on a GPU (64); the saved model has no padding."""
    start: str | None = None
    """Weights to start from instead of a new model: run folder of pretrain, checkpoint folder, or hub name."""
    dropout: float | None = None
    """Dropout of hidden states and attention; default the model's own (0.1 in RoBERTa)."""
    steps: int | None = None
    """Length of the training in optimizer steps. Give one of steps, tokens and minutes; default 10e9 tokens."""
    tokens: float | None = None
    """Length of the training in tokens, such as 10e9."""
    minutes: float | None = None
    """Length in minutes on this machine: a few steps are timed once, and the budget becomes a number of steps."""
    batch_size: int = 2048
    """Samples (rows) of an optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 16 on a CPU and 256 on
    a GPU. Without dropout the result does not depend on it."""
    lr: float | None = None
    """Peak learning rate; default 3e-4 for base (the paper's), 7e-4 otherwise (the paper's for medium)."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises; it then falls linearly to zero."""
    weight_decay: float = 0.01
    """AdamW's, on matrices; not on biases and norms, as in transformers."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's; transformers' default, because the paper does not state them."""
    clip: float | None = 1.0
    """Largest gradient norm; transformers' default, because the paper does not state it. null: no clipping."""


@dataclass(frozen=True)
class Finetune(RunOptions):
    """Fine-tune on GLUE or on tasks in GLUE's layouts (paper, C.6). Finished (task, seed) pairs are not done again."""

    model: str
    """Run folder of pretrain, checkpoint folder, hub name, or scratch:RUN for the same architecture, newly
    initialised."""
    tasks: tuple[str, ...] = ("mnli", "qqp", "sst2", "qnli")
    """Tasks of GLUE, movies (bundled), or tasks of your own: folders in data, with the columns given below."""
    data: str = "hub"
    """Folder with TASK/train.* and TASK/validation.* (.parquet, .tsv, .jsonl) or GLUE's own zip layout; or hub."""
    text_columns: tuple[str, ...] = ()
    """Columns of the text (one) or texts (two) of tasks that are not GLUE's."""
    max_length: int = 128
    """Tokens of an example; longer ones are cut (pairs: the longer text first)."""
    max_train: int | None = None
    """Use only this many training examples, drawn by the seed."""
    epochs: int = 5
    """Passes over the training set."""
    batch_size: int = 32
    """Examples of a step."""
    lr: float = 2e-5
    """Peak learning rate; it falls linearly to zero."""
    warmup: float = 0.0
    """Share of the steps in which the rate rises; transformers' default, because the paper does not state it."""
    weight_decay: float = 0.0
    """AdamW's; transformers' default, because the paper does not state it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One fine-tuning per seed: new classifier, order and dropout."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""


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
    """Number of words shown for each place."""


@dataclass(frozen=True)
class Demo:
    """Prepare, pretrain every scheme, fine-tune on real sentences, draw the curves."""

    labels: int = 2000
    """Rated film sentences to fine-tune on, of 9,000."""
    steps: int = 1500
    """Optimizer steps of each pretraining."""
    seed: int = 0
    """Seed of the pretrainings: every scheme is pretrained once."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of fine-tuning."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-text-demo-TIME. An interrupted run resumes there."""


@dataclass(frozen=True)
class Reproduce(RunOptions):
    """Reproduce a table or figure of the paper; what is finished is not done again."""

    target: Literal["table2", "fig1f", "fig2c"]
    """table2: GLUE for five schemes; fig1f, fig2c: accuracy over fixed ratios, the latter for each size."""
    data: Path | None = None
    """Folder that prepare wrote. Without it only the published figures are shown."""
    glue: str = "hub"
    """GLUE's data: a folder or hub, as --data of finetune."""
    tasks: tuple[str, ...] = ("mnli", "qqp", "sst2", "qnli")
    """Tasks of GLUE."""
    length: int = 128
    """Tokens of a row."""
    ratios: tuple[float, ...] = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Fixed ratios of the figures."""
    models: tuple[str, ...] = ("medium", "base")
    """Model sizes."""
    tokens: float = 10e9
    """Tokens of each pretraining."""
    batch_size: int = 2048
    """Samples (rows) of an optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 16 on a CPU and 256 on
    a GPU."""
    lr: float | None = None
    """Peak learning rate of pretraining; default the paper's."""
    epochs: int = 5
    """Epochs of fine-tuning."""
    finetune_lr: float = 2e-5
    """Learning rate of fine-tuning."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of fine-tuning; the paper has three."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
