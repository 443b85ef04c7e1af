"""The page of a run: words that the model fills in on held-out text, and code that loads the model."""

import re
import shutil
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="the extra `report` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from page_reader import read_page, tables
from r2mae_core import Page, UserError, device_name, run_summary, write_page
from r2mae_text.finetune import finetune
from r2mae_text.options import Finetune, Pretrain
from r2mae_text.page import filled_in, how_to_load, reporter
from r2mae_text.pretrain import pretrain

SIZE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    options = {"model": "tiny", "model_args": SIZE, "length": 64, "batch_size": 4, "steps": 2, "log_every": 1}
    options |= {"device": "cpu", "progress": False}
    return pretrain(Pretrain(corpus.path, out=tmp_path_factory.mktemp("page") / "run", **options)).path


def test_the_words_are_those_of_the_held_out_text(run, corpus, tokenizer):
    (example,) = filled_in(run_summary(run))
    right, wrong = (re.findall(rf'<mark class="{kind}">', example.html) for kind in ("right", "wrong"))
    n, k = map(int, re.search(r"Of all (\d+) hidden tokens of these rows (\d+) are", example.caption).groups())
    assert (len(right) + len(wrong), len(right)) == (n, k)
    assert n == 3 * round(0.15 * 63), "15 % of each row without its first token"
    true = re.sub(r'<mark class="wrong">.*? <s>(.*?)</s></mark>', r"\1", example.html)
    shown = re.findall("<p>(.*?)</p>", re.sub(r'<mark class="right">(.*?)</mark>', r"\1", true), re.DOTALL)
    rows = corpus.rows("validation", 64)[np.arange(3)]
    assert ["".join(unescape(text).split()).replace("(space)", "") for text in shown] == [
        "".join(tokenizer.decode(row.tolist()).split()) for row in rows
    ]


def test_report(run, call, monkeypatch):
    code, out, err = call("report", run)
    assert (code, err) == (0, ""), err
    assert str(run / "report.html") in out.replace("\n", "")
    page = read_page(run / "report.html")
    assert len(page.all("mark")) > 0
    monkeypatch.chdir(run.parent)
    found = {}
    exec(page.all("code")[-1].whole_text, found)
    assert found["model"].config.vocab_size >= len(found["tokenizer"])


def test_a_fine_tuned_model_is_loaded_as_the_page_says(run, tmp_path, monkeypatch):
    options = {"max_train": 16, "max_length": 16, "batch_size": 8, "epochs": 1, "device": "cpu", "progress": False}
    tuned = finetune(Finetune(str(run), ("movies",), seeds=(0, 1), out=tmp_path / "tuned", **options))
    titles, *rows = tables(read_page(write_page(Page((tuned.path,), out=tmp_path / "page.html"), reporter())))[-1]
    cost = dict(zip(titles, rows[0], strict=True))
    assert float(cost["seconds"].replace(",", "")) > 0
    assert int(cost["parameters"].replace(",", "")) > 10_000
    assert cost["device"] == device_name("cpu")
    text = how_to_load(run_summary(tuned.path))
    assert "movies-0/model'  # likewise the other 1" in text
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(text, found)
    assert found["model"].config.id2label == {0: "negative", 1: "positive"}


def test_another_corpus_is_refused_and_one_that_is_gone_is_said(run, call, tmp_path):
    config = run / "config.yaml"
    shutil.copytree(run, tmp_path / "copy")
    moved = tmp_path / "copy" / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("data:", "# sha256"))]
    moved.write_text("\n".join([*lines, "data: gone"]))
    code, _, err = call("report", tmp_path / "copy")
    assert (code, err) == (0, "")
    assert "No example of the model: gone" in read_page(tmp_path / "copy" / "report.html").whole_text
    facts = tmp_path / "copy" / "facts.json"
    (tmp_path / "copy" / "config.yaml").write_text(config.read_text())
    text = facts.read_text()
    facts.write_text(re.sub(r',\s*"sha256": "\w+"', "", text.replace(run_summary(run).facts["corpus"], "0" * 64)))
    with pytest.raises(UserError, match="is another corpus"):
        filled_in(run_summary(tmp_path / "copy"))
