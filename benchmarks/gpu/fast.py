"""Throughput of each network's training step on one device, with and without torch.compile, and what bounds it.

The batch is on the device already; masks, forward, backward and fused AdamW are timed, in bfloat16 on a GPU. The rate
of the data path stands beside it: the package's own loader, on the small data that travels. Peers are timed by the
scripts of `benchmarks/`, which the run starts itself.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from networks import RATIOS, TIMED, TINY, UNITS, Size, Step, pretraining
from rows import Part, main
from torch.profiler import ProfilerActivity, profile

from r2mae_core import StepOrder, peak_flops

BOUND_BY = 6
"""Operations that a profile names."""


def time_package(part: Part) -> None:
    """Time every size of a package."""
    for size in [TINY[part.package]] if part.tiny else TIMED[part.package]:
        for compiled in (False, True):
            if part.seconds_left > 0 and not (part.tiny and compiled):
                time_step(part, size, compiled)
    data_path(part)


def time_step(part: Part, size: Size, compiled: bool) -> None:
    """Time one network's step."""
    modality, config = pretraining(part.package, size, part.home, part.tiny, device=part.device, compile=compiled)
    step, cuda = Step.build(modality, config, part.device), part.device == "cuda"
    ratio, per_sample = RATIOS[part.package], config.length if part.package == "text" else 1
    run = step.runner(ratio, bf16=cuda)
    started = time.perf_counter()
    warm_up(run, 2 if part.tiny else 5, cuda)
    warm = time.perf_counter() - started
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(run, 3 if part.tiny else 10, cuda) for _ in range(3 if part.tiny else 7))
    rate = step.n * per_sample / seconds
    name, unit = f"{size.name}, batch {step.n}{', compiled' if compiled else ''}", f"{UNITS[part.package]}/s"
    target = None if size.target is None or not cuda else size.target
    notes = [f"{seconds * 1e3:.2f} ms", f"{warm:.0f} s to warm up"]
    operations, peak = step.task.flops(step.module, ratio), peak_flops(part.device, None)
    if operations:
        notes.append(f"{rate * operations / 1e12:.3g} TFLOP/s")
        notes += [f"MFU {rate * operations / peak:.1%}"] if peak else []
    if cuda:
        notes.append(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    hoped = "" if target is None else f"at least {target:,.0f}"
    part.add(name, rate, unit, hoped, met=None if target is None else rate >= target, note=", ".join(notes))
    if cuda:
        part.add(f"{name}: what bounds it", profiled(run, seconds), note="share of the step's time on the device")


def warm_up(run: Callable[[], None], n: int, cuda: bool) -> None:
    """Run a few times, and wait."""
    for _ in range(n):
        run()
    if cuda:
        torch.cuda.synchronize()


def timed(run: Callable[[], None], n: int, cuda: bool) -> float:
    """Return the seconds of a step, over n of them without waiting in between."""
    start = time.perf_counter()
    warm_up(run, n, cuda)
    return (time.perf_counter() - start) / n


def profiled(run: Callable[[], None], seconds: float, n: int = 3) -> str:
    """Return how much of a step the device is busy, and the kernels that take most of it."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        warm_up(run, n, True)
    kernels: dict[str, float] = {}
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels[event.name] = kernels.get(event.name, 0.0) + event.time_range.elapsed_us() / n / 1e6
    busy = sum(kernels.values())
    largest = sorted(kernels.items(), key=lambda item: -item[1])[:BOUND_BY]
    names = ", ".join(f"{name[:48]} {value / seconds:.0%}" for name, value in largest)
    return f"device busy {busy / seconds:.0%} of the step; {names}"


def data_path(part: Part) -> None:
    """Time the package's loader: fetch, batch, and copy to the device."""
    from lightning.fabric.utilities import move_data_to_device

    size = TINY[part.package] if part.tiny else TIMED[part.package][-1]
    modality, config = pretraining(part.package, replace(size, batch=64), part.home, part.tiny, device=part.device)
    task: Any = modality(config)
    task.build(task.sampler())
    n = min(64, task.n_samples)
    order = StepOrder(task.n_samples, n, n)
    for _ in range(2):  # the first time warms up
        start, samples = time.perf_counter(), 0
        for batch in task.loader(order, part.device):
            move_data_to_device(batch, part.device)
            samples += n
            if samples >= 20 * n or time.perf_counter() - start > 5:
                break
        if part.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    per_sample = config.length if part.package == "text" else 1
    part.add("data path alone", samples * per_sample / seconds, f"{UNITS[part.package]}/s", note="one process")


if __name__ == "__main__":
    main("fast", time_package)
