import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

import pytest

from r2mae_core import (
    Command,
    Compare,
    Count,
    Fixed,
    LinearDecay,
    Phases,
    Positive,
    PretrainOptions,
    RatioSampler,
    Record,
    RunFolder,
    Seed,
    Share,
    Uniform,
    UserError,
    left_out,
    print_comparison,
    refuse_options,
    resolved,
    run,
    sampler_from_config,
    sampler_to_config,
    say,
    scheme,
    show_table,
)
from r2mae_core.lab.help_page import kind_of
from r2mae_core.lab.option_groups import option_groups


@dataclass(frozen=True)
class Options:
    name: str
    """Who."""
    mask_ratio: RatioSampler | float | str = "r2mae"
    """Scheme."""
    dry_run: bool = False
    """Only say it."""
    progress: bool = True
    """Bar."""
    steps: int = 3
    """How many."""
    out: Path | None = None
    """Where."""


@dataclass(frozen=True)
class Many:
    runs: tuple[Path, ...]
    """Folders."""


seen = []


def work(options):
    if options.name == "gpu":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nand more")
    if options.name == "bad":
        raise UserError("no such name; try another")
    if options.name == "full":
        raise OSError(28, "No space left on device", "out.bin")
    if options.name == "stop":
        raise KeyboardInterrupt
    seen.append(options)


def many(options):
    seen.append(options)


@pytest.fixture
def call(monkeypatch):
    seen.clear()
    # The target is imported by name from an installed package; here it is this module.
    monkeypatch.setitem(sys.modules, "r2mae_core.fake", sys.modules[__name__])
    commands = {
        "work": Command(Options, "r2mae_core.fake:work", "Do it."),
        "many": Command(Many, "r2mae_core.fake:many", "Do many."),
    }
    return lambda *argv: run("prog", "Description.", commands, argv)


def test_defaults_flags_switches_and_samplers(call):
    assert call("work", "anna") == 0
    assert seen == [Options("anna")]
    assert call("work", "anna", "--dry-run", "--no-progress", "--steps=5") == 0
    assert seen[-1] == Options("anna", dry_run=True, progress=False, steps=5)
    assert call("work", "anna", "--dry_run", "false", "--mask_ratio", "0.4", "--out", "x/y") == 0
    assert seen[-1] == Options("anna", mask_ratio=0.4, out=Path("x/y"))
    assert call("work", "anna", "--mask-ratio", "Uniform", "--mask_ratio.low", "0.1", "--mask_ratio.high=0.3") == 0
    assert seen[-1].mask_ratio == {
        "class_path": "r2mae_core.Uniform",
        "init_args": {"low": 0.1, "high": 0.3, "seed": 0},
    }
    assert call("many", "a", "b") == 0
    assert [Path(p) for p in seen[-1].runs] == [Path("a"), Path("b")]


def test_no_progress_is_taken_by_every_command(call):
    assert call("many", "a", "b", "--no-progress") == 0
    assert [Path(p) for p in seen[-1].runs] == [Path("a"), Path("b")]
    assert call("many", "a", "--progress") == 2


def test_a_full_gpu_is_a_message(call, capsys):
    assert call("work", "gpu") == 1
    assert (
        capsys.readouterr().err == "prog work: the GPU's memory is full (CUDA out of memory.); lower the batch size\n"
    )


