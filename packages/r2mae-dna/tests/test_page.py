"""The page of a run: what the model expects in held-out windows, and code that loads the model."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("bokeh", reason="the extra `report` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from page_reader import read_page
from r2mae_core import UserError, run_summary
from r2mae_dna import WindowSet, load_model
from r2mae_dna.options import Pretrain
from r2mae_dna.page import logos
from r2mae_dna.pretrain import pretrain


@pytest.fixture(scope="module")
def run(apes, tmp_path_factory):
    size = {"n_hidden": 32, "n_layers": 2, "n_heads": 2, "max_windows": 16, "batch_size": 8, "steps": 2}
    out = tmp_path_factory.mktemp("page") / "run"
    return pretrain(Pretrain(apes[1], out=out, device="cpu", progress=False, log_every=1, **size)).path


def test_the_logo_is_what_the_model_expects_of_each_base_alone(run, apes):
    (example,) = logos(run_summary(run))
    assert example.png[:4] == b"\x89PNG"
    windows, model = WindowSet(apes[1], example.caption.split(" window")[0].split()[-1]), load_model(run).model.eval()
    codes = torch.from_numpy(windows.codes[len(windows) // 2] & 7)
    middle, right = len(codes) // 2, 0
    for site in range(middle - 25, middle + 25):
        seen = codes[None].clone()
        seen[0, site, 0] = 5  # hidden
        with torch.no_grad():
            logits = model(seen, torch.tensor([[site]]))[0, 0, 1:5]
        right += int(logits.argmax()) + 1 == int(codes[site, 0])
    assert f"is the reference's at {right} of 50 sites" in example.caption


def test_report(run, call, monkeypatch):
    code, _, err = call("report", run)
    assert (code, err) == (0, "")
    page = read_page(run / "report.html")
    assert len(page.all("img")) == 1
    monkeypatch.chdir(run.parent)
    found = {}
    exec(page.all("code")[-1].whole_text, found)
    assert found["network"] is found["pretrained"].model


def test_other_windows_are_refused(run):
    summary = run_summary(run)
    with pytest.raises(UserError, match="holds other windows"):
        logos(replace(summary, facts={"windows_digest": "0" * 16}))
    with pytest.raises(UserError, match=re.escape("gone")):
        logos(replace(summary, data="gone"))
    assert logos(replace(summary, facts={})) == []
