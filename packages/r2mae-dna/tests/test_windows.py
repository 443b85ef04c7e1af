import json

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.conservation import Track, known_quantile
from r2mae_dna.data.regions import Region, defined_intervals, parse_region, stored_intervals, window_starts
from r2mae_dna.data.store import AlignmentStore, StoreWriter
from r2mae_dna.data.windows import WindowSet, prepare, read_info
from r2mae_dna.options import Prepare


def test_windows_are_cut_from_defined_stretches_only(toy):
    _, codes = toy
    starts, ends = defined_intervals(codes[:, 0])
    assert (starts.tolist(), ends.tolist()) == ([0, 201], [200, 300])
    for block in (2, 100):
        found = np.concatenate(list(window_starts((starts, ends), 64, 32, block)))
        assert found.tolist() == [0, 32, 64, 96, 128, 201, 233]  # 136 would end at exactly 200
    assert next(window_starts((starts, ends), 200, 1)).tolist() == [0]
    assert not list(window_starts(defined_intervals(np.zeros(10, np.uint8)), 5, 1))


def test_intervals_go_on_from_one_stretch_of_a_store_to_the_next(tmp_path):
    from r2mae_dna.data.store import SHARD_ROWS

    codes = np.ones((3 * SHARD_ROWS, 2), np.uint8)
    codes[5] = codes[2 * SHARD_ROWS - 1] = 0
    writer = StoreWriter(tmp_path / "s", ["a", "b"])
    writer.write("1", codes)
    writer.close()
    starts, ends = stored_intervals(AlignmentStore(tmp_path / "s"), "1")
    expected = defined_intervals(codes[:, 0])
    assert (starts.tolist(), ends.tolist()) == (expected[0].tolist(), expected[1].tolist())


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
        ({"validation_regions": "7:x"}, "'7:x' is not a region; write chr22, chr22:1000 or chr22:1000-2000"),
        ({"validation_regions": "8:10"}, "has no chromosome '8'; it has 7"),
        ({"validation_regions": "7:0-10"}, "positions count from 1"),
        ({"validation_regions": "7:10-5"}, "the first must not exceed the last"),
        ({"window": 250}, "no window of 250 defined bases is left for training"),
        ({"validation_regions": "7"}, "no window of 128 defined bases is left for training"),
        ({"validation_regions": "7:200-301"}, "ends beyond 7, which is 300 long"),
        ({"validation_regions": "7:,-5"}, "'7:,-5' is not a region"),
        (
            {"validation_regions": "7:1-150", "test_regions": "7:150-300"},
            "7:1-150 and the test region 7:150-300 overlap",
        ),
        (
            {"window": 64, "validation_regions": "7:270-300"},
            "no window of 64 defined bases is left in the --validation_regions",
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
    assert parse_region("chr7:1,001", store) == Region("7", 1000, 1001)


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
    assert WindowSet(tmp_path / "few").starts.tolist() == [130, 140, 150, 160, 170, 180]  # a fifth of 27, rounded up
    unknown = every.batch(np.flatnonzero(every.starts == 251))["conservation"][0]
    assert unknown.tolist() == [[0.0] * 20, [1.0] * 20]  # where nothing is known: not conserved, and neutral
    (tmp_path / "bad.bw").write_text("x")
    with pytest.raises(UserError, match="is not a bigWig file"):
        Track(tmp_path / "bad.bw")


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_what_is_no_phastcons_is_refused(toy, tmp_path, value):
    for name, values in (("phastcons", [0.5, value]), ("phylop", [-3.0, 9.0])):
        file = pytest.importorskip("pyBigWig").open(str(tmp_path / f"{name}.bw"), "w")
        file.addHeader([("7", 300)])
        file.addEntries("7", 40, values=values, span=1, step=1)
        file.close()
    tracks = {name: tmp_path / f"{name}.bw" for name in ("phastcons", "phylop")}
    for change in ({}, {"top": 1.0}):
        with pytest.raises(UserError, match=rf"phastcons\.bw: {value} at 7:42 is no phastCons"):
            prepare(Prepare(toy[0], out=tmp_path / "w", window=20, step=10, **change, **tracks))
    assert not (tmp_path / "w").exists()


@pytest.fixture
def three_chromosomes(tmp_path):
    """A store of three chromosomes, phastCons for two of them (random; 600 conserved bases), and the track by name."""
    rng = np.random.default_rng(0)
    writer = StoreWriter(tmp_path / "three", ["hg", "pt"])
    for name in ("chr1", "chr2", "chrUn_1"):
        writer.write(name, rng.integers(1, 5, (LENGTH, 2)).astype(np.uint8))
    writer.close()
    values = {"chr1": rng.random(LENGTH), "chr2": np.zeros(LENGTH)}
    values["chr2"][:600] = 0.9
    file = pytest.importorskip("pyBigWig").open(str(tmp_path / "three.bw"), "w")
    file.addHeader([(name, LENGTH) for name in values])
    for name, track in values.items():
        file.addEntries(name, 0, values=track.tolist(), span=1, step=1)
    file.close()
    tracks = {"phastcons": tmp_path / "three.bw", "phylop": tmp_path / "three.bw"}
    return tmp_path / "three", tracks, {**values, "chrUn_1": np.full(LENGTH, np.nan)}


LENGTH = 64_000


def by_brute_force(values, top, step=64):
    """Return (chromosome, start) of the windows with the largest 75th percentiles of the genome, if they have one."""
    score = {
        (name, start): np.quantile(track[start : start + 128].astype(np.float32), 0.75)
        for name, track in values.items()
        for start in range(0, LENGTH - 127, step)
    }
    known = sorted((s for s in score.values() if not np.isnan(s)), reverse=True)
    last = known[min(int(np.ceil(round(top * len(score), 6))), len(known)) - 1]
    return {place for place, s in score.items() if s >= last}


def places_of(folder, split="train"):
    names = (folder / split / "chromosomes.txt").read_text().split()
    chromosome = np.load(folder / split / "chromosome.npy")
    return {(names[c], s) for c, s in zip(chromosome.tolist(), WindowSet(folder, split).starts.tolist(), strict=True)}


def test_windows_are_ranked_over_the_genome_and_missing_is_not_zero(three_chromosomes, tmp_path):
    store, tracks, values = three_chromosomes
    prepare(Prepare(store, out=tmp_path / "w", rest=0.0, **tracks))
    kept = places_of(tmp_path / "w")
    assert kept == by_brute_force(values, 0.05)
    assert [sum(name == c for name, _ in kept) for c in values] == [141, 9, 0]
    info = read_info(tmp_path / "w")
    assert info.left_out == {"not conserved": 2 * 999 - 150, "without phastCons in most of the window": 999}
    # The same windows are conserved whatever the splits, at any size of what is read at once.
    prepare(
        Prepare(
            store, out=tmp_path / "split", rest=0.0, only="chr2 chr1:1-32000", test_regions="chr1:40001-64000", **tracks
        )
    )
    for split, low, high in (("train", 0, 32_000), ("test", 40_000, 64_000)):
        expected = {
            (c, s) for c, s in kept if (c == "chr1" and low <= s <= high - 128) or (split == "train" and c == "chr2")
        }
        assert places_of(tmp_path / "split", split) == expected


@pytest.mark.parametrize("sizes", [{}, {"SPAN": 300, "BLOCK": 50}])
@pytest.mark.parametrize("top", [0.02, 0.3, 0.9])
def test_ranks_at_other_steps_and_sizes(three_chromosomes, tmp_path, monkeypatch, top, sizes):
    for name, size in sizes.items():
        monkeypatch.setattr(f"r2mae_dna.data.conservation.{name}", size)
    store, tracks, values = three_chromosomes
    prepare(Prepare(store, out=tmp_path / "w", step=37, top=top, rest=0.0, **tracks))
    kept, expected = places_of(tmp_path / "w"), by_brute_force(values, top, 37)
    if top < 0.5:
        assert len(kept) == np.ceil(top * 5181)
        assert len(kept ^ expected) <= 1  # two of one score, but for rounding
        return
    assert kept == {place for place in expected if place[0] != "chrUn_1"}  # fewer have a rank than are wanted


def test_of_ties_as_many_as_needed_are_kept_evenly(three_chromosomes, tmp_path):
    store, tracks, _ = three_chromosomes
    prepare(Prepare(store, out=tmp_path / "w", top=0.5, rest=0.0, **tracks))
    kept = places_of(tmp_path / "w")
    on_two = sorted(start for name, start in kept if name == "chr2")
    assert len(kept) == 1499  # half of 2,997, rounded up
    assert len(on_two) == 500  # all of chr1 rank above the zeros of chr2
    assert np.bincount(np.array(on_two) // 16_000).tolist() == pytest.approx([125] * 4, abs=8)


def test_a_window_of_mostly_unknown_bases_has_no_rank():
    values = np.array([[1, np.nan, np.nan, np.nan], [1, 0, np.nan, np.nan], [0, 1, 2, 3]], np.float32)
    found = known_quantile(values, 0.75)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [0.75, 2.25]
    random = np.random.default_rng(0).random((50, 13)).astype(np.float32)
    for quantile in (0.0, 0.3, 0.75, 1.0):
        assert np.allclose(known_quantile(random, quantile), np.quantile(random, quantile, axis=1), atol=1e-7)


def test_a_few_of_the_other_windows_are_kept_by_chance(three_chromosomes, tmp_path):
    store, tracks, _ = three_chromosomes
    prepare(Prepare(store, out=tmp_path / "w", step=16, top=0.05, rest=0.1, **tracks))
    kept = places_of(tmp_path / "w")
    others = sum(name == "chrUn_1" for name, _ in kept)
    assert 320 < others < 480  # within five standard deviations of a tenth of 3,993
    prepare(Prepare(store, out=tmp_path / "again", step=16, top=0.05, rest=0.1, test_regions="chr1", **tracks))
    assert places_of(tmp_path / "again") | places_of(tmp_path / "again", "test") == kept


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
