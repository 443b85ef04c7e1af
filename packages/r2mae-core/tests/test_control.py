"""The positive control: a verdict that a broken training fails, and weights in random order."""

import math

import pytest
import torch
from torch import nn

from r2mae_core import (
    NO_PRETRAINING,
    SHUFFLED_WEIGHTS,
    Margin,
    Record,
    permute_weights,
    positive_control,
)


def records(scheme, values, metric="accuracy", task="digits"):
    return [Record(task, metric, value, scheme, seed, n=100) for seed, value in enumerate(values)]


CONTROLS = [*records(NO_PRETRAINING, [0.50, 0.52, 0.54]), *records(SHUFFLED_WEIGHTS, [0.40, 0.40, 0.40])]


def verdict(*found, **options):
    return positive_control([*CONTROLS, *found], ["r2mae"], {"accuracy": "max"}, **options)


def test_a_margin_computed_by_hand():
    # Means 0.60 and 0.52; standard deviations 0.03 and 0.02, so of a difference sqrt(0.0009 + 0.0004) = 0.036056.
    first, second = verdict(*records("r2mae", [0.57, 0.60, 0.63])).margins
    assert (first.control, first.n_seeds, second.control) == (NO_PRETRAINING, 3, SHUFFLED_WEIGHTS)
    assert first.difference == pytest.approx(0.08)
    assert first.sd == pytest.approx(0.0360555, rel=1e-5)
    assert first.n_sd == pytest.approx(2.2188, rel=1e-4)
    assert first.met
    assert second.sd == pytest.approx(0.03)


def test_the_bar_is_two_standard_deviations_and_not_less():
    assert verdict(*records("r2mae", [0.57, 0.60, 0.63])).met
    found = verdict(*records("r2mae", [0.56, 0.59, 0.62]))  # 0.07 of 0.036: 1.94
    assert not found.met
    assert [margin.met for margin in found.margins] == [False, True]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.9, 0.9], "0.38 ±0.02 (19.0 sd, n = 2)"),
        ([0.9], "n = 1: no standard deviation"),
        ([], "not measured"),
        ([0.9, 0.9, math.nan], "NaN or infinite"),
        ([0.1, 0.1, 0.1], "2 of 2 comparisons fail; the closest: r2mae − shuffled weights = -0.3 ±0 (n = 3)"),
    ],
)
def test_what_is_too_few_missing_or_worse_does_not_meet_it(values, said):
    found = verdict(*records("r2mae", values))
    assert not found.met
    first, second = found.lines()
    assert first.startswith("Positive control NOT met (met on 0 of 1, needed on 1)")
    assert said in second


def test_every_scheme_counts_and_a_control_that_was_left_out_is_not_a_pass():
    good, bad = records("r2mae", [0.8, 0.8, 0.81]), records("mdlm", [0.5, 0.5, 0.51])
    both = positive_control([*CONTROLS, *good, *bad], ["r2mae", "mdlm"], {"accuracy": "max"})
    assert not both.met
    assert "2 of 4 comparisons fail" not in both.lines()[1]
    assert "1 of 4 comparisons fail; the closest: mdlm − no pretraining" in both.lines()[1]
    assert not positive_control([*CONTROLS[:3], *good], ["r2mae"], {"accuracy": "max"}).met


def test_other_schemes_are_told_and_decide_nothing():
    good, bad = records("r2mae", [0.8, 0.8, 0.81]), records("mdlm", [0.5, 0.5, 0.51])
    found = positive_control([*CONTROLS, *good, *bad], ["r2mae"], {"accuracy": "max"}, others=["mdlm", "absent"])
    assert found.met
    assert found.lines()[-1] == "  of the other schemes, for information: NOT met by mdlm, absent"
    swapped = positive_control([*CONTROLS, *good, *bad], ["mdlm"], {"accuracy": "max"}, others=["r2mae"])
    assert not swapped.met
    assert swapped.lines()[-1] == "  of the other schemes, for information: met by r2mae"


