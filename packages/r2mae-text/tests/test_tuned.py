"""What a fine-tuning leaves, tasks of every kind, and models that are fine-tuned again."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from r2mae_core import UserError, read_records
from r2mae_text import export_run
from r2mae_text.batching import encode, labels_of, word_starts
from r2mae_text.classifier import new_classifier
from r2mae_text.data.conll import read_conll
from r2mae_text.data.glue import Examples, Task, load_task
from r2mae_text.finetune import finetune
from r2mae_text.metrics import confusion, entities, macro_f1, score
from r2mae_text.options import Finetune
from r2mae_text.tuning import balanced_weights, tune


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


def write(name, rows, validation=None, test=None):
    Path(name).mkdir(exist_ok=True)
    for split, part in (("train", rows), ("validation", validation or rows), ("test", test)):
        if part:
            Path(f"{name}/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def table(file):
    with Path(file).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def options(folder, **changes):
    settings = {"tasks": ("mine",), "task_data": ".", "text_columns": ("text",), "seeds": (0,), "epochs": 2, "lr": 1e-3}
    settings |= {"device": "cpu", "progress": False, "out": Path("tuned")}
    return Finetune(str(folder), **{**settings, **changes})


WORDS = ("union", "congress", "war")


def rows(n=48):
    rng = np.random.default_rng(0)
    return [{"text": f"the {WORDS[i % 3]} of {rng.integers(100)} states", "label": WORDS[i % 3]} for i in range(n)]


@pytest.mark.parametrize("text", ["a <mask> b", "<s>hello</s>", "<pad> x", "end</s>"])
def test_literal_special_tokens_of_labelled_texts_are_text(tokenizer, text):
    data = encode(tokenizer, Examples(([text],), np.array([0]), {}), 64)
    inner = data.ids[1:-1].tolist()
    assert not set(inner) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(inner) == text


def test_the_model_its_predictions_and_its_confusions_are_saved(folder):
    from transformers import pipeline

    write("mine", rows(), [{"text": "no label", "label": None}, *rows(30)])
    run = finetune(options(folder, epochs=6, lr=5e-3))
    home = run.path / "mine-0"
    records = {r.metric: r.value for r in read_records(run.path)}
    said = table(home / "predictions-validation.csv")
    assert [int(row["row"]) for row in said] == list(range(2, 32))  # of the file: the first has no label
    assert [row["label"] for row in said] == [row["label"] for row in rows(30)]
    assert np.mean([row["label"] == row["prediction"] for row in said]) == pytest.approx(records["accuracy"])
    counts = {
        row["true"]: {k: int(v) for k, v in row.items() if k != "true"}
        for row in table(home / "confusion-validation.csv")
    }
    for true in WORDS:
        for predicted in WORDS:
            assert counts[true][predicted] == sum(r["label"] == true and r["prediction"] == predicted for r in said)
    theirs = pipeline("text-classification", str(home / "model"), device="cpu")  # transformers alone
    for row, text in zip(said, rows(30), strict=True):
        answer = theirs(text["text"])[0]
        assert answer["label"] == row["prediction"]
        assert float(row[f"p({answer['label']})"]) == pytest.approx(answer["score"], abs=1e-4)


def test_evaluating_every_epoch_changes_nothing(folder):
    write("mine", rows())
    task, splits = load_task("mine", ".", ("text",))
    ends = tune(folder, task, splits, 0, epochs=3, lr=1e-3, evaluate="end")
    each = tune(folder, task, splits, 0, epochs=3, lr=1e-3, evaluate="epoch")
    np.testing.assert_array_equal(ends.logits["validation"], each.logits["validation"])
    assert [row["epoch"] for row in each.epochs] == [1, 2, 3]
    assert each.epochs[-1]["scores"] == ends.scores


def test_the_best_epoch_is_kept_and_training_stops(folder, monkeypatch):
    import r2mae_text.tuning as module

    write("mine", rows())
    task, splits = load_task("mine", ".", ("text",))
    values = iter([0.2, 0.8, 0.8, 0.5, 0.9])
    seen = []

    def scored(task, logits, data):
        seen.append(logits)
        return {"macro_f1": next(values)}

    monkeypatch.setattr(module, "score_of_split", scored)
    best = tune(folder, task, splits, 0, epochs=5, lr=1e-3, evaluate="epoch", keep="best", patience=2)
    assert [row["epoch"] for row in best.epochs] == [1, 2, 3, 4]
    assert best.kept == 2  # the first of equals
    assert best.scores == {"validation": {"macro_f1": 0.8}}
    np.testing.assert_array_equal(best.logits["validation"], seen[1])
    again = module.logits_of(best.model, best.encoded["validation"], 1, "cpu")
    np.testing.assert_allclose(again, seen[1], atol=1e-6)
    for wrong in ({"patience": 2}, {"keep": "best", "evaluate": "end"}):
        with pytest.raises(UserError, match="needs --"):
            options(folder, **wrong)


def test_glues_submission_files(folder, capsys):
    lines = {
        "MNLI/train.tsv": ["index\tsentence1\tsentence2\tgold_label", "0\ta\tb\tneutral", "1\tc\td\tentailment"],
        "MNLI/test_matched.tsv": ["index\tsentence1\tsentence2", "7\ta\tb", '8\tc "x\td', "9\te\tf"],
        "CoLA/train.tsv": ["x\t1\t\tFine.", "x\t0\t*\tFine it."],
        "CoLA/test.tsv": ["index\tsentence", "0\tSo.", "1\tThus so."],
        "STS-B/train.tsv": ["index\tsentence1\tsentence2\tscore", "0\ta\tb\t3.75", "1\ta\tb\t1"],
        "STS-B/test.tsv": ["index\tsentence1\tsentence2", "0\ta\tb"],
    }
    for task, dev in (("MNLI", "dev_matched"), ("MNLI", "dev_mismatched"), ("CoLA", "dev"), ("STS-B", "dev")):
        lines[f"{task}/{dev}.tsv"] = lines[f"{task}/train.tsv"]
    for name, part in lines.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("\n".join(part) + "\n")
    run = finetune(options(folder, tasks=("mnli", "cola", "stsb"), text_columns=(), epochs=1, progress=True))
    read = {f.name: f.read_text().splitlines() for f in run.path.glob("*/*.tsv")}
    assert set(read) == {"MNLI-m.tsv", "CoLA.tsv", "STS-B.tsv"}  # there is no test_mismatched.tsv
    out = capsys.readouterr().out.replace("\n", " ")
    assert "mnli: MNLI-mm.tsv for GLUE's server is not made: no test_mismatched of mnli in ." in out
    assert "CoLA.tsv for" not in out
    assert [line.split("\t")[0] for line in read["MNLI-m.tsv"]] == ["index", "7", "8", "9"]
    assert {line.split("\t")[1] for line in read["MNLI-m.tsv"][1:]} <= {"entailment", "neutral", "contradiction"}
    assert {line.split("\t")[1] for line in read["CoLA.tsv"][1:]} <= {"0", "1"}
    assert len(read["CoLA.tsv"]) == 3
    assert 0 <= float(read["STS-B.tsv"][1].split("\t")[1]) <= 5
    Path("CoLA/test.tsv").write_text("index\tsentence\n" + "0\tfine\n" * 200 + "1\n")
    with pytest.raises(UserError, match=r"cola, test: 1 damaged rows .* wrong numbers"):
        finetune(options(folder, tasks=("cola",), text_columns=(), epochs=1, out=Path("again")))


def test_a_test_file_of_ones_own_is_scored_too(folder):
    write("mine", rows(), rows(9), rows(12))
    run = finetune(options(folder))
    assert {(r.task, r.n) for r in read_records(run.path)} == {("mine", 9), ("mine-test", 12)}


@pytest.mark.parametrize(("labels", "kept"), [(("0", "1", "2"), True), (("2", "1", "0"), False), (("0", "1"), False)])
def test_a_classifier_is_kept_only_if_its_labels_are_the_tasks(folder, capsys, labels, kept):
    write("mine", [{"text": f"x {i}", "label": i % 3} for i in range(12)])
    run = finetune(options(folder))
    old = run.path / "mine-0" / "model"
    first, _ = new_classifier(old, Task(("text",), ("0", "1", "2")))
    capsys.readouterr()
    torch.manual_seed(5)
    model, _ = new_classifier(old, Task(("text",), labels))
    assert ("its classifier goes on" if kept else "a new one is trained") in "".join(capsys.readouterr())
    body = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier")}
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in body.items())
    assert torch.equal(model.classifier.dense.weight, first.classifier.dense.weight) == kept
    assert model.config.id2label == dict(enumerate(labels))
    assert model.classifier.out_proj.weight.shape[0] == len(labels)


def test_regression_of_ones_own(folder):
    write("mine", [{"text": f"{'war' if i % 2 else 'peace'} {i}", "grade": i % 2 + 0.5} for i in range(60)])
    run = finetune(options(folder, kind="regression", label_column="grade", epochs=8, lr=5e-3))
    assert {r.metric: r.value for r in read_records(run.path)}["pearson"] > 0.9
    assert {float(row["label"]) for row in table(run.path / "mine-0/predictions-validation.csv")} == {0.5, 1.5}
    write("mine", [{"text": "x", "grade": "good"}, {"text": "y", "grade": 1}])
    with pytest.raises(UserError, match="the score of row 1 is good, not a finite number"):
        load_task("mine", ".", ("text",), kind="regression", label_column="grade")


def test_several_labels(folder):
    def labels(i):
        return [name for bit, name in enumerate(("a", "b")) if i >> bit & 1]

    def text(i):
        return f"{'war' if i & 1 else 'peace'} and {'debt' if i & 2 else 'trade'} {i}"

    some = [{"text": text(i), "label": labels(i)} for i in range(64)]
    some[-1]["label"] = None
    write("mine", some)
    task, splits = load_task("mine", ".", ("text",), kind="multi_label")
    assert (task.labels, task.kind) == (("a", "b"), "multi_label")
    assert splits["train"].labels.tolist() == [[float(i & 1), float(i >> 1 & 1)] for i in range(63)]
    assert splits["train"].skipped == {"rows without a label": 1}
    run = finetune(options(folder, kind="multi_label", epochs=25, lr=5e-3, class_weights="balanced"))
    values = {r.metric: r.value for r in read_records(run.path)}
    assert set(values) == {"accuracy", "micro_f1", "macro_f1"}
    assert values["accuracy"] > 0.95
    said = table(run.path / "mine-0/predictions-validation.csv")
    assert [row["label"] for row in said] == [",".join(labels(i)) for i in range(63)]
    Path("mine/train.csv").write_text('text,label\nx,"b,a"\ny,\nz,a\n')
    Path("mine/train.jsonl").unlink()
    Path("mine/validation.jsonl").unlink()
    Path("mine/validation.csv").write_text('text,label\nx,"b,c"\ny,a\n')
    with pytest.raises(
        UserError, match="mine, validation: the label of row 1 is 'c', which is none of the classes a, b"
    ):
        load_task("mine", ".", ("text",), kind="multi_label")
    Path("mine/validation.csv").write_text('text,label\nx,"b,,a"\ny,a\n')
    with pytest.raises(UserError, match="a label in it is empty, or is there twice"):
        load_task("mine", ".", ("text",), kind="multi_label")


def test_several_labels_are_scored_as_by_hand():
    task = Task(("text",), ("a", "b"), several=True)
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32)
    logits = np.array([[1, -1], [1, -1], [-1, -1], [1, 1]], np.float32)  # a: 2 right, 1 too many; b: 1 of 2
    assert score(task, logits, truth) == {
        "accuracy": 0.5,
        "micro_f1": pytest.approx(2 * 3 / (4 + 4)),
        "macro_f1": pytest.approx((2 * 2 / (3 + 2) + 2 * 1 / (1 + 2)) / 2),
    }


def test_macro_f1_and_weights_by_hand():
    labels, predicted = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 0])
    assert macro_f1(predicted, labels) == pytest.approx(np.mean([2 * 2 / 6, 2 * 1 / 3, 0]))
    assert confusion(predicted, labels, 3).tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    weights = balanced_weights(Task(("x",), ("a", "b", "c", "d")), torch.from_numpy(labels))
    assert weights.tolist() == pytest.approx([5 / 12, 5 / 4, 5 / 4, 1])
    several = balanced_weights(Task(("x",), ("a", "b"), several=True), torch.tensor([[1.0, 0], [0, 0], [0, 0]]))
    assert several.tolist() == [2, 1]
    with pytest.raises(UserError, match="the task has scores"):
        balanced_weights(Task(("x",), ()), torch.zeros(2))


CONLL = """-DOCSTART- -X- O O

