import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from r2mae_core import UserError
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.codes import decode
from r2mae_dna.data.regions import parse_region
from r2mae_dna.data.samples import VERTEBRATES, sample_path
from r2mae_dna.data.store import AlignmentStore, StoreWriter
from r2mae_dna.data.windows import WindowSet, prepare
from r2mae_dna.options import Prepare

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
    assert decode(store.read("chr1", 8, 24)[:, 0]) == "TTACGT-ACCTTtttt"  # the genome's case everywhere


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


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        (None, "acGT-ACCTtttttttttttttttTTTTTTTTTT", "TT------"),  # the genome's; chr2 is not in it
        ("fasta", "acGT-ACCTtttttttttttttttTTTTTTTTTT", "TT------"),
        ("maf", "ACgt-ACCTTTTTTTTTTTTTTTTTTTTTTTTTT", "tT------"),
    ],
)
def test_the_case_of_the_reference_has_one_source(tmp_path, case, first, second):
    (tmp_path / "x.maf").write_text(MAF.replace("TT\n", "tT\n").replace("GGG", "GGG-"))
    (tmp_path / "g.fa").write_text(">chr1\n" + "T" * 10 + "acGTnACCT" + "t" * 15 + "T" * 6 + "\n")
    fasta = tmp_path / "g.fa"
    report = build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg", fasta=fasta, case=case)
    store = AlignmentStore(tmp_path / "s")
    assert store.info.case == report.info.case == (case or "fasta")
    shown = decode(store.read("chr1", 0, 40)[:, 0])
    assert shown[10:] == first[: len(shown) - 10]
    assert decode(store.read("chr2", 0, 8)[:, 0]) == second
    assert report.info.soft_masked == sum(letter.islower() for letter in shown + second)


def test_case_is_the_alignments_without_a_genome(maf, tmp_path):
    assert build_alignment([maf], tmp_path / "s", reference="hg").info.case == "maf"
    with pytest.raises(
        UserError, match="--case fasta takes the soft-masked letters from the genome; give it with --fa"
    ):
        build_alignment([maf], tmp_path / "t", reference="hg", case="fasta")


NAMES = [
    "a/b",
    ".",
    "..",
    "zarr.json",
    "__x",
    "c",
    "HLA-A*01:01:01:01",
    "gi|1|ref",
    "x" * 300,
    "%41",
    "é",
    "a\\b",
    "chr1:5",
]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (["1", "1 again"], "the records 1 and 1 could both be the alignment's 1"),
        (["chr1", "1"], "the records chr1 and 1 could both be the alignment's 1"),
        (["1", "chr1"], None),  # its own name counts
    ],
)
def test_a_chromosome_has_one_record_in_the_genome(tmp_path, records, message):
    (tmp_path / "x.maf").write_text("a\ns hg.1 0 4 + 8 ACGT\ns pt.1 0 4 + 8 ACGT\n")
    texts = ("ACGTAAAA", "ACGTCCCC")
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{text}\n" for name, text in zip(records, texts, strict=True)))

    def build():
        return build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg", fasta=tmp_path / "g.fa")

    if message is None:
        build()
        assert decode(AlignmentStore(tmp_path / "s").read("1", 0, 8)[:, 0]) == "ACGTAAAA"
        return
    with pytest.raises(UserError, match=message):
        build()
    assert not (tmp_path / "s").exists()


def test_any_name_of_a_fasta_can_be_a_chromosome(tmp_path):
    import pyfaidx

    rng = np.random.default_rng(0)
    letters = {name: "".join(rng.choice(list("ACGT"), 30 + i)) for i, name in enumerate(NAMES)}
    blocks = [
        f"a\ns hg.{name} 0 {len(text)} + {len(text)} {text}\ns pt.1 0 2 + 9 AC{'-' * (len(text) - 2)}\n"
        for name, text in letters.items()
    ]
    (tmp_path / "x.maf").write_text("".join(blocks))
    (tmp_path / "g.fa").write_text("".join(f">{name} more\n{text}\n" for name, text in letters.items()))
    report = build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg", fasta=tmp_path / "g.fa")
    assert (report.mismatches, report.unchecked) == (0, ())
    store = AlignmentStore(tmp_path / "s")
    assert store.chromosomes == NAMES
    theirs = pyfaidx.Fasta(str(tmp_path / "g.fa"))
    for name in NAMES:
        assert decode(store.read(name, 0, store.lengths[name])[:, 0]) == str(theirs[name])
        for text, (start, end) in {"": (0, len(letters[name])), ":5": (4, 5), ":1,0-12": (9, 12)}.items():
            region = parse_region(name + text, store)
            assert (region.chromosome, region.start, region.end) == (name, start, end)
    prepare(Prepare(tmp_path / "s", out=tmp_path / "w", window=10, step=5, test_regions=f"{NAMES[0]} {NAMES[6]}:1-20"))
    assert WindowSet(tmp_path / "w", "test").starts.tolist() == [0, 5, 10, 15, 20, 0, 5, 10]
    build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg", overwrite=True)
    assert AlignmentStore(tmp_path / "s").chromosomes == NAMES


