import json

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.conservation import Track, conserved_windows
from r2mae_dna.data.regions import defined_intervals, parse_region, window_starts
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import WindowSet, prepare, read_info
from r2mae_dna.options import Prepare


def test_windows_are_cut_from_defined_stretches_only(toy):
    _, codes = toy
    starts, ends = defined_intervals(codes[:, 0])
    assert (starts.tolist(), ends.tolist()) == ([0, 201], [200, 300])
    assert window_starts(codes[:, 0], 64, 32).tolist() == [0, 32, 64, 96, 128, 201, 233]  # 136 would end at exactly 200
    assert window_starts(codes[:, 0], 200, 1).tolist() == [0]
    assert window_starts(np.zeros(10, np.uint8), 5, 1).tolist() == []


def test_a_window_holds_what_the_store_holds(toy, tmp_path):
    path, codes = toy
    info = read_info(prepare(Prepare(path, out=tmp_path / "w", window=64, step=32)))
    windows = WindowSet(tmp_path / "w")
    assert info.counts == {"train": 7, "validation": 0, "test": 0}
    assert info.species == ("hg", "pt", "mm")
    for i, start in enumerate(windows.starts.tolist()):
        assert (windows.codes[i] == codes[start : start + 64]).all()
    assert ((windows.codes[..., 0] & TOKEN_BITS) > 0).all()
    batch = windows.batch(np.array([3, 10]))
    assert torch.equal(batch["codes"][0], batch["codes"][1])  # 10 is window 3 on the other strand
    assert batch["reverse"].tolist() == [False, True]


def test_held_out_regions_share_no_base_with_training(toy, tmp_path):
    path, _ = toy
    prepare(
        Prepare(
            path, out=tmp_path / "w", window=20, step=10, validation_regions="chr7:101-150", test_regions="7:241-300"
        )
    )
    train, validation, test = (WindowSet(tmp_path / "w", s) for s in ("train", "validation", "test"))
    assert validation.starts.tolist() == [100, 110, 120, 130]
    assert test.starts.min() >= 240
    for start in train.starts.tolist():
        assert start + 20 <= 100 or start >= 150
        assert start + 20 <= 240


def test_only_restricts_the_training(toy, tmp_path):
    prepare(Prepare(toy[0], out=tmp_path / "w", window=20, step=10, only="7:1-50 7:211-300", test_regions="7:261-300"))
    assert WindowSet(tmp_path / "w").starts.tolist() == [0, 10, 20, 30, 211, 221, 231]
    assert WindowSet(tmp_path / "w", "test").starts.tolist() == [261, 271]


def test_the_real_vertebrates_have_their_1619_windows(vertebrates, tmp_path):
    info = read_info(prepare(Prepare(vertebrates[0], out=tmp_path / "w")))
    assert info.counts["train"] == 1619  # measured apart from this code


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_regions": "chr9"}, "has no chromosome 'chr9'; it has 7"),
        ({"validation_regions": "7:10"}, "'7:10' is not a region; write chr22 or chr22:1000-2000"),
        ({"validation_regions": "7:0-10"}, "positions count from 1"),
        ({"validation_regions": "7:10-5"}, "the first must not exceed the last"),
        ({"window": 250}, "no window of 250 defined bases is left for training"),
        ({"validation_regions": "7"}, "no window of 128 defined bases is left for training"),
        ({"validation_regions": "7:301-310"}, "is outside 7, which is 300 long"),
        ({"validation_regions": "7:,-5"}, "'7:,-5' is not a region"),
        (
            {"validation_regions": "7:1-150", "test_regions": "7:150-300"},
            "7:1-150 and the test region 7:150-300 overlap",
        ),
        (
            {"window": 64, "validation_regions": "7:270-300"},
            "no window of 64 defined bases lies in the --validation_regions",
        ),
        ({"top": 0.2}, "--top (for --phastcons and --phylop) does not apply"),
        ({"phastcons": "x.bw"}, "give both --phastcons and --phylop"),
        ({"phastcons": "x.bw", "phylop": "y.bw"}, "no file x.bw"),
    ],
)
def test_bad_windows_are_refused_and_nothing_is_left(toy, tmp_path, changes, message):
    from pathlib import Path

    changes = {k: Path(v) if k.startswith("ph") else v for k, v in changes.items()}
    with pytest.raises(UserError) as error:
        prepare(Prepare(toy[0], out=tmp_path / "w", **changes))
    assert message in str(error.value)
    assert not [file for file in tmp_path.iterdir() if file != toy[0]]


