import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import swept
from r2mae_core import (
    Arm,
    InterruptedTrainingError,
    LostTrainingError,
    UserError,
    one_writer,
    options_as_words,
    read_json,
    read_records,
    typed_options,
)
from r2mae_core.sweep import command
from r2mae_core.sweep.arms import arms_of, paper_range
from r2mae_core.sweep.curve import Point, fit_curve
from r2mae_core.sweep.search import SHARES, SHORTEST
from swept import BEST, Options, Trainings, score, sweep


def fixed(*ratios):
    return [Arm(ratio, ratio) for ratio in ratios]


def test_the_answer_finds_the_known_best(tmp_path, capsys):
    trainings = Trainings(tmp_path / "log")
    run = sweep(tmp_path / "run", trainings)
    answer = read_json(run.path / "sweep.json")
    assert answer["recommended"] == "0.4"
    assert answer["recommended"] in answer["as_good"]
    assert not {"0.05", "0.75", "0.9"} & set(answer["as_good"])
    assert answer["runs_spent"] <= 12
    assert answer["trainings"] == len((tmp_path / "log").read_text().splitlines())
    assert answer["pretrain"] == "pretrain --mask_ratio 0.4"
    for key in ("paper_range", "usual_ratio"):
        row = answer[key]
        low, high = map(float, row["arm"].split("-")) if "-" in row["arm"] else (float(row["arm"]),) * 2
        true = score(BEST, BEST, 1, 0, 0) - score(low, high, 1, 0, 0)
        assert row["behind"] == pytest.approx(true, abs=3 * row["standard_error"])
    said = capsys.readouterr()
    assert "Recommended: 0.4 (accuracy" in said.out
    assert "\nR2MAE's range 0.15-0.4 is 0." in said.out
    assert "\nThe usual ratio 0.15 is 0." in said.out
    assert (run.path / "figures" / "sweep.png").exists()
    full = [record for record in read_records(run.path) if record.metric == "accuracy"]
    assert {record.scheme for record in full} >= {"high 0.4"}  # as tables call it in text
    assert {(record.task, record.n, record.split) for record in full} == {("task", 9, "test")}
    # Poor arms were stopped early, good ones were repeated.
    rows = {row["arm"]: row for row in answer["curve"]}
    assert rows["0.4"]["n_full"] > 1
    assert rows["0.05"]["n_full"] == rows["0.9"]["n_full"] == 0


def test_small_values_are_good_where_the_metric_says_so(tmp_path):
    run = sweep(tmp_path / "run", Trainings(tmp_path / "log", sign=-1))
    answer = read_json(run.path / "sweep.json")
    assert (answer["recommended"], answer["direction"]) == ("0.4", "min")
    best = next(row for row in answer["curve"] if row["arm"] == "0.4")
    assert best["mean"] == pytest.approx(-score(BEST, BEST, 1, 0, 0), abs=0.05)


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path):
    whole, log = Trainings(tmp_path / "whole.log"), tmp_path / "cut.log"
    sweep(tmp_path / "whole", whole)
    for cut in (5, 9, None):
        trainings = Trainings(log, cut=cut)
        if cut is None:
            run = sweep(tmp_path / "cut", trainings)
        else:
            with pytest.raises(KeyboardInterrupt):
                sweep(tmp_path / "cut", trainings)
    lines = [line.split() for line in log.read_text().splitlines()]
    done = [tuple(line[:3]) for line in lines]
    assert len(set(done)) == len(done)  # nothing is trained twice
    assert [line[4] for line in lines].count("again") == 2  # what was cut off was gone on with, in its own folder
    assert read_json(run.path / "sweep.json")["recommended"] == "0.4"
    assert read_json(run.path / "sweep.json")["runs_spent"] <= 12


def test_more_budget_goes_on(tmp_path):
    sweep(tmp_path / "run", Trainings(tmp_path / "log"), budget_runs=4)
    first = (tmp_path / "log").read_text()
    run = sweep(tmp_path / "run", Trainings(tmp_path / "log"), budget_runs=8)
    text = (tmp_path / "log").read_text()
    assert text.startswith(first)
    done = [tuple(line.split()[:3]) for line in text.splitlines()]
    assert len(set(done)) == len(done)
    assert 7 < read_json(run.path / "sweep.json")["runs_spent"] <= 8


def test_the_answer_is_read_and_written_by_one_process_at_a_time(tmp_path, monkeypatch):
    """Else the slower of two would write its older answer over that of the other; see the same test of grids."""
    held, read = [], command.points

    def reading(*args):
        held.append((tmp_path / "run" / ".results.json.lock").exists())
        return read(*args)

    monkeypatch.setattr(command, "points", reading)
    sweep(tmp_path / "run", Trainings(tmp_path / "log"), budget_runs=4)
    assert held == [True]
    assert not (tmp_path / "run" / ".results.json.lock").exists()


