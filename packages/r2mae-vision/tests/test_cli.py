import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from r2mae_core import read_records
from r2mae_vision.cli import main


@pytest.fixture
def call(capsys):
    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


TINY = ["--hidden", "[24,12]", "--epochs", "1", "--device", "cpu", "--no-progress"]


def test_demo_prints_the_table_and_writes_the_run_folder(call, tmp_path):
    code, out, err = call("demo", "--out", "run", "--n-seeds", "2", *TINY)
    assert (code, err) == (0, "")
    for text in ("fixed 0.75", "mdlm", "dynamic", "r2mae", "28 masked autoencoders", "Run folder: run"):
        assert text in out
    run = tmp_path / "run"
    assert (run / "figures" / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (run / "figures" / "demo.png").stat().st_size > 50_000
    records = read_records(run)
    assert {r.metric for r in records} == {"probe_accuracy", "effective_rank", "mse@0.1", "mse@0.5", "mse@0.9"}
    assert len(records) == 14 * 2 * 5
    assert {r.device for r in records} == {"cpu (1 threads)"}
    assert (run / "config.yaml").exists()
    assert (run / "metrics.csv").exists()
    assert json.loads((run / "versions.json").read_text())["packages"]["torch"]
    assert "| r2mae |" in (run / "table.md").read_text()


def test_pretrain_probe_compare(call):
    code, out, _ = call(
        "pretrain", "--out", "run", "--mask-ratio", "Uniform", "--mask_ratio.low=0.2", "--mask_ratio.high=0.6",
        "--seeds", "[0,1]", *TINY,
    )  # fmt: skip
    assert code == 0
    assert "uniform from 0.2 to 0.6" in out
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["mask_ratio"]["class_path"] == "r2mae_core.Uniform"
    code, out, _ = call("probe", "run", "--epochs", "2", "--device", "cpu")
    assert code == 0
    assert "Uniform(0.2, 0.6)" in out
    assert {r.seed for r in read_records("run")} == {0, 1}
    code, out, _ = call("compare", "run", "--markdown")
    assert code == 0
    assert out.startswith("| scheme (n = 2) | probe_accuracy |")


def test_a_dumped_config_replays_to_the_same_model(call):
    assert call("pretrain", "--out", "a", "--mask_ratio", "r2mae", *TINY)[0] == 0
    assert call("pretrain", "-c", "a/config.yaml", "--out", "b", "--no-progress")[0] == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_a_run_folder_of_another_config_is_refused(call):
    assert call("pretrain", "--out", "run", *TINY)[0] == 0
    code, _, err = call("pretrain", "--out", "run", *TINY, "--lr", "0.1")
    assert code == 1
    assert err == (
        "r2mae-vision pretrain: run holds a run of another config: lr is 0.003 there and 0.1 here; "
        "name another folder with --out\n"
    )


def test_reproduce_walks_the_grid_once_and_draws_both_figures(call, tmp_path, digits):
    grid = ["--data", "digits", "--hidden1", "[8,16]", "--hidden2", "[4,8]", "--ratios", "[0.2,0.6]", "--epochs", "1",
            "--ranges", "[[0.2,0.6]]", "--device", "cpu", "--no-progress"]  # fmt: skip
    code, out, _ = call("reproduce", "fig2a", *grid)
    assert code == 0
    assert out.count("done before") == 0
    code, out, _ = call("reproduce", "fig2d", *grid)
    assert code == 0
    assert out.count("done before") == 4
    run = tmp_path / "runs" / "r2mae-vision-reproduce-fig2"
    assert (run / "figures" / "fig2a.png").exists()
    assert (run / "figures" / "fig2d.png").exists()
    records = read_records(run)
    assert {r.task for r in records} == {"digits 8-4", "digits 8-8", "digits 16-4", "digits 16-8"}
    assert {r.scheme for r in records} == {"fixed 0.2", "fixed 0.6", "U(0.2, 0.6)"}
    code, out, _ = call("reproduce", "fig2a", "--dry-run", *grid)
    assert code == 0
    assert "16-8: 6 models, about" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrain", "--mask_ratio", "1.5"], r"mask_ratio: ratio must be a number in [0, 1], got 1.5"),
        (["pretrain", "--mask_ratio", "r3mae"], "unknown mask scheme 'r3mae' for vision; known: fixed, low, high"),
        (
            ["pretrain", "--mask_ratio", "Uniform", "--mask_ratio.low=0.9", "--mask_ratio.high=0.6"],
            "low must not exceed high, got low=0.9, high=0.6",
        ),
        (["demo", "--data", "imagenet"], "unknown data set 'imagenet'; known: digits, mnist"),
        (["demo", "--data", "mnist"], "mnist needs --root DIR"),
        (["demo", "--data", "mnist", "--root", "."], "no train-images-idx3-ubyte or"),
        (["demo", "--device", "cuda"], "'cuda' was asked for, but torch"),
        (["probe", "nowhere"], "is no run folder"),
        (["compare", "nowhere"], "no results at"),
    ],
)
def test_bad_input_is_one_line_on_stderr(call, argv, message):
    code, _, err = call(*argv)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


def test_mnist_from_files_on_the_command_line(call, tmp_path, digits, write_mnist):
    write_mnist(tmp_path / "mnist", digits, compress=True)
    code, *_ = call("pretrain", "--data", "mnist", "--root", "mnist", "--out", "run", *TINY)
    assert code == 0
    assert call("probe", "run", "--epochs", "1")[0] == 0


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; sys.argv=['x','pretrain','--help']\nfrom r2mae_vision.cli import main\n"
    code += "try: main()\nexcept SystemExit as e: assert e.code == 0\n"
    code += "print([m for m in ('torch','numpy','lightning','sklearn','matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_recipe_is_one_of_its_command(call):
    import r2mae_vision.cli as cli
    from r2mae_core.commands import recipes

    found = {(verb, name) for verb in cli.COMMANDS for name in recipes("r2mae_vision", verb)}
    assert {("pretrain", "paper-mnist"), ("reproduce", "overparametrised"), ("demo", "mnist")} <= found
    for verb, name in found:
        needed = ["fig2a"] if verb == "reproduce" else []
        code, out, _ = call(verb, *needed, "-c", name, "--print_config")
        assert code == 0, (verb, name)
        assert yaml.safe_load(out)["data"] == "mnist"
