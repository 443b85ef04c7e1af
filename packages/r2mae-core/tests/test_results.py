"""Records, comparison table, run folder, metrics."""

import io
import json
import math
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml

from r2mae_core import (
    MetricsCSV,
    Record,
    RunFolder,
    UserError,
    atomic_path,
    compare,
    compare_runs,
    competition_ranks,
    device_name,
    open_run,
    read_metrics,
    read_records,
    seconds_of,
    stamped,
    unfinished,
    write_records,
)
from r2mae_core.lab import run_folder

# Table 2 of the paper: accuracies on MNLI, QQP, SST-2, QNLI and the mean rank that it prints.
TABLE_2 = {
    "medium": {
        "MLM default": ([80.8, 89.8, 89.9, 86.3], 3.25),
        "Fixed MR 0.4": ([80.3, 89.7, 90.1, 86.6], 3.75),
        "MDLM": ([79.4, 89.8, 89.3, 85.4], 4.50),
        "Dynamic MR": ([80.8, 90.1, 90.5, 87.1], 1.50),
        "R2MAE": ([80.9, 90.1, 90.6, 86.7], 1.25),
    },
    "base": {
        "MLM default": ([81.5, 90.7, 91.7, 87.8], 3.00),
        "Fixed MR 0.4": ([81.7, 90.7, 91.2, 88.5], 3.25),
        "MDLM": ([80.3, 90.3, 91.4, 87.7], 4.50),
        "Dynamic MR": ([81.8, 90.7, 91.4, 89.1], 2.00),
        "R2MAE": ([81.9, 90.8, 91.9, 88.6], 1.25),
    },
}
TASKS = ["MNLI", "QQP", "SST-2", "QNLI"]


@pytest.mark.parametrize("size", TABLE_2)
def test_ranks_of_table_2_come_out_as_printed(size):
    records = [
        Record(task, "accuracy", value, scheme, 0, n=1)
        for scheme, (values, _) in TABLE_2[size].items()
        for task, value in zip(TASKS, values, strict=True)
    ]
    table = compare(records, {"accuracy": "max"})
    assert table.mean_rank == {scheme: rank for scheme, (_, rank) in TABLE_2[size].items()}


def test_competition_ranks():
    assert competition_ranks([3.0, 5.0, 3.0, 1.0]) == [2, 1, 2, 4]
    assert competition_ranks([3.0, 5.0, 3.0, 1.0], "min") == [2, 4, 2, 1]
    with pytest.raises(ValueError, match="cannot rank NaN"):
        competition_ranks([1.0, math.nan])


def records():
    values = {"a": [0.9, 0.92, 0.94], "b": [0.5, 0.5, 0.5]}
    return [
        Record("digits", "accuracy", value, scheme, seed, n=450, paper=0.91 if scheme == "a" else None)
        for scheme, row in values.items()
        for seed, value in enumerate(row)
    ]


def test_table_shows_mean_sd_n_and_the_papers_value():
    table = compare(records(), {"accuracy": "max"})
    cell = table.cells["a", "digits", "accuracy"]
    assert (cell.mean, cell.sd, cell.n_seeds) == (
        pytest.approx(0.92),
        pytest.approx(np.std([0.9, 0.92, 0.94], ddof=1)),
        3,
    )
    assert table.header() == ["scheme (n = 3)", "accuracy", "rank"]
    assert table.rows() == [["a", "0.920 ±0.020 (paper 0.91)", "1.00"], ["b", "0.5000 ±0.0000", "2.00"]]
    assert table.markdown().splitlines()[2] == "| a | 0.920 ±0.020 (paper 0.91) | 1.00 |"
    assert table.csv().splitlines()[0] == "scheme,task,metric,mean,sd,n_seeds,paper"
    assert len(table.csv().splitlines()) == 3


