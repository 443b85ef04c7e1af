"""The command: what it prints and writes, and how it fails."""

import csv
import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import yaml

from r2mae_core import RunFolder, compare, read_records
from r2mae_theory.cli import COMMANDS, main
from r2mae_theory.rows import markdown_table, number, text_table, write_rows


def run_cli(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


def records(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["records"]


def points(folder, name="curve"):
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        return [
            {key: float(value) if value.replace(".", "").isdigit() else value for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


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
    rows = points(tmp_path / "a")
    assert len(rows) == len(records(tmp_path / "a")) == 10
    assert rows[0]["risk"] == pytest.approx(rows[0]["bias"] + rows[0]["variance"])
    first = records(tmp_path / "a")[0]
    assert set(first) == {
        "task", "metric", "value", "scheme", "seed", "n", "split", "seconds", "device", "git", "paper",
    }  # fmt: skip
    assert (first["task"], first["metric"], first["scheme"], first["n"]) == (
        "spiked",
        "predicted_risk",
        "fixed 0.05",
        30,
    )
    assert first["value"] == rows[0]["risk/null"]
    assert {"python", "platform", "git", "argv", "packages", "sha256", "started"} == set(
        json.loads((tmp_path / "a" / "versions.json").read_text(encoding="utf-8"))
    )
    for ending in ("png", "pdf"):
        assert (tmp_path / "a" / "figures" / f"curve.{ending}").stat().st_size > 1000
    told = capsys.readouterr().out
    assert "least predicted risk" in told
    assert told.endswith(
        f"Figure: {tmp_path / 'a' / 'figures' / 'curve.png'}\nDone: {tmp_path / 'a'} (results.json, curve.csv)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "results"),
    [
        (("risk", "--p", 40, "--n", 20, "--step", 0.2, "--width", 0.2), "curve.csv"),
        (("simulate", "--p", 30, "--n", 20, "--step", 0.3, "--repeats", 3), "curve.csv"),
        (("demo", "--repeats", 2), "curves.csv"),
        (("advise", "x.npy", "--bootstrap", 1, "--targets", "[0, 2]", "--step", 0.2), "advice.json"),
        (("reproduce", "fig1f", "--no-progress"), "fig1f/curves.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_config_yaml_replays(tmp_path, monkeypatch, arguments, results):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).standard_normal((40, 5)).cumsum(axis=1))
    assert run_cli(*arguments, "--out", "a") == 0
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text(encoding="utf-8"))
    assert set(config) == {f.name for f in fields(COMMANDS[arguments[0]].config)} - {"out", "dry_run"}
    assert run_cli(arguments[0], "-c", "a/config.yaml", "--out", "b") == 0
    assert records(tmp_path / "b") == records(tmp_path / "a")
    assert (tmp_path / "b" / results).read_bytes() == (tmp_path / "a" / results).read_bytes()
    assert (tmp_path / "b" / "config.yaml").read_bytes() == (tmp_path / "a" / "config.yaml").read_bytes()


def test_the_default_folder_and_a_folder_of_something_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_cli("risk", "--p", 40, "--n", 20, "--step", 0.3) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("r2mae-theory-risk-")
    assert run_cli("risk", "--p", 50, "--n", 20, "--step", 0.3, "--out", made) == 1
    assert "p is 40 there and 50 here" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert run_cli("risk", "--out", tmp_path / "other") == 1
    assert "no config.yaml" in capsys.readouterr().err


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
    assert all(record["value"] > 0 for record in records(tmp_path))
    assert [record["scheme"] for record in records(tmp_path)][:2] == ["Uniform(0.15, 0.35)", "Uniform(0.35, 0.55)"]


def test_an_infinite_risk_is_a_null_record_and_explained(tmp_path, capsys):
    assert run_cli("risk", "--p", 50, "--n", 100, "--step", 0.25, "--low", 0.25, "--high", 0.75, "--out", tmp_path) == 0
    assert [row["risk"] == "inf" for row in points(tmp_path)] == [False, True, False]
    assert [record["value"] is None for record in records(tmp_path)] == [False, True, False]
    told = capsys.readouterr().out
    assert "threshold" in told
    assert " inf " in told
    # The other packages' `compare` shows a dash, and reading it back writes the same again.
    again = read_records(tmp_path)
    assert [row[:2] for row in compare(again).rows()][1] == ["fixed 0.5", "-"]
    RunFolder.open(tmp_path).write_results(again)
    assert records(tmp_path)[1]["value"] is None


def test_simulate_agrees_with_theory(tmp_path):
    code = run_cli("simulate", "--p", 200, "--n", 100, "--step", 0.3, "--repeats", 30, "--high", 0.7, "--out", tmp_path)
    assert code == 0
    assert {record["metric"] for record in records(tmp_path)} == {"predicted_risk", "simulated_risk"}
    for row in points(tmp_path):
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
    advice = json.loads((tmp_path / "o" / "advice.json").read_text(encoding="utf-8"))
    assert advice["n_samples"] == 20
    assert len(points(tmp_path / "o")) == 19
    by_metric = {
        name: [r for r in records(tmp_path / "o") if r["metric"] == name] for name in ("predicted_risk", "error")
    }
    assert [r["value"] for r in by_metric["predicted_risk"]] == [
        *advice["curve"],
        *advice["range_curve"],
    ]
    assert [r["value"] for r in by_metric["error"]] == advice["validation"]["measured"]
    assert {(r["task"], r["n"]) for r in by_metric["error"]} == {("x", 100)}


def test_advise_prints_its_notes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((20, 30)) + rng.standard_normal((20, 1)))
    assert run_cli("advise", tmp_path / "x.npy", "--bootstrap", 0, "--out", tmp_path / "o") == 0
    assert "no more samples than features (20 and 30)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("advise", "nowhere.csv"), "no such file"),
        (("advise", "x.npy", "--step", 0.3), "--step"),
        (("risk", "--alignment", 2), "alignment"),
        (("risk", "--low", 0), "--low"),
        (("simulate", "--repeats", 1), "repeats"),
        (("simulate", "--workers", 0), "workers"),
        (("reproduce", "fig1a", "--step", 1), "step"),
        (("reproduce", "table5", "--seeds", "[2, 2]"), "seeds must be different"),
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
    assert run_cli(*arguments) == 2


def test_version(capsys):
    from r2mae_theory import __version__

    assert run_cli("--version") == 0
    assert capsys.readouterr().out == f"r2mae-theory {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("reproduce", "table5", "--n_seeds", 1), "--n_seeds is now written --seeds '[2, 12]'"),
        (("reproduce", "table5", "-c", "old.yaml"), "old.yaml has n_seeds, which is now written --seeds"),
        (("advise", "--file", "x.npy"), "--file is now written DATA"),
    ],
)
def test_old_names_answer_with_the_new_ones(tmp_path, monkeypatch, capsys, arguments, answer):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text("n_seeds: 1\n", encoding="utf-8")
    assert run_cli(*arguments) == 2
    assert answer in capsys.readouterr().err


def test_a_run_resumes_with_the_same_options_only(tmp_path, capsys):
    few = ("simulate", "--p", 30, "--n", 20, "--step", 0.4, "--repeats", 2, "--out", tmp_path)
    assert run_cli(*few) == 0
    before = records(tmp_path)
    assert run_cli(*few, "--seed", 1) == 1
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    assert run_cli(*few, "--workers", 2) == 0  # changes no number
    assert records(tmp_path) == before


def test_rows_as_text_markdown_and_csv(tmp_path):
    rows = [{"a": 1, "b": None}, {"a": 2.5}, {"a": float("nan"), "b": float("inf")}]
    assert text_table(rows).splitlines()[1].split() == ["1", "-"]
    assert markdown_table(rows).splitlines() == [
        "| a | b |", "| --- | --- |", "| 1 | - |", "| 2.5 | - |", "| - | inf |",
    ]  # fmt: skip
    write_rows(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8") == "a,b\n1,\n2.5,\nnan,inf\n"
    assert np.isnan(number(None))
    assert number(0) == 0


def test_commands_need_neither_torch_nor_lightning(tmp_path):
    code = (
        "import sys\nfrom r2mae_theory.cli import main\n"
        f"try:\n    main(['reproduce', 'fig1f', '--out', {str(tmp_path / 'o')!r}])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'lightning', 'tqdm', 'r2mae_core.train', 'r2mae_core.mask'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
