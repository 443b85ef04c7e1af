"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from r2mae_core import (
    Bound,
    Count,
    Device,
    Natural,
    NonNegative,
    Positive,
    Precision,
    PretrainOptions,
    RatioSampler,
    RunOptions,
    Seed,
    Share,
    SweepOptions,
    UserError,
    check_bounds,
)

Width = Annotated[int, Bound(1, 65_536)]
"""Units of a layer."""
MaskShape = Literal["independent", "groups"]
"""Which genes are hidden together."""
Size = Annotated[int, Bound(1, 10_000_000)]
"""Things that are drawn or kept in memory."""


def check_lists(config: Any, *names: str, empty: bool = False) -> None:
    """Refuse lists in which a value stands twice, whose results a table would mix up, and empty ones.

    Args:
        config: a command's options.
        names: its lists.
        empty: whether they may be empty.

    Raises:
        UserError: with the option.
    """
    for name in names:
        values = [f"{value:g}" if isinstance(value, float) else value for value in getattr(config, name)]
        if not values and not empty:
            raise UserError(f"--{name} is empty; give at least one")
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise UserError(f"--{name} has {twice[0]} more than once; leave out the repeats")


def check_suffix(out: Path | None, *known: str) -> None:
    """Refuse a file whose name promises another format than is written.

    Raises:
        UserError: with the formats.
    """
    if out is not None and out.suffix not in known:
        raise UserError(f"--out {out}: name a file that ends in {' or '.join(known)}")


def check_caps(caps: int | dict[str, int] | None) -> None:
    """Refuse a number of cells that is not one, where each task may have its own.

    Raises:
        UserError: a name is no task, or a value is no count.
    """
    tasks = ("cell_type", "disease", "age")
    for name, cap in caps.items() if isinstance(caps, dict) else ():
        if name not in tasks:
            raise UserError(f"--max_cells names {name!r}, which is no task; tasks: {', '.join(tasks)}")
        if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
            raise UserError(f"--max_cells of {name} must be at least 1, got {cap!r}")


