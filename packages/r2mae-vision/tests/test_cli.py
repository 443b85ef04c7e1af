import json
import shutil
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


TINY = ["--n_hidden", "[24,12]", "--epochs", "1", "--device", "cpu", "--no-progress"]


def test_demo_prints_the_table_and_writes_the_run_folder(call, tmp_path):
    code, out, err = call("demo", "--out", "run", "--seeds", "[0,1]", *TINY)
    assert (code, err) == (0, "")
    for text in ("fixed 0.75", "mdlm", "dynamic", "r2mae", "28 masked autoencoders", "Run folder: run"):
        assert text in out
    run = tmp_path / "run"
    assert (run / "figures" / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (run / "figures" / "demo.png").stat().st_size > 50_000
    records = read_records(run)
    losses = {f"loss@{ratio}" for ratio in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)}
    assert {r.metric for r in records} == {"probe_accuracy", "effective_rank", *losses}
    assert len(records) == (14 + 2) * 2 * 13  # with the two controls
    assert "Positive control NOT met" in out  # two seeds are too few for a verdict
    assert {r.device for r in records} == {"cpu (1 thread)"}
    assert (run / "config.yaml").exists()
    assert (run / "metrics.csv").exists()
    assert json.loads((run / "versions.json").read_text())["packages"]["torch"]
    assert "| r2mae |" in (run / "table.md").read_text()


def test_demo_of_a_vit_refuses_what_does_not_apply_to_it(call):
    code, _, err = call("demo", "--model", "vit", "--seeds", "[5]")
    assert (code, err) == (
        1,
        "r2mae-vision demo: --seeds (for --model mlp) does not apply to --model vit; leave it out\n",
    )


def test_demo_of_a_vit(call, tmp_path):
    code, out, err = call("demo", "--model", "vit", "--epochs", "1", "--out", "run", "--device", "cpu", "--no-progress")
    assert (code, err) == (0, "")
    records = read_records("run")
    assert {r.metric for r in records} == {"mse@0.5", "mse@0.75", "mse@0.9"}
    assert {r.scheme for r in records} == {"r2mae", "mean visible colour"}
    assert (tmp_path / "run" / "figures" / "demo.png").stat().st_size > 50_000
    assert "Figure: run/figures/demo.png" in out


MLP = ["digits", *TINY]
VIT = [
    "digits", "--model", "vit_tiny_patch16_224", "--model_args", '{"depth": 1, "embed_dim": 24, "num_heads": 3}',
    "--image_size", "8", "--patch_size", "2", "--decoder_dim", "16", "--decoder_depth", "1", "--decoder_heads", "2",
    "--epochs", "2", "--batch_size", "64", "--lr", "0.003", "--no-flip", "--device", "cpu", "--no-progress",
]  # fmt: skip


def test_pretrain_probe_compare_of_the_mlp(call):
    code, out, _ = call(
        "pretrain-mlp", "--out", "run", "--mask-ratio", "Uniform", "--mask_ratio.low=0.2", "--mask_ratio.high=0.6", *MLP
    )
    assert code == 0
    assert "uniform from 0.2 to 0.6" in out
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["mask_ratio"]["class_path"] == "r2mae_core.Uniform"
    assert "Done: run (results.json, model/). Next: r2mae-vision probe run" in out
    losses = read_records("run")
    assert {r.metric for r in losses} == {"loss@0.1", "loss@0.5", "loss@0.9"}
    code, out, _ = call("probe", "run", "--out", "probe", "--device", "cpu")
    assert code == 0
    assert "Uniform(0.2, 0.6)" in out
    assert {r.metric for r in read_records("probe")} == {"probe_accuracy", "effective_rank"}
    assert {r.seed for r in read_records("probe")} == {0}
    assert read_records("run") == losses
    code, out, _ = call("compare", "run", "probe", "--markdown")
    assert code == 0
    assert out.startswith("| scheme (n = 1) | loss@0.1 | loss@0.5 | loss@0.9 | probe_accuracy |")
    code, _, err = call("finetune", "run", "digits")
    assert (code, "run holds the MLP of figure 2A" in err) == (1, True)


