import csv
import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from r2mae_core import UserError, read_metrics, read_records
from r2mae_text import TASKS, Task
from r2mae_text.batching import Encoded, batches, collate, encode, labels_of, subset
from r2mae_text.classifier import logits_of, loss_of
from r2mae_text.data.glue import Examples, load_task, read_table
from r2mae_text.finetune import finetune
from r2mae_text.metrics import f1, matthews, score, spearman
from r2mae_text.options import Finetune
from r2mae_text.tuning import finetune_task, shared_out, tune
from r2mae_text.weights import export_run


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


def rows_of(name, n=12):
    """Rows with tabs' and quotes' worst, in the hub's columns."""
    task = TASKS[name]
    label = (lambda i: i % len(task.labels)) if task.labels else (lambda i: i / 2)
    texts = ['He said "hello', "it's 5\" long", "plain", "naïve — café"]
    return [
        {c: f"{texts[(i + j) % 4]} {i}" for j, c in enumerate(task.columns)} | {"label": label(i)} for i in range(n)
    ]


def write(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".tsv"])
def test_every_task_is_read_from_every_kind_of_file(tmp_path, name, ending):
    rows = rows_of(name)
    for split in ("train", *TASKS[name].splits):
        write(tmp_path / name / f"{split}{ending}", rows)
    task, splits = load_task(name, str(tmp_path))
    assert set(splits) == {"train", *task.splits}
    for examples in splits.values():
        assert [list(texts) for texts in examples.texts] == [[row[c] for row in rows] for c in task.columns]
        assert examples.labels.tolist() == [row["label"] for row in rows]


def test_the_original_zip_layouts(tmp_path):
    quote = 'What is "5\' 3" tall?'
    qnli, qqp = "index\tquestion\tsentence\tlabel", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    dev, cls = "index\tsentence1\tsentence2\tgold_label", "2\tp\th\tentailment\tx"
    same = ["1\t2\t3\ta\tb\t0"] * 199
    files = {
        "QNLI/train.tsv": [qnli, f'0\t{quote}\tA "b.\tentailment', "1\tq\ts\tnot_entailment"],
        "QNLI/dev.tsv": [qnli, "0\tq\ts\tnot_entailment", "1\tq\ts\tentailment"],
        "CoLA/train.tsv": ["gj04\t1\t\tOur friends won't buy it.", "gj04\t0\t*\tThe more \"we."],
        "CoLA/dev.tsv": ["gj04\t1\t\tFine.", "gj04\t0\t*\tFine it."],
        "MNLI/train.tsv": [f"{dev}\tx", "0\tp\th\tneutral\tx", "1\tp\th\t-\tx", cls],
        "MNLI/dev_matched.tsv": [dev, "0\tp\th\tcontradiction", "1\tp\th\tneutral"],
        "MNLI/dev_mismatched.tsv": [dev, "0\tp\th\tentailment", "1\tp\th\tneutral"],
        "QQP/train.tsv": [qqp, f"1\t2\t3\t{quote}\tb\t1", *same, "4\t5\tbroken"],
        "QQP/dev.tsv": [qqp, "1\t2\t3\ta\tb\t0", "1\t2\t3\ta\tb\t1"],
        "STS-B/train.tsv": ["index\tsentence1\tsentence2\tscore", "0\ta\tb\t3.75", "1\ta\tb\t1"],
        "STS-B/dev.tsv": ["index\tsentence1\tsentence2\tscore", "0\ta\tb\t0.0", "1\ta\tb\t1"],
    }  # fmt: skip
    for name, lines in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    read = {name: load_task(name, str(tmp_path))[1] for name in ("qnli", "cola", "mnli", "qqp", "stsb")}
    assert read["qnli"]["train"].texts[0][0] == quote
    assert read["qnli"]["train"].labels.tolist() == [0, 1]
    assert read["cola"]["train"].texts[0] == ["Our friends won't buy it.", 'The more "we.']
    assert read["mnli"]["train"].labels.tolist() == [1, 0]
    assert read["mnli"]["train"].skipped == {"rows without a label": 1}
    assert read["mnli"]["validation_matched"].labels.tolist() == [2, 1]
    assert read["qqp"]["train"].skipped == {"damaged rows": 1}  # as in the real file
    assert (len(read["qqp"]["train"]), read["qqp"]["train"].texts[0][0]) == (200, quote)
    assert read["stsb"]["train"].labels.tolist() == [3.75, 1.0]


