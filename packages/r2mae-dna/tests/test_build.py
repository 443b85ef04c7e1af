import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from r2mae_core import UserError
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.codes import decode
from r2mae_dna.data.samples import VERTEBRATES, sample_path
from r2mae_dna.data.store import AlignmentStore, StoreWriter

MAF = """##maf version=1
a
s hg.chr1 10 6 + 40 ACgtNA
s pt.1 0 6 + 40 ACGTAA
a
s mm.7 0 3 + 9 GGG
s hg.chr1 14 4 + 40 AACC
a
s hg.chr2 0 2 + 8 TT
s pt.1 0 2 + 9 TA
"""


@pytest.fixture
def maf(tmp_path):
    (tmp_path / "x.maf").write_text(MAF.replace("mm.7 0 3 + 9 GGG", "mm.7 0 3 + 9 GGG-"))
    return tmp_path / "x.maf"


def test_the_first_block_counts_where_blocks_overlap(maf, tmp_path):
    report = build_alignment([maf], tmp_path / "s", reference="hg")
    store = AlignmentStore(tmp_path / "s")
    assert store.species == ("hg", "pt", "mm")
    assert store.lengths == {"chr1": 40, "chr2": 8}
    assert report.overlaps == 2  # 14 and 15, the N too
    codes = store.read("chr1", 9, 19)
    assert [decode(codes[:, i]) for i in range(3)] == ["-ACgt-ACC-", "-ACGTAA---", "-------G--"]
    assert decode(store.read("chr2", 0, 8)[:, 1]) == "TA------"
    assert report.info.covered == {"chr1": 7, "chr2": 2}
    assert report.info.soft_masked == 2
    pt, mm = report.info.counts
    assert (pt.aligned, pt.identical) == (7, 6)
    assert (mm.aligned, mm.identical) == (1, 0)
    assert report.info.depth == (1, 8, 0)


def test_reading_beyond_the_ends_gives_gaps(toy):
    path, codes = toy
    store = AlignmentStore(path)
    assert (store.read("7", -5, 10)[:5] == 0).all()
    assert (store.read("7", -5, 10)[5:] == codes[:10]).all()
    assert (store.read("7", 295, 310)[:5] == codes[295:]).all()
    assert store.read("7", 400, 410).tolist() == [[0, 0, 0]] * 10
    assert store.chromosome("chr7") == "7"
    assert store.chromosome("8") is None


def test_the_reference_genome_is_checked_and_fills(maf, tmp_path):
    genome = list("T" * 40)
    genome[10:18] = "ACGTNACC"
    with gzip.open(tmp_path / "g.fa.gz", "wt") as out:
        out.write(">1 the first\n" + "".join(genome[:20]) + "\n" + "".join(genome[20:]).lower() + "\n>3\nACGT\n")
    report = build_alignment([maf], tmp_path / "s", reference="hg", fasta=tmp_path / "g.fa.gz")
    assert (report.checked, report.mismatches) == (7, 0)
    assert report.unchecked == ("chr2",)
    assert report.filled == 32  # 40 less the eight that blocks cover
    store = AlignmentStore(tmp_path / "s")
    assert decode(store.read("chr1", 8, 24)[:, 0]) == "TTACgt-ACCTTtttt"  # the alignment's case, else the genome's


@pytest.mark.parametrize(
    ("fasta", "message"),
    [
        (">chr1\n" + "T" * 40 + "\n", "6 of 7 reference bases differ between the alignment and g.fa; wrong genome"),
        (">chr1\nACGT\n", "chr1 is 4 long and the alignment's chr1 40; wrong genome build?"),
        (">chrX\nACGT\n", "contains none of the alignment's chromosomes: chr1, chr2"),
        ("", "contains none of the alignment's chromosomes"),
    ],
)
def test_a_genome_of_another_build_is_refused_and_nothing_is_left(maf, tmp_path, fasta, message):
    (tmp_path / "g.fa").write_text(fasta)
    with pytest.raises(UserError) as error:
        build_alignment([maf], tmp_path / "s", reference="hg", fasta=tmp_path / "g.fa")
    assert message in str(error.value).replace(f"{tmp_path}/", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["g.fa", "x.maf"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": "hg19"}, "the reference 'hg19' is in no block of x.maf; its species: hg, pt, mm"),
        ({"reference": "hg", "species": ["rn"]}, "none of the species rn is in x.maf"),
        ({"reference": "hg", "species": ["pt", "pt"]}, "list each species once"),
        ({"reference": "hg", "species": ["hg"]}, "list each species once"),
    ],
)
def test_wrong_names_are_refused(maf, tmp_path, arguments, message):
    with pytest.raises(UserError) as error:
        build_alignment([maf], tmp_path / "s", **arguments)
    assert message in str(error.value).replace(f"{tmp_path}/", "")


