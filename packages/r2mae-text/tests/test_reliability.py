"""What is read back is checked, what is made anew goes by content, and what was there stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import r2mae_text.data.prepare as prepare_module
import r2mae_text.finetune as finetune_module
from r2mae_core import RunFolder, UserError, read_json, write_json
from r2mae_text import Corpus, TokenRows, build_model, export_run, load_pretrained, load_tokenizer
from r2mae_text.data.documents import documents
from r2mae_text.data.glue import load_task
from r2mae_text.data.prepare import next_pieces, prepare
from r2mae_text.data.sources import plan_pieces
from r2mae_text.export import export, fill
from r2mae_text.finetune import finetune
from r2mae_text.options import Demo, Export, Fill, Finetune, Prepare, Pretrain, Reproduce
from r2mae_text.pretrain import pretrain

ARGS = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}


def preparing(*sources, **changes):
    options = {"vocab_size": 300, "validation_share": 0.2, "workers": 0, "out": Path("corpus"), "progress": False}
    return Prepare(tuple(map(Path, sources)), **{**options, **changes})


def training(corpus, **changes):
    options = {"model": "tiny", "model_args": ARGS, "length": 32, "batch_size": 8, "steps": 2, "out": Path("run")}
    return Pretrain(corpus, device="cpu", progress=False, **{**options, **changes})


def write_texts(folder, n=6):
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"text-{i}.txt").write_text(f"the union of states number {i}, and of their people\n" * 40)
    return folder


def write_task(folder, n=16, word="union"):
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        rows = [{"sentence": f"the {(word, 'congress')[i % 2]} {i}", "label": i % 2} for i in range(n)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def files_of(folder):
    """Content of every file, but for what names the time or the place."""
    left_out = ("config.yaml", "versions.json")
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name not in left_out
    }


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A finished run of two steps."""
    return pretrain(training(corpus.path, out=tmp_path_factory.mktemp("trained") / "run")).path


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
    skipped = Counter()
    (piece,) = plan_pieces((tmp_path / "a.jsonl",)).pieces
    assert list(documents(piece, "text", skipped)) == ["fine"]
    assert skipped == {"documents with half a character (a lone surrogate)": 1, "lines that are not JSON": 1}


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


def test_a_run_is_not_gone_on_with_on_another_corpus_but_on_a_moved_one(corpus, speeches, tmp_path):
    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    pretrain(training(copy))
    moved = copy.rename(tmp_path / "moved")
    pretrain(training(moved))
    other = prepare(preparing(*speeches[:4], vocab_size=400, out=Path("other"))).path
    with pytest.raises(UserError, match="run holds a run with another config: corpus is"):
        pretrain(training(other))


def test_a_run_does_not_lie_in_its_corpus(corpus):
    with pytest.raises(UserError, match="lies inside the input"):
        pretrain(training(corpus.path, out=corpus.path / "run"))
    assert not (corpus.path / "run").exists()


def test_a_kept_budget_that_is_damaged_is_named(corpus):
    from r2mae_text.budget import n_steps

    run = RunFolder("run", {})
    (run.path / "budget.json").write_text('{"seconds_per_step": 1}')
    with pytest.raises(UserError, match=r"budget\.json cannot be read"):
        n_steps(training(corpus.path, steps=None, minutes=1.0), run, None, None, None, "cpu")


@pytest.mark.parametrize("args", [{"hidden_size": 33}, {"num_hidden_layers": "x"}, {"num_attention_heads": 0}])
def test_a_config_that_makes_no_model_is_one_line(tokenizer, args):
    with pytest.raises(UserError, match="there is no roberta with ") as raised:
        build_model("tiny", tokenizer, model_args=args)
    assert len(str(raised.value).splitlines()) == 1


def test_a_config_cannot_ask_for_code(tokenizer):
    with pytest.raises(UserError, match="has no config attn_implementation"):
        build_model("tiny", tokenizer, model_args={"attn_implementation": "somebody/kernel"})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign"])
def test_a_damaged_model_is_named(folder, name, damage):
    file = folder / name
    content = {"cut": file.read_bytes()[:-9], "empty": b"", "foreign": b"\x89PNG\r\n"}
    flip(file) if damage == "flipped" else file.write_bytes(content[damage])
    with pytest.raises(UserError, match=f"{name} is damaged: its checksum"):
        load_pretrained(folder)
    (folder / "SHA256SUMS").unlink()  # as in somebody else's folder
    if damage != "flipped":
        with pytest.raises(UserError) as raised:
            load_pretrained(folder)
        assert str(folder) in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_a_tokenizer_without_words_is_refused(folder):
    (folder / "SHA256SUMS").unlink()
    (folder / "tokenizer.json").unlink()  # transformers would make up an empty one
    with pytest.raises(UserError, match=r"has no words: its tokenizer\.json is missing or empty"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["missing", "nan"])