Paris NNP B-NP B-LOC
is VBZ B-VP O

New NNP B-NP B-LOC
York NNP I-NP I-LOC
wins VBZ B-VP O
"""
UD = (
    "# text = don't\n1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n1\tdo\tdo\tAUX" + "\t_" * 6 + "\n2\tn't\tnot\tPART" + "\t_" * 6
)
UD += "\n2.1\tgo\tgo\tVERB" + "\t_" * 6 + "\n\n"


def test_words_of_conll_files():
    Path("a.conll").write_text(CONLL)
    assert read_conll(Path("a.conll"), "tokens", "label") == [
        {"tokens": ["Paris", "is"], "label": ["B-LOC", "O"]},
        {"tokens": ["New", "York", "wins"], "label": ["B-LOC", "I-LOC", "O"]},
    ]
    assert read_conll(Path("a.conll"), "w", "1")[0] == {"w": ["Paris", "is"], "1": ["NNP", "VBZ"]}
    Path("a.conllu").write_text(UD)
    assert read_conll(Path("a.conllu"), "tokens", "label") == [{"tokens": ["do", "n't"], "label": ["AUX", "PART"]}]
    for text, column, message in (
        (CONLL + "oops O\n", "label", "a.conll, line 9 has 2 columns, not 4"),
        ("word\n", "label", "line 1 has 1 columns, not 2"),
        (CONLL, "ner", "has the columns 1 to 3 besides the word, and no ner"),
    ):
        Path("a.conll").write_text(text)
        with pytest.raises(UserError, match=message):
            read_conll(Path("a.conll"), "tokens", column)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O B-Y", {("X", 0, 1), ("Y", 3, 3)}),
        ("B-X B-X I-X", {("X", 0, 0), ("X", 1, 2)}),
        ("I-X I-X I-Y O I-X", {("X", 0, 1), ("Y", 2, 2), ("X", 4, 4)}),
        ("S-X B-Y I-Y E-Y O", {("X", 0, 0), ("Y", 1, 3)}),
        ("NOUN VERB NOUN", {("NOUN", 0, 0), ("VERB", 1, 1), ("NOUN", 2, 2)}),
        ("O O", set()),
    ],
)
def test_entities_are_those_of_conlleval(tags, expected):
    assert entities(tags.split()) == expected


def test_every_word_has_the_label_of_its_first_token(tokenizer):
    words = [["immeasurable", "<mask>", "x"], ["naïve", "\u200b", "union", "don't"]]
    labels = np.arange(7)
    data = encode(tokenizer, Examples((words,), labels, {}), 64)
    spoken = labels_of(data, np.array([1, 0]), int(data.lengths().max()))
    assert [int(v) for v in spoken[1] if v >= 0] == [0, 1, 2]
    assert [int(v) for v in spoken[0] if v >= 0] == [3, 4, 5, 6]
    for i, row in enumerate(words):
        ids, starts = data.ids[data.starts[i] : data.starts[i + 1]], data.words[data.starts[i] : data.starts[i + 1]]
        bounds = [*np.flatnonzero(starts >= 0).tolist(), len(ids) - 1]
        parts = [tokenizer.decode(ids[a:b]).strip(" ") for a, b in pairwise(bounds)]
        assert parts == row
    assert word_starts(["ab", "c"], [(0, 0), (0, 1), (1, 2), (2, 4), (0, 0)]) == [-1, 0, -1, 1, -1]  # with its space
    assert word_starts(["ab", "", "c"], [(0, 2), (4, 5)]) == [0, 2]  # an empty word has no token
    cut = encode(tokenizer, Examples((words,), labels, {}), 5)
    assert (cut.n_cut, cut.n_lost) == (2, 7 - int((cut.words >= 0).sum()))
    assert cut.n_lost > 0


def test_words_are_learned(folder):
    rng = np.random.default_rng(0)
    kinds = {"war": "B-BAD", "peace": "B-GOOD", "the": "O", "of": "O"}
    Path("mine").mkdir()
    sentences = [rng.choice(list(kinds), rng.integers(1, 6)) for _ in range(80)]
    text = "\n\n".join("\n".join(f"{word} {kinds[word]}" for word in words) for words in sentences)
    for split in ("train", "validation"):
        Path(f"mine/{split}.conll").write_text(text)
    run = finetune(options(folder, kind="token_classification", text_columns=(), epochs=6, lr=5e-3))
    records = {r.metric: r for r in read_records(run.path)}
    assert set(records) == {"accuracy", "macro_f1", "entity_f1", "majority"}
    assert records["accuracy"].value > 0.97
    assert records["accuracy"].n == sum(map(len, sentences))
    said = table(run.path / "mine-0/predictions-validation.csv")
    assert [row["text"] for row in said] == [word for words in sentences for word in words]
    assert np.mean([kinds[row["text"]] == row["prediction"] for row in said]) == records["accuracy"].value


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "label": ["X"]}, "row 1 has 2 words, and 1 labels"),
        ({"tokens": ["a", "b"], "label": ["X", None]}, "row 1 has 2 words, and word 2 has no label"),
        ({"tokens": ["a", "b"], "label": "X"}, "the label of row 1 is 'X'; of words with labels it is a list"),
    ],
)
def test_words_and_labels_are_as_many(row, message):
    write("mine", [row, {"tokens": ["a", "b"], "label": ["X", "Y"]}])
    with pytest.raises(UserError, match=message):
        load_task("mine", ".", kind="token_classification")