def test_chromosomes_of_two_lengths_are_refused(maf, tmp_path):
    (tmp_path / "y.maf").write_text("a\ns hg.chr1 0 1 + 41 A\ns pt.1 0 1 + 5 A\n")
    with pytest.raises(UserError, match=r"y\.maf, line 2: chr1 is 41 long here and 40 in an earlier block"):
        build_alignment([maf, tmp_path / "y.maf"], tmp_path / "s", reference="hg")
    with pytest.raises(UserError, match="exists"):
        build_alignment([maf], tmp_path, reference="hg")


def test_species_in_a_wanted_order_and_absent_ones(maf, tmp_path):
    report = build_alignment([maf], tmp_path / "s", reference="hg", species=["mm", "rn", "pt"])
    assert AlignmentStore(tmp_path / "s").species == ("hg", "mm", "rn", "pt")
    assert report.without_blocks == ("rn",)


def test_the_real_vertebrate_alignment(vertebrates):
    store = AlignmentStore(vertebrates[0])
    info = store.info
    # Measured apart from this code when the data were chosen.
    assert info.covered == {"chr10": 103_741}
    assert len(info.species) == 30
    assert info.soft_masked / 103_741 == pytest.approx(0.286, abs=0.001)
    rat = info.counts[info.species.index("rn4") - 1]
    assert rat.aligned / 103_741 == pytest.approx(0.82, abs=0.005)
    assert rat.identical / rat.aligned == pytest.approx(0.84, abs=0.005)
    assert store.lengths == {"chr10": 129_993_255}
    assert store.stretches("chr10") == [(2_621_440, 3_145_728), (3_145_728, 3_670_016)]


def test_the_same_files_give_the_same_digest(tmp_path):
    digests = [
        build_alignment([sample_path(VERTEBRATES)], tmp_path / name, reference="mm9", species=species).info.digest
        for name, species in [("a", ["rn4", "hg18"]), ("b", ["rn4", "hg18"]), ("c", ["hg18", "rn4"])]
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_published_layout_is_read(tmp_path, toy, kind):
    path, codes = toy
    letters = np.frombuffer(b"-ACGT---?acgt---", np.uint8)[codes].view("S1")
    target = tmp_path / "89.zarr"
    if kind == "zip":
        target = tmp_path / "89.zarr.zip"
        with zarr.storage.ZipStore(target, mode="w") as source:
            zarr.open_group(source, mode="w", zarr_format=2).create_array("7", data=letters, chunks=(100, 3))
    else:
        zarr.open_group(target, mode="w", zarr_format=2).create_array("7", data=letters, chunks=(100, 3))
    published = AlignmentStore(target)
    assert published.species is None
    assert published.n_species == 2
    ours = AlignmentStore(path)
    assert (published.read("7", -3, 303) == ours.read("7", -3, 303)).all()
    assert published.stretches("7") == [(0, 300)]


def test_what_is_not_a_store_is_refused(tmp_path):
    with pytest.raises(UserError, match="no alignment store at"):
        AlignmentStore(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is not an alignment store"):
        AlignmentStore(tmp_path / "folder")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not an alignment store"):
        AlignmentStore(tmp_path / "file")
    zarr.open_group(tmp_path / "group", mode="w").create_array("x", shape=(3,), dtype="uint8")
    with pytest.raises(UserError, match="is not an alignment store: it has 'x'"):
        AlignmentStore(tmp_path / "group")


def test_empty_shards_are_never_written(tmp_path):
    from r2mae_dna.data.store import SHARD_ROWS

    codes = np.zeros((2 * SHARD_ROWS + 5, 2), np.uint8)
    codes[-1] = 1
    writer = StoreWriter(tmp_path / "s", ["a", "b"])
    writer.write("1", codes)
    assert writer.close().shards == {"1": [2]}
    files = [name for _, _, names in os.walk(tmp_path / "s" / "1") for name in names if name != "zarr.json"]
    assert len(files) == 1


FULL = Path(
    "/usr/share/doc/maffilter/examples/Gorilla/"
    "Compara.epo_5_catarrhini_hsap-projected.chr22.subset.nogap.cleaned_aln.maf.gz"
)


@pytest.mark.skipif(not FULL.exists(), reason="needs the Debian package maffilter-examples")
def test_the_whole_chromosome_22(tmp_path):
    from r2mae_dna.data.samples import VARIANTS
    from r2mae_dna.data.windows import prepare, read_info
    from r2mae_dna.options import Prepare, Score
    from r2mae_dna.score import score_variants

    report = build_alignment([FULL], tmp_path / "apes", reference="Hsap")
    assert report.counts.blocks == 9627
    assert report.info.covered == {"22": 21_629_084}  # 21,629,102 less 18 that are N
    info = read_info(prepare(Prepare(tmp_path / "apes", out=tmp_path / "w", only="22:1-50,200,000")))
    assert info.counts["train"] == 315_634
    out = tmp_path / "o.tsv"
    variants = sample_path(VARIANTS)
    score = Score("frequencies", tmp_path / "apes", variants, out=out, min_defined=1.0, progress=False)
    assert score_variants(score).status.tolist() == [6064, 407, 0, 0, 3905]
