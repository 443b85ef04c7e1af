"""The options of every command. Nothing heavy is imported here, because `--help` reads this module."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from r2mae_core import (
    Bound,
    Count,
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
    refuse_options,
)
from r2mae_dna.limits import Layers, Ratio, Width, Window, is_scan_table, refuse_repeats

Size = Literal["tiny", "small", "base"]


@dataclass(frozen=True)
class MsaBuild:
    """Build an alignment store from MAF files."""

    reference: str
    """Species whose coordinates the store has, as the MAF writes it before the chromosome, such as hg38 or
    GCA_028858775.2."""
    mafs: tuple[Path, ...]
    """MAF files, plain or gzipped; several are joined, such as one per chromosome."""
    species: str = ""
    """The other species in the order of the columns, separated by commas or spaces, or a file that lists them or is a
    tree (Newick); default: all, in order of first appearance. A model's order must be the same. Names may have dots: a
    row is of the longest name that its own begins with."""
    fasta: Path | None = None
    """Reference genome (FASTA, plain or gzipped, or 2bit): checked against the alignment, and fills what no block
    covers."""
    case: Literal["maf", "fasta"] | None = None
    """Whose lower-case letters are soft-masked, everywhere: the alignment's (what no block covers is upper-case) or the
    genome's; default: the genome's, if --fasta is given."""
    out: Path | None = None
    """Folder of the store; default runs/r2mae-dna-msa-build-TIME. The same command with the same --out goes on after an
    interruption."""
    workers: Count = 1
    """Processes that share the chromosomes; the store is the same for any number."""
    part: str = ""
    """I/N, such as 2/8: build only this part of the chromosomes, on any machine; `msa-merge` joins the parts."""
    overwrite: bool = False
    """Replace a store that is there."""
    progress: bool = True
    """Show progress bars, and before them an estimate of disk and time."""


@dataclass(frozen=True)
class MsaMerge:
    """Join the parts of a build, or stores of different chromosomes, into one store."""

    parts: tuple[Path, ...]
    """Alignment stores: of a build, all its parts in any order; others in the order that the chromosomes shall have."""
    out: Path | None = None
    """Folder of the store; default runs/r2mae-dna-msa-merge-TIME."""
    overwrite: bool = False
    """Replace a store that is there."""


@dataclass(frozen=True)
class MsaInfo:
    """Describe the contents of an alignment store."""

    msa: Path
    """Alignment store."""


@dataclass(frozen=True)
class MsaShow:
    """Show a region of the alignment in the terminal."""

    msa: Path
    """Alignment store."""
    region: str
    """chr22:50,300,078-50,300,140 (1-based, both ends included), chr22:50,300,078 or chr22; several are separated by
    spaces."""
    dots: bool = False
    """Write a dot where a species has the reference's letter."""


