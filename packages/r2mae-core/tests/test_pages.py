"""The HTML page of runs: it shows what the folders hold, nothing else, and nothing that is in a file becomes code."""

import csv
import json
import re
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from page_reader import charts, facts, points, read_page, tables
from r2mae_core import (
    Command,
    Example,
    Page,
    Record,
    Reporter,
    RunFolder,
    Uniform,
    UserError,
    page_line,
    run_pretraining,
    write_page,
)
from r2mae_core.lab.records import write_records
from r2mae_core.lab.sealed import read_yaml, write_json
from r2mae_core.pages.curves import MAX_POINTS, Training, charts_over_time
from r2mae_core.pages.examples import MAX_BYTES, within_bounds
from r2mae_core.ratio.config import sampler_to_config
from toy import Toy, ToyPretrain

REPORTER = Reporter("r2mae-toy", {"pretrain": Command(ToyPretrain, "toy:none", "")}, {"accuracy": "max"})
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>$$x$$ {{ 7*7 }} 'q' \"q\""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("toy")
    np.save(home / "rows.npy", np.random.default_rng(0).normal(size=(50, 6)))
    config = ToyPretrain(
        home / "rows.npy", out=home / "run", device="cpu", progress=False, log_every=2, seed=4, lr=0.02,
        mask_ratio=Uniform(0.2, 0.6, seed=4),
    )  # fmt: skip
    return run_pretraining(Toy, config).path


def made(path, records=(), metrics=None, command="pretrain", config=None, sources=None):
    """Write a run folder as a command does, without training anything."""
    options = {"mask_ratio": 0.5, "seed": 0, "lr": 0.1, "data": "cells", **(config or {})}
    run = RunFolder(path, options, command=command, program="r2mae-toy", sources=sources)
    if records:
        write_records(path / "results.json", records)
    if metrics:
        rows = [f"{step},{name},{value}" for name, values in metrics.items() for step, value in values]
        run.metrics_file.write_text("\n".join(["step,metric,value", *rows]) + "\n")
    return path


def page_of(*runs, out=None, reporter=REPORTER, **options):
    return read_page(write_page(Page(tuple(runs), out, **options), reporter))


def test_a_real_run(trained):
    out = write_page(Page((trained,)), REPORTER)
    assert out == trained / "report.html"
    page = read_page(out)
    told = facts(page)
    assert told["Command"] == "r2mae-toy pretrain"
    assert told["Scheme"] == "uniform from 0.2 to 0.6, drawn at every step (seed 4)"
    assert (told["lr"], told["Data"], told["Seeds"]) == ("0.02", "rows.npy", "4")
    with (trained / "metrics.csv").open() as lines:
        losses = [(int(r["step"]), float(r["value"])) for r in csv.DictReader(lines) if r["metric"] == "loss"]
    drawn = charts(page)
    assert [(x, y) for *_, x, y in points(drawn["Training loss"])] == losses
    assert {scheme for scheme, *_ in points(drawn["Mask ratio drawn"])} == {"Uniform(0.2, 0.6)"}
    assert {name for _, name, *_ in points(drawn["Validation loss at mask ratio"])} == {"ratio 0.2", "ratio 0.6"}
    header, row = tables(page)[-1]
    assert dict(zip(header, row, strict=True))["steps"] == str(read_yaml(trained / "config.yaml")["steps"])
    assert str(trained.parent) not in out.read_text(), "the page names a place of this machine"


def test_the_table_is_that_of_the_results(tmp_path):
    values = {("a", 0): 0.31, ("a", 1): 0.47, ("b", 0): 0.5, ("b", 1): 0.52}
    records = [Record("task", "accuracy", value, name, seed, 9) for (name, seed), value in values.items()]
    header, *rows = tables(page_of(made(tmp_path / "run", records)))[0]
    assert header[0] == "scheme (n = 2)"
    for (name, text, _), scheme in zip(rows, "ab", strict=True):
        mine = [value for (of, _), value in values.items() if of == scheme]
        mean, sd = (float(part) for part in text.split(" ±"))
        assert name == scheme
        assert mean == pytest.approx(statistics.mean(mine), abs=5e-3)
        assert sd == pytest.approx(statistics.stdev(mine), rel=0.05)


