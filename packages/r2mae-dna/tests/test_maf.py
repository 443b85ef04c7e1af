import gzip

import numpy as np
import pytest
from Bio import AlignIO
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import UserError
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.codes import COMPLEMENT, ENCODE, ENCODE_REFERENCE, decode, reverse_complement
from r2mae_dna.data.maf import BlockCounts, project, read_blocks, scan_blocks
from r2mae_dna.data.msa import species_names
from r2mae_dna.data.samples import APES, VERTEBRATES, sample_path
from r2mae_dna.data.store import AlignmentStore

HEAD = "##maf version=1\n# a comment\ntrack name=x\n"


def write(path, *blocks, head=HEAD):
    path.write_text(head + "".join("a score=1\n" + block + "\n" for block in blocks))
    return path


@pytest.mark.parametrize("name", [VERTEBRATES, APES])
def test_every_row_is_what_biopython_reads(name, tmp_path):
    plain = tmp_path / "plain.maf"
    plain.write_bytes(gzip.decompress(sample_path(name).read_bytes()))
    blocks = list(read_blocks(sample_path(name)))  # gzipped
    with plain.open() as handle:
        theirs = list(AlignIO.parse(handle, "maf"))
    assert len(blocks) == len(theirs) > 400
    for rows, alignment in zip(blocks, theirs, strict=True):
        for row, record in zip(rows, alignment, strict=True):
            assert (row.source, row.text.decode()) == (record.id, str(record.seq))
            notes = record.annotations
            assert (row.start, row.size, row.source_size) == (notes["start"], notes["size"], notes["srcSize"])
            assert row.reverse == (notes["strand"] == -1)


def test_biopython_fills_the_same_matrix(tmp_path):
    # An independent route: Biopython's rows, letters looked up one by one.
    columns = {name: i for i, name in enumerate(["Hsap", "Ptro", "Ggor", "Ppyg"])}
    plain = tmp_path / "plain.maf"
    plain.write_bytes(gzip.decompress(sample_path(APES).read_bytes()))
    with plain.open() as handle:
        for rows, alignment in zip(read_blocks(plain), AlignIO.parse(handle, "maf"), strict=True):
            piece = project(rows, columns, BlockCounts())
            by_name = {record.id.split(".")[0]: str(record.seq) for record in alignment}
            keep = [i for i, letter in enumerate(by_name["Hsap"]) if letter != "-"]
            for name, column in columns.items():
                letters = "".join(by_name[name][i] for i in keep[:500]) if name in by_name else "-" * len(keep[:500])
                shown = letters if column == 0 else letters.upper()
                assert decode(piece.codes[:500, column]) == shown.translate(str.maketrans("Nn", "--"))


def test_reference_on_the_reverse_strand_and_not_first(tmp_path):
    block = "s mm.1 0 4 + 50 AC-GT\ns hg.chr2.5 10 5 - 100 ACaGT\ns pt.1 3 3 + 9 A-TG-\n"
    (rows,) = read_blocks(write(tmp_path / "x.maf", block))
    piece = project(rows, {"hg": 0, "mm": 1, "pt": 2}, BlockCounts())
    assert (piece.chromosome, piece.start, piece.length) == ("chr2.5", 85, 100)  # 100 - 10 - 5
    assert [decode(piece.codes[:, i]) for i in range(3)] == ["ACtGT", "AC-GT", "-CA-T"]
    assert decode(piece.codes[:, 0]) == str(Seq("ACaGT").reverse_complement())


def test_several_rows_of_a_species_the_longest_counts(tmp_path):
    block = "s hg.1 0 3 + 9 ACG\ns mm.1 0 1 + 9 --T\ns mm.2 0 3 + 9 TTT\ns mm.3 0 3 + 9 GGG\ns rn.1 0 3 + 9 AAA\n"
    counts = BlockCounts()
    (rows,) = read_blocks(write(tmp_path / "x.maf", block))
    piece = project(rows, {"hg": 0, "mm": 1}, counts)
    assert decode(piece.codes[:, 1]) == "TTT"
    assert (counts.duplicate_rows, counts.unlisted_rows, counts.without_reference) == (2, 1, 0)


