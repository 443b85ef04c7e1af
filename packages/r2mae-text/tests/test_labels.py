"""Labels are never guessed: what is read is what was written, or is refused with its row."""

import csv
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from r2mae_core import UserError, read_records
from r2mae_text import export_run
from r2mae_text.data.glue import load_task
from r2mae_text.finetune import _described, finetune
from r2mae_text.metrics import majority
from r2mae_text.options import Finetune

TEXT = ("text",)


def write(name, labels, validation=None):
    Path(name).mkdir(exist_ok=True)
    column = "text" if name == "mine" else "sentence"
    for split, values in (("train", labels), ("validation", labels if validation is None else validation)):
        rows = [{column: f"a sentence {i}", "label": value} for i, value in enumerate(values)]
        Path(f"{name}/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([-1, 1] * 6, ("-1", "1"), [0, 1] * 6),
        ([1, -1, 0] * 4, ("-1", "0", "1"), [2, 0, 1] * 4),
        (["+", "-"] * 6, ("+", "-"), [0, 1] * 6),
        ([10, 9, 2] * 4, ("2", "9", "10"), [2, 1, 0] * 4),
        ([1.0, 0.0, None, math.nan] * 4, ("0", "1"), [1, 0] * 4),
        (["1", 1, 1.0, "2 ", "+2", "2.0"] * 2, ("1", "2"), [0, 0, 0, 1, 1, 1] * 2),
        ([True, False] * 6, ("False", "True"), [1, 0] * 6),
        (["01", "1"] * 6, ("01", "1"), [0, 1] * 6),
        (["b", "", "a", " "] * 6, ("a", "b"), [1, 0] * 6),
    ],
)
def test_classes_are_what_was_written(labels, names, numbers):
    write("mine", labels)
    task, splits = load_task("mine", ".", TEXT)
    assert task.labels == names
    for examples in splits.values():
        assert examples.labels.tolist() == numbers
        assert sum(examples.skipped.values()) == len(labels) - len(numbers)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([i / 7 for i in range(40)], "label of row 2 is 0.14285714285714285: labels with fractions are scores"),
        ([str(i / 4) for i in range(40)], "the label of row 2 is 0.25: labels with fractions are scores"),
        ([[0], [1]] * 6, r"the label of row 1 is '\[0\]', a list"),
        ([{"a": 1}] * 6, r"the label of row 1 is .*, a dict"),
        ([1, 0, "NaN"] * 6, "the label of row 3 is 'NaN': leave the label empty"),
        (["yes", "no", "null"] * 6, "the label of row 3 is 'null': leave the label empty"),
        (["yes", "no", "<NA>"] * 6, "the label of row 3 is '<NA>': leave the label empty"),
        (list(range(40)), "40 classes in 40 rows; is the label column a score or a name"),
        ([1] * 6, "every row has the label '1'; there is nothing to learn"),
        ([math.inf, 1, 2] * 6, "label of row 1 is inf: labels with fractions are scores"),
        ([None] * 6, "none of 6 rows has a label"),
    ],
)
def test_what_is_no_class_is_refused(labels, message):
    write("mine", labels)
    with pytest.raises(UserError, match=message):
        load_task("mine", ".", TEXT)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ([0, 1, 2], "mine, validation: the label of row 3 is '2', which is none of the classes 4, 5"),
        (["4", "maybe"], "the label of row 2 is 'maybe', which is none of the classes 4, 5"),
        ([4, 4, 4], "mine, validation: every row has the label '4'"),
    ],
)
def test_labels_that_training_has_not_are_refused(validation, message):
    write("mine", [4, 5] * 6, validation)
    if validation[0] == 0:
        message = "the label of row 1 is '0', which is none of the classes 4, 5"
    with pytest.raises(UserError, match=message):
        load_task("mine", ".", TEXT)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1] * 6, "none of 6 rows has a label; GLUE's test sets have -1 there"),
        ([-1, 1] * 6, "the label of row 1 is '-1', which is none of the classes 0, 1"),
        ([0, 1, 2], "the label of row 3 is '2', which is none of the classes 0, 1"),
        (["negative", "positive"], "the label of row 1 is 'negative', which is none of the classes 0, 1"),
        ([1] * 6, "every row has the label '1'"),
    ],
)
def test_minus_one_means_none_in_glues_test_files_alone(labels, message):
    write("sst2", labels)
    with pytest.raises(UserError, match=message):
        load_task("sst2", ".")


