"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from r2mae_core import Count, NonNegative, Positive, PretrainOptions, Share


@dataclass(frozen=True)
class Pretrain(PretrainOptions):
    """Pretrain a masked autoencoder on the rows of a table."""

    data: Path
    """A .npy file of numbers, (n, features)."""
    _: KW_ONLY
    held_out: Share = 0.1
    """Share of the rows kept for the held-out loss: the last ones of the file."""
    n_hidden: Count = 128
    """Width of the hidden layer."""
    steps: Count = 1000
    """Optimizer steps."""
    batch_size: Count = 64
    """Samples (rows) of an optimizer step, over all devices."""
    lr: Positive = 1e-3
    """AdamW's highest learning rate."""
    warmup: Share = 0.05
    """Share of the steps in which the rate rises; it then falls as a cosine to zero."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay, on matrices."""
