"""The numbers of appendix C.8 as literals, against what `-c paper` and `reproduce` build at the atlases' sizes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupKFold

import r2mae_singlecell.pretrain as pretraining
from r2mae_core import Curriculum
from r2mae_singlecell import linear_probes, paper
from r2mae_singlecell.data.presets import PRESETS
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.options import Prepare, Reproduce
from r2mae_singlecell.pretrain import SingleCells

CELLS = {"table6": 2_161_082, "table4": 1_378_211}  # C.8: "2161082 and 1378211 cells respectively"
STEPS = {"table6": 243_100, "table4": 155_000}  # 50 epochs of 90 % of them in batches of 400
RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7)  # C.8: "The masking ratios evaluated are [0.1, 0.2, 0.3, 0.5, 0.7]"


@pytest.fixture
def recipe(here, call, monkeypatch):
    """The options of a pretraining: of `pretrain -c paper` (None), or of a cell of `reproduce` at an atlas's size."""

    def options(target, name):
        if target is not None:
            (cell,) = paper.grid(Reproduce(target, here / "p.h5ad", schemes=(name,), baselines=(), seeds=(3,)))
            return paper._pretrain_options(Reproduce(target, here / "p.h5ad", device="cpu"), cell, CELLS[target])
        seen = []
        monkeypatch.setattr(pretraining, "run_pretraining", lambda kind, config, **_: seen.append(config))
        code, _, err = call("pretrain", "p.h5ad", "-c", "paper", "--mask_ratio", name, "--device", "cpu")
        assert code == 0, err
        return seen[0]

    return options


@pytest.fixture
def built(recipe, monkeypatch):
    """The training plan that a recipe builds, in a training of an atlas's length."""

    def build(target, name):
        options = recipe(target, name)
        task = SingleCells(options)
        task.n_samples = round(0.9 * CELLS[target or "table6"])
        return task.build(task.sampler()), task

    return build


@pytest.mark.parametrize("target", [None, "table6", "table4"])
def test_optimizer_batches_epochs_and_split(built, target):
    plan, task = built(target, "r2mae")
    assert (task.config.epochs, task.batch_size) == (50, 400)  # "for 50 epochs … batch size 400"
    assert task.steps == STEPS[target or "table6"]
    optimizer = plan.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert [(g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups] == [(1e-3, 1e-4, (0.9, 0.999))]


def test_split():
    for n in CELLS.values():
        training, validation = pretraining_split(n)  # "90% … and the remaining 10%"
        assert (len(training), len(validation)) == (round(0.9 * n), n - round(0.9 * n))
        assert (np.bincount(np.r_[training, validation], minlength=n) == 1).all()
        assert np.median(validation) == pytest.approx(n / 2, rel=0.01)  # from everywhere in the file


@pytest.mark.parametrize("target", [None, "table6", "table4"])
def test_network_of_five_layers(built, target):
    plan, task = built(target, "r2mae")
    network, n_genes, n_batches = plan.module, task.adata.n_vars, len(task.adata.obs["batch"].unique())
    encoder = [layer for layer in network.encoder.modules() if hasattr(layer, "out_features")]
    decoder = [layer for layer in network.decoder.modules() if hasattr(layer, "out_features")]
    shapes = [tuple(layer.weight.shape) for layer in (*encoder, network.to_latent, *decoder, network.to_genes)]
    hidden, latent = 1024, 512  # ours; the text lost them
    assert shapes == [
        (hidden, n_genes + n_batches), (hidden, hidden), (latent, hidden),  # "Latent encoder (3-layer-MLP …)"
        (hidden, latent + n_batches), (n_genes, hidden),  # "Decoder (2-layer-MLP …)"
    ]  # fmt: skip
    for part, n in ((network.encoder, 2), (network.decoder, 1)):
        kinds = [type(layer) for layer in part.modules()]
        assert kinds.count(torch.nn.ReLU) == kinds.count(torch.nn.BatchNorm1d) == n
    tensors = network._get_inference_input({"X": torch.ones(4, n_genes), "batch": torch.zeros(4, 1)})
    z = network.eval().inference(**tensors)
    px = network.generative(z["z"], z["log_library"], tensors["covariates"])["px"]
    assert type(px).__name__ == "NegativeBinomial"
    assert torch.allclose(px.scale.sum(1), torch.ones(4))  # "softmax activation"
    assert torch.allclose(px.mu.sum(1), torch.full((4,), float(n_genes)), rtol=1e-4)  # "observed library size"


@pytest.mark.parametrize("target", [None, "table6", "table4"])
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("fixed", (0.25, 0.25), (0.25, 0.25)),
        ("low", (0.1, 0.1), (0.1, 0.1)),
        ("high", (0.5, 0.5), (0.5, 0.5)),
        ("mdlm", (0.0, 1.0), (0.0, 1.0)),
        ("dynamic", (0.5, 0.5), (0.1, 0.1)),
        ("r2mae", (0.1, 0.5), (0.1, 0.5)),
        ("r2mae+dynamic", (0.1, 0.5), (0.1, 0.1)),
        ("cl", (0.25, 0.25), (0.25, 0.25)),
        ("r2mae+cl", (0.1, 0.5), (0.1, 0.5)),
    ],
)
def test_ranges_of_the_schemes(recipe, target, name, first, last):
    sampler = SingleCells(recipe(target, name)).sampler()
    n_steps = STEPS[target or "table6"]
    if target == "table6" and "dynamic" in name:
        # 1/300,000 of the range a step: "to enforce linear decay throughout training" it ends at 0.5 - 0.4 · 0.81.
        last = (last[0] if name == "r2mae+dynamic" else 0.175868, 0.175868)
    assert sampler.bounds(0, n_steps) == pytest.approx(first)
    assert sampler.bounds(n_steps - 1, n_steps) == pytest.approx(last, abs=1e-5)
    if target == "table4" and name == "dynamic":  # 1/150,000
        assert sampler.bounds(75_000, n_steps) == pytest.approx((0.3, 0.3))
        assert sampler.bounds(149_000, n_steps)[0] > 0.1026


