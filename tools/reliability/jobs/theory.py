"""Jobs of r2mae-theory."""

from pathlib import Path

from tools.reliability.job import Job
from tools.reliability.jobs.changes import put

_SIZE = "--p 40 --n 30 --step 0.3"


def materials(folder: Path) -> None:
    """Write two tables of samples by features, of one size."""
    import numpy as np

    draw = np.random.default_rng(0)
    for name in ("features.npy", "other.npy"):
        table = draw.normal(size=(80, 3)) @ draw.normal(size=(3, 6)) + draw.normal(size=(80, 6))
        np.save(folder / name, table)
    np.savetxt(folder / "features.csv", table, delimiter=",", header="a,b,c,d,e,f", comments="")


def jobs() -> list[Job]:
    """Return what is tried."""
    table = {"another table": put("features.npy", "other.npy")}
    return [
        Job("theory", "risk", f"risk {_SIZE}", (), "risk", "--seed 1 --covariance latent", mistakes=("--low 2",),
            kills=2, disk=True),
        Job("theory", "simulate", f"simulate {_SIZE} --repeats 20", (), "simulated", "--seed 1",
            mistakes=("--sigma -1",), kills=3, disk=True),
        Job("theory", "simulate with workers", f"simulate {_SIZE} --repeats 60 --workers 2", (), "simulated2", kills=3,
            cold=True, damage=False),
        Job("theory", "advise", "advise features.npy --bootstrap 2 --step 0.2 --validate", ("features.npy",), "advice",
            "--seed 1 --shrinkage 0.5", table, ("--targets [99]",), kills=3, disk=True),
        Job("theory", "advise on csv", "advise features.csv --bootstrap 0 --step 0.2", ("features.csv",), "advice2",
            damage=False),
        Job("theory", "reproduce", "reproduce fig1b --repeats 2 --step 0.3", (), "figure", "--seed 1",
            mistakes=("--workers 0",), kills=3, disk=True),
    ]  # fmt: skip
