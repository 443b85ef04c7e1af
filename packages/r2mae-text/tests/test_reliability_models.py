"""Models, runs and fine-tunings: what is read back is checked, and what was there stays."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import r2mae_text.finetune as finetune_module
from r2mae_core import RunFolder, UserError
from r2mae_text import build_model, export_run, load_pretrained, load_tokenizer
from r2mae_text.data.glue import load_task
from r2mae_text.data.prepare import prepare
from r2mae_text.export import export, fill
from r2mae_text.finetune import finetune
from r2mae_text.options import Export, Finetune, Prepare, Pretrain, Reproduce
from r2mae_text.pretrain import pretrain
from r2mae_text.tuning import Tuned

ARGS = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}


def preparing(*sources, **changes):
    options = {"vocab_size": 300, "validation_share": 0.2, "workers": 0, "out": Path("corpus"), "progress": False}
    return Prepare(tuple(map(Path, sources)), **{**options, **changes})


def training(corpus, **changes):
    options = {"model": "tiny", "model_args": ARGS, "length": 32, "batch_size": 8, "steps": 2, "out": Path("run")}
    return Pretrain(corpus, device="cpu", progress=False, **{**options, **changes})


def write_task(folder, n=16, word="union"):
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        rows = [{"sentence": f"the {(word, 'congress')[i % 2]} {i}", "label": i % 2} for i in range(n)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def files_of(folder):
    """Content of every file, but for what names the time or the place."""
    left_out = ("config.yaml", "versions.json")
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name not in left_out
    }


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A finished run of two steps."""
    return pretrain(training(corpus.path, out=tmp_path_factory.mktemp("trained") / "run")).path


def flip(file, share=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 4
    file.write_bytes(content)


def test_a_run_is_not_gone_on_with_on_another_corpus_but_on_a_moved_one(corpus, speeches, tmp_path):
    copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    pretrain(training(copy))
    moved = copy.rename(tmp_path / "moved")
    pretrain(training(moved))
    other = prepare(preparing(*speeches[:4], vocab_size=400, out=Path("other"))).path
    with pytest.raises(UserError, match="run holds a run with another config: corpus is"):
        pretrain(training(other))


def test_a_run_does_not_lie_in_its_corpus(corpus):
    with pytest.raises(UserError, match="lies inside the input"):
        pretrain(training(corpus.path, out=corpus.path / "run"))
    assert not (corpus.path / "run").exists()


def test_a_kept_budget_that_is_damaged_is_named(corpus):
    from r2mae_text.budget import n_steps

    run = RunFolder("run", {})
    (run.path / "budget.json").write_text('{"seconds_per_step": 1}')
    with pytest.raises(UserError, match=r"budget\.json cannot be read"):
        n_steps(training(corpus.path, steps=None, minutes=1.0), run, None, None, None, "cpu")


@pytest.mark.parametrize("args", [{"hidden_size": 33}, {"num_hidden_layers": "x"}, {"num_attention_heads": 0}])
def test_a_config_that_makes_no_model_is_one_line(tokenizer, args):
    with pytest.raises(UserError, match="there is no roberta with ") as raised:
        build_model("tiny", tokenizer, model_args=args)
    assert len(str(raised.value).splitlines()) == 1


def test_a_config_cannot_ask_for_code(tokenizer):
    with pytest.raises(UserError, match="has no config attn_implementation"):
        build_model("tiny", tokenizer, model_args={"attn_implementation": "somebody/kernel"})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign"])
def test_a_damaged_model_is_named(folder, name, damage):
    file = folder / name
    content = {"cut": file.read_bytes()[:-9], "empty": b"", "foreign": b"\x89PNG\r\n"}
    flip(file) if damage == "flipped" else file.write_bytes(content[damage])
    with pytest.raises(UserError, match=f"{name} is damaged: its checksum"):
        load_pretrained(folder)
    (folder / "SHA256SUMS").unlink()  # as in somebody else's folder
    if damage != "flipped":
        with pytest.raises(UserError) as raised:
            load_pretrained(folder)
        assert str(folder) in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_a_tokenizer_without_words_is_refused(folder):
    (folder / "SHA256SUMS").unlink()
    (folder / "tokenizer.json").unlink()  # transformers would make up an empty one
    with pytest.raises(UserError, match=r"has no words: its tokenizer\.json is missing or empty"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["missing", "nan"])
def test_weights_that_are_not_whole_or_not_finite_are_refused(folder, kind):
    (folder / "SHA256SUMS").unlink()
    weights = load_file(folder / "model.safetensors")
    name = "roberta.encoder.layer.0.output.dense.weight"
    if kind == "missing":
        del weights[name]
    else:
        weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = f"no weights for {name}" if kind == "missing" else f"{name} hold NaN"
    for head in ("AutoModelForMaskedLM", "AutoModelForSequenceClassification"):
        with pytest.raises(UserError, match=message):
            load_pretrained(folder, head)


def test_what_is_loaded_runs_no_code(folder, tmp_path):
    (folder / "SHA256SUMS").unlink()
    proof = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {
            "AutoConfig": "own.A",
            "AutoModelForMaskedLM": "own.A",
            "AutoTokenizer": ["own.A", "own.A"],
        }
        content.pop("model_type", None), content.pop("tokenizer_class", None)
        (folder / name).write_text(json.dumps({**content, "model_type": "own"}))
    for load in (load_pretrained, load_tokenizer):
        try:
            load(folder)
        except UserError as error:
            assert "model" in str(error)  # noqa: PT017
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "attn_implementation": "somebody/kernel"}))
    with pytest.raises(UserError, match="asks for code of its own"):
        load_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Path}, folder / "pytorch_model.bin")
    with pytest.raises(UserError):
        load_pretrained(folder)
    assert not proof.exists()


