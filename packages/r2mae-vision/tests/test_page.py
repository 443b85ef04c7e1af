"""The page of a run: what the model fills in on held-out images, and code that loads the model."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("bokeh", reason="the extra `report` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from page_reader import read_page
from r2mae_core import UserError, run_summary
from r2mae_vision.cli import main
from r2mae_vision.mae.options import Pretrain
from r2mae_vision.mae.pretrain import pretrain
from r2mae_vision.page import pictures

ARGUMENTS = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    size = {"patch_size": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "image_size": 8}
    training = {"epochs": 1, "batch_size": 512, "device": "cpu", "workers": 0, "progress": False, "log_every": 1}
    options = Pretrain("digits", model="vit_tiny_patch16_224", model_args=ARGUMENTS, **size, **training)
    return pretrain(replace(options, out=tmp_path_factory.mktemp("page") / "run")).path


def test_report(run, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(run)])
    assert stop.value.code == 0, capsys.readouterr().err
    page = read_page(run / "report.html")
    assert len(page.all("img")) == 1
    assert "5 held-out images, 50%, 75%, 90% of their patches hidden." in page.whole_text
    monkeypatch.chdir(run.parent)
    found = {}
    exec(page.all("code")[-1].whole_text, found)
    assert found["encoder"].embed_dim == 48


def test_other_images_are_refused_and_other_runs_have_no_example(run, tmp_path):
    summary = run_summary(run)
    (example,) = pictures(summary)
    width, height = Image.open(io.BytesIO(example.png)).size
    assert width > height > 200
    with pytest.raises(UserError, match="holds other images"):
        pictures(replace(summary, sources={**summary.sources, "held-out data images": "others"}))
    with pytest.raises(UserError, match="gone"):
        pictures(replace(summary, data=str(tmp_path / "gone")))
    assert pictures(replace(summary, path=tmp_path)) == []
