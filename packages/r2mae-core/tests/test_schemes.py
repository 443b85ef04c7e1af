from dataclasses import replace

import pytest

from r2mae_core import (
    Curriculum,
    Fixed,
    Grid,
    LinearDecay,
    Uniform,
    UserError,
    register_scheme,
    sampler_from_config,
    scheme,
    scheme_name,
    scheme_names,
    short_name,
    with_seed,
)
from r2mae_core.ratio import schemes as schemes_module

PAPER_NAMES = [
    "fixed", "low", "high", "mdlm", "dynamic", "r2mae", "r2mae+dynamic", "cl", "cl-k0", "r2mae+cl", "r2mae+cl-k0",
]  # fmt: skip


@pytest.mark.parametrize(
    ("modality", "name", "sampler"),
    [
        # The paper's table of ratios; "low" and "high" are the fixed baselines at the ends.
        ("vision", "fixed", Fixed(0.75)),
        ("vision", "low", Fixed(0.5)),
        ("vision", "high", Fixed(0.9)),
        ("vision", "r2mae", Uniform(0.6, 0.9)),
        ("vision", "dynamic", LinearDecay(0.9, 0.6)),
        ("text", "fixed", Fixed(0.15)),
        ("text", "high", Fixed(0.4)),
        ("text", "r2mae", Uniform(0.15, 0.4)),
        ("text", "dynamic", LinearDecay(0.4, 0.15)),
        ("dna", "fixed", Fixed(0.15)),
        ("dna", "low", Fixed(0.05)),
        ("dna", "high", Fixed(0.3)),
        ("dna", "r2mae", Uniform(0.05, 0.3)),
        ("dna", "dynamic", LinearDecay(0.3, 0.05)),
        ("dna", "r2mae+dynamic", Uniform(0.05, LinearDecay(0.55, 0.05))),
        ("dna", "cl", Curriculum(Fixed(0.15))),
        ("dna", "cl-k0", Curriculum(Fixed(0.15), k0=True)),
        ("dna", "r2mae+cl", Curriculum(Grid.spaced(0.05, 0.3))),
        ("dna", "r2mae+cl-k0", Curriculum(Grid.spaced(0.05, 0.3), k0=True)),
        ("singlecell", "fixed", Fixed(0.25)),
        ("singlecell", "low", Fixed(0.1)),
        ("singlecell", "high", Fixed(0.5)),
        ("singlecell", "r2mae", Uniform(0.1, 0.5)),
        ("singlecell", "dynamic", LinearDecay(0.5, 0.1)),
        ("singlecell", "r2mae+dynamic", Uniform(0.1, LinearDecay(0.5, 0.1))),
        ("singlecell", "r2mae+cl", Curriculum(Grid.spaced(0.1, 0.5), ramp=(30_000, 120_000))),
        *[(modality, "mdlm", Uniform(0.0, 1.0)) for modality in ("vision", "text", "dna", "singlecell")],
    ],
)
def test_paper_schemes(modality, name, sampler):
    assert scheme(name, modality=modality) == sampler


def test_names_and_the_hole_in_the_text_table():
    for modality in ("vision", "dna", "singlecell"):
        assert scheme_names(modality)[: len(PAPER_NAMES)] == PAPER_NAMES
    assert "low" not in scheme_names("text")
    with pytest.raises(UserError, match="unknown mask scheme 'low' for text; known: fixed, high, mdlm"):
        scheme("low", modality="text")


def test_overrides_and_schemes_without_a_modality():
    assert scheme("r2mae", modality="dna", high=0.5, seed=7) == Uniform(0.05, 0.5, seed=7)
    assert scheme("r2mae", low=0.2, high=0.4) == Uniform(0.2, 0.4)
    assert scheme("dynamic", modality="vision", stages=150) == LinearDecay(0.9, 0.6, 150)
    assert scheme("cl", modality="dna", freeze_steps=10).freeze_steps == 10
    with pytest.raises(UserError, match=r"mask scheme 'r2mae': .*'low'"):
        scheme("r2mae", high=0.4)
    with pytest.raises(UserError, match="unexpected keyword argument 'hgih'"):
        scheme("r2mae", modality="dna", hgih=0.5)
    with pytest.raises(UserError, match="low must not exceed high"):
        scheme("r2mae", modality="dna", high=0.01)


def test_unknown_scheme_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown mask scheme 'r3mae' for vision; known: fixed, low, high, mdlm"):
        scheme("r3mae", modality="vision")


