import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import cosine, decay_groups, linear


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_schedules_rise_to_one_and_fall_to_the_end(total, warmup):
    rising = round(warmup * total)
    for schedule, end in ((cosine, 0.0), (linear, 0.0), (lambda *a: cosine(*a, end=0.1), 0.1)):
        factors = np.array([schedule(step, total, warmup) for step in range(total + 1)])
        assert (np.diff(factors[: rising + 1]) > 0).all()
        assert (np.diff(factors[rising:]) <= 1e-12).all()
        assert factors[rising] == pytest.approx(1.0) or total == rising
        assert factors[-1] == pytest.approx(end)


@pytest.mark.parametrize(("ours", "theirs"), [(cosine, "cosine"), (linear, "linear")])
def test_schedules_after_the_warm_up_are_those_of_torch(ours, theirs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50),
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-12, 50),
    }[theirs]()
    for step in range(50):
        assert ours(step, 50, 0.0) == pytest.approx(schedule.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_matrices_decay_and_vectors_do_not():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b_token": torch.nn.Linear(2, 2, bias=False)})
    model["frozen"] = torch.nn.Linear(2, 2)
    model["frozen"].requires_grad_(False)
    decayed, free = decay_groups(model.named_parameters(), 0.1, lambda name: "_token" in name)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert decayed["params"] == [model["a"].weight]
    assert free["params"] == [model["a"].bias, model["b_token"].weight]
