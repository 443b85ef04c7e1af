"""A small part of `./dev -s fuzz`, and that the fuzz notices what it is there for."""

import json
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("vision", "text", "dna", "singlecell", "theory")
FAULTS = {
    "raise": "raise KeyError('x')",
    "report": "open('r2mae-fault-1.txt', 'w').write('Traceback (most recent call last):\\nKeyError: 1')",
    "kill": "os.kill(os.getpid(), 11)",
    "hang": "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)",
    "crowd": "[subprocess.Popen(['sleep', '60']) for _ in range(40)]; time.sleep(60)",
    "code": "sys.exit(7)",
    "silent": "sys.exit(1)",
    "verbose": "print('x\\n' * 20, file=sys.stderr); sys.exit(1)",
    "noise": "print('FutureWarning: x', file=sys.stderr)",
    "inject": "open('PWNED', 'w').close()",
    "overwrite": "open('input.txt', 'w').write('yours')",
    "believe": "sys.exit(0)",
}
"""What a command may not do, by the word that asks for it; the input of the last is known to be damaged."""
PROBLEMS = {
    "raise": "traceback: KeyError",
    "report": "fault report: KeyError",
    "kill": "died by signal 11",
    "hang": "does not end",
    "crowd": "too many processes",
    "code": "exit code 7",
    "silent": "exit code 1 without a message",
    "verbose": "a message of more than 6 lines",
    "noise": "noise: FutureWarning",
    "inject": "runs code from a file",
    "overwrite": "changed what was there: input.txt",
    "believe": "done, although nothing right can come out",
}
RIGHT = {"done": "print('done')", "message": "print('x: no file y', file=sys.stderr); sys.exit(1)"}


def python(*arguments, **given):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **given,
    )


def test_a_small_part_of_the_fuzz_finds_nothing(tmp_path):
    if lost := [name for name in PACKAGES if find_spec(f"r2mae_{name}") is None]:
        pytest.skip(f"not installed: {', '.join(lost)}")
    done = python("-m", "tools.fuzz", "--n", 50, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "found.json").read_text())["tried"] == dict.fromkeys(PACKAGES, 10)


def test_the_fuzz_notices_every_kind_of_failure(tmp_path):
    """A package with one command per fault, run and judged as the real ones are."""
    (tmp_path / "r2mae_broken").mkdir()
    branches = "".join(f"    if argv[0] == {word!r}:\n        {code}\n" for word, code in {**FAULTS, **RIGHT}.items())
    head = "import os, signal, subprocess, sys, time\n\n\ndef main(argv):\n"
    (tmp_path / "r2mae_broken" / "cli.py").write_text(head + branches)
    script = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        home, *words = sys.argv[1:]
        sys.path.insert(0, home)
        from tools.fuzz import processes
        from tools.fuzz.cases import Case
        from tools.fuzz.verdict import judge, snapshot
        processes.GRACE = 0.5
        cases, jobs, before = {}, [], {}
        for word in words:
            work = Path(home, word, "work")
            work.mkdir(parents=True)
            (work / "input.txt").write_text("mine")
            cases[word] = Case(word, "broken", [word], "flags", must_fail=word == "believe")
            before[word] = snapshot(work)
            jobs.append(processes.Job(word, "broken", (word,), work.parent, 1.5))
        ends = {end.job.name: end for end in processes.run_all(jobs, 4)}
        found = {word: judge(cases[word], ends[word], before[word]) for word in words}
        print(json.dumps({word: [failure.problem for failure in failures] for word, failures in found.items()}))
    """)
    done = python("-c", script, tmp_path, *FAULTS, *RIGHT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {word: found[word] for word in RIGHT} == {word: [] for word in RIGHT}
    for word, problem in PROBLEMS.items():
        assert [text[: len(problem)] for text in found[word]] == [problem], (word, found[word])


def test_a_case_is_the_same_every_time(tmp_path):
    """The seed and the number decide the command and the damage, in any order and alone."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tools.fuzz.cases import make_case
        from tools.fuzz.inputs import write_inputs
        from tools.fuzz.verdict import snapshot
        home = Path(sys.argv[1])
        write_inputs("theory", home / "in")
        for number in (3, 1, 2, 1, 3):
            work = home / f"{number}-{len(list(home.iterdir()))}" / "work"
            print(make_case("theory", number, 5, home / "in", work), snapshot(work))
    """)
    lines = [python("-c", script, tmp_path / name).stdout.splitlines() for name in ("a", "b")]
    assert len(lines[0]) == 5
    assert lines[0] == lines[1]
    assert (lines[0][1], lines[0][0]) == (lines[0][3], lines[0][4])
    assert len(set(lines[0])) == 3
