"""The bundled samples: real alignments and variants, small. `sample_data/PROVENANCE.md` states their sources."""

from importlib import resources
from pathlib import Path

from r2mae_core import atomic_path
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.vcf import COMMON_FREQUENCY, RARE_COPIES, VcfFile, info_values
from r2mae_dna.data.windows import prepare
from r2mae_dna.options import Prepare

VERTEBRATES, APES = "vertebrates-mm9-chr10.maf.gz", "apes-hg19-chr22.maf.gz"
VARIANTS = "1000genomes-hg19-chr22.vcf.gz"
APES_TRAINING, APES_VARIANTS = "22:49,600,001-50,300,000", "22:50,300,001-51,000,000"
"""The variants are in the second half; models are trained on the first only."""


def sample_path(name: str) -> Path:
    """Return the path of a bundled file."""
    return Path(str(resources.files("r2mae_dna") / "sample_data" / name))


def prepare_apes(folder: Path, window: int = 128) -> tuple[Path, Path, Path]:
    """Build the human-ape store, its windows, and the VCF of rare and common variants, if they are missing.

    Returns:
        paths of the store, the windows (the variants' half as test), and the VCF.
    """
    store, windows, variants = folder / "apes.zarr", folder / f"windows-{window}", folder / "variants.vcf"
    if not store.exists():
        build_alignment([sample_path(APES)], store, reference="Hsap")
    if not windows.exists():
        prepare(
            Prepare(store, out=windows, window=window, step=window // 2, only=APES_TRAINING, test_regions=APES_VARIANTS)
        )
    if not variants.exists():
        write_rare_and_common(sample_path(VARIANTS), variants)
    return store, windows, variants


def write_rare_and_common(source: Path, out: Path) -> None:
    """Write the records of a VCF whose AC and AN make them rare or common, as `evaluate --preset rare-common` does."""
    file = VcfFile(source)
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as target:
        target.writelines(f"{line}\n" for line in [*file.meta, "#" + "\t".join(file.columns)])
        for fields in file.records():
            info = info_values(fields)
            copies, total = int(info["AC"]), int(info["AN"])
            if 1 <= copies <= RARE_COPIES or min(copies, total - copies) > COMMON_FREQUENCY * total:
                target.write("\t".join(fields) + "\n")