def test_a_task_of_ones_own(tmp_path):
    rows = [{"a": f"text {i}", "b": "other", "label": ["no", "yes", "maybe"][i % 3]} for i in range(6)]
    for split in ("train", "validation"):
        write(tmp_path / "mine" / f"{split}.jsonl", rows)
    task, splits = load_task("mine", str(tmp_path), ("a", "b"))
    assert task.labels == ("maybe", "no", "yes")
    assert splits["validation"].labels.tolist() == [1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("sentence\tlabel\nno label\t-1\n", "none of 1 rows has a label; GLUE's test sets have -1 there"),
        ("sentence\tlabel\na\ttab inside\t1\n", r"1 of 1 rows have more or fewer than the 2 cells .*line 2 for one"),
        ("text\tlabel\na\t1\n", "no column sentence but text, label"),
        ("", "is empty"),
        (b"sentence\tlabel\n\xe9\t1\n", "is not UTF-8"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, rows, message):
    (tmp_path / "sst2").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "sst2" / f"{split}.tsv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    with pytest.raises(UserError, match=message):
        load_task("sst2", str(tmp_path))


def test_missing_tasks_are_refused(tmp_path):
    with pytest.raises(UserError, match="unknown task 'sst3'; known: movies, mnli"):
        load_task("sst3", str(tmp_path))
    with pytest.raises(UserError, match=r"no train of sst2 in .*looked for sst2/train.parquet .* and SST-2/train.tsv"):
        load_task("sst2", str(tmp_path))
    with pytest.raises(
        UserError, match=r"sst2 is unavailable from the hub .*give --task_data DIR .*with sst2/train.par"
    ):
        load_task("sst2")
    (tmp_path / "x.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=r"x.jsonl, line 1 is not JSON"):
        read_table(tmp_path / "x.jsonl", Counter())


@given(st.lists(st.integers(1, 60), min_size=1, max_size=400), st.integers(1, 33), st.integers(0, 9))
def test_batches_hold_every_example_once(lengths, size, seed):
    lengths = np.array(lengths)
    cut = list(batches(lengths, size, seed, 0))
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(lengths)))
    assert len(cut) == -(-len(lengths) // size)
    assert [c.tolist() for c in cut] == [c.tolist() for c in batches(lengths, size, seed, 0)]


def test_buckets_have_hardly_any_padding_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(5, 120, 5000)
    padded = sum(len(which) * (-(-lengths[which].max() // 8) * 8) for which in batches(lengths, 32, 0, 0))
    assert padded < 1.12 * lengths.sum()
    first, second = ([c.tolist() for c in batches(lengths, 32, 0, epoch)] for epoch in (0, 1))
    assert not {frozenset(c) for c in first} & {frozenset(c) for c in second}  # other batches, not another order
    mean = [lengths[c].mean() for c in first[:40]]
    assert np.std(mean) > 15  # not in order of length


def test_collate_pads_what_encode_stored(tokenizer):
    texts = ["one two three", "four", "five six seven eight nine " * 3]
    data = encode(tokenizer, Examples((texts, texts[::-1]), np.array([0, 1, 0]), {}), 64)
    ids, mask, types = collate(data, np.array([2, 0]), tokenizer.pad_token_id)
    for row, (a, b) in enumerate([(2, 0), (0, 2)]):
        expected = tokenizer(texts[a], texts[b])["input_ids"]
        assert ids[row][mask[row]].tolist() == expected
        assert (ids[row][~mask[row]] == 1).all()
    assert ids.shape[1] % 8 == 0
    assert types.shape == ids.shape
    part = subset(data, np.array([1, 2]))
    assert collate(part, np.array([1]), 1)[0].tolist() == collate(data, np.array([2]), 1)[0].tolist()
    assert part.labels.tolist() == [1, 0]


def test_long_examples_are_cut_the_longer_text_first(tokenizer):
    data = encode(tokenizer, Examples((["a b c d e f g h " * 20], ["tail"]), np.array([0]), {}), 32)
    assert data.lengths().tolist() == [32]
    assert tokenizer.decode(data.ids).endswith("tail</s>")


def test_predictions_do_not_depend_on_the_batch(folder, tokenizer):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    texts = [" ".join(["word"] * (i % 7 + 1)) + f" {i}" for i in range(20)]
    data = encode(tokenizer, Examples((texts,), np.zeros(20, np.int64), {}), 64)
    ours = logits_of(model, data, 1, "cpu", False, batch_size=6)
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts]
    np.testing.assert_allclose(ours, alone, atol=1e-5)


def test_metrics_are_those_of_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 50) + 0.0, rng.normal(size=50)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    predicted, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    assert f1(predicted, labels) == pytest.approx(2 / 3)
    tp, tn, fp, fn = 2, 1, 1, 1
    by_hand = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert matthews(predicted, labels) == pytest.approx(by_hand)
    assert matthews(np.zeros(5), labels) == 0.0
    logits = np.eye(2)[predicted]
    assert score(TASKS["cola"], logits, labels) == {"accuracy": 0.6, "mcc": pytest.approx(by_hand)}
    assert set(score(TASKS["stsb"], y[:, None], x)) == {"spearman", "pearson"}


def keyword_task(n=200):
    """Which of two words is in the sentence: a few steps suffice."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    texts = [f"the {'union' if y else 'congress'} of {rng.integers(100)} states" for y in labels]
    return Task(("sentence",), ("0", "1")), {s: Examples((texts,), labels, {}) for s in ("train", "validation")}


def test_finetuning_learns_and_is_a_function_of_the_seed(folder):
    task, splits = keyword_task()
    runs = [finetune_task(folder, task, splits, seed, epochs=4, lr=3e-3) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0]["validation"]["accuracy"] > 0.95
    few = finetune_task(folder, task, splits, 0, epochs=1, lr=0.0, max_train=5)
    assert few["validation"]["accuracy"] < 0.7


KINDS = {
    "classes": Task(("x",), ("a", "b", "c")),
    "scores": Task(("x",), ()),
    "several labels": Task(("x",), ("a", "b", "c"), several=True),
    "words": Task(("x",), ("a", "b", "c"), tags=True),
}


@pytest.mark.parametrize("weights", [None, torch.tensor([0.3, 1.0, 5.0])])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_have_its_mean_loss(kind, weights):
    """Sentences of other lengths, one of them without a labelled word, and a last part that is smaller."""
    task, rng = KINDS[kind], np.random.default_rng(0)
    lengths = np.array([4, 2, 7, 3, 5, 1, 6])
    starts = np.cumsum([0, *lengths])
    n, total = len(lengths), starts[-1]
    words, logits = None, torch.from_numpy(rng.normal(size=(n, 3 if task.labels else 1)))
    labels = torch.from_numpy(rng.integers(0, 3, n))
    if kind == "scores":
        labels, weights = labels.double(), None
    elif kind == "several labels":
        labels = torch.from_numpy(rng.integers(0, 2, (n, 3)).astype(float))
    elif kind == "words":
        words = np.arange(total)
        words[starts[5] : starts[6]] = -1
        labels = torch.from_numpy(np.where(words >= 0, rng.integers(0, 3, total), -100))
        logits = torch.from_numpy(rng.normal(size=(n, lengths.max(), 3)))
    data = Encoded(np.zeros(total, np.int32), np.zeros(total, np.uint8), starts, labels, words)
    weights = None if weights is None else weights.double()

    def loss(which):
        own = logits[which, : lengths[which].max()] if words is not None else logits[which]
        return loss_of(task, own, labels_of(data, which, int(lengths[which].max())), weights)

    order = np.array([5, 0, 3, 6, 2, 1, 4])
    for size in (1, 3, 7, 100):
        parts = list(shared_out(task, data, order, size, weights))
        assert sum(len(part) for part, _ in parts) == n - (kind == "words" and size == 1)
        assert sum(share * loss(part) for part, share in parts).item() == pytest.approx(loss(order).item(), rel=1e-12)


def test_small_parts_train_the_same_model_and_clipping_is_an_option(tiny, tokenizer, tmp_path):
    tiny.config.hidden_dropout_prob = tiny.config.attention_probs_dropout_prob = 0.0
    folder = export_run(tiny, tokenizer, tmp_path / "model")
    task, splits = keyword_task(50)
    settings = {"epochs": 1, "lr": 1e-3, "max_length": 16}
    whole, parts = (tune(folder, task, splits, 0, **settings, micro_batch_size=size) for size in (None, 5))
    np.testing.assert_allclose(parts.logits["validation"], whole.logits["validation"], atol=1e-4)
    assert parts.epochs[0]["loss"] == pytest.approx(whole.epochs[0]["loss"], rel=1e-5)
    # AdamW's step does not depend on the size of the gradient, but on how it changes: after the first steps.
    other = tune(folder, task, splits, 0, **settings, clip=None).logits["validation"]
    assert np.abs(other - whole.logits["validation"]).max() > 1e-3


def test_regression_and_pairs(folder):
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, 320).astype(np.float32)
    texts = (["the union"] * 320, [["war", "peace", "debt", "land", "trade", "law"][int(s)] for s in scores])
    splits = {s: Examples(texts, scores, {}) for s in ("train", "validation")}
    values = finetune_task(folder, TASKS["stsb"], splits, 0, epochs=12, lr=5e-3, warmup=0.1)["validation"]
    assert values["spearman"] > 0.8


@pytest.mark.slow
def test_film_sentences_from_scratch(tokenizer, tmp_path):
    """The bundled labels can be learned: the package's own recipe from scratch, one seed."""
    from r2mae_text import build_model, train_tokenizer
    from r2mae_text.data.movies import read_movies

    words = train_tokenizer([text for text, _ in read_movies()["train"]], 3000)
    args = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "initializer_range": 0.05}
    model = build_model("tiny", words, model_args=args)
    folder = export_run(model, words, tmp_path / "model")
    task, splits = load_task("movies")
    result = finetune_task(f"scratch:{folder}", task, splits, 0, epochs=2, lr=1e-3, warmup=0.1, max_length=48)
    assert result["validation"]["accuracy"] > 0.65


def test_a_run_is_resumed_by_task_and_seed(folder, tmp_path, monkeypatch):
    import r2mae_text.finetune as module

    for split in ("train", "validation"):
        write(tmp_path / "sst2" / f"{split}.jsonl", rows_of("sst2"))
    calls = []

    def once(name, task, splits, seed, **settings):
        calls.append(seed)
        return tune(name, task, splits, seed, **settings)

    monkeypatch.setattr(module, "tune", once)
    config = Finetune(
        str(folder), ("sst2",), str(tmp_path), seeds=(0,), epochs=1, device="cpu", out=Path("run"), progress=False
    )
    finetune(config)
    run = finetune(replace(config, seeds=(0, 1)))
    assert calls == [0, 1]
    records = read_records(run.path)
    assert {(r.task, r.seed, r.n, r.scheme) for r in records} == {("sst2", s, 12, "model") for s in (0, 1)}


def test_the_log_holds_every_epoch_and_goes_to_a_tracker(folder, tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / "sst2" / f"{split}.jsonl", rows_of("sst2"))
    config = Finetune(
        str(folder), ("sst2",), str(tmp_path), seeds=(3,), epochs=3, batch_size=4, device="cpu", progress=False
    )
    plain = finetune(replace(config, out=Path("plain")))
    logged = read_metrics(plain.path / "logs" / "sst2-3" / "metrics.csv")
    with (plain.path / "sst2-3" / "epochs.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {name: [step for step, _ in points] for name, points in logged.items()} == {
        name: [3, 6, 9] for name in ("loss", "validation/accuracy", "validation/mcc", "validation/f1") if name in logged
    }
    losses = [float(row["training loss"]) for row in rows if row["metric"] == "accuracy"]
    assert [value for _, value in logged["loss"]] == pytest.approx(losses, rel=1e-4)
    (best,) = [record.value for record in plain.results() if record.metric == "accuracy"]
    assert logged["validation/accuracy"][-1][1] == pytest.approx(best)
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(UserError, match="--logger tensorboard needs tensorboard"):
            finetune(replace(config, out=Path("board"), logger="tensorboard"))
        assert not Path("board").exists()
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = finetune(replace(config, out=Path("board"), logger="tensorboard"))
    events = EventAccumulator(str(board.path / "logs" / "sst2-3" / "tensorboard")).Reload()
    for name, points in logged.items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(step, pytest.approx(value)) for step, value in points]
