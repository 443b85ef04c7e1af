"""The options that every command of a kind has, and every modality means alike. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r2mae_core.lab.bounds import Count, Positive, Seed, check_bounds
from r2mae_core.ratio import densities, schedules  # noqa: F401  (the command line offers what is imported)
from r2mae_core.ratio.protocol import RatioSampler

Device = Literal["auto", "cpu", "cuda", "mps"]
"""What every command takes for `--device`."""
Precision = Literal["auto", "32-true", "bf16-mixed"]
"""What every command takes for `--precision`; see `precision`."""
Strategy = Literal["auto", "ddp", "fsdp"]
"""What every pretraining on several devices takes for `--strategy`; see `fit`."""
RatioPer = Literal["step", "micro_batch", "sample"]
"""What `--ratio_per` may be; see `MaskedModule`."""
Tracker = Literal["csv", "tensorboard", "wandb", "mlflow", "trackio"]
"""What every training command takes for `--logger`; see `tracker_loggers`."""
LossWeight = Literal["none", "inverse_ratio"]
"""What `--loss_weight` may be; see `MaskedModule`."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every command takes that computes something and writes a run folder.

    Raises:
        UserError: an option is out of its bounds; see `check_bounds`.
    """

    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/PROGRAM-COMMAND-TIME. An interrupted run resumes there."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(RunOptions):
    """What every `pretrain` takes. A package adds its data, its model and its budget, and may change a default."""

    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme's name, a number, or a sampler, such as --mask_ratio Uniform --mask_ratio.low 0.2
    --mask_ratio.high 0.6."""
    ratio_per: RatioPer = "step"
    """Draw the ratio once per optimizer step (the paper's), for each micro-batch, or for each sample."""
    loss_weight: LossWeight = "none"
    """none: the mean over hidden positions (the paper's); inverse_ratio: divided by the mask ratio, as in LLaDA and
    MDLM."""
    batch_size: Count = 256
    """Samples of an optimizer step, over all devices."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that fits commonly and divides the batch."""
    clip: Positive | None = None
    """Largest gradient norm; null: no clipping."""
    seed: Seed = 0
    """Seed for initialisation, masks, dropout and data order."""
    devices: Count = 1
    """Devices per machine."""
    nodes: Count = 1
    """Machines; start the command on each with torchrun or SLURM."""
    strategy: Strategy = "auto"
    """ddp: the model whole on each device (auto, where there are several); fsdp: divided over them, for models too
    large for one."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    peak_tflops: Positive | None = None
    """The device's peak in 10^12 operations a second, for MFU; known for common GPUs."""
    validate_every: Count | None = None
    """Optimizer steps between two validations; default a tenth of the training."""
    checkpoint_every: Count | None = None
    """Optimizer steps between two checkpoints; default a tenth of the training."""
    log_every: Count = 20
    """Optimizer steps between two lines of the log."""
    logger: Tracker = "csv"
    """A tracker that gets the log too; csv: none, metrics.csv alone. Local and offline unless the tracker's own
    variables say otherwise."""

    @property
    def world_size(self) -> int:
        """Devices of all machines."""
        return self.devices * self.nodes
