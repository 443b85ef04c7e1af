"""What must be refused: a second writer, an output over an input, and a wrong start, which must leave nothing."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tools.reliability.bench import Bench
from tools.reliability.job import Failed, Job, NotTried
from tools.reliability.outputs import raw
from tools.reliability.trials import Trial


def two_writers(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the starts of a second command on the folder of a first."""
    if job.kills and job.makes and not job.cold:
        n = bench.random(f"{job.package} {job.name} second").randint(1, 4)
        yield f"a second one at change {n} of the first", partial(_second, n=n)


def _second(trial: Trial, n: int) -> None:
    first = trial.start(trial.job.command())
    if not trial.wait_for_change(first, n):
        raise NotTried("it had ended before")
    trial.note("held by SIGSTOP")
    first.send(signal.SIGSTOP)
    second = trial.start(trial.job.command())
    second.wait()
    first.send(signal.SIGCONT)
    trial.check(second)
    trial.check(first, good=True)
    trial.expect_baseline()
    if not second.code and not trial.job.words.startswith("reproduce"):  # whose cells may be shared
        raise Failed("silently wrong", "two commands write into one folder")


FORMS: Mapping[str, Callable[[Path, str], str | None]] = {
    "the same path": lambda folder, name: name,
    "an absolute path": lambda folder, name: str(folder / name),
    "a detour": lambda folder, name: f"place/../{name}",
    "a link": lambda folder, name: _linked(folder, name, os.symlink),
    "a hard link": lambda folder, name: _linked(folder, name, os.link) if (folder / name).is_file() else None,
    "the folder of it": lambda folder, name: ".",
    "a file in it": lambda folder, name: _first_file(folder, name),
}


def over_inputs(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the outputs that are inputs."""
    for name in job.reads if job.makes else ():
        for form in FORMS:
            yield f"--out is {name}, as {form}", partial(_over, name=name, form=form)


def _linked(folder: Path, name: str, link: Callable[[Path, Path], None]) -> str:
    other = folder / "place" / f"link{Path(name).suffix}"
    link(folder / name, other)
    return f"place/{other.name}"


def _first_file(folder: Path, name: str) -> str | None:
    files = sorted(file for file in (folder / name).rglob("*") if file.is_file())
    return str(files[0].relative_to(folder)) if files else None


def _over(trial: Trial, name: str, form: str) -> None:
    out, before = FORMS[form](trial.folder, name), trial.inputs()
    if out is None:
        raise NotTried("only for files, or for folders")
    process = trial.run(trial.job.command(out))
    if trial.inputs() != before:
        raise Failed("lost", f"{name} is no longer what it was")
    if not process.code:
        raise Failed("silently wrong", f"writes its output over {name}, or reads it back from there")


def failed_starts(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the wrong commands that are corrected afterwards, with the same `--out`."""
    for words in job.mistakes:
        yield f"{words}, then without", partial(_corrected, words=words)


def _corrected(trial: Trial, words: str) -> None:
    trial.run([*trial.job.command(), *words.split()], good=False)
    if left := [name for name in raw(trial.place) if not Path(name).name.startswith(".")]:
        trial.note(f"left: {', '.join(Path(name).name for name in left)}")
    trial.finish()
