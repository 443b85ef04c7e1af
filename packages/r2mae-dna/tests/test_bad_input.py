"""Input that is damaged or of another program: one line names it, and nothing is left half-written."""

import bz2
import gzip
import lzma
import shutil
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch
import zarr

from dna_files import vcf
from r2mae_core import UserError
from r2mae_dna.data.store import AlignmentStore, StoreWriter
from r2mae_dna.data.tables import read_frame
from r2mae_dna.weights import load_model


@pytest.fixture
def genome(tmp_path):
    """A store of 3,000 bases, and files of each kind about it: name → (content, command that reads it)."""
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 5, (3000, 3)).astype(np.uint8)
    writer = StoreWriter(tmp_path / "store", ["hg", "pt", "mm"])
    writer.write("7", codes)
    writer.close()
    letters = np.array(list("-ACGT"))[codes].T
    blocks = [(i, *("".join(row[i : i + 60]) for row in letters[:2])) for i in range(0, 3000, 60)]
    maf = "".join(f"a\ns hg.7 {i} 60 + 3000 {one}\ns pt.7 {i} 60 + 3000 {other}\n" for i, one, other in blocks)
    (tmp_path / "good.maf").write_text(maf)
    variants = vcf(tmp_path / "good.vcf", codes, range(1, 900)).read_text()
    rows = [line.split("\t") for line in variants.splitlines() if line[0] == "7"]
    table = "".join("\t".join([*row[:2], *row[3:5]]) + "\n" for row in (["chrom", "pos", "", "ref", "alt"], *rows))
    bed = "".join(f"7\t{i}\t{i + 1}\t{rng.integers(1 << 30)}\n" for i in range(0, 3000, 2))
    out = ("--out", tmp_path / "out")
    return {
        "x.maf.gz": (maf, ("msa", "build", "hg", "x.maf.gz", *out)),
        "x.fa.gz": (f">7\n{''.join(letters[0])}\n", ("msa", "build", "hg", "good.maf", "--fasta", "x.fa.gz", *out)),
        "x.vcf.gz": (variants, ("score", "frequencies", "store", "x.vcf.gz", "--out", "out.vcf")),
        "x.tsv.gz": (table, ("score", "frequencies", "store", "x.tsv.gz", "--out", "out.tsv")),
        "x.bed.gz": (bed, ("scan", "frequencies", "store", "--bed", "x.bed.gz", *out)),
    }


def bgzipped(content):
    with pysam.BGZFile("b.gz", "wb") as file:
        file.write(content)
    content = Path("b.gz").read_bytes()
    Path("b.gz").unlink()
    return content


def flipped(packed, place, bits=0xFF):
    content = bytearray(packed)
    content[place] ^= bits
    return bytes(content)


