"""The packages side by side: the same verbs, flags, help, README shape, recipes and rooms.

`python docs/test_consistency.py` prints the tables.
"""

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MODALITIES = ("vision", "text", "dna", "singlecell")
ALL = (*MODALITIES, "theory")
# A flag of `pretrain` that may have another default, because the paper or the ecosystem has another for it.
OWN_DEFAULT = {
    "batch_size",
    "epochs",
    "steps",
    "lr",
    "weight_decay",
    "betas",
    "clip",
    "warmup",
    "dropout",
    "model",
    "eps",
}
# A word that means something else in one package; the help says what.
OWN_HELP = {"model", "hidden", "epochs", "steps", "batch_size", "lr", "weight_decay", "betas", "dropout", "warmup"}
ROOMS = {"__init__.py", "__init__.pyi", "py.typed", "cli.py", "options.py", "model.py", "masking.py", "pretrain.py"}
ROOMS |= {"evaluate.py", "demo.py", "paper.py", "plots.py", "configs", "data.py", "data", "sample_data"}


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
    """Return field → its attribute docstring."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0].body
    found = {}
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


@pytest.mark.parametrize("verb", ["pretrain", "demo", "reproduce", "compare", "prepare", "finetune", "probe"])
def test_a_flag_has_one_type_one_default_and_one_meaning(verb):
    for name, row in common(verb).items():
        types = {kind for kind, _, _ in row.values()}
        if name not in OWN_DEFAULT and name not in ("target", "seeds", "n_seeds", "data", "runs", "schemes", "source"):
            assert len(types) == 1, f"{verb} --{name}: {row}"
        if verb == "pretrain" and name not in OWN_DEFAULT:
            assert len({repr(default) for _, default, _ in row.values()}) == 1, f"{verb} --{name}: {row}"
        if verb == "pretrain" and name not in OWN_HELP:
            assert len({text for _, _, text in row.values()}) == 1, f"{verb} --{name}: {row}"


@pytest.mark.parametrize("package", ALL)
def test_every_package_has_the_common_verbs(package):
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
def test_rooms(package):
    """No room has a second name: what several packages have is called the same."""
    home = ROOT / "packages" / f"r2mae-{package}" / "src" / f"r2mae_{package}"
    there = {path.name for path in home.iterdir() if path.name != "__pycache__"}
    needed = {"cli.py", "options.py", "model.py", "masking.py", "pretrain.py", "evaluate.py", "demo.py", "plots.py"}
    assert needed <= there | ({"paper.py"} if package == "vision" else set()), needed - there
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
    assert not {"device", "devices", "nodes", "precision", "workers", "target", "data", "out"} & set(recipe), recipe
    assert not re.search(r"\d\.?\d*e[+-]?\d", text) or re.search(r": -?\d\.\d+e-0?\d", text), "1.0e-5"


if __name__ == "__main__":
    print("| verb | " + " | ".join(ALL) + " |\n|---|" + "---|" * len(ALL))
    for verb in dict.fromkeys(verb for package in ALL for verb in verbs(package)):
        print(f"| {verb} | " + " | ".join("x" if verb in verbs(package) else "" for package in ALL) + " |")
    print("\n| flag of pretrain | " + " | ".join(MODALITIES) + " |\n|---|" + "---|" * len(MODALITIES))
    for name in dict.fromkeys(name for package in MODALITIES for name in flags(package)):
        row = [flags(package).get(name) for package in MODALITIES]
        cells = ["" if cell is None else f"{cell[0]} = {cell[1]}".replace("|", "or") for cell in row]
        print(f"| {name} | {' | '.join(cells)} |")