@dataclass(frozen=True, kw_only=True)
class Demo(RunOptions):
    """R2MAE against fixed ratios, scVI and PCA on 700 real blood cells."""

    n_hidden: Width = 128
    """Width of the hidden layers."""
    n_latent: Width = 64
    """Width of the latent space."""
    epochs: Count = 60
    """Passes over the data."""
    batch_size: Annotated[int, Bound(2)] = 64
    """Cells of an optimizer step."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds for initialisation, masks and data order; each method is trained once with each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lists(self, "seeds")


@dataclass(frozen=True)
class Simulate:
    """Write a simulated atlas with known truth, in the layout of a real one."""

    layout: Literal["hlca", "seaad", "seaad-allen"] = "hlca"
    """Columns and counts as in the Human Lung Cell Atlas, or as in SEA-AD from CELLxGENE or the Allen Institute."""
    n_donors: Annotated[int, Bound(6, 100_000)] = 40
    """Donors."""
    n_cells: Size = 20_000
    """Cells."""
    n_genes: Annotated[int, Bound(20, 100_000)] = 2000
    """Genes."""
    n_types: Annotated[int, Bound(2, 1000)] = 8
    """Cell types."""
    donor_effect: Annotated[float, Bound(0, 10)] = 0.2
    """Strength of the effect of each donor."""
    age_effect: Annotated[float, Bound(0, 10)] = 0.12
    """Strength of the age programme."""
    disease_effect: Annotated[float, Bound(0, 10)] = 0.35
    """Strength of the disease programmes."""
    seed: Seed = 0
    """Seed for everything that is drawn."""
    out: Path | None = None
    """The h5ad file to write; default runs/r2mae-singlecell-simulate-TIME.h5ad."""
    overwrite: bool = False
    """Replace a file that is there."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Prepare:
    """Select variable genes, check the counts, and write one file that training maps into memory."""

    source: tuple[Path, ...]
    """h5ad, h5mu, zarr, Cell Ranger's h5 or mtx folder, or loom, of any size; several become one store. FILE::PLACE
    names the place of the counts in one file."""
    _: KW_ONLY
    preset: Literal["auto", "hlca", "seaad", "seaad-allen", "none"] = "auto"
    """auto: an atlas recognised by its columns, else the columns donor or donor_id, batch, cell_type, disease, age or
    development_stage, where they are there; none: the columns named below alone."""
    counts: str | None = None
    """Place of the raw counts in the files, such as X, raw/X or layers/counts; default: the atlas's, else X."""
    genes: Literal["intersection", "union"] = "intersection"
    """Of several files: genes that all have, or that any has; what a file lacks counts as hidden in its cells."""
    duplicates: Literal["refuse", "sum", "first", "unique"] = "refuse"
    """Genes of one name in a file: an error; the sum of their counts; the first one; or genes of their own, renamed."""
    gene_column: str | None = None
    """Column of var that names the genes, where a file has it; default: the names of the rows."""
    round: bool = False
    """Round fractional counts, as SoupX and STARsolo write them. Counts whole up to 1e-6 are rounded always."""
    missing_batch: Literal["refuse", "drop", "own"] = "refuse"
    """Cells without a batch: an error; left out; or each file's are a batch of their own."""
    donor_column: str | None = None
    """Column of the donor."""
    batch_column: str | None = None
    """Column of the batch covariate; of several files, file: each is a batch."""
    cell_type_column: str | None = None
    """Column of the fine cell type."""
    disease_column: str | None = None
    """Column of the disease."""
    age_column: str | None = None
    """Column of the age in years, or of development stages that name them."""
    n_genes: Count = 5000
    """Variable genes to keep."""
    like: Path | None = None
    """A run, a model's folder or a prepared file, whose genes are taken, in its order, by name or Ensembl id, instead
    of the variable ones; what a file lacks counts as hidden in its cells."""
    min_genes_found: Annotated[float, Bound(0, 1)] = 0.5
    """Least share of the genes of --like that each file must have."""
    min_genes: Natural | None = None
    """Drop cells with fewer non-zero variable genes; default: the preset's (20 for HLCA)."""
    target_sum: Positive | None = None
    """Total to which cells are normalised before genes are selected; default: the median, as in scanpy."""
    out: Path | None = None
    """The h5ad file to write; default runs/r2mae-singlecell-prepare-TIME.h5ad."""
    overwrite: bool = False
    """Replace a file that is there."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.like is not None:
            for name, given in (("n_genes", self.n_genes != 5000), ("target_sum", self.target_sum is not None)):
                if given:
                    raise UserError(f"--like takes the genes of {self.like}; leave out --{name}, which chooses others")
            if self.genes == "union" or self.duplicates == "unique":
                what = "--genes union" if self.genes == "union" else "--duplicates unique"
                raise UserError(f"--like takes the genes of {self.like}; leave out {what}, which would add others")


@dataclass(frozen=True)
class Pretrain(PretrainOptions):
    """Pretrain the masked autoencoder on a prepared file."""

    data: Path
    """The file that prepare wrote."""
    _: KW_ONLY
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic, cl, cl-k0, r2mae+cl, r2mae+cl-k0; or another's:
    scgpt, llada, …), a number, or a sampler, such as --mask_ratio Uniform --mask_ratio.low 0.1
    --mask_ratio.high 0.5."""
    mask_shape: MaskShape = "independent"
    """independent: genes are hidden one by one (the paper's); groups: the genes of a set together, with --gene_sets."""
    gene_sets: Path | None = None
    """The sets of --mask_shape groups, in GMT form (gzip too): name, description and genes, separated by tabs."""
    scale_curriculum: bool = True
    """Curriculum schemes: scale the paper's marks (5,000, 30,000 and 120,000 steps) to the length of this training."""
    n_hidden: Width = 1024
    """Width of the hidden layers."""
    n_latent: Width = 512
    """Width of the latent space."""
    epochs: Count = 50
    """Passes over the data."""
    batch_size: Annotated[int, Bound(2)] = 400
    """Cells of an optimizer step, over all devices; at most the number of training cells."""
    micro_batch_size: Count | None = None
    """Cells that one device computes at once, with a batch norm of their own; default: its whole share of the batch."""
    shuffle: Literal["auto", "exact", "blocks"] = "auto"
    """exact: every order of the cells is as likely as any other; blocks: chunks of neighbours are pooled and mixed, for
    files larger than memory; auto: exact if the counts fit into half of the memory that is available, else blocks."""
    chunk: Count = 128
    """--shuffle blocks: neighbouring cells that are read together; 32,768 cells are mixed at a time."""
    lr: Positive = 1e-3
    """Adam's learning rate."""
    weight_decay: NonNegative = 1e-4
    """Adam's weight decay."""
    eps: Positive = 1e-8
    """Adam's epsilon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_shape == "groups" and self.gene_sets is None:
            raise UserError("--mask_shape groups needs --gene_sets FILE.gmt: which genes are hidden together")
        if self.mask_shape != "groups" and self.gene_sets is not None:
            raise UserError("--gene_sets needs --mask_shape groups; without it no gene set is used")


@dataclass(frozen=True)
class Sweep(SweepOptions):
    """Find the mask ratio for your cells and your task: short pretrainings, probes, and a curve through them."""

    data: Path
    """The file that prepare wrote."""
    _: KW_ONLY
    task: Literal["cell_type", "disease", "age"] = "cell_type"
    """What is predicted from the embeddings: by balanced accuracy, AUROC (disease of SEA-AD) or Spearman (age)."""
    held_out: Literal["donors", "cells"] = "donors"
    """What the probe has not seen: whole donors, or, where there are too few of them, cells."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Options of pretrain, such as {"epochs": 20, "n_hidden": 128}; epochs is the full length."""
    probe: dict[str, Any] = field(default_factory=dict)
    """Options of probe: n_splits, train_share, max_cells, standardize."""