@pytest.mark.parametrize("target", [None, "table6", "table4"])
@pytest.mark.parametrize(
    ("name", "falls"), [("cl", True), ("cl-k0", False), ("r2mae+cl", True), ("r2mae+cl-k0", False)]
)
def test_curriculum(built, target, name, falls):
    plan, task = built(target, name)
    sampler = plan.mask_ratio
    assert isinstance(sampler, Curriculum)
    at = [sampler.multiplier(step, task.steps) for step in (4999, 5000, 30_000, 75_000, 120_000, 150_000)]
    # "fixed for 5000 training steps"; "a linear decay from 30000 to 120000 training steps"
    assert at == pytest.approx([0, 1, 1, 0, -1, -1] if falls else [0, 1, 1, 1, 1, 1], abs=1e-4)
    values = [0.1 + 0.4 * i / 9 for i in range(10)] if "r2mae" in name else [0.25]
    ratios = {round(sampler.sample(step, task.steps), 9) for step in range(400)}
    assert sorted(ratios) == pytest.approx(values)
    head, n_genes = plan.module.curriculum, task.adata.n_vars
    layers = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [128, 256, 10 * n_genes]  # "hidden dims [128, 256]"
    with torch.no_grad():
        layers[-1].bias[:2] = torch.tensor([-1e4, 0.0])
    positive = head._positive(torch.zeros(1, n_genes)).flatten()
    assert positive[:2].tolist() == pytest.approx([1e-9, 0.5], rel=1e-6)  # "sigmoid activation plus 1e-9"


def test_genes_and_filter():
    assert Prepare(Path("a.h5ad")).n_genes == 5000  # "subsetted to 5000 highly variable genes"
    assert Prepare(Path("a.h5ad")).min_genes is None  # the atlas's:
    assert (PRESETS["hlca"].min_genes, PRESETS["seaad"].min_genes) == (20, 0)  # "fewer than 20 of these HVGs"


@pytest.fixture
def probed(here, monkeypatch):
    """What `reproduce` measures by a probe, and the penalties and folds of its grid searches."""
    seen = {"alphas": [], "Cs": [], "folds": []}
    ridge, logistic, folds = linear_probes._ridge_path, linear_probes._logistic_path, linear_probes.donor_folds

    def embedding(indices):
        return np.random.default_rng(0).normal(size=(10_000, 4))[indices]

    monkeypatch.setattr(
        paper, "_model", lambda *_: type("M", (), {"get_latent_representation": staticmethod(embedding)})()
    )
    monkeypatch.setattr(
        linear_probes, "_ridge_path", lambda X, y, alphas: (seen["alphas"].append(list(alphas)), ridge(X, y, alphas))[1]
    )
    monkeypatch.setattr(
        linear_probes, "_logistic_path", lambda X, y, Cs, *a: (seen["Cs"].append(list(Cs)), logistic(X, y, Cs, *a))[1]
    )
    monkeypatch.setattr(
        linear_probes,
        "donor_folds",
        lambda n, groups, n_folds: (
            seen["folds"].append((groups, folds(n, groups, n_folds))) or folds(n, groups, n_folds)
        ),
    )
    rng = np.random.default_rng(0)
    donor = np.arange(10_000) % 24
    obs = pd.DataFrame({"donor": [f"d{i}" for i in donor], "cell_type": rng.choice(list("abc"), 10_000)})
    obs["disease"], obs["age"] = np.array(["x", "y"])[donor % 2], 20.0 + donor
    obs["is_reference"] = donor == 0

    def run(target):
        import anndata

        adata = anndata.AnnData(obs=obs.set_axis([f"c{i}" for i in range(10_000)]))
        adata.uns["r2mae"] = {"preset": paper.ATLAS[target]}
        config = Reproduce(target, here / "p.h5ad", schemes=("fixed",), baselines=(), n_splits=1, device="cpu")
        (cell, *_) = paper.grid(config)
        return paper._evaluated(config, adata, None, "cpu", cell).records, seen

    return run


