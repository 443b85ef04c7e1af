"""The notebooks as they are kept: whole, of their sources, with public names only; `nox -s notebooks` runs them."""

import ast
import copy
import importlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

nbformat = pytest.importorskip("nbformat")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402

FILES = {file.stem: file for file in sorted(notebooks.HOME.glob("*.ipynb"))}
LARGEST = 400_000  # bytes of a file
NOTEBOOK_TOOLS = {"IPython"}  # what jupyter brings


@pytest.fixture(params=FILES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return nbformat.read(FILES[name], as_version=4)


def code(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def installed_line(notebook):
    """Return what the first cell says to install, such as ["r2mae-text[demo]", "jupyter"]."""
    line = re.search(r"\$ pip install (.+)", notebook.cells[0].source)
    assert line, "the first cell does not say what to install"
    return line[1].replace("'", "").split()


def imports(tree):
    """Return (module, name or None) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def brought(requirements):
    """Return the distributions that these need by name, and those that our own packages among them need in turn."""
    found, todo = set(), [Requirement(text) for text in requirements]
    while todo:
        one = todo.pop()
        key = (one.name.lower(), frozenset(one.extras))
        if key in found:
            continue
        found.add(key)
        if one.name.startswith("r2mae"):
            file = ROOT / "packages" / one.name / "pyproject.toml"
            project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
            needs = [*project["dependencies"], *(n for e in one.extras for n in project["optional-dependencies"][e])]
            todo += map(Requirement, needs)
    return {name.replace("_", "-") for name, _ in found}


def test_there_is_one_for_every_package():
    packages = {path.parent.name.removeprefix("r2mae-") for path in ROOT.glob("packages/*/pyproject.toml")}
    assert set(FILES) == packages
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [name for name in FILES if f"\nnotebooks/{name}\n" not in index] == []


def test_the_outputs_are_whole_and_of_the_sources(notebook):
    assert notebooks.problems(notebook) == []


def test_it_is_small(name):
    assert FILES[name].stat().st_size < LARGEST


def test_it_imports_only_what_its_first_cell_installs(name, notebook):
    needs = installed_line(notebook)
    assert needs[0].partition("[")[0] == f"r2mae-{name}"
    allowed, known = brought(needs), importlib.metadata.packages_distributions()
    for module, _ in imports(ast.parse(code(notebook))):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in NOTEBOOK_TOOLS:
            continue
        owners = {owner.lower().replace("_", "-") for owner in known.get(top, [top])}
        owners |= {top.replace("_", "-")} if top.startswith("r2mae") else set()
        assert owners & allowed, f"{module} is not brought by {' '.join(needs)}"


def test_it_uses_public_names_alone(name, notebook):
    for module, member in imports(ast.parse(code(notebook))):
        if not module.startswith("r2mae"):
            continue
        assert not any(part.startswith("_") for part in module.split(".")), module
        if module.startswith("r2mae_core"):
            assert module == "r2mae_core", "of the core, its public surface alone"
        if member is None:
            continue
        home = importlib.import_module(module)
        assert not member.startswith("_"), f"{module}.{member}"
        if "." in module:  # not by way of a module that only imports it
            value = getattr(home, member)
            assert getattr(value, "__module__", module) == module, f"{member} is not {module}'s own"
            assert getattr(value, "__doc__", None), f"{module}.{member} is not documented"
        else:
            assert member in home.__all__, f"{module} does not export {member}"


def test_the_commands_that_it_names_exist(name, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for package, verb in re.findall(r"`r2mae-(\w+) ([a-z-]+)", text):
        assert verb in importlib.import_module(f"r2mae_{package}.cli").COMMANDS, f"r2mae-{package} {verb}"


def test_its_links_lead_somewhere(name, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (FILES[name].parent / link).exists()] == []


@pytest.fixture
def good():
    return nbformat.read(FILES["theory"], as_version=4)


def test_a_changed_source_is_seen(good):
    next(cell for cell in good.cells if cell.cell_type == "code").source += "\nx = 1"
    assert any("other sources" in line for line in notebooks.problems(good))


@pytest.mark.parametrize(
    "text", ["/home/jo/data.h5ad", "see /tmp/tmpab12/run", "C:\\Users\\jo\\run", "/Users/jo/x", "'/opt/jo/x.py'"]
)
def test_a_place_of_the_machine_is_seen(good, text):
    cell = next(cell for cell in good.cells if cell.cell_type == "code")
    cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    assert any("place of the machine" in line for line in notebooks.problems(good))


@pytest.mark.parametrize("text", ["1.2 images/s", "https://arxiv.org/abs/1", "runs/vit-0: 3 / 4", "and/or /4"])
def test_what_is_no_place_is_not(good, text):
    cell = next(cell for cell in good.cells if cell.cell_type == "code")
    cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    assert notebooks.problems(good) == []


def test_a_cell_that_was_not_run_is_seen(good):
    [cell for cell in good.cells if cell.cell_type == "code"][-1].execution_count = None
    assert any("not every cell" in line for line in notebooks.problems(good))


def test_an_error_is_seen(good):
    cell = next(cell for cell in good.cells if cell.cell_type == "code")
    cell.outputs.append(nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]))
    assert any("error" in line for line in notebooks.problems(good))


def test_cleaning_leaves_no_warning_time_or_second_form(good):
    noisy = copy.deepcopy(good)
    noisy.metadata["user"] = "jo"
    cell = next(cell for cell in noisy.cells if cell.cell_type == "code")
    cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00"}
    cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="a warning"))
    notebooks.clean(noisy)
    assert noisy == good


@pytest.mark.parametrize(
    ("line", "fails"), [("assert 1 + 1 == 2", ""), ("assert 1 + 1 == 3", "AssertionError"), ("1 / 0", "ZeroDivision")]
)
def test_a_claim_that_fails_fails_the_run_and_keeps_the_file(tmp_path, line, fails):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    draw = "import matplotlib.pyplot as plt\nplt.plot([0, 1]);"
    cells = [nbformat.v4.new_code_cell(draw), nbformat.v4.new_code_cell(line + "\nassert True")]
    book = nbformat.v4.new_notebook(cells=cells)
    file = tmp_path / "x.ipynb"
    nbformat.write(book, file)
    before = file.read_bytes()
    message = notebooks.run(file, write=True)
    assert (fails in message) if fails else message == ""
    assert (file.read_bytes() == before) == bool(fails)
    assert list(tmp_path.iterdir()) == [file]
