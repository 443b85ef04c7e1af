"""Break the code in the ways that `mutants.jsonl` lists, one at a time; the tests beside each must notice.

    ./dev -s mutants                      # all of them
    ./dev -s mutants -- core dna          # of these packages
    ./dev -s mutants -- --sample 10       # ten of them

Works on a copy: the checkout is never changed. Exit code 1 if a mutant survives, or no longer fits the code.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutants.jsonl")
LIMIT = 900
"""Seconds for the tests of one mutant: an endless loop is noticed, too."""


@dataclass(frozen=True)
class Mutant:
    """One change, and the tests that must fail with it."""

    file: str
    old: str
    new: str
    tests: str
    """What pytest is given, separated by blanks."""

    @property
    def package(self) -> str:
        return self.file.split("/")[1].removeprefix("r2mae-")


def read_list() -> list[Mutant]:
    """Return the committed mutants; each line of the file is one."""
    return [Mutant(**json.loads(line)) for line in LIST.read_text(encoding="utf-8").splitlines() if line.strip()]


def mutated(text: str, mutant: Mutant) -> str:
    """Return a file's text with the change.

    Raises:
        ValueError: the text to change is not there exactly once.
    """
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.old!r} is {text.count(mutant.old)} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


def tests_pass(home: Path, tests: str) -> bool:
    """Return whether the tests pass on the code of a copy."""
    paths = os.pathsep.join(str(path) for path in sorted(home.glob("packages/*/src")))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):  # 2: the broken code cannot even be imported
        sys.exit(f"pytest failed on {tests}: {done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the code on purpose; report what no test notices.")
    parser.add_argument("packages", nargs="*", help="such as core or dna; default: all")
    parser.add_argument("--sample", type=int, help="try so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    given = parser.parse_args()
    mutants = [m for m in read_list() if not given.packages or m.package in given.packages]
    if given.sample is not None:
        mutants = random.Random(given.seed).sample(mutants, min(given.sample, len(mutants)))
    if not mutants:
        parser.error("no mutant to try")
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        skipped = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / "packages", home / "packages", ignore=skipped)
        shutil.copytree(ROOT / "docs", home / "docs", ignore=skipped)
        shutil.copy(ROOT / "pyproject.toml", home)
        sound: dict[str, bool] = {}
        for i, mutant in enumerate(mutants, 1):
            start, file = time.perf_counter(), home / mutant.file
            text = file.read_text(encoding="utf-8")
            if mutant.tests not in sound:  # a test that fails anyway would notice nothing
                sound[mutant.tests] = tests_pass(home, mutant.tests)
            try:
                file.write_text(mutated(text, mutant), encoding="utf-8")
                caught = sound[mutant.tests] and not tests_pass(home, mutant.tests)
                state = "caught" if caught else "SURVIVED" if sound[mutant.tests] else "its tests fail without it"
            except ValueError as error:
                caught, state = False, str(error)
            finally:
                file.write_text(text, encoding="utf-8")
            if not caught:
                survivors.append(mutant)
            seconds = time.perf_counter() - start
            change = f"{mutant.old!r} -> {mutant.new!r}"
            print(f"[{i}/{len(mutants)}] {state} in {seconds:.0f} s: {mutant.file}: {change}", flush=True)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