@dataclass(frozen=True)
class NewData:
    """Cells of any file for a trained model."""

    run: Path
    """Run folder that pretrain wrote, or a model's folder (of embed --out_model, or of `R2MAE.export` in Python); run
    and data may stand in either order."""
    data: Path
    """A file of any format that prepare reads, prepared or not."""
    _: KW_ONLY
    counts: str | None = None
    """Place of the raw counts in the file, such as X, raw/X or layers/counts; default X."""
    batch: str | None = None
    """For cells of batches that the model does not know: one that it knows, or mean for the mean of all that it knows;
    default: such cells are refused."""
    batch_column: str | None = None
    """Column of the batch; default: the name that it had in training."""
    duplicates: Literal["hide", "first", "sum"] = "hide"
    """What becomes of a gene of the model that several genes of the data could be."""
    min_genes_found: Annotated[float, Bound(0, 1)] = 0.5
    """Least share of the model's genes that the data must have; the others are hidden."""
    round: bool = False
    """Round fractional counts (SoupX, STARsolo) instead of refusing them."""
    device: Device = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Replace a file that is there."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Embed(NewData):
    """Write the embedding of every cell of any file."""

    _: KW_ONLY
    out: Path | None = None
    """The h5ad file to write: obs, the embedding in obsm["X_r2mae"], and in uns how the cells were fitted to the model;
    default runs/r2mae-singlecell-embed-TIME.h5ad."""
    adapt: bool = False
    """First learn the batches that the model does not know, from their cells (scArches); all other weights stay."""
    adapt_epochs: Count = 100
    """--adapt: passes over these cells."""
    adapt_lr: Positive = 1e-3
    """--adapt: Adam's learning rate."""
    seed: Seed = 0
    """--adapt: seed for the new weights, masks and order."""
    out_model: Path | None = None
    """--adapt: the folder for the adapted model; embed, impute, surprise, report and prepare --like take it as RUN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_suffix(self.out, ".h5ad")
        if self.adapt and self.batch is not None:
            raise UserError(
                f"--batch {self.batch} and --adapt: batches are either taken as others or learned; give one"
            )
        if self.adapt != (self.out_model is not None):
            raise UserError("--adapt and --out_model FOLDER belong together: the adapted model is kept there")


@dataclass(frozen=True)
class Impute(NewData):
    """Predict the genes of every cell of any file from those not hidden with them, also genes that the file lacks."""

    _: KW_ONLY
    genes: tuple[str, ...] = ()
    """Genes to hide together and to predict, by name or id; default: all, in random groups."""
    mask_ratio: Share = 0.25
    """Fraction of all genes in such a group."""
    seed: Seed = 0
    """Seed for the groups."""
    out: Path | None = None
    """The h5ad file to write: X (dense float32), obs and the model's genes; default
    runs/r2mae-singlecell-impute-TIME.h5ad."""
    library_size: Positive = 1.0
    """What a cell's expression sums to over all of the model's genes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_suffix(self.out, ".h5ad")
        check_lists(self, "genes", empty=True)


