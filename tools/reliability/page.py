"""The page of the documentation that says what was tried, what was lost, and what is guaranteed."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.reliability.job import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
NOTED = PAGE.with_suffix(".json")
"""What each package's last whole run came to; the page is made of it."""
_KINDS = {
    "undisturbed": "undisturbed",
    "control": "control: the same again, and another result",
    "kills": "interrupted once, twice, five times",
    "moves": "interrupted, moved, resumed",
    "start-up": "interrupted while starting",
    "sources": "changed sources",
    "disks": "full disk, read-only folder",
    "damage": "damaged file",
    "writers": "two writers",
    "inputs": "output over an input",
    "starts": "wrong start, then corrected",
    "fuzz": "fuzzed commands",
}
_VERDICTS = ("lost", "silently wrong", "traceback", "other")


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return what must not have happened."""
    return [outcome for outcome in outcomes if outcome.verdict in _VERDICTS]


def described(outcome: Outcome) -> str:
    """Return a failure with the steps that show it, as Markdown."""
    again = f"nox -s reliability -- --only {outcome.package} --part {outcome.kind} --trial '{outcome.name}'"
    steps = [f"$ {again}"] if outcome.kind not in ("undisturbed", "control", "fuzz") else []
    block = "\n".join(["```console", *steps, *(f"  {step}" for step in outcome.steps), "```"])
    head = f"**{outcome.package}, {_KINDS[outcome.kind]}, {outcome.name}**: {outcome.verdict}: {outcome.message}"
    return f"{head}\n\n{block}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table: what was tried with each package, how often, and what came of it."""
    lines = [
        "| package | what was tried | times | lost | silently wrong | tracebacks | other |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for package in dict.fromkeys(outcome.package for outcome in outcomes):
        for kind, title in _KINDS.items():
            rows = [o for o in outcomes if (o.package, o.kind) == (package, kind) and o.verdict != "not tried"]
            counts = [sum(row.n for row in rows if row.verdict == verdict) for verdict in _VERDICTS]
            cells = [package, title, str(sum(row.n for row in rows)), *(str(count or "none") for count in counts)]
            lines += [f"| {' | '.join(cells)} |"] if rows else []
    return "\n".join(lines)


def keep(package: str, outcomes: Sequence[Outcome], minutes: float, share: float) -> None:
    """Note what all kinds of trials of a package came to, in place of an earlier run of it, and write the page."""
    noted = json.loads(NOTED.read_text(encoding="utf-8")) if NOTED.exists() else {}
    noted[package] = {
        "date": str(datetime.datetime.now(tz=datetime.UTC).date()),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "minutes": round(minutes),
        "share": share,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    NOTED.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")
    write(noted)


def write(noted: Mapping[str, Any]) -> None:
    """Write the page of what is noted of each package."""
    outcomes = [Outcome(**outcome) for run in noted.values() for outcome in run["outcomes"]]
    bad = failures(outcomes)
    found = "\n\n".join(map(described, bad)) if bad else "None."
    left_out = [outcome for outcome in outcomes if outcome.verdict == "not tried"]
    reasons = {outcome.message for outcome in left_out}
    skipped = "; ".join(f"{sum(o.message == reason for o in left_out)} × {reason}" for reason in sorted(reasons))
    runs = [
        f"| {package} | {run['date']} | {run['commit']} | {run['share']:.0%} | {run['minutes']} |"
        for package, run in noted.items()
    ]
    text = _TEXT.format(
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        runs="\n".join(
            ["| package | date | commit | share of all trials | minutes |", "|---|---|---|---:|---:|", *runs]
        ),
        tried=f"{sum(outcome.n for outcome in outcomes if outcome.verdict != 'not tried'):,}",
        table=table(outcomes),
        failures=found,
        skipped=skipped or "none",
    )
    PAGE.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files that the fuzz made


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=PAGE.parent, capture_output=True, text=True, check=False).stdout.strip()


_TEXT = """\
# Reliability

A training takes days, and in that time machines are switched off, disks become full, folders are moved, and data are
changed. This page says what then happens to your results, and how that was tried. `nox -s reliability` tries it and
writes this page; do not edit it by hand (the text is in `tools/reliability/page.py`).

## What is guaranteed

- **An interrupted command goes on as if nothing had happened.** Give the same command with the same `--out` again:
  weights, records and the lines of `metrics.csv` (except those on speed) are bit for bit those of an uninterrupted run,
  on the same machine with the same number of devices. This holds for `kill -9`, SIGTERM and Ctrl-C, at any moment, and
  any number of times, with accumulation and with several devices. SIGTERM and Ctrl-C end a command and its processes
  within three seconds, with one line and exit code 1.
- **A run folder may be moved, copied and renamed** between interruption and resumption. It finds its checkpoints, its
  best model and its log by itself.
- **What was made from something else is never reused.** Stores, shards, windows, score chunks, cells of a `reproduce`
  and run folders remember what they were made from: names, sizes and times of your files, the content of our own
  stores, and the options that matter. If that has changed, the command stops and says what changed. A change that
  leaves a file's size and time as they were is not noticed.
- **Your files are never written over.** No command writes over one of its inputs, also not through a link or another
  spelling of the path. Over another file that is there it writes only with `--overwrite`.
- **A file is complete or it is not there.** A full disk, a quota or a read-only folder ends a command with one line and
  exit code 1; what was complete before is still complete, and the same command goes on once there is space.
- **Damage is noticed.** Files of ours that are cut, empty, of another type or changed by a bit are answered with one
  line that names the file. Checkpoints, models, stores and JSON files have checksums. Stores larger than 1 GiB are
  checked by size when they are opened, not by content, because that would take minutes.
- **Files run no code.** A configuration, a model or a data file can name only the samplers that are built in, or of
  modules that you import or name with `--trust`.
- **One command at a time writes to a folder.** A second one is refused and told which process holds it. What a killed
  command left is cleaned up when the folder is used again.
- **A wrong command leaves nothing.** It can be corrected with the same `--out`.
- **No traceback.** Whatever cannot be done ends with one message and exit code 1 or 2. If a fault of ours is met, the
  message says so and names a file with the full report; please send it to us.

What is not guaranteed: a GPU may add in another order from run to run, and then the same weights cannot come out; the
bits are those of one machine and one set of versions; and data that are changed *while* a command reads them are not
noticed.

## What was tried

{tried} trials; {machine}. A share of the trials is drawn at random, by a seed.

{runs}

Every trial is a command of the package's own command line, on small models and small data, in a folder of its own.
Afterwards the results are compared, file by file, with those of the undisturbed command. That the comparison can fail
is tried too ("control"), and a kill counts only if the command had not ended before. "Other" is a message that does
not name the file, a hidden file or a process that is left, a command that does not end in time.

{table}

Could not be tried: {skipped}.

## Failures

{failures}

## Try it yourself

```console
$ nox -s reliability                                  # all of it, and this page
$ nox -s reliability -- --only text --part kills      # some of it
$ nox -s reliability -- --seed 1 --share 0.2          # at other moments, a fifth of it, and this page
```

The small disks are mounted in memory, which only root may do; without it those trials are left out.
"""