def test_weights_that_are_not_whole_or_not_finite_are_refused(folder, kind):
    (folder / "SHA256SUMS").unlink()
    weights = load_file(folder / "model.safetensors")
    name = "roberta.encoder.layer.0.output.dense.weight"
    if kind == "missing":
        del weights[name]
    else:
        weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = f"no weights for {name}" if kind == "missing" else f"{name} hold NaN"
    for head in ("AutoModelForMaskedLM", "AutoModelForSequenceClassification"):
        with pytest.raises(UserError, match=message):
            load_pretrained(folder, head)


def test_what_is_loaded_runs_no_code(folder, tmp_path):
    (folder / "SHA256SUMS").unlink()
    proof = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {
            "AutoConfig": "own.A",
            "AutoModelForMaskedLM": "own.A",
            "AutoTokenizer": ["own.A", "own.A"],
        }
        content.pop("model_type", None), content.pop("tokenizer_class", None)
        (folder / name).write_text(json.dumps({**content, "model_type": "own"}))
    for load in (load_pretrained, load_tokenizer):
        try:
            load(folder)
        except UserError as error:
            assert "model" in str(error)  # noqa: PT017
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "attn_implementation": "somebody/kernel"}))
    with pytest.raises(UserError, match="asks for code of its own"):
        load_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Path}, folder / "pytorch_model.bin")
    with pytest.raises(UserError):
        load_pretrained(folder)
    assert not proof.exists()


def tuning(folder, **changes):
    settings = {"tasks": ("sst2",), "data": "tasks", "seeds": (0,), "epochs": 1, "out": Path("tuned")}
    return Finetune(str(folder), device="cpu", progress=False, **{**settings, **changes})


def test_fine_tunings_go_by_the_content_of_task_and_model(folder, tiny, tokenizer, monkeypatch):
    calls = []
    monkeypatch.setattr(
        finetune_module, "finetune_task", lambda *args, **_: calls.append(args[3]) or {"validation": {"accuracy": 0.5}}
    )
    write_task(Path("tasks/sst2"))
    finetune(tuning(folder))
    write_task(Path("tasks/sst2"))  # the same content, written again
    moved = Path(shutil.move(folder, folder.parent / "there" / "model"))
    finetune(tuning(moved, seeds=(0, 1)))
    assert calls == [0, 1]
    write_task(Path("tasks/sst2"), word="nation")
    with pytest.raises(UserError, match=r"sst2-0\.json was made from other data: train\.jsonl was "):
        finetune(tuning(moved, seeds=(0, 2)))
    write_task(Path("tasks/sst2"))
    with torch.no_grad():
        next(tiny.parameters()).add_(1.0)
    export_run(tiny, tokenizer, moved)
    with pytest.raises(UserError, match="holds a run with another config: weights is"):
        finetune(tuning(moved))
    assert calls == [0, 1]


def test_a_wrong_task_is_refused_before_anything_is_written(folder):
    write_task(Path("tasks/sst2"))
    for task, message in (("sst3", "unknown task"), ("../sst2", "is no name of a task"), ("qnli", "no train of qnli")):
        with pytest.raises(UserError, match=message):
            finetune(tuning(folder, tasks=("sst2", task)))
    assert not Path("tuned").exists()


def test_a_fine_tuning_that_diverges_is_no_result(folder):
    write_task(Path("tasks/sst2"))
    with pytest.raises(UserError, match=r"the loss is NaN or infinite from step \d+ of 32 on; lower --lr"):
        finetune(tuning(folder, lr=1e30, epochs=8, batch_size=4))
    assert not Path("tuned/results.json").exists()


