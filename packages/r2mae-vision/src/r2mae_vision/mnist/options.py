"""The options of the MNIST experiment. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r2mae_core import Count, NonNegative, RatioSampler, RunOptions, Seed, Share, Tracker
from r2mae_vision.data.options import TwoOrMore, Width, check_list, check_text


@dataclass(frozen=True, kw_only=True)
class PretrainMLP(RunOptions):
    """Pretrain one MLP masked autoencoder (C.3)."""

    data: str = field(kw_only=False)
    """digits, or a folder of the four MNIST files (IDX or IDX.gz)."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic; or another's: mage, maskgit, …), a number, or a
    sampler, such as --mask_ratio Uniform --mask_ratio.low 0.5 --mask_ratio.high 0.9."""
    n_hidden: tuple[Width, Width] = (512, 64)
    """Widths of the two hidden layers; the second is the representation."""
    epochs: Count = 15
    """Passes over the data."""
    batch_size: TwoOrMore = 128
    """Images per step."""
    lr: NonNegative = 3e-3
    """Adam's learning rate."""
    seed: Seed = 0
    """Seed for initialisation, masks and data order."""
    logger: Tracker = "csv"
    """A tracker that gets the log too; csv: none, metrics.csv alone. Local and offline unless the tracker's own
    variables say otherwise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "data")


@dataclass(frozen=True, kw_only=True)
class ReproduceMNIST(RunOptions):
    """Reproduce figure 2A or 2D of the paper; both come from the same models. Finished models are not trained again."""

    target: Literal["fig2a", "fig2d"] = field(kw_only=False)
    """fig2a: probe error over the mask ratio; fig2d: effective rank."""
    data: str | None = None
    """Needed: folder of the four MNIST files (IDX or IDX.gz), or digits for a quick look."""
    download: bool = False
    """Let torchvision download MNIST into the folder first."""
    ratios: tuple[Share, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Fixed ratios."""
    ranges: tuple[tuple[Share, Share], ...] = ((0.1, 0.5), (0.3, 0.7), (0.5, 0.9))
    """Ranges of R2MAE."""
    n_hidden: tuple[Width, ...] = (16, 512)
    """Widths of the first hidden layer, each with each of --n_latent; 16 is the paper's parameter-insufficient
    setting."""
    n_latent: tuple[Width, ...] = (16, 32, 64, 256, 1024)
    """Widths of the second hidden layer, the representation."""
    epochs: Count = 15
    """Epochs of pretraining, and of the probe."""
    seeds: tuple[Seed, ...] = (0, 1)
    """Every scheme is trained with each seed."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-reproduce-mnist-TIME. Both figures can share it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "data")
        for name in ("n_hidden", "n_latent", "seeds"):
            check_list(name, getattr(self, name))
