"""The packages side by side: the same verbs, flags, help, README shape, recipes and rooms.

`python docs/test_consistency.py` prints the tables.
"""

import ast
import importlib
import inspect
import itertools
import json
import re
import textwrap
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from r2mae_core import PretrainOptions
from r2mae_core.lab.option_groups import GROUPS, option_groups

ROOT = Path(__file__).parents[1]
FOUND = sorted(path.parent.name.removeprefix("r2mae-") for path in ROOT.glob("packages/*/pyproject.toml"))
ALL = tuple(name for name in FOUND if (ROOT / f"packages/r2mae-{name}/src/r2mae_{name}/cli.py").exists())
MODALITIES = tuple(
    name for name in ALL if (ROOT / f"packages/r2mae-{name}/src/r2mae_{name}/model.py").exists()
    or (ROOT / f"packages/r2mae-{name}/src/r2mae_{name}/mae").exists()
)  # fmt: skip
# What every package means by these, and nothing else: one type, one default, one sentence of help.
SAME = {field.name for field in fields(PretrainOptions)} | {"dry_run", "runs", "markdown", "csv", "workers"}
# A recipe of the paper sets these; their help may name the samples.
OWN_DEFAULT = {"batch_size", "micro_batch_size", "clip", "mask_ratio", "ratio_per", "log_every"}
# One word for one idea: these are other words for it.
OLD_WORDS = {
    "root": "data", "corpus": "data", "windows": "data", "file": "data", "n_seeds": "seeds", "hidden": "n_hidden",
    "layers": "n_layers", "heads": "n_heads", "scope": "ratio_per", "warmup_epochs": "warmup",
     "checkpoint": "start",
}  # fmt: skip
OLD_FUNCTIONS = {"sampler_of", "scheme_sampler", "loss_curve", "validation_loss", "pretraining_of", "training_of"}
MODELS, DATA = {"model", "run", "runs"}, {"data", "msa", "variants", "table"}


@pytest.fixture(autouse=True)
def _everything_installed():
    if lost := [name for name in ALL if find_spec(f"r2mae_{name}") is None]:
        pytest.skip(f"not installed: {', '.join(lost)}")


def options(package: str, verb: str) -> type:
    module = importlib.import_module(f"r2mae_{package}.cli")
    return module.COMMANDS[verb].config


def verbs(package: str) -> dict[str, str]:
    commands = importlib.import_module(f"r2mae_{package}.cli").COMMANDS
    return {verb: command.help for verb, command in commands.items()}


