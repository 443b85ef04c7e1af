"""The page of an advice: its curve is that of results.json, and its ranges lie where they are."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="the extra `report` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from page_reader import charts, points, read_page
from r2mae_theory.cli import main


def test_report_of_an_advice(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((60, 3)) @ rng.standard_normal((3, 8)))
    advised = ["advise", tmp_path / "x.npy", "--step", 0.2, "--bootstrap", 0, "--out", tmp_path / "run"]
    for words in (advised, ["report", tmp_path / "run"]):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert stop.value.code == 0, capsys.readouterr().err
    chart = charts(read_page(tmp_path / "run" / "report.html"))["Predicted risk by mask ratio of the pretraining"]
    records = json.loads((tmp_path / "run" / "results.json").read_text())["records"]
    risks = {r["scheme"]: r["value"] for r in records if r["metric"] == "predicted_risk"}
    fixed = [(float(name.split()[1]), risk) for name, risk in risks.items() if name.startswith("fixed")]
    drawn = points(chart)
    assert [(x, y) for scheme, _, x, y in drawn if scheme == "fixed ratio"] == sorted(fixed)
    ranges = {scheme: (x, y) for scheme, _, x, y in drawn if scheme != "fixed ratio"}
    middles = {name: np.mean(json.loads(name[7:].replace("(", "[").replace(")", "]"))) for name in ranges}
    assert ranges == {name: (pytest.approx(middles[name]), risks[name]) for name in risks if name in ranges}
    assert len(ranges) == len(risks) - len(fixed) > 0