@dataclass(frozen=True)
class Prepare:
    """Cut training windows from an alignment store into one memory map."""

    msa: Path
    """Alignment store."""
    _: KW_ONLY
    more_msa: tuple[Path, ...] = ()
    """More alignment stores, of other chromosomes and the same species, such as [chr21,chr22]; they are read as one."""
    window: Window = 128
    """Bases per window."""
    step: Count = 64
    """Bases between the starts of neighbouring windows."""
    only: str = ""
    """Regions to train on, separated by spaces; default: everything."""
    validation_regions: str = ""
    """Regions held out for validation, such as "chr20:1-1,000,000 chr21"."""
    test_regions: str = ""
    """Regions held out for testing."""
    phastcons: Path | None = None
    """bigWig of phastCons, for loss weights, the label flip, and the filter below."""
    phylop: Path | None = None
    """bigWig of phyloP, for loss weights."""
    top: Share = 0.05
    """With tracks: fraction of the store's windows, over all chromosomes and whatever the regions, kept because they
    are the most conserved; 1 keeps all. Windows of which less than half has phastCons are never among them."""
    rest: Share = 0.001
    """With tracks: fraction of the other windows kept at random."""
    quantile: Share = 0.75
    """With tracks: quantile of a window's known phastCons by which it is ranked."""
    seed: Seed = 42
    """Seed for the choice among the other windows."""
    out: Path | None = None
    """Folder of the windows; default runs/r2mae-dna-prepare-TIME."""
    overwrite: bool = False
    """Replace a folder of windows that is there."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class PrepareTable:
    """Make training windows from tables of them, as GPN-MSA published its own, and an alignment store."""

    msa: Path
    """Alignment store, or the published one."""
    train_table: Path
    """Parquet with chrom, start, end (from 0, end excluded), strand, and phyloP, phastCons and lowercase as lists."""
    validation_table: Path | None = None
    """The same for validation."""
    test_table: Path | None = None
    """The same for testing."""
    _: KW_ONLY
    more_msa: tuple[Path, ...] = ()
    """More alignment stores, of other chromosomes and the same species, such as [chr21,chr22]; they are read as one."""
    out: Path | None = None
    """Folder of the windows; default runs/r2mae-dna-prepare-table-TIME."""
    overwrite: bool = False
    """Replace a folder of windows that is there."""


@dataclass(frozen=True)
class Pretrain(PretrainOptions):
    """Pretrain an alignment model on windows."""

    data: Path
    """Folder of windows that prepare wrote."""
    _: KW_ONLY
    max_windows: Count = 2048
    """Most windows that a validation uses."""
    validation_ratios: tuple[Ratio, ...] = (0.05, 0.15, 0.3)
    """Fixed mask ratios of the validation loss; the middle one decides on early stopping and the best model."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """A scheme (fixed, low, high, mdlm, dynamic, r2mae, r2mae+dynamic, cl, cl-k0, r2mae+cl, r2mae+cl-k0; or another's:
    llada, mmbert, scgpt, …), a number, or a sampler, such as --mask_ratio Uniform --mask_ratio.low 0.05
    --mask_ratio.high 0.3."""
    mask_shape: Literal["independent", "spans"] = "independent"
    """independent: each base is hidden for itself (the paper's); spans: neighbouring ones together."""
    mean_span: Annotated[float, Bound(1)] | None = None
    """With spans: their mean length in bases, from 1; default 3."""
    freeze_steps: Natural | None = None
    """Steps for which the curriculum head is frozen, instead of the scheme's own 5000."""
    falls_from: Literal["thaw", "start"] | None = None
    """Where the curriculum's multiplier begins its fall from +1 to -1, instead of the scheme's own: thaw, when the head
    does (how the paper is read here), or start, with the first step of the training."""
    targets: Literal["reference", "all"] = "reference"
    """Whose hidden letters are predicted: the reference's (GPN-MSA), or those of all species in the alignment."""
    mask_over: Literal["letters", "columns", "rows"] = "letters"
    """With --targets all, what the mask ratio is a share of: each species' bases, the columns (hidden in all species),
    or the species (hidden in the whole window)."""
    species_weights: Literal["equal", "similarity", "phylogeny"] = "equal"
    """With --targets all: how the other species share their weight in the loss. similarity: species with 80 % of their
    bases in common share one; phylogeny: by the branches of --tree."""
    others_weight: Positive = 1.0
    """With --targets all: weight of all other species together; the reference's is 1."""
    tree: Path | None = None
    """Newick file with every species as a leaf, and branch lengths; for --species_weights phylogeny."""
    mask_share: Share = 0.8
    """Share of hidden bases shown as the mask."""
    random_share: Share = 0.1
    """Share of hidden bases shown as a random base; the rest is shown as it is."""
    soft_mask_weight: NonNegative = 0.1
    """Loss weight where the reference is lower-case."""
    conservation_weights: bool = True
    """Weight the loss by max(phyloP, 1) x (0.1 + phastCons), if the windows have tracks."""
    label_flip: Share = 0.5
    """Probability of a random label where phastCons < 0.1, if the windows have tracks."""
    model: Size = "base"
    """tiny (4 layers, 256 wide), small (8, 512) or base (12, 768: GPN-MSA)."""
    n_hidden: Width | None = None
    """Width, instead of the model's; at least 6 + 5 per species, and a multiple of twice n_heads."""
    n_layers: Layers | None = None
    """Layers, instead of the model's."""
    n_heads: Width | None = None
    """Attention heads, instead of one per 64 of the width."""
    dropout: Share = 0.1
    """Dropout of activations and of attention."""
    steps: Count = 30_000
    """Optimizer steps."""
    batch_size: Count = 2048
    """Samples (windows) of an optimizer step, over all devices."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 512."""
    lr: Positive = 1e-4
    """Peak learning rate of AdamW."""
    warmup: Share = 1 / 30
    """Share of the steps in which the rate rises; it then falls as a cosine to zero."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay; biases and norms have none."""
    clip: Positive | None = 1.0
    """Largest gradient norm; null: no clipping."""
    patience: Count | None = None
    """Stop after so many validations without a better loss; null: never. `-c paper` has 1."""
    keep: Literal["best", "last"] = "best"
    """Which model is saved at the end: the best on the validation windows, if there are any, or the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_repeats("validation_ratios", self.validation_ratios)
        if self.mean_span is not None and self.mask_shape != "spans":
            raise UserError(
                f"--mean_span {self.mean_span:g} is of --mask_shape spans, and the shape is {self.mask_shape}; leave "
                "it out, or add --mask_shape spans"
            )
        if self.targets == "reference":
            foreign = ("mask_over", "species_weights", "others_weight", "tree")
            refuse_options(self, dict.fromkeys(foreign, "--targets all"), "--targets reference")
        if self.targets == "all" and self.mask_shape == "spans" and self.mask_over != "columns":
            raise UserError(
                f"--mask_shape spans hides columns together, and does not go with --mask_over {self.mask_over}"
            )
        if (self.tree is None) == (self.species_weights == "phylogeny"):
            raise UserError("--species_weights phylogeny and --tree FILE need each other")


@dataclass(frozen=True)
class Sweep(SweepOptions):
    """Find the mask ratio for your alignment: short pretrainings, the evaluation of each, and a curve through them."""

    data: Path
    """Folder of windows that prepare wrote."""
    _: KW_ONLY
    variants: Path | None = None
    """Labelled variants by which models are compared (auroc, auprc), as `score` and `evaluate` read them. Default: the
    bundled ones if the windows are of the bundled alignment, else none: the loss on validation windows at a fixed
    ratio."""
    msa: Path | None = None
    """Alignment store that the variants are scored with."""
    pretrain: dict[str, Any] = field(default_factory=dict)
    """Options of pretrain, such as {"model": "small", "steps": 2000}; steps is the full length."""
    score: dict[str, Any] = field(default_factory=dict)
    """Options of score: window (default that of the windows), min_defined, max_mismatch, batch_size, precision."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Options of evaluate: preset, label, keep_duplicates, max_fpr."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.variants is None) != (self.msa is None):
            have, lack = ("variants", "msa") if self.msa is None else ("msa", "variants")
            raise UserError(f"--{have} needs --{lack}: variants are scored with the alignment store; give both or none")
        if unused := [name for name in ("score", "evaluate") if getattr(self, name) and self.variants is None]:
            raise UserError(f"--{unused[0]} is for --variants, and none are given; leave it out")