def test_pretrain_reconstruct_export_probe_finetune_compare(call, tmp_path):
    """The whole way of a ViT from the command line, and back through timm."""
    import timm
    import torch

    assert call("pretrain", "--out", "run", "--seed", "3", *VIT)[0] == 0
    code, out, _ = call("reconstruct", "run", "--device", "cpu", "--n_images", "3", "--out", "picture.png")
    assert (code, out) == (0, "Figure: picture.png\n")
    assert Path("picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    code, out, _ = call("export", "run", "--out", "exported")
    assert code == 0
    model = eval(out.splitlines()[0], {"timm": timm})  # the line that it prints is Python
    from r2mae_vision import load_mae

    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.eval().forward_features(images), load_mae(Path("run")).encoder.forward_features(images))
    common = ["--device", "cpu", "--no-progress", "--workers", "0", "--crop_pct", "1"]
    code, out, _ = call("probe", "run", "--out", "probe", *common)
    assert code == 0
    assert "knn20 top1" in out
    assert out.endswith("Done: probe (results.json, table.md)\n")
    rates = ["--epochs", "1", "--warmup", "0", "--batch_size", "64", "--auto_augment", "none", *common]
    assert call("finetune", "run", "digits", "--out", "tuned", *rates)[0] == 0
    assert call("finetune", "scratch:run", "digits", "--out", "scratch", *rates)[0] == 0
    code, out, _ = call("compare", "run", "probe", "tuned", "scratch", "--markdown")
    assert code == 0
    assert "| no pretraining |" in out
    assert "| r2mae |" in out
    found = [record for name in ("run", "probe", "tuned") for record in read_records(name)]
    assert {(r.scheme, r.task, r.split, r.seed) for r in found} == {("r2mae", "digits", "validation", 3)}
    assert all(r.device and r.git is None for r in found)
    for verb in ("probe", "finetune"):  # their config.yaml replays
        run = {"probe": "probe", "finetune": "tuned"}[verb]
        assert call(verb, "-c", f"{run}/config.yaml", "--out", "again", "--no-progress")[0] == 0
        assert [r.value for r in read_records("again")] == [r.value for r in read_records(run)]
        shutil.rmtree("again")