def test_what_comes_out_of_files_stays_text(tmp_path):
    records = [Record(HOSTILE, f"loss@{ratio}", 1.0, HOSTILE, 0, 9) for ratio in (0.1, 0.5)]
    folder = tmp_path / "<script>alert(1)<img src=x onerror=alert(2)>"
    metrics = {"loss": [(1, 2.0), (2, 1.0)], "a</script><b>": [(1, 1.0)]}
    config = {"data": "<img src=x onerror=alert(3)>", "lr": "<b>"}
    run = made(folder, records, metrics, config=config, sources={"<i>": "<u>"})
    (run / "verdict.txt").write_text(HOSTILE)
    example = Example("<b>title", png=b"\x89PNG", caption="<b>caption")
    page = page_of(run, reporter=replace(REPORTER, examples=lambda _: [example], load=lambda _: "<b>code"))
    assert len(page.all("script")) == 3
    assert {image.attributes["src"][:22] for image in page.all("img")} == {"data:image/png;base64,"}
    assert not page.all("b")
    assert not page.all("i") or all(
        i.attributes.get("class") == "dot" or "style" in i.attributes for i in page.all("i")
    )
    everything = [page, *(element for name in ("div", "td", "th", "button", "img", "p") for element in page.all(name))]
    assert not [name for element in everything for name in element.attributes if name.startswith("on")]
    assert HOSTILE in page.whole_text
    assert "7*7" in page.whole_text
    assert points(charts(page)["Training loss"])[0][0] == HOSTILE
    # Bokeh fetches MathJax for a text of its own with $$ in it.
    texts = re.findall(r'"(?:axis_label|text|label)":"([^"]*)"', json.dumps(charts(page)).replace('": "', '":"'))
    assert texts
    assert not any("$$" in text for text in texts)


def test_the_page_needs_no_network(trained):
    page = read_page(write_page(Page((trained,)), REPORTER))
    loaded = [
        value
        for name in ("script", "link", "img", "iframe", "source", "object", "embed", "a", "use", "image")
        for element in page.all(name)
        for key, value in element.attributes.items()
        if key in ("src", "href", "data", "srcset", "xlink:href")
    ]
    assert all(value.startswith("data:") for value in loaded), loaded
    styles = "".join(style.text for style in page.all("style"))
    assert "url(" not in styles
    assert "@import" not in styles
    assert (trained / "report.html").stat().st_size < 2e6


def test_a_run_that_was_interrupted(tmp_path):
    page = page_of(made(tmp_path / "run", metrics={"loss": [(5, 2.0), (10, 1.5)]}))
    assert "run has not finished: its last logged step is 10." in page.whole_text
    assert "Not recorded: there is no results.json." in page.whole_text
    assert "There is no finished model here." in page.whole_text
    assert page_of(made(tmp_path / "empty")).whole_text.count("Not recorded") == 4


def test_what_seeds_share_is_said_and_a_copy_is_named(tmp_path):
    def run(name, seed):
        scheme = sampler_to_config(Uniform(0.2, 0.6, seed=seed))
        return made(tmp_path / name, metrics={"loss": [(0, 1.0)]}, config={"seed": seed, "mask_ratio": scheme})

    one, two = run("one", 0), run("two", 1)
    page = page_of(one, two, out=tmp_path / "page.html")
    assert facts(page)["Scheme"] == "Uniform(0.2, 0.6)"
    assert "its copy" not in page.whole_text
    other = made(tmp_path / "other", config={"data": "more cells"})
    assert tables(page_of(made(tmp_path / "own"), other, out=tmp_path / "page.html"))[0] == [
        ["run", "data"], ["own", "cells"], ["other", "more cells"]
    ]  # fmt: skip
    shutil.copytree(one, tmp_path / "three")
    page = page_of(one, tmp_path / "three", out=tmp_path / "page.html")
    assert "one and three are one run and its copy, not two trainings." in page.whole_text


