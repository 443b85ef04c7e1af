"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r2mae_core import Device, Precision, RatioSampler


@dataclass(frozen=True)
class Demo:
    """R2MAE against fixed ratios, scVI and PCA on 700 real blood cells."""

    n_seeds: int = 3
    """Seeds per method."""
    epochs: int = 60
    """Epochs of pretraining."""
    batch_size: int = 64
    """Samples (cells) of an optimizer step."""
    n_hidden: int = 128
    """Width of the hidden layers."""
    n_latent: int = 64
    """Width of the latent space."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-demo-TIME."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Simulate:
    """Write a made-up atlas with known truth, in the layout of a real one."""

    layout: Literal["hlca", "seaad", "seaad-allen"] = "hlca"
    """Columns and counts as in the Human Lung Cell Atlas, or as in SEA-AD from CELLxGENE or the Allen Institute."""
    n_donors: int = 40
    """Donors."""
    n_cells: int = 20_000
    """Cells."""
    n_genes: int = 2000
    """Genes."""
    n_types: int = 8
    """Cell types."""
    donor_effect: float = 0.2
    """Strength of what is a donor's own."""
    age_effect: float = 0.12
    """Strength of the age programme."""
    disease_effect: float = 0.35
    """Strength of the disease programmes."""
    seed: int = 0
    """Of all that is drawn."""
    out: Path | None = None
    """The h5ad file to write; default runs/r2mae-singlecell-simulate-TIME.h5ad."""


@dataclass(frozen=True)
class Prepare:
    """Select variable genes, check the counts, and write one file that training maps into memory."""

    source: Path
    """An h5ad file or zarr store, of any size."""
    preset: Literal["auto", "hlca", "seaad", "seaad-allen", "none"] = "auto"
    """auto: by the columns; none: name the columns."""
    counts: str | None = None
    """Place of the raw counts in the file, such as X, raw/X or layers/counts."""
    donor: str | None = None
    """Column of the donor."""
    batch: str | None = None
    """Column of the batch covariate."""
    cell_type: str | None = None
    """Column of the fine cell type."""
    disease: str | None = None
    """Column of the disease."""
    age: str | None = None
    """Column of the age in years."""
    n_genes: int = 5000
    """Variable genes to keep."""
    min_genes: int | None = None
    """Drop cells with fewer non-zero variable genes; default: the preset's (20 for HLCA)."""
    target_sum: float | None = None
    """Total of a cell in the choice of genes; default: the median, as in scanpy."""
    out: Path | None = None
    """The h5ad file to write; default runs/r2mae-singlecell-prepare-TIME.h5ad."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Pretrain:
    """Pretrain the masked autoencoder on a prepared file."""

    data: Path
    """What prepare wrote."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic, cl, cl-k0, r2mae+cl, r2mae+cl-k0), a number, or
    a sampler."""
    seed: int = 0
    """Of start, masks, dropout and order."""
    epochs: int = 50
    """Passes over the data."""
    batch_size: int = 400
    """Samples (cells) of an optimizer step, over all devices."""
    n_hidden: int = 1024
    """Width of the hidden layers."""
    n_latent: int = 512
    """Width of the latent space."""
    lr: float = 1e-3
    """Adam's learning rate."""
    weight_decay: float = 1e-4
    """Adam's weight decay."""
    eps: float = 1e-8
    """Adam's epsilon."""
    scale_curriculum: bool = True
    """Curriculum schemes: scale the paper's marks (5,000, 30,000 and 120,000 steps) to the length of this training."""
    log_every: int = 20
    """Optimizer steps between two lines of the log."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    device: Device = "auto"
    """Where to compute."""
    devices: int = 1
    """How many of them on each machine."""
    nodes: int = 1
    """Machines; start the command on each with torchrun or SLURM."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-pretrain-TIME. An interrupted run goes on there."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class Embed:
    """Write the embedding of every cell."""

    data: Path
    """What prepare wrote."""
    run: Path
    """Run folder that pretrain wrote."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """The h5ad file to write: obs, and the embedding in obsm["X_r2mae"]; default
    runs/r2mae-singlecell-embed-TIME.h5ad."""


@dataclass(frozen=True)
class Probe:
    """Read cell type, disease and age off embeddings, across donors."""

    data: Path
    """What prepare wrote."""
    runs: tuple[Path, ...]
    """Run folders that pretrain wrote."""
    baselines: tuple[str, ...] = ("log-norm", "shuffled")
    """log-norm, pca, scvi, scvi=N (latent size N), obsm:KEY (an embedding of yours), shuffled (chance)."""
    tasks: tuple[Literal["cell_type", "disease", "age"], ...] = ("cell_type", "disease", "age")
    """What to read off."""
    n_splits: int = 5
    """Random divisions of the donors."""
    train_share: float = 0.5
    """Share of the donors to train on."""
    max_cells: int = 1000
    """Most cells of a donor."""
    standardize: bool = True
    """Scale the features by the training cells."""
    epochs: int = 50
    """Epochs of scVI."""
    seed: int = 0
    """Of divisions, and of scVI."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-probe-TIME."""


@dataclass(frozen=True)
class Reconstruct:
    """Correlation of hidden genes with their prediction, at several ratios, with the same masks for every model."""

    data: Path
    """What prepare wrote."""
    runs: tuple[Path, ...]
    """Run folders that pretrain wrote."""
    baselines: tuple[str, ...] = ()
    """scvi, or scvi=N."""
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    """Fractions hidden."""
    genes: Literal["hidden", "all"] = "hidden"
    """Correlate over the hidden genes or over all."""
    max_cells: int = 20_000
    """Most validation cells."""
    epochs: int = 50
    """Epochs of scVI."""
    seed: int = 0
    """Of scVI."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-reconstruct-TIME."""


@dataclass(frozen=True)
class Reproduce:
    """Walk a table of the paper: schemes × seeds, ours beside the paper's. What is done already is not done again."""

    target: Literal["table4", "table6", "table7", "table8"]
    """table4: SEA-AD probes; table6: HLCA probes; table7: SEA-AD reconstruction; table8: HLCA reconstruction."""
    data: Path
    """The prepared atlas; a simulated one shows the path, not the paper's figures."""
    schemes: tuple[str, ...] = (
        "fixed", "low", "high", "mdlm", "dynamic", "cl", "cl-k0", "r2mae", "r2mae+dynamic", "r2mae+cl", "r2mae+cl-k0",
    )  # fmt: skip
    """Schemes of the table's rows."""
    baselines: tuple[str, ...] = ("log-norm", "scvi")
    """Rows without masks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of start, masks, dropout and order."""
    epochs: int = 50
    """Passes over the data."""
    batch_size: int = 400
    """Samples (cells) of an optimizer step."""
    n_hidden: int = 1024
    """Width of the hidden layers."""
    n_latent: int = 512
    """Width of the latent space."""
    n_splits: int = 5
    """Random divisions of the donors."""
    max_cells: int = 1000
    """Most cells of a donor."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    device: Device = "auto"
    """Where to compute."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-reproduce-TIME. What is done there is not done again; tables of one
    atlas may share a folder, and so their models."""
    progress: bool = True
    """Show a progress bar."""
