"""Jobs of r2mae-singlecell."""

from pathlib import Path

from tools.reliability.job import Job
from tools.reliability.jobs.changes import put

_TRAIN = "--epochs 4 --n_hidden 16 --n_latent 4 --batch_size 80 --device cpu --no-progress"
_OFTEN = "--micro-batch-size 40 --checkpoint-every 7 --validate-every 6 --log-every 5"
_SIMULATE = "--n_cells 600 --n_donors 12 --n_genes 60"


def materials(folder: Path) -> None:
    """The user's files are simulated atlases, made by jobs."""


def jobs() -> list[Job]:
    """Return what is tried."""
    atlas, counts = {"another atlas": put("atlas.h5ad", "other.h5ad")}, {"others": put("counts.h5ad", "others.h5ad")}
    run = {"another model": put("run", "other-run")}
    pretrain = f"pretrain counts.h5ad {_TRAIN} {_OFTEN}"
    probe = "probe run counts.h5ad --n_splits 2 --max_cells 30 --device cpu"
    grid = "--schemes [fixed,r2mae] --baselines [log-norm] --seeds [0] --n_splits 2 --max_cells 30"
    return [
        Job("singlecell", "simulate", f"simulate {_SIMULATE}", (), "atlas.h5ad", "--seed 1", kills=3, disk=True),
        Job("singlecell", "simulate another", f"simulate {_SIMULATE} --seed 7", (), "other.h5ad", maker=True),
        Job("singlecell", "prepare", "prepare atlas.h5ad --n_genes 50 --no-progress", ("atlas.h5ad",), "counts.h5ad",
            "--n_genes 40", atlas, ("--counts layers/none",), kills=5, disk=True),
        Job("singlecell", "prepare another", "prepare other.h5ad --n_genes 50 --no-progress", ("other.h5ad",),
            "others.h5ad", maker=True),
        Job("singlecell", "pretrain", pretrain, ("counts.h5ad",), "run", "--seed 1", counts,
            ("--mask_ratio nonsense", "--micro-batch-size 7", "--device cuda"), kills=10, disk=True),
        Job("singlecell", "pretrain on two devices", f"{pretrain} --devices 2", ("counts.h5ad",), "run2", kills=3,
            cold=True, damage=False),
        Job("singlecell", "pretrain another", f"{pretrain} --seed 7", ("counts.h5ad",), "other-run", maker=True),
        Job("singlecell", "embed", "embed run counts.h5ad --device cpu", ("run", "counts.h5ad"), "embedded.h5ad",
            changes=run | counts, kills=2, disk=True),
        Job("singlecell", "probe", probe, ("run", "counts.h5ad"), "probed", "--seed 1", run | counts,
            ("--n_splits 0",), kills=2),
        Job("singlecell", "reconstruct", "reconstruct run counts.h5ad --ratios [0.2,0.5] --device cpu",
            ("run", "counts.h5ad"), "reconstructed", "--ratios [0.3]", run | counts, kills=2, damage=False),
        Job("singlecell", "reproduce", f"reproduce table6 counts.h5ad {_TRAIN} {grid}", ("counts.h5ad",), "table",
            changes=counts, kills=2, damage=False),
        Job("singlecell", "compare", "compare run probed", ("run", "probed")),
    ]  # fmt: skip