@pytest.mark.parametrize(("verb", "options"), [("pretrain", VIT), ("pretrain-mlp", MLP)])
def test_a_dumped_config_replays_to_the_same_model(call, verb, options):
    code, out, _ = call(verb, "--out", "a", "--mask_ratio", "dynamic", *options)
    assert code == 0
    assert ("held within each of 2 stages" in out) == (
        options is VIT
    )  # what is announced is what is used: a step per epoch
    assert call(verb, "-c", "a/config.yaml", "--out", "b", "--no-progress")[0] == 0
    weights = [Path(name, "model", "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_a_run_folder_of_another_config_is_refused(call):
    assert call("pretrain-mlp", "--out", "run", *MLP)[0] == 0
    code, _, err = call("pretrain-mlp", "--out", "run", *MLP, "--lr", "0.1")
    assert code == 1
    assert err.startswith("r2mae-vision pretrain-mlp: run ")
    assert "lr is 0.003 there and 0.1 here" in err


def test_reproduce_does_the_grid_once_and_draws_both_figures(call, tmp_path, digits):
    grid = ["--data", "digits", "--n_hidden", "[8,16]", "--n_latent", "[4,8]", "--ratios", "[0.2,0.6]", "--epochs", "1",
            "--ranges", "[[0.2,0.6]]", "--out", "run", "--device", "cpu", "--no-progress"]  # fmt: skip
    code, out, _ = call("reproduce-mnist", "fig2a", *grid, "--n_hidden", "[8]", "--n_latent", "[4]")
    assert code == 0
    code, out, _ = call("reproduce-mnist", "fig2a", *grid)  # a grid may grow
    assert code == 0
    assert out.count("done before") == 1
    code, out, _ = call("reproduce-mnist", "fig2d", *grid)
    assert code == 0
    assert out.count("done before") == 4
    run = tmp_path / "run"
    assert "probe_accuracy" in (run / "fig2a.md").read_text()
    assert "effective_rank" in (run / "fig2d.md").read_text()
    assert (run / "figures" / "fig2a.png").exists()
    assert (run / "figures" / "fig2d.png").exists()
    records = read_records(run)
    assert {r.task for r in records} == {"digits 8-4", "digits 8-8", "digits 16-4", "digits 16-8"}
    assert {r.scheme for r in records} == {"fixed 0.2", "fixed 0.6", "Uniform(0.2, 0.6)"}
    code, out, _ = call("reproduce-mnist", "fig2a", "--dry-run", *grid)
    assert code == 0
    assert "16-8: 6 models, about" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrain", "digits", "--mask_ratio", "1.5"], r"mask_ratio: ratio must be a number in [0, 1], got 1.5"),
        (
            ["pretrain", "digits", "--mask_ratio", "r3mae"],
            "unknown mask scheme 'r3mae' for vision; known: fixed, low, high",
        ),
        (
            ["pretrain", "digits", "--mask_ratio", "Uniform", "--mask_ratio.low=0.9", "--mask_ratio.high=0.6"],
            "low must not exceed high, got low=0.9, high=0.6",
        ),
        (["demo", "--data", "."], "no train-images-idx3-ubyte or"),
        (["reproduce-mnist", "fig2a"], "mnist needs --data DIR"),
        (
            ["reproduce-mnist", "fig2a", "--ratios", "[-1]", "--data", "digits"],
            "--ratios must be at least 0 and at most 1, got -1",
        ),
        (["pretrain", "digits", "--warmup", "5"], "--warmup must be at least 0 and at most 1, got 5"),
        (
            ["finetune", "scratch:vit_tiny_patch16_224", "digits", "--warmup", "5"],
            "--warmup must be at least 0 and at most 1",
        ),
        (["demo", "--device", "cuda"], "'cuda' was requested, but torch"),
        (["probe", "nowhere"], "'nowhere' is neither a folder nor a file nor a model of timm"),
        (["reconstruct", "nowhere"], "no mae.json in nowhere"),
        (["export", "nowhere"], "no mae.json in nowhere"),
        (["prepare", "nowhere"], "nowhere: no such file or folder"),
        (["finetune", "nowhere", "digits"], "'nowhere' is neither a folder"),
        (["compare", "nowhere"], "no results at"),
    ],
)
def test_bad_input_is_one_line_on_stderr(call, argv, message):
    code, _, err = call(*argv)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("reproduce fig2b --data .", "reproduce fig2b is now written reproduce-celeba fig2b"),
        ("reproduce --root . fig7", "reproduce fig7 is now written reproduce-celeba fig7"),
        ("reproduce fig2d", "reproduce fig2d is now written reproduce-mnist fig2d"),
        ("pretrain digits --model mlp", "pretrain --model mlp is now written pretrain-mlp"),
        ("pretrain --model=mlp digits", "pretrain --model mlp is now written pretrain-mlp"),
        ("pretrain digits --scope sample", "--scope is now written --ratio_per sample"),
        ("pretrain digits --warmup_epochs 5", "--warmup_epochs is now written --warmup, a share of the steps"),
        ("finetune a b --warmup-epochs 5", "--warmup_epochs is now written --warmup, a share of the steps"),
        ("demo --root .", "--root is now written --data"),
        ("demo --n_seeds 3", "--n_seeds is now written --seeds, such as [0,1,2]"),
        ("reproduce table1 --root .", "--root is now written --data"),
        ("reproduce table1 --judge [probe]", "--judge is now written --evaluate"),
        ("reproduce-mnist fig2a --hidden2 [4]", "--hidden2 is now written --n_latent"),
    ],
)
def test_old_spellings_answer_with_the_new_one(call, argv, message):
    code, _, err = call(*argv.split())
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_mnist_from_files_on_the_command_line(call, tmp_path, digits, write_mnist):
    write_mnist(tmp_path / "mnist", digits, compress=True)
    code, *_ = call("pretrain-mlp", "mnist", "--out", "run", *TINY)
    assert code == 0
    assert call("probe", "run", "--device", "cpu")[0] == 0
    assert len(list(Path("runs").glob("r2mae-vision-probe-*/results.json"))) == 1


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; sys.argv=['x','pretrain','--help']\nfrom r2mae_vision.cli import main\n"
    code += "try: main()\nexcept SystemExit as e: assert e.code == 0\n"
    code += "print([m for m in ('torch','numpy','lightning','sklearn','matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_recipe_is_one_of_its_command(call):
    import r2mae_vision.cli as cli
    from r2mae_core import recipes

    found = {(verb, name) for verb in cli.COMMANDS for name in recipes("r2mae_vision", verb)}
    assert {("pretrain-mlp", "paper-mnist"), ("reproduce-mnist", "overparametrised"), ("demo", "mnist")} <= found
    assert {("pretrain", "paper"), ("finetune", "paper"), ("reproduce", "cifar10")} <= found
    needed = {"pretrain": ["DATA"], "pretrain-mlp": ["DATA"], "finetune": ["MODEL", "DATA"]}
    needed |= {"reproduce": ["table1"], "reproduce-mnist": ["fig2a"]}
    for verb, name in found:
        words = needed.get(verb, [])
        code, out, err = call(verb, *words, "-c", name, "--print_config")
        assert code == 0, (verb, name, err)
        assert yaml.safe_load(out)


