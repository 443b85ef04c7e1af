"""The command: what it prints and writes, and how it fails."""

import json
import subprocess
import sys

import numpy as np
import pytest

from r2mae_theory.cli import main
from r2mae_theory.experiment import QUICK, Size
from r2mae_theory.output import text_table, write_atomically
from r2mae_theory.paper import EXPERIMENTS, reproduce
from r2mae_theory.tables import TABLES


def run_cli(*arguments):
    return main([str(a) for a in arguments])


def records(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["records"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom r2mae_theory.cli import main\n"
        "try:\n    main(['risk', '--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'torch'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--sigma" in done.stdout


def test_public_names_resolve():
    import r2mae_theory

    for name in r2mae_theory.__all__:
        assert getattr(r2mae_theory, name) is not None
    with pytest.raises(AttributeError):
        _ = r2mae_theory.nothing


def test_risk_writes_table_figure_and_config(tmp_path, capsys):
    assert run_cli("risk", "--p", 60, "--n", 30, "--step", 0.1, "--out", tmp_path / "a") == 0
    rows = records(tmp_path / "a")
    assert len(rows) == 10
    assert rows[0]["risk"] == pytest.approx(rows[0]["bias"] + rows[0]["variance"])
    for ending in ("png", "pdf"):
        assert (tmp_path / "a" / "figures" / f"curve.{ending}").stat().st_size > 1000
    assert "least predicted risk" in capsys.readouterr().out
    # The written configuration can be passed back.
    assert run_cli("risk", "-c", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b") == 0
    assert records(tmp_path / "b") == rows


@pytest.mark.parametrize("name", ["isotropic", "uniform", "beta", "latent", "block"])
def test_every_covariance_and_ranges(tmp_path, name):
    code = run_cli(
        "risk",
        "--covariance",
        name,
        "--p",
        50,
        "--n",
        25,
        "--rank",
        5,
        "--width",
        0.2,
        "--step",
        0.2,
        "--out",
        tmp_path,
    )
    assert code == 0
    assert all(row["risk"] > 0 for row in records(tmp_path))


def test_an_infinite_risk_is_null_in_json_and_explained(tmp_path, capsys):
    assert run_cli("risk", "--p", 50, "--n", 100, "--step", 0.25, "--low", 0.25, "--high", 0.75, "--out", tmp_path) == 0
    assert [row["risk"] is None for row in records(tmp_path)] == [False, True, False]
    assert "threshold" in capsys.readouterr().out


def test_simulate_stands_beside_theory(tmp_path):
    code = run_cli("simulate", "--p", 200, "--n", 100, "--step", 0.3, "--repeats", 30, "--high", 0.7, "--out", tmp_path)
    assert code == 0
    for row in records(tmp_path):
        assert row["simulated"] == pytest.approx(row["risk"], abs=4 * row["sem"] + 0.1 * row["risk"])


def test_advise(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(
        tmp_path / "x.npy",
        rng.standard_normal((200, 3)) @ rng.standard_normal((3, 12)) + rng.standard_normal((200, 12)),
    )
    assert run_cli("advise", tmp_path / "x.npy", "--validate", "--n-samples", 20, "--out", tmp_path / "o") == 0
    told = capsys.readouterr().out
    assert "recommended ratio" in told
    assert "held-out rows" in told
    content = json.loads((tmp_path / "o" / "results.json").read_text(encoding="utf-8"))
    assert content["advice"]["n_samples"] == 20
    assert len(content["records"]) == 19


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("advise", "nowhere.csv"), "no file"),
        (("risk", "--alignment", 2), "alignment"),
        (("risk", "--low", 0), "ratios"),
        (("simulate", "--repeats", 1), "repeats"),
    ],
)
def test_failures_exit_with_1_and_one_line(arguments, word, capsys, tmp_path):
    assert run_cli(*arguments, "--out", tmp_path / "o") == 1
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("arguments", [(), ("dance",), ("risk", "--p", "many"), ("reproduce", "fig9"), ("advise",)])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        run_cli(*arguments)
    assert stop.value.code == 2


SMALL = Size(ratios=(0.2, 0.6), repeats=2, table_seeds=(2,), table_repeats=2)


@pytest.mark.parametrize("name", ["fig1a", "fig1b", "fig1c", "fig1d", "fig1f", "fig1g"])
def test_figures_have_finite_records_and_panels(name):
    outcome = reproduce(name, SMALL)
    assert outcome.panels
    for record in outcome.records:
        assert all(np.isfinite(v) for v in record.values() if isinstance(v, float))


def test_figure_1f_follows_c2():
    outcome = reproduce("fig1f", SMALL)
    for task in ("MNLI", "SST-2"):
        value = {r["ratio"]: r["transformed"] for r in outcome.records if r["task"] == task}
        assert (value[0.8] - value[0.4]) / 0.4 == pytest.approx(1)  # one slope for all
        assert value[0.15] - (value[0.3] - value[0.15]) == pytest.approx(0)  # extrapolated to no mask at all


def test_tables_resume_and_print_the_papers_rows(tmp_path, monkeypatch):
    first = reproduce("table5", SMALL, tmp_path)
    assert [r["paper r2mae"] for r in first.records] == [0.504, 0.599]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("r2mae_theory.tables._row", lambda *_: pytest.fail("a finished row was run again"))
    assert reproduce("table5", SMALL, tmp_path).records == first.records
    assert all(float(r["theory r2mae"]) > float(r["theory min"]) for r in first.records)


def test_reproduce_command_writes_everything(tmp_path):
    assert run_cli("reproduce", "fig1f", "--quick", "true", "--out", tmp_path) == 0
    assert {r["experiment"] for r in records(tmp_path)} == {"fig1f"}
    assert (tmp_path / "figures" / "fig1f.png").is_file()
    assert set(EXPERIMENTS) >= set(TABLES)
    assert QUICK.repeats < Size().repeats


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "x.json"
    target.write_text("old")

    def fail(path):
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert text_table([{"a": 1, "b": None}, {"a": 2.5}]).splitlines()[1].split() == ["1", "-"]


def test_switches_and_dashes_read_as_in_the_other_packages():
    from r2mae_theory.arguments import with_plain_flags
    from r2mae_theory.cli import COMMANDS

    words = ["advise", "x.npy", "--validate", "--n-samples=20", "--no-validate", "--validate", "false"]
    assert with_plain_flags(COMMANDS, words) == [
        "advise", "x.npy", "--validate=true", "--n_samples=20", "--validate=false", "--validate", "false",
    ]  # fmt: skip
