"""Mutated commands: by seed and number, so that each can be made again alone."""

import importlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from tools.fuzz.bases import BASES, Base
from tools.fuzz.damage import INJECTED, MISSING, RUINS, TEXT_WAYS, WAYS, damage, pick_file
from tools.fuzz.values import LONG_WORK, Option, odd_value, options

ODD_NAMES = ("with space", "[x]", "new\nline", "*", "-c", "é☃", "\udcff\udcfe", "%s", "a'b\"", "x" * 200)
YAMLS = (
    b"\xff\xfe\x00steps: 3", b"- a\n- b\n", b"3", b"", b"\x00", b"unknown_key: 1\n", b"a: {", b"[" * 3000,
    b"seed: 1\nseed: 2\n", b"out: \"\\0\"\n", b"seed: 2020-01-01\n", b"x" * 100_000, b"help: true\n", b"trust: os\n",
    b"&a [*a]", b"out: !!python/object/apply:os.system [touch PWNED]\n", b"\t: x", b"seed: [1, 2]\nout: {a: b}\n",
    b"null: 1\n", b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", b"---\na: 1\n---\nb: 2\n", b"config: x.yaml\n",
    b"1: 2\n", b"print_config: true\n",
)  # fmt: skip


@dataclass
class Case:
    """One mutated command and its folder."""

    name: str
    package: str
    argv: list[str]
    kind: str
    """Kind of the mutation."""
    what: str = ""
    """What was done to the files, in words."""
    must_fail: bool = False
    """Whether nothing right can come out."""
    resumes: str = ""
    """A folder that the command may change."""
    long: bool = False
    """Whether it may be asked to work for ever."""


Mutation = Callable[[Case, Base, Path, random.Random], None]


def make_case(package: str, number: int, seed: int, home: Path, work: Path) -> Case:
    """Write the folder of a mutated command.

    Args:
        package: such as "text".
        number: of the case.
        seed: of the whole fuzz.
        home: folder of the package's valid inputs.
        work: folder to write, which becomes the command's current folder.
    """
    rng = random.Random(f"{seed}/{package}/{number}")
    base = rng.choice(BASES[package])
    case = Case(f"{package}-{number}", package, list(base.argv), "", resumes=base.resumes)
    work.mkdir(parents=True)
    for name in inputs_of(base.argv, home):
        _copy(home / name, work / name)
    kinds = [kind for kind in MUTATIONS if kind != "input" or inputs_of(base.argv, home)]
    case.kind = rng.choices(kinds, [_WEIGHTS[kind] for kind in kinds])[0]
    MUTATIONS[case.kind](case, base, work, rng)
    return case


def inputs_of(argv: Iterable[str], home: Path) -> list[str]:
    """Return the words of a command that are inputs, by the first part of their path, without repetition."""
    tops = [word.partition("/")[0] for word in argv]
    return [name for name in dict.fromkeys(tops) if name not in ("", ".", "..") and (home / name).exists()]


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)


def _verb(case: Case) -> str:
    words = case.argv
    return f"msa-{words[1]}" if words[0] == "msa" else words[0]


def _options(case: Case) -> list[Option]:
    commands = importlib.import_module(f"r2mae_{case.package}.cli").COMMANDS
    return options(commands[_verb(case)].config)


def _give(case: Case, name: str, value: str, rng: random.Random) -> None:
    name = name.replace("_", "-") if rng.random() < 0.3 else name
    case.argv += [f"--{name}={value}"] if rng.random() < 0.7 else [f"--{name}", value]
    case.long |= any(word in value for word in LONG_WORK)


