"""Timing shared by the benchmark scripts: contestants take turns in one run, and the report is a ratio."""

import statistics
import time


def best_of_turns(contestants, rounds=7, synchronize=None, clock=time.perf_counter):
    """Return name → median seconds over `rounds`; the contestants alternate, so a busy machine slows all alike.

    Args:
        contestants: name → function without arguments. Each is called once more beforehand, to warm up.
        rounds: how often each is timed.
        synchronize: called before every clock reading, to wait for a GPU.
        clock: time.process_time on a busy machine with one thread: what others take is then not counted.
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
    return {name: statistics.median(values) for name, values in times.items()}


def report(title, seconds, ours, unit=1e-3, unit_name="ms"):
    """Print a Markdown table: time of each contestant, and how many times ours is faster."""
    print(f"\n{title}\n\n| version | {unit_name} | ours is faster by |\n|---|---|---|")
    for name, value in seconds.items():
        ratio = "" if name == ours else f"{value / seconds[ours]:.2f}×"
        print(f"| {name} | {value / unit:.3f} | {ratio} |")
