"""Every kind of input says what it holds, compared with `datasets` or the plain text."""

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from r2mae_core import UserError
from r2mae_text import Corpus, gpt2_tokenizer
from r2mae_text.data.documents import Tally, documents
from r2mae_text.data.passages import parts
from r2mae_text.data.prepare import prepare
from r2mae_text.data.sources import plan_pieces
from r2mae_text.options import Prepare

TEXTS = ["a plain one", "née “quoted” and, a comma\tand a tab", "two\nlines", 'say "no"', "the last, 象 😀"] * 40


def settings(*sources, **changes):
    options = {"vocab_size": 300, "validation_share": 0.0, "workers": 0, "out": Path("corpus"), "progress": False}
    return Prepare(tuple(map(Path, sources)), **{**options, **changes})


def texts_of(*sources, text_field="text", document="file", tally=None):
    found, text = [], ""
    for piece in plan_pieces(tuple(map(Path, sources)), document).pieces:
        for part in documents(piece, text_field, Tally() if tally is None else tally):
            text += part.text
            if part.last:
                found.append(text)
                text = ""
    return found


def compressed(content, ending):
    import pyarrow as pa

    plain = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    if ending != ".zst":
        return plain[ending](content)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def content_of(kind):
    rows = [{"text": text, "n": i} for i, text in enumerate(TEXTS)]
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows, indent=1).encode()
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if kind == "tsv" else ",")
    writer.writerows([["n", "text"], *([row["n"], row["text"]] for row in rows)])
    return out.getvalue().encode()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst", ".xz", ".bz2"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_records_are_those_of_datasets(kind, ending):
    from datasets import load_dataset

    Path(f"a.{kind}{ending}").write_bytes(compressed(content_of(kind), ending))
    assert texts_of(f"a.{kind}{ending}") == TEXTS
    if not ending:
        loader, more = ("csv", {"sep": "\t" if kind == "tsv" else ","}) if kind in ("csv", "tsv") else ("json", {})
        theirs = load_dataset(loader, data_files=f"a.{kind}", split="train", cache_dir="cache", **more)
        assert theirs["text"][:] == TEXTS


@pytest.mark.parametrize("ending", [".gz", ".zst", ".xz", ".bz2"])
def test_plain_text_may_be_compressed_and_a_cut_file_is_damaged(ending):
    text = "".join(f"line {i} of née\n" for i in range(9000))
    for name in ("a.txt", "b.md"):
        Path(name + ending).write_bytes(compressed(text.encode(), ending))
    assert texts_of(f"a.txt{ending}", f"b.md{ending}") == [text, text]
    assert texts_of(f"a.txt{ending}", document="line") == [f"{line}\n" for line in text.splitlines()]
    content = compressed(np.random.default_rng(0).integers(97, 122, 400_000).astype(np.uint8).tobytes(), ending)
    Path(f"cut.txt{ending}").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.txt\.\w+ cannot be read: it is damaged"):
        texts_of(f"cut.txt{ending}")


def test_saved_data_sets_and_arrow_files_are_those_of_datasets():
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, load_from_disk

    data = Dataset.from_dict({"text": TEXTS, "data": [{"text": text.upper()} for text in TEXTS]})
    data.shuffle(seed=0).select(range(90)).save_to_disk("saved", num_shards=3)
    assert texts_of("saved") == load_from_disk("saved")["text"][:]
    assert texts_of("saved", text_field="data.text") == [text.upper() for text in texts_of("saved")]
    DatasetDict({"train": data, "test": data}).save_to_disk("splits")
    with pytest.raises(UserError, match=r"splits holds the splits test, train; name those that are meant"):
        texts_of("splits")
    assert texts_of("splits/train") == TEXTS
    with pa.OSFile("file.arrow", "wb") as sink, pa.ipc.new_file(sink, pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": TEXTS}))
    assert texts_of("file.arrow") == TEXTS
    Path("bad.arrow").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"bad\.arrow cannot be read: it is damaged, or not an arrow file"):
        texts_of("bad.arrow")


