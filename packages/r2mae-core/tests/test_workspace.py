"""The packages of the workspace agree with each other. Reads files only: in isolation no sibling can be imported."""

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
    for field in ("version", "requires-python", "license"):
        assert project[field] == core[field]
    assert (PACKAGES / name / "README.md").read_text().startswith(f"# {name}\n")
    assert (PACKAGES / name / "LICENSE").read_text() == (PACKAGES / "r2mae-core" / "LICENSE").read_text()
    dependencies = " ".join(project["dependencies"])
    # A bare name would become an unbounded requirement in the wheel.
    wanted = {"r2mae-core": "numpy>=1.26", "r2mae-theory": "r2mae-core[cli]>=0.1,<0.2"}
    assert wanted.get(name, "r2mae-core[train]>=0.1,<0.2") in dependencies
    if "lightning" in dependencies:
        assert "lightning>=2.6.1,!=2.6.2,!=2.6.3" in dependencies


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
