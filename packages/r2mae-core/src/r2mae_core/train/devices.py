"""Which device a run uses: the requested one, or an error; never a silent fallback to the CPU."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.terminal import say

PEAK_TFLOPS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A10": 125.0}
"""Dense bfloat16 peak of common GPUs, 10^12 operations a second, as their makers state."""


def resolve_device(name: str) -> str:
    """Return the torch device type ("cpu", "cuda", "mps") for what the user wrote.

    Args:
        name: "auto" (the best device there is), "cpu", "cuda" or "gpu", or "mps".

    Raises:
        UserError: the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name in ("cuda", "gpu"):
        if not torch.cuda.is_available():
            raise UserError(
                f"device {name!r} was requested, but torch {torch.__version__} sees no CUDA GPU on this machine; "
                "check the driver with nvidia-smi, or use --device cpu"
            )
        return "cuda"
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("device 'mps' was requested, but torch sees no Apple GPU; use --device cpu")
        return "mps"
    raise UserError(f"unknown device {name!r}; known: auto, cpu, cuda, mps")


def device_name(device: str) -> str:
    """Return the device's name for a record, such as "NVIDIA H100 80GB HBM3" or "cpu (2 threads)"."""
    import torch

    n = torch.get_num_threads()
    return torch.cuda.get_device_name() if device == "cuda" else f"{device} ({n} thread{'s' if n != 1 else ''})"


def seconds_of(step: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """Return the least wall time of a call, after one that is not counted; what a `--dry_run` estimates with.

    Args:
        step: what to time.
        device: "cpu", "cuda" or "mps"; a GPU is waited for.
        repeats: calls that count.
    """
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    times = []
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak_flops(device: str, given: float | None) -> float | None:
    """Return the device's peak in operations a second: what the user gave, or what is known of the GPU; else None."""
    if given is not None:
        return given * 1e12
    if device != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name()
    return next((peak * 1e12 for known, peak in PEAK_TFLOPS.items() if all(w in name for w in known.split())), None)


def precision(asked: str, device: str) -> str:
    """Return Lightning's name of a precision; "auto" is bf16 on CUDA and float32 elsewhere.

    A CPU without instructions for bfloat16 emulates it, many times slower than float32; that is said, once.
    """
    chosen = asked if asked != "auto" else "bf16-mixed" if device == "cuda" else "32-true"
    if chosen.startswith("bf16") and emulates_bfloat16(device):
        _say_once("Note: this CPU has no instructions for bfloat16; --precision 32-true is many times faster")
    return chosen


def emulates_bfloat16(device: str) -> bool:
    """Return whether a device has no instructions for bfloat16 and emulates them: a CPU with AVX2 alone."""
    import torch

    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


@functools.cache
def _say_once(message: str) -> None:
    say(message)


def out_of_memory(error: Exception, lower: str) -> UserError:
    """Return the message for a full GPU.

    Args:
        error: torch's `OutOfMemoryError`.
        lower: what the user should lower, such as "--micro_batch_size".
    """
    return UserError(f"the GPU's memory is full ({str(error).splitlines()[0]}); lower {lower}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread: small tensors gain little from two, and lose much where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