def test_a_scheme_that_was_not_measured_everywhere_is_not_ranked():
    more = [*records(), Record("mnist", "accuracy", 0.9, "a", 0, n=1), Record("mnist", "accuracy", 0.8, "c", 0, n=1)]
    table = compare(more, {"accuracy": "max"})
    assert table.mean_rank is None  # a alone is complete
    assert table.rows()[1][1:] == ["0.5000 ±0.0000", "-"]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_narrow_terminal_gets_every_cell_unbroken(width):
    """rich alone leaves out the columns that have no room."""
    from rich.console import Console

    metrics = [f"metric_{i}" for i in range(9)]
    records = [Record("t", m, 0.1234 + i, "r2mae+cl", s, 9) for i, m in enumerate(metrics) for s in range(2)]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(compare(records).rich("Title"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    cells = compare(records).rows()[0][1:]
    assert len(set(cells)) == 9
    assert [text.count(cell) for cell in cells] == [1] * 9
    assert text.count("Title") == 1
    assert text.count("r2mae+cl") == text.count("scheme (n = 2)") == {40: 9, 60: 5, 80: 3, 200: 1}[width]


def test_no_records_and_double_records():
    with pytest.raises(ValueError, match="no records"):
        compare([])
    with pytest.raises(ValueError, match="two records"):
        compare([*records(), records()[0]])


def test_records_round_trip(tmp_path):
    assert read_records(write_records(tmp_path / "results.json", records())) == records()
    assert read_records(tmp_path) == records()
    assert set(json.loads((tmp_path / "results.json").read_text())["records"][0]) == {
        "task", "metric", "value", "scheme", "seed", "n", "split", "seconds", "device", "git", "paper",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no results at"),
        ("{", "is damaged: it is not JSON"),
        ("[]", "a JSON object is needed"),
        ('{"records": 3}', "is not a"),
        ('{"records": [{"task": "x", "color": 1}]}', r"record 0 has unknown fields \['color'\]"),
        ('{"records": [{"task": "x"}]}', "record 0 has no metric"),
    ],
)
def test_bad_record_files(tmp_path, text, message):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_records(file)


def test_run_folder_is_opened_again_with_the_same_config_only(tmp_path):
    config = {"lr": 0.1, "mask_ratio": {"class_path": "Uniform", "init_args": {"low": 0.1}}, "seeds": (0, 1)}
    run = RunFolder(tmp_path / "run", config)
    run.write_results(records())
    again = RunFolder(tmp_path / "run", config)
    assert again.results() == records()
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["packages"]["torch"]
    assert RunFolder(tmp_path / "run", {**config, "device": "cuda"}).results()
    other = {**config, "lr": 0.2, "mask_ratio": {"class_path": "Uniform", "init_args": {"low": 0.3}}}
    with pytest.raises(UserError, match=r"lr is 0.1 there and 0.2 here; mask_ratio.init_args.low is 0.1 there and 0.3"):
        RunFolder(tmp_path / "run", other)


def test_facts_are_kept_apart_from_the_options_and_must_agree(tmp_path):
    run = RunFolder(tmp_path / "run", {"lr": 0.1}, facts={"digest": "abc"})
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {"lr": 0.1}
    assert RunFolder.open(run.path).facts == {"digest": "abc"}
    run.write_results([])
    with pytest.raises(UserError, match="digest is 'abc' there and 'xyz' here"):
        RunFolder(run.path, {"lr": 0.1}, facts={"digest": "xyz"})
    with pytest.raises(UserError, match=r"is not a run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path)


def test_what_changes_no_step_may_change_when_a_run_goes_on(tmp_path):
    config = {"lr": 0.1, "compile": False, "workers": 1, "nodes": 1}
    RunFolder(tmp_path / "run", config).write_results([])
    RunFolder(tmp_path / "run", {**config, "compile": True, "workers": 8})
    with pytest.raises(UserError, match="nodes is 1 there and 2 here"):
        RunFolder(tmp_path / "run", {**config, "nodes": 2})
    RunFolder(tmp_path / "run", {**config, "nodes": 2}, free=["nodes"])


def test_several_processes_must_know_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run("prog", "fit", None, {}) as run:
        assert run.path.parent.name == "runs"
    with open_run("prog", "fit", tmp_path / "run", {}, n_processes=2) as run:
        assert run.path == tmp_path / "run"
    with (
        pytest.raises(UserError, match="several devices need --out DIR"),
        open_run("prog", "fit", None, {}, n_processes=2),
    ):
        pass
    assert "run the same pretrain command with --out runs/x to resume it" in str(unfinished("runs/x"))


def test_records_are_stamped():
    (first, *_) = stamped(records(), device_name("cpu"), 2.5)
    assert first.device.startswith("cpu (")
    assert first.seconds == 2.5
    assert stamped(records(), "cpu")[0].seconds is None


def test_seconds_are_the_least_of_those_after_the_first():
    calls = []

    def step():
        calls.append(len(calls))
        time.sleep(0.2 if len(calls) == 1 else 0.01)

    assert 0.01 <= seconds_of(step, "cpu") < 0.2
    assert len(calls) == 4


def test_run_folder_refuses_a_folder_of_other_things(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        RunFolder(tmp_path, {})


def test_files_are_whole_or_absent(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def break_off():
        with atomic_path(target) as temporary:
            temporary.write_text("new, but")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        break_off()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_metrics_are_appended_and_the_later_line_counts(tmp_path):
    file = tmp_path / "metrics.csv"
    MetricsCSV(file).log_metrics({"loss": 1.0, "epoch": 0}, 1)
    MetricsCSV(file).log_metrics({"loss": 0.5, "mask_ratio": 0.3}, 2)
    MetricsCSV(file).log_metrics({"loss": 0.4}, 2)  # a resumed run writes the step again
    assert file.read_text().splitlines()[0] == "step,metric,value"
    assert read_metrics(file) == {"loss": [(1, 1.0), (2, 0.4)], "mask_ratio": [(2, 0.3)]}


def test_runs_are_compared_from_their_files(tmp_path):
    for seed in (0, 1):
        write_records(
            tmp_path / str(seed) / "results.json", [Record("digits", "accuracy", 0.8 + seed / 10, "a", seed, 9)]
        )
    table = compare_runs([tmp_path / "0", tmp_path / "1" / "results.json"])
    assert table.cells["a", "digits", "accuracy"].mean == pytest.approx(0.85)
    with pytest.raises(UserError, match="is named twice"):
        compare_runs([tmp_path / "0", tmp_path / "0" / "results.json"])
    write_records(tmp_path / "3" / "results.json", [Record("digits", "accuracy", 0.1, "a", 0, 9)])
    with pytest.raises(UserError, match=r"0 and .*3 cannot be compared: both measured accuracy of digits for a with"):
        compare_runs([tmp_path / "0", tmp_path / "3"])
    with pytest.raises(UserError, match="no results at"):
        compare_runs([tmp_path / "2"])


def run_with(folder, records, config, **more):
    RunFolder(folder, config, **more).write_results(records)
    return folder


def pretrained(folder, seed, scheme="r2mae", value=0.5, sources=None, **options):
    config = {"data": "a.h5", "mask_ratio": scheme, "epochs": 50, "lr": 0.1, "tokenizer": "a/t.json", "net": {}}
    config |= {"workers": seed, "seed": seed, **options}
    found = [Record("a", "loss@0.25", value, scheme, seed, 9, "validation")]
    return run_with(folder, found, config, sources=sources or {"DATA": "9 cells, 0123"}, free=("data",))


def rows_of(*runs):
    return {row[0]: row[1:] for row in compare_runs(runs).rows()}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"epochs": 20}, "epochs 20"),
        ({"net": {"width": 64}}, "net.width 64"),  # the others lack it: that is a difference too
        ({"lr": 0.1000000001}, "lr 0.1000000001"),
        ({"tokenizer": "b/t.json"}, "tokenizer t.json b/t.json"),
        ({"sources": {"DATA": "9 cells, 4567"}, "data": "b.h5"}, "data b.h5"),
        ({"workers": 7}, None),
        ({"data": "elsewhere/copy.h5"}, None),
    ],
)
def test_seeds_are_pooled_only_where_nothing_else_differs(tmp_path, options, name):
    runs = [pretrained(tmp_path / str(seed), seed) for seed in (0, 1)]
    other = pretrained(tmp_path / "other", 2, value=0.9, **options)
    rows = rows_of(*runs, other)
    if name is None:
        assert list(rows) == ["r2mae"]
        return
    others = {"epochs": "r2mae · epochs 50", "data": "r2mae · data a.h5", "net": "r2mae", "lr": "r2mae · lr 0.1"}
    others["tokenizer"] = "r2mae · tokenizer t.json a/t.json"
    assert list(rows) == [others[re.split("[ .]", name)[0]], f"r2mae · {name}"]
    assert [row[0] for row in rows.values()] == ["0.5000 ±0.0000", "0.9000"]