def tuning(folder, **changes):
    settings = {
        "tasks": ("sst2",),
        "task_data": "tasks",
        "seeds": (0,),
        "epochs": 1,
        "out": Path("tuned"),
        "keep": "none",
    }
    return Finetune(str(folder), device="cpu", progress=False, **{**settings, **changes})


def test_fine_tunings_go_by_the_content_of_task_and_model(folder, tiny, tokenizer, monkeypatch):
    calls = []
    monkeypatch.setattr(
        finetune_module, "tune", lambda *args, **_: calls.append(args[3]) or Tuned({"validation": {"accuracy": 0.5}})
    )
    write_task(Path("tasks/sst2"))
    finetune(tuning(folder))
    write_task(Path("tasks/sst2"))  # the same content, written again
    moved = Path(shutil.move(folder, folder.parent / "there" / "model"))
    finetune(tuning(moved, seeds=(0, 1)))
    assert calls == [0, 1]
    write_task(Path("tasks/sst2"), word="nation")
    with pytest.raises(UserError, match=r"sst2-0\.json was made from other data: train\.jsonl was "):
        finetune(tuning(moved, seeds=(0, 2)))
    write_task(Path("tasks/sst2"))
    with torch.no_grad():
        next(tiny.parameters()).add_(1.0)
    export_run(tiny, tokenizer, moved)
    with pytest.raises(UserError, match="holds a run with another config: weights is"):
        finetune(tuning(moved))
    assert calls == [0, 1]


def test_a_wrong_task_is_refused_before_anything_is_written(folder):
    write_task(Path("tasks/sst2"))
    for task, message in (("sst3", "unknown task"), ("../sst2", "is no name of a task"), ("qnli", "no train of qnli")):
        with pytest.raises(UserError, match=message):
            finetune(tuning(folder, tasks=("sst2", task)))
    assert not Path("tuned").exists()


def test_a_fine_tuning_that_diverges_is_no_result(folder):
    write_task(Path("tasks/sst2"))
    with pytest.raises(UserError, match=r"the loss is NaN or infinite from step \d+ of 32 on; lower --lr"):
        finetune(tuning(folder, lr=1e30, epochs=8, batch_size=4))
    assert not Path("tuned/results.json").exists()


