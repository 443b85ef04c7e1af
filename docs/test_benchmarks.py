"""`nox -s evidence`: it can start every script that it lists, and says where each part was measured."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytest.importorskip("torch")
spec = importlib.util.spec_from_file_location("benchmarks_run", BENCHMARKS / "run.py")
assert spec is not None
assert spec.loader is not None
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)


@pytest.mark.parametrize("name", sorted({*run.CPU, *run.CUDA}))
def test_a_script_is_given_what_it_takes(name):
    text = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    assert ('"--device"' in text) != (name in run.WITHOUT_DEVICE)
    options = [word for words in (run.CPU.get(name, ""), run.CUDA.get(name, "")) for word in words.split()]
    assert [word for word in options if word.startswith("--") and f'"{word}"' not in text] == []


def test_parts_of_two_machines_are_told_apart():
    parts = [f"### r2mae-{name}\n\n2026-11-29, on {place}, Python 3.11, x 1.\n" for name, place in (
        ("core", "2 cores of A, 24 GiB"), ("text", "2 cores of B, 24 GiB"), ("dna", "2 cores of A, 24 GiB"),
    )]  # fmt: skip
    assert run.places(parts) == "2 cores of A, 24 GiB: core, dna; 2 cores of B, 24 GiB: text."
    kept = run.RESULTS.read_text(encoding="utf-8")
    found = [kept.split(run.marks(f"cpu {name}")[0])[1].split(run.marks(f"cpu {name}")[1])[0] for name in run.PACKAGES]
    assert run.places(found) in kept, "RESULTS.md says where its parts are of"