def _value(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Give one or two options odd values."""
    for option in rng.sample(_options(case), k=min(rng.choice((1, 1, 1, 2)), len(_options(case)))):
        value = odd_value(option, rng)
        _give(case, option.name, value, rng)
        case.must_fail |= option.is_wrong(value)


def _flags(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Repeat, misspell, cut or leave out words."""
    way = rng.randrange(7)
    if way == 0:
        case.argv += rng.choice(
            (["--unknown", "1"], ["--unknown=1"], ["-z"], ["--trust", "no_such_module"], ["--trust="])
        )
        case.must_fail = True
    elif way == 1:
        case.argv.append(f"--{rng.choice(_options(case)).name}")  # and no value
    elif way == 2:
        del case.argv[rng.randrange(len(case.argv))]
    elif way == 3:
        case.argv.insert(rng.randrange(1, len(case.argv) + 1), rng.choice(("", "x", "--", "-", "[", "\udcff", "--out")))
    elif way == 4:
        option = rng.choice(_options(case))
        for value in (odd_value(option, rng), odd_value(option, rng)):
            _give(case, option.name, value, rng)
    elif way == 5:
        i, j = rng.randrange(len(case.argv)), rng.randrange(len(case.argv))
        case.argv[i], case.argv[j] = case.argv[j], case.argv[i]
    else:
        name = rng.choice(_options(case)).name
        _give(case, rng.choice((f"{name}.x", f"{name}+", f"no-{name}", name[:-1], name.upper())), "1", rng)
    case.long |= any(word in value for word in LONG_WORK for value in case.argv)


def _output(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Let the command write where it cannot, or must not."""
    (work / "file").write_text("mine\n")
    (work / "full").mkdir()
    (work / "full" / "mine.txt").write_text("mine\n")
    (work / "dangling").symlink_to("nowhere")
    (work / "loop").symlink_to("loop")
    inputs = inputs_of(base.argv, work)
    for i, name in enumerate(inputs):
        (work / f"link{i}").symlink_to(name)
    places = ["file", "full", "dangling", "loop", "file/x", "loop/x", "", ".", "..", "x" * 300, "/proc/x"]
    places += ["new/\udcff/[x]"]
    places += [*inputs, *inputs, *(f"./full/../{name}" for name in inputs), *(f"link{i}" for i in range(len(inputs)))]
    _give(case, "out", rng.choice(places), rng)


def _path(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Give another path in the place of an input, or rename the input oddly."""
    places = [i for i, word in enumerate(base.argv) if inputs_of([word], work) and base.argv[i - 1] != "--out"]
    if not places:
        return _output(case, base, work, rng)
    place = rng.choice(places)
    given = work / case.argv[place]
    if rng.random() < 0.4:
        name = rng.choice(ODD_NAMES) + given.suffix
        given.rename(work / name)
        case.argv[place], case.what = name, f"{given.name} renamed"
        return None
    (work / "empty").mkdir()
    (work / "file").write_text("hello\n")
    (work / "dangling").symlink_to("nowhere")
    others = [name for name in inputs_of(base.argv, work) if name != given.name]
    wrong = ("missing", "empty", "file", "dangling", "", ".", "..", os.devnull, "file/x", "x" * 300, "[a,b]", "\udcff",
             f"{given.name}/nothing", "hub:x", "hfds/x", "wds/x", "a\x01b")  # fmt: skip
    case.argv[place] = rng.choice((*wrong, *others))
    case.must_fail = case.argv[place] in ("missing", "empty", "dangling", os.devnull, "file/x", "x" * 300)
    return None


def _input(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Damage one file of the inputs."""
    tops = inputs_of(base.argv, work)
    needed = [file for pattern in base.reads.split() for file in sorted(work.glob(f"**/{pattern}"))]
    if needed and rng.random() < 0.5:
        file = rng.choice(needed)
    else:
        file = pick_file(work / (base.resumes if base.resumes and rng.random() < 0.7 else rng.choice(tops)), rng)
    texts = file.suffix in (".json", ".yaml", ".csv", ".txt", ".tsv", ".jsonl", ".vcf", ".maf", ".fa", ".md")
    ways = [way for way in WAYS if texts or way not in (*TEXT_WAYS, "an injected call")]
    ways += [*TEXT_WAYS, "another value"] if texts else []
    ways += ["an injected call"] * 2 if file.suffix in (".yaml", ".json") else []
    plain = texts and file.suffix not in (".json", ".yaml")  # half a text is a text
    if file.is_dir():
        ways = ["gone"]
    how = rng.choice(ways)
    case.what = f"{file.relative_to(work)}: {how}"
    sealed = how == "a flipped bit" and (file.suffix == ".ckpt" or (file.parent / "SHA256SUMS").exists())
    damage(file, how, rng)
    # Without its model a run is taken from its checkpoint, and without that training starts anew: both are right.
    trained = work / "run" in file.parents and (work / "run" / "checkpoints").exists()
    unfinished = how in MISSING and (file.suffix == ".ckpt" or trained)
    ruined = how in RUINS and not (plain and how == "truncated") and not unfinished
    case.must_fail = file in needed and (ruined or sealed)


def _yaml(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Give a YAML file by -c that is damaged, of wrong types, or names a call."""
    found = _options(case)
    samplers = [option.name for option in found if option.is_sampler]
    option = rng.choice(found)
    content: bytes | str = rng.choice(YAMLS)
    chance = rng.random()
    if samplers and chance < 0.5:
        content = yaml.safe_dump({samplers[0]: injected_sampler(rng)})
        case.must_fail = True
    elif chance < 0.7:
        content = yaml.safe_dump(
            {option.name: rng.choice((INJECTED, [INJECTED], {"mask_ratio": INJECTED}, None, [1], {}, 1.5, "x"))}
        )
    elif chance < 0.85:
        content = json.dumps({option.name: odd_value(option, rng)})
    (work / "given.yaml").write_bytes(
        content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    )
    words = rng.choice((["-c", "given.yaml"], ["--config", "given.yaml"], ["--config=given.yaml"]))
    case.argv[_first(case) : _first(case)] = words
    case.what = f"given.yaml: {content[:200]!r}"


def injected_sampler(rng: random.Random) -> object:
    """Return a mask ratio that would run a command, at some depth."""
    deep = {"class_path": "r2mae_core.Uniform", "init_args": {"low": INJECTED, "high": 0.9}}
    decay = {"class_path": "LinearDecay", "init_args": {"start": INJECTED, "end": deep, "steps": 10}}
    bare = {"class_path": "os.system"}
    return rng.choice((INJECTED, deep, decay, bare, "os.system", "subprocess.Popen", [INJECTED], {"low": INJECTED}))


def _injected(case: Case, base: Base, work: Path, rng: random.Random) -> None:
    """Name a call on the command line, or in a file of a run or a model."""
    files = sorted(file for top in inputs_of(case.argv, work) for file in (work / top).rglob("*") if _names_code(file))
    if files and rng.random() < 0.7:
        file = rng.choice(files)
        case.what = f"{file.relative_to(work)}: an injected call"
        return damage(file, "an injected call", rng)
    samplers = [option.name for option in _options(case) if option.is_sampler]
    name = rng.choice(samplers or [option.name for option in _options(case)])
    words = (
        [f"--{name}", rng.choice(("subprocess.Popen", "os.system"))],
        [f"--{name}={json.dumps(injected_sampler(rng))}"],
    )
    case.argv += rng.choice((words[0], [*words[0], f"--{name}.args", "[touch,PWNED]"], words[1], words[1]))
    case.must_fail = bool(samplers)
    return None


def _names_code(file: Path) -> bool:
    """Whether a file is one of those that hold options or a model's shape."""
    return file.suffix in (".json", ".yaml") and file.is_file() and "class_path" in file.read_text(encoding="utf-8")


def _first(case: Case) -> int:
    return 2 if case.argv[0] == "msa" else 1


MUTATIONS: dict[str, Mutation] = {
    "value": _value, "flags": _flags, "output": _output, "path": _path, "input": _input, "yaml": _yaml,
    "injected": _injected,
}  # fmt: skip
_WEIGHTS = {"value": 30, "flags": 8, "output": 10, "path": 12, "input": 50, "yaml": 12, "injected": 10}