@pytest.mark.parametrize("same_folder", [True, False])
@pytest.mark.parametrize("storage", ["trials.log", "sqlite:///trials.db"])
def test_two_processes_share_the_work(tmp_path, same_folder, storage):
    log, script = tmp_path / "log", Path(swept.__file__)
    outs = [tmp_path / "run", tmp_path / ("run" if same_folder else "other")]
    processes = [
        subprocess.Popen([sys.executable, script, out, log, storage], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for out in outs
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    lines = [line.split() for line in log.read_text().splitlines()]
    done = [tuple(line[:3]) for line in lines]
    assert len(set(done)) == len(done)  # no training twice
    assert len({line[3] for line in lines}) == 2  # both took part
    answers = [read_json(out / "sweep.json") for out in outs]
    assert max(answer["trainings"] for answer in answers) == len(done)
    assert {answer["recommended"] for answer in answers} <= {"0.4", "0.25", "0.5"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1"}, "--metric f1 is not measured here; there is accuracy, other"),
        ({"budget_runs": 1.0}, "--budget_runs 1 is too small to try"),
        ({"ratios": (0.3, 0.3)}, "--ratios names 0.3 twice"),
        ({"ratios": (0.3, 1.4)}, "ratios"),
        ({"ranges": ((0.5, 0.2),)}, r"--ranges: \[0.5, 0.2\] is no range"),
        ({"budget_runs": float("nan")}, "budget_runs"),
        ({"storage": "nodb://nowhere"}, "--storage nodb://nowhere cannot be used"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as error:
        sweep(tmp_path / "run", Trainings(tmp_path / "log"), **options)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_storage_of_another_sweep_is_refused(tmp_path):
    storage = str(tmp_path / "trials.log")
    sweep(tmp_path / "first", Trainings(tmp_path / "log"), storage=storage, budget_runs=3)
    with pytest.raises(UserError, match="holds a sweep of other data or options"):
        sweep(tmp_path / "second", Trainings(tmp_path / "log"), storage=storage, budget_runs=3, ratios=(0.2, 0.8))


def test_a_score_that_is_missing_or_no_number_is_said(tmp_path):
    def nothing(sampler, seed, share, folder):
        return []

    nothing.sign = 1
    with pytest.raises(UserError, match="the evaluation gave no accuracy"):
        sweep(tmp_path / "run", nothing)


def test_a_training_that_is_lost_leaves_out_its_arm(tmp_path, capsys):
    good = Trainings(tmp_path / "log")

    def measure(sampler, seed, share, folder):
        low, high = sampler.bounds(0)
        if low == high == 0.4:
            raise LostTrainingError("the loss is NaN from step 3 on")
        records = good(sampler, seed, share, folder)
        return [replace(record, value=math.nan) for record in records] if low == high == 0.9 else records

    measure.sign = 1
    run = sweep(tmp_path / "run", measure)
    answer = read_json(run.path / "sweep.json")
    assert set(answer["lost"]) == {"0.4", "0.9"}
    assert answer["lost"]["0.9"] == "its accuracy is nan"
    assert answer["recommended"] in {"0.5", "0.25"}
    assert "Left out: 0.4, of which a training was lost: the loss is NaN from step 3 on" in capsys.readouterr().out


def test_checkpoints_of_finished_trainings_are_removed_and_an_interruption_names_the_sweep(tmp_path):
    good = Trainings(tmp_path / "log")

    def measure(sampler, seed, share, folder):
        (folder / "pretrain" / "checkpoints").mkdir(parents=True)
        (folder / "pretrain" / "model").mkdir()
        if seed == 1:
            raise InterruptedTrainingError(f"interrupted at step 3; run the same command with --out {folder}")
        return good(sampler, seed, share, folder)

    measure.sign = 1
    with pytest.raises(UserError, match=rf"^interrupted; run the same command with --out {tmp_path / 'run'} to go on$"):
        sweep(tmp_path / "run", measure)
    kept = sorted((tmp_path / "run").glob("trials/*-seed0/*/pretrain/*"))
    assert kept
    assert {path.name for path in kept} == {"model"}


def test_moved_data_is_the_same_data(tmp_path):
    """Where the content says what the data are."""
    for data in ("here", "there"):
        run = sweep(tmp_path / "run", Trainings(tmp_path / "log"), budget_runs=3, data=data)
    assert read_json(run.path / "sweep.json")["trainings"] == len((tmp_path / "log").read_text().splitlines())


def test_options_in_options():
    assert options_as_words({"steps": 3, "flip": False, "name": "a b", "betas": [0.9, 0.99], "clip": None}) == (
        "--steps 3 --flip false --name 'a b' --betas '[0.9, 0.99]' --clip null"
    )
    assert typed_options(Options, {"budget_runs": "3", "wait": 2}, "sweep", {"budget_runs", "wait"}) == {
        "budget_runs": 3.0, "wait": 2.0,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"--sweep takes no nope; it takes wait$"):
        typed_options(Options, {"nope": 3}, "sweep", {"wait"})
    with pytest.raises(UserError, match=r"--sweep takes no seed \(the sweep decides it\)"):
        typed_options(Options, {"seed": 3}, "sweep", {"wait"})
    with pytest.raises(UserError, match="--sweep: --wait x: this is not a number"):
        typed_options(Options, {"wait": "x"}, "sweep", {"wait"})


def test_arms_hold_the_papers_range_and_the_usual_ratio():
    arms = arms_of((0.3, 0.6), ((0.2, 0.5),), "text")
    assert [arm.name for arm in arms] == ["0.15-0.4", "0.3", "0.15", "0.6", "0.2-0.5"]
    assert arms[0] == paper_range("text")
    assert arms[-1].as_option() == "--mask_ratio Uniform --mask_ratio.low 0.2 --mask_ratio.high 0.5"
    order = [arm.low for arm in arms_of(Options().ratios, (), "text")[1:]]
    assert order[0] == 0.4  # the middle of nine first, then the halves
    assert sorted(order) == sorted(Options().ratios)


def test_the_curve_is_calibrated():
    """Of many simulated sweeps, two standard errors hold the truth about as often as they should."""
    arms, rng, held, calls = fixed(*np.linspace(0.1, 0.9, 9)), np.random.default_rng(0), 0, 0
    for _ in range(60):
        centre, depth = rng.uniform(0.2, 0.8), rng.uniform(0.5, 4)
        true = {arm: -depth * (arm.low - centre) ** 2 for arm in arms}
        points = [
            Point(arm, share, true[arm] + share + 0.1 * rng.standard_normal()) for arm in arms for share in (0.2, 1.0)
        ]
        curve = fit_curve(points, arms)
        for i in (0, 4, 8):
            lag, error = curve.behind(i, 2)
            held, calls = held + (abs(lag - (true[arms[2]] - true[arms[i]])) <= 2 * error), calls + 1
    assert 0.88 <= held / calls <= 1.0


def test_the_curve_borrows_from_neighbours_and_from_short_trainings():
    arms, rng = fixed(*np.linspace(0.1, 0.9, 9)), np.random.default_rng(1)
    noise = 0.1 * rng.standard_normal(9)
    points = [Point(arm, 1.0, -4 * (arm.low - 0.5) ** 2 + noise[i]) for i, arm in enumerate(arms)]
    curve = fit_curve(points, arms)
    truth = np.array([-4 * (arm.low - 0.5) ** 2 for arm in arms])
    error = (curve.mean - curve.mean.mean()) - (truth - truth.mean())
    assert np.abs(error).mean() < np.abs(noise).mean()
    short = [Point(arm, 0.2, 5 - 4 * (arm.low - 0.5) ** 2) for arm in arms] + [Point(arms[0], 1.0, 9.0)]
    assert fit_curve(short, arms).best == 4  # the level of the short ones does not count
    flat = fit_curve([Point(arm, 1.0, float(noise[i])) for i, arm in enumerate(arms)], arms)
    assert len(flat.as_good()) == 9
    with pytest.raises(ValueError, match="scores that are numbers"):
        fit_curve([Point(arms[0], 1.0, float("nan"))], arms)


def test_the_first_trainings_have_a_fifth_of_the_length():
    """The packages' pages and messages say so, and refuse a full length that has no fifth."""
    assert SHARES == (0.2, 1.0)
    assert SHORTEST == 5


def test_another_sweep_in_the_same_folder_is_refused(tmp_path):
    sweep(tmp_path / "run", Trainings(tmp_path / "first"), budget_runs=3)
    with one_writer(tmp_path / "run" / "trials" / "0.15-0.4-seed0"):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from swept import *\n"
            "try: sweep(sys.argv[2], Trainings(sys.argv[3]), storage='other.log')\n"
            "except UserError as error: sys.exit(str(error))"
        )
        words = [sys.executable, "-c", code, str(Path(swept.__file__).parent), tmp_path / "run", tmp_path / "log"]
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is being trained by another sweep in the same folder" in done.stderr
    assert not (tmp_path / "log").exists()