def test_a_block_without_the_reference_is_counted_and_a_lonely_one_kept(tmp_path):
    counts = BlockCounts()
    rows = list(read_blocks(write(tmp_path / "x.maf", "s mm.1 0 1 + 9 A\n", "s hg.1 0 2 + 9 AN\n")))
    pieces = [project(row, {"hg": 0, "mm": 1}, counts) for row in rows]
    assert pieces[0] is None
    assert pieces[1].codes.tolist() == [[1, 0], [0, 0]]
    assert (counts.blocks, counts.without_reference) == (2, 1)


def test_lines_of_other_kinds_are_passed_over(tmp_path):
    block = "s hg.1 0 2 + 9 AC\nq hg.1 99\ni hg.1 N 0 C 0\ne mm.1 0 3 + 9 I\n"
    (rows,) = read_blocks(write(tmp_path / "x.maf", block))
    assert [row.source for row in rows] == ["hg.1"]
    scan = scan_blocks([tmp_path / "x.maf"], "hg", 8)
    assert (scan.species, scan.lengths, scan.stretches) == (["hg"], {"1": 9}, {"1": {0}})


def skipped(report):
    return {reason: count for reason, count in report.info.left_out.items() if count}


FAULTS = [
    (
        "s hg.1 0 3 + 9 AC\n",
        "line 5: hg.1 declares 3 letters and has 2",
        "with another number of letters than declared",
    ),
    ("s hg.1 0 x + 9 AC\n", "line 5: a sequence line needs `s source start size strand", "that are malformed"),
    ("s hg.1 0 2 9 AC\n", "line 5: a sequence line needs", "that are malformed"),
    ("s hg.1 0 2 ? 9 AC\n", "line 5: the strand must be + or -, got '?'", "whose strand is neither + nor -"),
    ("s hg.1 8 2 + 9 AC\n", "line 5: hg.1 8+2 is outside its length 9", "outside their chromosome"),
    (f"s hg.1 0 2 + {10**12} AC\n", "line 5: hg.1 cannot be 1,000,000,000,000 long", "outside their chromosome"),
    (
        "s hg.1 0 2 + 9 A*\n",
        "line 5: hg.1 has '*' where a letter or - should be",
        "with other characters than letters and gaps",
    ),
    ("s hg.1 0 3 + 9 A\u00e9\n", "line 5: hg.1 has '\xc3' where", "with other characters than letters and gaps"),
    (
        b"s hg.\xff 0 2 + 9 AC\n",
        "line 5: the name of the sequence, 'hg.\\udcff', is not UTF-8",
        "whose name is not UTF-8",
    ),
]


@pytest.mark.parametrize(("block", "message", "reason"), FAULTS)
def test_a_faulty_row_of_the_reference_ends_the_reading_and_another_is_counted(tmp_path, block, message, reason):
    block = block if isinstance(block, bytes) else block.encode()
    good = b"a\ns rn.1 0 2 + 9 AC\ns pt.1 0 2 - 9 GG\n"
    (tmp_path / "bad.maf").write_bytes(HEAD.encode() + b"a\n" + block + good)
    with pytest.raises(UserError) as error:
        build_alignment([tmp_path / "bad.maf"], tmp_path / "s", reference="hg")
    shown = str(error.value)
    assert f"bad.maf, {message}" in shown or (b"\xff" in block and "the reference 'hg' is in no block" in shown)
    if b"\xff" not in block:
        with pytest.raises(UserError) as error:
            list(read_blocks(tmp_path / "bad.maf"))
        assert f"bad.maf, {message}" in str(error.value)
    report = build_alignment([tmp_path / "bad.maf"], tmp_path / "s", reference="rn", species=["pt", "hg"])
    assert skipped(report) == {f"rows of other species {reason}": 1}
    assert decode(AlignmentStore(tmp_path / "s").read("1", 0, 2).T.ravel()) == "ACGG--"


