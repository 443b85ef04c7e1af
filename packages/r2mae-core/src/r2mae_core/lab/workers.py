"""Processes that share a command's work, and end with it."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from r2mae_core.lab.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, *, setup: Callable[[], Any] | None = None
) -> Iterator[tuple[Item, Result]]:
    """Do the work on every item in processes of their own, and yield (item, result) as they are done, in any order.

    When the caller stops, by an error, Ctrl-C or SIGTERM, the processes are ended at once; when the caller is killed,
    they end by themselves.

    Args:
        work: a function of a module, called in the processes.
        items: what to do; the next ones are handed out as processes become free.
        workers: how many processes.
        setup: called first in every process.

    Raises:
        UserError: a process was ended from outside, such as by a full memory.
    """
    context = multiprocessing.get_context("spawn")  # a copy of a process with threads may never return
    with ProcessPoolExecutor(workers, context, _start, (setup,)) as pool:
        try:
            waiting: dict[Future[Result], Item] = {pool.submit(work, item): item for item in items}
            for future in as_completed(waiting):
                yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was ended from outside, most often because the memory was full; use fewer --workers"
            ) from None
        except BaseException:
            _end(pool)
            raise


def _end(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        with contextlib.suppress(ProcessLookupError, ValueError):
            process.kill()  # its files are written atomically: there is nothing to tidy up
    for process in processes:
        with contextlib.suppress(ValueError, AssertionError):
            process.join(5)


def _start(setup: Callable[[], Any] | None) -> None:
    """Prepare a process: Ctrl-C is the caller's to answer, and without the caller there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_caller()
    if setup is not None:
        setup()


def end_with_caller(*_: Any) -> None:
    """Let this worker process end when the process that started it does, however that happens.

    Also for other people's pools, as `worker_init_fn` of torch's DataLoader; what they pass is ignored.
    """
    caller = multiprocessing.parent_process()
    if caller is None:
        return

    def watch() -> None:
        # Not the pipe that multiprocessing has for this: forked siblings hold each other's ends open.
        while os.getppid() == caller.pid:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
