"""The options of the CelebA experiment. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r2mae_core import Count, Precision, RunOptions, Seed, Share, Workers
from r2mae_vision.data.options import BelowOne, TwoOrMore, Width, check_list
from r2mae_vision.data.sizes import Side


@dataclass(frozen=True, kw_only=True)
class ReproduceCeleba(RunOptions):
    """Reproduce figure 2B, 5, 6 or 7 of the paper; they share their models. Finished models are not trained again."""

    target: Literal["fig2b", "fig5", "fig6", "fig7"] = field(kw_only=False)
    """fig2b: error on uncorrupted images; fig5, fig6, fig7: attribute probe of the smallest, the second and the third
    U-Net."""
    data: Path | None = None
    """Needed: folder of CelebA's img_align_celeba and its two lists."""
    cache: Path | None = None
    """Folder of the decoded images; default runs/celeba-SIDE-CROP."""
    side: Side = 64
    """Side of the resized images (not stated in the paper); a multiple of 16."""
    crop: Literal["none", "center"] = "none"
    """none: resize the whole picture; center: its central square (not stated in the paper)."""
    workers: Workers | None = None
    """Processes that decode images; default one per core."""
    ratios: tuple[Share, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Fixed ratios."""
    ranges: tuple[tuple[Share, Share], ...] = ((0.1, 0.5), (0.3, 0.7), (0.5, 0.9))
    """Ranges of R2MAE."""
    dropout: BelowOne = 0.5
    """Dropout of the attribute probe (rate not stated in the paper)."""
    base_channels: tuple[Width, ...] = (8, 16, 32)
    """Base channels of the U-Nets; fig2b shows all of them, the other figures one each."""
    output: Literal["sigmoid", "linear"] = "sigmoid"
    """The U-Net's output activation (not stated in the paper)."""
    epochs: Count = 10
    """Epochs of pretraining, and of the probe."""
    batch_size: TwoOrMore = 256
    """Images per step."""
    seeds: tuple[Seed, ...] = (0, 1)
    """Every scheme is trained with each seed."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-vision-reproduce-celeba-TIME. The figures can share it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("base_channels", "seeds"):
            check_list(name, getattr(self, name))