@pytest.mark.parametrize(
    "content", ['{"text": "x", "label": 1, "label": 0}\n', '{"text": "x", "text": "y", "label": 1}\n']
)
def test_a_column_that_is_there_twice_is_refused(content):
    write("mine", [0, 1] * 6)
    with Path("mine/train.jsonl").open("a") as file:
        file.write(content)
    with pytest.raises(UserError, match=r"train\.jsonl, line 13 is not JSON \(it has the same name twice\)"):
        load_task("mine", ".", TEXT)


def test_a_parquet_column_that_is_there_twice_is_refused():
    import pyarrow as pa
    import pyarrow.parquet as pq

    write("mine", [0, 1])
    columns = [pa.array(["x", "y"]), pa.array([0, 1]), pa.array([1, 0])]
    pq.write_table(pa.table(columns, names=["text", "label", "label"]), "mine/train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet names the column 'label' twice"):
        load_task("mine", ".", TEXT)


def test_decimals_of_parquet_are_numbers():
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path("mine").mkdir()
    for split in ("train", "validation"):
        pq.write_table(
            pa.table({"text": ["x", "y"], "label": [Decimal("1.0"), Decimal("0.0")]}), f"mine/{split}.parquet"
        )
    assert load_task("mine", ".", TEXT)[0].labels == ("0", "1")


@pytest.mark.parametrize("columns", [("label",), ("text", "text"), ("text", "label")])
def test_a_label_is_no_text(columns):
    write("mine", [0, 1] * 6)
    with pytest.raises(UserError, match="a column is a text once, and the label never"):
        load_task("mine", ".", columns)


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_tables_are_what_csv_and_datasets_read(ending, delimiter, line_end):
    from datasets import load_dataset

    rows = [["good\nday", "x"], ['say "no"', "y"], [f"a{delimiter}b", "x"], ["long " * 60_000, "y"]]
    Path("mine").mkdir()
    for split in ("train", "validation"):
        with Path(f"mine/{split}{ending}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
            writer.writerows([["text", "label"], *rows])
    ours = load_task("mine", ".", TEXT)[1]["train"]
    assert ours.texts[0] == [text for text, _ in rows]
    assert ours.labels.tolist() == [0, 1, 0, 1]
    theirs = load_dataset("csv", data_files=f"mine/train{ending}", sep=delimiter, split="train", cache_dir="cache")
    assert theirs["text"][:] == ours.texts[0]


def test_a_score_has_the_majoritys_beside_it(tiny, tokenizer):
    folder = export_run(tiny, tokenizer, Path("model"))
    write("mine", [-1, 1] * 6, [-1, 1, 1, 1])
    config = {"task_data": ".", "text_columns": TEXT, "epochs": 1, "device": "cpu", "progress": False}
    run = finetune(Finetune(str(folder), ("mine",), seeds=(0,), out=Path("run"), **config))
    values = {record.metric: record.value for record in read_records(run.path)}
    assert set(values) == {"accuracy", "macro_f1", "majority"}
    assert values["majority"] == 0.75
    assert majority(np.array([0, 1, 1, 2])) == 0.5


def test_texts_without_a_word_are_left_out_and_every_class_is_counted(tmp_path):
    Path("mine").mkdir()
    lines = [{"text": text, "label": label} for text in ("good", "  ", "", "\n") for label in ("pos", "Pos", "neg")]
    for split in ("train", "validation"):
        Path(f"mine/{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 4))
    task, splits = load_task("mine", ".", TEXT)
    assert splits["train"].texts == (["good"] * 12,)
    said = _described("mine", task, splits)
    assert "36 rows without a text in train" in said
    assert said.endswith("; training has Pos 4, neg 4, pos 4")
