import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from r2mae_core import Record, RunFolder, cell_name, finished_records, read_records, walk_grid

RECORD = Record("digits", "accuracy", 0.5, "a", 0, 9)


def cells(calls, *names):
    def measure(home):
        calls.append(home.name)
        return [replace(RECORD, scheme=home.name)]

    return dict.fromkeys(names, measure)


def test_what_is_done_is_not_done_again_and_results_hold_every_cell(tmp_path, capsys):
    run, calls = RunFolder(tmp_path / "run", {}), []
    walk_grid(run, cells(calls, "b-0"))
    found = walk_grid(run, cells(calls, "c-0", "b-0", "a-0"))
    assert calls == ["b-0", "c-0", "a-0"]
    assert [record.scheme for record in found] == ["c-0", "b-0", "a-0"]
    walk_grid(run, cells(calls, "a-0"))  # a part of the grid: the results keep the others
    assert {record.scheme for record in run.results()} == {"a-0", "b-0", "c-0"}
    assert "[2/3] b-0: done before" in capsys.readouterr().out


def test_an_interrupted_walk_keeps_what_is_finished(tmp_path):
    run, calls = RunFolder(tmp_path / "run", {}), []

    def cut(home):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk_grid(run, {**cells(calls, "a-0"), "b-0": cut})
    assert [record.scheme for record in run.results()] == ["a-0"]
    walk_grid(run, cells(calls, "a-0", "b-0"))
    assert calls == ["a-0", "b-0"]


def test_parts_share_the_cells_and_again_calls_them(tmp_path):
    run, calls = RunFolder(tmp_path / "run", {}), []
    walk_grid(run, cells(calls, "a-0"), part="table6")
    assert [record.scheme for record in read_records(run.path / "a-0" / "table6")] == ["table6"]
    walk_grid(run, cells(calls, "a-0"), part="table8")
    assert len(finished_records(run, part="table8")) == 1
    walk_grid(run, cells(calls, "a-0"), part="table8", again=True)
    assert calls == ["table6", "table8", "table8"]


def test_two_processes_share_a_grid(tmp_path):
    """Each cell takes a while; together they do every one of them, and none of them twice."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from r2mae_core import Record, RunFolder, walk_grid\n"
        "def measure(home):\n"
        "    with (home.parent / 'calls.txt').open('a') as log: log.write(home.name + '\\n')\n"
        "    time.sleep(0.3)\n"
        "    return [Record('t', 'm', 1.0, home.name, 0, 1)]\n"
        "walk_grid(RunFolder(sys.argv[1], {}), {f'c-{i}': measure for i in range(6)})\n"
        "print(len(RunFolder.open(sys.argv[1]).results()))\n"
    )
    RunFolder(tmp_path / "run", {})
    words = [sys.executable, "-c", script, str(tmp_path / "run")]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert all(process.returncode == 0 for process in both)
    assert sorted((tmp_path / "run" / "calls.txt").read_text().split()) == [f"c-{i}" for i in range(6)]
    assert all(output.strip().endswith("6") for output in outputs)


def test_the_slower_of_two_processes_does_not_undo_the_results_of_the_other(tmp_path):
    """Another process ends its cell while this one has read what there is, and not written it yet."""
    script = (
        "import sys\n"
        "from r2mae_core import Record, RunFolder, walk_grid\n"
        "walk_grid(RunFolder(sys.argv[1], {}), {'b-0': lambda home: [Record('t', 'm', 1.0, 'b-0', 0, 1)]})\n"
    )
    run, others = RunFolder(tmp_path / "run", {}), []

    def slow(records):
        others.append(subprocess.Popen([sys.executable, "-c", script, str(run.path)], env=os.environ))
        while not (run.path / "b-0" / "results.json").exists():
            assert others[0].poll() in (None, 0)
            time.sleep(0.05)
        time.sleep(1)
        return records

    walk_grid(run, cells([], "a-0"), tidy=slow)
    assert others[0].wait(60) == 0
    assert {record.scheme for record in run.results()} == {"a-0", "b-0"}


def test_cell_names_are_folders():
    assert cell_name("Uniform(0.1, 0.5)", 0) == "Uniform-0.1-0.5-0"
    assert cell_name("fixed 0.75", 2) == "fixed-0.75-2"
    assert "/" not in cell_name("a/b", 1)


def test_another_rank_joins_the_work_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """Otherwise it would wait for the claim of rank 0, which waits for it in the training."""
    run, calls = RunFolder(tmp_path / "run", {}), []
    walk_grid(run, cells(calls, "a-0"))
    capsys.readouterr()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert walk_grid(run, cells(calls, "a-0", "b-0")) == []
    assert calls == ["a-0", "b-0"]
    assert not (run.path / "b-0").exists()
    assert capsys.readouterr().out == ""