def test_regions_are_written_as_browsers_do(toy):
    store = AlignmentStore(toy[0])
    region = parse_region("chr7:1,001-2,000", store)
    assert (region.chromosome, region.start, region.end) == ("7", 1000, 2000)
    assert parse_region("7", store).end == 300


def bigwig(path, values, name="chr7"):
    writer = pytest.importorskip("pyBigWig")
    file = writer.open(str(path), "w")
    file.addHeader([(name, 300)])
    known = np.flatnonzero(~np.isnan(values))
    for i in known:
        file.addEntries([name], [int(i)], ends=[int(i) + 1], values=[float(values[i])])
    file.close()
    return path


def test_tracks_are_kept_with_the_windows_and_filter_them(toy, tmp_path):
    values = np.full(300, np.nan, np.float32)
    values[:200] = np.linspace(0, 1, 200)
    phastcons, phylop = bigwig(tmp_path / "c.bw", values), bigwig(tmp_path / "p.bw", values * 10 - 3)
    track = Track(phastcons)
    assert np.allclose(track.values("7", 290, 310), np.nan, equal_nan=True)
    assert np.allclose(track.values("7", 50, 60), values[50:60])
    assert np.isnan(track.values("8", 0, 5)).all()
    both = {"phastcons": phastcons, "phylop": phylop, "window": 20, "step": 10}
    prepare(Prepare(toy[0], out=tmp_path / "all", top=1.0, **both))
    every = WindowSet(tmp_path / "all")
    assert every.info.conservation
    batch = every.batch(np.array([2]))
    assert batch["conservation"].shape == (1, 2, 20)
    assert np.allclose(batch["conservation"][0, 0], values[20:40], atol=1e-3)
    assert np.allclose(batch["conservation"][0, 1], values[20:40] * 10 - 3, atol=1e-2)
    prepare(Prepare(toy[0], out=tmp_path / "few", top=0.2, rest=0.0, **both))
    assert WindowSet(tmp_path / "few").starts.tolist() == [130, 140, 150, 160, 170, 180]  # a fifth of 27, ties kept
    (tmp_path / "bad.bw").write_text("x")
    with pytest.raises(UserError, match="is not a bigWig file"):
        Track(tmp_path / "bad.bw")


def test_a_few_of_the_other_windows_are_kept_by_chance():
    phastcons = np.concatenate([np.ones((50, 8)), np.zeros((9950, 8))])
    keep = conserved_windows(
        phastcons, quantile=0.75, top=0.005, rest=0.1, generator=np.random.Generator(np.random.Philox(key=[0, 0]))
    )
    assert keep[:50].all()
    assert 900 < keep[50:].sum() < 1090  # within five standard deviations of 995


def test_missing_pybigwig_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyBigWig", None)
    with pytest.raises(UserError, match=r"pip install 'r2mae-dna\[bigwig\]'"):
        Track(tmp_path / "x.bw")


def test_splits_that_are_not_there_are_named(toy, tmp_path):
    prepare(Prepare(toy[0], out=tmp_path / "w", window=64))
    with pytest.raises(UserError, match="has no validation windows; make it again with"):
        WindowSet(tmp_path / "w", "validation")
    with pytest.raises(UserError, match="no windows at"):
        WindowSet(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists, and window was 64 there and is 128 here; give --overwrite"):
        prepare(Prepare(toy[0], out=tmp_path / "w"))
    assert json.loads((tmp_path / "w" / "windows.json").read_text())["window"] == 64
