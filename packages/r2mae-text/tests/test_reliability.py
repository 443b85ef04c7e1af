"""Options and corpora: what is read back is checked, and what is made anew goes by content."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import r2mae_text.data.prepare as prepare_module
from r2mae_core import UserError, read_json, write_json
from r2mae_text import Corpus, TokenRows
from r2mae_text.data.documents import Tally, documents
from r2mae_text.data.glue import load_task
from r2mae_text.data.prepare import next_pieces, prepare
from r2mae_text.data.sources import plan_pieces
from r2mae_text.options import Demo, Fill, Finetune, Prepare, Pretrain, Reproduce

ARGS = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}


def preparing(*sources, **changes):
    options = {"vocab_size": 300, "validation_share": 0.2, "workers": 0, "out": Path("corpus"), "progress": False}
    return Prepare(tuple(map(Path, sources)), **{**options, **changes})


def write_texts(folder, n=6):
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"text-{i}.txt").write_text(f"the union of states number {i}, and of their people\n" * 40)
    return folder


def files_of(folder):
    """Content of every file, but for what names the time or the place."""
    left_out = ("config.yaml", "versions.json")
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name not in left_out
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preparing("a.txt", vocab_size=3), "--vocab_size must be at least 261"),
        (lambda: preparing("a.txt", workers=10**20), "--workers must be at least 0 and at most 1024"),
        (lambda: preparing("a.txt", max_tokens=0), "--max_tokens must be at least 1"),
        (lambda: preparing("a.txt", validation_share=1.0), "would leave nothing to train on"),
        (lambda: preparing("a.txt", "a.txt"), "--sources names a.txt twice"),
        (lambda: preparing("a.txt", text_field=" "), "--text_field is empty"),
        (lambda: Pretrain(Path("c"), checkpoint_every=-1), "--checkpoint_every must be at least 1"),
        (lambda: Pretrain(Path("c"), lr=float("nan")), "--lr must be a finite number, got nan"),
        (lambda: Pretrain(Path("c"), betas=(0.9, 1.0)), "--betas must be below 1"),
        (lambda: Pretrain(Path("c"), warmup=1.5), "--warmup must be at least 0 and at most 1, got 1.5"),
        (lambda: Pretrain(Path("c"), steps=5, minutes=1.0), "give one of --steps, --tokens and --minutes"),
        (lambda: Pretrain(Path("c"), model_args={"x": [float("inf")]}), "--model_args.x must be a finite number"),
        (lambda: Finetune("m", seeds=(0, 0)), "--seeds names 0 twice"),
        (lambda: Finetune("m", tasks=()), "--tasks is empty"),
        (lambda: Finetune("m", text_columns=("a", "b", "c")), "names one column or two"),
        (lambda: Fill("m", "text", top=0), "--top must be at least 1"),
        (lambda: Demo(steps=0), "--steps must be at least 1"),
        (lambda: Reproduce("fig1f", ratios=(0.2, 1.5)), "--ratios must be above 0 and at most 1, got 1.5"),
        (lambda: Reproduce("fig1f", tokens=1e30), "--tokens must be above 0"),
    ],
)  # fmt: skip
def test_options_out_of_bounds_are_refused_in_python_too(make, message):
    with pytest.raises(UserError, match=message):
        make()


def add_first(texts):
    (texts / "a-new.txt").write_text("a wholly new document " * 90)


def take_away(texts):
    (texts / "text-3.txt").unlink()


def change(texts):
    file = texts / "text-1.txt"
    file.write_text(file.read_text()[::-1])  # of the same size


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (add_first, "a-new.txt is new"),
        (take_away, "text-3.txt is gone"),
        (change, "text-1.txt was changed since"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_a_corpus_of_other_texts_is_not_gone_on_with(tmp_path, monkeypatch, changed, message, finished):
    monkeypatch.setattr("r2mae_text.data.sources.SMALLEST_PIECE", 1000)
    texts, original, calls = write_texts(tmp_path / "texts"), prepare_module.encode_piece, []

    def failing(job):
        calls.append(job.number)
        if len(calls) == 3 and not finished:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(prepare_module, "encode_piece", failing)
    if finished:
        prepare(preparing(texts))
    else:
        with pytest.raises(KeyboardInterrupt):
            prepare(preparing(texts))
    changed(texts)
    with pytest.raises(UserError, match=f"corpus was made from other data: texts/{message}"):
        prepare(preparing(texts))


def test_large_inputs_go_by_the_time_of_their_change(tmp_path, monkeypatch):
    monkeypatch.setattr("r2mae_text.data.sources.CONTENT_BYTES", 0)
    texts = write_texts(tmp_path / "texts")
    before = plan_pieces((texts,)).fingerprint()
    assert plan_pieces((texts,)).fingerprint() == before
    change(texts)
    after = plan_pieces((texts,)).fingerprint()
    assert [name for name in after if after[name] != before[name]] == ["texts/text-1.txt"]


def test_texts_that_change_while_they_are_read_are_noticed(tmp_path, monkeypatch):
    texts, original = write_texts(tmp_path / "texts"), prepare_module.encode_piece
    monkeypatch.setattr(prepare_module, "encode_piece", lambda job: (original(job), change(texts))[0])
    with pytest.raises(UserError, match=r"texts/text-1\.txt was changed since; leave it alone"):
        prepare(preparing(texts))
    assert not Path("corpus/index.json").exists()


def test_the_order_of_the_sources_counts_and_their_place_does_not(tmp_path):
    write_texts(tmp_path / "one"), write_texts(tmp_path / "two", 3)
    prepare(preparing(tmp_path / "one", tmp_path / "two"))
    with pytest.raises(UserError, match=r"inputs is \['one', 'two'\] there"):
        prepare(preparing(tmp_path / "two", tmp_path / "one"))
    for name in ("one", "two"):
        shutil.copytree(tmp_path / name, tmp_path / "there" / name, copy_function=shutil.copyfile)  # with new times
        shutil.rmtree(tmp_path / name)
    shutil.move("corpus", "moved")
    prepare(preparing(tmp_path / "there" / "one", tmp_path / "there" / "two", out=Path("moved")))


def test_an_output_inside_an_input_and_a_text_named_twice_are_refused(tmp_path):
    texts = write_texts(tmp_path / "texts")
    with pytest.raises(UserError, match="lies inside the input"):
        prepare(preparing(texts, out=texts / "corpus"))
    with pytest.raises(UserError, match=r"text-0\.txt is named twice .*would count double"):
        prepare(preparing(texts, texts / "text-0.txt"))
    assert sorted(file.name for file in texts.iterdir()) == [f"text-{i}.txt" for i in range(6)]


def test_a_failed_prepare_leaves_the_folder_to_the_corrected_command(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "some words of a text"}\n' * 50)
    with pytest.raises(UserError, match="there is no text in the input"):
        prepare(preparing(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="no tokenizer 'nosuch' here"):
        prepare(preparing(tmp_path / "a.jsonl", tokenizer="nosuch"))
    assert not Path("corpus").exists()
    assert prepare(preparing(tmp_path / "a.jsonl", text_field="body", validation_share=0)).index["documents"] == 50


def test_a_limit_of_tokens_does_not_depend_on_the_processes():
    assert next_pieces({}, 9, None, 4) == list(range(9))
    assert next_pieces({}, 9, 100, 4) == [0, 1, 2, 3]
    assert next_pieces({0: 30, 1: 30}, 9, 100, 4) == [2, 3]
    assert next_pieces({0: 30, 2: 30, 3: 50}, 9, 100, 4) == [1]  # a process was killed at piece 1
    assert next_pieces({0: 30, 1: 30, 2: 40, 3: 50}, 9, 100, 4) == []


def test_pieces_behind_the_limit_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("r2mae_text.data.sources.SMALLEST_PIECE", 1000)
    texts = write_texts(tmp_path / "texts")
    prepare(preparing(texts, max_tokens=500, out=Path("one")))
    monkeypatch.setattr(prepare_module, "next_pieces", lambda counts, n, *_: [i for i in range(n) if i not in counts])
    prepare(preparing(texts, max_tokens=500, out=Path("all")))
    assert files_of(Path("one")) == files_of(Path("all"))


def flip(file, share=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b""),
        ("index.json", b"[1]"),
        ("index.json", b"\xff\xfe{}"),
        ("index.json", b'{"format": 1, "shards": [{"file": "../../x.bin", "split": "..", "tokens": 1}]}'),
        ("index.json", None),
        ("train-00000.bin", None),
        ("tokenizer/tokenizer.json", None),
        ("tokenizer/tokenizer_config.json", b"[]"),
        ("facts.json", None),
        ("config.yaml", b"- 1\n"),
    ],
)
def test_a_damaged_corpus_is_named(corpus, speeches, tmp_path, name, content):
    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    flip(copy / name) if content is None else (copy / name).write_bytes(content)
    same = Prepare(tuple(speeches), vocab_size=400, validation_share=0.2, workers=1, out=copy, progress=False)
    with pytest.raises(UserError) as raised:
        _ = prepare(same).rows("train", 32)  # the same command
    assert Path(name).name in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_damaged_part_of_an_unfinished_corpus_is_named(tmp_path):
    texts = write_texts(tmp_path / "texts")
    prepare(preparing(texts))
    Path("corpus/index.json").unlink()
    shard, sidecar = Path("corpus/train-00000.bin"), Path("corpus/piece-00000.json")
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train-00000\.bin has .* instead of .*; remove .*piece-00000\.json and run"):
        prepare(preparing(texts))
    flip(sidecar)
    with pytest.raises(UserError, match=r"piece-00000\.json .*damaged"):
        prepare(preparing(texts))
    sidecar.unlink()  # the remedy
    assert prepare(preparing(texts)).index["documents"] == 6


def test_ids_that_are_no_words_are_named_where_no_checksum_is_read():
    rows = TokenRows([np.array([[1, 2], [3, 900]], np.uint16)], 0, vocab_size=400, files=["train-7.bin"])
    assert rows[np.array([0])].tolist() == [[0, 1, 2]]
    with pytest.raises(UserError, match=r"train-7\.bin is damaged: row 1 has the id 900"):
        rows[np.array([0, 1])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nfine\nna\xefve\n", r"a\.txt, line 3 is not UTF-8: byte 0xef at 12"),
        ("a.jsonl", b"\xef\xbb\xbf" + b'{"text": "x"}\n' * 4 + b'{"text": "\xe9"}\n', r"a\.jsonl, line 5 is not UTF-8"),
        ("a.txt", "text".encode("utf-16"), r"a\.txt is not UTF-8 but UTF-16; convert it with iconv -f utf-16"),
        ("a.jsonl", b'{"text": "x"}\n' * 3 + b"\0" * 9, r"a\.jsonl is binary: a zero byte at 42 \(line 4\)"),
        ("a.bin", np.array([20240520, 1, 2] + [0] * 253, "<i4").tobytes() + b"\xff\xff\1\0", "token 0 is 65,535"),
        ("a.bin", np.array([20240520, 1, 2] + [0] * 253, "<i4").tobytes() + b"\1\0\1", r"a\.bin is truncated"),
    ],
)
def test_texts_that_cannot_be_read_are_named_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(preparing(tmp_path / name, tokenizer="gpt2" if name == "a.bin" else "train", document="line"))
    assert not Path("corpus").exists()


def test_a_damaged_row_group_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    texts = [bytes(rng.integers(97, 122, 90).tolist()).decode() for _ in range(400)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    flip(file, 0.6)
    for read in (prepare, lambda config: load_task("mine", str(tmp_path), ("text",))):
        with pytest.raises(UserError, match=r"\.parquet(, row group 2)? cannot be read"):
            read(preparing(file))
        (tmp_path / "mine").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "mine" / "train.parquet")


def test_half_a_character_is_left_out_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d alone"}\n{"text": "fine"}\n' + "[" * 9999 + "\n")
    tally = Tally()
    (piece,) = plan_pieces((tmp_path / "a.jsonl",)).pieces
    assert [part.text for part in documents(piece, "text", tally)] == ["fine"]
    assert tally.skipped == {"documents with half a character (a lone surrogate)": 1, "lines that are not JSON": 1}


def start_prepare(*more, texts="texts"):
    command = [sys.executable, "-m", "r2mae_text.cli", "prepare", texts, "--vocab_size", "300", "--no-progress"]
    return subprocess.Popen([*command, "--out", "corpus", *more], stderr=subprocess.PIPE, text=True)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_from_outside_ends_the_workers_and_the_rerun_is_the_same(tmp_path, number):
    (tmp_path / "texts").mkdir()
    line = json.dumps({"text": "the union of these states, and of their people, " * 30})
    for i in range(4):
        (tmp_path / "texts" / f"{i}.jsonl").write_text(f"{line}\n" * 500)
    process = start_prepare("--workers", "2")
    deadline = time.monotonic() + 60
    while not list(Path().glob("corpus/.partial-train*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = children(process.pid)
    start = time.monotonic()
    process.send_signal(number)
    error = process.communicate()[1]
    assert time.monotonic() - start < 5
    if number == signal.SIGTERM:
        assert (process.returncode, error) == (1, "r2mae-text prepare: interrupted\n")
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:  # noqa: PTH110
        time.sleep(0.05)
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110
    options = {"validation_share": 0.01}
    prepare(preparing("texts", **options))
    prepare(preparing("texts", out=Path("whole"), **options))
    assert files_of(Path("corpus")) == files_of(Path("whole"))
    assert not list(Path("corpus").glob(".*"))


def test_a_second_prepare_of_the_same_folder_is_refused(tmp_path, monkeypatch):
    texts, original, ended = write_texts(tmp_path / "texts"), prepare_module.encode_piece, []

    def meanwhile(job):
        ended.append(start_prepare("--workers", "0", texts=str(texts)).communicate()[1])
        return original(job)

    monkeypatch.setattr(prepare_module, "encode_piece", meanwhile)
    prepare(preparing(texts))
    assert "corpus is being written by process" in ended[0]


def test_records_of_an_older_format_are_read_without_their_checksums(corpus, tmp_path):
    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    index = read_json(copy / "index.json")
    for shard in index["shards"]:
        del shard["sha256"]
    write_json(copy / "index.json", index)
    (copy / "tokenizer" / "SHA256SUMS").unlink()
    assert len(Corpus.open(copy).rows("train", 32)) == len(corpus.rows("train", 32))