def test_yaml_comes_before_flags(call, tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 7\nmask_ratio: {class_path: Fixed, init_args: {ratio: 0.2}}\n")
    assert call("work", "anna", "-c", "c.yaml", "--progress", "false") == 0
    assert seen[-1].steps == 7
    assert seen[-1].progress is False
    assert seen[-1].mask_ratio["init_args"] == {"ratio": 0.2}
    assert call("work", "anna", "-c", "c.yaml", "--steps", "9") == 0
    assert seen[-1].steps == 9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad", "prog work: no such name; try another"),
        ("full", "prog work: [Errno 28] No space left on device: 'out.bin'"),
        ("stop", "prog work: interrupted"),
    ],
)
def test_failures_are_one_line_and_exit_1(call, capsys, name, message):
    assert call("work", name) == 1
    err = capsys.readouterr().err.strip()
    assert err == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "prog: "),
        (["wrok"], "prog: "),
        (["work"], "prog: the following arguments are required"),
        (["work", "a", "--stpes", "3"], "prog work: unrecognized arguments: --stpes 3"),
        (["work", "a", "--steps", "many"], "prog work: --steps many: this is not a whole number"),
        (["work", "a", "-c", "no.yaml"], "no.yaml: there is no such file"),
    ],
)
def test_wrong_usage_exits_2_with_one_line(call, capsys, argv, message):
    assert call(*argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) <= 2  # the second says where the options are listed
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Beta --mask_ratio.alpha 2 --mask_ratio.beta nan", "--mask_ratio.beta nan: this is not a number or a Ramp"),
        ("Beta", "--mask_ratio Beta needs alpha, beta"),
        ("Uniform --mask_ratio.low 0.2 --mask_ratio.high [1]", "--mask_ratio.high"),
        ("Choice --mask_ratio.values x", "--mask_ratio.values x: this is not"),
    ],
)
def test_a_sampler_with_wrong_arguments_is_one_line(pretrain, capsys, words, message):
    assert pretrain("--mask_ratio", *words.split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) <= 2


def test_samplers_of_every_shape_reach_the_command(pretrain, tmp_path):
    inner = sampler_to_config(Uniform(0.1, LinearDecay(0.5, 0.2)))
    phases = {"class_path": "Phases", "init_args": {"spans": [9, 1], "phases": [0.3, inner]}}
    alpha = {"class_path": "Ramp", "init_args": {"start": 1, "end": 3}}
    ramp = {"class_path": "Beta", "init_args": {"alpha": alpha, "beta": 2}}
    for config in (phases, ramp):
        (tmp_path / "c.yaml").write_text(json.dumps({"mask_ratio": config}))
        assert pretrain("-c", str(tmp_path / "c.yaml")) == 0
        assert pretrain.got[-1] == sampler_from_config(config)
    assert pretrain("--mask_ratio", "Phases", "--mask_ratio.phases", "[0.3,0.1]", "--mask_ratio.spans", "[9,1]") == 0
    assert pretrain.got[-1] == Phases((0.3, 0.1), (9, 1))
    assert pretrain("--mask_ratio", "mmbert") == 0
    assert pretrain.got[-1] == scheme("mmbert")


class Pretraining:
    def __init__(self):
        self.got = []

    def work(self, options):
        self.got.append(sampler_from_config(options.mask_ratio, "text"))

    def __call__(self, *argv):
        return run("prog", "D.", {"work": Command(PretrainOptions, "r2mae_core.fake:work", "Do it.")}, ["work", *argv])


@pytest.fixture
def pretrain(monkeypatch):
    made = Pretraining()
    monkeypatch.setitem(sys.modules, "r2mae_core.fake", made)
    return made


def test_help_is_complete(call, capsys):
    assert call("--help") == 0
    assert "Do it." in capsys.readouterr().out
    assert call("work", "--help") == 0
    text = capsys.readouterr().out
    assert "Scheme." in text
    assert "r2mae_core.Uniform" in text
    assert "--no-NAME" in text


def test_resolved_config_leaves_out_what_changes_no_result():
    assert resolved(Options("a")) == {"name": "a", "mask_ratio": "r2mae", "steps": 3}


def test_options_that_would_be_ignored_are_refused():
    foreign = {"steps": "other", "dry_run": "these, those"}
    refuse_options(Options("a"), foreign, "this")
    with pytest.raises(UserError, match=r"^--dry_run \(for these, those\), --steps \(for other\) does not apply"):
        refuse_options(Options("a", steps=4, dry_run=True), foreign, "this")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import r2mae_core; r2mae_core.Uniform(0, 1); r2mae_core.scheme('r2mae', modality='dna')", "numpy torch"),
        ("import r2mae_core; r2mae_core.Uniform(0, 1).sample(3)", "torch lightning"),
        ("import r2mae_core.lab.commands", "numpy torch jsonargparse"),
        ("import r2mae_core; r2mae_core.exact_mask((2, 3), 0.5); r2mae_core.sinkhorn", "lightning"),
        ("from r2mae_core import compare, Record; compare([Record('t', 'm', 1.0, 's', 0, 1)])", "torch"),
    ],
)
def test_imports_stay_light(code, absent):
    check = f"{code}\nimport sys; print([m for m in {absent.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    import r2mae_core

    for name in r2mae_core.__all__:
        assert getattr(r2mae_core, name) is not None, name
    with pytest.raises(AttributeError):
        r2mae_core.nothing  # noqa: B018