@pytest.mark.parametrize("name", ["x.maf.gz", "x.fa.gz", "x.vcf.gz", "x.tsv.gz", "x.bed.gz"])
def test_a_damaged_archive_is_one_line_and_leaves_nothing(genome, tmp_path, call, name):
    text, command = genome[name]
    packed, blocks = gzip.compress(text.encode()), bgzipped(text.encode())
    n = len(packed)
    cut = [packed[:5], packed[: n // 2], packed[:-8], packed[:-1], blocks[:-28], blocks[: len(blocks) // 2]]
    wrong = [flipped(packed, n // 5), flipped(packed, n // 2), flipped(packed, n - 6, 1), flipped(blocks, n // 3)]
    for archive in (*cut, *wrong, packed + b"garbage"):
        (tmp_path / name).write_bytes(archive)
        before = set(tmp_path.iterdir())
        code, _, err = call(*command, "--progress", "false")
        assert code == 1, err
        assert err.count("\n") == 1, err
        assert name in err
        assert set(tmp_path.iterdir()) == before
    (tmp_path / name).write_bytes(blocks)
    assert call(*command, "--progress", "false")[0] == 0


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_weights_that_are_cut_off_are_one_line(toy_model, toy, tmp_path, call, share):
    file = toy_model[0] / "model" / "model.safetensors"  # published weights come without checksums
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    vcf(tmp_path / "v.vcf", toy[1])
    before = set(tmp_path.iterdir())
    code, _, err = call("score", toy_model[0], toy[0], "v.vcf", "--out", "out.vcf", "--progress", "false")
    assert (code, err.count("\n")) == (1, 1), err
    assert "model.safetensors" in err
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '"x"', "{'a': 1}", "\0\0", "[" * 100_000, '{"a": 1} x'])
def test_a_description_that_is_no_json_is_one_line(toy_model, content):
    file = toy_model[0] / "model" / "config.json"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        load_model(toy_model[0])
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


# Stores of other programs


def letters(*rows):
    return np.array([list(row) for row in rows], "S1")


FOREIGN = {
    "bytes, such as genotypes": ("uint8", np.ones((300, 3), np.uint8)),
    "signed bytes": ("int8", np.ones((300, 3), np.int8)),
    "numbers": ("float32", np.ones((300, 3), np.float32)),
    "names": ("<U5", np.full((300, 3), "ACGTA")),
    "digits": ("'0', which is neither a letter nor a gap", np.full((300, 3), b"0", "S1")),
    "one strange letter": ("'/', which is neither a letter nor a gap", letters(*["ACG"] * 299, "A/G")),
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.filterwarnings("ignore")  # zarr's, about letters in version 3
def test_a_store_of_another_program_is_refused(tmp_path, what, version):
    message, content = FOREIGN[what]
    zarr.open_group(tmp_path / "s", mode="w", zarr_format=version).create_array("7", data=content, chunks=(100, 3))
    with pytest.raises(UserError) as error:
        AlignmentStore(tmp_path / "s").read("7", 0, 300)
    assert message in str(error.value)
    assert f"{tmp_path / 's'} is not an alignment store: '7' holds" in str(error.value)


def test_letters_of_every_published_kind_are_read(tmp_path):
    content = letters(*["ACG", "acg", "Nn-", "RYk", ".?*", "A-T"])
    zarr.open_group(tmp_path / "s", mode="w", zarr_format=2).create_array("7", data=content, chunks=(2, 3))
    codes = AlignmentStore(tmp_path / "s").read("7", 0, 6)
    assert codes[[0, 5]].tolist() == [[1, 2, 3], [1, 0, 4]]
    assert not codes[2:5].any()


# Weights that are finite and whose scores are not


@pytest.fixture
def overflowing(toy_model):
    """The random model with an output layer of 1e38: its logits are beyond float32 at most sites."""
    from safetensors.torch import load_file, save_file

    file = toy_model[0] / "model" / "model.safetensors"
    weights = load_file(file)
    name = "cls.predictions.decoder.weight"
    save_file({**weights, name: torch.sign(weights[name]) * 1e38}, file)
    return toy_model[0]


@pytest.mark.parametrize("suffix", [".vcf", ".tsv", ".parquet"])
def test_scores_beyond_all_bounds_are_not_finite(overflowing, toy, tmp_path, call, suffix):
    vcf(tmp_path / "v.vcf", toy[1], range(80, 90))
    code, out, err = call("score", overflowing, toy[0], "v.vcf", "--out", f"o{suffix}")
    assert code == 0, err
    assert "10 not_finite" in out
    if suffix == ".vcf":
        with pysam.VariantFile("o.vcf") as file:
            found = [(record.info["R2MAE_STATUS"][0], record.info.get("R2MAE_LLR", (None,))[0]) for record in file]
    else:
        found = read_frame(tmp_path / f"o{suffix}").select("r2mae_status", "r2mae_llr").rows()
    assert found == [("not_finite", None)] * 10


def test_a_scan_counts_scores_beyond_all_bounds(overflowing, toy, tmp_path, call):
    code, _, err = call("scan", overflowing, toy[0], "--regions", "7:80-89", "--out", "s", "--progress", "false")
    assert code == 1
    assert "no position has scores: 10 without a finite score" in err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("what", ["logits", "probabilities"])
def test_vectors_beyond_all_bounds_are_refused(overflowing, toy, tmp_path, call, what):
    code, _, err = call("embed", overflowing, toy[0], "--regions", "7:80-89", "--what", what, "--out", "e.npz")
    assert code == 1
    assert "the network gives values that are not finite" in err
    assert not (tmp_path / "e.npz").exists()


PACKED = {
    "bzip2": bz2.compress, "xz": lzma.compress, "zip": lambda b: b"PK\x03\x04" + b,
    "zstd": lambda b: b"\x28\xb5\x2f\xfd" + b, "UTF-16": lambda b: b.decode().encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.maf.gz", "bzip2"), ("x.fa.gz", "xz"), ("x.vcf.gz", "zip"), ("x.tsv.gz", "zstd"), ("x.bed.gz", "UTF-16"),
     ("x.vcf.gz", "UTF-16"), ("x.tsv.gz", "xz")],
)  # fmt: skip
def test_other_archives_and_encodings_are_named_whatever_their_suffix(genome, tmp_path, call, name, kind):
    content, argv = genome[name]
    (tmp_path / name).write_bytes(PACKED[kind](content.encode()))
    code, _, err = call(*argv, "--no-progress")
    assert (code, len(err.strip().splitlines())) == (1, 1)
    assert name in err
    assert kind in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["x.maf.gz", "x.fa.gz", "x.tsv.gz", "x.bed.gz"])
def test_a_mark_of_utf8_at_the_beginning_is_no_letter(genome, tmp_path, call, name):
    content, argv = genome[name]
    results = []
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / name).write_bytes(gzip.compress(start + content.encode()))
        code, out, err = call(*argv)
        assert code == 0, err
        results.append(out)
        for path in tmp_path.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert results[0] == results[1]