@dataclass(frozen=True)
class Probe(RunOptions):
    """Held-out masked prediction: the model against the column's plurality, a shuffled alignment, and both strands."""

    model: Path
    """Run folder of pretrain, or the folder of a published model."""
    data: Path
    """Folder of windows that prepare wrote."""
    _: KW_ONLY
    split: Literal["validation", "test", "train"] = "validation"
    """Which windows to use."""
    ratios: tuple[Ratio, ...] = (0.05, 0.15, 0.3)
    """Fixed mask ratios."""
    max_windows: Count = 2048
    """Most windows that are used."""
    batch_size: Count = 64
    """Windows per forward pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_repeats("ratios", self.ratios)


@dataclass(frozen=True)
class Score(RunOptions):
    """Score variants with a model, with the alignment's own frequencies, or by a finished scan."""

    model: str
    """Run folder of pretrain, the folder of a published model, `frequencies` (no network), or scores of `scan`, or any
    bgzipped, indexed table of chrom, pos, ref, alt and scores, that are looked up: `score SCAN.tsv.gz VARIANTS`."""
    msa: Path
    """Alignment store; not given where `model` is a table of scores."""
    variants: Path
    """VCF (plain, gzipped or bgzipped), BCF, or TSV, CSV or Parquet with chrom, pos, ref, alt (TSV and CSV also without
    these names in a first line); `-`: standard input."""
    _: KW_ONLY
    more_msa: tuple[Path, ...] = ()
    """More alignment stores, of other chromosomes and the same species, such as [chr21,chr22]; they are read as one."""
    regions: str = ""
    """Score (and write) only the variants whose positions are in these regions, separated by spaces, such as
    "chr22:1,000-2,000 chrX". By its index (.tbi, .csi), if a bgzipped VCF or TSV or a BCF has one that is of this file
    and not older; else the whole file is read."""
    bed: Path | None = None
    """BED file of more regions, plain or gzipped."""
    scan_column: str = ""
    """Of a table of scores in the model's place: which column, or INFO field; default: ours, or the only one."""
    name: str = "llr"
    """Name of the score: column r2mae_NAME, in a VCF INFO R2MAE_NAME. Several scores in one file need different
    names."""
    window: Window | None = None
    """Bases that the model sees around a variant; default: what it was trained on."""
    min_defined: Share = 0.0
    """Fraction of the window that must have a reference base; a variant below is `no_alignment`."""
    max_mismatch: Share = 0.05
    """Stop when more of the reference alleles than this disagree with the alignment."""
    force: bool = False
    """Score even if more reference alleles than --max_mismatch disagree."""
    strict: bool = False
    """Fail if any variant cannot be scored."""
    aliases: str = "auto"
    """auto: a chromosome may be named in another style (22, chr22, NC_000022.11), if one in the store fits; none; or a
    file of two columns, the variants' name and the store's."""
    batch_size: Count = 256
    """Sites per forward pass; each is seen on both strands."""
    chunk: Count = 20_000
    """Variants between two saved states, from which an interrupted run continues."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    out: Path | None = None
    """Output; its suffix sets the format: .vcf, .vcf.gz, .bcf, .tsv, .csv or .parquet; `-`: standard output. Default:
    runs/r2mae-dna-score-TIME with the input's suffix, or standard output for standard input."""
    overwrite: bool = False
    """Replace a file that is there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_scan_table(self.model):
            refuse_options(self, {"scan_column": "a table of scores"}, f"the model {self.model}")
            return
        of_model = ("more_msa", "window", "min_defined", "batch_size", "precision", "compile")
        refuse_options(self, dict.fromkeys(of_model, "a model"), f"the scores in {self.model}")
        if self.msa != Path(self.model):
            raise UserError(
                f"{self.model} has reference bases of its own, and {self.msa} would not be read; leave it out: "
                "score SCAN VARIANTS"
            )


@dataclass(frozen=True)
class Scan(RunOptions):
    """Score every single-nucleotide change of regions or of a whole genome."""

    model: str
    """Run folder of pretrain, the folder of a published model, or `frequencies` (no network)."""
    msa: Path
    """Alignment store."""
    _: KW_ONLY
    more_msa: tuple[Path, ...] = ()
    """More alignment stores, of other chromosomes and the same species, such as [chr21,chr22]; they are read as one."""
    regions: str = ""
    """Regions, separated by spaces, such as "chr22:1,000-2,000 chrX"; default: everything in the store."""
    bed: Path | None = None
    """BED file of more regions, plain or gzipped."""
    formats: tuple[Literal["tsv", "vcf", "worst", "mean", "alleles"], ...] = ("tsv",)
    """tsv, vcf: scores.tsv.gz, scores.vcf.gz, bgzipped, with a tabix index, a line per change; worst, mean: bigWig of
    the least or the mean score of a site's three changes; alleles: A.bw, C.bw, G.bw and T.bw."""
    figure: str = ""
    """Region to draw (region.png): scores of each change, letters, and the tracks."""
    tracks: tuple[Path, ...] = ()
    """bigWig files, such as phyloP, that the picture shows as well."""
    name: str = "llr"
    """Name of the score: column r2mae_NAME, in a VCF INFO R2MAE_NAME."""
    window: Window | None = None
    """Bases that the model sees around a site; default: what it was trained on."""
    min_defined: Share = 0.0
    """Fraction of the window that must have a reference base; other sites are left out and counted."""
    part: str = ""
    """Compute one of several parts, such as 2/8, on any machine that sees the same --out; a later --join makes the
    files."""
    join: bool = False
    """Compute nothing: make the files from the parts in --out."""
    batch_size: Count = 256
    """Sites per forward pass; each is seen on both strands."""
    chunk: Count = 16_384
    """Positions between two saved states, from which an interrupted scan continues."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile the model."""
    overwrite: bool = False
    """Replace a scan that is there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_repeats("formats", self.formats)
        if self.part and self.join:
            raise UserError("--part computes a part, and --join joins them; give one of the two")
        if self.tracks and not self.figure:
            raise UserError("--tracks are drawn into the picture; name its region with --figure")


@dataclass(frozen=True)
class Embed(RunOptions):
    """Write what a network says about sites: probabilities, logits, or the last layer's vectors."""

    model: str
    """Run folder of pretrain, or the folder of a published model."""
    msa: Path
    """Alignment store."""
    _: KW_ONLY
    more_msa: tuple[Path, ...] = ()
    """More alignment stores, of other chromosomes and the same species, such as [chr21,chr22]; they are read as one."""
    regions: str = ""
    """Regions whose sites are wanted, separated by spaces, such as "chr22:1,000-2,000"."""
    bed: Path | None = None
    """BED file of more regions."""
    variants: Path | None = None
    """Variants, as `score` reads them, whose sites are wanted as well."""
    what: Literal["probabilities", "logits", "embeddings"] = "embeddings"
    """probabilities, logits: of A, C, G, T at the hidden site; embeddings: the last layer's vector at the visible site.
    Each is the mean of both strands."""
    window: Window | None = None
    """Bases that the model sees around a site; default: what it was trained on."""
    batch_size: Count = 256
    """Sites per forward pass."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    out: Path | None = None
    """Output: .npz (arrays chrom, pos, ref, values) or .parquet (a column per number); a row per site with a reference
    base, in the order of the genome. Default: runs/r2mae-dna-embed-TIME.npz."""
    overwrite: bool = False
    """Replace a file that is there."""


@dataclass(frozen=True)
class Evaluate:
    """AUROC, AUPRC and the field's other metrics of every score column, on the same rows."""

    table: Path
    """VCF, TSV, CSV or Parquet with labels and one or more scores."""
    preset: Literal["clinvar", "omim", "rare-common", "traitgym", "gnomad"] | None = None
    """clinvar: missense, AUROC and AUPRC, of a labelled table or ClinVar's own VCF; omim: regulatory, partial AUROC,
    AUPRC and AUPRC per class; rare-common: a VCF with AC and AN, rare (1 to 2 copies) against common (above 5 %)
    alleles; traitgym: AUPRC weighted over chromosomes, and pairwise accuracy in matched groups; gnomad: bins of allele
    frequency (AF, or AC and AN) against common alleles."""
    scores: tuple[str, ...] = ()
    """Score columns; default: every numeric column that is not an annotation, ours first. In a VCF: INFO fields;
    default: every R2MAE_ score."""
    label: str = "label"
    """Column of labels: true/false, 1/0, Pathogenic/Benign or Pathogenic/Common."""
    regions: str = ""
    """Evaluate (and count) only the variants whose positions are in these regions, separated by spaces, such as
    "chr22:1,000-2,000 chrX". If the file has an index, as for `score`, only these parts are read; else the whole
    file."""
    bed: Path | None = None
    """BED file of more regions, plain or gzipped."""
    group: str = "consequence"
    """Column of classes, if the table has it."""
    higher_is_worse: bool = False
    """Scores grow with the damage; default: they fall, as log-likelihood ratios do."""
    absolute: bool = False
    """A score's distance from 0 counts, as TraitGym takes log-likelihood ratios for complex traits."""
    phylop: Path | None = None
    """bigWig of phyloP, evaluated beside the scores; it grows with the damage, whatever the scores do."""
    phastcons: Path | None = None
    """bigWig of phastCons, likewise."""
    scan: tuple[Path, ...] = ()
    """Scores of `scan`, or other bgzipped, indexed tables of chrom, pos, ref, alt and scores, that are looked up
    and evaluated beside the variants' own."""
    scan_column: str = ""
    """Which column, or INFO field, of these; default: ours, or the only one."""
    combine: bool = False
    """Also evaluate all scores together, by logistic regression with each chromosome held out."""
    match_group: str = "match_group"
    """With --preset traitgym: column that names the group of a positive and its matched negatives, if the table has
    it."""
    stars: Annotated[int, Bound(0, 4)] = 1
    """Of ClinVar's VCF: least review status, in stars."""
    likely: bool = False
    """Of ClinVar's VCF: likely pathogenic and likely benign count as labels too."""
    molecular_consequence: str | None = None
    """Of ClinVar's VCF: only variants with this consequence (MC), such as missense_variant."""
    keep_duplicates: bool = False
    """Keep variants that appear more than once; default: all their rows are dropped, as GPN-MSA does."""
    max_fpr: Ratio = 0.001
    """Largest false-positive rate of the partial AUROC (standardised: 0.5 is chance)."""
    bootstrap: Natural = 200
    """Resamples for the 95 % intervals; 0 for none."""
    scheme: str | None = None
    """Name of the first score in the records; default: its column."""
    seed: Seed = 0
    """Seed for the resamples."""
    out: Path | None = None
    """Run folder; default runs/r2mae-dna-evaluate-TIME."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.scheme is not None and not 1 <= len(self.scheme) <= 100:
            raise UserError(f"--scheme is a name of 1 to 100 characters, got {len(self.scheme):,}")
        if self.scores:
            refuse_repeats("scores", self.scores)
        if self.absolute and self.higher_is_worse:
            raise UserError(
                "--absolute and --higher_is_worse do not go together: a distance from 0 grows with the damage"
            )
        if not self.scan:
            refuse_options(self, {"scan_column": "--scan"}, "a table without --scan")
        if self.preset != "clinvar":
            own: dict[str, str] = dict.fromkeys(("stars", "likely", "molecular_consequence"), "--preset clinvar")
            refuse_options(self, own, f"--preset {self.preset or 'none'}")

    @property
    def tracks(self) -> dict[str, Path]:
        """Name of the column → bigWig."""
        return {
            name: path for name, path in (("phyloP", self.phylop), ("phastCons", self.phastcons)) if path is not None
        }


@dataclass(frozen=True, kw_only=True)
class Demo(RunOptions):
    """Pretrain small models on real alignments, and score with them real changes that they never saw."""

    window: Window = 128
    """Bases per window, in training and in scoring."""
    schemes: tuple[str, ...] = ("fixed", "r2mae", "r2mae+cl")
    """Schemes to compare."""
    n_hidden: Width | None = None
    """Width of the network, instead of the recipe's (`pretrain -c small`)."""
    n_layers: Layers | None = None
    """Layers of the network, instead of the recipe's."""
    steps: Count = 100
    """Optimizer steps per model."""
    batch_size: Count | None = None
    """Windows per step, instead of the recipe's."""
    lr: Positive | None = None
    """Peak learning rate of AdamW, instead of the recipe's."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds per scheme."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_repeats("schemes", self.schemes)
        refuse_repeats("seeds", self.seeds)


@dataclass(frozen=True)
class Reproduce(RunOptions):
    """Reproduce the paper's table 3; finished cells of the grid are not computed again."""

    target: Literal["table3"]
    """The table."""
    _: KW_ONLY
    data: Path | None = None
    """Training windows; with --msa, and --clinvar or --omim. Default: the bundled human-ape alignment."""
    msa: Path | None = None
    """Alignment store to score with; with --data."""
    clinvar: Path | None = None
    """ClinVar-against-gnomAD missense table (songlab/clinvar, test.parquet)."""
    omim: Path | None = None
    """OMIM-against-gnomAD regulatory table (songlab/omim, test.parquet)."""
    schemes: tuple[str, ...] = (
        "fixed", "low", "high", "mdlm", "dynamic", "cl", "r2mae", "r2mae+dynamic", "r2mae+cl", "r2mae+cl-k0",
    )  # fmt: skip
    """Rows of the table."""
    model: Size = "base"
    """Network on your own alignment; the bundled one takes `n_hidden` and `n_layers`."""
    n_hidden: Width | None = None
    """Width on the bundled alignment, instead of the recipe's (`pretrain -c small`)."""
    n_layers: Layers | None = None
    """Layers on the bundled alignment, instead of the recipe's."""
    steps: Count | None = None
    """Optimizer steps; default 30,000 on your own alignment and 300 on the bundled one."""
    batch_size: Count | None = None
    """Samples (windows) of an optimizer step, over all devices; default 2048 on your own alignment and 64 on the
    bundled one."""
    micro_batch_size: Count | None = None
    """Samples that one device computes at once; default: the most that divides the batch, up to 512."""
    lr: Positive | None = None
    """Peak learning rate; default 1e-4 on your own alignment and 3e-3 on the bundled one."""
    patience: Count | None = 1
    """On your own alignment: stop a training after so many validations (six in all) without a better loss; null: never.
    The paper stops early, and does not say after how many."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds per scheme."""
    devices: Count = 1
    """Devices of this machine."""
    precision: Precision = "auto"
    """auto: bf16-mixed on a GPU, float32 on a CPU."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_repeats("schemes", self.schemes)
        refuse_repeats("seeds", self.seeds)
        given = {name for name in ("data", "msa", "clinvar", "omim") if getattr(self, name) is not None}
        if given and not ({"data", "msa"} <= given and given & {"clinvar", "omim"}):
            raise UserError(
                "the full experiment needs --data, --msa, and --clinvar or --omim; without any of them the bundled "
                f"alignment is taken (given: {', '.join(f'--{name}' for name in sorted(given))})"
            )
