from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from r2mae_core import UserError
from r2mae_dna.data.codes import SOFT_MASK, TOKEN_BITS
from r2mae_dna.data.window_table import prepare_table
from r2mae_dna.data.windows import WindowSet, read_info
from r2mae_dna.options import PrepareTable, Pretrain

L = 16


def table(path, starts, chromosome="chr7", strands=("+", "-"), seed=0, **changes):
    """Write windows as songlab/gpn-msa-sapiens-dataset is laid out: each on both strands, shuffled."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "chrom": chromosome, "start": start, "end": start + L, "strand": strand,
            "phyloP": rng.normal(size=L).tolist(), "phastCons": rng.random(L).tolist(),
            "lowercase": (rng.random(L) < 0.3).tolist(),
        }
        for start, strand in product(starts, strands)
    ]  # fmt: skip
    frame = pl.DataFrame(rows).sample(fraction=1.0, shuffle=True, seed=1).with_columns(**changes)
    frame.write_parquet(path)
    return frame


def test_windows_hold_the_stores_letters_and_the_tables_values(toy, tmp_path, monkeypatch):
    import r2mae_dna.data.window_table as module

    monkeypatch.setattr(module, "CHUNK", 3)  # several chunks of rows
    store, codes = toy
    frames = {
        "train": table(tmp_path / "t.parquet", range(0, 160, 8)),
        "validation": table(tmp_path / "v.parquet", [260]),
    }
    out = prepare_table(PrepareTable(store, tmp_path / "t.parquet", tmp_path / "v.parquet", out=tmp_path / "w"))
    for split, frame in frames.items():
        windows = WindowSet(out, split)
        forward = frame.filter(pl.col("strand") == "+")
        assert windows.starts.tolist() == sorted(forward["start"].to_list())
        for i, start in enumerate(windows.starts.tolist()):
            (row,) = forward.filter(pl.col("start") == start).rows(named=True)
            expected = codes[start : start + L] & TOKEN_BITS
            expected[:, 0] |= np.array(row["lowercase"], np.uint8) * SOFT_MASK
            assert (windows.codes[i] == expected).all()
            tracks = np.array([row["phastCons"], row["phyloP"]]).astype(np.float16)
            assert (windows.conservation[i] == tracks).all()
    info = read_info(out)
    assert (info.window, info.counts, info.left_out) == (L, {"train": 20, "validation": 1, "test": 0}, {})
    assert prepare_table(PrepareTable(store, tmp_path / "t.parquet", tmp_path / "v.parquet", out=out)) == out
    table(tmp_path / "t.parquet", range(0, 80, 8))
    with pytest.raises(UserError, match="made"):
        prepare_table(PrepareTable(store, tmp_path / "t.parquet", tmp_path / "v.parquet", out=out))


def test_what_cannot_be_used_is_counted(toy, tmp_path):
    frames = [
        table(tmp_path / "a.parquet", [0, 40, 195]),  # N at 200
        table(tmp_path / "b.parquet", [60], strands=("-",)),
        table(tmp_path / "c.parquet", [0], "chrUn", seed=3),
        table(tmp_path / "d.parquet", [40], strands=("+",), seed=4),
    ]
    pl.concat(frames).write_parquet(tmp_path / "t.parquet")
    info = read_info(prepare_table(PrepareTable(toy[0], tmp_path / "t.parquet", out=tmp_path / "w")))
    assert info.counts["train"] == 2
    assert info.left_out == {
        "on chromosomes that the store lacks (chrUn)": 2, "repeated": 1, "on the - strand alone": 1,
        "with bases that the store does not define": 1,
    }  # fmt: skip


def test_unknown_values_count_for_nothing(toy, tmp_path):
    values = [[float("nan"), None, *[0.5] * (L - 2)]]
    lists = {name: pl.Series(values * 2, dtype=pl.List(pl.Float64)) for name in ("phyloP", "phastCons")}
    table(tmp_path / "t.parquet", [0], **lists)
    windows = WindowSet(prepare_table(PrepareTable(toy[0], tmp_path / "t.parquet", out=tmp_path / "w")))
    assert windows.conservation[0, :, :3].tolist() == [[0.0, 0.0, 0.5], [1.0, 1.0, 0.5]]


def test_the_command_and_a_training_on_its_windows(toy, tmp_path, call):
    from r2mae_dna.pretrain import pretrain

    table(tmp_path / "t.parquet", range(0, 160, 8))
    code, out, _ = call("prepare-table", toy[0], tmp_path / "t.parquet", "--out", tmp_path / "w")
    assert code == 0
    assert "20 train windows of 16 bases × 3 species" in out
    run = pretrain(Pretrain(
        tmp_path / "w", n_hidden=32, n_layers=1, n_heads=2, steps=2, batch_size=8, device="cpu", progress=False,
        out=Path("run"),
    ))  # fmt: skip
    assert (run.path / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": pl.col("start") + 300}, "which has 300 bases; wrong genome build?"),
        ({"start": pl.lit(-1), "end": pl.lit(15)}, "chr7:-1-15 is not on the chromosome"),
        ({"strand": pl.lit("x")}, "a strand is + or -, got 'x'"),
        ({"end": pl.when(pl.col("start") == 8).then(9).otherwise(pl.col("end"))}, "all must have the same number"),
        ({"phyloP": pl.lit(1.0)}, "phyloP holds Float64 instead of lists"),
        ({"lowercase": pl.col("lowercase").list.head(5)}, "lowercase has 5 entries for 16 bases"),
        ({"phyloP": pl.col("phyloP").list.eval(pl.element() * 1e9)}, "phyloP or phastCons is out of all bounds"),
        (
            {"phastCons": pl.col("phyloP").list.eval(pl.element() * 0 - 0.5)},
            "row 2: a phastCons is not between 0 and 1",
        ),
        ({"chrom": pl.lit("chr9")}, "no window is left of 4 rows (4 on chromosomes that the store lacks (chr9))"),
        ({"strand": pl.lit(None, dtype=pl.String)}, "rows without chrom, start, end, strand"),
    ],
)
def test_a_table_that_cannot_be_is_refused(toy, tmp_path, change, message):
    table(tmp_path / "t.parquet", [0, 8], **change)
    with pytest.raises(UserError) as error:
        prepare_table(PrepareTable(toy[0], tmp_path / "t.parquet", out=tmp_path / "w"))
    assert message in str(error.value)
    assert not (tmp_path / "w").exists()


def test_other_files_and_splits_that_overlap_are_refused(toy, tmp_path):
    table(tmp_path / "t.parquet", [0, 40, 100])
    table(tmp_path / "v.parquet", [115, 150])
    with pytest.raises(UserError, match=r"overlap: 1 of the validation windows, such as 7:116, share bases with train"):
        prepare_table(PrepareTable(toy[0], tmp_path / "t.parquet", tmp_path / "v.parquet", out=tmp_path / "w"))
    table(tmp_path / "v.parquet", [116, 150])
    assert prepare_table(PrepareTable(toy[0], tmp_path / "t.parquet", tmp_path / "v.parquet", out=tmp_path / "w"))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cut\.parquet cannot be read"):
        prepare_table(PrepareTable(toy[0], tmp_path / "cut.parquet", out=tmp_path / "x"))
    pl.DataFrame({"chrom": ["7"]}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="has no column start, end, strand, phyloP"):
        prepare_table(PrepareTable(toy[0], tmp_path / "c.parquet", out=tmp_path / "x"))