@dataclass(frozen=True)
class Surprise(NewData):
    """Say how unlikely the counts of each cell and gene are, given the genes not hidden with them."""

    _: KW_ONLY
    mask_ratio: Share = 0.25
    """Fraction of all genes that is hidden together."""
    seed: Seed = 0
    """Seed for the groups."""
    out: Path | None = None
    """The file to write: h5ad with masked_nll in obs and var, or tsv; default
    runs/r2mae-singlecell-surprise-TIME.h5ad."""
    table: Literal["cells", "genes"] = "cells"
    """What a tsv file lists; an h5ad file has both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_suffix(self.out, ".h5ad", ".tsv")


@dataclass(frozen=True)
class Report:
    """Look at an embedding, beside PCA and a shuffle: UMAP, markers, mixing of batches, scib-metrics' table."""

    embedding: Path
    """Run folder of pretrain, a model's folder, or an h5ad file with an embedding (that embed wrote, or another)."""
    data: Path
    """The file with the counts of these cells, of any format that prepare reads."""
    _: KW_ONLY
    key: str | None = None
    """Name in obsm of the embedding's file; default X_r2mae, or the only one."""
    counts: str | None = None
    """Place of the raw counts in the file, such as X, raw/X or layers/counts; default X."""
    batch: str | None = None
    """For cells of batches that the model does not know: see embed."""
    batch_column: str | None = None
    """Column of the batch; default batch."""
    label_column: str | None = None
    """Column of the cell type; default cell_type."""
    columns: tuple[str, ...] | None = None
    """Columns that the UMAP is coloured by; default: cell type, batch, donor and disease, where they are there."""
    n_markers: Annotated[int, Bound(1, 50)] = 3
    """Marker genes of each cell type."""
    max_cells: Annotated[int, Bound(100)] = 10_000
    """Most cells that are drawn and measured; of more, these are random ones."""
    round: bool = False
    """Round fractional counts (SoupX, STARsolo) instead of refusing them."""
    seed: Seed = 0
    """Seed for what is drawn at random: cells, UMAP, the shuffle."""
    device: Device = "auto"
    """Where to compute the embedding."""
    progress: bool = True
    """Show a progress bar."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-report-TIME."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.columns is not None:
            check_lists(self, "columns")


@dataclass(frozen=True)
class Probe:
    """Predict cell type, disease and age from embeddings, across donors."""

    runs: tuple[Path, ...]
    """Run folders that pretrain wrote."""
    data: Path
    """The file that prepare wrote."""
    _: KW_ONLY
    baselines: tuple[str, ...] = ("log-norm", "shuffled")
    """log-norm, pca, scvi, scvi=N (latent size N), obsm:KEY (an embedding of yours), shuffled (chance)."""
    tasks: tuple[Literal["cell_type", "disease", "age"], ...] | None = None
    """What to predict; default: what the data have values of, and the rest is named."""
    held_out: Literal["donors", "cells"] = "donors"
    """What the probe has not seen: whole donors (the paper's), or, where there are too few of them, cells."""
    n_splits: Annotated[int, Bound(1, 1000)] = 5
    """Random divisions of the donors. Those that cannot be measured are left out and named."""
    train_share: Share = 0.5
    """Share of the donors to train on; the paper does not state its share."""
    max_cells: Count | dict[str, int] | None = None
    """Most cells of a donor: a number, or one for each task, such as '{"cell_type": 500}'; default 1,000. With
    --held_out cells: of all; default 100,000."""
    standardize: bool = True
    """Scale the features by the training cells; the paper does not say."""
    epochs: Count = 50
    """Epochs of scVI."""
    seed: Seed = 0
    """Seed for the divisions of the donors, and for scVI."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-probe-TIME."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.tasks is not None:
            check_lists(self, "tasks")
        check_lists(self, "baselines", empty=True)
        check_caps(self.max_cells)


@dataclass(frozen=True)
class Reconstruct:
    """Correlation of hidden genes with their prediction, at several ratios, with the same masks for every model."""

    runs: tuple[Path, ...]
    """Run folders that pretrain wrote."""
    data: Path
    """The file that prepare wrote."""
    _: KW_ONLY
    baselines: tuple[str, ...] = ()
    """scvi, or scvi=N."""
    genes: Literal["hidden", "all"] = "hidden"
    """Correlate over the hidden genes or over all."""
    max_cells: Count | None = 20_000
    """Most validation cells, drawn at random, the same for every method and seed; null: all, as in the paper."""
    ratios: tuple[Share, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    """Fractions hidden."""
    epochs: Count = 50
    """Epochs of scVI."""
    seed: Seed = 0
    """Seed for scVI."""
    device: Device = "auto"
    """Where to compute."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-reconstruct-TIME."""

    def __post_init__(self) -> None:
        check_bounds(self)
        check_lists(self, "ratios")
        check_lists(self, "baselines", empty=True)


@dataclass(frozen=True)
class Reproduce(RunOptions):
    """Reproduce a table of the paper: schemes × seeds, our values beside the paper's. Finished trainings are kept."""

    target: Literal["table4", "table6", "table7", "table8"]
    """table4: SEA-AD probes; table6: HLCA probes; table7: SEA-AD reconstruction; table8: HLCA reconstruction."""
    data: Path
    """The prepared atlas; a simulated one shows that the code runs, not the paper's numbers."""
    _: KW_ONLY
    n_splits: Annotated[int, Bound(1, 1000)] = 5
    """Random divisions of the donors."""
    train_share: Share = 0.5
    """Share of the donors to train the probes on; the paper does not state its share."""
    max_cells: Count | dict[str, int] | None = None
    """Most cells of a donor: a number, or one for each task, such as '{"cell_type": 500}' (the paper has a number of
    its own there for SEA-AD, and states none); default 1,000."""
    standardize: bool = True
    """Scale the features of the probes by the training cells; the paper does not say."""
    scale_curriculum: bool | None = None
    """Curriculum schemes: scale the paper's marks (5,000, 30,000 and 120,000 steps) to the length of the training;
    default: only if the training is shorter than 120,000 steps, else they are the paper's."""
    scale_dynamic: bool | None = None
    """Dynamic schemes: fall to the lower bound over the training, whatever its length; false: by the paper's 1/300,000
    (HLCA) or 1/150,000 (SEA-AD) of the range a step; default: scale only if it is shorter than 120,000 steps."""
    schemes: tuple[str, ...] = (
        "fixed", "low", "high", "mdlm", "dynamic", "cl", "cl-k0", "r2mae", "r2mae+dynamic", "r2mae+cl", "r2mae+cl-k0",
    )  # fmt: skip
    """Schemes of the table's rows."""
    baselines: tuple[str, ...] = ("log-norm", "scvi")
    """Rows without masks. obsm:X_scgpt (table4), obsm:X_scgpt_lung, obsm:X_scgpt_all, obsm:X_scgpt_cp, obsm:X_uce_4l
    and obsm:X_uce_33l (table6) are the paper's rows of scGPT and UCE, if the data hold their embeddings."""
    n_hidden: Width = 1024
    """Width of the hidden layers."""
    n_latent: Width = 512
    """Width of the latent space."""
    epochs: Count = 50
    """Passes over the data."""
    batch_size: Annotated[int, Bound(2)] = 400
    """Cells of an optimizer step."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds for initialisation, masks, dropout and data order."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-singlecell-reproduce-TIME. Finished trainings there are kept; tables of one atlas
    may share a folder, and so their models."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lists(self, "seeds")
        check_lists(self, "schemes", "baselines", empty=True)
        check_caps(self.max_cells)