def test_probes(probed):
    records, seen = probed("table6")
    # "np.logspace(0,8,20) to minimize regression MSE, np.logspace(-6,2,10) to maximize … balanced accuracy"
    alphas, Cs = max(seen["alphas"], key=len), max(seen["Cs"], key=len)
    assert (len(alphas), alphas[0], alphas[1], alphas[-1]) == (20, 1.0, pytest.approx(10 ** (8 / 19)), 1e8)
    assert Cs == pytest.approx([10 ** (-6 + 8 * i / 9) for i in range(10)])
    for groups, folds in seen[
        "folds"
    ]:  # "the training samples were separated by donors for five-fold cross-validation"
        assert len(folds) == 5
        assert all(not {*groups[a]} & {*groups[b]} for a, b in folds)
        expected = GroupKFold(5).split(groups, groups=groups)
        assert all(
            np.array_equal(a, b)
            for fold, other in zip(folds, expected, strict=True)
            for a, b in zip(fold, other, strict=True)
        )
    measured = {(r.task, r.metric) for r in records}
    assert measured == {
        ("cell_type", "balanced_accuracy"), ("cell_type", "macro_f1"), ("disease", "balanced_accuracy"),
        ("disease", "macro_f1"), ("age", "spearman_cell"), ("age", "spearman_donor"),
    }  # fmt: skip
    # "The only exception is for the ADNC classification … macro AUROC on both cell and donor levels."
    of_seaad = {(r.task, r.metric) for r in probed("table4")[0]}
    assert of_seaad - measured == {("disease", "auroc_cell"), ("disease", "auroc_donor")}


@pytest.mark.parametrize("target", ["table7", "table8"])
def test_reconstruction_of_all_validation_cells(here, monkeypatch, target):
    from r2mae_singlecell.data.prepared import read_prepared

    seen = {}

    def pearson(predict, counts, cells, **given):
        seen.update(cells=cells, **given)
        return original(predict, counts, cells, **given)

    original = paper.reconstruction_pearson
    monkeypatch.setattr(paper, "reconstruction_pearson", pearson)
    predict = lambda cells, hidden: np.full((len(cells), 30), 1 / 30) + np.arange(30)  # noqa: E731
    monkeypatch.setattr(paper, "_model", lambda *_: type("M", (), {"predict_proportions": staticmethod(predict)})())
    config = Reproduce(target, here / "p.h5ad", schemes=("fixed",), baselines=(), device="cpu")
    records = paper._evaluated(config, read_prepared(here / "p.h5ad"), None, "cpu", paper.grid(config)[0]).records
    assert [r.metric for r in records] == [f"pearson@{ratio:g}" for ratio in RATIOS]
    assert np.array_equal(seen["cells"], pretraining_split(120)[1])


def test_grid_of_the_tables():
    config = Reproduce("table6", Path("p.h5ad"))
    assert [cell.name for cell in paper.grid(config) if cell.seed == 0] == [
        "log-norm", "scvi", "fixed", "low", "high", "mdlm", "dynamic", "cl", "cl-k0", "r2mae", "r2mae+dynamic",
        "r2mae+cl", "r2mae+cl-k0",
    ]  # fmt: skip
    (line,) = paper.missing_rows(config)
    assert all(name in line for name in ("scGPT (Lung)", "scGPT (All)", "scGPT (CP)", "UCE (4L)", "UCE (33L)"))
    assert "obsm:X_scgpt_lung" in line


def test_short_trainings_scale_what_is_stated_in_steps():
    config = Reproduce("table6", Path("p.h5ad"), epochs=5)
    (cell,) = (c for c in paper.grid(config) if c.name == "dynamic" and c.seed == 0)
    made = paper._pretrain_options(config, cell, 100_000)
    assert made.scale_curriculum
    assert made.mask_ratio == cell.sampler
    assert all("scaled to" in line or "fall over all of" in line for line in paper.readings(config, 100_000))
    stated = Reproduce("table6", Path("p.h5ad"), epochs=5, scale_dynamic=False, scale_curriculum=False)
    made = paper._pretrain_options(stated, cell, 100_000)
    assert not made.scale_curriculum
    assert made.mask_ratio.bounds(1125, 1125)[0] == pytest.approx(0.5 - 0.4 * 1125 / 300_000)


