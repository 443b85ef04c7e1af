"""The options of the commands that use a model. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from r2mae_core import (
    Bound,
    Count,
    Device,
    NonNegative,
    Positive,
    Precision,
    RunOptions,
    Seed,
    Share,
    UserError,
    Workers,
    check_bounds,
)
from r2mae_vision.data.options import (
    DataColumns,
    PartOfSide,
    check_list,
    check_text,
)
from r2mae_vision.data.sizes import Size, settle_size

Level = Literal["visible", "true"]
"""Where the brightness and contrast of hidden patches come from in a picture; see `MaskedAutoencoder.reconstruct`."""


MOST_SHOWN, MOST_RATIOS = 200, 30
"""Images and ratios of one picture of `reconstruct`."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(RunOptions, DataColumns):
    """The model of a command that takes any encoder, and how it sees pictures."""

    model: str = field(kw_only=False)
    """Run folder of pretrain or finetune, weights in a file or folder, a ViT of timm (pretrained), or scratch:NAME
    (newly initialised)."""
    timm_model: str | None = None
    """With a file of weights: which VisionTransformer of timm it is."""
    image_size: Size | None = None
    """Side of the squares that the model sees, or [HEIGHT,WIDTH]; default the model's own. Positions are resampled."""
    mean: tuple[float, ...] | None = None
    """Mean of the pixels; default the model's own, for files ImageNet's, which MAE's weights need (timm's others:
    0.5)."""
    std: tuple[Positive, ...] | None = None
    """Standard deviation of the pixels; default as for mean."""


@dataclass(frozen=True, kw_only=True)
class Probe(EncoderOptions):
    """Evaluate frozen features: linear probe and nearest neighbours; a run of pretrain-mlp by the protocol of C.3."""

    pool: Literal["token", "avg"] = "token"
    """The feature: the class token (MAE's linear probe), or the mean over patches."""
    data: str | None = None
    """As in pretrain; classes are needed. Default the data of the run."""
    validation: str | None = None
    """Validation images, if they are elsewhere."""
    workers: Workers | None = None
    """Processes that decode images; default one per core."""
    crop_pct: PartOfSide | None = None
    """Share of the picture's side that the model sees; default 0.875 up to 224 pixels (of the shorter side) and 1
    above, as in MAE."""
    epochs: Count = 90
    """lars: epochs."""
    batch_size: Count = 16384
    """lars: images of a step; at most a tenth of the data."""
    base_lr: NonNegative = 0.1
    """lars: learning rate per 256 images of a step."""
    seeds: tuple[Seed, ...] | None = None
    """With lars one linear probe per seed, with scratch: one new network per seed; default one, with the seed of the
    model's pretraining. Else nothing is drawn, and the first seed names the row."""
    linear: Literal["auto", "logistic", "lars"] = "auto"
    """logistic: scikit-learn's regression on standardised features; lars: MAE's recipe, made for ImageNet's size, with
    features that are computed once; auto: logistic up to 100,000 images."""
    k: tuple[Count, ...] = (20,)
    """Neighbours of the kNN classifier; several may be given."""
    temperature: Positive = 0.07
    """Temperature of the neighbours' votes."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_size(self)
        self.check_columns()
        check_text(self, "model", "timm_model", "data", "validation")
        check_list("seeds", self.seeds)
        check_list("k", self.k or None)


@dataclass(frozen=True)
class Reconstruct:
    """Show what the model fills in: original, masked and reconstruction at several ratios, and its features."""

    run: Path
    """Run folder of pretrain, or its model folder."""
    images: tuple[str, ...] = ()
    """Image files; default some of the run's validation images."""
    n_images: Annotated[int, Bound(1, MOST_SHOWN)] = 6
    """How many of the run's images."""
    ratios: tuple[Share, ...] = (0.5, 0.75, 0.9)
    """Fractions hidden."""
    seed: Seed = 0
    """Seed for the masks."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """The picture; its suffix sets the format, such as .png or .pdf; default runs/r2mae-vision-reconstruct-TIME.png."""
    channels: tuple[Annotated[int, Bound(0)], ...] | None = None
    """One or three channels to show, counted from 0, such as [3,2,1] for red, green and blue of Sentinel-2; needed
    where the model reads other than one or three."""
    level: Level = "visible"
    """Of a model that predicts each patch without its mean and deviation (norm_pix_loss), where these two come from.
    visible: from the visible patches around it; true: from the hidden patch itself, which gives away much of it."""
    features: bool = True
    """Add a column: the first three principal components of the patches' features, as colours."""
    overwrite: bool = False
    """Replace a file that is there."""

    def __post_init__(self) -> None:
        check_bounds(self)
        check_list("ratios", self.ratios)
        if self.channels is not None and len(self.channels) not in (1, 3):
            raise UserError(f"--channels names one or three channels, not {len(self.channels)}")
        if len(self.images) > MOST_SHOWN or len(self.ratios) > MOST_RATIOS:
            raise UserError(f"one picture shows at most {MOST_SHOWN} images at {MOST_RATIOS} ratios; draw several")


@dataclass(frozen=True)
class Export:
    """Write a run's model in other libraries' layouts."""

    run: Path
    """Run folder of pretrain or finetune, finished."""
    out: Path | None = None
    """Folder of timm/ (the encoder, or the fine-tuned model with its head and class names) and transformers/ (ViTMAE,
    encoder and decoder); default runs/r2mae-vision-export-TIME."""
    overwrite: bool = False
    """Replace the folder of another export."""


@dataclass(frozen=True)
class Predict(DataColumns):
    """Write what a fine-tuned model says of images."""

    model: str
    """Run folder of finetune (of several seeds one of its folders), or timm's folder of a model with a head."""
    data: str
    """As in pretrain; labels are not needed. Also a single image file."""
    split: Literal["train", "val"] | None = None
    """Which part of the data; default the validation part, and all images where there is none."""
    batch_size: Count = 128
    """Images at once; the predictions do not depend on it."""
    workers: Workers | None = None
    """Processes that decode images; default one per core."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """The .csv to write: image, label if there is one, prediction, probability of each class; default
    runs/r2mae-vision-predict-TIME.csv."""
    overwrite: bool = False
    """Replace the file if it is there."""

    def __post_init__(self) -> None:
        check_bounds(self)
        self.check_columns()
        check_text(self, "model", "data")
