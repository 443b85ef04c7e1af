import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2mae_core import span_mask
from r2mae_dna.data.codes import MASK, SOFT_MASK, reverse_complement
from r2mae_dna.masking import MaskingConfig, hidden_positions, mask_windows, position_weights, turn_strands

PLAIN = MaskingConfig(soft_mask_weight=1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=64, length=128, species=3, seed=0, conservation=None):
    codes = torch.randint(1, 5, (n, length, species + 1), dtype=torch.uint8, generator=generator(seed))
    values = {"codes": codes, "reverse": torch.zeros(n, dtype=torch.bool)}
    return values if conservation is None else {**values, "conservation": conservation}


@given(st.floats(0, 1), st.integers(1, 5), st.integers(2, 140))
def test_every_window_hides_the_same_exact_count(ratio, rows, length):
    positions = hidden_positions((rows, length), ratio, generator())
    assert positions.shape == (rows, max(1, round(ratio * length)))
    assert (positions.diff(dim=1) > 0).all()  # ascending, so distinct
    assert positions.min() >= 0
    assert positions.max() < length


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.integers(2, 140),
    st.sampled_from([None, 1.0, 2.0, 4.0]),
)
def test_every_window_hides_its_own_exact_count(ratios, length, mean_span):
    given_ = batch(len(ratios), length)
    config = MaskingConfig(mask_share=1.0, random_share=0.0, soft_mask_weight=1.0, mean_span=mean_span)
    masked = mask_windows(given_, torch.tensor(ratios, dtype=torch.float64), generator(1), config)
    counts = [max(1, round(ratio * length)) for ratio in ratios]
    assert masked.positions.shape == masked.weights.shape == (len(ratios), max(counts))
    shown = masked.codes[..., 0] == MASK
    assert shown.sum(1).tolist() == counts
    assert torch.equal(masked.codes[..., 0][~shown], given_["codes"][..., 0][~shown])  # nothing else is touched
    weights = [[1.0] * n + [0.0] * (max(counts) - n) for n in counts]
    assert masked.weights.tolist() == weights
    rows = [row for row, n in enumerate(counts) for _ in range(n)]
    assert (masked.places // max(counts)).tolist() == rows
    assert masked.hidden(masked.positions).tolist() == shown.nonzero()[:, 1].tolist()
    assert masked.hidden(masked.weights).tolist() == [1.0] * sum(counts)
    assert masked.total_weight == len(ratios) * length


def test_one_ratio_for_all_hides_what_a_ratio_each_hides():
    one = mask_windows(batch(), 0.2, generator(1), PLAIN)
    each = mask_windows(batch(), torch.full((64,), 0.2, dtype=torch.float64), generator(1), PLAIN)
    assert one.places is None
    assert torch.equal(each.places, torch.arange(64 * 26))
    assert torch.equal(one.positions, each.positions)
    assert torch.equal(one.codes, each.codes)
    assert torch.equal(one.hidden(one.labels), each.hidden(each.labels))


@pytest.mark.parametrize("ratio", [0.3, torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)])
def test_spans_are_the_cores_and_longer_than_those_of_chance(ratio):
    positions = hidden_positions((3, 128), ratio, generator(), 6.0)
    mask = span_mask((3, 128), ratio, mean_span=6.0, generator=generator())
    for row, expected in zip(positions.tolist(), mask, strict=True):
        assert row[: int(expected.sum())] == expected.nonzero().flatten().tolist()
    masked = mask_windows(batch(3), ratio, generator(), MaskingConfig(mask_share=1.0, random_share=0.0, mean_span=6.0))
    assert torch.equal(masked.codes[..., 0] == MASK, mask)

    def mean_run(mean_span):
        mask = torch.zeros(256, 128).scatter_(1, hidden_positions((256, 128), 0.2, generator(), mean_span), 1.0)
        starts = mask[:, 0].sum() + (mask.diff(dim=1) > 0).sum()
        return (mask.sum() / starts).item()

    # 26 of 128 bases, each for itself, are 26 · 103 / 128 runs. Spans of 6 have geometric lengths, join, and are cut.
    assert mean_run(None) == pytest.approx(128 / 103, abs=0.03)
    assert 5.0 < mean_run(6.0) < 7.5


def test_only_the_reference_changes_and_only_where_hidden():
    given_ = batch()
    masked = mask_windows(given_, 0.3, generator(1), PLAIN)
    original = given_["codes"]
    assert torch.equal(masked.codes[..., 1:], original[..., 1:])
    changed = masked.codes[..., 0] != original[..., 0]
    chosen = torch.zeros_like(changed).scatter_(1, masked.positions, True)
    assert not (changed & ~chosen).any()
    assert torch.equal(masked.labels, original[..., 0].gather(1, masked.positions).long())


