import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from r2mae_core import read_records
from r2mae_text.cli import COMMANDS

TINY = ["--model", "tiny", "--model_args", '{"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}']
TINY += ["--length", "32", "--batch_size", "16", "--steps", "3", "--device", "cpu", "--no-progress"]


def test_the_whole_path(call, speeches, tmp_path):
    code, out, err = call(
        "prepare", *map(str, speeches[:3]), "--vocab-size", "300", "--validation_share", "0.3", "--workers", "1",
        "--out", "corpus", "--no-progress",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "3 documents" in out
    assert "Unigram entropy" in out
    code, out, err = call("pretrain", "corpus", "--mask_ratio", "dynamic", "--out", "run", *TINY)
    assert (code, err) == (0, "")
    assert "Loss on held-out data by mask ratio: " in out
    assert " at 0.15" in out
    assert "--tasks '[movies]'" in out
    code, out, err = call(
        "finetune", "run", "--tasks", "[movies]", "--seeds", "[0,1]", "--epochs", "1", "--max_train", "32",
        "--max_length", "16", "--device", "cpu", "--out", "tuned", "--no-progress",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "dynamic" in out
    assert "Done: tuned (results.json, table.md, movies-0/ …)" in out
    assert Path("tuned/table.md").exists()
    found = {(r.task, r.metric, r.n) for r in read_records("tuned")}
    assert found == {("movies", "accuracy", 1568), ("movies", "majority", 1568)}
    code, out, err = call("export", "run", "--out", "plain")
    assert (code, err) == (0, "")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in Path("plain").iterdir()}
    code, out, err = call("fill", "plain", "The Congress of the <mask>.")
    assert (code, err) == (0, "")
    assert "%" in out
    code, out, _ = call("compare", "tuned", "run", "--markdown")
    assert code == 0
    assert "movies accuracy" in out
    assert "corpus loss@0.15" in out
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["mask_ratio"]["class_path"] == "r2mae_core.LinearDecay"
    for verb, folder in (("prepare", "corpus"), ("finetune", "tuned")):
        code, out, _ = call(verb, "-c", f"{folder}/config.yaml", "--print_config")
        assert code == 0
        assert yaml.safe_load(Path(folder, "config.yaml").read_text()).items() <= yaml.safe_load(out).items()
    code, _, err = call("pretrain", "-c", "run/config.yaml", "--out", "again", "--no-progress")
    assert (code, err) == (0, "")
    assert Path("run/model/model.safetensors").read_bytes() == Path("again/model/model.safetensors").read_bytes()


def test_an_unfinished_run_is_exported_from_its_checkpoint(call, corpus):
    assert call("pretrain", str(corpus.path), "--out", "run", *TINY)[0] == 0
    import shutil

    shutil.move("run/model", "kept")
    code, _, err = call("finetune", "run", "--tasks", "[movies]", "--device", "cpu")
    assert code == 1
    assert "run has no finished model; run the same pretrain command with --out run to resume it" in err
    assert "r2mae-text export run --out DIR" in err
    assert call("export", "run", "--out", "plain")[0] == 0
    assert Path("plain/model.safetensors").read_bytes() == Path("kept/model.safetensors").read_bytes()


def test_llada_is_one_command(call, corpus):
    code, _, err = call(
        "pretrain", corpus.path, "--mask_ratio", "llada", "--ratio_per", "sample", "--loss_weight", "inverse_ratio",
        "--count", "bernoulli", "--mask_share", "1", "--random_share", "0", "--out", "run", *TINY,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert {record.scheme for record in read_records("run")} == {"llada per sample, loss / ratio"}
    _, out, _ = call("pretrain", "-c", "run/config.yaml", "--mask_shape", "spans", "--count", "exact", "--print_config")
    config = yaml.safe_load(out)
    assert (config["ratio_per"], config["loss_weight"], config["mask_shape"]) == ("sample", "inverse_ratio", "spans")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prepare", "nowhere"], "no file or folder nowhere"),
        (["pretrain", "nowhere"], "nowhere has no index.json of a corpus"),
        (["finetune", "nowhere", "--tasks", "[movies]"], "no model 'nowhere' here or on the hub"),
        (["export", "nowhere"], "nowhere is not a run folder"),
        (["fill", "nowhere", "text"], "no model 'nowhere' here or on the hub"),
        (["compare", "nowhere"], "no results at"),
        (["demo", "--device", "cuda"], "'cuda' was requested, but torch"),
        (["reproduce", "table2", "--data", "nowhere", "--dry-run"], "nowhere has no index.json"),
        (["reproduce", "table2", "--ratios", "[0.2]"], "--ratios (for fig1f, fig2c) does not apply to table2"),
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
        (["prepare", "sotu", "--validation=0.1"], "--validation is now written --validation_share"),
        (["pretrain", "--corpus", "corpus"], "--corpus is now written data, the argument after pretrain"),
        (["reproduce", "table2", "--corpus", "c"], "--corpus is now written --data"),
        (["demo", "--n-seeds", "3"], "--n_seeds is now written --seeds '[0,1]'"),
    ],
)
def test_old_spellings_are_answered_with_the_new_ones(call, argv, message):
    code, _, err = call(*argv)
    assert (code, err) == (2, f"r2mae-text {argv[0]}: {message}\n")


