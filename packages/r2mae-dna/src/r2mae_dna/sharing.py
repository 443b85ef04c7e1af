"""Work shared among ranks of torchrun and among machines, and reading ahead of the device."""

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from r2mae_core import UserError, resolve_device

T = TypeVar("T")


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and their number, as torchrun sets them: (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def device_of_rank(device: str, world_size: int) -> str:
    """Return the torch device type that `--device` names, and make this rank's GPU the current one."""
    device = resolve_device(device)
    if device == "cuda" and world_size > 1:
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return device


def wait_for_all() -> None:
    """Wait until every rank is here."""
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=7))
    dist.barrier()
    dist.destroy_process_group()


def parse_part(text: str) -> tuple[int, int]:
    """Return which of how many parts, from 0, "2/8" means: (1, 8).

    Raises:
        UserError: it means none.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part {text!r}: write I/N, such as 2/8 for the second of eight parts")
    return int(found[1]) - 1, int(found[2])


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the items; the next one is made in a thread while the caller works on this one."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, source, end)
        while (item := ahead.result()) is not end:
            ahead = pool.submit(next, source, end)
            yield item  # pyright: ignore[reportReturnType]