def test_eighty_ten_ten():
    given_ = batch(n=512)
    masked = mask_windows(given_, 0.5, generator(1), PLAIN)
    shown = masked.codes[..., 0].gather(1, masked.positions)
    own = given_["codes"][..., 0].gather(1, masked.positions)
    n = shown.numel()
    assert (shown == MASK).float().mean().item() == pytest.approx(0.8, abs=5 * (0.16 / n) ** 0.5)
    other = (shown != MASK) & (shown != own)  # a random base is the own one in a quarter of cases
    assert other.float().mean().item() == pytest.approx(0.075, abs=5 * (0.07 / n) ** 0.5)
    bases = torch.bincount(shown[other].long(), minlength=6)
    assert bases[[0, 5]].sum() == 0
    assert (bases[1:5] / bases.sum()).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_the_same_generator_gives_the_same_masks():
    first, second, third = (mask_windows(batch(), 0.2, generator(s), PLAIN) for s in (1, 1, 2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.positions, second.positions)
    assert not torch.equal(first.positions, third.positions)


def test_strands_turn_codes_and_tracks_together():
    track = torch.arange(128.0).expand(2, 2, 128).clone().half()
    given_ = {**batch(n=2, conservation=track), "reverse": torch.tensor([False, True])}
    turned = turn_strands(given_["codes"], given_["reverse"])
    assert torch.equal(turned[0], given_["codes"][0])
    assert (turned[1].numpy() == reverse_complement(given_["codes"][1].numpy())).all()
    config = MaskingConfig(soft_mask_weight=1.0, label_flip=0.0)
    masked = mask_windows(given_, 1.0, generator(), config)
    assert torch.equal(masked.labels[1], turned[1, :, 0].long())
    assert torch.equal(masked.weights[1], masked.weights[0].flip(0))


def test_weights_are_those_of_gpn_msa():
    # gpn/msa/train.py: max over 7 bases of phastCons (NaN as 0), fmax(phyloP, 1), 0.1 + phastCons, lower case 0.1.
    nan = float("nan")
    phastcons = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, nan, 0.8, 0.0, 0.0, 0.0, 0.0]])
    phylop = torch.tensor([[nan, 0.5, 3.0, 1.0, -2.0, 2.0, 1.0, 1.0, 1.0, 1.0, nan]])
    codes = torch.ones(1, 11, 2, dtype=torch.uint8)
    codes[0, 2, 0] |= SOFT_MASK
    smooth = torch.tensor([0.0] * 3 + [0.8] * 7 + [0.0])
    expected = phylop[0].nan_to_num(1.0).clamp_min(1.0) * (0.1 + smooth)
    expected[2] *= 0.1
    weights, found = position_weights(codes, torch.stack([phastcons, phylop], 1), MaskingConfig())
    assert torch.allclose(weights[0], expected)
    assert torch.allclose(found[0], smooth)
    soft_only, none = position_weights(codes, None, MaskingConfig())
    assert none is None
    assert soft_only[0].tolist() == pytest.approx([1, 1, 0.1] + [1] * 8)
    unweighted, _ = position_weights(
        codes, torch.stack([phastcons, phylop], 1), MaskingConfig(conservation_weights=False, soft_mask_weight=1.0)
    )
    assert (unweighted == 1).all()


def test_labels_flip_where_nothing_is_conserved():
    track = torch.zeros(256, 2, 128)
    track[:, 0, :64] = 0.9
    given_ = batch(n=256, conservation=track.half())
    masked = mask_windows(given_, 1.0, generator(3), MaskingConfig())
    same = masked.labels == given_["codes"][..., 0].long()
    assert same[:, :64].all()
    # Half of the labels are random, a quarter of these are right by chance; smoothing spares three more bases.
    assert same[:, 67:].float().mean().item() == pytest.approx(0.625, abs=0.02)
    assert masked.labels.min() >= 1
    assert masked.labels.max() <= 4
    never = mask_windows(given_, 1.0, generator(3), MaskingConfig(label_flip=0.0))
    assert torch.equal(never.labels, given_["codes"][..., 0].long())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask_share": 0.9, "random_share": 0.2},
        {"mask_share": -0.1},
        {"label_flip": 2.0},
        {"soft_mask_weight": -1},
        {"mean_span": 0.5},
        {"mean_span": math.inf},
        {"mean_span": math.nan},
    ],
)
def test_fractions_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        MaskingConfig(**wrong)


def test_the_complement_on_the_device_is_the_tables():
    from r2mae_dna.data.codes import COMPLEMENT
    from r2mae_dna.model import complement

    letters = [0, 1, 2, 3, 4, 5, 9, 10, 11, 12]
    assert complement(torch.tensor(letters, dtype=torch.uint8)).tolist() == COMPLEMENT[letters].tolist()
