"""What `./dev -s new -- NAME` writes works: its tests pass, its types are right, and it fits into the workspace."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from new_modality import write_package  # noqa: E402


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "packages").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_new_modality_trains_resumes_and_compares(workspace):
    home = write_package("proteins", workspace)
    left = [str(file) for file in home.rglob("*") if file.is_file() and "NAME" in file.read_text(encoding="utf-8")]
    assert left == []
    project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = tomllib.loads((ROOT / "packages/r2mae-core/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["name"], project["version"]) == ("r2mae-proteins", core["version"])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(home / "tests"), "--import-mode=importlib"],
        env={**os.environ, "PYTHONPATH": str(home / "src")}, capture_output=True, text=True, cwd=workspace,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_it_joins_the_import_contracts(workspace):
    write_package("proteins", workspace)
    linter = tomllib.loads((workspace / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert "r2mae_proteins" in linter["root_packages"]
    apart = next(c for c in linter["contracts"] if c["type"] == "independence")
    assert "r2mae_proteins" in apart["modules"]


@pytest.mark.parametrize("name", ["Proteins", "my-data", "../x", ""])
def test_names_that_are_no_package_are_refused(workspace, name):
    with pytest.raises(SystemExit, match="the name must be lower-case"):
        write_package(name, workspace)


def test_a_package_is_not_written_over(workspace):
    write_package("proteins", workspace)
    with pytest.raises(SystemExit, match="exists already"):
        write_package("proteins", workspace)