def test_a_value_that_is_not_finite_is_a_gap(tmp_path):
    records = [Record("t", "accuracy", float("nan"), "a", 0, 9), Record("t", "accuracy", 0.5, "b", 0, 9)]
    run = made(tmp_path / "run", records, {"loss": [(1, "nan"), (2, 1.0), (3, "inf")]})
    page = page_of(run)
    (_, first, *_), (_, second, *_) = tables(page)[0][1:]
    assert (first, second) == ("-", "0.5000")
    shown = [y for *_, y in points(charts(page)["Training loss"])]
    assert shown == [{"type": "number", "value": "nan"}, 1.0, {"type": "number", "value": "nan"}]


def test_several_runs_show_what_differs(tmp_path):
    def run(name, lr, data, seed=0):
        metrics = {"loss": [(1, lr), (2, lr / 2)], "val_loss/ratio_0.1": [(2, 1.0)], "val_loss/ratio_0.5": [(2, 1.0)]}
        return made(tmp_path / name, [Record("t", "accuracy", lr, "fixed 0.5", seed, 9)], metrics,
                    config={"lr": lr, "seed": seed, "data": data}, sources={"DATA": data})  # fmt: skip

    same = page_of(run("one", 0.1, "x"), run("two", 0.2, "x"), out=tmp_path / "same.html")
    differing, table, _ = tables(same)
    assert differing == [["run", "lr"], ["one", "0.1"], ["two", "0.2"]]
    assert [row[0] for row in table[1:]] == ["fixed 0.5 · lr 0.1", "fixed 0.5 · lr 0.2"]
    legend = [chip.whole_text for chip in same.all("button") if chip.attributes.get("class") == "chip"]
    assert legend == ["fixed 0.5 · lr 0.1", "fixed 0.5 · lr 0.2"]
    assert {scheme for scheme, *_ in points(charts(same)["Training loss"])} == set(legend)
    # By these names the legend finds what it hides.
    text = json.dumps(charts(same)["Training loss"])
    assert {f'"scheme-{i}"' for i in (0, 1)} == set(re.findall(r'"scheme-\d+"', text))
    assert {"Validation loss at mask ratio 0.1", "Validation loss at mask ratio 0.5"} <= set(charts(same))
    assert "cannot be compared" not in same.whole_text
    other = page_of(tmp_path / "one", run("three", 0.1, "y"), out=tmp_path / "other.html")
    assert "cannot be compared number by number: they were made from different data" in other.whole_text


def test_runs_that_contradict_each_other_have_a_table_each(tmp_path):
    def run(name, value):
        return made(tmp_path / name, [Record("t", "accuracy", value, "fixed 0.5", 0, 9)])

    page = page_of(run("one", 0.1), run("two", 0.2), made(tmp_path / "none"), out=tmp_path / "page.html")
    assert "No table of all" in page.whole_text
    assert "No evaluation is recorded of none." in page.whole_text
    assert [rows[1][1] for rows in tables(page) if rows[0][0].startswith("scheme (")] == ["0.1000", "0.2000"]


def test_the_trainings_of_a_grid_have_the_names_of_its_table(tmp_path):
    grid = made(tmp_path / "grid", command="demo", config={"mask_ratio": None})
    for scheme, ratio in (("r2mae", 0.4), ("fixed", 0.2)):
        for seed in (0, 1):
            record = Record("t", "accuracy", ratio, scheme, seed, 9)
            metrics = {"loss": [(0, ratio), (1, ratio + seed)], "rows_per_second": [(0, 10.0), (1, 20.0)]}
            made(grid / f"{scheme}-{seed}" / "pretrain", metrics=metrics, config={"mask_ratio": ratio, "seed": seed})
            write_records(grid / f"{scheme}-{seed}" / "results.json", [record])
    write_records(
        grid / "results.json", [Record("t", "accuracy", 0.3, name, 0, 9) for name in ("r2mae", "fixed", "none")]
    )
    page = page_of(grid)
    drawn = charts(page)
    assert points(drawn["Training loss"]) == [
        ("fixed", "mean of 2 seeds", 0.0, 0.2), ("fixed", "mean of 2 seeds", 1.0, pytest.approx(0.7)),
        ("r2mae", "mean of 2 seeds", 0.0, 0.4), ("r2mae", "mean of 2 seeds", 1.0, pytest.approx(0.9)),
    ]  # fmt: skip
    cost = tables(page)[-1]
    assert cost[0][:4] == ["scheme", "trainings", "steps", "speed"]
    assert cost[1] == ["fixed", "2", "2", "15 rows/s"]
    numbers = {row.whole_text.split("0.")[0]: row.attributes.get("data-scheme") for row in page.all("tr")}
    assert (numbers["r2mae"], numbers["fixed"], numbers["none"]) == ("0", "1", None)


