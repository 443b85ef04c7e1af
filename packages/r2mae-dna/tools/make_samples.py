"""Make the bundled samples again, byte for byte, from the packages that they come from.

    pip download --no-deps --no-binary :all: biopython==1.88
    tar xzf biopython-1.88.tar.gz
    apt-get download maffilter-examples=1.3.1+dfsg-4 r-bioc-variantannotation=1.44.1-1
    for deb in *.deb; do dpkg -x $deb deb; done
    python tools/make_samples.py .

Writes into src/r2mae_dna/sample_data and checks the digests of what it reads; PROVENANCE.md there holds them all.
"""

import gzip
import hashlib
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "src" / "r2mae_dna" / "sample_data"
VERTEBRATES = "biopython-1.88/Tests/MAF/ucsc_mm9_chr10_big.maf"
APES = (
    "deb/usr/share/doc/maffilter/examples/Gorilla/"
    "Compara.epo_5_catarrhini_hsap-projected.chr22.subset.nogap.cleaned_aln.maf.gz"
)
VARIANTS = "deb/usr/lib/R/site-library/VariantAnnotation/extdata/chr22.vcf.gz"
SHA256 = {
    VERTEBRATES: "1466bfc90c2cadaf3499e1f171b1a24dd7bceef8a783a1933ca9fda8fc6f2861",
    APES: "f0b90e62f4a1e640c066734bdc9ff60717f1b9815c962e3ce71171d75d396c41",
    VARIANTS: "5f64f819420f4bc1d99896b9a16f4c7ce57312030d6f1ae4e53bc9366ab3e749",
}
REGION = (49_600_000, 51_000_000)  # the variants begin at 50.30 Mb; what lies left of them is for training
KEPT_INFO = ("AC", "AN", "AF", "AA", "VT")


def read(root: Path, name: str) -> bytes:
    """Return a file of the packages, unpacked, once its digest is right."""
    content = (root / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        sys.exit(f"{name}: sha256 is {found}, expected {SHA256[name]}")
    return gzip.decompress(content) if name.endswith(".gz") else content


def write(name: str, lines: list[bytes]) -> None:
    """Write lines gzipped, without a time stamp, and print the digest."""
    content = gzip.compress(b"\n".join(lines) + b"\n", 9, mtime=0)
    (OUT / name).write_bytes(content)
    print(f"{name}  {len(content)} bytes  sha256 {hashlib.sha256(content).hexdigest()}")  # noqa: T201


def alignment(content: bytes, reference: bytes, start: int = 0, end: int = 1 << 40) -> list[bytes]:
    """Return the sequence lines of every block whose reference touches [start, end)."""
    lines = [b"##maf version=1"]
    for block in content.split(b"\na")[1 if content[:1] != b"a" else 0 :]:
        rows = [line.split() for line in block.splitlines() if line[:2] == b"s "]
        own = [row for row in rows if row[1].partition(b".")[0] == reference]
        if own and int(own[0][2]) < end and int(own[0][2]) + int(own[0][3]) > start:
            lines += [b"a", *(b" ".join(row) for row in rows), b""]
    return lines


def variants(content: bytes) -> list[bytes]:
    """Return the VCF without its samples, and with five of its INFO fields."""
    lines = []
    for line in content.splitlines():
        if line.startswith(b"##"):
            kind = line.partition(b"<ID=")[2].partition(b",")[0].decode()
            if line.startswith(b"##FORMAT") or (line.startswith(b"##INFO") and kind not in KEPT_INFO):
                continue
            lines.append(line)
            continue
        fields = line.split(b"\t")[:8]
        if not line.startswith(b"#"):
            info = dict(part.partition(b"=")[::2] for part in fields[7].split(b";"))
            fields[7] = b";".join(key.encode() + b"=" + info[key.encode()] for key in KEPT_INFO if key.encode() in info)
        lines.append(b"\t".join(fields))
    return lines


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write("vertebrates-mm9-chr10.maf.gz", alignment(read(root, VERTEBRATES), b"mm9"))
    write("apes-hg19-chr22.maf.gz", alignment(read(root, APES), b"Hsap", *REGION))
    write("1000genomes-hg19-chr22.vcf.gz", variants(read(root, VARIANTS)))