def helps(config: type) -> dict[str, str]:
    """Return field → its attribute docstring, also of the fields that it inherits."""
    found = {}
    for kind in reversed(config.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def flags(package: str, verb: str = "pretrain") -> dict[str, tuple[str, object, str]]:
    """Return flag → (type, default, help)."""
    config = options(package, verb)
    texts = helps(config)
    return {f.name: (str(f.type), None if f.default is MISSING else f.default, texts[f.name]) for f in fields(config)}


def common(verb: str) -> dict[str, dict[str, tuple[str, object, str]]]:
    """Return flag → package → (type, default, help), of flags that two packages have."""
    every = {package: flags(package, verb) for package in MODALITIES if verb in verbs(package)}
    names = dict.fromkeys(name for found in every.values() for name in found)
    rows = {name: {package: found[name] for package, found in every.items() if name in found} for name in names}
    return {name: row for name, row in rows.items() if len(row) > 1}


def plain(text: str) -> str:
    """Return a help text without what must differ: the package's name, and the list of its schemes."""
    return re.sub(r"r2mae-\w+-|\(fixed, .*?\)", "", text)


COMMON = sorted({verb for package in ALL for verb in verbs(package)})


@pytest.mark.parametrize("verb", COMMON)
def test_a_flag_has_one_type_one_default_and_one_meaning(verb):
    differ = {}
    for name, row in common(verb).items():
        # Elsewhere than in `pretrain` the sentence says what is written, computed or shown there.
        shown = {
            (kind, repr(default) * (name not in OWN_DEFAULT), plain(text) * (verb == "pretrain"))
            for kind, default, text in row.values()
        }
        if name in SAME - OWN_DEFAULT and len(shown) > 1:
            differ[name] = shown
    assert differ == {}


@pytest.mark.parametrize("package", MODALITIES)
def test_pretraining_takes_what_every_pretraining_takes(package):
    assert issubclass(options(package, "pretrain"), PretrainOptions)


def every_command() -> list[tuple[str, str]]:
    return [(package, verb) for package in ALL for verb in verbs(package)]


@pytest.mark.parametrize(("package", "verb"), every_command())
def test_one_word_for_one_idea(package, verb):
    names = [field.name for field in fields(options(package, verb))]
    assert {name: OLD_WORDS[name] for name in names if name in OLD_WORDS} == {}
    required = [f.name for f in fields(options(package, verb)) if f.default is MISSING and f.default_factory is MISSING]
    models = [i for i, name in enumerate(required) if name in MODELS]
    data = [i for i, name in enumerate(required) if name in DATA]
    assert not models or not data or max(models) < min(data), f"VERB MODEL DATA, got {required}"


def test_validation_names_data_and_nothing_else():
    """A share of the data is `validation_share`, places in a genome are `validation_regions`."""
    kinds = {
        (package, verb, str(field.type))
        for package, verb in every_command()
        for field in fields(options(package, verb))
        if field.name == "validation"
    }
    assert {kind for _, _, kind in kinds} <= {"str | None"}, kinds


@pytest.mark.parametrize(("package", "verb"), every_command())
def test_every_option_has_help_and_stands_in_its_group(package, verb):
    config = options(package, verb)
    assert [f.name for f in fields(config) if not helps(config).get(f.name, "").endswith(".")] == []
    own = [name for name in config.__annotations__ if name in option_groups(config)]
    order = [group for group, _ in itertools.groupby(option_groups(config)[name] for name in own)]
    if verb == "pretrain":
        assert order == sorted(set(order), key=list(GROUPS).index), "the fields stand in the order of the help page"


@pytest.mark.parametrize("package", ALL)
def test_old_spellings_name_options_that_exist(package):
    commands = importlib.import_module(f"r2mae_{package}.cli").COMMANDS
    wrong = [
        (verb, old, new)
        for verb, command in commands.items()
        for old, new in command.renamed.items()
        if old in {f.name for f in fields(command.config)}
        or (new.startswith("--") and new[2:].split()[0].strip(",") not in {f.name for f in fields(command.config)})
    ]
    assert wrong == []


@pytest.mark.parametrize("package", MODALITIES)
def test_functions_of_one_meaning_have_one_name_and_one_return_type(package):
    home = ROOT / "packages" / f"r2mae-{package}" / "src"
    functions = [
        node
        for file in home.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert [node.name for node in functions if node.name in OLD_FUNCTIONS] == []
    returned = {ast.unparse(node.returns) for node in functions if node.name == "held_out_loss" and node.returns}
    assert returned == {"dict[float, float]"}


@pytest.mark.parametrize("package", ALL)
def test_every_package_has_the_common_verbs(package):
    if package not in ("vision", "text", "dna", "singlecell", "theory"):
        pytest.skip("not the paper's")
    wanted = {"demo", "reproduce"} | ({"prepare", "pretrain", "compare"} if package != "theory" else set())
    assert wanted <= set(verbs(package))


@pytest.mark.parametrize("package", ALL)
def test_whatever_writes_takes_out(package):
    """Every command but those that only print has --out."""
    silent = {"compare", "fill", "msa-info", "msa-show"}
    lost = [v for v in verbs(package) if v not in silent and "out" not in {f.name for f in fields(options(package, v))}]
    assert lost == []


@pytest.mark.parametrize("verb", ["demo", "reproduce", "compare", "prepare", "pretrain"])
def test_common_verbs_end_their_help_as_a_sentence(verb):
    lines = {package: verbs(package)[verb] for package in ALL if verb in verbs(package)}
    assert all(re.fullmatch(r"[A-Z].*\.", line) for line in lines.values()), lines


@pytest.mark.parametrize("package", ALL)
def test_readme_has_one_shape(package):
    text = (ROOT / "packages" / f"r2mae-{package}" / "README.md").read_text(encoding="utf-8")
    wanted = ["From the command line", "In Python", "What was measured here"]
    wanted += ["Choices that the paper does not state", "Limits"]
    found = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert [name for name in found if name in wanted] == wanted, found


@pytest.mark.parametrize("package", MODALITIES)
def test_modules(package):
    """No module has a second name: what several packages have is called the same."""
    home = ROOT / "packages" / f"r2mae-{package}" / "src" / f"r2mae_{package}"
    there = {path.name for path in home.iterdir() if path.name != "__pycache__"}
    needed = {"cli.py", "options.py", "model.py", "masking.py", "pretrain.py", "evaluate.py", "demo.py", "plots.py"}
    inner = {path.name for path in home.glob("mae/*")}  # vision has three models, each in a folder of its own
    assert needed <= there | inner, needed - there - inner
    assert not there & {
        "commands.py",
        "records.py",
        "prepare.py",
        "train.py",
        "utils.py",
        "schedules.py",
        "datasets.py",
    }


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("packages/*/src/*/configs/**/*.yaml")), ids=lambda p: f"{p.parents[2].name}-{p.stem}"
)
def test_recipes_have_one_style(file):
    text = file.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert text.startswith("# "), "the header says what it is and what to add"
    assert not {"device", "devices", "nodes", "precision", "workers", "target", "out"} & set(recipe), recipe
    assert not re.search(r"\d\.?\d*e[+-]?\d", text) or re.search(r": -?\d\.\d+e-0?\d", text), "1.0e-5"


