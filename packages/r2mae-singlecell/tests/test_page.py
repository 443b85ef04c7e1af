"""The page of a run: a UMAP of its cells, and code that loads the model; `report` of an embedding stays what it was."""

import sys
from dataclasses import replace
from pathlib import Path

import anndata
import pytest

pytest.importorskip("bokeh", reason="the extra `report` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from page_reader import read_page
from r2mae_core import UserError, run_summary
from r2mae_singlecell.cli import names_runs_alone
from r2mae_singlecell.page import umap


def test_report_of_a_run(here, call, monkeypatch):
    monkeypatch.setattr("r2mae_singlecell.page.two_dimensions", lambda z, _: z[:, :2])  # scanpy's, tested elsewhere
    code, _, err = call("report", "run")
    assert (code, err) == (0, "")
    page = read_page(here / "run" / "report.html")
    assert len(page.all("img")) == 1
    n = f"{anndata.read_h5ad('p.h5ad').n_obs:,}"
    assert f"UMAP of the embedding of {n} of {n} cells, by cell_type" in page.whole_text
    found = {}
    exec(page.all("code")[-1].whole_text, found)
    assert found["model"].module.n_latent == 6


def test_other_cells_are_refused(here):
    summary = run_summary("run")
    with pytest.raises(UserError, match="holds other cells"):
        umap(replace(summary, sources={"DATA": "others"}))
    with pytest.raises(UserError, match="gone is not there"):
        umap(replace(summary, data="gone"))
    assert umap(replace(summary, path=here)) == []


def test_which_report_is_meant(here):
    assert names_runs_alone(["run"])
    assert names_runs_alone(["run", "run", "--out", "page.html", "--no-examples"])
    assert not names_runs_alone(["run", "p.h5ad"])
    assert not names_runs_alone(["e.h5ad", "p.h5ad", "--key", "run"])
    assert not names_runs_alone(["--columns", "run"])
    assert not names_runs_alone(["--help"])
