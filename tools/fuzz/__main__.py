"""Mutated commands over the five command lines, deterministic by seed; none may show a traceback or lose anything.

    nox -s fuzz                                          # 500 commands
    nox -s fuzz -- --seed 3 --only text --n 100
    nox -s fuzz -- --seed 3 --case text-17 --keep DIR    # one of them again, with its folder

Exit code 1 if a command failed in a way that no command may.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tools.fuzz.bases import MAKERS
from tools.fuzz.cases import Case, make_case
from tools.fuzz.inputs import PACKAGES, write_inputs
from tools.fuzz.processes import QUIET, Job, Outcome, run_all, warm_up
from tools.fuzz.verdict import Failure, judge, snapshot

LIMIT, LONG_LIMIT = 60.0, 5.0
"""Seconds for a command, of which each needs about one, and for one that was asked to work for ever."""
SHOWN = 6
"""Lines of a failed command's message in the report."""


def make_inputs(package: str, home: Path) -> Path:
    """Write the valid inputs of a package, the last by its own commands, and import what these have imported.

    Raises:
        SystemExit: a valid command failed.
    """
    work = home / "work"
    writer = multiprocessing.get_context("fork").Process(target=write_inputs, args=(package, work))
    writer.start()
    writer.join()
    commands = importlib.import_module(f"r2mae_{package}.cli").COMMANDS
    warm_up(command.target.partition(":")[0] for command in commands.values())
    for name, line in MAKERS[package].items():
        done = next(run_all([Job(name, package, tuple(shlex.split(line)), home, 120.0)]))
        if done.code or not (work / name).exists():
            sys.exit(f"a valid command failed: r2mae-{package} {line}\n{done.out}{done.err}")
        warm_up((home / "modules").read_text(encoding="utf-8").split())
    if (run := work / "run").exists():  # a run whose training is done, and no more
        shutil.copytree(run, work / "part")
        shutil.rmtree(work / "part" / "model")
        (work / "part" / "results.json").unlink()
    return work


class Tried:
    """The commands that were tried, and their failures."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.codes: Counter[tuple[str, int]] = Counter()
        self.failed: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.failures: dict[Failure, list[tuple[Case, Outcome]]] = {}

    def add(self, case: Case, outcome: Outcome, found: Sequence[Failure]) -> None:
        """Count a command and its failures."""
        self.count[case.package] += 1
        self.seconds[case.name] = outcome.seconds
        self.codes[case.package, outcome.code] += 1
        self.failed[case.package] += bool(found)
        for failure in found:
            self.failures.setdefault(failure, []).append((case, outcome))

    def table(self) -> str:
        """Return how many commands of each package ended how."""
        lines = [f"{'package':<12}{'commands':>9}{'done':>7}{'message':>9}{'usage':>7}{'failures':>10}"]
        for package, count in self.count.items():
            codes = "".join(f"{self.codes[package, code]:>{width}}" for code, width in ((0, 7), (1, 9), (2, 7)))
            lines.append(f"{package:<12}{count:>9}{codes}{self.failed[package]:>10}")
        return "\n".join(lines)

    def records(self, seed: int) -> list[dict[str, object]]:
        """Return each distinct failure, with the first command that showed it."""
        found = []
        for failure, cases in sorted(self.failures.items(), key=lambda item: (item[0].package, item[0].verb)):
            case, outcome = min(cases, key=lambda pair: int(pair[0].name.rpartition("-")[2]))
            found.append({
                "package": failure.package, "verb": failure.verb, "problem": failure.problem, "place": failure.place,
                "times": len(cases), "command": shlex.join([f"r2mae-{case.package}", *case.argv])[:1000],
                "input": case.what, "again": f"nox -s fuzz -- --seed {seed} --case {case.name}", "code": outcome.code,
                "message": outcome.err.strip().splitlines()[-SHOWN:],
            })  # fmt: skip
        return found


def _cases(wanted: Sequence[tuple[str, int]], seed: int, homes: dict[str, Path], scratch: Path) -> Iterator[Case]:
    for package, number in wanted:
        yield make_case(package, number, seed, homes[package], scratch / f"{package}-{number}" / "work")


def fuzz(wanted: Sequence[tuple[str, int]], seed: int, scratch: Path, keep: bool = False, at_once: int = 2) -> Tried:
    """Try cases, given by package and number.

    Args:
        wanted: (package, number) of each.
        seed: of the whole fuzz.
        scratch: an empty folder.
        keep: leave the folders of the cases there.
        at_once: commands that run at the same time.
    """
    homes = {package: make_inputs(package, scratch / "inputs" / package) for package, _ in dict(wanted).items()}
    tried, open_cases = Tried(), dict[str, tuple[Case, dict[str, str]]]()

    def jobs() -> Iterator[Job]:
        for case in _cases(wanted, seed, homes, scratch):
            folder = scratch / case.name
            open_cases[case.name] = case, snapshot(folder / "work")
            limit = LONG_LIMIT if case.long else LIMIT
            yield Job(case.name, case.package, tuple(case.argv), folder, limit)

    for outcome in run_all(jobs(), at_once):
        case, before = open_cases.pop(outcome.job.name)
        tried.add(case, outcome, judge(case, outcome, before))
        if not keep:
            shutil.rmtree(outcome.job.folder, ignore_errors=True)
    return tried


def main() -> int:
    """Run the fuzz and report."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Try mutated commands; report what none may do.")
    parser.add_argument("--seed", type=int, default=0, help="which commands; default 0")
    parser.add_argument("--n", type=int, default=500, help="how many, over all packages; default 500")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=PACKAGES, help="of these packages")
    parser.add_argument("--case", nargs="+", help="these alone, such as text-17; what they print is shown")
    parser.add_argument("--keep", type=Path, help="leave inputs and cases in this new folder")
    parser.add_argument("--json", type=Path, help="write the failures to this file, too")
    given = parser.parse_args()
    start = time.perf_counter()
    os.environ.update(QUIET)  # before a library reads it
    each = [(package, i) for i in range(-(-given.n // len(given.only))) for package in given.only]
    wanted = [(name.partition("-")[0], int(name.partition("-")[2])) for name in given.case or ()] or each[: given.n]
    with ExitStack() as stack:
        scratch = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        scratch.mkdir(parents=True, exist_ok=given.keep is None)
        tried = fuzz(wanted, given.seed, scratch.resolve(), given.keep is not None)
    records = tried.records(given.seed)
    print(tried.table())
    for record in records:
        print(
            f"\nr2mae-{record['package']} {record['verb']}: {record['problem']} ({record['place']}), {record['times']}×"
        )
        print(f"  {record['command']}", *([f"  input: {record['input']}"] if record["input"] else []), sep="\n")
        print(f"  again: {record['again']}", *(f"  | {line}" for line in record["message"]), sep="\n")
    print(
        f"\n{len(records)} distinct failures in {sum(tried.count.values())} commands, "
        f"{time.perf_counter() - start:.0f} s"
    )
    slowest = sorted(tried.seconds.items(), key=lambda item: -item[1])[:5]
    print("slowest:", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in slowest))
    if given.json:
        rows = {"tried": tried.count, "failed": tried.failed, "failures": records}
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if records else 0


if __name__ == "__main__":
    sys.exit(main())