def test_only_seeds_of_one_setting_are_averaged(tmp_path):
    def pretrained(name, seed):
        return made(tmp_path / name, metrics={"loss": [(1, seed + 1.0)]}, config={"seed": seed})

    def loss(*runs):
        return points(charts(page_of(*runs, out=tmp_path / "page.html"))["Training loss"])

    one, two, again = pretrained("one", 0), pretrained("two", 1), pretrained("again", 0)
    assert loss(one, two) == [("fixed 0.5", "mean of 2 seeds", 1.0, 1.5)]
    assert loss(one, again) == [("fixed 0.5", "seed 0, one", 1.0, 1.0), ("fixed 0.5", "seed 0, again", 1.0, 1.0)]
    grids = []
    for name, seed in (("short", 0), ("long", 1)):
        grids.append(made(tmp_path / name, command="demo", config={"mask_ratio": None}))
        made(grids[-1] / "cell" / "pretrain", metrics={"loss": [(1, seed + 1.0)]}, config={"seed": seed})
    assert loss(*grids) == [("fixed 0.5", "seed 0, short", 1.0, 1.0), ("fixed 0.5", "seed 1, long", 1.0, 2.0)]
    cost = tables(read_page(tmp_path / "page.html"))[-1]
    assert [row[0] for row in cost[1:]] == ["fixed 0.5 (short)", "fixed 0.5 (long)"]


def test_a_name_that_is_not_of_one_training_alone_is_not_taken(tmp_path):
    grid = made(tmp_path / "grid", command="demo", config={"mask_ratio": None})
    for name, ratio in (("a", 0.2), ("b", 0.4)):
        made(grid / "cell" / name, metrics={"loss": [(1, ratio)]}, config={"mask_ratio": ratio})
    made(grid / "other" / "pretrain", metrics={"loss": [(1, 0.6)]}, config={"mask_ratio": 0.6})
    for cell, seed in (("cell", 0), ("other", 7)):
        write_records(grid / cell / "results.json", [Record("t", "accuracy", 0.5, "of both", seed, 9)])
    drawn = points(charts(page_of(grid))["Training loss"])
    assert [scheme for scheme, *_ in drawn] == ["fixed 0.2", "fixed 0.4", "fixed 0.6"]


def test_several_trainings_in_one_log(tmp_path):
    metrics = {f"{scheme}/seed{seed}/loss": [(1, seed)] for scheme in ("a b", "c") for seed in (0, 1)}
    found = points(charts(page_of(made(tmp_path / "run", metrics=metrics, command="demo")))["Training loss"])
    assert found == [("a b", "mean of 2 seeds", 1.0, 0.5), ("c", "mean of 2 seeds", 1.0, 0.5)]


def test_scores_over_the_ratio_of_pretraining(tmp_path):
    values = {"fixed 0.5": 0.3, "low 0.1": 0.1, "high 0.9": 0.2, "r2mae": 0.4, "Uniform(0.2, 0.4)": 0.5}
    records = [Record("t", "accuracy", value, name, 0, 9) for name, value in values.items()]
    chart = charts(page_of(made(tmp_path / "run", records)))["Accuracy by mask ratio of the pretraining"]
    assert [(scheme, x, y) for scheme, _, x, y in points(chart)] == [
        ("fixed ratio", 0.1, 0.1), ("fixed ratio", 0.5, 0.3), ("fixed ratio", 0.9, 0.2), ("r2mae", 0.5, 0.4),
        ("Uniform(0.2, 0.4)", pytest.approx(0.3), 0.5),
    ]  # fmt: skip