def test_nested_fields(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"data": {"text": text}, "x.y": text} for text in TEXTS]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert texts_of(name, text_field="data.text") == texts_of(name, text_field="x.y") == TEXTS
    pq.write_table(pa.table({"text": ["fine"] * 5 + [None]}), "null.parquet", row_group_size=2)
    tally = Tally()
    assert texts_of("null.parquet", tally=tally) == ["fine"] * 5
    assert "null.parquet, row 6 has no text" in tally.first_bad
    with pytest.raises(UserError, match=r"a\.parquet has no column 'nothing\.text' but data, x\.y"):
        texts_of("a.parquet", text_field="nothing.text")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "one"}', ["one"]),
        ('{"text": "one"}{"text": "two"}\n\n {"text": "three"}', ["one", "two", "three"]),
        ("[]", []),
        (json.dumps([{"text": "x" * 3_000_000}, {"text": "y"}]), ["x" * 3_000_000, "y"]),
    ],
)
def test_json_in_other_layouts(content, expected):
    Path("a.json").write_text(content)
    assert texts_of("a.json") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"text": "x"},\n{"text": ', r"a\.json, line 2: this is not JSON, or not all of it"),
        ("a.json", '[{"text": "x"}', r"a\.json, line 1: this is not JSON, or not all of it"),
        ("a.json", "[" * 100_000, r"a\.json, line 1: this is not JSON"),
        ("a.json", '[{"text": "x"}] nonsense', r"this is not JSON"),
        ("a.csv", 'text\n"open\nx\n', r"a\.csv, line 3 is not CSV \(unexpected end of data\)"),
        ("a.csv", "body\nx\n", r"a\.csv has no column 'text': body; use --text_field NAME"),
        ("a.csv", "text,text\nx,y\n", r"a\.csv has more than one column 'text'"),
        ("a.csv", "", "there is no text in the input"),
        ("a.csv", "\ntext\nx\n", r"a\.csv has no column 'text'"),
        ("a.csv", "text\nfine\n" + "long " * 7_000_000 + "\n", r"a\.csv, line 3 is longer than 32 MB; leave it out"),
        ("a.csv", b"text\nfine\nna\xefve\n", r"a\.csv, line 3 is not UTF-8: byte 0xef"),
        ("a.jsonl", "", "there is no text in the input"),
        ("a.jsonl", '{"text": "x"}\r{"text": "y"}\r', r"a\.jsonl has line ends of old Macs"),
        ("a.csv", "text\rx\ry\r", r"a\.csv has line ends of old Macs"),
        ("a.jsonl", '{"text": "x", "text": "y"}\n', r"line 1 is not JSON \(it has the same name twice\)"),
        ("a.jsonl", '{"text": "fine"}\n' * 9 + "[" * 90_000 + "\n", r"1 of 10 records are faulty.*line 10 is not JSON"),
        (
            "a.jsonl",
            '{"text": "fine"}\n{"text": "\\ud83d"}\n',
            r"1 of 2 .*; the first: .*a\.jsonl, line 2 has half a char.*ud83d",
        ),
        ("a.json", '[{"text": "fine"}, {"text": "\\udc00"}]', r"a\.json, object 2 has half a character .*udc00"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz cannot be read: it is damaged, or not compressed as its ending says"),
    ],
)
def test_bad_input_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as raised:
        prepare(settings(tmp_path / name))
    assert len(str(raised.value).splitlines()) == 1
    assert not Path("corpus").exists()


def test_a_hub_without_a_name_is_refused():
    with pytest.raises(UserError, match="hub: names no data set"):
        prepare(settings("hub:"))


def test_a_cell_of_any_length_and_rows_of_another(tmp_path):
    long = "word " * 200_000
    rows = [["text", "n"], [long, "1"], *[["fine", "2"]] * 200, ["three", "cells", "here"]]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    tally = Tally()
    assert texts_of(tmp_path / "a.csv", tally=tally) == [long, *["fine"] * 200]
    assert tally.skipped == {"rows with more or fewer cells than the first": 1}
    assert "line 203 has 3 cells, the first line 2" in tally.first_bad


def test_files_of_a_folder_that_are_not_read_are_counted_and_named(tmp_path, call):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.pdf", "c.pdf", "d.txt.lz4", "README"):
        (tmp_path / "texts" / name).write_text("the union of states " * 90)
    (tmp_path / "texts" / "e.txt.gz").write_bytes(gzip.compress(b"another text " * 90))
    _, out, _ = call("prepare", "texts", "--vocab_size", "300", "--workers", "0", "--out", "corpus", "--no-progress")
    assert "2 documents" in out
    for named in ("2 files that end in .pdf (texts/b.pdf)", "1 files that end in .txt.lz4", "end in nothing"):
        assert named in out
    assert Corpus.open("corpus").index["skipped"]["files that end in .pdf (texts/b.pdf)"] == 2


def test_patterns_and_standard_input(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "c.txt"):
        Path(name).write_text(json.dumps({"text": f"the text of {name} " * 20}) + "\n")
    assert [text[:18] for text in texts_of("*.jsonl")] == ["the text of a.json", "the text of b.json"]
    command = [sys.executable, "-m", "r2mae_text.cli", "prepare", "stdin:jsonl", "--vocab_size", "300", "--no-progress"]
    done = subprocess.run([*command, "--out", "piped"], input=Path("a.jsonl").read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"1 documents" in done.stdout


def test_parts_are_cut_before_white_space_whatever_the_blocks():
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(["word", " ", "  ", "\n", "été"]) for _ in range(5000))
    for size in (10, 64, 1000):
        whole = [part.text for part in parts([text], size)]
        assert "".join(whole) == text
        assert max(map(len, whole)) <= size
        blocks = [text[i : i + 37] for i in range(0, len(text), 37)]
        assert [part.text for part in parts(blocks, size)] == whole
    assert [len(part.text) for part in parts(["x" * 25], 10)] == [10, 10, 5]  # no white space: still bounded


def test_parts_are_encoded_as_the_whole():
    """Against the tokenizer on the whole text: cutting before white space divides no word."""
    tokenizer = gpt2_tokenizer()
    text = "The  union of\n\n these   states, and “their” people's 1234 words.\tThen more. " * 60
    whole = tokenizer.encode(text, add_special_tokens=False)
    cut = [i for part in parts([text], 200) for i in tokenizer.encode(part.text, add_special_tokens=False)]
    assert cut == whole
