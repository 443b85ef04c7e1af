"""Push and fetch, against a stand-in of the hub on loopback; and what a card says."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="the extra `hub` brings it")

import yaml
from huggingface_hub import ModelCard

from hub_stand_in import TOKEN, Hub
from r2mae_core import CardFacts, Command, Record, RunFolder, UserError, model_card, read_yaml, run_summary, write_yaml
from r2mae_core.lab.records import write_records
from r2mae_core.lab.sealed import write_json
from r2mae_core.share.model_card import public_text, training_rows
from r2mae_core.share.private import refuse_private
from r2mae_core.share.push import summary_of_model
from shared_toy import Line, push_run

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tune:
    tasks: tuple[str, ...]
    data: Path
    seeds: tuple[int, ...] = (0,)


@pytest.fixture(scope="module")
def hub():
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hub-home")


def start(hub, home, token=TOKEN, **environment):
    env = {**hub.environment(home, token), **environment}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, HERE / "shared_toy.py"], env=env, cwd=home, **pipes)


def answers(process, expressions):
    found = []
    for expression in expressions:
        process.stdin.write(expression + "\n")
        process.stdin.flush()
        while not (line := process.stdout.readline()).startswith("= "):
            assert line, "the process ended"
        found.append(json.loads(line[2:]))
    return found


@pytest.fixture(scope="module")
def process(hub, home):
    with start(hub, home) as running:
        yield running
        running.stdin.close()


@pytest.fixture
def ask(process):
    """Evaluate expressions in a process that knows this hub alone."""
    return lambda *expressions: answers(process, expressions)


@pytest.fixture
def ask_anew(hub, home):
    """The same in a process of its own, with another token or environment."""

    def run(*expressions, **environment):
        with start(hub, home, **environment) as process:
            found = answers(process, expressions)
            process.stdin.close()
        return found

    return run


@pytest.fixture
def run(tmp_path):
    """A run folder as a pretraining leaves it, with paths of the machine in its options."""
    folder = tmp_path / "run"
    folder.mkdir()
    scheme = {"class_path": "r2mae_core.Uniform", "init_args": {"low": 0.1, "high": 0.5, "seed": 3}}
    options = {"data": str(tmp_path / "my cells.h5ad"), "mask_ratio": scheme, "lr": 0.5, "tree": "/srv/trees/a.nwk"}
    write_yaml(folder / "config.yaml", {**options, "seed": 3})
    noted = {"command": "pretrain", "program": "r2mae-line", "sources": {"DATA": "3 bytes, abc"}}
    write_json(folder / "facts.json", noted)
    stamps = {"python": "3.12.1", "git": "abc123", "started": "2026-11-28T20:00:00+00:00", "argv": ["r2mae-line"]}
    write_json(folder / "versions.json", {**stamps, "packages": {"r2mae-core": "0.1.0", "secret-package": "1"}})
    (folder / "metrics.csv").write_text("step,metric,value\n0,loss,2.0\n9,loss,1.0\n9,val_loss/ratio_0.3,1.5\n")
    records = [Record("cells", "accuracy", value, "r2mae", seed, 50) for seed, value in enumerate((0.5, 0.7))]
    write_records(folder / "results.json", records)
    (folder / "slope.json").write_text("2.5")
    return folder


def test_dry_run_contacts_nothing_and_shows_what_is_sent(hub, ask, run, tmp_path):
    before = list(hub.requests)
    (place,) = ask(f"push_run('{run}', 'lab/line', license='mit', dry_run=True, out=Path('{tmp_path}/dry'))")
    assert place == f"{tmp_path}/dry"
    assert hub.requests == before
    (sent,) = ask(f"push_run('{run}', 'lab/line', license='mit')")
    assert sent.startswith("lab/line@")
    shown = {path.relative_to(tmp_path / "dry").as_posix(): path.read_bytes() for path in _files(tmp_path / "dry")}
    there = dict(hub.files("lab/line"))
    del there[".gitattributes"]
    assert there == shown
    assert set(shown) == {"README.md", "line.json", "training.png", "weights.safetensors"}
    assert not hub.repos["lab/line"].private


def test_first_revision_still_loads_after_a_second_push(hub, ask, ask_anew, run):
    (first,) = ask(f"push_run('{run}', 'twice', license='mit', private=True)")
    assert first.startswith("me/twice@")  # the account's own
    assert hub.repos["me/twice"].private
    (run / "slope.json").write_text("-1.0")
    push = f"push_run('{run}', 'me/twice', license='mit')"
    refused, second = ask(push, push.replace(")", ", update=True)"))
    assert "exists already; give --update" in refused
    load = "Line.from_pretrained('me/twice', revision={!r}).slope"
    commits = [text.partition("@")[2] for text in (first, second)]
    assert ask(*map(load.format, [*commits, None])) == [2.5, -1.0, -1.0]
    assert ask_anew(load.format(commits[0]), HF_HUB_OFFLINE="1") == [2.5]  # out of the cache
    assert "is not on the hub" in ask(f"push_run('{run}', 'lab/none', license='mit', update=True)")[0]


def test_an_update_leaves_no_old_file(hub, ask, run):
    push = f"push_run('{run}', 'me/old', license='mit', update={{}})"
    ask(push.format(False))
    hub.repos["me/old"].commit("main", {**hub.files("me/old"), "shard-2.safetensors": b"old"})
    ask(push.format(True))
    assert "shard-2.safetensors" not in hub.files("me/old")
    assert ".gitattributes" in hub.files("me/old")


def test_a_branch(hub, ask, run):
    ask(f"push_run('{run}', 'me/branches', license='mit')")
    (run / "slope.json").write_text("7")
    ask(f"push_run('{run}', 'me/branches', license='mit', update=True, revision='wide')")
    found = ask(*(f"Line.from_pretrained('me/branches', revision={name!r}).slope" for name in ("main", "wide")))
    assert found == [2.5, 7]


def test_methods(hub, ask):
    commit, slope = ask("Line(4.5).push_to_hub('me/m', license='mit')", "Line.from_pretrained('me/m').slope")
    assert commit == hub.repos["me/m"].branches["main"]
    assert slope == 4.5
    names = {".gitattributes", "README.md", "line.json", "weights.safetensors"}
    assert set(hub.files("me/m")) == names


def test_each_failure_is_one_line(hub, ask, ask_anew, run):
    push, load = f"push_run('{run}', 'me/fails', license='mit')", "Line.from_pretrained('me/fails'{})"
    before = len(hub.requests)
    (missing,) = ask_anew(push, token=None, HF_TOKEN_PATH="nowhere")
    assert "no token of the hub" in missing
    assert len(hub.requests) == before
    (wrong,) = ask_anew(push, token="hf_wrong")
    assert "401" in wrong
    assert "is the token valid" in wrong
    offline, unseen = ask_anew(push, load.format(""), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, so nothing is sent" in offline
    assert "HF_HUB_OFFLINE is set and the cache has it not" in unseen
    lost, unread = ask_anew(push, load.format(""), HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in lost
    assert "cannot be reached" in unread
    assert "me/fails" not in hub.repos
    nothing, pushed, revision = ask(load.format(""), push, load.format(", revision='v9'"))
    assert "no such repository" in nothing
    assert pushed.startswith("me/fails@")
    assert "no such revision" in revision
    for text in (missing, wrong, offline, unseen, lost, unread, nothing, revision):
        assert text.startswith("refused: ")
        assert "\n" not in text


def test_a_repository_that_was_made_and_not_filled(hub, ask, run, monkeypatch):
    push = f"push_run('{run}', 'me/half', license='mit', update={{}})"
    monkeypatch.setattr(hub, "refused", ("/commit/",))
    (half,) = ask(push.format(False))
    assert "made me/half, but cannot fill it; try again with --update: the hub answered 403: " in half
    assert "may it write there?" in half
    monkeypatch.setattr(hub, "refused", ())
    assert ask(push.format(True))[0].startswith("me/half@")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "a/b/c"}, "is no name on the hub"),
        ({"name": "../x"}, "is no name on the hub"),
        ({"name": "a--b/c"}, "is no name on the hub"),
        ({"license": None}, "--license is needed"),
        ({"license": "MIT License"}, "in small letters"),
        ({"license": "other"}, "go together"),
        ({"license_name": "mine"}, "go together"),
        ({"out": Path("run")}, "is an input"),
        ({"out": Path("full")}, "is there already"),
        ({"run": "full"}, "is not a run folder"),
    ],
)
def test_refused_before_anything_is_written(run, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        push_run(**{"run": run, "name": "me/line", "license": "mit", "dry_run": True, **given})
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.name.startswith(".lock")] == before


def test_default_place_of_a_dry_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path(push_run(run, "me/line", license="mit", dry_run=True))
    assert place.parent == Path("runs")
    assert place.name.startswith("r2mae-line-push-")
    assert (place / "README.md").exists()


def test_a_run_of_another_program(run):
    write_json(run / "facts.json", {"program": "r2mae-dna", "command": "pretrain"})
    with pytest.raises(UserError, match="a run of r2mae-dna, not of r2mae-line"):
        push_run(run, "me/line", license="mit", dry_run=True)


def test_card(run, tmp_path):
    push_run(run, "lab/line", license="cc-by-4.0", dry_run=True, out=tmp_path / "dry", note="Cells of *mice*.")
    text = (tmp_path / "dry" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "license": "cc-by-4.0", "library_name": "r2mae", "pipeline_tag": "fill-mask",
        "tags": ["r2mae", "masked-modeling"],
    }  # fmt: skip
    assert yaml.safe_load(text.split("---")[1]) == card.data.to_dict()
    for line in (
        "# line", "Cells of *mice*.", 'Line.from_pretrained("lab/line")', "- It is straight.",
        "| mask ratio | uniform from 0.1 to 0.5, drawn at every step (seed 3) |", "| seed | 3 |",
        "| data | my cells.h5ad |", "| began | 2026-11-28T20:00:00+00:00 |", "| commit | abc123 |",
        "| versions | Python 3.12.1, r2mae-core 0.1.0 |", "| last step in the log | 9 |",
        "| options besides the defaults | `lr` 0.5, `tree` a.nwk |", "![Loss by optimizer step](training.png)",
        "| r2mae | cells | test | accuracy | 0.6 ± 0.141 | 50 | 2 |",
    ):  # fmt: skip
        assert f"\n{line}" in text, line
    digest = run_summary(run).data_digest
    assert f"| digest of the data | `{digest}` |" in text
    assert (tmp_path / "dry" / "training.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("folder", "seeds", "values"),
    [
        ("", (0, 1), {"a": 0.35, "b": 0.85}),
        ("seed1", (1,), {"a": 0.4, "b": 0.9}),
        ("a-0", (0,), {"a": 0.3}),
        ("b-1/model", (1,), {"b": 0.9}),
        ("16-64", (0, 1), {"a": 0.35, "b": 0.85}),  # widths
    ],
)
def test_a_model_of_one_seed_has_that_seeds_numbers(tmp_path, folder, seeds, values):
    run = RunFolder(tmp_path / "run", {"seeds": [0, 1]})
    given = {("a", 0): 0.3, ("a", 1): 0.4, ("b", 0): 0.8, ("b", 1): 0.9}
    run.write_results([Record(task, "accuracy", value, "r2mae", seed, 9) for (task, seed), value in given.items()])
    (run.path / folder).mkdir(parents=True, exist_ok=True)
    summary = summary_of_model(run.path / folder, {})
    assert summary.seeds == seeds
    assert {row.task: row.mean for row in summary.evaluation} == pytest.approx(values)


def test_a_model_of_one_task_has_all_splits_of_it_and_names_no_other(tmp_path):
    run = RunFolder(tmp_path / "run", {"seeds": [0], "tasks": ["mnli", "mnli-long", "b"], "data": "."})
    tasks = ("mnli", "mnli-mismatched", "mnli-long", "mnli-long-hard", "b")
    run.write_results([Record(task, "accuracy", 0.5, "r2mae", 0, 9) for task in tasks])
    write_json(run.path / "facts.json", {"program": "r2mae-line", "command": "tune"})
    for folder, expected in (("mnli-0", tasks[:2]), ("mnli-long-0", tasks[2:4]), ("b-0", tasks[4:])):
        (run.path / folder).mkdir()
        summary = summary_of_model(run.path / folder, {"tune": Command(Tune, "toy:none", "")})
        assert tuple(row.task for row in summary.evaluation) == expected
        rows = dict(training_rows(summary, "r2mae"))
        assert rows["options besides the defaults"] == f"`tasks` {folder.removesuffix('-0')}"
        assert "data" not in rows  # the current folder has no name


def test_nothing_of_the_machine_is_in_what_is_sent(run, tmp_path, monkeypatch):
    host = re.compile(rf"\b{re.escape(os.uname().nodename)}\b".encode())
    monkeypatch.setenv("LOGNAME", "jane.doe")
    monkeypatch.setenv("HOME", str(tmp_path / "jane.doe"))
    push_run(run, "lab/line", license="mit", dry_run=True, out=tmp_path / "dry")
    for file in _files(tmp_path / "dry"):
        content = file.read_bytes()
        for text in (str(tmp_path), "jane.doe", "/srv/trees"):
            assert text.encode() not in content, (file.name, text)
        # A short name may occur by chance among a picture's bytes, which know no words.
        assert file.suffix == ".png" or not host.search(content), file.name


def test_a_model_that_keeps_the_place_of_its_data_is_not_sent(run, tmp_path, monkeypatch):
    write_yaml(run / "config.yaml", {**read_yaml(run / "config.yaml"), "extra": {"files": ["/srv/lab/cells.h5ad"]}})
    monkeypatch.setattr(Line, "write_pretrained", lambda self, folder: _write(folder, b"PK /srv/lab/cells.h5ad PK"))
    with pytest.raises(UserError, match=r"model\.pt would tell others of '/srv/lab/cells\.h5ad'"):
        push_run(run, "lab/line", license="mit", dry_run=True, out=tmp_path / "dry")
    assert not (tmp_path / "dry").exists()


def _write(folder, content):
    (folder / "model.pt").write_bytes(content)


@pytest.mark.parametrize("name", ["weights.bin", "deep/config.json", "README.md"])
def test_a_file_that_names_a_place_is_not_sent(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", "/home/jane")
    file = tmp_path / "share" / name
    file.parent.mkdir(parents=True)
    for harmless in (b"/home/janet/x", b"/home/jane.d", b"home/jane", b"\x00\xff"):
        file.write_bytes(b"{'from': '" + harmless + b"'}")
        refuse_private(tmp_path / "share", ["/data/run"])
    file.write_bytes(b'{"/tmp": 5, "/data/": 6, " /tmp": 7}')  # words of a tokenizer
    refuse_private(tmp_path / "share", ["/data"])
    for place in (
        b"/home/jane/models/a",
        b"/home/jane",
        b"/tmp/x.h5ad",
        b"/data/run/config.yaml",
        str(tmp_path / "share").encode(),
    ):
        file.write_bytes(b"\x00\x01" + place + b"\x00")
        with pytest.raises(UserError, match="a place of this machine; nothing was sent"):
            refuse_private(tmp_path / "share", ["/data/run"])
    file.write_bytes(b"from /data/cells")
    with pytest.raises(UserError, match="'/data', a place"):
        refuse_private(tmp_path / "share", ["/data"])


def test_save_pretrained_replaces_its_own_and_nothing_else(tmp_path):
    Line(1.0).save_pretrained(tmp_path / "m")
    Line(2.0).save_pretrained(tmp_path / "m")
    assert Line.from_pretrained(tmp_path / "m").slope == 2.0
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        Line(3.0).save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    assert Line.from_pretrained(tmp_path / "m").slope == 2.0
    with pytest.raises(UserError, match="has no revisions"):
        Line.from_pretrained(tmp_path / "m", revision="main")
    with pytest.raises(UserError, match="there is no folder"):
        Line.from_pretrained(tmp_path / "n")


def test_a_card_without_a_run():
    text = model_card(
        CardFacts("A line.", "r2mae", {}, ["None."], base_model="lab/first", datasets=["lab/data"]),
        "a",
        license="other",
        license_name="mine",
    )
    assert "Training" not in text
    assert ModelCard(text).data.license_name == "mine"
    assert ModelCard(text).data.base_model == "lab/first"
    assert ModelCard(text).data.datasets == ["lab/data"]


def test_public_text():
    assert public_text("/home/me/x/data.h5ad") == "data.h5ad"
    assert public_text("C:\\Users\\me\\data.h5ad") == "data.h5ad"
    assert public_text(["../a/b.txt", 3]) == "b.txt, 3"
    assert public_text({"tree": "x/y.nwk", "n": 2}) == "tree y.nwk, n 2"
    assert public_text(0.5) == "0.5"
    assert public_text("scratch:/home/me/run") == "scratch:run"  # its shape, not its weights
    assert public_text("s3://bucket/data.h5ad") == "data.h5ad"
    assert public_text("hfds/lab/pictures") == "hfds/lab/pictures"


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]
