"""Where a process spends its CPU time: functions are timed by their threads' clocks, so other programs do not count.

cProfile sees one thread, and the loaders read in another. Functions that are called for every cell would be slowed.
"""

import functools
import os
import threading
import time
from collections import defaultdict


class CpuShares:
    """CPU seconds by label; what a timed function spends in another one counts for that one alone."""

    def __init__(self):
        self.seconds, self._inner, self._lock = defaultdict(float), threading.local(), threading.Lock()

    def watch(self, label, owner, *names):
        """Time functions of a module, or methods of a class, from now on."""
        for name in names:
            setattr(owner, name, self._timed(label, getattr(owner, name)))

    def _timed(self, label, function):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - start
                with self._lock:
                    self.seconds[label] += took - self._inner.seconds
                self._inner.seconds = outer + took

        return timed

    def run(self, work):
        """Do the work, and print the shares of its CPU time; what no label has is the rest.

        Args:
            work: takes nothing, and returns how many cells it did.
        """
        self.seconds.clear()
        start = time.process_time()
        cells = work()
        total = time.process_time() - start
        self.seconds["rest"] = total - sum(self.seconds.values())
        load = os.getloadavg()[0]
        print(f"\n{cells:,} cells in {total:.2f} s of CPU, {cells / total:,.0f} a second; load {load:.1f}\n")
        print("| part | CPU s | share |\n|---|---|---|")
        for label, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            print(f"| {label} | {seconds:.2f} | {seconds / total:.0%} |")
