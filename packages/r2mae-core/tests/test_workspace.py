"""The packages of the workspace agree with each other. Reads files only: in isolation no sibling can be imported."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2]
PROJECTS = {path.parent.name: tomllib.loads(path.read_text()) for path in PACKAGES.glob("*/pyproject.toml")}


def test_the_packages_of_the_paper_are_here():
    assert {f"r2mae-{n}" for n in ("core", "vision", "text", "dna", "singlecell", "theory")} <= set(PROJECTS)


@pytest.mark.parametrize("name", PROJECTS)
def test_versions_bounds_and_files_agree(name):
    project, core = PROJECTS[name]["project"], PROJECTS["r2mae-core"]["project"]
    assert project["name"] == name
    for field in ("version", "requires-python", "license", "authors"):
        assert project[field] == core[field]
    assert (PACKAGES / name / "src" / name.replace("-", "_") / "__init__.py").read_text().count(
        f'__version__ = "{core["version"]}"\n'
    ) == 1
    assert (PACKAGES / name / "README.md").read_text().startswith(f"# {name}\n")
    assert (PACKAGES / name / "LICENSE").read_text() == (PACKAGES / "r2mae-core" / "LICENSE").read_text()
    dependencies = " ".join(project["dependencies"])
    # A bare name would become an unbounded requirement in the wheel.
    major, minor, _ = map(int, core["version"].split("."))
    bounds = f">={major}.{minor},<{major}.{minor + 1}"
    wanted = {"r2mae-core": "numpy>=", "r2mae-theory": f"r2mae-core[cli]{bounds}"}
    assert wanted.get(name, f"r2mae-core[train]{bounds}") in dependencies
    if "lightning" in dependencies:
        assert "lightning>=2.6.1,!=2.6.2,!=2.6.3" in dependencies


def test_the_workspace_states_the_same_version():
    root, version = PACKAGES.parent, PROJECTS["r2mae-core"]["project"]["version"]
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"] == version
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text()
    assert f"\n## {version} - " in (root / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", PROJECTS)
def test_the_pythons_that_are_promised_are_those_that_are_tested(name):
    """`tests` runs on the oldest, `matrix` on the others."""
    others = re.search(r"^OTHER_PYTHONS = (\[.*\])$", (PACKAGES.parent / "noxfile.py").read_text(), re.M)[1]
    pythons = [PROJECTS[name]["project"]["requires-python"].removeprefix(">="), *json.loads(others)]
    promised = [
        line.rsplit(" ", 1)[1]
        for line in PROJECTS[name]["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert promised == pythons


@pytest.mark.parametrize("name", [name for name in PROJECTS if name != "r2mae-core"])
def test_every_package_has_its_command(name):
    module = name.replace("-", "_")
    assert PROJECTS[name]["project"]["scripts"] == {name: f"{module}.cli:main"}


def test_samplers_schemes_and_masks_work_with_numpy_alone():
    """The session `wheels(core)` runs the same on the built wheel, in an environment that has nothing else."""
    done = subprocess.run(
        [sys.executable, PACKAGES / "r2mae-core" / "tests" / "bare.py"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
