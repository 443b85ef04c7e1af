import gzip

import numpy as np
import pytest
from Bio import AlignIO
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import UserError
from r2mae_dna.data.codes import COMPLEMENT, ENCODE, ENCODE_REFERENCE, decode, match_chromosome, reverse_complement
from r2mae_dna.data.maf import BlockCounts, project, read_blocks, scan_blocks
from r2mae_dna.data.samples import APES, VERTEBRATES, sample_path

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


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("s hg.1 0 3 + 9 AC\n", "line 5: hg.1 declares 3 letters and has 2"),
        ("s hg.1 0 x + 9 AC\n", "line 5: a sequence line needs `s source start size strand source-size text`"),
        ("s hg.1 0 2 9 AC\n", "line 5: a sequence line needs"),
        ("s hg.1 0 2 * 9 AC\n", "line 5: the strand must be + or -, got '*'"),
        ("s hg.1 8 2 + 9 AC\n", "line 5: hg.1 8+2 is outside its length 9"),
        ("s hg.1 0 2 + 9 AC\ns mm.1 0 3 + 9 ACG\n", "line 6: mm.1 is 3 columns wide, its block 2"),
    ],
)
def test_malformed_lines_are_named(tmp_path, block, message):
    with pytest.raises(UserError) as error:
        list(read_blocks(write(tmp_path / "bad.maf", block)))
    assert f"bad.maf, {message}" in str(error.value)


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


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [("chr22", ["22"], 0), ("22", ["chr22"], 0), ("22", ["chr22", "22"], 1), ("chrM", ["MT"], 0), ("MT", ["chrM"], 0),
     ("chrUn", ["22"], None), ("2", ["22"], None)],
)  # fmt: skip
def test_chromosome_names(name, known, found):
    assert match_chromosome(name, {k: i for i, k in enumerate(known)}) == found
