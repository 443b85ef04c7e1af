"""Small alignments, variants, and damage, for the tests of reliability."""

import zipfile

import numpy as np
import zarr

from r2mae_dna.data.codes import TOKEN_BITS

MAF = "a\ns hg.7 0 6 + 40 ACgtNA\ns pt.1 0 6 + 40 ACGTAA\n"


def published(path, codes, letters=b"-ACGT---?acgt---"):
    """Write a store in the published layout."""
    content = np.frombuffer(letters, np.uint8)[codes].view("S1")
    zarr.open_group(path, mode="w", zarr_format=2).create_array("7", data=content, chunks=(100, 3))
    return path


def vcf(path, codes, positions=range(1, 101)):
    """Write a VCF of single-nucleotide variants on the toy contig."""
    letters = ["-ACGT"[code & TOKEN_BITS] for code in codes[:, 0].tolist()]
    rows = [f"7\t{p}\t.\t{letters[p - 1]}\t{'CGTA'['ACGT'.index(letters[p - 1])]}\t.\t.\tAC=1;AN=9" for p in positions]
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "\n".join(rows) + "\n")
    return path


def files_of(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def zipped(store):
    """Put a store into a zip file beside it."""
    target = store.with_name(f"{store.name}.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(path for path in store.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(store).as_posix())
    return target