def test_a_name_of_the_reference_that_is_not_utf8_ends_the_reading(tmp_path):
    (tmp_path / "x.maf").write_bytes(b"a\ns hg.1 0 2 + 9 AC\ns pt.1 0 2 + 9 AC\na\ns hg.\xff 0 2 + 9 AC\n")
    with pytest.raises(UserError, match=r"x\.maf, line 5: the name of the sequence, 'hg\.\\udcff', is not UTF-8"):
        build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg")


def test_rows_of_another_width_than_the_references_are_skipped(tmp_path):
    block = "s mm.1 0 3 + 9 ACG\ns hg.1 0 2 + 9 AC\ns pt.1 0 2 + 9 GG\n"
    path = write(tmp_path / "x.maf", block)
    with pytest.raises(UserError, match=r"line 6: hg\.1 is 2 columns wide, its block 3"):
        list(read_blocks(path))
    report = build_alignment([path], tmp_path / "s", reference="hg")
    assert skipped(report) == {"rows of other species that are not as wide as their block": 1}
    assert AlignmentStore(tmp_path / "s").species == ("hg", "mm", "pt")
    assert decode(AlignmentStore(tmp_path / "s").read("1", 0, 2).T.ravel()) == "AC--GG"


def build_from(tmp_path, sources, reference, species=(), head=HEAD):
    """Build from one block with a row per source, each of other letters."""
    rows = "".join(f"s {source} 0 3 + 9 {text}\n" for source, text in zip(sources, ["ACG", "CGT", "GTA"], strict=False))
    write(tmp_path / "x.maf", rows, head=head)
    out = tmp_path / "store"
    report = build_alignment([tmp_path / "x.maf"], out, reference=reference, species=species, overwrite=True)
    return AlignmentStore(out), report


def test_species_and_chromosomes_with_dots(tmp_path):
    store, _ = build_from(tmp_path, ["GCA_028858775.2.chr1", "HG002.1.chr1"], "GCA_028858775.2")
    assert (store.species, store.chromosomes) == (("GCA_028858775.2", "HG002.1"), ["chr1"])
    haplotypes = ["HG002.1", "HG002.2"]
    store, report = build_from(tmp_path, ["hg38.chr1_KI270706v1.2", "HG002.1.chr1", "HG002.2.chr1"], "hg38", haplotypes)
    assert (store.species, store.chromosomes) == (("hg38", *haplotypes), ["chr1_KI270706v1.2"])
    assert report.counts.duplicate_rows == 0
    assert decode(store.read("chr1_KI270706v1.2", 0, 3).T.ravel()) == "ACGCGTGTA"
    store, _ = build_from(tmp_path, ["HG002.1.chr1", "HG002.2.chr1", "HG002.chr1"], "HG002.2", ["HG002", "HG002.1"])
    assert decode(store.read("chr1", 0, 3).T.ravel()) == "CGTGTAACG"  # the longest name that fits


def test_names_of_the_tree_in_a_file_count_as_given(tmp_path):
    head = "##maf version=1 scoring=N/A\n# hal ((HG002.mat:0.1,HG002.pat:0.2)Anc1.x:1,hg38:2)Anc0;\n"
    sources = ["hg38.chr1", "HG002.mat.chr1", "HG002.pat.chr1"]
    store, _ = build_from(tmp_path, sources, "hg38", head=head)
    assert store.species == ("hg38", "HG002.mat", "HG002.pat")
    store, _ = build_from(tmp_path, ["hg38.chr1", "Anc1.x.s1", "Anc0.s1"], "hg38", head=head)
    assert store.species == ("hg38", "Anc1.x", "Anc0")