def test_table1_does_every_scheme_once_and_compares(call, tmp_path):
    code, out, _ = call("reproduce", "table1")
    assert code == 0
    assert "r2mae        top-1 82.00  top-5 96.05" in out
    pretrain = {"model": "vit_tiny_patch16_224", "model_args": {"depth": 1, "embed_dim": 24, "num_heads": 3},
                "image_size": 8, "patch_size": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
                "batch_size": 64, "lr": 0.003}  # fmt: skip
    pretrain["validate_every"] = 21
    tuned = {"epochs": 1, "warmup": 0, "batch_size": 64, "auto_augment": "none", "max_train": 128, "workers": 0}
    grid = ["reproduce", "table1", "--data", "digits", "--schemes", "[fixed,mdlm,dynamic]", "--seeds", "[0,1]",
            "--evaluate", "[probe,finetune]", "--epochs", "1", "--pretrain", json.dumps(pretrain), "--finetune",
            json.dumps(tuned), "--probe", json.dumps({"epochs": 5, "workers": 0}), "--out", "t", "--device", "cpu",
            "--no-progress"]  # fmt: skip
    code, out, err = call(*grid)
    assert code == 0, err
    assert "[6/6] dynamic-1:" in out
    records = read_records("t")
    assert {r.scheme for r in records} == {"fixed 0.75", "mdlm", "dynamic"}
    assert {r.seed for r in records} == {0, 1}
    assert len(records) == 3 * 2 * (4 + 5)
    assert all(r.paper is None for r in records)  # the paper's figures are about ImageNet
    for figure in ("table1.png", "curves.png"):
        assert (tmp_path / "t" / "figures" / figure).stat().st_size > 10_000
    before = Path("t/fixed-0/pretrain/model/model.safetensors").stat().st_mtime_ns
    assert "| fixed 0.75 |" in Path("t/table1.md").read_text()
    code, out, _ = call("reproduce", "-c", "t/config.yaml", "--out", "t", "--no-progress")  # it replays
    assert (code, out.count("done before")) == (0, 6)
    assert Path("t/fixed-0/pretrain/model/model.safetensors").stat().st_mtime_ns == before
    code, out, _ = call(*grid, "--dry-run")
    assert code == 0
    assert "6 pretrainings (fixed, mdlm, dynamic; seeds 0, 1), 1 epochs" in out
    code, _, err = call(*grid[:4], "--pretrain", '{"deep": 3}')
    assert code == 1
    assert "--pretrain has no option deep; known: " in err
    code, _, err = call(*grid[:4], "--pretrain", '{"seed": 3}')
    assert "--pretrain seed is set by the grid; leave it out" in err
