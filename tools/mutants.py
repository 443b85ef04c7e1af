"""Break the code in the ways that `mutants.jsonl` lists, one at a time; the tests beside each must notice.

    ./dev -s mutants                      # all of them
    ./dev -s mutants -- core dna          # of these packages
    ./dev -s mutants -- --sample 10       # ten of them
    ./dev -s mutants -- --constants --page docs/paper.md   # the paper's numbers, and their table on its page

Works on a copy: the checkout is never changed. Exit code 1 if a mutant survives, or no longer fits the code.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutants.jsonl")
CONSTANTS = Path(__file__).with_name("constants.jsonl")
"""Changes of the paper's numbers, and of ours where the paper has lost them."""
BEGIN, END = "<!-- written by `./dev -s mutants -- --constants` -->", "<!-- end of what is written -->"
LIBRARIES = (
    "pytest", "torch", "lightning.pytorch", "timm", "transformers", "datasets", "scvi", "scanpy", "polars", "optuna",
    "scipy.stats", "sklearn.linear_model", "jsonargparse", "rich", "matplotlib.figure", "PIL.Image",
)  # fmt: skip
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
    appendix: str = ""
    """Of a number of the paper: where it is stated."""
    what: str = ""
    """What it is the number of."""
    known: str = ""
    """Why no test notices, if that is known."""

    @property
    def package(self) -> str:
        return self.file.split("/")[1].removeprefix("r2mae-")


def read_list(file: Path = LIST) -> list[Mutant]:
    """Return the committed mutants; each line of the file is one."""
    return [Mutant(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def table_of(mutants: Sequence[Mutant], survivors: Sequence[Mutant]) -> str:
    """Return what a run found about the paper's numbers, as a table for a page."""
    lines = ["", "| appendix | package | caught | what was changed, one at a time |", "|---|---|---|---|"]
    for key in sorted({(one.appendix, one.package) for one in mutants}):
        ours = [one for one in mutants if (one.appendix, one.package) == key]
        caught = sum(one not in survivors for one in ours)
        lines.append(f"| {key[0]} | {key[1]} | {caught} of {len(ours)} | {'; '.join(one.what for one in ours)} |")
    lines += ["", f"{len(mutants) - len(survivors)} of {len(mutants)} changes were caught."]
    lines += [
        f"- {one.appendix}, {one.package}, {one.what}: not caught; {one.known or 'why, is open'}" for one in survivors
    ]
    return "\n".join([*lines, ""])


def write_table(page: Path, table: str) -> None:
    """Put the table between its marks on a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{page} has no line {BEGIN} with {END} after it")
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def mutated(text: str, mutant: Mutant) -> str:
    """Return a file's text with the change.

    Raises:
        ValueError: the text to change is not there exactly once.
    """
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.old!r} is {text.count(mutant.old)} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


def warm_up() -> None:
    """Import what the tests need of other people's packages, once: a child that is forked has it at once."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def tests_pass(home: Path, tests: str) -> bool:
    """Return whether the tests pass on the code of a copy; code that cannot even be imported passes none."""
    child = os.fork()
    if child == 0:
        code = 3  # whatever happens, the child ends here, and leaves the copy alone
        try:
            code = _run_tests(home, tests)
        finally:
            os._exit(code)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2, 4):  # 2 and 4: a module cannot be imported
                sys.exit(f"pytest failed on {tests}: it ended with {code}")
            return code == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(home: Path, tests: str) -> int:
    """Run pytest in this process, silently, on the code of a copy."""
    import pytest

    paths = [str(path) for path in sorted(home.glob("packages/*/src"))]
    sys.path[:0], sys.dont_write_bytecode = paths, True
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), PYTHONDONTWRITEBYTECODE="1")
    os.chdir(home)
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    known = "ignore::pytest.PytestAssertRewriteWarning"  # plugins among the libraries, which came first
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-W", known, *tests.split()]))


def sound_tests(home: Path, mutants: Sequence[Mutant]) -> set[str]:
    """Return the tests that pass on the unchanged code: a test that fails anyway would notice nothing."""
    of_file: dict[str, dict[str, None]] = {}
    for mutant in mutants:
        of_file.setdefault(mutant.tests.partition("::")[0], {})[mutant.tests] = None
    found: set[str] = set()
    for every in of_file.values():  # most often all of a file pass, and are tried at once
        at_once = tests_pass(home, " ".join(every))
        found |= {tests for tests in every if at_once or tests_pass(home, tests)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the code on purpose; report what no test notices.")
    parser.add_argument("packages", nargs="*", help="such as core or dna; default: all")
    parser.add_argument("--sample", type=int, help="try so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--constants", action="store_true", help="change the paper's numbers instead")
    parser.add_argument("--page", type=Path, help="with --constants: write their table there; needs all of them")
    given = parser.parse_args()
    if given.page and (not given.constants or given.packages or given.sample):
        parser.error("--page is of a run of all --constants")
    mutants = [
        m
        for m in read_list(CONSTANTS if given.constants else LIST)
        if not given.packages or m.package in given.packages
    ]
    if given.sample is not None:
        mutants = random.Random(given.seed).sample(mutants, min(given.sample, len(mutants)))
    if not mutants:
        parser.error("no mutant to try")
    survivors = []
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        skipped = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / "packages", home / "packages", ignore=skipped)
        shutil.copytree(ROOT / "docs", home / "docs", ignore=skipped)
        shutil.copy(ROOT / "pyproject.toml", home)
        sound = sound_tests(home, mutants)
        for i, mutant in enumerate(mutants, 1):
            start, file = time.perf_counter(), home / mutant.file
            text = file.read_text(encoding="utf-8")
            try:
                file.write_text(mutated(text, mutant), encoding="utf-8")
                caught = mutant.tests in sound and not tests_pass(home, mutant.tests)
                state = "caught" if caught else "SURVIVED" if mutant.tests in sound else "its tests fail without it"
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
    if given.page:
        write_table(given.page, table_of(mutants, survivors))
    return 1 if any(not one.known for one in survivors) else 0


if __name__ == "__main__":
    sys.exit(main())