def said(file: Path) -> list[str]:
    """Return the texts of a module, with X where a value is put in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {id(part) for node in joined for part in node.values}
    whole = [
        n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in inside
    ]
    return [
        *("".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values) for node in joined),
        *(node.value for node in whole),
    ]


def wrong(package: str, verb: str, words: list[str]) -> str:
    """Return what is wrong with a command that a message recommends, or nothing."""
    if verb not in verbs(package):
        return f"no verb {verb}"
    every = fields(options(package, verb))
    needed = [f for f in every if f.default is MISSING and f.default_factory is MISSING]
    values = 0
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            if "X" not in name and name not in {f.name for f in every}:
                return f"no option {word}"
        elif re.fullmatch(r"X|[A-Z][A-Z_.a-z0-9]*", word):
            values += not before.startswith("--")
        else:
            break  # the sentence goes on
    too_many = values > len(needed) and not any("tuple" in str(f.type) for f in needed)
    return f"{values} positional words" if too_many else ""


@pytest.mark.parametrize("package", ALL)
def test_a_command_that_a_message_recommends_is_one(package):
    home = ROOT / "packages" / f"r2mae-{package}" / "src"
    known = sorted(verbs(package), key=len, reverse=True)
    names = "|".join([*(v.replace("-", " ") for v in known if "-" in v), *known, "[a-z]+"])
    found = [
        (file.name, match[0].strip(), wrong(package, match["verb"].replace(" ", "-"), match["rest"].split()))
        for file in home.rglob("*.py")
        for text in said(file)
        for match in re.finditer(rf"\br2mae-{package} (?P<verb>{names})\b(?P<rest>[^`;,()\n]*)", text)
    ]
    assert found
    assert [entry for entry in found if entry[2]] == []


def test_a_wrong_recommendation_is_noticed():
    assert wrong("singlecell", "pretrain", ["PREPARED.h5ad", "X"])
    assert wrong("vision", "train", [])
    assert wrong("text", "pretrain", ["--vocabulary"])


if __name__ == "__main__":
    print("| verb | " + " | ".join(ALL) + " |\n|---|" + "---|" * len(ALL))
    for verb in dict.fromkeys(verb for package in ALL for verb in verbs(package)):
        print(f"| {verb} | " + " | ".join("x" if verb in verbs(package) else "" for package in ALL) + " |")
    print("\n| flag of pretrain | " + " | ".join(MODALITIES) + " |\n|---|" + "---|" * len(MODALITIES))
    for name in dict.fromkeys(name for package in MODALITIES for name in flags(package)):
        row = [flags(package).get(name) for package in MODALITIES]
        cells = ["" if cell is None else f"{cell[0]} = {cell[1]}".replace("|", "or") for cell in row]
        print(f"| {name} | {' | '.join(cells)} |")


@pytest.mark.parametrize("name", ["constants", "mutants"])
def test_the_changes_that_tests_must_notice_fit_the_code(name):
    """Of each, the text to change is there once, and its tests are there: `nox -s mutants` could not try it else."""
    for line in (ROOT / "tools" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        assert (ROOT / one["file"]).read_text(encoding="utf-8").count(one["old"]) == 1, one
        for file, _, function in (word.partition("::") for word in one["tests"].split() if ".py" in word):
            assert f"def {function.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8"), one


def test_the_table_of_the_papers_numbers_is_that_of_the_list():
    """`docs/paper.md` names every number of `tools/constants.jsonl`, and says of each that is not caught why."""
    lines = (ROOT / "tools" / "constants.jsonl").read_text(encoding="utf-8").splitlines()
    listed = [json.loads(line) for line in lines]
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    block = page.partition("<!-- written by `./dev -s mutants -- --constants` -->")[2].partition("<!-- end of")[0]
    rows = re.findall(r"^\| (\S+) \| (\w+) \| (\d+) of (\d+) \| (.*) \|$", block, re.MULTILINE)
    found: dict[tuple[str, str], list[str]] = {}
    for one in listed:
        package = one["file"].split("/")[1].removeprefix("r2mae-")
        found.setdefault((one["appendix"], package), []).append(one["what"])
    assert {(row[0], row[1]): row[4].split("; ") for row in rows} == found
    lost = sum(int(row[3]) - int(row[2]) for row in rows)
    assert len(re.findall(r"^- .*: not caught; (?!why, is open)", block, re.MULTILINE)) == lost