def test_a_page_names_no_place_of_the_machine(tmp_path):
    from r2mae_core.pages.html import without_places

    assert without_places("/home/me/data set/x.h5ad is not there; see ~/a/b and C:\\Users\\me\\c.txt") == (
        "data set/x.h5ad is not there; see b and c.txt"
    )
    assert (
        without_places("loss / ratio, 1/2, X/raw and https://x.org/a") == "loss / ratio, 1/2, X/raw and https://x.org/a"
    )
    run = made(
        tmp_path / "run", [Record("t", "accuracy", 1.0, "a", 0, 9)], config={"data": str(tmp_path / "cells.h5ad")}
    )
    page = page_of(run, reporter=replace(REPORTER, commands={"pretrain": Command(ToyPretrain, "toy:none", "")}))
    assert facts(page)["Data"] == "cells.h5ad"
    assert str(tmp_path) not in (run / "report.html").read_text()


def test_a_sweep(tmp_path):
    def row(name, low, high, mean):
        return {"arm": name, "low": low, "high": high, "mean": mean, "standard_error": 0.01, "n_full": 1, "n_short": 2}

    run = made(tmp_path / "sweep", command="sweep", config={"mask_ratio": None})
    compared = {"arm": "0.1-0.5", "behind": 0.1, "standard_error": 0.02}
    answer = {
        "metric": "accuracy", "direction": "max", "recommended": "0.4", "as_good": ["0.4", "0.2"], "trainings": 9,
        "runs_spent": 4.0, "pretrain": "r2mae-toy pretrain --mask_ratio 0.4", "lost": {}, "seconds": 60.0,
        "paper_range": compared, "usual_ratio": compared | {"arm": "0.2"},
        "curve": [row("0.4", 0.4, 0.4, 0.9), row("0.2", 0.2, 0.2, 0.8), row("0.1-0.5", 0.1, 0.5, 0.7)],
    }  # fmt: skip
    write_json(run / "sweep.json", answer)
    for share in ("0.2", "1"):
        home = run / "trials" / "0.4-seed0" / share
        made(home / "pretrain", metrics={"loss": [(1, float(share))]})
        write_records(home / "results.json", [Record("t", "accuracy", 0.9, "embedding", 0, 9)])
    page = page_of(run)
    drawn = charts(page)
    over_ratios = drawn["Accuracy by mask ratio of the pretraining"]
    assert [(scheme, x, y) for scheme, _, x, y in points(over_ratios)] == [
        ("fixed ratio", 0.2, 0.8), ("fixed ratio", 0.4, 0.9), ("0.1-0.5", pytest.approx(0.3), 0.7),
    ]  # fmt: skip
    # Of each ratio and seed the longest training, whatever its evaluation calls it.
    assert points(drawn["Training loss"]) == [("0.4", "seed 0", 1.0, 1.0)]
    assert "Recommended: 0.4" in page.whole_text


def test_long_lines_are_thinned_and_the_page_says_so():
    training = Training("a", 0, {"loss": [(step, float(step)) for step in range(1, 10_001)]})
    chart = charts_over_time([training])[0]
    assert 100 < len(chart.lines[0].points) <= MAX_POINTS
    assert chart.lines[0].points[-1] == (10_000.0, 10_000.0)
    assert chart.caption == "Of long lines, one logged point of 25 is drawn."


def test_examples_are_shown_named_or_refused(tmp_path):
    run = made(tmp_path / "run")
    (run / "figures").mkdir()
    (run / "figures" / "demo.png").write_bytes(b"\x89PNG")

    def refuse(_):
        raise UserError("the data are not at hand")

    page = page_of(run, reporter=replace(REPORTER, examples=refuse))
    assert len(page.all("img")) == 1
    assert "No example of the model: the data are not at hand." in page.whole_text
    assert not page_of(run, examples=False).all("img")
    html = Example("words", html='<p>a <mark class="right">b</mark></p>', caption="c")
    page = page_of(run, reporter=replace(REPORTER, examples=lambda _: [html]))
    assert [mark.whole_text for mark in page.all("mark")] == ["b"]
    kept, said = within_bounds([Example("small", b"x"), Example("huge", b"x" * MAX_BYTES), Example("last", b"x")])
    assert [example.title for example in kept] == ["small", "last"]
    assert said == ["Left out, so that the page stays small: huge."]