def test_where_less_is_better_the_sign_turns():
    error = [*records("r2mae", [0.1, 0.1, 0.12], "error"), *records(NO_PRETRAINING, [0.3, 0.31, 0.3], "error")]
    found = positive_control(error, ["r2mae"], {"error": "min"}, controls=[NO_PRETRAINING])
    assert found.met
    assert found.margins[0].difference == pytest.approx(0.91 / 3 - 0.32 / 3)
    assert not positive_control(error, ["r2mae"], {"error": "max"}, controls=[NO_PRETRAINING]).met


def test_as_many_columns_as_are_needed():
    met = [*records("r2mae", [0.8, 0.8, 0.81]), *CONTROLS]
    failed = [record.__class__(**{**record.__dict__, "task": "other", "value": 0.5}) for record in met]
    columns = positive_control([*met, *failed], ["r2mae"], {"accuracy": "max"})
    assert columns.columns() == {("digits", "accuracy"): True, ("other", "accuracy"): False}
    assert columns.met
    assert columns.lines()[0].startswith("Positive control met (met on 1 of 2, needed on 1)")
    assert not positive_control([*met, *failed], ["r2mae"], {"accuracy": "max"}, needed=2).met


def test_controls_can_be_compared_with_each_other():
    """Shuffled weights must themselves fail against no pretraining."""
    assert not positive_control(CONTROLS, [SHUFFLED_WEIGHTS], {"accuracy": "max"}, controls=[NO_PRETRAINING]).met


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(ValueError, match="no record of accuracy for r2mae"):
        positive_control([], ["r2mae"], {"accuracy": "max"})
    with pytest.raises(ValueError, match="two records of no pretraining, digits accuracy, seed 0"):
        verdict(*CONTROLS[:1])
    with pytest.raises(ValueError, match="at least one scheme"):
        positive_control(CONTROLS, [], {"accuracy": "max"})


def test_no_spread_at_all():
    assert Margin("t", "m", "a", "b", 0.1, 0.0, 3).met
    assert not Margin("t", "m", "a", "b", 0.0, 0.0, 3).met


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 5, bias=False))
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape))
    made[1].num_batches_tracked.fill_(12)
    return made


def test_permuted_weights_keep_their_values_and_lose_their_places():
    before = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    after = permute_weights(network(), 3).state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        if name == "1.num_batches_tracked":
            assert tensor == 12
            continue
        assert not torch.equal(tensor, before[name]), name
        assert torch.equal(tensor.flatten().sort()[0], before[name].flatten().sort()[0]), name


def test_the_order_is_a_function_of_the_seed_and_differs_between_tensors():
    one, again, other = (permute_weights(network(), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    equal = nn.ParameterDict({name: torch.arange(50.0) for name in "ab"})
    permute_weights(equal, 0)
    assert not torch.equal(equal["a"], equal["b"])


def test_a_stack_is_permuted_network_by_network():
    stack = nn.ParameterDict({"w": torch.arange(24.0).view(2, 3, 4), "norm": torch.arange(10.0)})
    permute_weights(stack, [7, 8])
    assert sorted(stack["w"][0].flatten().tolist()) == list(range(12))
    assert sorted(stack["norm"][5:].tolist()) == [5, 6, 7, 8, 9]
    alone = nn.ParameterDict({"w": torch.arange(12.0).view(1, 3, 4)})
    assert torch.equal(permute_weights(alone, [7])["w"][0], stack["w"][0])


def test_tied_and_transposed_tensors():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    tied = nn.Sequential(first, second)
    once = nn.Sequential(nn.Linear(4, 4, bias=False))
    once[0].weight.data.copy_(first.weight)
    assert torch.equal(permute_weights(tied, 0)[0].weight, permute_weights(once, 0)[0].weight)
    across = nn.ParameterDict({"w": torch.arange(6.0).view(2, 3).T})
    assert sorted(permute_weights(across, 0)["w"].flatten().tolist()) == list(range(6))
