"""The bundled samples: real alignments and variants, small. `sample_data/PROVENANCE.md` states their sources."""

import tempfile
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

from r2mae_core import UserError, file_digest, first_rank, one_writer, read_text, write_text
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.codes import TOKEN_BITS, VOCABULARY
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.vcf import COMMON_FREQUENCY, RARE_COPIES, VcfFile, info_values
from r2mae_dna.data.windows import prepare, read_info
from r2mae_dna.options import Prepare

VERTEBRATES, APES = "vertebrates-mm9-chr10.maf.gz", "apes-hg19-chr22.maf.gz"
VARIANTS = "1000genomes-hg19-chr22.vcf.gz"
APES_TRAINING, APES_VARIANTS = "22:49,600,001-50,300,000", "22:50,300,001-51,000,000"
"""The variants are in the second half; models are trained on the first only."""
MOUSE, RAT = "mm9", "rn4"
SHOWN = (
    "hg18", "calJac1", "otoGar1", "tupBel1", "oryCun1", "cavPor2", "canFam2", "equCab1", "bosTau3", "dasNov1",
    "loxAfr1",
)  # fmt: skip
"""Mammals that models see beside the mouse where the rat is hidden from them: one of each group, for small networks."""
MOUSE_CHROMOSOME, MOUSE_TEST = "chr10", (3_215_000, 3_237_798)
"""The stretch on which models are evaluated; they are trained on the one before."""


def sample_path(name: str) -> Path:
    """Return the path of a bundled file."""
    return Path(str(resources.files("r2mae_dna") / "sample_data" / name))


def prepare_apes(folder: Path, window: int = 128) -> tuple[Path, Path, Path]:
    """Build the human-ape store, its windows, and the VCF of rare and common variants, if they are missing.

    Returns:
        paths of the store, the windows (the variants' half as test), and the VCF.
    """
    store, windows, variants = folder / "apes.zarr", folder / f"windows-{window}", folder / "variants.vcf"
    while not first_rank() and not variants.exists():  # the first rank writes it, last
        time.sleep(0.1)
    with one_writer(folder / "samples", folder=False, wait=True):
        if not store.exists():
            build_alignment([sample_path(APES)], store, reference="Hsap")
        if not windows.exists():
            cut = Prepare(store, out=windows, window=window, step=window // 2)
            prepare(replace(cut, only=APES_TRAINING, test_regions=APES_VARIANTS))
        if read_info(windows).store_digest != AlignmentStore(store).digest:
            raise UserError(f"{windows} are not of {store}; remove both and run the command again")
        chosen = rare_and_common(sample_path(VARIANTS))
        if not variants.exists():
            write_text(variants, chosen)
        elif read_text(variants) != chosen:
            raise UserError(f"{variants} is damaged or was edited; remove it and run the command again")
    return store, windows, variants


def prepare_mouse(folder: Path, window: int = 128) -> tuple[Path, Path, Path]:
    """Build the store of the mouse and `SHOWN` mammals, its windows, and the table of rat's changes, if missing.

    Returns:
        paths of the store, the windows (the last 22.8 kb as test), and the table; see `changes_of_rat`.
    """
    store, windows, changes = folder / "mouse.zarr", folder / f"mouse-windows-{window}", folder / "rat.tsv"
    while not first_rank() and not changes.exists():  # the first rank writes it, last
        time.sleep(0.1)
    with one_writer(folder / "mouse", folder=False, wait=True):
        if not store.exists():
            build_alignment([sample_path(VERTEBRATES)], store, reference=MOUSE, species=SHOWN)
        if not windows.exists():
            first, last = MOUSE_TEST
            region = f"{MOUSE_CHROMOSOME}:{first + 1}-{last}"
            prepare(Prepare(store, out=windows, window=window, step=window // 4, test_regions=region))
        if read_info(windows).store_digest != AlignmentStore(store).digest:
            raise UserError(f"{windows} are not of {store}; remove both and run the command again")
        if not changes.exists():
            with tempfile.TemporaryDirectory() as scratch:
                both = Path(scratch) / "both"
                build_alignment([sample_path(VERTEBRATES)], both, reference=MOUSE, species=[RAT])
                write_text(changes, changes_of_rat(AlignmentStore(both)))
    return store, windows, changes


def changes_of_rat(both: AlignmentStore) -> str:
    """Return a table of all changes of the mouse's base at the test sites where the rat has another one.

    The rat's own letter has label 0, the two letters that neither has label 1 (the damaging class); `match_group` is
    the position.

    Args:
        both: the mouse's alignment with the rat.
    """
    first, last = MOUSE_TEST
    mouse, rat = (both.read(MOUSE_CHROMOSOME, first, last) & TOKEN_BITS).T
    lines = ["chrom\tpos\tref\talt\tlabel\tmatch_group"]
    for i in ((mouse > 0) & (rat > 0) & (mouse != rat)).nonzero()[0].tolist():
        reference, seen = VOCABULARY[mouse[i]], VOCABULARY[rat[i]]
        for letter in "ACGT".replace(reference, ""):
            place = first + i + 1
            lines.append(f"{MOUSE_CHROMOSOME}\t{place}\t{reference}\t{letter}\t{int(letter != seen)}\t{place}")
    return "".join(f"{line}\n" for line in lines)


def samples_digest(*names: str) -> str:
    """Return what names bundled files, which may differ between versions of the package; default: the apes'."""
    return digest_of({name: file_digest(sample_path(name)) for name in names or (APES, VARIANTS)})


def rare_and_common(source: Path) -> str:
    """Return the records of a VCF whose AC and AN make them rare or common, as `evaluate --preset rare-common` does."""
    file = VcfFile(source)
    lines = [*file.meta, "#" + "\t".join(file.columns)]
    for fields in file.records():
        info = info_values(fields)
        copies, total = int(info["AC"]), int(info["AN"])
        if 1 <= copies <= RARE_COPIES or min(copies, total - copies) > COMMON_FREQUENCY * total:
            lines.append("\t".join(fields))
    return "".join(f"{line}\n" for line in lines)
