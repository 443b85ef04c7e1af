"""A sweep end to end on tiny data, and everything that is refused before anything is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import r2mae_text.sweep as sweep_module
from r2mae_core import Fixed, RunFolder, UserError, read_records
from r2mae_text.data.prepare import prepare
from r2mae_text.options import Prepare, Sweep
from r2mae_text.sweep import finetune_options, pretrain_options, sweep

MODEL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
PRETRAIN = {"model": "tiny", "model_args": MODEL, "length": 16, "batch_size": 8, "steps": 5, "lr": 1e-2}


@pytest.fixture
def topic(tmp_path):
    """The folder of a task about war and money."""
    texts = ("the war went on", "our army marched", "taxes were paid", "the debt grew")
    folder = tmp_path / "tasks" / "topic"
    folder.mkdir(parents=True)
    rows = [json.dumps({"text": text, "label": i // 2}) for i, text in enumerate(texts)]
    for part in ("train", "validation"):
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    return folder.parent


@pytest.fixture
def config(corpus, topic):
    return Sweep(
        corpus.path, tasks=("topic",), task_data=str(topic), text_columns=("text",), pretrain=PRETRAIN,
        finetune={"epochs": 1, "batch_size": 4}, ratios=(0.4, 0.75), ranges=(), budget_runs=1.0, device="cpu",
        out=Path("sweep"), progress=False,
    )  # fmt: skip


@pytest.fixture
def trained(monkeypatch):
    """The options of every pretraining that was begun."""
    found, original = [], sweep_module.pretrain
    monkeypatch.setattr(sweep_module, "pretrain", lambda options: found.append(options) or original(options))
    return found


def test_a_sweep_answers_and_goes_on_with_a_larger_budget(config, capsys, trained):
    run = sweep(config)
    answer = json.loads((run.path / "sweep.json").read_text())
    assert answer["metric"] == "accuracy"
    assert {row["arm"] for row in answer["curve"]} == {"0.15-0.4", "0.15", "0.4", "0.75"}
    assert [(o.mask_ratio, o.seed, o.steps) for o in trained[1:3]] == [(Fixed(0.4), 0, 1), (Fixed(0.15), 0, 1)]
    assert answer["pretrain"].startswith(f"r2mae-text pretrain {config.data} --model tiny --model_args ")
    assert "Next: r2mae-text pretrain" in capsys.readouterr().out
    tuned = RunFolder.open(run.path / "trials/0.4-seed0/0.2/finetune")
    measured = {("topic", metric, 0) for metric in ("accuracy", "macro_f1", "majority")}
    assert {(r.task, r.metric, r.seed) for r in tuned.results()} == measured
    assert not list(run.path.glob("trials/*/*/pretrain/checkpoints"))
    n = len(trained)
    more = sweep(replace(config, budget_runs=2.6))
    assert json.loads((more.path / "sweep.json").read_text())["trainings"] > answer["trainings"]
    assert {o.steps for o in trained[n:]} <= {1, 2, 5}
    assert len({o.out for o in trained}) == len(trained)  # nothing is trained twice


def test_a_training_that_is_there_is_not_done_again(config, monkeypatch):
    measures = []
    monkeypatch.setattr(sweep_module, "run_sweep", lambda *args, **_: measures.append(args[3]))
    sweep(config)
    first = measures[0](Fixed(0.4), 3, 0.4, Path("trial"))
    weights = Path("trial/pretrain/model/model.safetensors").stat().st_mtime_ns
    assert [record.value for record in measures[0](Fixed(0.4), 3, 0.4, Path("trial"))] == [r.value for r in first]
    assert Path("trial/pretrain/model/model.safetensors").stat().st_mtime_ns == weights
    kept = RunFolder.open("trial/pretrain").config
    assert (kept["steps"], kept["seed"], kept["mask_ratio"]["init_args"]["ratio"]) == (2, 3, 0.4)
    assert {record.seed for record in read_records("trial/finetune")} == {3}


def test_without_tasks_the_held_out_loss_is_compared(config):
    config = replace(config, tasks=(), text_columns=(), finetune={}, metric="loss@0.3", budget_runs=0.8)
    answer = json.loads((sweep(config).path / "sweep.json").read_text())
    assert (answer["metric"], answer["direction"]) == ("loss@0.3", "min")
    assert 4 < answer["curve"][0]["mean"] < 8


def test_options_of_the_stages(config):
    given = {**PRETRAIN, "steps": None, "tokens": 16 * 8 * 50, "ratio_per": "sample", "seed": 1}
    with pytest.raises(UserError, match=r"--pretrain takes no seed \(the sweep decides it\); it takes batch_size"):
        pretrain_options(replace(config, pretrain=given))
    del given["seed"]
    made = pretrain_options(replace(config, pretrain=given))
    assert (made.steps, made.tokens, made.ratio_per, made.model_args) == (50, None, "sample", MODEL)
    tuning = finetune_options(replace(config, finetune={"seeds": [1, 2], "lr": 1e-3}), Path("m"), 7, Path("f"))
    assert (tuning.seeds, tuning.lr, tuning.model, tuning.tasks) == ((1, 2), 1e-3, "m", ("topic",))
    assert (tuning.task_data, tuning.text_columns, tuning.device) == (config.task_data, ("text",), "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "f1"}, "--metric f1 is not measured here; there is accuracy"),
        ({"metric": "loss@0.3"}, "--metric loss@0.3 is of pretraining alone; leave --tasks out"),
        ({"tasks": ()}, "--tasks is empty; name what to fine-tune on, or --metric loss@0.15"),
        ({"tasks": (), "metric": "loss@0.3"}, "--finetune is of --tasks, and there are none"),
        (
            {"tasks": (), "metric": "loss@0.2", "finetune": {}},
            "--metric loss@0.2 is not measured here; there is loss@0.05",
        ),
        ({"tasks": ("topic", "topic")}, "--tasks names topic twice"),
        ({"tasks": ("other",)}, "no train of other in"),
        ({"text_columns": ("words",)}, "topic, train: no column words but text, label"),
        ({"tasks": ("topic", "stsb")}, "have no metric in common; sweep them one by one"),
        ({"pretrain": {"model": "tiny"}}, "--pretrain needs steps or tokens"),
        ({"pretrain": {"steps": None}}, "--pretrain needs steps or tokens"),
        ({"pretrain": {**PRETRAIN, "steps": 4}}, "--pretrain makes 4 steps of full length"),
        ({"pretrain": {**PRETRAIN, "minutes": 3}}, r"--pretrain takes no minutes \(the sweep decides it\)"),
        ({"pretrain": {**PRETRAIN, "layers": 3}}, "--pretrain takes no layers; it takes"),
        ({"pretrain": {**PRETRAIN, "lr": "high"}}, "--pretrain: .*lr"),
        ({"pretrain": {**PRETRAIN, "model": "nosuch"}}, "unknown model 'nosuch'"),
        ({"pretrain": {**PRETRAIN, "batch_size": 10**6}}, "samples do not fill a batch"),
        (
            {"pretrain": {**PRETRAIN, "model_args": {**MODEL, "max_position_embeddings": 20}}, "finetune": {}},
            "an example has .* tokens, and the model takes 18; lower --max_length",
        ),
        ({"finetune": {"model": "x"}}, r"--finetune takes no model \(the sweep decides it\)"),
        ({"finetune": {"epochs": 0}}, "--epochs must be at least 1, got 0"),
        ({"device": "cuda"}, "sees no CUDA GPU"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(config, changes, message, trained, topic):
    (topic / "stsb").mkdir()
    for part in ("train", "validation"):
        rows = [{"sentence1": "a", "sentence2": "b", "label": score, "text": "a"} for score in (0.5, 1.5)]
        (topic / "stsb" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if "max_position_embeddings" in str(changes):
        row = {"text": "war and money " * 30, "label": 0}
        (topic / "topic" / "train.jsonl").write_text("\n".join(json.dumps({**row, "label": i}) for i in (0, 1)))
    with pytest.raises(UserError, match=message):
        sweep(replace(config, **changes))
    assert not trained


def test_a_score_that_is_no_number_is_named(config, monkeypatch, capsys):
    monkeypatch.setattr(sweep_module, "metrics_of", lambda task: ("accuracy",))
    monkeypatch.setattr("r2mae_text.tuning.score", lambda *_: {"accuracy": float("nan")})
    with pytest.raises(UserError, match="nothing was measured"):
        sweep(config)
    assert "its accuracy is nan" in capsys.readouterr().out


def test_other_tasks_or_another_corpus_are_another_sweep(config, corpus, speeches, topic):
    shutil.copytree(corpus.path, "corpus")
    config = replace(config, data=Path("corpus"), budget_runs=0.8)
    sweep(config)
    file = topic / "topic" / "train.jsonl"
    before = file.read_text()
    file.write_text(before.replace("taxes", "tolls"))
    with pytest.raises(UserError, match=r"train\.jsonl"):
        sweep(config)
    file.write_text(before)
    shutil.rmtree("corpus")
    prepare(Prepare((speeches[0],), vocab_size=300, validation_share=0.2, workers=1, out=config.data, progress=False))
    with pytest.raises(UserError, match=r"corpus is .* there and .* here"):
        sweep(config)


def test_the_command(call, config):
    code, out, err = call(
        "sweep", config.data, "--tasks", "[topic]", "--task_data", config.task_data, "--text_columns", "[text]",
        "--pretrain", json.dumps(PRETRAIN), "--finetune", '{"epochs": 1}', "--ratios", "[0.4,0.75]", "--ranges", "[]",
        "--budget_runs", "0.8", "--device", "cpu", "--out", "sweep", "--no-progress",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "Recommended: " in out
    code, _, err = call("sweep", config.data, "--tasks", "[topic]", "--pretrain", '{"steps": 9}', "--device", "cpu")
    assert code == 1
    assert err.startswith("r2mae-text sweep: unknown task 'topic'")
    assert len(err.splitlines()) == 1
    assert torch.get_num_threads() == 1
