"""What is damaged is noticed and named, and nothing that is read runs code."""

import gzip
import os
from pathlib import Path

import numpy as np
import polars as pl_frames
import pytest
import torch

from dna_files import MAF, published, vcf, zipped
from r2mae_core import UserError, write_checksums
from r2mae_dna.data.build import build_alignment
from r2mae_dna.data.conservation import Track
from r2mae_dna.data.genome import read_fasta
from r2mae_dna.data.maf import read_blocks
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.tables import read_frame
from r2mae_dna.data.variants import TableFile
from r2mae_dna.data.vcf import read_vcf_frame
from r2mae_dna.data.windows import WindowSet, prepare
from r2mae_dna.evaluate import evaluate_table, load_labelled
from r2mae_dna.options import Evaluate, Prepare
from r2mae_dna.weights import load_model


def damages(content):
    """Yield damaged forms of a file's content; None: the file is gone."""
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 4
    yield from (None, b"", content[: len(content) // 2], content + b"x", bytes(flipped), b"\xff\xfe[1,2]")


def refuses_damage(folder, read, skip=()):
    """Damage each file of a folder in all ways, and check that reading says so, naming a file in it."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skip):
        content = file.read_bytes()
        for damaged in damages(content):
            if damaged == content:
                continue
            file.unlink() if damaged is None else file.write_bytes(damaged)
            with pytest.raises(UserError) as error:
                read()
            assert "\n" not in str(error.value)
            assert str(folder) in str(error.value), (file, damaged)
        file.write_bytes(content)
    read()


def test_a_damaged_store_is_noticed(toy):
    store, codes = toy
    refuses_damage(store, lambda: AlignmentStore(store).read("7", 0, len(codes)))


def test_a_flipped_bit_is_noticed_on_reading_where_a_store_is_too_large_to_be_checked_at_once(toy, monkeypatch):
    monkeypatch.setattr("r2mae_core.lab.contents.VERIFIED", 1)
    store, codes = toy
    refuses_damage(store, lambda: AlignmentStore(store).read("7", 0, len(codes)), skip=("zarr.json",))


def test_damaged_windows_are_noticed(toy, tmp_path):
    prepare(Prepare(toy[0], out=tmp_path / "w", window=64, validation_regions="7:201-300"))
    refuses_damage(tmp_path / "w", lambda: (WindowSet(tmp_path / "w"), WindowSet(tmp_path / "w", "validation")))


def test_a_damaged_model_is_noticed(toy_model):
    home = toy_model[0] / "model"
    write_checksums(home)  # as every pretraining leaves them
    refuses_damage(home, lambda: load_model(toy_model[0]), skip=("SHA256SUMS",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "32"}, "hidden_size is '32'; a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; a whole number from 1"),
        ({"n_aux_features": None}, "n_aux_features is None"),
        ({"hidden_dropout_prob": None}, "hidden_dropout_prob is None"),
        ({"species": 3}, "cannot be read"),
        ({"species": ["hg"]}, "names 1 species, and its model has 3"),
        ({"num_hidden_layers": 3}, "has no weight 'model.encoder.layer.2"),
        (
            {"num_hidden_layers": 1},
            "holds 16 weights that a model of its config.json has no place for (model.encoder.l",
        ),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05; only 1e-12 is known here"),
        ({"embedding_size": 64}, "embedding_size is 64; only 32 is known here"),
        ({"is_decoder": True}, "is_decoder is True; only False is known here"),
        ({"sliding_window": 8, "extra": "x"}, "extra, sliding_window is not known here, and may change what the model"),
        ({"n_aux_features": 11}, "n_aux_features is no multiple of 5"),
        ({"window": "128"}, "window is '128'; a whole number from 2 to 1536 is needed"),
        ({"intermediate_size": 65}, "does not have the shapes of its config.json"),
    ],
)
def test_the_description_of_a_published_model_is_not_believed(toy_model, changes, message):
    import json

    file = toy_model[0] / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError) as error:
        load_model(toy_model[0])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "lora.a",
            lambda _: torch.zeros(3),
            "holds 1 weights that a model of its config.json has no place for (lora.a)",
        ),
        ("cls.predictions.decoder.bias", lambda b: b + 1, "'cls.predictions.decoder.bias' differs from 'cls.pred"),
        ("model.encoder.embed_positions.weight", lambda t: t.flip(0), "its rotary table is not the formula's"),
        ("model.encoder.embed_positions.weight", lambda t: t[:, :4], "its rotary table is not the formula's"),
    ],
)
def test_weights_that_would_be_lost_are_named(toy_model, name, change, message):
    from safetensors.torch import load_file, save_file

    file = toy_model[0] / "model" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, name: change(weights.get(name)).contiguous()}, file)
    with pytest.raises(UserError) as error:
        load_model(toy_model[0])
    assert message in str(error.value)


def test_weights_in_half_precision_are_whole(toy_model):
    from safetensors.torch import load_file, save_file

    file = toy_model[0] / "model" / "model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    assert load_model(toy_model[0]).window is None


@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 343\n", b"", b"{}", b"<html></html>"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_no_file_of_weights_is_one_line(toy_model, name, content):
    home = toy_model[0] / "model"
    (home / "model.safetensors").unlink()
    (home / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_model(toy_model[0])
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert b"lfs" not in content or "LFS" in str(error.value)


def test_weights_that_are_no_numbers_are_named(toy_model):
    from safetensors.torch import load_file, save_file

    file = toy_model[0] / "model" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "cls.predictions.bias": torch.full((6,), float("nan"))}, file)
    with pytest.raises(UserError, match=r"the weight 'cls\.predictions\.bias' holds NaN"):
        load_model(toy_model[0])


# Data cannot run code


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_store_whose_codec_could_run_code_is_not_read(tmp_path):
    import json
    import pickle

    store = published(tmp_path / "p", np.ones((300, 3), np.uint8))
    index = json.loads((store / "7" / ".zarray").read_text())
    for change in (
        {"filters": [{"id": "pickle", "protocol": 5}], "dtype": "|O"},
        {"filters": [{"id": "pickle", "protocol": 5}]},
        {"dtype": "|O", "filters": [{"id": "json2"}]},
        {"compressor": {"id": "pickle", "protocol": 5}},
        {"compressor": {"id": "os.system"}},
    ):
        (store / "7" / ".zarray").write_text(json.dumps({**index, **change}))
        for chunk in ("0.0", "1.0", "2.0"):
            (store / "7" / chunk).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(UserError, match=r"not an alignment store|which could run code"):
            AlignmentStore(store).read("7", 0, 300)
        assert not Path("ran").exists()


def test_a_damaged_published_store_is_one_line(toy, tmp_path):
    archive = zipped(published(tmp_path / "89.zarr", toy[1]))
    whole = archive.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PK\x03\x04" + whole[:50], whole[:200] + b"\0" * 40 + whole[240:]):
        archive.write_bytes(content)
        with pytest.raises(UserError) as error:
            AlignmentStore(archive).read("7", 0, 300)
        assert "\n" not in str(error.value)
        assert str(archive) in str(error.value)


# Files of the user: named with their line


def bgzf(content):
    from Bio import bgzf as writer

    with writer.BgzfWriter("b.gz", "wb") as target:
        target.write(content)
    return Path("b.gz").read_bytes()


def test_archives_that_are_cut_off_or_damaged_are_named(tmp_path):
    text = MAF.encode() * 3000
    packed = gzip.compress(text)
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 255
    mark = bgzf(text)
    for content in (packed[:-4], packed[: len(packed) // 2], bytes(flipped), mark[:-28], mark[:-1]):
        (tmp_path / "x.maf.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.maf\.gz(, line \d+:| is damaged or cut off)"):
            list(read_blocks(tmp_path / "x.maf.gz"))
    (tmp_path / "t.tsv.gz").write_bytes(bgzf(b"chrom\tpos\tref\talt\n")[:-28])
    with pytest.raises(UserError, match="is damaged or cut off"):
        read_frame(tmp_path / "t.tsv.gz")
    (tmp_path / "x.maf.gz").write_bytes(mark)
    assert len(list(read_blocks(tmp_path / "x.maf.gz"))) == 3000


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("s hg.7 1_0 2 + 40 AC\n", "line 2: a sequence line needs"),
        ("s hg.7 \u0661 2 + 40 AC\n", "line 2: a sequence line needs"),
        (f"s hg.7 {'9' * 5000} 2 + 40 AC\n", "line 2: a sequence line needs"),
        (f"s hg.7 0 2 + {10**15} AC\n", "line 2: hg.7 cannot be 1,000,000,000,000,000 long"),
    ],
)
def test_what_a_maf_cannot_hold_is_refused(tmp_path, block, message):
    (tmp_path / "x.maf").write_text(f"a\n{block}s pt.1 0 2 + 9 AC\n")
    with pytest.raises(UserError) as error:
        build_alignment([tmp_path / "x.maf"], tmp_path / "s", reference="hg")
    assert message in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["x.maf"]


def test_a_fasta_file_is_read_as_biopython_reads_it(tmp_path):
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    text = "\n>a b c\nACgt\nN N\r\n\n>\nAC\n>d\n>e\tf\nTT"
    (tmp_path / "g.fa").write_text(text)
    with (tmp_path / "g.fa").open(newline="") as handle:
        handle.readline()
        theirs = [((title.split(None, 1) or [""])[0], letters) for title, letters in SimpleFastaParser(handle)]
    assert [(name, letters.tobytes().decode()) for name, letters in read_fasta(tmp_path / "g.fa")] == theirs
    (tmp_path / "g.fa").write_text("\nhello\n>a\nAC\n")
    with pytest.raises(UserError, match=r"g\.fa, line 2: a FASTA file begins"):
        list(read_fasta(tmp_path / "g.fa"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"chrom\tpos\tref\talt\n7\t1\tA\tC\n7\t2\tA\n", "line 3: 3 fields instead of 4; is the file cut off?"),
        (b"chrom\tpos\tref\talt\n7\t1\tA\tC\n7\t2\tA\tC\tx\n", "line 3: 5 fields instead of 4"),
        (b"chrom\tpos\tref\talt\n7\t1\tA\tC\n7\t2\t\xff\tC\n", "line 3 is not UTF-8 text"),
        (b"chrom\tpos\tref\talt\n7\t1\tA\tC\n7\t1.5\tA\tC\n", "row 2: the position '1.5' is not a whole number"),
        (b"chrom\tpos\tref\talt\n7\ttrue\tA\tC\n", "row 1: the position 'true' is not a whole number"),
        (b"chrom\tpos\tref\talt\n7\t99999999999999999999\tA\tC\n", "row 1: the position"),
    ],
)
def test_malformed_lines_of_tables_are_named(tmp_path, content, message):
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(UserError) as error:
        TableFile(tmp_path / "t.tsv")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7\t{}\t.\tA\tC\t.\t.\tAC=1".format("9" * 30), "line 2: the position '9999"),
        ("7\t\u0661\t.\tA\tC\t.\t.\tAC=1", "line 2: the position"),
        ("7\t5\t.\tA\tC\t.\t.\tAC=one", "line 2: AC=one is not a number"),
        ("7\t5\t.\tA\tC,G,T\t.\t.\tAC=1,2", "line 2: AC has 2 values for 3 alleles"),
    ],
)
def test_malformed_records_of_a_vcf_are_named(tmp_path, line, message):
    (tmp_path / "v.vcf").write_text(f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n{line}\n")
    with pytest.raises(UserError) as error:
        read_vcf_frame(tmp_path / "v.vcf", ["AC"])
    assert message in str(error.value)


def test_a_variant_without_its_counts_is_neither_rare_nor_common(toy, tmp_path):
    lines = vcf(tmp_path / "v.vcf", toy[1]).read_text().splitlines()
    marked = [f"{line};R2MAE_LLR=-{i}" if line[0] == "7" else line for i, line in enumerate(lines)]
    marked[10] = marked[10].replace("AC=1;AN=9", "DB")  # without counts
    marked[11] = marked[11].replace("AC=1;AN=9", "AC=0;AN=0")
    marked[12] = marked[12].replace("AC=1;AN=9", "AC=4;AN=9")  # common
    (tmp_path / "v.vcf").write_text("\n".join(marked) + "\n")
    data = load_labelled(Evaluate(tmp_path / "v.vcf", preset="rare-common", scores=("R2MAE_LLR",)))
    assert (int(data.labels.sum()), int((~data.labels).sum()), data.n_unlabelled) == (97, 1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["0.1", "x", "0.3", "0.4"], "column CADD, row 2: 'x' is not a number"),
        ([0.1, 0.2, float("inf"), 0.4], "column CADD, row 3: inf is infinite"),
        ([[1], [2], [3], [4]], "column CADD: numbers are needed"),
    ],
)
def test_scores_that_are_no_numbers_are_named(tmp_path, values, message):
    frame = pl_frames.DataFrame({"label": [1, 0, 1, 0], "CADD": values})
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError) as error:
        evaluate_table(Evaluate(tmp_path / "t.parquet", scores=("CADD",), bootstrap=0))
    assert message in str(error.value)


def test_a_track_of_another_genome_is_refused(toy, tmp_path):
    big = pytest.importorskip("pyBigWig")
    for name, length, message in (("chr7", 400, "chr7 is 400 long, and 300"), ("chr9", 300, "none of the chromosomes")):
        file = big.open(str(tmp_path / "x.bw"), "w")
        file.addHeader([(name, length)])
        file.addEntries([name], [0], ends=[1], values=[1.0])
        file.close()
        with pytest.raises(UserError, match=message):
            prepare(Prepare(toy[0], out=tmp_path / "w", phastcons=tmp_path / "x.bw", phylop=tmp_path / "x.bw"))


def test_what_is_unknown_or_infinite_in_a_track_never_reaches_the_training(toy, tmp_path):
    big = pytest.importorskip("pyBigWig")
    tracks = {}
    for name, value in (("phastcons", 0.5), ("phylop", 1e30)):
        tracks[name] = tmp_path / f"{name}.bw"
        file = big.open(str(tracks[name]), "w")
        file.addHeader([("7", 300)])
        file.addEntries(["7"], [70], ends=[71], values=[value])
        file.close()
    with pytest.raises(UserError, match=r"phylop\.bw has a value on 7 in 65 to 128 that is out of all bounds"):
        prepare(Prepare(toy[0], out=tmp_path / "w", window=64, top=1.0, **tracks))
    prepare(
        Prepare(
            toy[0], out=tmp_path / "w", window=64, top=1.0, phastcons=tracks["phastcons"], phylop=tracks["phastcons"]
        )
    )
    assert np.isfinite(WindowSet(tmp_path / "w").conservation).all()


def test_a_track_without_any_value_has_none(tmp_path):
    pyBigWig = pytest.importorskip("pyBigWig")
    with pyBigWig.open(str(tmp_path / "empty.bw"), "w") as file:
        file.addHeader([("chr7", 300)])
    values = Track(tmp_path / "empty.bw").values("NC_000007.14", 10, 40)
    assert values.shape == (30,)
    assert np.isnan(values).all()
