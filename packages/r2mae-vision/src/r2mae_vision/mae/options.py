"""The options of the commands on ViTs. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from r2mae_core import (
    Bound,
    Count,
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
)
from r2mae_vision.data.options import (
    Area,
    BelowOne,
    DataColumns,
    Factor,
    PartOfSide,
    Width,
    check_crop,
    check_list,
    check_text,
)
from r2mae_vision.data.sizes import Side, Size, settle_size
from r2mae_vision.mae.model_options import EncoderOptions

MaskShape = Literal["independent", "blocks", "inverse_blocks"]
"""What `--mask_shape` may be; see `patch_order`."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(PretrainOptions, DataColumns):
    """Pretrain a masked autoencoder. The defaults are the paper's for ImageNet (C.5), those of MAE's public recipe."""

    data: str = field(kw_only=False)
    """digits, photographs, a folder (prepared, of class folders, or of MNIST's or CIFAR's files), .tar or .zip of class
    folders, .csv or .tsv of paths and labels, .parquet with the images, hfds/NAME, or wds/PATTERN."""
    workers: Workers | None = None
    """Processes that decode images; default one per core. Prepared images need none."""
    augment: Literal["crop", "none"] = "crop"
    """crop: random resized crop and flip; none: the whole picture."""
    crop_scale: tuple[Area, Area] = (0.2, 1.0)
    """Area of the random crop, as a fraction of the picture."""
    flip: bool = True
    """Mirror half of the images; not for digits."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic; or another's: mage, maskgit, …), a number, or a
    sampler, such as --mask_ratio Uniform --mask_ratio.low 0.6 --mask_ratio.high 0.9."""
    mask_shape: MaskShape = "independent"
    """independent: any patches (the paper's); blocks: rectangles, as BEiT hides; inverse_blocks: all but rectangles."""
    block_area: tuple[Area, Area] | None = None
    """Smallest and largest block, as fractions of the picture; default [0.08,0.3], for a mask in blocks only."""
    model: str = "vit_base_patch16_224"
    """A VisionTransformer of timm."""
    image_size: Size = 224
    """Side of the squares that the model sees, or [HEIGHT,WIDTH]."""
    patch_size: Side | None = None
    """Side of a patch; default the model's own."""
    in_chans: Count | None = None
    """Channels; default the data's."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's model, such as {"depth": 6}."""
    decoder_dim: Width = 512
    """Width of the decoder."""
    decoder_depth: Width = 8
    """Layers of the decoder."""
    decoder_heads: Width = 16
    """Attention heads of the decoder."""
    norm_pix_loss: bool = True
    """Predict pixels normalised by the mean and deviation of their patch."""
    positions: Literal["sincos", "learned"] = "sincos"
    """Fixed sine-cosine positions (MAE's), or learned ones."""
    start: Path | None = None
    """Weights to start from: a run, published MAE or timm weights, or a transformers folder."""
    judge_every: Count | None = None
    """Optimizer steps between two judgements of the features on held-out images: nearest neighbours and a linear probe
    where there are labels, and the effective rank; in the log, in figures/judge.png. Default: none."""
    judge_patience: Count | None = None
    """Stop after so many judgements without a better one (nearest neighbours; without labels the rank)."""
    epochs: Count = 150
    """Passes over the data."""
    batch_size: Count = 4096
    """Samples (images) of an optimizer step, over all devices."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 64 on a CPU and 256 on
    a GPU."""
    base_lr: NonNegative = 1.5e-4
    """Learning rate per 256 images of a step."""
    lr: NonNegative | None = None
    """Peak learning rate itself, instead of base_lr."""
    warmup: Share = 1 / 15
    """Share of the steps in which the rate rises (10 of 150 epochs); it then falls as a cosine."""
    weight_decay: NonNegative = 0.05
    """AdamW's weight decay, on matrices alone."""
    decay_tokens: bool = False
    """Decay class, mask and register tokens too, as MAE's public code does."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95)
    """AdamW's betas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_size(self)
        self.check_columns()
        check_text(self, "data", "model")
        check_crop(self.crop_scale)
        if self.judge_patience is not None and self.judge_every is None:
            raise UserError("--judge_patience counts judgements; add --judge_every")
        if self.judge_every is not None and self.strategy == "fsdp":
            raise UserError("--judge_every needs the model whole on a device; leave out --strategy fsdp")
        if self.block_area is None:
            return
        if self.mask_shape == "independent":
            raise UserError("--block_area is of a mask in blocks; add --mask_shape blocks or inverse_blocks")
        if self.block_area[0] > self.block_area[1]:
            raise UserError(f"--block_area must rise, got [{self.block_area[0]:g},{self.block_area[1]:g}]")


