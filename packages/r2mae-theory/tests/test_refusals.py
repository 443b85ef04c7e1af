"""What the commands refuse, and what they say beside a number that may mislead."""

import json

import numpy as np
import pytest

from r2mae_core import UserError
from r2mae_theory.cli import main
from r2mae_theory.experiment import Size
from r2mae_theory.tables import reproduce_table


def run_cli(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


def records(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["records"]


def test_advise_says_at_which_n_it_validates(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 5)).cumsum(axis=1))
    few = ("advise", tmp_path / "x.npy", "--bootstrap", 0, "--step", 0.2, "--validate")
    assert run_cli(*few, "--out", tmp_path / "all") == 0
    told = capsys.readouterr().out
    assert "validated at n = 32, not at the planned 40: of 40 rows 8 are held out" in told
    assert "held-out rows, at n = 32: least error" in told
    tasks = {r["metric"]: (r["task"], r["n"]) for r in records(tmp_path / "all")}
    assert tasks == {"predicted_risk": ("x", 40), "error": ("x, n = 32", 8), "predicted_error": ("x, n = 32", 32)}
    assert run_cli(*few, "--n-samples", 30, "--out", tmp_path / "some") == 0
    assert "validated at" not in capsys.readouterr().out
    tasks = {r["metric"]: (r["task"], r["n"]) for r in records(tmp_path / "some")}
    assert tasks == {"predicted_risk": ("x", 30), "error": ("x", 10), "predicted_error": ("x", 30)}


def test_advise_goes_by_the_content_of_the_table(tmp_path, capsys):
    data = np.random.default_rng(0).standard_normal((40, 5)).cumsum(axis=1)
    np.save(tmp_path / "x.npy", data)
    few = ("advise", tmp_path / "x.npy", "--bootstrap", 0, "--step", 0.2, "--out", tmp_path / "o")
    assert run_cli(*few) == 0
    np.save(tmp_path / "x.npy", data[:30])
    assert run_cli(*few) == 1
    assert "x.npy was" in capsys.readouterr().err


def test_a_table_in_the_run_folder_is_never_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(0).standard_normal((40, 5)).cumsum(axis=1)
    np.savetxt("curve.csv", data, delimiter=",")
    assert run_cli("advise", "curve.csv", "--bootstrap", 0, "--step", 0.2, "--out", "o") == 0
    np.savetxt("o/curve.csv", data + 1, delimiter=",")
    before = (tmp_path / "o" / "curve.csv").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "o")
    for there, out in (("o", "."), (".", "o"), (".", "link")):
        monkeypatch.chdir(tmp_path / there)
        table = "curve.csv" if there == "o" else "o/curve.csv"
        assert run_cli("advise", table, "--bootstrap", 0, "--step", 0.2, "--out", out) == 1
        assert "lies in the run folder" in capsys.readouterr().err
    assert (tmp_path / "o" / "curve.csv").read_bytes() == before


def test_a_minimum_at_the_end_of_the_grid_is_said(tmp_path, capsys):
    ends = ("risk", "--p", 40, "--n", 20, "--step", 0.1)
    for name, bounds, word in (("a", (0.4, 0.6), "--low"), ("b", (0.05, 0.15), "--high"), ("c", (0.05, 0.95), None)):
        assert run_cli(*ends, "--low", bounds[0], "--high", bounds[1], "--out", tmp_path / name) == 0
        told = capsys.readouterr().out
        assert ("end of the grid" in told) == (word is not None)
        assert word is None or f"see {word}" in told


BAD_OPTIONS = {
    "risk": ["p=0", "p=1", "p=99999999999", "n=0", "n=-1", "sigma=-1", "sigma=.nan", "strength=.nan", "strength=1e300",
             "strength=-5", "rank=-1", "alignment=.nan", "quantile=-1", "low=0", "high=1", "high=0.01", "step=0",
             "step=1e-20", "width=.nan", "width=2", "seed=-1", "covariance=uniform --p=10000000"],
    "simulate": ["repeats=1", "repeats=100000000000000000000", "workers=0", "workers=100000000000000000000",
                 "n=100000000000", "seed=-1"],
    "demo": ["repeats=0", "seed=-1"],
    "reproduce fig1f": ["repeats=0", "step=0", "step=.nan", "workers=-1", "seeds=[]", "seeds=[-1]", "seed=-1"],
    "advise x.npy": ["n_samples=0", "n_samples=100000000000000000000", "step=0", "step=.nan", "targets=[]",
                     "targets=[9]", "targets=[-1]", "targets=[1,1]", "shrinkage=2", "shrinkage=.nan", "bootstrap=-1",
                     "bootstrap=100000000000000000000", "seed=-1"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, options in BAD_OPTIONS.items() for option in options]
)
def test_a_bad_option_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, command, option):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).standard_normal((40, 5)).cumsum(axis=1))
    assert run_cli(*command.split(), *f"--{option}".split(), "--out", "o") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fault" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"best": 1.0}', b"{"])
def test_a_damaged_row_of_a_table_is_named(tmp_path, content):
    (tmp_path / "beta-2.json").write_bytes(content)
    with pytest.raises(UserError, match=r"beta-2\.json"):
        reproduce_table("table5", Size((0.5,), 2, (2,)), tmp_path)