def test_what_is_refused(tmp_path, monkeypatch):
    run = made(tmp_path / "run")
    other = tmp_path / "notes.html"
    other.write_text("mine")
    with pytest.raises(UserError, match=r"notes\.html is there already"):
        page_of(run, out=other)
    assert other.read_text() == "mine"
    page_of(run)
    page_of(run)  # an older page gives way to the new one
    with pytest.raises(UserError, match=r"ends in \.html"):
        page_of(run, out=run / "config.yaml")
    with pytest.raises(UserError, match="is not a run folder"):
        page_of(tmp_path)
    with pytest.raises(UserError, match="nowhere is not there"):
        page_of(tmp_path / "nowhere")
    with pytest.raises(UserError, match="data holds prepared data, not a run"):
        page_of(made(tmp_path / "data", command="prepare"))
    with pytest.raises(UserError, match="is named twice"):
        page_of(run, tmp_path / "run" / ".." / "run", out=tmp_path / "page.html")
    with pytest.raises(UserError, match="is a run of r2mae-toy; call r2mae-toy report"):
        page_of(run, reporter=replace(REPORTER, program="r2mae-other"))
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(UserError, match=r"a page needs bokeh: pip install 'r2mae-toy\[report\]'"):
        page_of(run)


def test_the_line_at_the_end_of_a_command(tmp_path):
    assert page_line("r2mae-toy", tmp_path).endswith(f": r2mae-toy report {tmp_path}")
    assert page_line("r2mae-toy", Path("my <b> run")).endswith(": r2mae-toy report 'my <b> run'")


def test_a_fine_tuning_is_not_drawn_among_pretrainings(tmp_path):
    """Its loss is another: of a grid's cells, and of a run of `finetune`, with one task or several."""
    grid = made(tmp_path / "grid", command="reproduce", config={"mask_ratio": None})
    for seed in (0, 1):
        cell = grid / f"fixed-{seed}"
        made(cell / "pretrain", metrics={"loss": [(1, 0.5)]}, config={"seed": seed})
        tuned = RunFolder(
            cell / "finetune", {"seeds": [seed]}, command="finetune", program="r2mae-toy",
            models={cell / "pretrain": ("fixed 0.5", seed)},
        )  # fmt: skip
        made(tuned.path / f"seed{seed}", metrics={"loss": [(1, 2.0), (2, 1.0)]}, command=None, config=tuned.config)
    page = page_of(grid)
    assert "with 4 trainings (2 of them fine-tunings) in it" in page.whole_text
    tuned = page_of(*(grid / f"fixed-{seed}" / "finetune" for seed in (0, 1)), out=tmp_path / "tuned.html")
    assert "with 2 fine-tunings in them" in tuned.whole_text
    drawn = charts(page)
    assert points(drawn["Training loss"]) == [("fixed 0.5", "mean of 2 seeds", 1.0, 0.5)]
    assert points(drawn["Training loss, fine-tuning"]) == [
        ("fixed 0.5", "mean of 2 seeds", 1.0, 2.0), ("fixed 0.5", "mean of 2 seeds", 2.0, 1.0),
    ]  # fmt: skip
    rows = [(row[0], row[2]) for row in tables(page)[-1][1:]]
    assert rows == [("fixed 0.5", "2"), ("fixed 0.5 (fine-tuning)", "2")], "steps 0 and 1; a fine-tuning says how many"
    alone = RunFolder(tmp_path / "tuned", {"seeds": [3]}, command="finetune", program="r2mae-toy")
    for task in ("sst2", "mrpc"):
        made(alone.path / "logs" / f"{task}-3", metrics={"loss": [(1, 2.0)]}, command=None, config=alone.config)
    assert points(charts(page_of(alone.path))["Training loss, fine-tuning on sst2"])[0][0] == "model not recorded"
    write_records(alone.path / "results.json", [Record("sst2", "accuracy", 0.5, "no pretraining", 3, 9)])
    drawn = charts(page_of(alone.path))
    assert points(drawn["Training loss, fine-tuning on mrpc"]) == [("no pretraining", "seed 3", 1.0, 2.0)]
    assert "Training loss" not in drawn
