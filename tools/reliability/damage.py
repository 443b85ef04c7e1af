"""Damaged files: each file that a command reads back is emptied, cut, changed by a bit, or replaced."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tools.reliability.bench import Bench
from tools.reliability.job import Failed, Job, NotTried
from tools.reliability.trials import Trial

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def flipped(data: bytes, share: float) -> bytes:
    """Return the bytes with one bit changed, at a share of their length."""
    at = min(int(len(data) * share), len(data) - 1)
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


CUTS: Mapping[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
}
BITS: Mapping[str, Callable[[bytes], bytes]] = {
    "a bit at 5 %": partial(flipped, share=0.05),
    "a bit in the middle": partial(flipped, share=0.503),
    "a bit at 97 %": partial(flipped, share=0.97),
}
TYPES: Mapping[str, Callable[[bytes], bytes]] = {
    "another type": lambda data: _PNG,
    "a JSON list": lambda data: b"[1, 2]\n",
    "not UTF-8": lambda data: data[: len(data) // 3] + b"\xff\xfe" + data[len(data) // 3 :],
}
DAMAGES = {**CUTS, **BITS, **TYPES}


def trials(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return damages of each file that other commands made and this one reads, and of what it left itself.

    The seed chooses two for a file, of which one changes a bit.
    """
    if not job.damage:
        return
    home = bench.materials(job.package)
    for name in job.reads:
        for file in _files(home, name) if name not in bench.users(job.package) else ():
            for damage in _chosen(bench, job, file):
                yield f"{file} {damage}", partial(_damaged, file=file, damage=damage)
    for whole, path in ((True, home / job.makes), (False, bench.unfinished(job))) if job.kills else ():
        for file in _files(path.parent, job.makes):
            shown = f"its own {file}{'' if whole else ' of an unfinished run'}"
            for damage in _chosen(bench, job, shown):
                yield f"{shown} {damage}", partial(_own, before=path, file=file, damage=damage)


def _chosen(bench: Bench, job: Job, file: str) -> list[str]:
    draw = bench.random(f"{job.package} {job.name} {file}")
    return [draw.choice(list(BITS)), draw.choice([*CUTS, *TYPES])]


def _files(home: Path, name: str) -> list[str]:
    path = home / name
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    kept = [file for file in files if file.is_file() and file.stat().st_size]
    return [str(file.relative_to(home)) for file in kept if file.suffix not in (".png", ".pdf", ".svg", ".md")]


def _damaged(trial: Trial, file: str, damage: str) -> None:
    _break(trial, trial.folder / file, damage)
    _expect_message_or_baseline(trial, file)


def _own(trial: Trial, before: Path, file: str, damage: str) -> None:
    """Damage the command's own output of a run before; the damaged file itself is not compared."""
    trial.put(before)
    _break(trial, trial.place / file, damage)
    _expect_message_or_baseline(trial, file)


def _break(trial: Trial, path: Path, damage: str) -> None:
    before = path.read_bytes()
    after = DAMAGES[damage](before)
    if after == before:
        raise NotTried("the damage changes nothing")
    trial.note(f"{path.relative_to(trial.folder)}: {damage}")
    path.write_bytes(after)


def _expect_message_or_baseline(trial: Trial, file: str) -> None:
    process = trial.run(trial.job.command())
    if not process.code:
        inside = Path(*Path(file).parts[1:]).as_posix()  # of the output, where it is the command's own
        if changed := [name for name in trial.differences(process) if name != inside]:
            raise Failed("silently wrong", f"goes on from a damaged {file}: {', '.join(changed[:3])}")
        return
    if Path(file).name not in process.stderr and Path(file).parent.name not in process.stderr:
        raise Failed("other", f"the message does not name {file}: {process.stderr.strip()[:200]}")