def test_a_table_is_kept_as_it_is_printed(tmp_path, capsys):
    run = RunFolder(tmp_path / "run", {})
    records = [Record("digits", "accuracy", value, "a", seed, 9) for seed, value in enumerate((0.8, 0.9))]
    show_table(run, records, {}, "Title")
    assert "0.850 ±0.071" in capsys.readouterr().out
    assert (run.path / "table.md").read_text().startswith("| scheme (n = 2) | accuracy |")
    assert not run.results()  # these are written where they were measured


@pytest.mark.parametrize(
    ("switch", "start"), [({}, "scheme"), ({"markdown": True}, "| scheme"), ({"csv": True}, "scheme,task,metric")]
)
def test_comparison_in_three_forms(tmp_path, capsys, switch, start):
    RunFolder(tmp_path / "run", {}).write_results([Record("digits", "accuracy", 0.123456789, "a", 0, 9)])
    print_comparison(Compare((tmp_path / "run",), **switch), {})
    out = capsys.readouterr().out
    assert out.strip().startswith(start)
    assert ("0.123456789" in out) == ("csv" in switch)


def test_what_was_left_out_is_said():
    assert left_out({"without a label": 1234, "duplicates": 0}) == "left out: 1,234 without a label"
    assert left_out({}) == left_out({"duplicates": 0}) == "left out: nothing"


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_only_the_first_rank_speaks(variable, monkeypatch, capsys):
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "0")
    say("first")
    monkeypatch.setenv(variable, "1")
    say("second")
    assert capsys.readouterr().out == "first\n"


def test_what_is_said_keeps_its_brackets(capsys):
    say("next: --tasks '[movies]' --out runs/[1]")
    assert capsys.readouterr().out == "next: --tasks '[movies]' --out runs/[1]\n"


@pytest.fixture
def renaming(monkeypatch):
    monkeypatch.setitem(sys.modules, "r2mae_core.fake", sys.modules[__name__])
    command = Command(Options, "r2mae_core.fake:work", "Do it.", renamed={"root": "--name", "n_steps": "--steps"})
    return lambda *argv: run("prog", "Description.", {"work": command}, argv)


@pytest.mark.parametrize("words", [("--root", "x"), ("--root=x",), ("--n-steps", "4")])
def test_an_old_spelling_answers_with_the_new_one(renaming, capsys, words):
    assert renaming("work", "anna", *words) == 2
    old, new = ("root", "--name") if "root" in words[0] else ("n_steps", "--steps")
    assert capsys.readouterr().err == f"prog work: --{old} is now written {new}\n"


def test_an_old_spelling_in_a_file_answers_too(renaming, capsys, tmp_path):
    (tmp_path / "old.yaml").write_text("n_steps: 7\n")
    assert renaming("work", "anna", "-c", "old.yaml") == 2
    assert "old.yaml has n_steps, which is now written --steps" in capsys.readouterr().err


def test_a_scheme_of_the_users_is_reached_from_the_command_line(call, capsys, tmp_path):
    from r2mae_core import sampler_from_config, scheme_names

    (tmp_path / "my_schemes.py").write_text(
        "from r2mae_core import Fixed, register_scheme\n"
        "@register_scheme('mine-alone')\n"
        "def mine():\n    return Fixed(0.3)\n"
    )
    assert call("work", "anna", "--trust", "my_schemes", "--mask_ratio", "mine-alone") == 0
    assert "mine-alone" in scheme_names()
    assert sampler_from_config(seen[-1].mask_ratio).sample(0) == 0.3
    assert call("work", "anna", "--trust=not_there") == 2
    assert "--trust not_there: the module cannot be imported" in capsys.readouterr().err