@pytest.mark.parametrize(
    ("sources", "reference", "species", "message"),
    [
        (["hg.1", "HG002.1.chr1", "HG002.2.chr1"], "hg", [], "'HG002' covers HG002.1, HG002.2; name each species"),
        (["hg.1", "HG002.1.chr1", "HG002.2.chr1"], "hg", ["HG002"], "'HG002' covers HG002.1, HG002.2; name each"),
        (["hg.1", "HG002.mat.chr1", "HG002.pat.chr1"], "hg", [], "'HG002' covers HG002.mat, HG002.pat; name each"),
        (["hg.1", "HG002.1.chr1", "HG002.chr1"], "hg", [], "'HG002' covers HG002.1 and sequences without such a part"),
        (["GCA_02.2.chr1", "pt.1"], "GCA_02", [], "the reference 'GCA_02' is called GCA_02.2 there; name all of it"),
        (
            ["chr1", "chrA"],
            "hg38",
            [],
            "'hg38' is in no block of x.maf; its species: none; without a species: chr1, ch",
        ),
    ],
)
def test_names_that_cover_several_assemblies_are_refused(tmp_path, sources, reference, species, message):
    with pytest.raises(UserError) as error:
        build_from(tmp_path, sources, reference, species)
    assert message in str(error.value).replace(f"{tmp_path}/", "")
    assert not (tmp_path / "store").exists()


def test_rows_without_a_species_are_left_out_and_counted(tmp_path):
    store, report = build_from(tmp_path, ["hg.1", "contig7", "pt.1"], "hg")
    assert store.species == ("hg", "pt")
    assert report.nameless == ("contig7",)
    assert skipped(report) == {"rows of species that were not requested, or without a species": 1}
    store, _ = build_from(tmp_path, ["hg.1", "contig7", "pt.1"], "hg", ["contig7"])  # unless that is its name
    assert decode(store.read("1", 0, 3).T.ravel()) == "ACGCGT"
    store, _ = build_from(tmp_path, ["NC_045512v2", "pt.1"], "NC_045512v2")
    assert store.chromosomes == ["NC_045512v2"]


def test_species_in_the_order_of_a_tree(tmp_path):
    (tmp_path / "t.nwk").write_text("((mm.2:1,pt:2):1,\n rn:3);\n")
    assert species_names(str(tmp_path / "t.nwk")) == ["mm.2", "pt", "rn"]
    assert species_names(str(tmp_path / "t.nwk"), "pt") == ["mm.2", "rn"]  # a tree has the reference as well
    (tmp_path / "l.txt").write_text("# two assemblies\nHG002#1, HG002#2\n\nrn # a rat\n #pt\n")
    assert species_names(str(tmp_path / "l.txt"), "hg") == ["HG002#1", "HG002#2", "rn"]
    (tmp_path / "t.nwk").write_text("((mm.2:1,pt")
    with pytest.raises(UserError, match="begins like a tree"):
        species_names(str(tmp_path / "t.nwk"))


def test_a_cut_gzip_file_is_named(tmp_path):
    whole = sample_path(VERTEBRATES).read_bytes()
    (tmp_path / "cut.maf.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.maf\.gz is damaged or cut off"):
        list(read_blocks(tmp_path / "cut.maf.gz"))
    with pytest.raises(UserError, match="cut off"):
        scan_blocks([tmp_path / "cut.maf.gz"], "mm9", 8)
    with pytest.raises(UserError, match=r"no file .*nowhere"):
        scan_blocks([tmp_path / "nowhere"], "mm9", 8)


@given(st.text(alphabet="ACGTacgtN-", min_size=1, max_size=50))
def test_strands_are_those_of_biopython(text):
    codes = ENCODE_REFERENCE[np.frombuffer(text.encode(), np.uint8)]
    shown = text.replace("N", "-")
    assert decode(codes) == shown
    assert decode(reverse_complement(codes)) == str(Seq(shown).reverse_complement())
    assert (reverse_complement(reverse_complement(codes)) == codes).all()
    assert (COMPLEMENT[ENCODE[np.frombuffer(text.encode(), np.uint8)]] <= 4).all()
