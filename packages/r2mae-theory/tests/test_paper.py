"""`reproduce`: the paper's figures and tables, and how an interrupted run continues."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from r2mae_core import read_records, recipes
from r2mae_theory import covariance, options, simulate_risk
from r2mae_theory.cli import COMMANDS, main
from r2mae_theory.experiment import Size
from r2mae_theory.paper import EXPERIMENTS, FIGURES, reproduce, run_experiment
from r2mae_theory.scenes import random_unit
from r2mae_theory.tables import TABLES


def run_cli(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


SMALL = Size(ratios=(0.2, 0.6), repeats=2, table_seeds=(2,))


@pytest.mark.parametrize("name", ["fig1a", "fig1b", "fig1c", "fig1d", "fig1f", "fig1g"])
def test_figures_have_finite_records_and_panels(name):
    outcome = run_experiment(name, SMALL)
    assert outcome.panels
    assert outcome.records
    assert all(np.isfinite(record.value) for record in outcome.records)
    assert len({(r.task, r.metric, r.scheme, r.seed) for r in outcome.records}) == len(outcome.records)
    for row in outcome.rows:
        assert all(np.isfinite(v) for v in row.values() if isinstance(v, float))


def test_figure_1f_follows_c2():
    outcome = run_experiment("fig1f", SMALL)
    for task in ("MNLI", "SST-2"):
        value = {r["ratio"]: r["transformed"] for r in outcome.rows if r["task"] == task}
        assert (value[0.8] - value[0.4]) / 0.4 == pytest.approx(1)  # one slope for all
        assert value[0.15] - (value[0.3] - value[0.15]) == pytest.approx(0)  # extrapolated to no mask at all


def test_tables_resume_and_print_the_papers_rows(tmp_path, monkeypatch):
    first = run_experiment("table5", SMALL, tmp_path)
    assert [r["paper r2mae"] for r in first.rows] == [0.504, 0.599]
    assert [r.paper for r in first.records if (r.metric, r.scheme) == ("simulated_risk", "r2mae")] == [0.504, 0.599]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("r2mae_theory.tables._row", lambda *_: pytest.fail("a finished row was run again"))
    assert run_experiment("table5", SMALL, tmp_path).rows == first.rows
    assert all(float(r["theory stated"]) > float(r["theory mid"]) > float(r["theory min"]) for r in first.rows)


def test_reproduce_resumes_and_gathers_what_is_done(tmp_path, capsys, monkeypatch):
    few = ("--repeats", 2, "--step", 0.4, "--out", tmp_path / "o")
    assert run_cli("reproduce", "fig1f", *few) == 0
    assert run_cli("reproduce", "fig1a", *few) == 0
    told = capsys.readouterr().out
    assert re.search(r"\[1/1\] fig1f: \d+ s", told)
    done, page = told.splitlines()[-2:]
    assert done == f"Done: {tmp_path / 'o'} (results.json, fig1a.md)"
    assert page.endswith(f"r2mae-theory report {tmp_path / 'o'}")
    assert {r.task for r in read_records(tmp_path / "o")} >= {"mnli", "1A: isotropic, γ = 2, n = 200"}
    assert (tmp_path / "o" / "fig1a.md").read_text(encoding="utf-8").startswith("## fig1a\n\n| panel |")
    assert (tmp_path / "o" / "figures" / "fig1f.png").is_file()
    before = read_records(tmp_path / "o")
    monkeypatch.setattr("r2mae_theory.paper.run_experiment", lambda *_: pytest.fail("done before"))
    assert run_cli("reproduce", "fig1a", *few) == 0
    assert "[1/1] fig1a: done before" in capsys.readouterr().out
    assert read_records(tmp_path / "o") == before


def test_dry_run_counts_what_is_simulated(tmp_path, capsys):
    assert run_cli("reproduce", "all", "-c", "small", "--dry-run", "--out", tmp_path / "o") == 0
    told = capsys.readouterr().out
    assert "fig1b      45 means of 8 training sets" in told
    assert "table5    128 means of 8" in told
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["fig1a", "fig1b", "fig1g"])
def test_counts_of_curves(name):
    assert len({r.task for r in run_experiment(name, SMALL).records}) == FIGURES[name].n_curves


def test_recipes_hold_options():
    for verb, command in COMMANDS.items():
        for path in recipes("r2mae_theory", verb).values():
            known = {f.name for f in fields(command.config)}
            assert set(yaml.safe_load(Path(path).read_text(encoding="utf-8"))) < known
    assert set(recipes("r2mae_theory", "reproduce")) == {"small"}
    assert reproduce(options.Reproduce("fig1f", dry_run=True)) is None
    assert set(EXPERIMENTS) >= {"fig3", "table9"}


def test_figure_1a_is_simulated_with_a_seed_per_ratio_and_its_minima_are_reported():
    outcome = run_experiment("fig1a", replace(SMALL, seed=3))
    first, second = outcome.rows[:2]
    for j, (ratio, row) in enumerate(((0.2, first), (0.6, second))):
        cov = covariance.isotropic(400)
        direct = simulate_risk(cov, random_unit(400, 3), 0.5, 200, ratio, 2, seed=3 + j)
        assert (row["simulated"], row["sd"]) == (direct.normalized, direct.sd / direct.null)
        assert row["magnitude"] == direct.magnitude / direct.null
    line = outcome.table[0]
    for prefix, key in (("theory", "risk/null"), ("simulated", "simulated risk/null")):
        best = min(first, second, key=lambda row: row[prefix])
        assert (line[f"best ratio ({prefix})"], line[key]) == (best["ratio"], best[prefix])


def test_any_seed_has_a_row_in_the_tables():
    """The paper's dots are at their own rows; the least risk and its ratio are those of the fixed ratios."""
    outcome = run_experiment("table9", replace(SMALL, table_seeds=(3, 22)))
    assert [panel.series[0].x for panel in outcome.panels] == [[1], [1]]
    assert [panel.series[0].y for panel in outcome.panels] == [
        pytest.approx([100 * (r2mae / least - 1)])
        for _, least, _, r2mae in (TABLES["table9"].printed[name][22] for name in ("beta", "latent"))
    ]
    for row in outcome.rows:
        assert row["theory min"] <= row["theory mid"]
        assert row["min"] <= row["mid"]
    assert (
        "paper, R2MAE: below the best fixed ratio in 1 of 2 rows (+1.3 %), below the midpoint of its range in 2 of 2"
        in outcome.remark
    )
    assert "theory, R2MAE stated: below the best fixed ratio in 0 of 4 rows" in outcome.remark
