"""Two machines, played by two processes on this one: started by torchrun on each, and by SLURM."""

import socket
from functools import partial

import pytest
import torch

from tiny import start, two_ranks


@pytest.fixture
def port():
    """A port that no other process is given until the test ends: bound here, and listened to by the run alone."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # torch's store sets it too, so it may bind again
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def torchrun_on_each(words, port):
    where = f"--rdzv-endpoint=127.0.0.1:{port}"
    rendezvous = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=test", where]
    return [start("-m", "torch.distributed.run", *rendezvous, *words, "--nodes=2") for _ in range(2)]


def srun(words, port):
    """What SLURM tells the tasks of `srun --nodes=2 --ntasks-per-node=1`."""
    job = {
        "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "pretrain", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    tasks = [{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"} for rank in range(2)]
    return [start(*words, "--nodes=2", **job, **task) for task in tasks]


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory):
    return two_ranks(tmp_path_factory.mktemp("one"), "ddp", 6)


@pytest.mark.parametrize("launch", [torchrun_on_each, srun])
def test_two_machines_train_what_one_with_two_devices_trains(tmp_path, one_machine, launch, port):
    ranks = two_ranks(tmp_path, "ddp", 6, launch=partial(launch, port=port))
    for rank, same in zip(ranks, one_machine, strict=True):
        assert rank["trace"] == same["trace"]
        assert all(torch.equal(value, same["weights"][name]) for name, value in rank["weights"].items())
