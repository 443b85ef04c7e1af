"""Full disks and read-only folders: small file systems in memory, which only root can make."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from tools.reliability.bench import Bench
from tools.reliability.job import Failed, Job, NotTried
from tools.reliability.outputs import raw
from tools.reliability.trials import Trial

_SHARES = (0.02, 0.4, 0.8)
"""Parts of the space that the output needs."""


def trials(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the disks that are too small for a job, and a folder that cannot be written."""
    if not (job.disk and job.makes):
        return
    for share in _SHARES:
        n_bytes = max(int(bench.baseline(job).n_bytes * share), 4096)
        yield f"a disk of {share:.0%} of its output", partial(_full, n_bytes=n_bytes, surely=share == _SHARES[0])
    yield "a full disk after the end", _full_after
    yield "a read-only folder", _read_only


def _full(trial: Trial, n_bytes: int, *, surely: bool) -> None:
    def test() -> None:
        process = trial.run(trial.job.command())
        if not process.code:
            if surely:
                raise Failed("other", "the disk was not full: this tests nothing")
            trial.expect_baseline()
            raise NotTried("it fitted")
        if process.code != 1:
            raise Failed("other", f"exit code {process.code} on a full disk")
        if trial.out.is_file():
            raise Failed("lost", f"half an output is left at {trial.job.out}")
        _mount(trial, "remount,size=1g")
        trial.finish()

    _on_disk(trial, f"size={n_bytes // 4096 * 4096}", test)


def _full_after(trial: Trial) -> None:
    """The finished output must be whole after the same command has met a full disk."""

    def test() -> None:
        trial.run(trial.job.command(), good=True)
        before = raw(trial.out)
        trial.note("fill the disk")
        with (trial.place / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        trial.run(trial.job.command())
        after = raw(trial.out)
        if gone := [name for name in before if name not in after]:
            raise Failed("lost", f"{Path(gone[0]).name} is gone")
        (trial.place / "ballast").unlink()
        trial.finish()

    _on_disk(trial, "size=64m", test)


def _read_only(trial: Trial) -> None:
    def test() -> None:
        _mount(trial, "remount,ro")
        process = trial.run(trial.job.command(), good=False)
        if process.code != 1 or "place" not in process.stderr:
            raise Failed("other", f"the message does not name the folder: {process.stderr.strip()[:200]}")
        _mount(trial, "remount,rw")
        trial.finish()

    _on_disk(trial, "size=1g", test)


def _on_disk(trial: Trial, options: str, test: Callable[[], None]) -> None:
    """Run a test with the output's folder on a disk of its own."""
    if not can_mount():
        raise NotTried("only root can mount a small disk")
    _mount(trial, options)
    try:
        test()
    finally:
        subprocess.run(["umount", "--lazy", trial.place], check=False, capture_output=True)


def _mount(trial: Trial, options: str) -> None:
    trial.note(f"mount -t tmpfs -o {options} tmpfs place")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", trial.place], check=True, capture_output=True)


@cache
def can_mount() -> bool:
    """Return whether this process may mount a disk, in a namespace of no other process."""
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False, capture_output=True
    )
    return tried.returncode == 0