@dataclass(frozen=True)
class Grouped(PretrainOptions):
    data: Path
    """Rows."""
    _: KW_ONLY
    n_hidden: int = 8
    """Width."""
    own: float = 0.5
    """A package's own, beside the model's."""
    lr: float = 1e-3
    """Rate."""
    batch_size: int = 99
    """Rows of an optimizer step."""


@dataclass(frozen=True)
class Tables:
    files: tuple[Path, ...]
    """Tables, 50 % of them or more;
    one or several."""


@dataclass(frozen=True)
class FewTables(Tables):
    data: Path
    """What they are of."""


def test_help_of_lists_is_their_own(capsys):
    """Also of an inherited field, over several lines, and with a percent sign."""
    assert run("prog", "D.", {"few": Command(FewTables, "r2mae_core.fake:few", "B.")}, ["few", "--help"]) == 0
    assert "FILES Tables, 50 % of them or more; one or several. (required" in " ".join(capsys.readouterr().out.split())


def test_help_groups_its_options(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "r2mae_core.fake", sys.modules[__name__])
    assert run("prog", "D.", {"pretrain": Command(Grouped, "r2mae_core.fake:work", "P.")}, ["pretrain", "--help"]) == 0
    shown = capsys.readouterr().out
    body = shown[shown.index("Show this help") :]
    parts = re.split(r"\n(\w+) options:\n", body)
    groups = dict(zip(parts[1::2], map(str.split, parts[2::2]), strict=True))
    assert list(groups) == ["scheme", "model", "optimisation", "hardware", "output"]
    assert {"--mask_ratio", "--ratio_per"} <= set(groups["scheme"])
    assert {"--n_hidden", "--own"} <= set(groups["model"])
    assert {"--lr", "--batch_size", "--seed", "--clip"} <= set(groups["optimisation"])
    assert {"--device", "--devices", "--strategy", "--compile", "--precision"} <= set(groups["hardware"])
    assert {"--out", "--progress", "--log_every", "--checkpoint_every"} <= set(groups["output"])
    assert "Rows of an optimizer step. (type: whole number, default: 99)" in " ".join(body.split())


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count | None, "whole number at least 1 | null"),
        (Seed, "whole number at least 0"),
        (Share, "number at least 0 and at most 1"),
        (tuple[Path, ...], "list of path"),
        (tuple[Share, Positive], "[number at least 0 and at most 1, number above 0]"),
        (tuple[str | int, ...] | None, "list of (text | whole number) | null"),
        (Literal["a", "b"] | None, "a | b | null"),
        (dict[str, int], "mapping"),
        (Mapping[str, int], "mapping"),
        (bool, "true | false"),
        (Fixed, "Fixed"),
    ],
)
def test_help_names_what_an_option_takes(hint, words):
    assert kind_of(hint) == words


@dataclass(frozen=True)
class ReadsTables:
    labels: str | None = None
    """A parent's own option."""


@dataclass(frozen=True)
class TrainsOnTables(ReadsTables):
    lr: float = 0.1
    """The child ends with a group that is not the parent's."""
    decay: float = 0.1
    """Its own, after lr."""
    logger: str = "csv"
    """One meaning everywhere."""


def test_a_parents_own_option_is_not_in_the_group_where_the_child_ends():
    assert option_groups(TrainsOnTables) == {
        "lr": "optimisation", "decay": "optimisation", "logger": "output", "labels": "data",
    }  # fmt: skip


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    from importlib import metadata

    from r2mae_core.lab import commands

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(commands.metadata, "version", missing)
    assert commands._version("r2mae_core") == sys.modules["r2mae_core"].__version__


def test_threads_wait_asleep_unless_the_user_says_otherwise(call, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    call("work", "anna")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    call("work", "anna")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_file_cannot_ask_to_be_trusted(call, capsys, tmp_path):
    """It would be ignored, or worse, import what it names."""
    (tmp_path / "c.yaml").write_text("trust: antigravity\n")
    assert call("work", "anna", "-c", "c.yaml") == 2
    assert "a file cannot ask to be trusted; give --trust on the command line" in capsys.readouterr().err
    assert seen == []
    assert "antigravity" not in sys.modules