PRINTED = {
    "table4": """
        log-norm 0.798 0.738 0.571 0.611 0.129 0.511
        obsm:X_scgpt 0.784 0.693 0.549 0.556 0.065 0.272
        scvi 0.826 0.740 0.631 0.731 0.201 0.502
        fixed 0.841 0.737 0.667 0.699 0.483 0.575
        low 0.837 0.726 0.543 0.536 0.449 0.399
        high 0.839 0.738 0.574 0.591 0.516 0.536
        mdlm 0.831 0.719 0.667 0.686 0.543 0.622
        dynamic 0.838 0.735 0.662 0.694 0.444 0.446
        cl 0.838 0.729 0.687 0.722 0.462 0.484
        r2mae 0.840 0.737 0.687 0.716 0.572 0.628
        r2mae+dynamic 0.834 0.735 0.642 0.682 0.551 0.545
        r2mae+cl 0.836 0.730 0.684 0.719 0.570 0.559
        r2mae+cl-k0 0.837 0.734 0.676 0.707 0.511 0.506
    """,
    "table6": """
        log-norm 0.834 0.774 0.675 0.489 0.470 0.574
        obsm:X_scgpt_lung 0.813 0.717 0.624 0.401 0.429 0.523
        obsm:X_scgpt_all 0.834 0.711 0.629 0.403 0.438 0.500
        obsm:X_scgpt_cp 0.816 0.696 0.613 0.389 0.431 0.521
        obsm:X_uce_4l 0.808 0.702 0.631 0.417 0.436 0.518
        obsm:X_uce_33l 0.800 0.699 0.619 0.419 0.447 0.540
        scvi 0.897 0.804 0.767 0.626 0.556 0.618
        fixed 0.908 0.830 0.834 0.604 0.586 0.623
        low 0.915 0.802 0.851 0.635 0.582 0.609
        high 0.909 0.833 0.837 0.604 0.587 0.601
        mdlm 0.903 0.806 0.829 0.560 0.577 0.622
        dynamic 0.919 0.829 0.850 0.651 0.571 0.597
        cl 0.907 0.825 0.843 0.635 0.589 0.648
        cl-k0 0.801 0.667 0.773 0.493 0.530 0.563
        r2mae 0.915 0.812 0.853 0.651 0.595 0.641
        r2mae+dynamic 0.914 0.842 0.835 0.597 0.616 0.658
        r2mae+cl 0.911 0.817 0.837 0.618 0.572 0.619
        r2mae+cl-k0 0.911 0.805 0.840 0.630 0.590 0.646
    """,
    "table7": """
        scvi 0.834 0.834 0.829 0.815 0.781
        fixed 0.843 0.847 0.846 0.840 0.819
        low 0.842 0.844 0.841 0.832 0.797
        high 0.841 0.845 0.843 0.842 0.830
        mdlm 0.840 0.844 0.842 0.840 0.827
        dynamic 0.842 0.845 0.842 0.834 0.800
        cl 0.841 0.844 0.845 0.838 0.817
        r2mae 0.846 0.847 0.845 0.842 0.826
        r2mae+dynamic 0.844 0.847 0.846 0.841 0.824
        r2mae+cl 0.836 0.839 0.839 0.836 0.825
        r2mae+cl-k0 0.844 0.846 0.845 0.840 0.823
    """,
    "table8": """
        scvi 0.712 0.744 0.746 0.733 0.698
        fixed 0.743 0.774 0.780 0.777 0.747
        low 0.733 0.770 0.777 0.769 0.733
        high 0.744 0.770 0.779 0.781 0.760
        mdlm 0.729 0.760 0.766 0.764 0.739
        dynamic 0.742 0.772 0.777 0.772 0.737
        cl 0.736 0.768 0.776 0.776 0.756
        cl-k0 0.174 0.131 0.109 0.090 0.086
        r2mae 0.746 0.773 0.782 0.778 0.752
        r2mae+dynamic 0.743 0.774 0.781 0.779 0.753
        r2mae+cl 0.731 0.763 0.772 0.770 0.746
        r2mae+cl-k0 0.733 0.767 0.777 0.770 0.742
    """,
}


@pytest.mark.parametrize("target", PRINTED)
def test_what_the_tables_print(target):
    from r2mae_singlecell.published import PUBLISHED

    rows = [line.split() for line in PRINTED[target].strip().splitlines()]
    assert {name: tuple(map(float, values)) for name, *values in rows} == PUBLISHED[target]
