"""A sweep over a known curve, for the tests; also run as a script, in several processes at once."""

import os
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2mae_core import Record, SweepOptions, UserError, run_sweep

BEST = 0.4


def score(low, high, share, seed, noise=0.01):
    middle = (low + high) / 2
    rng = np.random.default_rng(zlib.crc32(f"{low} {high} {share} {seed}".encode()))
    return share - 4 * (middle - BEST) ** 2 - 0.1 * (high - low) + noise * rng.standard_normal()


@dataclass(frozen=True, kw_only=True)
class Options(SweepOptions):
    wait: float = 0.0
    data: str = "here"


class Trainings:
    """Counts what is trained, in one line of a file for each; fails at the n-th, as a power cut would."""

    def __init__(self, log, *, wait=0.0, cut=None, sign=1):
        self.log, self.wait, self.cut, self.sign, self.n = Path(log), wait, cut, sign, 0

    def __call__(self, sampler, seed, share, folder):
        low, high = sampler.bounds(0)
        self.n += 1
        folder.mkdir(parents=True, exist_ok=True)
        if self.n == self.cut:
            (folder / "half").touch()
            raise KeyboardInterrupt
        time.sleep(self.wait)
        again = "again" if (folder / "half").exists() else "new"
        with self.log.open("a") as file:
            file.write(f"{low:g}-{high:g} {seed} {share:g} {os.getpid()} {again}\n")
        value = self.sign * score(low, high, share, seed)
        return [Record("task", "accuracy", value, "scheme", seed, 9), Record("task", "other", 0.0, "scheme", seed, 9)]


def sweep(out, trainings, **options):
    metrics = {"accuracy": "max", "other": "max"} if trainings.sign == 1 else {"accuracy": "min"}
    config = Options(device="cpu", out=Path(out), **options)
    return run_sweep(
        "r2mae-toy",
        "text",
        config,
        trainings,
        metrics=metrics,
        pretrain_command="pretrain {}".format,
        sources={"data": "of this content"},
    )


if __name__ == "__main__":
    out, log, storage = sys.argv[1:]
    try:
        sweep(out, Trainings(log, wait=0.02), storage=storage, budget_runs=14.0)
    except UserError as error:
        sys.exit(str(error))
