"""A run on the hub: the same logits from there, by transformers alone."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from r2mae_core import UserError, write_json, write_yaml
from r2mae_text import load_pretrained
from r2mae_text.finetune import finetune
from r2mae_text.options import Finetune, Pretrain
from r2mae_text.pretrain import pretrain
from r2mae_text.push import _datasets, _on_the_hub

sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from hub_check import Hub, code_of, push_code, run_python, sent

SIZE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = "The state of the Union is strong, and the people are free."


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    options = {"model": "tiny", "model_args": SIZE, "length": 16, "batch_size": 4, "steps": 2, "log_every": 1}
    options |= {"device": "cpu", "progress": False}
    home = tmp_path_factory.mktemp("pushed")
    first = pretrain(Pretrain(corpus.path, out=home / "first", **options)).path
    rest = {name: value for name, value in options.items() if name not in ("model", "model_args")}
    # Goes on from a folder of this machine, whose name transformers might keep.
    return pretrain(Pretrain(corpus.path, out=home / "run", start=str(first), **rest)).path


@torch.no_grad()
def logits(folder):
    model, tokenizer = load_pretrained(folder)
    return model(**tokenizer(TEXT, return_tensors="pt")).logits


def test_push_and_load_by_name_with_transformers_alone(run, call, tmp_path):
    code, _, err = call("push", run, "lab/speeches", "--license", "mit", "--dry_run", "--out", "dry")
    assert code == 0, err
    card = Path("dry/README.md").read_text()
    assert "| began with the weights | first |" in card
    assert "- Its training had texts of at most 16 tokens" in card
    assert "library_name: transformers\n" in card
    assert "pipeline_tag: fill-mask\n" in card
    assert "base_model" not in card  # it started from a folder, which nobody else has
    logits_code = f"model(**tokenizer({TEXT!r}, return_tensors='pt')).logits.tolist()"
    other = run.parent / "first"
    with Hub() as hub:
        env = hub.environment(tmp_path / "home")
        both = push_code("r2mae_text", run, "lab/speeches") + "import huggingface_hub\n"
        both += "first = huggingface_hub.HfApi().model_info('lab/speeches').sha\nfound = [code]\n"
        both += push_code("r2mae_text", other, "lab/speeches", "--update", "--no-private")
        both += "from r2mae_text import load_pretrained\nfor at in (None, first):\n"
        both += f"    model, tokenizer = load_pretrained('lab/speeches', revision=at)\n    found.append({logits_code})"
        code, newer, older = run_python(both, env, tmp_path)
        first = list(hub.repos["lab/speeches"].commits)[1]
        assert sent(hub, "lab/speeches", first) == {file.name: file.read_bytes() for file in Path("dry").iterdir()}
        theirs = run_python(f"{code_of(card)['transformers']}\nfound = {logits_code}", env, tmp_path, peers_only=True)
    assert code == 0
    newer, older, theirs = map(torch.tensor, (newer, older, theirs))
    assert torch.equal(theirs, newer)
    assert torch.equal(newer, logits(other))
    assert torch.equal(older, logits(run))
    with pytest.raises(UserError, match="has no revisions"):
        load_pretrained(run, revision="main")


def test_a_fine_tuned_model(run, call, tmp_path):
    reviews = tmp_path / "reviews"
    reviews.mkdir()
    for split, n in (("train", 24), ("validation", 8)):
        rows = [f"{'good and free' if i % 2 else 'bad and poor'} {i}\t{'yes' if i % 2 else 'no'}" for i in range(n)]
        (reviews / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    given = {
        "tasks": ("reviews",),
        "task_data": tmp_path,
        "epochs": 1,
        "device": "cpu",
        "progress": False,
        "max_length": 16,
        "text_columns": ("text",),
    }
    tuned = finetune(Finetune(str(run), seeds=(0, 1), out=tmp_path / "tuned", **given)).path
    code, _, err = call("push", tuned, "lab/reviews", "--license", "mit", "--dry_run")
    assert code == 1
    assert "has 2 models; name one" in err
    code, _, err = call("push", tuned / "reviews-1", "lab/reviews", "--license", "mit", "--dry_run", "--out", "dry")
    assert code == 0, err
    card = Path("dry/README.md").read_text()
    for text in (
        "AutoModelForSequenceClassification",
        "| labels | no, yes |",
        "text-classification",
        "| pretrained with |",
        "| weights | after epoch 1 of 1 |",
        "| digest of the data | `",
        "| last step in the log | 1 |",
        "![Loss by optimizer step](training.png)",
        "- Its training had texts of at most 16 tokens",
    ):
        assert text in card, text
    assert "| reviews | validation | accuracy |" in card
    assert str(tmp_path) not in card


def test_a_run_without_a_model(run, call, tmp_path):
    shutil.copytree(run, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "model")
    code, _, err = call("push", "r", "a/b", "--license", "mit", "--dry_run")
    assert code == 1
    assert "has no finished model" in err
    assert "export" not in err  # what that writes is no run, which push needs
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("finetune", "run the same finetune command"),
        ("evaluate", "is a run of evaluate, which leaves no model"),
        ("sweep", "is a run of sweep, which leaves no model"),
    ],
)
def test_a_run_of_another_command(call, tmp_path, command, message):
    write_yaml(tmp_path / "config.yaml", {})
    write_json(tmp_path / "facts.json", {"program": "r2mae-text", "command": command})
    code, _, err = call("push", tmp_path, "a/b", "--license", "mit", "--dry_run", "--out", tmp_path.parent / "dry")
    assert code == 1
    assert message in err
    with pytest.raises(UserError, match=message):
        load_pretrained(tmp_path)


def test_data_from_the_hub_is_named(corpus, tmp_path):
    shutil.copytree(corpus.path, tmp_path / "corpus")
    (tmp_path / "run").mkdir()
    write_yaml(tmp_path / "run" / "config.yaml", {"data": str(tmp_path / "corpus")})
    write_json(tmp_path / "run" / "facts.json", {"corpus": corpus.digest})
    assert _datasets(tmp_path / "run") == ()  # of files
    write_yaml(tmp_path / "corpus" / "config.yaml", {"sources": ["hub:lab/web:sample-10BT", "hub:wiki", "a.txt"]})
    assert _datasets(tmp_path / "run") == ("lab/web", "wiki")
    write_json(tmp_path / "run" / "facts.json", {"corpus": "0" * 64})  # another corpus is there now
    assert _datasets(tmp_path / "run") == ()


def test_base_model_is_a_name_on_the_hub(tmp_path):
    for weights, name in ((f"lab/first {'a' * 40}", "lab/first"), ("b" * 64, None), (None, None)):
        write_yaml(tmp_path / "config.yaml", {"start": "lab/first"})
        write_json(tmp_path / "facts.json", {"start_weights": weights})
        assert _on_the_hub(tmp_path) == name
    write_yaml(tmp_path / "config.yaml", {"model": "scratch:lab/first"})  # a new model of the same shape
    write_json(tmp_path / "facts.json", {"weights": f"lab/first {'a' * 40}"})
    assert _on_the_hub(tmp_path) is None
