"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r2mae_core.samplers import RatioSampler

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Demo:
    """Every scheme side by side on the bundled digits."""

    data: str = "digits"
    """digits (bundled, 8x8) or mnist."""
    root: Path | None = None
    """Folder of the four MNIST files (IDX or IDX.gz)."""
    download: bool = False
    """Let torchvision download MNIST into root first."""
    hidden: tuple[int, int] = (128, 64)
    """Widths of the two hidden layers; the second is the representation."""
    n_seeds: int = 3
    """Seeds per scheme."""
    epochs: int = 40
    """Epochs of pretraining."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 3e-3
    """Adam's learning rate."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-demo-TIME."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Pretrain:
    """Pretrain the MLP masked autoencoder of the paper's MNIST experiment."""

    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic), a number, or a sampler."""
    data: str = "digits"
    """digits (bundled, 8x8) or mnist."""
    root: Path | None = None
    """Folder of the four MNIST files (IDX or IDX.gz)."""
    download: bool = False
    """Let torchvision download MNIST into root first."""
    hidden: tuple[int, int] = (512, 64)
    """Widths of the two hidden layers; the second is the representation."""
    seeds: tuple[int, ...] = (0,)
    """One model per seed, all trained together."""
    epochs: int = 15
    """Epochs."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 3e-3
    """Adam's learning rate."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-pretrain-TIME. An interrupted run goes on there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Probe:
    """Linear probe, effective rank and reconstruction error of a pretrained model."""

    run: Path
    """Run folder that pretrain wrote."""
    epochs: int = 15
    """Epochs of the linear probe."""
    lr: float = 3e-3
    """Adam's learning rate of the probe."""
    ratios: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Fixed ratios at which the reconstruction error is measured."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Reproduce:
    """Walk the paper's grid; what is done already is not done again."""

    target: Literal["fig2a", "fig2d", "fig2b", "fig5", "fig6", "fig7"]
    """MNIST: fig2a, probe error over the mask ratio; fig2d, effective rank. CelebA: fig2b, error on uncorrupted images;
    fig5, fig6, fig7, attribute probe with 8, 16, 32 base channels. Figures of one data set share their models."""
    root: Path | None = None
    """Folder of the four MNIST files (IDX or IDX.gz), or of CelebA's img_align_celeba and its two lists."""
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
    precision: str = "32-true"
    """CelebA figures: Lightning's precision in pretraining, such as bf16-mixed on a GPU."""
    workers: int = 0
    """CelebA figures: processes that decode the images; 0: none beside this one."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Fixed ratios."""
    ranges: tuple[tuple[float, float], ...] = ((0.1, 0.5), (0.3, 0.7), (0.5, 0.9))
    """Ranges of R2MAE."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds."""
    epochs: int | None = None
    """Epochs of pretraining and of the probe; default the paper's: 15 for MNIST, 10 for CelebA."""
    device: Device = "auto"
    """Where to compute."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-reproduce-fig2 for MNIST, runs/r2mae-vision-reproduce-celeba for CelebA."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Compare:
    """Put the results of several runs into one table."""

    runs: tuple[Path, ...]
    """Run folders, or their results.json."""
    markdown: bool = False
    """Print Markdown instead of a drawn table."""
