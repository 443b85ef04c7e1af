"""Every example runs, in a process and a folder of its own, where the packages that it needs are installed."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXAMPLES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))


def needs(file: Path) -> set[str]:
    """Return the packages that an example imports."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(file, tmp_path):
    if lost := sorted(name for name in needs(file) if find_spec(name) is None):
        pytest.skip(f"not installed: {', '.join(lost)}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_the_readme_lists_every_example():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in EXAMPLES if f"]({file.name})" not in text] == []