def test_a_region_that_could_be_two_is_refused(tmp_path):
    writer = StoreWriter(tmp_path / "s", ["hg", "pt"])
    for name in ("chr1", "chr1:5"):
        writer.write(name, np.ones((30, 2), np.uint8))
    writer.close()
    store = AlignmentStore(tmp_path / "s")
    with pytest.raises(UserError, match=r"'chr1:5' is a chromosome of .*, and a place on another, 'chr1'"):
        parse_region("chr1:5", store)
    assert parse_region("chr1:5:1-30", store).chromosome == "chr1:5"
    assert parse_region("chr1:5-5", store).chromosome == "chr1"


def test_a_store_of_before_version_3_is_read(tmp_path):
    import json

    from r2mae_dna.data.new_folders import digest_of

    writer = StoreWriter(tmp_path / "s", ["hg", "pt"])
    writer.write("chr1", np.ones((30, 2), np.uint8))
    writer.close()
    index = tmp_path / "s" / "zarr.json"
    content = json.loads(index.read_text())
    attributes = content["attributes"]["r2mae_dna"]
    attributes["shards"]["x:1"], attributes["covered"]["x:1"] = [0], 30  # was the name of a folder
    (tmp_path / "s" / "x:1").mkdir()
    for file in [path for path in (tmp_path / "s" / "chr1").rglob("*") if path.is_file()]:
        copy = tmp_path / "s" / "x:1" / file.relative_to(tmp_path / "s" / "chr1")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    attributes |= {"version": 2, "files": {}, "seal": None}
    del attributes["case"]
    attributes["seal"] = digest_of(attributes)
    index.write_text(json.dumps(content))
    store = AlignmentStore(tmp_path / "s")
    assert (store.chromosomes, store.info.case) == (["chr1", "x:1"], None)
    assert store.read("x:1", 0, 30).all()
    attributes |= {"version": 9}
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is of a later version of r2mae-dna"):
        AlignmentStore(tmp_path / "s")


def test_seven_hundred_scaffolds_need_few_open_files(tmp_path):
    import resource

    text = "ACGTA"
    blocks = [f"a\ns r.scaffold_{i} 1 5 + 9 {text}\ns o.s{i} 0 5 + 5 {text}\n" for i in range(700)]
    (tmp_path / "x.maf").write_text("".join(blocks))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, before[1]), before[1]))
    try:
        info = build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="r").info
        store = AlignmentStore(tmp_path / "s")
        assert [decode(store.read(f"scaffold_{i}", 0, 9)[:, 1]) for i in (0, 699)] == ["-ACGTA---"] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(info.covered) == 700


def test_reverse_strand_places_are_those_of_the_genome(tmp_path):
    import pyfaidx
    from Bio.Seq import Seq

    rng = np.random.default_rng(1)
    genome = "".join(rng.choice(list("ACGT"), 500))
    (tmp_path / "g.fa").write_text(f">chr1\n{genome}\n")
    other = str(Seq(genome).reverse_complement())
    blocks = []
    for start in range(3, 480, 40):
        text = other[start : start + 20]
        shown = text[:7] + "--" + text[7:]
        blocks.append(f"a\ns pt.1 0 22 + 99 {text[:7]}GG{text[7:]}\ns hg.chr1 {start} 20 - 500 {shown}\n")
    (tmp_path / "x.maf").write_text("".join(blocks))
    build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg")
    codes, theirs = AlignmentStore(tmp_path / "s").read("chr1", 0, 500), pyfaidx.Fasta(str(tmp_path / "g.fa"))["chr1"]
    covered = np.flatnonzero(codes[:, 0])
    assert len(covered) == 12 * 20
    for i in covered.tolist():
        assert decode(codes[i]) == str(theirs[i]) * 2


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
