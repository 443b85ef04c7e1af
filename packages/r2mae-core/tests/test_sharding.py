"""FSDP2 in two processes on the CPU: the same training as DDP, with half of the weights on each rank."""

import pickle
import sys

import pytest
import torch

from r2mae_core import RunFolder, UserError, gathered_state, read_weights
from r2mae_core.train.checkpoints import refuse_code
from tiny import train, two_ranks


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A training of 20 steps, and one that went on from step 8."""
    home = tmp_path_factory.mktemp("sharded")
    whole = two_ranks(home / "whole", "fsdp", 20, clip=1.0)
    two_ranks(home / "cut", "fsdp", 8, clip=1.0)
    return home, whole, two_ranks(home / "cut", "fsdp", 20, clip=1.0)


def test_sharding_changes_where_weights_are_and_nothing_else(sharded, tmp_path):
    _, fsdp, _ = sharded
    ddp = two_ranks(tmp_path, "ddp", 20, clip=1.0)
    for one, other in zip(fsdp, ddp, strict=True):
        assert one["trace"].keys() == other["trace"].keys()
        for step, (ratio, mask, data, loss) in one["trace"].items():
            assert (ratio, mask, data) == other["trace"][step][:3]
            assert loss == pytest.approx(other["trace"][step][3], rel=1e-5)
    for name, value in ddp[0]["weights"].items():
        torch.testing.assert_close(fsdp[0]["weights"][name], value, rtol=1e-5, atol=1e-6)
    assert fsdp[1]["weights"] == {}  # rank 0 alone gets the whole
    assert sum(rank["held"] for rank in fsdp) == ddp[0]["held"]
    assert max(rank["held"] for rank in fsdp) < 0.6 * ddp[0]["held"]


def test_a_sharded_run_goes_on_bit_for_bit(sharded):
    home, whole, resumed = sharded
    assert min(step for step, _ in resumed[0]["trace"]) == 8
    assert all(torch.equal(value, whole[0]["weights"][name]) for name, value in resumed[0]["weights"].items())
    assert [folder.name for folder in (home / "cut" / "checkpoints").iterdir()] == ["sharded-step=20.ckpt"]


def test_a_sharded_checkpoint_is_read_whole_by_one_process(sharded):
    home, whole, _ = sharded
    last = RunFolder(home / "whole", {}).last_checkpoint
    assert (last / "meta.pt").exists()  # whole
    weights = read_weights(last)
    assert weights.keys() == whole[0]["weights"].keys()
    assert all(torch.equal(value, whole[0]["weights"][name]) for name, value in weights.items())


def test_a_plain_checkpoint_and_module_are_read_the_same_way(tmp_path):
    module, _ = train(tmp_path / "run", max_steps=4)
    weights = read_weights(RunFolder(tmp_path / "run", {}).last_checkpoint)
    assert all(torch.equal(weights[name], value) for name, value in gathered_state(module).items())


def test_another_strategy_is_refused(sharded):
    with pytest.raises(
        UserError, match=r"sharded-step=20\.ckpt is a checkpoint in shards; resume with --strategy fsdp"
    ):
        train(sharded[0] / "whole", max_steps=24)


def test_a_plain_run_does_not_go_on_in_shards(tmp_path):
    train(tmp_path / "run", max_steps=4)
    with pytest.raises(
        UserError, match=r"last\.ckpt is a checkpoint in one piece; resume with another strategy than fsdp"
    ):
        train(tmp_path / "run", max_steps=8, strategy="fsdp")


def test_an_index_that_would_run_code_is_refused(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match=r"it names builtins\.print"):
        refuse_code(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        refuse_code(tmp_path)


def test_an_index_of_another_python_says_so(tmp_path):
    """Python 3.13 alone names paths by `pathlib._local`."""
    (tmp_path / ".metadata").write_bytes(b"cpathlib._local\nPosixPath\n(V/a\ntR.")
    if sys.version_info >= (3, 13):
        refuse_code(tmp_path)
    else:
        with pytest.raises(UserError, match=r"another version of Python \(it names pathlib\._local\); go on with that"):
            refuse_code(tmp_path)


def test_a_folder_that_was_not_written_to_its_end_is_no_checkpoint(tmp_path):
    run = RunFolder(tmp_path / "run", {})
    for step, files in {8: [".metadata", "meta.pt"], 12: [".metadata"]}.items():
        folder = run.checkpoints / f"sharded-step={step}.ckpt"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    assert run.last_checkpoint.name == "sharded-step=8.ckpt"
