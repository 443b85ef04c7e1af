"""The pieces of a corpus as tasks of a datatrove executor: on this machine, on a SLURM cluster or on Ray."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from r2mae_core import UserError
from r2mae_text.data.encode import EncodeJob, encode_piece

Executor = Literal["local", "slurm", "ray"]
MOST_TASKS = 1000
"""The number of tasks depends on the input alone, so that the result does not depend on the number of workers."""
_POLL = 30.0  # seconds between looks at SLURM's queue


class EncodePieces:
    """A step of a pipeline: each task encodes its share of the pieces, as `prepare` does without an executor."""

    def __init__(self, jobs: Sequence[EncodeJob]) -> None:
        self.jobs = jobs

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Encode every `world_size`-th piece from `rank` on."""
        for job in self.jobs[rank::world_size]:
            encode_piece(job)


def encode_pieces(
    jobs: Sequence[EncodeJob], folder: Path, kind: Executor, workers: int, more: Mapping[str, Any]
) -> None:
    """Encode pieces by an executor.

    Args:
        jobs: the pieces.
        folder: for the executor's logs; what an earlier call left there is removed.
        kind: see `run_pipeline`.
        workers: see `run_pipeline`.
        more: see `run_pipeline`.

    Raises:
        UserError: as `run_pipeline` does.
    """
    shutil.rmtree(folder, ignore_errors=True)  # its marks of completion are of other pieces
    run_pipeline([EncodePieces(jobs)], min(len(jobs), MOST_TASKS), folder, kind, workers, more)


def run_pipeline(
    steps: list[Any], tasks: int, folder: Path, kind: Executor, workers: int, more: Mapping[str, Any]
) -> None:
    """Run a pipeline, wait for its end, and go on where an earlier call stopped.

    Args:
        steps: datatrove's steps, or functions (documents, rank, world size) → documents.
        tasks: how many tasks share the work.
        folder: for logs, statistics and marks of completion; on clusters a folder that all machines see.
        kind: local, slurm or ray.
        workers: tasks at once.
        more: arguments of datatrove's executor, such as SLURM's time and partition.

    Raises:
        UserError: datatrove or the executor's own needs are missing, an argument is unknown, or tasks failed.
    """
    executor = _executor(kind)
    try:
        run = executor(steps, tasks=tasks, workers=max(workers, 1), logging_dir=str(folder.absolute()), **more)
    except TypeError as error:
        reason = str(error).split("__init__() ")[-1]
        raise UserError(f"--executor {kind} does not take these --executor_args: {reason}") from None
    try:
        run.run()
        if kind == "slurm":
            _wait(run.job_id)
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"--executor {kind} cannot run: {str(error).strip().splitlines()[0]}") from None
    if left := run.get_incomplete_ranks(skip_completed=True):
        raise UserError(
            f"{len(left):,} of {tasks:,} tasks did not end well, the first is number {left[0]}; see {folder / 'logs'}, "
            "and give the same command again: what is done stays"
        )


def _executor(kind: Executor) -> Callable[..., Any]:
    try:
        import datatrove.executor as executors  # pyright: ignore[reportMissingImports]

        if kind == "ray":
            import ray  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        extra = "datatrove,ray" if kind == "ray" else "datatrove"
        reason = str(error).splitlines()[0]
        raise UserError(f"--executor {kind} needs pip install 'r2mae-text[{extra}]' ({reason})") from None
    names = {"local": "LocalPipelineExecutor", "slurm": "SlurmPipelineExecutor", "ray": "RayPipelineExecutor"}
    return getattr(executors, names[kind])


def _wait(job: Any) -> None:
    """Wait until SLURM's queue does not have a job any more."""
    while job not in (None, -1):
        queue = ["squeue", "--noheader", "--jobs", str(job)]
        if not subprocess.run(queue, capture_output=True, text=True, check=False).stdout.strip():
            return
        time.sleep(_POLL)
