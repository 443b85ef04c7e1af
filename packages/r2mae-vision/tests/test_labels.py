"""Labels and images in tables: CSV, parquet, Hugging Face sets, whatever their columns are called."""

import csv
import io
import os
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image
from pyarrow import parquet

from r2mae_core import UserError
from r2mae_vision.data.labels import combinations, match, numbered, read_table
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.pairs import open_pair
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import NoValidationError, open_source

KINDS = ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(value):
    return Image.fromarray(np.full((16, 16, 3), value, np.uint8))


def as_png(value):
    content = io.BytesIO()
    picture(value).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def flat(tmp_path):
    """Twelve images 10, 11 … beside each other, number i of kind i % 3."""
    home = tmp_path / "flat"
    home.mkdir()
    for i in range(12):
        picture(10 + i).save(home / f"x{i:02d}.png")
    return home


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


def brightness(source):
    return [source.read(i, 3)[0].getpixel((0, 0))[0] for i in range(len(source))]


def kinds(source):
    return [source.classes[i] if i >= 0 else None for i in source.labels]


def expected(numbers):
    return [KINDS[(number - 10) % 3] for number in numbers]


@pytest.mark.parametrize("written", ["x{:02d}.png", "x{:02d}", "flat/x{:02d}.png", "./x{:02d}.png"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_labels_of_a_folder_stand_in_a_table(flat, tmp_path, written, suffix):
    rows = [[written.format(i), KINDS[i % 3]] for i in reversed(range(12))]
    if "/x" in written and written.startswith("flat"):
        (flat / "flat").mkdir()
        for file in flat.glob("*.png"):
            file.rename(flat / "flat" / file.name)
    if suffix == ".parquet":
        parquet.write_table(
            pa.table({"id": [r[0] for r in rows], "class": [r[1] for r in rows]}), tmp_path / "t.parquet"
        )
    else:
        table(tmp_path / f"t{suffix}", [["id", "class"], *rows])
    options = {"labels": tmp_path / f"t{suffix}", "image_column": "id", "image_size": 8, "progress": False}
    store = open_source(str(prepare(Prepare(str(flat), out=tmp_path / "store", **options))))
    values = store.images[:, 0, 0, 0].tolist()
    assert sorted(values) == list(range(10, 22))
    assert kinds(store) == expected(values)


def test_what_a_table_does_not_name_is_counted_and_what_it_says_twice_is_refused(flat, tmp_path, capsys):
    rows = [["file", "label"], *([f"x{i:02d}.png", KINDS[i % 3]] for i in range(10)), ["gone.png", "ant"]]
    options = {"image_size": 8, "progress": False, "labels": table(tmp_path / "t.csv", rows)}
    store = open_source(str(prepare(Prepare(str(flat), out=tmp_path / "store", **options))))
    assert len(store) == 10
    assert "2 images that t.csv does not name; 1 rows of t.csv whose image is not there" in capsys.readouterr().out
    table(tmp_path / "t.csv", [*rows, ["x03.png", "bee"]])
    with pytest.raises(UserError, match=r"t.csv names x03.png in rows 4 and 12; leave out one"):
        prepare(Prepare(str(flat), out=tmp_path / "b", **options))
    (flat / "more").mkdir()
    picture(1).save(flat / "more" / "x03.png")
    rows[4][0] = "x03"
    table(tmp_path / "t.csv", rows)
    with pytest.raises(
        UserError, match=r"x03 \(row 4\) may be (more/)?x03.png or (more/)?x03.png; write the whole path"
    ):
        prepare(Prepare(str(flat), out=tmp_path / "b", **options))
    table(tmp_path / "t.csv", [["file", "label"], ["y", "1"]])
    with pytest.raises(UserError, match=r"t.csv names none of the 13 images: y is not there, but .*png is"):
        prepare(Prepare(str(flat), out=tmp_path / "b", **options))


def test_a_table_says_which_images_are_held_out(flat, tmp_path, capsys):
    split = ["train"] * 6 + ["Val"] * 3 + ["test"] * 3
    rows = [["path", "category", "split"], *([f"flat/x{i:02d}.png", KINDS[i % 3], split[i]] for i in range(12))]
    spec = str(table(tmp_path / "all.csv", rows))
    train, val = open_pair(spec)
    assert (brightness(train), brightness(val)) == ([10, 11, 12, 13, 14, 15], [16, 17, 18])
    assert (kinds(train), kinds(val)) == (expected(range(10, 16)), expected(range(16, 19)))
    assert "ignored: 3 rows of other parts (test)" in capsys.readouterr().out
    rows[1:] = [[row[0].removeprefix("flat/"), *row[1:]] for row in rows[1:]]
    out = prepare(Prepare(str(flat), labels=table(tmp_path / "t.csv", rows), image_size=8, out=tmp_path / "s"))
    train, val = open_pair(str(out))
    assert (len(train), val.images[:, 0, 0, 0].tolist()) == (6, [16, 17, 18])
    rows[1][2] = "val"
    rows[4][2] = "val"
    table(tmp_path / "t.csv", rows)  # no training image is an ant any more
    with pytest.raises(UserError, match="classes with validation images but no training image: ant"):
        prepare(Prepare(str(flat), labels=tmp_path / "t.csv", image_size=8, out=tmp_path / "s2"))


def test_columns_are_never_guessed(flat, tmp_path):
    rows = [["path", "file", "kind"], *([f"flat/x{i:02d}.png", "nowhere", KINDS[i % 3]] for i in range(12))]
    spec = str(table(tmp_path / "all.csv", rows))
    with pytest.raises(UserError, match="has columns path and file; choose one with --image_column"):
        open_source(spec)
    options = {"image_size": 8, "progress": False, "image_column": "path"}
    out = prepare(Prepare(spec, out=tmp_path / "a", **options))
    assert open_source(str(out)).classes == ()
    out = prepare(Prepare(spec, out=tmp_path / "b", label_column="kind", **options))
    assert open_source(str(out)).classes == KINDS
    with pytest.raises(UserError, match=r"in another way: columns is .*kind.*"):
        prepare(Prepare(spec, out=tmp_path / "b", label_column="file", **options))
    with pytest.raises(UserError, match=r"has no column 'sort'; it has path, file, kind"):
        prepare(Prepare(spec, out=tmp_path / "c", label_column="sort", **options))
    table(tmp_path / "all.csv", [["a", "b"], ["x", "y"]])
    with pytest.raises(UserError, match="which column is the image"):
        open_source(spec)
    table(tmp_path / "all.csv", [["path", "label"], ["x"]])
    with pytest.raises(UserError, match=r"row 2 has 1 fields, the first has 2"):
        open_source(spec)


@pytest.mark.parametrize(
    ("values", "numbers", "classes"),
    [
        (["b", "a", "", "b"], [1, 0, -1, 1], ("a", "b")),
        (["10", "9", "9"], [1, 0, 0], ("9", "10")),
        ([1.0, float("nan"), 0.0], [1, -1, 0], ("0", "1")),
        ([-1, 1], [0, 1], ("-1", "1")),
        ([True, None], [0, -1], ("true",)),
        (["01", "1"], [0, 1], ("01", "1")),
    ],
)
def test_labels_become_numbers(values, numbers, classes):
    found = numbered(values, "table")
    assert sorted(found.classes) == sorted(classes)
    assert [found.classes[n] if n >= 0 else None for n in found.numbers] == [
        classes[n] if n >= 0 else None for n in numbers
    ]


@pytest.mark.parametrize("bad", [0.5, "0.25", {"a": 1}, b"x"])
def test_what_is_no_class_is_refused(bad):
    with pytest.raises(UserError, match=r"table holds .* \(row 2\)"):
        numbered(["1", bad], "table")


def test_several_labels_in_one_are_said(capsys):
    say_once.cache_clear()
    values = ["cat", "dog", "cat|dog", "bee;cow", "cow;bee", "tench, Tinca tinca", "crane, bird"]
    assert len(numbered(values, "a table").classes) == 7
    said = " ".join(capsys.readouterr().out.split())
    assert "a table: 3 of 7 classes look like several labels of one image, such as" in said
    assert combinations(["cat", "dog", "tench, Tinca tinca"]) == []
    assert combinations(["a,b", "b,c", "c,a"]) == ["a,b", "b,c", "c,a"]


def test_names_are_matched_by_their_ends():
    assert match(["a/1.png", "b/1.png"], ["b/1.png", "a/1"], "t").rows == [1, 0]
    assert match(["a/1.png", "a/1.jpg"], ["a/1.jpg", "1.png"], "t").rows == [1, 0]
    assert match(["1.tif"], ["D:\\x\\1.tif", "1.tif"][1:], "t").rows == [0]


def rows_of(n, start, image="image", label="label", names=KINDS):
    features = Features({image: datasets.Image(), "other": Value("int64"), label: ClassLabel(names=list(names))})
    content = {image: [{"bytes": as_png(start + i), "path": None} for i in range(n)], "other": [7] * n}
    return Dataset.from_dict({**content, label: [(start + i - 10) % 3 for i in range(n)]}, features=features)


def test_sets_in_hugging_faces_form(tmp_path, capsys):
    parts = DatasetDict(
        train=rows_of(6, 10, "pic", "kind"),
        validation=rows_of(3, 16, "pic", "kind"),
        test=rows_of(2, 30, "pic", "kind"),
    )
    say_once.cache_clear()
    parts.save_to_disk(str(tmp_path / "saved"))
    home = tmp_path / "hub" / "data"
    home.mkdir(parents=True)
    parts["train"].to_parquet(str(home / "train-00000-of-00001.parquet"))
    parts["validation"].to_parquet(str(home / "validation-00000-of-00001.parquet"))
    parts["test"].to_parquet(str(home / "test-00000-of-00001.parquet"))
    for spec in (f"hfds/{tmp_path / 'saved'}", f"hfds/{tmp_path / 'hub'}", str(tmp_path / "hub")):
        train, val = open_pair(spec)
        assert train.classes == KINDS
        assert (brightness(train), brightness(val)) == ([10, 11, 12, 13, 14, 15], [16, 17, 18])
        assert (kinds(train), kinds(val)) == (expected(range(10, 16)), expected(range(16, 19)))
        assert f"{spec}: not used: test" in capsys.readouterr().out.replace("\n", "")
    one = open_source(str(home / "train-00000-of-00001.parquet"))
    assert brightness(one) == [10, 11, 12, 13, 14, 15]
    with pytest.raises(NoValidationError):
        open_source(str(home / "train-00000-of-00001.parquet"), "val")


def test_unlabelled_and_oddly_labelled_sets_of_hugging_face(tmp_path, capsys):
    plain = rows_of(6, 10)
    plain.remove_columns("label").save_to_disk(str(tmp_path / "bare"))
    out = prepare(Prepare(f"hfds/{tmp_path / 'bare'}", image_size=8, out=tmp_path / "s", progress=False))
    assert open_source(str(out)).labels.tolist() == [-1] * 6
    assert "images in column image, no labels" in capsys.readouterr().out
    plain.add_column("coarse", [0.5] * 6).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(UserError, match=r"column coarse, holds '0.5' \(row 1\), which is no class"):
        prepare(Prepare(f"hfds/{tmp_path / 'two'}", label_column="coarse", out=tmp_path / "t", progress=False))
    with pytest.raises(UserError, match="has no column 'nope'; it has image, other, label, coarse"):
        prepare(Prepare(f"hfds/{tmp_path / 'two'}", image_column="nope", out=tmp_path / "t", progress=False))
    with pytest.raises(UserError, match=r"column other holds .*not images"):
        prepare(Prepare(f"hfds/{tmp_path / 'two'}", image_column="other", out=tmp_path / "t", progress=False))


def test_parquet_with_bytes_or_paths_and_nothing_else_said(flat, tmp_path):
    bare = pa.table({"content": [as_png(10 + i) for i in range(6)], "label": [KINDS[i % 3] for i in range(6)]})
    parquet.write_table(bare, tmp_path / "bytes.parquet")
    with pytest.raises(UserError, match="which column is the image"):
        open_source(str(tmp_path / "bytes.parquet"))
    options = {"image_size": 8, "progress": False}
    out = prepare(Prepare(str(tmp_path / "bytes.parquet"), image_column="content", out=tmp_path / "a", **options))
    store = open_source(str(out))
    assert kinds(store) == expected(store.images[:, 0, 0, 0].tolist())
    paths = pa.table({"path": [f"flat/x{i:02d}.png" for i in range(6)], "label": [i % 3 for i in range(6)]})
    parquet.write_table(paths, tmp_path / "paths.parquet")
    assert brightness(open_source(str(tmp_path / "paths.parquet"))) == [10, 11, 12, 13, 14, 15]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "bytes.parquet").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cut.parquet cannot be read"):
        open_source(str(tmp_path / "cut.parquet"))


def test_parquet_files_are_parts_by_any_word_of_their_names(tmp_path, capsys):
    for i, name in enumerate(
        ["my-train-0.parquet", "my-test-0.parquet", "x_validation.parquet", ".cache/train.parquet"]
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet.write_table(pa.table({"image": [as_png(10 + i)], "label": [0]}), tmp_path / name)
    say_once.cache_clear()
    assert brightness(open_source(str(tmp_path))) == [10]
    assert brightness(open_source(str(tmp_path), "val")) == [12]
    assert "not used: test" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "train-without-test.parquet").write_bytes((tmp_path / "my-train-0.parquet").read_bytes())
    with pytest.raises(UserError, match="is train and test by its name: which"):
        open_source(str(tmp_path))


def test_paths_in_parquet_that_were_written_on_windows(flat, tmp_path):
    table = pa.table({"path": [f"flat\\x{i:02d}.png" for i in range(6)], "label": [i % 3 for i in range(6)]})
    parquet.write_table(table, tmp_path / "paths.parquet")
    assert brightness(open_source(str(tmp_path / "paths.parquet"))) == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("other", ["./flat/x03.png", "flat//x03.png", "flat/../flat/x03.png", "flat\\x03.png"])
def test_an_image_named_twice_is_refused_however_it_is_written(flat, tmp_path, other):
    """It could be trained on and held out."""
    rows = [[f"flat/x{i:02d}.png", KINDS[i % 3], "train"] for i in range(6)] + [[other, "ant", "val"]]
    spec = table(tmp_path / "t.csv", [["file", "label", "split"], *rows])
    with pytest.raises(UserError, match=r"names one image as flat/x03.png and as .* \(rows 4 and 7\)"):
        open_source(str(spec))
    columns = dict(zip(("file", "label", "split"), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"names one image as flat/x03.png and as .* \(rows 4 and 7\)"):
        open_source(str(tmp_path / "t.parquet"))


def test_a_column_that_was_not_found_is_asked_for(flat, tmp_path):
    spec = str(table(tmp_path / "t.csv", [["file", "kind"], *([f"flat/x{i:02d}.png", KINDS[i % 3]] for i in range(6))]))
    with pytest.raises(UserError, match=r"6 of 6 training images .* have no label; name their column with --label_col"):
        open_pair(spec, str(flat))


def test_what_looks_like_a_slip_is_said(flat, tmp_path, capsys):
    say_once.cache_clear()
    numbered(["cat", "Cat", "café", "cafe\u0301", "dog"], "a table")
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "a table: classes that differ in case or in how a letter or a number is written, and are two: 'Cat' and 'cat',"
        in said
    )
    numbered(["cat", "dog"], "a table")
    assert not capsys.readouterr().out
    rows = [[f"flat/x{i:02d}.png", KINDS[i % 3], "train" if i < 6 else "val"] for i in range(12)]
    spec = str(table(tmp_path / "t.csv", [["file", "label", "split"], *rows]))
    open_pair(spec)
    assert "are the training images" not in capsys.readouterr().out
    open_pair(spec, spec)
    assert "the validation images are the training images" in " ".join(capsys.readouterr().out.split())


def test_numbers_written_in_two_ways_have_one_order_and_are_named(capsys):
    names = ["1", "01", "001", "0001", "10", "2"]
    expected = ("0001", "001", "01", "1", "2", "10")
    for turn in range(len(names)):
        assert numbered(names[turn:] + names[:turn], f"table {turn}").classes == expected
    # By another seed of Python's hashes, too: the order of a set of text depends on it.
    code = f"from r2mae_vision.data.labels import numbered; print(*numbered({names!r}, 't').classes, sep='|')"
    for seed in range(4):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.splitlines()[-1] == "|".join(expected)
    capsys.readouterr()
    numbered(["7", "7.0", "8"], "a table of floats")
    assert "'7' and '7.0'" in capsys.readouterr().out


def test_a_space_before_a_quoted_field_is_none_of_it(tmp_path):
    (tmp_path / "t.csv").write_text('image, label\na.png, "cat, big"\nb.png,"dog"\n')
    assert read_table(tmp_path / "t.csv") == {"image": ["a.png", "b.png"], "label": ["cat, big", "dog"]}
