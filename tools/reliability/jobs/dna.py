"""Jobs of r2mae-dna."""

import gzip
from pathlib import Path

from tools.reliability.job import Job
from tools.reliability.jobs.changes import put, replace

_LOW, _HIGH = 50_290_000, 50_330_000
_MODEL = "--model tiny --n_hidden 32 --n_layers 1 --n_heads 2 --batch_size 16 --micro_batch_size 8"
_OFTEN = "--steps 24 --checkpoint_every 7 --validate_every 6 --log_every 5 --max_windows 16 --no-progress"
_REGIONS = "--step 16 --validation_regions chr22:50,310,000-50,315,000"


def materials(folder: Path) -> None:
    """Write some blocks of the package's own alignment, others in the same places, and the variants in them."""
    from r2mae_dna.data.samples import APES, VARIANTS, sample_path

    head, *blocks = gzip.decompress(sample_path(APES).read_bytes()).decode().split("\n\n")
    starts = [int(next(line for line in block.splitlines() if "Hsap" in line).split()[2]) for block in blocks[:-1]]
    kept = [block for block, start in zip(blocks, starts, strict=False) if _LOW <= start < _HIGH]
    text = "\n\n".join([head.splitlines()[0], *kept]) + "\n\n"
    (folder / "apes.maf").write_text(text)
    (folder / "other.maf").write_text(text.replace("ACA", "AGA"))
    lines = gzip.decompress(sample_path(VARIANTS).read_bytes()).decode().splitlines()
    lines = [line for line in lines if line.startswith("#") or int(line.split("\t")[1]) < _HIGH]
    (folder / "variants.vcf").write_text("\n".join(lines) + "\n")


def jobs() -> list[Job]:
    """Return what is tried."""
    train = f"pretrain windows {_MODEL} {_OFTEN} --keep best"
    store, windows = {"another store": put("store", "other-store")}, {"others": put("windows", "other-windows")}
    variants = {"another allele": replace("variants.vcf", "\tA\tG\t", "\tA\tC\t")}
    reproduce = (
        "reproduce table3 --schemes [fixed,r2mae] --seeds [0] --n_hidden 32 --n_layers 1 --steps 4 --batch_size 8 "
        "--no-progress"
    )
    return [
        Job("dna", "msa-build", "msa-build Hsap apes.maf --no-progress", ("apes.maf",), "store", "--species Ptro",
            {"a letter": replace("apes.maf", "ACA", "AGA")}, ("--species Nobody",), kills=4, disk=True),
        Job("dna", "msa-build of others", "msa-build Hsap other.maf --no-progress", ("other.maf",), "other-store",
            maker=True),
        Job("dna", "prepare", f"prepare store {_REGIONS}", ("store",), "windows", "--window 64",
            store, ("--only chr7:1-2000",), kills=4, disk=True),
        Job("dna", "prepare others", f"prepare other-store {_REGIONS}", ("other-store",), "other-windows", maker=True),
        Job("dna", "pretrain", train, ("windows",), "run", "--seed 1", windows,
            ("--mask_ratio nonsense", "--micro_batch_size 5", "--device cuda"), kills=10, disk=True),
        Job("dna", "pretrain on two devices", f"{train} --devices 2", ("windows",), "run2", kills=3, cold=True,
            damage=False),
        Job("dna", "pretrain another", f"{train} --seed 7", ("windows",), "other-run", maker=True),
        Job("dna", "probe", "probe run windows --max_windows 16 --no-progress", ("run", "windows"), "probed",
            "--ratios [0.5]", {"another model": put("run", "other-run"), **windows}, ("--split test",), kills=2),
        Job("dna", "score", "score run store variants.vcf --chunk 40 --batch_size 16 --no-progress",
            ("run", "store", "variants.vcf"), "scored.vcf", "--window 64",
            {"another model": put("run", "other-run"), **store, **variants}, ("--min_defined 7",), kills=5, disk=True),
        Job("dna", "score to parquet", "score frequencies store variants.vcf --chunk 40 --no-progress",
            ("store", "variants.vcf"), "scored.parquet", "--name other", kills=2, damage=False),
        Job("dna", "evaluate", "evaluate scored.vcf --preset rare-common --bootstrap 5", ("scored.vcf",), "evaluated",
            "--seed 1", mistakes=("--scores [missing]",), damage=False),
        Job("dna", "reproduce", reproduce, (), "table", kills=2, damage=False),
        Job("dna", "compare", "compare run evaluated", ("run", "evaluated")),
        Job("dna", "msa-info", "msa-info store", ("store",)),
        Job("dna", "msa-show", "msa-show store chr22:50,300,100-50,300,150", ("store",)),
    ]  # fmt: skip
