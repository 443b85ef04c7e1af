"""The window belongs to the model: it is trained on one length, and sees the same wherever it is used."""

import json
import re

import numpy as np
import pytest

from dna_files import vcf
from r2mae_core import UserError
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.windows import prepare
from r2mae_dna.options import Prepare, Pretrain, Probe
from r2mae_dna.pretrain import pretrain
from r2mae_dna.probe import probe
from r2mae_dna.scorers import open_scorer
from r2mae_dna.weights import load_model


@pytest.fixture
def trained(toy, tmp_path):
    """A run on windows of 40 bases."""
    prepare(Prepare(toy[0], out=tmp_path / "w40", window=40, step=20, validation_regions="7:202-300"))
    tiny = {"n_hidden": 32, "n_layers": 1, "steps": 1, "batch_size": 2, "max_windows": 2, "progress": False}
    return pretrain(Pretrain(tmp_path / "w40", out=tmp_path / "run", device="cpu", **tiny)).path


def test_a_model_sees_what_it_was_trained_on(trained, toy, tmp_path, call):
    assert json.loads((trained / "model" / "config.json").read_text())["window"] == 40
    assert load_model(trained).window == 40
    store = AlignmentStore(toy[0])
    options = {"number_format": "auto", "compile": False, "batch_size": 4}
    assert open_scorer(str(trained), store, "cpu", window=None, **options).window == 40
    variants = vcf(tmp_path / "v.vcf", toy[1], range(30, 40))
    for given, shown in (((), "40"), (("--window", 60), "60")):
        code, out, _ = call(
            "score", trained, toy[0], variants, "--out", tmp_path / "o.vcf", "--overwrite", "true", *given
        )
        assert code == 0
        assert re.search(f'Window="?{shown}"?', (tmp_path / "o.vcf").read_text())
        assert ("was trained on windows of 40 bases, and sees 60 here" in out) == bool(given)


def test_a_model_is_not_probed_on_windows_of_another_length(trained, toy, tmp_path):
    prepare(Prepare(toy[0], out=tmp_path / "w50", window=50, step=10, validation_regions="7:202-300"))
    with pytest.raises(UserError, match=r"was trained on windows of 40 bases, and those of .*w50 have 50; cut windows"):
        probe(Probe(trained, tmp_path / "w50", device="cpu"))


def test_windows_longer_than_any_model_sees_are_refused_before_they_are_cut(toy, tmp_path, call):
    code, _, err = call("prepare", toy[0], "--window", 2000, "--out", tmp_path / "w")
    assert code == 1
    assert "window" in err
    assert "1536" in err.replace(",", "")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("options", "held_out"),
    [
        ({"validation_regions": "7:1-100 7:51-150"}, {"validation": (0, 150)}),
        ({"only": "7:1-120 7:61-200", "test_regions": "7:80-150"}, {"test": (79, 150)}),
    ],
)
def test_regions_of_one_split_may_overlap_and_count_once(toy, tmp_path, options, held_out):
    from r2mae_dna.data.windows import WindowSet, read_info

    prepare(Prepare(toy[0], out=tmp_path / "w", window=10, step=10, **options))
    info = read_info(tmp_path / "w")
    total = 20 + 9  # windows of ten in [0, 200) and [201, 300)
    assert sum(info.counts.values()) + sum(info.left_out.values()) == total
    for split, (start, end) in held_out.items():
        starts = WindowSet(tmp_path / "w", split).starts
        assert len(np.unique(starts)) == len(starts)
        assert starts.min() >= start
        assert starts.max() + 10 <= end


@pytest.mark.parametrize(
    ("validation", "test"),
    [("7", "chr7:5-20"), ("7:1-100 7:150-200", "7:120-150"), ("7:10", "7:1-300"), ("chr7", "7")],
)
def test_splits_that_share_a_base_are_refused(toy, tmp_path, validation, test):
    with pytest.raises(UserError, match="overlap; no base may be in both"):
        prepare(Prepare(toy[0], out=tmp_path / "w", window=10, validation_regions=validation, test_regions=test))
