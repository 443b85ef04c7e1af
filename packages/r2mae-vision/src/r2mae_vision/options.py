"""The options of every command, for `--help` and for Python. Nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Literal

from r2mae_core import Count, NonNegative, RunOptions, Seed
from r2mae_vision.celeba.options import ReproduceCeleba
from r2mae_vision.data.options import Prepare, TwoOrMore, Width, check_list, check_text
from r2mae_vision.mae.model_options import Export, Predict, Probe, Reconstruct
from r2mae_vision.mae.options import Finetune, Pretrain, Reproduce, Sweep
from r2mae_vision.mnist.options import PretrainMLP, ReproduceMNIST

__all__ = [
    "Demo",
    "Export",
    "Finetune",
    "Predict",
    "Prepare",
    "Pretrain",
    "PretrainMLP",
    "Probe",
    "Reconstruct",
    "Reproduce",
    "ReproduceCeleba",
    "ReproduceMNIST",
    "Sweep",
]


@dataclass(frozen=True, kw_only=True)
class Demo(RunOptions):
    """Every scheme side by side on the bundled digits; or a small ViT on two bundled photographs."""

    data: str = "digits"
    """mlp: digits (bundled, 8x8), or a folder of the four MNIST files (IDX or IDX.gz)."""
    download: bool = False
    """mlp: let torchvision download MNIST into the folder first."""
    model: Literal["mlp", "vit"] = "mlp"
    """mlp: every scheme at once on digits; vit: R2MAE with a small ViT on photographs."""
    n_hidden: tuple[Width, Width] = (128, 64)
    """mlp: widths of the two hidden layers; the second is the representation."""
    epochs: Count = 40
    """Epochs of pretraining (vit: of 17 steps each)."""
    batch_size: TwoOrMore = 64
    """mlp: images per step."""
    lr: NonNegative = 3e-3
    """mlp: Adam's learning rate."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """mlp: every scheme is trained with each seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "data")
        check_list("seeds", self.seeds)
