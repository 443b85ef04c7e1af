"""The demo's evaluation: the changes of a species that models do not see, and its floors."""

import math

import numpy as np
import polars as pl
import pytest
from Bio import AlignIO

from r2mae_dna.bundled import RAT_TASK, Bundled
from r2mae_dna.data.samples import MOUSE_TEST, RAT, SHOWN, VERTEBRATES, sample_path
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.demo import LOGO, LOGO_TITLE, TRANSITIONS, _floor
from r2mae_dna.probe import fit_plurality, probe_model, probe_plurality


@pytest.fixture(scope="module")
def mouse(tmp_path_factory):
    return Bundled.mouse(tmp_path_factory.mktemp("mouse"), 128, "cpu")


@pytest.fixture(scope="module")
def letters():
    """Position, from 1 → (mouse, rat, letters of the shown species), upper-case, as Biopython reads the alignment."""
    import gzip

    found = {}
    with gzip.open(sample_path(VERTEBRATES), "rt") as file:
        for block in AlignIO.parse(file, "maf"):
            rows = {}
            for row in block:
                rows.setdefault(row.id.partition(".")[0], row)
            if "mm9" not in rows:
                continue
            assert rows["mm9"].annotations["strand"] == 1
            place = rows["mm9"].annotations["start"]
            for column in range(block.get_alignment_length()):
                base = {name: row.seq[column].upper() for name, row in rows.items()}
                if base["mm9"] == "-":
                    continue
                place += 1
                if MOUSE_TEST[0] < place <= MOUSE_TEST[1]:
                    found[place] = (base["mm9"], base.get(RAT, "-"), [base.get(name, "-") for name in SHOWN])
    return found


def test_the_changes_are_those_of_the_rat_which_no_model_sees(mouse, letters):
    assert AlignmentStore(mouse.store).species == ("mm9", *SHOWN)
    expected = set()
    for place, (own, rat, _) in letters.items():
        if own in "ACGT" and rat in "ACGT" and own != rat:
            expected |= {(place, own, other, int(other != rat), place) for other in set("ACGT") - {own}}
    table = pl.read_csv(mouse.variants, separator="\t")
    assert set(table.drop("chrom").rows()) == expected
    assert len(table) == len(expected) == 9042
    train = WindowSet(mouse.data)
    assert train.starts.max() + 128 <= MOUSE_TEST[0]


def test_the_floors_are_counted_by_hand(mouse, letters, tmp_path):
    found = {(r.scheme, r.metric): r for r in _floor(mouse, tmp_path)}
    assert all(record.task == RAT_TASK for record in found.values())
    scored = pl.read_csv(tmp_path / "scored.tsv", separator="\t")
    sites = sorted(set(scored.filter(pl.col("r2mae_status") == "scored")["pos"].to_list()))
    assert len(sites) > 3000
    shares = {"frequencies": [], TRANSITIONS: []}
    for place in sites:
        own, rat, others = letters[place]
        for row, first in (("frequencies", 0), (TRANSITIONS, 0.5)):
            score = {
                letter: others.count(letter) + first * (own + letter in ("AG", "GA", "CT", "TC"))
                for letter in set("ACGT") - {own}
            }
            wins = [(score[rat] > s) + 0.5 * (score[rat] == s) for letter, s in score.items() if letter != rat]
            shares[row].append(np.mean(wins))
    for row, values in shares.items():
        assert found[row, "pairwise_accuracy"].value == pytest.approx(np.mean(values))
        assert found[row, "pairwise_accuracy"].n == 3 * len(sites)


def test_the_pluralitys_own_probe_is_that_of_a_models(mouse):
    from r2mae_dna.model import AlignmentModel, ModelConfig

    train, test = WindowSet(mouse.data), WindowSet(mouse.data, "test")
    sizes = {"ratios": (0.15, 0.5), "max_windows": 40, "batch_size": 16}
    model = AlignmentModel(ModelConfig(len(SHOWN), 64, 1, 2, 64, 0.0), seed=0)
    both = probe_model(model, train, test, device="cpu", **sizes)
    own = probe_plurality(train, test, **sizes)
    assert own == {key: both[f"plurality_{key}"] for key in own}
    smoothing, background = fit_plurality(WindowSet(mouse.data).batch(np.arange(10))["codes"] & 7)
    assert smoothing > 0
    assert math.isclose(background.sum().item(), 1, rel_tol=1e-6)


def test_the_figures_title_says_what_the_alignment_has(letters):
    _, first, _, mark = LOGO
    own, rat, others = letters[first + mark]
    assert LOGO_TITLE.startswith(f"{first + mark:,}: {own} in the mouse, {rat} in the rat,")
    assert [letter for letter in others if letter in "ACGT"] == [rat] * 9
    assert "in the nine others" in LOGO_TITLE