@pytest.mark.parametrize("out", ["O.VCF.GZ", "o.vcf.Bgz", "O.BCF", "O.TSV.GZ"])
def test_a_suffix_in_capitals_means_the_same(toy, tmp_path, call, out):
    source = vcf(tmp_path / "in.vcf", toy[1])
    head = "##contig=<ID=7,length=300>\n" + "".join(
        f'##INFO=<ID={name},Number=1,Type=Integer,Description="x">\n' for name in ("AC", "AN")
    )
    source.write_text(source.read_text().replace("#CHROM", head + "#CHROM", 1))
    code, _, err = call("score", "frequencies", toy[0], source, "--out", out, "--no-progress")
    assert code == 0, err
    if "TSV" in out:
        assert gzip.decompress((tmp_path / out).read_bytes()).count(b"scored") == 100
        return
    with pysam.VariantFile(out) as file:
        assert (file.compression, file.format) == ("BGZF", "BCF" if "BCF" in out else "VCF")
        assert sum(record.info["R2MAE_STATUS"] == ("scored",) for record in file) == 100


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [("more", [[1, 2]], "the column more holds List"), ("more", [b"x"], "the column more holds Binary"),
     ("alt", [["A"]], "the column alt holds List"), ("ref", [b"A"], "the column ref holds Binary"),
     ("chrom", [["7"]], "the column chrom holds List")],
)  # fmt: skip
def test_columns_that_cannot_be_read_or_written_are_named_before_the_scoring(
    toy, tmp_path, call, column, values, message
):
    import polars as pl

    frame = pl.DataFrame({"chrom": ["7"], "pos": [50], "ref": ["A"], "alt": ["C"]})
    frame.with_columns(pl.Series(column, values)).write_parquet(tmp_path / "t.parquet")
    code, _, err = call("score", "frequencies", toy[0], "t.parquet", "--out", "o.tsv", "--force", "--no-progress")
    assert (code, message in err, len(err.strip().splitlines())) == (1, True, 1), err
    if column == "more":  # where it can be kept, it is
        assert (
            call("score", "frequencies", toy[0], "t.parquet", "--out", "o.parquet", "--force", "--no-progress")[0] == 0
        )
        assert pl.read_parquet("o.parquet")["more"].to_list() == values