@dataclass(frozen=True, kw_only=True)
class Finetune(EncoderOptions):
    """Fine-tune for classification. The defaults are MAE's public recipe for ViT-B."""

    pool: Literal["avg", "token"] = "avg"
    """What is classified: the mean over patches, or the class token."""
    drop_path: BelowOne = 0.1
    """Largest rate of stochastic depth."""
    data: str = field(kw_only=False)
    """As in pretrain; classes are needed."""
    validation: str | None = None
    """Validation images, if they are elsewhere."""
    max_train: Count | None = None
    """Use only this many training images, drawn by the seed."""
    workers: Workers | None = None
    """Processes that decode images; default one per core."""
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    """timm's name of the policy: RandAugment 9/0.5; none for none."""
    crop_scale: tuple[Area, Area] = (0.08, 1.0)
    """Area of the random crop, as a fraction of the picture."""
    flip: bool = True
    """Mirror half of the images."""
    erase: Share = 0.25
    """Probability of random erasing."""
    mixup: NonNegative = 0.8
    """Alpha of mixup; 0 for none."""
    cutmix: NonNegative = 1.0
    """Alpha of cutmix; 0 for none."""
    smoothing: BelowOne = 0.1
    """Label smoothing."""
    crop_pct: PartOfSide | None = None
    """Share of the picture's side that validation sees; default 0.875 up to 224 pixels (of the shorter side) and 1
    above, as in MAE."""
    epochs: Count = 100
    """Passes over the data."""
    batch_size: Count = 1024
    """Samples (images) of an optimizer step, over all devices."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 64 on a CPU and 128 on
    a GPU."""
    base_lr: NonNegative = 5e-4
    """Learning rate per 256 images of a step."""
    min_lr: NonNegative = 1e-6
    """Where the cosine ends."""
    warmup: Share = 0.05
    """Share of the steps in which the rate rises; it then falls as a cosine."""
    layer_decay: Factor = 0.65
    """Factor on the learning rate from each layer to the one below."""
    weight_decay: NonNegative = 0.05
    """AdamW's weight decay, on matrices alone."""
    clip: Positive | None = None
    """Largest gradient norm; null: no clipping."""
    ema: Share | None = None
    """Decay of an average of the weights, which is then evaluated too; null: no average."""
    seeds: tuple[Seed, ...] | None = None
    """One fine-tuning per seed; default one, with the seed of the model's pretraining."""
    devices: Count = 1
    """Devices per machine."""
    nodes: Count = 1
    """Machines; start the command on each with torchrun or SLURM."""
    strategy: Literal["auto", "ddp"] = "auto"
    """ddp: the model whole on each device (auto, if there are several)."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    checkpoint_every: Count | None = None
    """Optimizer steps between two checkpoints; default at the end of every epoch."""
    logger: Tracker = "csv"
    """A tracker that gets the log too; csv: none, metrics.csv alone. Local and offline unless the tracker's own
    variables say otherwise."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-finetune-TIME. Finished seeds are not repeated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_size(self)
        self.check_columns()
        check_text(self, "model", "timm_model", "data", "validation", "auto_augment")
        check_crop(self.crop_scale)
        check_list("seeds", self.seeds)

    @property
    def world_size(self) -> int:
        """Devices of all machines."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class Reproduce(RunOptions, DataColumns):
    """Reproduce table 1 of the paper: fine-tuned ViTs, one per scheme. Finished cells are not repeated."""

    target: Literal["table1"] = field(kw_only=False)
    """table1; figures have their own commands, reproduce-mnist and reproduce-celeba."""
    data: str | None = None
    """The images, as in pretrain; default: print the paper's table."""
    schemes: tuple[str, ...] = ("fixed", "high", "low", "mdlm", "dynamic", "r2mae")
    """Which schemes."""
    epochs: Count = 150
    """Epochs of pretraining."""
    seeds: tuple[Seed, ...] = (0, 1)
    """Every scheme is trained with each seed."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Options of pretrain, such as {"image_size": 32, "patch_size": 4}."""
    evaluate: tuple[Literal["finetune", "probe"], ...] = ("finetune",)
    """How the models are evaluated; probe is not in the paper's table."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Options of finetune."""
    probe: dict[str, Any] = field(default_factory=dict)
    """Options of probe."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-reproduce-TIME. An interrupted run resumes there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_columns()
        check_text(self, "data")
        for name in ("schemes", "seeds", "evaluate"):
            check_list(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Sweep(SweepOptions, DataColumns):
    """Find the mask ratio for your images: short pretrainings, each judged on the labels. Resumable."""

    data: str = field(kw_only=False)
    """The images, as in pretrain; classes are needed."""
    epochs: Annotated[int, Bound(5)] = 150
    """Epochs of a pretraining of full length; the short ones have a fifth of them."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Options of pretrain, such as {"image_size": 32, "patch_size": 4}."""
    evaluate: Literal["probe", "finetune"] = "probe"
    """How a model is judged: a linear probe of frozen features, or fine-tuning."""
    probe: dict[str, Any] = field(default_factory=dict)
    """Options of probe, with --evaluate probe."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """Options of finetune, with --evaluate finetune."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_columns()
        check_text(self, "data")
        unused = "finetune" if self.evaluate == "probe" else "probe"
        if getattr(self, unused):
            raise UserError(f"--{unused} is not used with --evaluate {self.evaluate}; leave out one of the two")
