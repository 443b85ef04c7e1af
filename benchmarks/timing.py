"""Timing shared by the benchmark scripts: contestants take turns in one run, and the report is a ratio.

`run.py` collects the lines with a target from the output of `report` and `claim`.
"""

import statistics
import time


class Seconds(float):
    """The median of `turns`."""

    def __new__(cls, turns):
        self = super().__new__(cls, statistics.median(turns))
        self.turns = tuple(turns)
        return self


def best_of_turns(contestants, rounds=7, synchronize=None, clock=time.perf_counter):
    """Return name → median seconds over `rounds`; the contestants alternate, so a busy machine slows all alike.

    Args:
        contestants: name → function without arguments. Each is called once more beforehand, to warm up.
        rounds: how often each is timed.
        synchronize: called before every clock reading, to wait for a GPU.
        clock: time.process_time on a busy machine with one thread: time used by other processes is then not counted.
    """
    wait = synchronize or (lambda: None)
    times = {name: [] for name in contestants}
    for function in contestants.values():
        function()
    for _ in range(rounds):
        for name, function in contestants.items():
            wait()
            start = clock()
            function()
            wait()
            times[name].append(clock() - start)
    return {name: Seconds(values) for name, values in times.items()}


def has_bfloat16(device):
    """Return whether a device computes in bfloat16 natively; print a line if it does not."""
    from r2mae_core import emulates_bfloat16

    emulated = emulates_bfloat16(device)
    if emulated:
        print("bfloat16 is left out: this CPU has no instructions for it")
    return not emulated


def report(title, seconds, ours, unit=1e-3, unit_name="ms", targets=None):
    """Print a Markdown table: time of each contestant, and how many times faster ours is.

    Args:
        title: what was timed.
        seconds: name → `Seconds`.
        ours: which of them is ours.
        unit: unit of the column of times, in seconds.
        unit_name: name of that unit.
        targets: name → how many times faster ours should be.
    """
    print(f"\n{title}\n\n| version | {unit_name} | ours is faster by | turns | target |\n|---|---|---|---|---|")
    for name, value in seconds.items():
        ratio = spread = target = ""
        if name != ours:
            ratio = f"{value / seconds[ours]:.2f}×"
            each = [theirs / own for theirs, own in zip(value.turns, seconds[ours].turns, strict=True)]
            spread = f"{min(each):.2f}–{max(each):.2f}"
            target = verdict(value / seconds[ours], (targets or {}).get(name))
        print(f"| {name} | {value / unit:,.3f} | {ratio} | {spread} | {target} |")


def verdict(ratio, target, at_most=False):
    """Return "3×, met" or "3×, missed"; nothing without a target."""
    if target is None:
        return ""
    met = ratio <= target if at_most else ratio >= target
    return f"{'at most ' if at_most else ''}{target:g}×, {'met' if met else 'missed'}"


def claim(what, ratio, target, at_most=False):
    """Print one ratio that is not a row of a table."""
    print(f"\n{what}: {ratio:.3f}× (target: {verdict(ratio, target, at_most)})")