@pytest.fixture
def _registry(monkeypatch):
    monkeypatch.setattr(schemes_module, "_registry", dict(schemes_module._registry))


@pytest.mark.usefixtures("_registry")
def test_users_register_their_own():
    @register_scheme("two-point", modality="vision")
    def two_point(a=0.3, b=0.8, seed=0):
        return Grid((a, b), seed)

    assert scheme("two-point", modality="vision", b=0.9) == Grid((0.3, 0.9))
    assert "two-point" in scheme_names("vision")
    assert "two-point" not in scheme_names("text")
    with pytest.raises(UserError, match="unknown"):
        scheme("two-point", modality="text")
    with pytest.raises(ValueError, match="exists already for vision"):
        register_scheme("two-point", modality="vision")(two_point)


@pytest.mark.parametrize(
    ("config", "sampler"),
    [
        (0.3, Fixed(0.3)),
        (1, Fixed(1.0)),
        ("0.3", Fixed(0.3)),
        ("r2mae", Uniform(0.6, 0.9, seed=4)),
        ({"scheme": "r2mae", "low": 0.1}, Uniform(0.1, 0.9, seed=4)),
        ({"scheme": "r2mae", "seed": 9}, Uniform(0.6, 0.9, seed=9)),
        ({"class_path": "Uniform", "init_args": {"low": 0.1, "high": 0.2}}, Uniform(0.1, 0.2, seed=4)),
        ({"class_path": "r2mae_core.Fixed", "init_args": {"ratio": 0.2}}, Fixed(0.2)),
        (Uniform(0.1, 0.2, seed=1), Uniform(0.1, 0.2, seed=1)),
    ],
)
def test_what_a_user_can_write(config, sampler):
    assert sampler_from_config(config, "vision", seed=4) == sampler


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (1.2, r"mask_ratio: ratio must be a number in \[0, 1\], got 1.2"),
        ("nope", "unknown mask scheme 'nope' for vision; known: fixed"),
        ({"class_path": "Unifrom"}, "no mask-ratio sampler 'Unifrom'.*built in: .*Uniform"),
        ({"class_path": "Uniform", "init_args": {"lo": 0.1}}, "wrong arguments for Uniform"),
        ([0.1, 0.2], "must be a number, a scheme's name"),
        (None, "must be a number, a scheme's name"),
    ],
)
def test_bad_configs_get_one_message(config, message):
    with pytest.raises(UserError, match=message):
        sampler_from_config(config, "vision")


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        (Fixed(0.5), "Fixed(0.5)"),
        (Uniform(0.6, 0.9, seed=3), "Uniform(0.6, 0.9)"),
        (Uniform(0.05, LinearDecay(0.55, 0.05)), "Uniform(0.05, LinearDecay(0.55, 0.05))"),
        (Curriculum(Grid.spaced(0.1, 0.5)), "Curriculum(Grid(10 values, 0.1, 0.5))"),
    ],
)
def test_short_names_for_tables(sampler, name):
    assert short_name(sampler) == name


@pytest.mark.parametrize("modality", ["vision", "text", "dna", "singlecell"])
def test_tables_call_every_scheme_by_its_name_whatever_its_seed_and_marks(modality):
    for name in PAPER_NAMES:
        if name not in scheme_names(modality):
            continue
        sampler = with_seed(scheme(name, modality), 7)
        if isinstance(sampler, Curriculum):
            sampler = replace(sampler, freeze_steps=3, ramp=(5, 9))
        if isinstance(sampler, LinearDecay):
            sampler = replace(sampler, stages=10)
        fixed = f" {sampler.ratio:g}" if isinstance(sampler, Fixed) else ""
        assert scheme_name(sampler, modality) == name + fixed


def test_other_samplers_are_called_by_their_ratios():
    assert scheme_name(Fixed(0.33), "vision") == "fixed 0.33"
    assert scheme_name(Fixed(0.75)) == "fixed 0.75"
    assert scheme_name(Uniform(0.2, 0.4), "vision") == "Uniform(0.2, 0.4)"
    assert scheme_name(Uniform(0.6, 0.9)) == "Uniform(0.6, 0.9)"
    assert short_name(Curriculum(Fixed(0.2), k0=True)) != short_name(Curriculum(Fixed(0.2)))


def test_with_seed_reaches_the_sampler_that_draws():
    assert with_seed(Fixed(0.3), 5) == Fixed(0.3)
    assert with_seed(Curriculum(Grid.spaced(0.1, 0.5)), 5).ratio.seed == 5