def test_a_checkpoint_as_model_is_answered_with_start(call, corpus):
    code, _, err = call("pretrain", corpus.path, "--model", "runs/mine", "--device", "cpu", "--batch_size", "16")
    assert code == 1
    assert err.rstrip().endswith("a checkpoint is given with --start runs/mine")


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; sys.argv=['x','pretrain','--help']\nfrom r2mae_text.cli import main\n"
    code += "try: main()\nexcept SystemExit as e: assert e.code == 0\n"
    code += "heavy = ('torch', 'numpy', 'lightning', 'transformers', 'tokenizers', 'datasets', 'matplotlib')\n"
    code += "print([m for m in heavy if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_recipe_is_one_of_its_command(call):
    from r2mae_core import recipes

    found = {(verb, name) for verb in COMMANDS for name in recipes("r2mae_text", verb)}
    assert {
        ("pretrain", "paper-medium"),
        ("pretrain", "paper-base"),
        ("pretrain", "small-cpu"),
        ("sweep", "small-cpu"),
    } <= found
    needed = {"pretrain": ["corpus"], "prepare": ["sotu"], "finetune": ["model"], "reproduce": ["table2"]}
    needed["sweep"] = ["corpus"]
    for verb, name in found:
        code, out, _ = call(verb, *needed.get(verb, []), "-c", name, "--print_config")
        assert code == 0, (verb, name)
        assert yaml.safe_load(out)


def test_the_papers_recipes(call):
    for size, lr in (("medium", 7e-4), ("base", 3e-4)):
        _, out, _ = call("pretrain", "corpus", "-c", f"paper-{size}", "--print_config")
        config = yaml.safe_load(out)
        assert (config["model"], config["lr"], config["batch_size"], config["length"]) == (size, lr, 2048, 128)
        assert (config["weight_decay"], config["warmup"], config["tokens"]) == (0.01, 0.03, 1e10)
    _, out, _ = call("finetune", "model", "-c", "paper-glue", "--print_config")
    config = yaml.safe_load(out)
    assert (config["epochs"], config["lr"], config["batch_size"], config["seeds"]) == (5, 2e-5, 32, [0, 1, 2])


@pytest.mark.parametrize(("kind", "said"), [("electra", True), ("distilbert", False)])
def test_a_family_whose_head_computes_all_tokens_is_pretrained_and_it_is_said(call, corpus, kind, said):
    shape = {"electra": '{"num_hidden_layers": 1, "hidden_size": 32}', "distilbert": '{"n_layers": 1, "dim": 48}'}
    command = ("pretrain", corpus.path, "--model", kind, "--model_args", shape[kind], "--steps", 1, "--batch_size", 4)
    code, out, _ = call(*command, "--length", 16, "--out", "run", "--device", "cpu", "--no-progress")
    assert code == 0
    assert ("The head of ElectraForMaskedLM computes all tokens" in out) == said
