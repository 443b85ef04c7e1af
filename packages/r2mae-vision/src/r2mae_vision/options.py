"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r2mae_core import Device, Precision, RatioSampler, Strategy


@dataclass(frozen=True)
class Demo:
    """Every scheme side by side on the bundled digits; or a small ViT on two bundled photographs."""

    model: Literal["mlp", "vit"] = "mlp"
    """mlp: every scheme at once on digits; vit: R2MAE with a small ViT on photographs."""
    data: str = "digits"
    """mlp: digits (bundled, 8x8) or mnist."""
    root: Path | None = None
    """mlp: folder of the four MNIST files (IDX or IDX.gz)."""
    download: bool = False
    """mlp: let torchvision download MNIST into root first."""
    hidden: tuple[int, int] = (128, 64)
    """mlp: widths of the two hidden layers; the second is the representation."""
    n_seeds: int = 3
    """mlp: seeds per scheme."""
    epochs: int = 40
    """Epochs of pretraining (vit: of 17 steps each)."""
    batch_size: int = 64
    """mlp: images per step."""
    lr: float = 3e-3
    """mlp: Adam's learning rate."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-demo-TIME."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Prepare:
    """Decode images once, into a store that training reads as bytes."""

    source: str
    """Folder of class folders (with train and val inside, or see --validation), .tar of it, hfds/NAME, wds/PATTERN."""
    validation: str | None = None
    """Validation images, where they lie elsewhere."""
    image_size: int = 256
    """Side of the stored squares; training cuts its own squares out of them."""
    fit: Literal["crop", "squash"] = "crop"
    """crop: the middle square of the picture; squash: all of it, with its sides made equal."""
    in_chans: int = 3
    """3 (colour) or 1 (grey)."""
    workers: int | None = None
    """Processes that decode images; default one per core."""
    out: Path | None = None
    """Folder of the store; default runs/r2mae-vision-prepare-TIME. An interrupted run goes on there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Pretrain:
    """Pretrain a masked autoencoder. The defaults are the paper's for ImageNet (C.5), those of MAE's public recipe."""

    data: str
    """digits, photographs, a prepared folder, a folder of class folders, .tar, hfds/NAME, MNIST's or CIFAR's files."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic), a number, or a sampler."""
    scope: Literal["batch", "sample"] = "batch"
    """batch: one ratio per step, the paper's; sample: a ratio per image at a constant number of visible patches."""
    model: str = "vit_base_patch16_224"
    """A VisionTransformer of timm; or mlp, the model of the paper's MNIST experiment."""
    image_size: int = 224
    """Side of the squares that the model sees."""
    patch_size: int | None = None
    """Side of a patch; default the model's own."""
    in_chans: int | None = None
    """Channels; default the data's."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's model, such as {"depth": 6}."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Layers of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    norm_pix_loss: bool = True
    """Predict pixels relative to their patch's own mean and deviation."""
    positions: Literal["sincos", "learned"] = "sincos"
    """Fixed sine-cosine positions (MAE's), or learned ones."""
    start: Path | None = None
    """Weights to start from: published MAE or timm weights, a transformers folder, or a folder of ours."""
    hidden: tuple[int, int] = (512, 64)
    """Only with --model mlp: widths of the two hidden layers."""
    epochs: int | None = None
    """Passes over the data; default 150 (mlp: 15)."""
    warmup_epochs: float | None = None
    """In which the learning rate rises; it then falls as a cosine. Default a fifteenth of the epochs: 10 of 150."""
    batch_size: int | None = None
    """Images of an optimizer step, over all devices; default 4096 (mlp: 128)."""
    micro_batch_size: int | None = None
    """Images that one device computes at once; default: 256 on a GPU, 64 on a CPU, or what divides the batch."""
    base_lr: float = 1.5e-4
    """Learning rate per 256 images of a step."""
    lr: float | None = None
    """Peak learning rate itself, instead of base_lr; mlp: 0.003."""
    weight_decay: float = 0.05
    """AdamW's, on matrices."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    clip: float | None = None
    """Largest gradient norm; MAE does not clip."""
    augment: Literal["crop", "none"] = "crop"
    """crop: random resized crop and flip; none: the whole picture."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop, as a fraction of the picture."""
    flip: bool = True
    """Mirror half of the images; not for digits."""
    ratio_per: Literal["step", "micro_batch"] = "step"
    """Draw the ratio once per optimizer step, or for each micro-batch."""
    validate_every: int | None = None
    """Optimizer steps between two validations; default a tenth of the training."""
    checkpoint_every: int | None = None
    """Optimizer steps between two checkpoints; default at every epoch's end."""
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
    workers: int | None = None
    """Processes that decode images; default one per core. Prepared images need none."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-pretrain-TIME. An interrupted run goes on there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Finetune:
    """Fine-tune for classification. The defaults are MAE's public recipe for ViT-B."""

    model: str
    """Run folder of pretrain, weights in a file or folder, a ViT of timm (pretrained), or scratch:NAME (drawn anew)."""
    data: str
    """As in pretrain; classes are needed."""
    validation: str | None = None
    """Validation images, where they lie elsewhere."""
    timm_model: str | None = None
    """With a file of weights: which VisionTransformer of timm it is."""
    image_size: int | None = None
    """Side of the squares that the model sees; default the model's own. Positions are resampled."""
    mean: tuple[float, ...] | None = None
    """Of the pixels; default the model's own, for files ImageNet's, which MAE's weights need (timm's others: 0.5)."""
    std: tuple[float, ...] | None = None
    """As mean."""
    epochs: int = 100
    """Passes over the data."""
    warmup_epochs: float = 5.0
    """In which the learning rate rises; it then falls as a cosine."""
    batch_size: int = 1024
    """Images of an optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Images that one device computes at once; default: 128 on a GPU, 64 on a CPU, or what divides the batch."""
    base_lr: float = 5e-4
    """Learning rate per 256 images of a step."""
    min_lr: float = 1e-6
    """Where the cosine ends."""
    layer_decay: float = 0.65
    """Factor on the learning rate from each layer to the one below."""
    weight_decay: float = 0.05
    """AdamW's, on matrices."""
    drop_path: float = 0.1
    """Largest rate of stochastic depth."""
    mixup: float = 0.8
    """Alpha of mixup; 0 for none."""
    cutmix: float = 1.0
    """Alpha of cutmix; 0 for none."""
    smoothing: float = 0.1
    """Label smoothing."""
    max_train: int | None = None
    """Use only this many training images, drawn by the seed."""
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    """timm's name of the policy: RandAugment 9/0.5; none for none."""
    erase: float = 0.25
    """Probability of random erasing."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a fraction of the picture."""
    flip: bool = True
    """Mirror half of the images."""
    crop_pct: float | None = None
    """Part of the picture's side that validation looks at; default 0.875 up to 224 pixels and 1 above, as in MAE."""
    pool: Literal["avg", "token"] = "avg"
    """What is classified: the mean over patches, or the class token."""
    ema: float | None = None
    """Decay of an average of the weights, which is then judged too; None for none."""
    clip: float | None = None
    """Largest gradient norm."""
    seeds: tuple[int, ...] | None = None
    """One fine-tuning per seed; default one, with the seed of the model's pretraining."""
    checkpoint_every: int | None = None
    """Optimizer steps between two checkpoints; default at every epoch's end."""
    device: Device = "auto"
    """Where to compute."""
    devices: int = 1
    """How many of them on each machine."""
    nodes: int = 1
    """Machines; start the command on each with torchrun or SLURM."""
    strategy: Literal["auto", "ddp"] = "auto"
    """ddp: the model whole on each device (auto, where there are several)."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    workers: int | None = None
    """Processes that decode images; default one per core."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-finetune-TIME. Finished seeds are not done again."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Probe:
    """Judge frozen features: linear probe and nearest neighbours; a run of the MLP by its own protocol (C.3)."""

    model: str
    """Run folder of pretrain, weights in a file or folder, a ViT of timm (pretrained), or scratch:NAME (drawn anew)."""
    data: str | None = None
    """As in pretrain; classes are needed. Default the data of the run."""
    validation: str | None = None
    """Validation images, where they lie elsewhere."""
    timm_model: str | None = None
    """With a file of weights: which VisionTransformer of timm it is."""
    image_size: int | None = None
    """Side of the squares that the model sees; default the model's own."""
    mean: tuple[float, ...] | None = None
    """Of the pixels; default the model's own, for files ImageNet's, which MAE's weights need (timm's others: 0.5)."""
    std: tuple[float, ...] | None = None
    """As mean."""
    crop_pct: float | None = None
    """Part of the picture's side that is looked at; default 0.875 up to 224 pixels and 1 above, as in MAE."""
    pool: Literal["token", "avg"] = "token"
    """The feature: the class token (MAE's linear probe), or the mean over patches."""
    k: tuple[int, ...] = (20,)
    """Neighbours of the kNN classifier; several may be given."""
    temperature: float = 0.07
    """Of the neighbours' votes."""
    linear: Literal["auto", "logistic", "lars"] = "auto"
    """logistic: scikit-learn's regression on standardised features; lars: MAE's recipe, made for ImageNet's size, with
    features that are computed once; auto: logistic up to 100,000 images."""
    epochs: int = 90
    """lars: epochs."""
    batch_size: int = 16384
    """lars: images of a step; at most a tenth of the data."""
    base_lr: float = 0.1
    """lars: learning rate per 256 images of a step."""
    seeds: tuple[int, ...] | None = None
    """lars: one linear probe per seed; default one, with the seed of the model's pretraining."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    workers: int | None = None
    """Processes that decode images; default one per core."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-probe-TIME."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Reconstruct:
    """Show what the model fills in: original, masked and reconstruction at several ratios, and its features."""

    run: Path
    """Run folder of pretrain, or a folder of ours."""
    images: tuple[str, ...] = ()
    """Image files; default some of the run's validation images."""
    ratios: tuple[float, ...] = (0.5, 0.75, 0.9)
    """Fractions hidden."""
    n_images: int = 6
    """How many of the run's images."""
    features: bool = True
    """Add a column: the first three principal components of the patches' features, as colours."""
    seed: int = 0
    """Of the masks."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """The picture; default runs/r2mae-vision-reconstruct-TIME.png."""


@dataclass(frozen=True)
class Export:
    """Write a run's model in other libraries' layouts."""

    run: Path
    """Run folder of pretrain, finished."""
    out: Path | None = None
    """Folder of timm.safetensors (the encoder) and transformers/ (ViTMAE, encoder and decoder); default
    runs/r2mae-vision-export-TIME."""


@dataclass(frozen=True)
class Reproduce:
    """Walk the paper's grid; what is done already is not done again."""

    target: Literal["table1", "fig2a", "fig2d", "fig2b", "fig5", "fig6", "fig7"]
    """table1: fine-tuned ViTs, one per scheme. MNIST: fig2a, probe error over the mask ratio; fig2d, effective rank.
    CelebA: fig2b, error on uncorrupted images; fig5, fig6, fig7, attribute probe with 8, 16, 32 base channels.
    Figures of one data set share their models."""
    root: Path | None = None
    """table1: the images, as DATA in pretrain. Else folder of the four MNIST files (IDX or IDX.gz), or of CelebA's
    img_align_celeba and its two lists."""
    schemes: tuple[str, ...] = ("fixed", "high", "low", "mdlm", "dynamic", "r2mae")
    """table1: which schemes."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """table1: options of pretrain, such as {"image_size": 32, "patch_size": 4}."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """table1: options of finetune."""
    probe: dict[str, Any] = field(default_factory=dict)
    """table1: options of probe."""
    judge: tuple[Literal["finetune", "probe"], ...] = ("finetune",)
    """table1: how the models are judged; probe is not in the paper's table."""
    data: str = "mnist"
    """MNIST figures: mnist, or digits for a quick look."""
    download: bool = False
    """MNIST figures: let torchvision download MNIST into root first."""
    hidden1: tuple[int, ...] = (16, 512)
    """MNIST figures: widths of the first hidden layer; 16 is the paper's parameter-insufficient setting."""
    hidden2: tuple[int, ...] = (16, 32, 64, 256, 1024)
    """MNIST figures: widths of the second hidden layer."""
    base_channels: tuple[int, ...] = (8, 16, 32)
    """fig2b: base channels of the U-Net."""
    cache: Path | None = None
    """CelebA figures: folder of the decoded images; default runs/celeba-SIDE-CROP."""
    side: int = 64
    """CelebA figures: side of the resized images (not stated in the paper); a multiple of 16."""
    crop: Literal["none", "center"] = "none"
    """CelebA figures: none, resize the whole picture; center, its central square (not stated in the paper)."""
    output: Literal["sigmoid", "linear"] = "sigmoid"
    """CelebA figures: the U-Net's last function (not stated in the paper)."""
    dropout: float = 0.5
    """CelebA figures: dropout of the attribute probe (rate not stated in the paper)."""
    batch_size: int = 256
    """CelebA figures: images per step."""
    precision: Precision = "auto"
    """CelebA figures: auto: bf16-mixed on a GPU, float32 on a CPU."""
    workers: int | None = None
    """CelebA figures: processes that decode images; default one per core."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Fixed ratios."""
    ranges: tuple[tuple[float, float], ...] = ((0.1, 0.5), (0.3, 0.7), (0.5, 0.9))
    """Ranges of R2MAE."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds."""
    epochs: int | None = None
    """Epochs of pretraining (MNIST and CelebA: and of the probe); default the paper's: 150, MNIST 15, CelebA 10."""
    device: Device = "auto"
    """Where to compute."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-reproduce-TIME. What is done there is not done again, and figures of one
    data set can share it."""
    progress: bool = True
    """Show a progress bar."""
