"""Folders, archives, tables and shards as people have them, where something would be lost or mixed in silence."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from r2mae_core import UserError
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.pairs import open_pair
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import open_source


def png(seed=0):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def files(home, *names):
    for i, name in enumerate(names):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(png(i))
    return home


@pytest.mark.parametrize("inside", ["", "train/"])
@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("Training", "TEST")])
def test_parts_below_classes_are_no_single_part(tmp_path, inside, one, other):
    """cat/train and cat/val: the held-out images would be trained on."""
    home = files(tmp_path / "set", *(f"{inside}{c}/{part}/1.png" for c in ("cat", "dog") for part in (one, other)))
    with pytest.raises(UserError, match=f"class folder cat holds {one} and {other}, which would be one part; put them"):
        open_source(str(home))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(home, arcname="set")
    with pytest.raises(UserError, match="class folder cat holds"):
        open_source(str(tmp_path / "set.tar"))
    assert open_source(str(files(tmp_path / "fine", "cat/adult/1.png", "cat/young/1.png", "dog/test/1.png"))).classes


def test_folders_in_a_zip_of_windows(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for i, name in enumerate(("train\\cat\\1.png", "train\\dog\\1.png", "val\\cat\\2.png", "val\\dog\\2.png")):
            archive.writestr(name, png(i))
    train, held_out = open_pair(str(tmp_path / "w.zip"))
    assert (train.classes, train.labels.tolist(), held_out.labels.tolist()) == (("cat", "dog"), [0, 1], [0, 1])
    assert np.array_equal(np.asarray(held_out.read(1, 3)[0]), np.asarray(Image.open(io.BytesIO(png(3)))))


def test_paths_in_a_table_of_windows(tmp_path):
    files(tmp_path, "im/1.png", "im/2.png")
    (tmp_path / "t.csv").write_text("image,label\nim\\1.png,a\nim\\2.png,b\n")
    source = open_source(str(tmp_path / "t.csv"))
    assert np.array_equal(np.asarray(source.read(1, 3)[0]), np.asarray(Image.open(tmp_path / "im" / "2.png")))


@pytest.mark.parametrize(("mark", "suffix"), [(";", "csv"), ("\t", "csv"), (",", "tsv"), ("|", "csv")])
def test_another_mark_between_fields_is_named(tmp_path, mark, suffix):
    (tmp_path / f"t.{suffix}").write_text(f"image{mark}label\n1.png{mark}a\n")
    wanted = "tabs" if suffix == "tsv" else "commas"
    with pytest.raises(UserError, match=f"its first row is one field, with .* in it; put {wanted} between fields"):
        open_source(str(tmp_path / f"t.{suffix}"))


def test_a_class_that_may_be_no_label_is_said(tmp_path, capsys):
    files(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text("image,label\n1.png,nan\n2.png,b\n")
    assert open_source(str(tmp_path / "t.csv")).classes == ("b", "nan")
    assert "nan is taken for a class; leave the cell empty where there is no label" in capsys.readouterr().out


def test_class_folders_whose_letters_are_composed_otherwise(tmp_path):
    files(tmp_path, "train/na\u00efve/1.png", "train/b/1.png", "val/nai\u0308ve/1.png", "val/b/1.png")
    with pytest.raises(UserError, match=r"\(na.+; a letter is composed otherwise there\): labels do not fit"):
        open_pair(str(tmp_path))


def shard(file, *members):
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    say_once.cache_clear()
    return open_source(f"wds/{file}")


def test_what_a_shard_holds_beside_images_and_classes_is_counted(tmp_path, capsys):
    pytest.importorskip("webdataset")
    pairs = [(f"{i}.{e}", png(i)) for i in range(3) for e in ("left.png", "right.png")]
    labels = [(f"{i}.json", json.dumps({"label": i}).encode()) for i in range(3)]
    source = shard(tmp_path / "a.tar", *pairs, *labels)
    assert len(source) == 3
    said = capsys.readouterr().out
    assert "ignored: 3 further images of their samples (right.png), 3 .json" in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_endings_and_names_of_a_shard_are_those_of_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    members = [(f"{i}.{e}", png(i) if e == "PNG" else str(i).encode()) for i in range(3) for e in ("PNG", "CLS")]
    members += [("0.PNG", png(7)), ("0.CLS", b"2")]  # a second sample of that name
    source = shard(tmp_path / "a.tar", *members)
    theirs = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False))
    wanted = sorted((one["png"], int(one["cls"])) for one in theirs)
    ours = sorted((source.reader[i].read(), int(source.labels[i])) for i in range(len(source)))
    assert ours == wanted
    assert len(wanted) == 4
    assert source.file_name(0) == "0.PNG"


def test_more_parts_than_images_are_refused_before_anything_is_written(tmp_path):
    home = files(tmp_path / "set", *(f"train/a/{i}.png" for i in range(9)), "val/a/1.png")
    with pytest.raises(UserError, match="--part 2/3: val has 1 images only; make fewer parts"):
        prepare(Prepare(str(home), out=tmp_path / "out", image_size=8, part="2/3", workers=0, progress=False))
    assert not (tmp_path / "out").exists()


def test_images_in_parquet_are_named_by_their_whole_path(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": png(i), "path": f"{name}/1.png"} for i, name in enumerate(("cat", "dog"))]
    parquet.write_table(pa.table({"image": images, "label": ["cat", "dog"]}), tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"))
    assert [source.file_name(i) for i in range(2)] == ["cat/1.png", "dog/1.png"]
