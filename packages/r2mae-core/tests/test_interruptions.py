"""A training that is interrupted, however often and wherever, ends as if it had not been."""

import contextlib
import random
import shutil

import lightning.pytorch as pl
import pytest
import torch

from r2mae_core import BatchOrder, InOrder, KeepBest, ResumableLoader, RunFolder, Uniform, UserError, fit, read_weights
from tiny import TinyMAE, samples

HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_validation_end", "on_train_epoch_end")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours answers it."""


class Killer(pl.Callback):
    """Ends the training at the n-th call of any hook."""

    def __init__(self, after):
        self.left = after

    def _count(self, *_, **__):
        self.left -= 1
        if self.left < 0:
            raise Killed


for _hook in HOOKS:
    setattr(Killer, _hook, Killer._count)


def train(folder, kill_after=None, *, validate_every, steps=14, accumulate=3, checkpoint_every=4):
    data = samples()
    module = TinyMAE(Uniform(0.2, 0.8, seed=1), seed=3, validation_ratios=(0.2, 0.6))

    def fetch(indices):
        return data[torch.from_numpy(indices)]

    run = RunFolder(folder, {})
    best = KeepBest(folder / "checkpoints" / "best.ckpt", "val_loss/ratio_0.2")
    fit(
        module, ResumableLoader(BatchOrder(96, 8), fetch), run, max_steps=steps, device="cpu", log_every=5,
        accumulate_grad_batches=accumulate, checkpoint_every=checkpoint_every, validate_every=validate_every,
        validation_loader=InOrder(range(32), 8, fetch), progress=False,
        callbacks=[best, *([Killer(kill_after)] if kill_after is not None else [])],
    )  # fmt: skip
    return result(module, folder)


def result(module, folder):
    weights = {name: value.tolist() for name, value in module.state_dict().items()}
    best = {name: value.tolist() for name, value in read_weights(folder / "checkpoints" / "best.ckpt").items()}
    return weights, best, (folder / "metrics.csv").read_text()


def interrupted(folder, calls, **options):
    for number, after in enumerate(calls):
        with contextlib.suppress(Killed):  # or at the end already
            train(folder, after, **options)
        moved = folder.with_name(f"{folder.name}-{number}")  # a run belongs to its folder, wherever that lies
        shutil.move(folder, moved)
        folder = moved
    return train(folder, **options)


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ({"validate_every": 2}, 0),
        ({"validate_every": 4}, 1),
        ({"validate_every": 3}, 2),
        ({"validate_every": None}, 3),
        ({"validate_every": 4, "checkpoint_every": None}, 4),
        ({"validate_every": 2, "accumulate": 1}, 5),
    ],
)
def test_interruptions_change_nothing(tmp_path, options, seed):
    whole = train(tmp_path / "whole", **options)
    random_ = random.Random(seed)
    for number in range(4):
        calls = [random_.randrange(4, 45) for _ in range(1 + number)]
        broken = interrupted(tmp_path / f"broken{number}", calls, **options)
        for what, one, other in zip(("weights", "best weights", "log"), whole, broken, strict=True):
            assert one == other, (what, calls)


def test_a_second_interruption_just_after_the_first(tmp_path):
    """The first micro-batch after a resume saved again, with part of the gradient dropped."""
    whole = train(tmp_path / "whole", validate_every=2)
    to_step_4 = 2 * 12 + 2 * 2 + 1
    for extra in range(1, 9):
        assert interrupted(tmp_path / f"broken{extra}", [to_step_4, extra], validate_every=2) == whole, extra


def test_the_comparison_can_fail(tmp_path):
    whole = train(tmp_path / "whole", validate_every=2)
    assert train(tmp_path / "longer", validate_every=2, steps=15)[0] != whole[0]
    assert train(tmp_path / "other", validate_every=2, accumulate=2)[2] != whole[2]


def test_a_log_that_is_not_the_checkpoints_is_refused(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "run", 40, validate_every=2)
    log = tmp_path / "run" / "metrics.csv"
    before = log.read_text()
    for damaged in (before[:40], before.replace("loss", "lose", 1), ""):
        log.write_text(damaged)
        with pytest.raises(UserError, match=r"metrics\.csv is damaged or was edited"):
            train(tmp_path / "run", validate_every=2)


def test_a_lost_best_model_is_noticed(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "run", 40, validate_every=2)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt, the best model so far, is missing"):
        train(tmp_path / "run", validate_every=2)