def test_examples_longer_than_the_positions_are_refused(tokenizer):
    model = build_model("tiny", tokenizer, length=16, model_args={**ARGS, "max_position_embeddings": 18})
    export_run(model, tokenizer, Path("short"))
    write_task(Path("tasks/sst2"))
    Path("tasks/sst2/train.jsonl").write_text(json.dumps({"sentence": "union " * 90, "label": 1}) + "\n")
    with pytest.raises(UserError, match=r"an example has 128 tokens, and the model takes 16; lower --max_length"):
        finetune(tuning("short"))
    with pytest.raises(UserError, match=r"the text has .* tokens, and the model takes 16; shorten it"):
        fill(*load_pretrained("short"), "<mask>" + " union" * 40)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", '[1]\n', "line 1 is not an object with columns"),
        ("train.jsonl", '{"text": "x", "label": "a"}\n{"text": "y"}\n', "every row has the label 'a'"),
        ("train.csv", 'text,label\n"open,a\nb,b\n', r"line 3 is not CSV \(unexpected end of data\)"),
        ("train.csv", "text,text,label\na,b,c\n", "names the column 'text' twice"),
        ("train.tsv", b"text\tlabel\na\tb\n\xe9\tc\n", r"train\.tsv, line 3 is not UTF-8"),
        ("train-00000-of-00002.parquet", b"PAR1", "1 files train-…-of-00002.parquet are there; fetch the others"),
    ],
)  # fmt: skip
def test_damaged_tables_of_ones_own_are_named(name, content, message):
    Path("mine").mkdir()
    (Path("mine") / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("mine/validation.jsonl").write_text('{"text": "x", "label": "a"}\n')
    with pytest.raises(UserError, match=message):
        load_task("mine", ".", ("text",))


def test_scores_that_are_no_numbers_are_named():
    Path("stsb").mkdir()
    for split in ("train", "validation"):
        Path(f"stsb/{split}.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t1.5\nc\td\tnan\n")
    with pytest.raises(UserError, match="stsb, train: the score of row 2 is nan"):
        load_task("stsb", ".")


def test_export_replaces_nothing_that_is_not_its_own(trained):
    plain = export(Export(trained, Path("plain")))
    before = files_of(plain)
    with pytest.raises(UserError, match="plain exists; name a new folder, or give --overwrite"):
        export(Export(trained, Path("plain")))
    export(Export(trained, Path("plain"), overwrite=True))
    assert files_of(plain) == before
    (plain / "mine.txt").write_text("mine")
    for out in (plain, trained / "model", trained):
        with pytest.raises(UserError, match=r"what export did not write|lies inside the input|is an input"):
            export(Export(trained, out, overwrite=True))
    assert (plain / "mine.txt").read_text() == "mine"


def test_a_damaged_run_is_not_exported(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "copy"))
    flip(run / "model" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        export(Export(run, Path("plain")))
    shutil.rmtree(run / "model")
    flip(run / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        export(Export(run, Path("plain")))
    assert not Path("plain").exists()


def test_an_unfinished_run_is_exported_with_its_corpus_moved(trained, corpus, speeches, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "copy"))
    shutil.rmtree(run / "model")
    config = (run / "config.yaml").read_text().replace(str(corpus.path), "gone").rpartition("# sha256")[0]
    (run / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="the run's corpus gone is not there; name its folder with --data"):
        export(Export(run, Path("plain")))
    other = prepare(preparing(speeches[0], vocab_size=400, out=Path("other"))).path
    with pytest.raises(UserError, match=r"other is not the corpus that .* is trained on"):
        export(Export(run, Path("plain"), data=other))
    export(Export(run, Path("plain"), data=corpus.path))
    assert Path("plain/model.safetensors").read_bytes() == (trained / "model" / "model.safetensors").read_bytes()


def test_a_grid_is_checked_before_it_is_begun(corpus, tmp_path):
    from r2mae_text.paper import reproduce

    write_task(Path("tasks/sst2"))
    config = Reproduce(
        "fig1f", corpus.path, "tasks", ("sst2",), ratios=(0.2,), models=("tiny",), device="cpu", out=Path("grid")
    )
    with pytest.raises(UserError, match=r"needs the accuracy at ratios \[0.15, 0.3, 0.4, 0.8\]; add them to --ratios"):
        reproduce(config)
    with pytest.raises(UserError, match="no train of qnli in tasks"):
        reproduce(replace(config, target="fig2c", tasks=("qnli",)))
    with pytest.raises(UserError, match="lies inside the input"):
        reproduce(replace(config, target="fig2c", out=corpus.path / "grid"))
    assert not Path("grid").exists()


def test_records_of_an_older_format_are_read_without_their_checksums(corpus, tmp_path):
    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    index = read_json(copy / "index.json")
    for shard in index["shards"]:
        del shard["sha256"]
    write_json(copy / "index.json", index)
    (copy / "tokenizer" / "SHA256SUMS").unlink()
    assert len(Corpus.open(copy).rows("train", 32)) == len(corpus.rows("train", 32))
