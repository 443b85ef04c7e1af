"""`predict` and `embed` against transformers alone."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from r2mae_text import export_run
from r2mae_text.model import quiet

TEXTS = ["the union", "a <mask> of <s> states", "", "the congress of the united states " * 3, 'say "war", peace']


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


def table(file):
    with Path(file).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(file, texts):
    rows = [{"text": text or None, "other": 1} for text in texts]
    file = Path(file)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".txt":
        file.write_text("\n".join(texts) + "\n")
    elif file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writerows([["text", "other"], *([text, 1] for text in texts)])
    return file


def classifier(folder, labels, problem=None, cls="AutoModelForSequenceClassification"):
    import transformers

    settings = {"id2label": dict(enumerate(labels)), "num_labels": len(labels), "problem_type": problem}
    torch.manual_seed(0)
    with quiet():
        model = getattr(transformers, cls).from_pretrained(folder, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)  # so that texts differ
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with quiet():
        model.save_pretrained("tuned")
    tokenizer.save_pretrained("tuned")
    return model.eval(), tokenizer


def alone(model, tokenizer, text):
    batch = tokenizer(text, return_tensors="pt", split_special_tokens=True, truncation=True)
    with torch.no_grad():
        return model(**batch), batch


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_file_is_predicted_by_its_rows(call, folder, ending):
    model, tokenizer = classifier(folder, ("no", "yes", "maybe"))
    file = write(f"texts{ending}", TEXTS)
    code, out, err = call("predict", "tuned", file, "--text_columns", "[text]", "--device", "cpu", "--out", "said.csv")
    assert (code, err) == (0, "")
    said = table("said.csv")
    there = [(i, text) for i, text in enumerate(TEXTS, 1) if text]
    assert [int(row["row"]) for row in said] == [i for i, _ in there]
    assert "4 texts; left out: 1 rows without a text" in out
    for row, (_, text) in zip(said, there, strict=True):
        shares = alone(model, tokenizer, text)[0].logits.softmax(-1)[0]
        assert row["prediction"] == ("no", "yes", "maybe")[int(shares.argmax())]
        assert [float(row[f"p({c})"]) for c in ("no", "yes", "maybe")] == pytest.approx(shares.tolist(), abs=1e-5)


def test_other_kinds_of_heads(call, folder):
    write("t.txt", TEXTS)
    model, tokenizer = classifier(folder, ("a", "b"), "multi_label_classification")
    assert call("predict", "tuned", "t.txt", "--device", "cpu", "--out", "said.csv")[0] == 0
    shares = [alone(model, tokenizer, text)[0].logits.sigmoid()[0].tolist() for text in TEXTS if text]
    np.testing.assert_allclose([[float(r["p(a)"]), float(r["p(b)"])] for r in table("said.csv")], shares, atol=1e-5)
    assert [r["prediction"] for r in table("said.csv")] == [
        ",".join(c for c, p in zip("ab", row, strict=True) if p > 0.5) for row in shares
    ]
    model, tokenizer = classifier(folder, ("score",), "regression")
    assert call("predict", "tuned", "t.txt", "--device", "cpu", "--out", "said.csv", "--overwrite")[0] == 0
    values = [float(alone(model, tokenizer, text)[0].logits) for text in TEXTS if text]
    assert [float(r["prediction"]) for r in table("said.csv")] == pytest.approx(values, abs=1e-5)
    model, tokenizer = classifier(folder, ("O", "B-X"), cls="AutoModelForTokenClassification")
    Path("w.conll").write_text("the O\nunion O\n\nwar O\n")
    assert call("predict", "tuned", "w.conll", "--device", "cpu", "--out", "said.csv", "--overwrite")[0] == 0
    logits, batch = alone(model, tokenizer, "the union")
    first = [batch.word_to_tokens(i)[0] for i in range(2)]
    expected = [("O", "B-X")[int(logits.logits[0, i].argmax())] for i in first]
    assert [r["prediction"] for r in table("said.csv")][:2] == expected
    assert [(r["row"], r["word"], r["text"]) for r in table("said.csv")][2] == ("2", "1", "war")


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_vectors_are_those_of_transformers(call, folder, pooling):
    from transformers import AutoModel, AutoTokenizer

    write("t.jsonl", TEXTS)
    code, out, _ = call(
        "embed", folder, "t.jsonl", "--text_columns", "[text]", "--pooling", pooling, "--device", "cpu", "--out",
        "v.npz", "--out_model", "st", "--batch_size", "3",
    )  # fmt: skip
    assert code == 0
    assert "4 texts, 32 numbers each; left out: 1 rows without a text" in out
    with np.load("v.npz") as found:
        vectors, rows = found["vectors"], found["rows"]
    assert rows.tolist() == [1, 2, 4, 5]
    for place in (folder, Path("st")):  # what it was, and what sentence-transformers opens
        model, tokenizer = AutoModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
        for vector, text in zip(vectors, filter(None, TEXTS), strict=True):
            states = alone(model, tokenizer, text)[0].last_hidden_state[0]
            expected = states.mean(0) if pooling == "mean" else states[0]
            np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
    how = json.loads(Path("st/1_Pooling/config.json").read_text())
    assert how["pooling_mode_mean_tokens"] == (pooling == "mean") != how["pooling_mode_cls_token"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict", "model", "t.txt"], "model has no classifier; make one with r2mae-text finetune model"),
        (["predict", "tuned", "t.csv"], "t.csv has the columns text, other; say which is the text with --text_columns"),
        (["predict", "tuned", "t.csv", "--text_columns", "[body]"], "no column body but text, other"),
        (["predict", "tuned", "t.md"], "t.md is of no kind that is read; known: .csv"),
        (["predict", "tuned", "none.txt"], "none.txt"),
        (["predict", "tuned", "empty.txt"], "none of 1 rows has a text"),
        (["predict", "tuned", "t.txt", "--out", "t.txt", "--overwrite"], "t.txt"),
        (["predict", "tuned", "t.txt", "--out", "there.csv"], "there.csv"),
        (["embed", "run", "t.txt"], "run has 2 models; name one: run/a-0/model, run/a-1/model"),
        (["embed", "nowhere", "t.txt"], "no model 'nowhere' here or on the hub"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, folder, argv, message):
    classifier(folder, ("no", "yes"))
    for file in ("t.txt", "t.csv", "there.csv"):
        write(file, TEXTS)
    Path("t.md").write_text("x")
    Path("empty.txt").write_text("\n")
    for seed in (0, 1):
        Path(f"run/a-{seed}/model").mkdir(parents=True)
        Path(f"run/a-{seed}/model/config.json").write_text("{}")
    Path("run/config.yaml").write_text("{}")
    code, _, err = call(*argv, "--device", "cpu")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
