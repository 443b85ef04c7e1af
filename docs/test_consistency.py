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
# What every package means by these, and nothing else: one type, one default, one sentence of help.
SAME = {"mask_ratio", "ratio_per", "validate_every", "log_every", "seed", "device", "devices", "nodes", "strategy"}
SAME |= {"precision", "compile", "peak_tflops", "workers", "out", "progress", "runs", "markdown", "csv", "dry_run"}


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


def plain(text: str) -> str:
    """Return a help text without what must differ: the package's name, and the list of its schemes."""
    return re.sub(r"r2mae-\w+-|\(fixed, .*?\)", "", text)


@pytest.mark.parametrize("verb", ["pretrain", "demo", "compare", "prepare", "finetune", "probe", "reproduce"])
def test_a_flag_has_one_type_one_default_and_one_meaning(verb):
    differ = {}
    for name, row in common(verb).items():
        # Elsewhere than in `pretrain` the sentence says what is written, computed or shown there.
        shown = {(kind, repr(default), plain(text) * (verb == "pretrain")) for kind, default, text in row.values()}
        if name in SAME and len(shown) > 1:
            differ[name] = shown
    assert differ == {}


def test_a_flag_of_pretraining_has_one_default_unless_its_recipe_has_another():
    own = {
        "model",
        "epochs",
        "batch_size",
        "lr",
        "weight_decay",
        "betas",
        "clip",
        "steps",
        "warmup",
        "dropout",
        "hidden",
    }
    every = common("pretrain").items()
    assert [name for name, row in every if len({repr(d) for _, d, _ in row.values()}) > 1 and name not in own] == []


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
            if word.removeprefix("--").replace("-", "_") not in {"X", *(f.name for f in every)}:
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
    assert wrong("singlecell", "prepare", ["ATLAS.h5ad", "X"])
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
