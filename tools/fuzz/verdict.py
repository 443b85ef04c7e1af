"""What counts as a failure of a command, and which failures are the same one."""

import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.cases import Case
from tools.fuzz.processes import Outcome

LINES = 6
"""A message may have so many."""
_FRAME = re.compile(r'File "[^"]*?((?:r2mae|jsonargparse|yaml)[^"]*)", line \d+, in (\S+)')
_ERROR = re.compile(
    r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt|Warning|Exit|Failure|Bomb|Timeout|Iteration)\w*)\b", re.M
)


@dataclass(frozen=True)
class Failure:
    """What was wrong with a command's end; equal ones have one cause."""

    package: str
    verb: str
    problem: str
    """Such as "traceback: KeyError"."""
    place: str
    """The last line of ours in a traceback, the file that was damaged, or the option that was given."""


def snapshot(work: Path) -> dict[str, str]:
    """Return file → a digest of its content, of all files below a folder."""
    found = {}
    for path in sorted(work.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found[str(path.relative_to(work))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def judge(case: Case, outcome: Outcome, before: dict[str, str]) -> list[Failure]:
    """Return what was wrong with the end of a command; nothing, if it did or said what it should.

    Args:
        case: the command.
        outcome: how it ended.
        before: `snapshot` of its folder before.
    """
    folder = outcome.job.folder
    reports = sorted(folder.rglob("r2mae-fault-*.txt"))
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in reports)
    said = f"{outcome.out}\n{outcome.err}"
    found: list[tuple[str, str]] = []
    if reports or " a fault in" in said or "Traceback (most recent call last)" in said:
        trace = text if "Traceback" in text else said
        found.append((f"{'fault report' if reports else 'traceback'}: {_error(trace)}", _place(trace)))
    if outcome.ended == "crowd":
        found.append(("too many processes", _subject(case)))
    elif outcome.ended == "killed" or (outcome.ended == "interrupted" and not case.long):
        found.append((f"does not end ({outcome.ended} after {outcome.job.limit:.0f} s)", _subject(case)))
    elif outcome.code < 0:
        found.append((f"died by signal {-outcome.code}", _subject(case)))
    elif outcome.code not in (0, 1, 2) and not found:
        found.append((f"exit code {outcome.code}", _subject(case)))
    found += _message_problems(case, outcome) if not found else []
    if any(path.name.startswith("PWNED") for path in folder.rglob("*")):
        found.append(("runs code from a file", _subject(case)))
    if changed := _changed(before, snapshot(folder / "work"), case.resumes):
        found.append((f"changed what was there: {_stem(changed)}", _subject(case)))
    if case.must_fail and outcome.code == 0 and "--print_config" not in case.argv:
        found.append(("done, although nothing right can come out", _subject(case)))
    return [Failure(case.package, _verb(case), *one) for one in found]


def _message_problems(case: Case, outcome: Outcome) -> list[tuple[str, str]]:
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    if outcome.code and not lines:
        return [(f"exit code {outcome.code} without a message", _subject(case))]
    if outcome.code == 1 and len(lines) > LINES and outcome.ended == "itself":
        return [(f"a message of more than {LINES} lines", _subject(case))]
    if noise := re.search(r"\w*Warning: |Exception ignored|Fatal Python error|Segmentation fault|leaked", outcome.err):
        return [(f"noise: {noise.group()}", _subject(case))]
    return []


def _changed(before: dict[str, str], after: dict[str, str], resumes: str) -> str:
    """Return a file that was there before and is not as it was."""
    own = f"{resumes}/"
    return next((n for n, d in before.items() if after.get(n) != d and not (resumes and n.startswith(own))), "")


def _stem(name: str) -> str:
    return re.sub(r"[0-9a-f]{6,}|\d+", "N", name.encode("ascii", "backslashreplace").decode())


def _error(trace: str) -> str:
    names = _ERROR.findall(trace)
    return names[-1] if names else "?"


def _place(trace: str) -> str:
    frames = _FRAME.findall(trace)
    ours = [
        frame for frame in frames if "r2mae" in frame[0] and not frame[0].endswith(("lab/commands.py", "/cli.py"))
    ] or frames
    return f"{ours[-1][0].rpartition('src/')[2]} in {ours[-1][1]}" if ours else "?"


def _verb(case: Case) -> str:
    return " ".join(case.argv[:2]) if case.argv[:1] == ["msa"] else (case.argv or [""])[0][:20]


def _subject(case: Case) -> str:
    """Return what was mutated, as a name that equal faults share."""
    if case.kind == "input" or "injected call" in case.what:
        return _stem(case.what)
    if case.kind in ("value", "injected", "output"):
        flags = [word for word in case.argv if word.startswith("--")]
        return f"{case.kind} {_stem(flags[-1][:60])}" if flags else case.kind
    return case.kind