def test_two_data_sets_of_one_name_are_told_apart_by_their_content(tmp_path):
    first = pretrained(tmp_path / "0", 0)
    second = pretrained(tmp_path / "1", 1, sources={"DATA": "9 cells, 4567"})
    names = list(rows_of(first, second))
    assert len(names) == 2
    assert all(name.startswith("r2mae · data a.h5 ") for name in names)


def evaluated(folder, models, value, seed=0, **options):
    identities = {path: (name, of) for path, name, of in models}
    records = [Record("a", "accuracy", value + of, name, of, 9) for name, of in identities.values()]
    records.append(Record("a", "accuracy", 0.25, "baseline", seed, 9))
    config = {"runs": [str(path) for path in identities], "folds": 5, "seed": seed, **options}
    return run_with(folder, records, config, command="probe", models=identities)


def test_an_evaluation_is_told_apart_by_how_its_model_was_trained_and_by_its_own_options(tmp_path):
    runs = [pretrained(tmp_path / f"run{seed}", seed) for seed in (0, 1)]
    short = pretrained(tmp_path / "short", 1, epochs=20)
    probes = [evaluated(tmp_path / f"p{i}", [(run, "r2mae", i)], 0.5) for i, run in enumerate(runs)]
    assert rows_of(*probes)["r2mae"] == ["1.00 ±0.71"]
    assert rows_of(*probes)["baseline"] == ["0.2500"]  # measured by both, counted once
    other = evaluated(tmp_path / "ps", [(short, "r2mae", 1)], 0.5)
    assert list(rows_of(probes[0], other)) == ["r2mae · epochs 50", "r2mae · epochs 20", "baseline"]
    strict = evaluated(tmp_path / "pf", [(runs[1], "r2mae", 1)], 0.5, folds=3)
    assert {"r2mae · folds 5", "r2mae · folds 3"} <= set(rows_of(probes[0], strict))
    shutil.rmtree(runs[0])  # what is noted does not depend on the models' folders
    assert rows_of(*probes)["r2mae"] == ["1.00 ±0.71"]
    both = evaluated(tmp_path / "pb", [(runs[1], "r2mae · epochs 50", 1), (short, "r2mae · epochs 20", 1)], 0.5)
    assert {"r2mae · epochs 50", "r2mae · epochs 20"} <= set(rows_of(both, probes[0]))