def test_examples_longer_than_the_positions_are_refused(tokenizer):
    model = build_model("tiny", tokenizer, length=16, model_args={**ARGS, "max_position_embeddings": 18})
    export_run(model, tokenizer, Path("short"))
    write_task(Path("tasks/sst2"))
    with Path("tasks/sst2/train.jsonl").open("a") as file:
        file.write(json.dumps({"sentence": "union " * 90, "label": 1}) + "\n")
    with pytest.raises(UserError, match=r"an example has 128 tokens, and the model takes 16; lower --max_length"):
        finetune(tuning("short"))
    with pytest.raises(UserError, match=r"the text has .* tokens, and the model takes 16; shorten it"):
        fill(*load_pretrained("short"), "<mask>" + " union" * 40)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", '[1]\n', "line 1 is not an object with columns"),
        ("train.jsonl", '{"text": "x", "label": "a"}\n{"text": "y"}\n', "every row has the label 'a'"),
        ("train.csv", 'text,label\n"open,a\nb,b\n', r"line 3 is not CSV \(unexpected end of data\)"),
        ("train.csv", "text,text,label\na,b,c\n", "names the column 'text' twice"),
        ("train.tsv", b"text\tlabel\na\tb\n\xe9\tc\n", r"train\.tsv, line 3 is not UTF-8"),
        ("train-00000-of-00002.parquet", b"PAR1", "1 files train-…-of-00002.parquet are there; fetch the others"),
    ],
)  # fmt: skip
def test_damaged_tables_of_ones_own_are_named(name, content, message):
    Path("mine").mkdir()
    (Path("mine") / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("mine/validation.jsonl").write_text('{"text": "x", "label": "a"}\n')
    with pytest.raises(UserError, match=message):
        load_task("mine", ".", ("text",))


def test_scores_that_are_no_numbers_are_named():
    Path("stsb").mkdir()
    for split in ("train", "validation"):
        Path(f"stsb/{split}.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t1.5\nc\td\tnan\n")
    with pytest.raises(UserError, match="stsb, train: the score of row 2 is nan"):
        load_task("stsb", ".")


def test_export_replaces_nothing_that_is_not_its_own(trained):
    plain = export(Export(trained, Path("plain")))
    before = files_of(plain)
    with pytest.raises(UserError, match="plain exists; name a new folder, or give --overwrite"):
        export(Export(trained, Path("plain")))
    export(Export(trained, Path("plain"), overwrite=True))
    assert files_of(plain) == before
    (plain / "mine.txt").write_text("mine")
    for out in (plain, trained / "model", trained):
        with pytest.raises(UserError, match=r"what export did not write|lies inside the input|is an input"):
            export(Export(trained, out, overwrite=True))
    assert (plain / "mine.txt").read_text() == "mine"


def test_a_damaged_run_is_not_exported(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "copy"))
    flip(run / "model" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        export(Export(run, Path("plain")))
    shutil.rmtree(run / "model")
    flip(run / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        export(Export(run, Path("plain")))
    assert not Path("plain").exists()


def test_an_unfinished_run_is_exported_with_its_corpus_moved(trained, corpus, speeches, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "copy"))
    shutil.rmtree(run / "model")
    config = (run / "config.yaml").read_text().replace(str(corpus.path), "gone").partition("\n")[2]
    (run / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="the run's corpus gone is not there; name its folder with --data"):
        export(Export(run, Path("plain")))
    other = prepare(preparing(speeches[0], vocab_size=400, out=Path("other"))).path
    with pytest.raises(UserError, match=r"other is not the corpus that .* is trained on"):
        export(Export(run, Path("plain"), data=other))
    export(Export(run, Path("plain"), data=corpus.path))
    assert Path("plain/model.safetensors").read_bytes() == (trained / "model" / "model.safetensors").read_bytes()


def test_a_grid_is_checked_before_it_is_begun(corpus, tmp_path):
    from r2mae_text.paper import reproduce

    write_task(Path("tasks/sst2"))
    config = Reproduce(
        "fig1f", corpus.path, "tasks", ("sst2",), ratios=(0.2,), models=("tiny",), device="cpu", out=Path("grid")
    )
    with pytest.raises(UserError, match=r"needs the accuracy at ratios \[0.15, 0.3, 0.4, 0.8\]; add them to --ratios"):
        reproduce(config)
    with pytest.raises(UserError, match="no train of qnli in tasks"):
        reproduce(replace(config, target="fig2c", tasks=("qnli",)))
    with pytest.raises(UserError, match="lies inside the input"):
        reproduce(replace(config, target="fig2c", out=corpus.path / "grid"))
    assert not Path("grid").exists()
