import numpy as np
import polars as pl
import pytest
import torch

from dna_files import vcf
from r2mae_core import UserError
from r2mae_dna.data.codes import COMPLEMENT, TOKEN_BITS
from r2mae_dna.embed import embed_sites
from r2mae_dna.model import both_strands
from r2mae_dna.options import Embed


def options(toy, model, out, **others):
    return Embed(str(model), toy[0], out=out, device="cpu", progress=False, **others)


def window_of(codes, position):
    """The window of a 0-based site, cut by hand."""
    padded = np.zeros((len(codes) + 128, 3), np.uint8)
    padded[64 : 64 + len(codes)] = codes & TOKEN_BITS
    return padded[position : position + 128]


def test_logits_and_probabilities_are_the_networks(toy, toy_model, tmp_path):
    out = tmp_path / "o.parquet"
    found = embed_sites(options(toy, toy_model[0], out, regions="7:191-210 7:1-2", what="logits", batch_size=7))
    places = [0, 1, *(p for p in range(190, 210) if p != 200)]
    assert found["pos"].tolist() == [p + 1 for p in places]
    windows = torch.from_numpy(np.stack([window_of(toy[1], p) for p in places]))
    with torch.no_grad():
        expected = both_strands(toy_model[1], windows).numpy()
    assert found["values"] == pytest.approx(expected, abs=1e-4)
    frame = pl.read_parquet(out)
    assert frame.columns == ["chrom", "pos", "ref", "A", "C", "G", "T"]
    assert frame["ref"].to_list() == ["-ACGT"[toy[1][p, 0] & TOKEN_BITS] for p in places]
    shares = embed_sites(options(toy, toy_model[0], tmp_path / "p.npz", regions="7:191-195", what="probabilities"))
    logits = torch.from_numpy(expected[2:7])
    assert shares["values"] == pytest.approx(torch.softmax(logits, 1).numpy(), abs=1e-5)


def test_vectors_see_the_site_on_both_strands(toy, toy_model, tmp_path):
    source = vcf(tmp_path / "in.vcf", toy[1], [50, 20, 20])
    found = embed_sites(options(toy, toy_model[0], tmp_path / "e.npz", variants=source))
    assert found["pos"].tolist() == [20, 50]
    saved = np.load(tmp_path / "e.npz", allow_pickle=False)
    assert saved["chrom"].tolist() == ["7", "7"]
    for row, position in enumerate((19, 49)):
        window = window_of(toy[1], position)
        with torch.no_grad():
            one = toy_model[1].encode(torch.from_numpy(window[None]))[0, 64]
            other = toy_model[1].encode(torch.from_numpy(COMPLEMENT[window[::-1]][None]))[0, 63]
        assert saved["values"][row] == pytest.approx(((one + other) / 2).numpy(), abs=1e-4)


def letters_of(codes, first, n):
    return "".join("-ACGT"[code & TOKEN_BITS] for code in codes[first - 1 : first - 1 + n, 0].tolist())


def test_the_sites_of_variants_are_the_bases_that_they_change(toy, toy_model, tmp_path, capsys):
    def other(base):
        return "CGTA"["ACGT".index(base)]

    three, one = letters_of(toy[1], 20, 3), letters_of(toy[1], 50, 1)
    rows = [
        ("chr7", 20, three, three[0] + other(three[1]) + other(three[2])), ("7", 50, one, one + "A"),
        ("7", 60, "N", "A"), ("7", 400, "A", "C"), ("8", 5, "A", "C"), ("7", 201, "A", "C"),
    ]  # fmt: skip
    lines = ["chrom\tpos\tref\talt", *("\t".join(map(str, row)) for row in rows)]
    (tmp_path / "v.tsv").write_text("\n".join(lines) + "\n")
    found = embed_sites(options(toy, toy_model[0], tmp_path / "e.npz", variants=tmp_path / "v.tsv"))
    assert found["pos"].tolist() == [21, 22]
    said = capsys.readouterr().out
    assert "Left out: alleles that are 1 not_snv, 2 outside, 1 no_alignment, 1 indel" in said
    assert "chr7 as 7 (1 alleles)" in said


def test_variants_of_another_genome_are_refused(toy, toy_model, tmp_path):
    source = vcf(tmp_path / "in.vcf", toy[1])
    shifted = source.read_text().replace("7\t", "7\t1")  # positions of other letters
    source.write_text(shifted)
    with pytest.raises(UserError, match="reference alleles disagree"):
        embed_sites(options(toy, toy_model[0], tmp_path / "e.npz", variants=source))
    assert not (tmp_path / "e.npz").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "name the sites"), ({"regions": "7:299-301"}, "ends beyond"), ({"regions": "7:201-201"}, "no site has"),
        ({"regions": "7", "model": "frequencies"}, "has no network"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused(toy, toy_model, tmp_path, change, message):
    from dataclasses import replace

    with pytest.raises(UserError, match=message):
        embed_sites(replace(options(toy, toy_model[0], tmp_path / "e.npz"), **change))
    assert not (tmp_path / "e.npz").exists()


def test_embed_command(call, toy, toy_model):
    argv = ["--regions", "7:1-9", "--out", "e.parquet", "--device", "cpu", "--no-progress"]
    code, out, _ = call("embed", toy_model[0], toy[0], *argv)
    assert code == 0
    assert "embeddings of 9 sites (32 numbers each) on" in out
    assert pl.read_parquet("e.parquet").shape == (9, 35)