def test_an_evaluation_of_an_unknown_model_is_pooled_with_none(tmp_path):
    for seed in (0, 1):
        found = [Record("a", "accuracy", 0.5, "r2mae", seed, 9)]
        run_with(tmp_path / str(seed), found, {"model": f"runs/{seed}", "seed": seed})
    assert list(rows_of(tmp_path / "0", tmp_path / "1")) == ["r2mae · model runs/0", "r2mae · model runs/1"]


def test_the_average_is_that_of_the_papers_tables():
    """Table 4, "Normalized exp." and R2MAE: 0.560 and 0.697."""
    values = {
        "log-norm": (0.798, 0.738, 0.571, 0.611, 0.129, 0.511),
        "r2mae": (0.840, 0.737, 0.687, 0.716, 0.572, 0.628),
    }
    found = [Record("t", f"m{i}", v, name, 0, 9) for name, row in values.items() for i, v in enumerate(row)]
    best = {f"m{i}": "max" for i in range(6)}
    table = compare(found, best, average=True)
    assert [row[-2:] for row in table.rows()] == [["0.560", "1.83"], ["0.697", "1.17"]]
    assert compare(found, best).average is None
    with pytest.raises(ValueError, match="lower is better"):
        compare(found, {"m0": "min"}, average=True)


def test_what_is_not_finite_is_null_in_the_file_and_a_dash_in_tables(tmp_path):
    found = [
        Record("digits", "loss", value, name, seed, 9)
        for name, values in {"good": (0.5, 0.6), "bad": (0.4, math.nan), "worse": (math.inf, 0.1)}.items()
        for seed, value in enumerate(values)
    ]
    text = write_records(tmp_path / "results.json", found).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [row["value"] for row in json.loads(text)["records"]] == [0.5, 0.6, 0.4, None, None, 0.1]
    back = read_records(tmp_path / "results.json")
    assert [math.isnan(record.value) for record in back] == [False, False, False, True, True, False]
    table = compare(back, {"loss": "min"})
    assert [row[1] for row in table.rows()] == ["0.550 ±0.071", "-", "-"]
    assert table.mean_rank is None  # one scheme alone was measured whole
    assert ",,,2," in table.csv()


@pytest.mark.parametrize(("best", "ranks"), [("max", [3, 1, 1]), ("min", [1, 2, 2])])
def test_the_direction_of_a_ranking(best, ranks):
    assert competition_ranks([0.1, 0.9, 0.9], best) == ranks
    table = compare([Record("t", "m", v, n, 0, 1) for n, v in zip("abc", (0.1, 0.9, 0.9), strict=True)], {"m": best})
    assert list(table.mean_rank.values()) == ranks


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_result_file_is_as_open_as_any_other(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_records(tmp_path / "results.json", [Record("t", "m", 1.0, "a", 0, 1)])
    finally:
        os.umask(before)
    assert (tmp_path / "results.json").stat().st_mode & 0o777 == mode


def test_ranks_that_open_a_folder_at_the_same_moment_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "versions", dict)  # slow

    def open_it(i):
        barrier.wait()
        return RunFolder(tmp_path / str(i), {"a": 1}, facts={"b": 2}).config

    for i in range(150):
        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(open_it, [i] * 4)) == [{"a": 1}] * 4
