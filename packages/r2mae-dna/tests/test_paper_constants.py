"""The numbers of appendix C.7 as literals, against what `-c paper` and `reproduce table3` build."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.metrics import roc_auc_score

import r2mae_core.train.pretraining as core_pretraining
from r2mae_core import Curriculum, UserError
from r2mae_dna.data.codes import MASK, SOFT_MASK
from r2mae_dna.masking import mask_windows, position_weights
from r2mae_dna.options import Evaluate, Prepare, Reproduce

STEPS = 30_000  # C.7: "Models were trained for 30000 steps"


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """Enough windows of 128 bases for a batch of 2048, and some for validation."""
    from r2mae_dna.data.build import build_alignment
    from r2mae_dna.data.samples import VERTEBRATES, sample_path
    from r2mae_dna.data.windows import prepare

    home = tmp_path_factory.mktemp("paper")
    build_alignment([sample_path(VERTEBRATES)], home / "s", reference="mm9", species=["rn4", "hg18"])
    return prepare(Prepare(home / "s", out=home / "w", validation_regions="chr10:3,235,001-3,237,798"))


@pytest.fixture
def built(windows, call, monkeypatch):
    """Call `pretrain -c paper` up to the first step; returns the module, its loader, and the trainer's settings."""
    seen = {}

    def stop(module, loader, run, **settings):
        seen.update(settings, module=module, loader=loader)
        raise UserError("stopped before the first step")

    monkeypatch.setattr(core_pretraining, "fit", stop)

    def build(*words):
        code, _, err = call("pretrain", windows, "-c", "paper", "--device", "cpu", "--no-progress", *words)
        assert (code, "stopped before" in err) == (1, True), err
        return seen

    return build


def test_network_optimizer_schedule_and_trainer(built):
    found = built()
    module, network = found["module"], found["module"].model
    assert len(network.layers) == 12  # C.7: "a 12-layer transformer model with 12 attention heads"
    assert {layer.heads for layer in network.layers} == {12}
    assert network.layers[0].qkv.in_features == 768  # RoFormer's defaults, which GPN-MSA takes
    assert network.layers[0].up.out_features == 3072
    assert {layer.dropout for layer in network.layers} == {0.1}
    assert {layer.output_norm.eps for layer in network.layers} == {1e-12}
    assert network.n_parameters == 85_651_206
    assert network.layers[5].up.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert found["max_steps"] == STEPS
    micro = len(found["loader"].batch_at(0)[0])
    assert micro * found["accumulate_grad_batches"] == 2048  # C.7: "effective batch size 2048"
    assert found["gradient_clip_val"] == 1.0  # the Trainer's default that GPN-MSA leaves
    module.total_steps = lambda: STEPS
    parts = module.configure_optimizers()
    groups = parts["optimizer"].param_groups
    assert type(parts["optimizer"]) is torch.optim.AdamW  # C.7
    assert [(group["weight_decay"], group["betas"], group["eps"]) for group in groups] == [
        (0.01, (0.9, 0.999), 1e-8), (0.0, (0.9, 0.999), 1e-8)
    ]  # fmt: skip
    rate = parts["lr_scheduler"]["scheduler"].lr_lambdas[0]
    at = {step: 1e-4 * rate(step) for step in (0, 499, 999, 15_500, STEPS)}  # C.7: "learning rate 1e-4"
    assert groups[0]["initial_lr"] == 1e-4
    # GPN-MSA: a warm-up of 1,000 steps, then a cosine to 0.
    assert at == pytest.approx({0: 1e-7, 499: 5e-5, 999: 1e-4, 15_500: 5e-5, STEPS: 0.0}, rel=2e-3, abs=1e-12)


def test_early_stopping_on_the_validation_loss(built):
    found = built()
    stops = [callback for callback in found["callbacks"] if isinstance(callback, EarlyStopping)]
    assert [(stop.monitor, stop.patience) for stop in stops] == [("val_loss/ratio_0.15", 1)]  # C.7; 1 is our choice
    assert found["validate_every"] == 5000  # GPN-MSA's eval_steps


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("fixed", (0.15, 0.15), (0.15, 0.15)),
        ("low", (0.05, 0.05), (0.05, 0.05)),
        ("high", (0.30, 0.30), (0.30, 0.30)),
        ("mdlm", (0.0, 1.0), (0.0, 1.0)),
        ("dynamic", (0.30, 0.30), (0.05, 0.05)),
        ("r2mae", (0.05, 0.30), (0.05, 0.30)),
        ("r2mae+dynamic", (0.05, 0.55), (0.05, 0.05)),
        ("cl", (0.15, 0.15), (0.15, 0.15)),
        ("r2mae+cl", (0.05, 0.30), (0.05, 0.30)),
        ("r2mae+cl-k0", (0.05, 0.30), (0.05, 0.30)),
    ],
)
def test_ranges_of_the_schemes(built, name, first, last):
    sampler = built("--mask_ratio", name, "--model", "tiny")["module"].mask_ratio
    assert sampler.bounds(0, STEPS) == pytest.approx(first)
    assert sampler.bounds(STEPS - 1, STEPS) == pytest.approx(last)


@pytest.mark.parametrize(("name", "thaw", "middle", "end"), [("r2mae+cl", 1, 0, -1), ("r2mae+cl-k0", 1, 1, 1)])
def test_curriculum(built, name, thaw, middle, end):
    module = built("--mask_ratio", name, "--model", "tiny")["module"]
    sampler = module.mask_ratio
    assert isinstance(sampler, Curriculum)
    assert sampler.ratio.values == pytest.approx([0.05 + 0.25 * i / 9 for i in range(10)])  # "with length 10"
    # "after being fixed for 5000 initial training steps"; the multiplier falls "throughout its training".
    at = [sampler.multiplier(step, STEPS) for step in (4999, 5000, 17_500, STEPS - 1)]
    assert at == pytest.approx([0, thaw, middle, end], abs=1e-3)
    layers = [layer for layer in module.curriculum.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == [128, 128, 10]  # "hidden space [128,128]"
    with torch.no_grad():
        layers[-1].bias[:3] = torch.tensor([-100.0, 0.0, 100.0])  # its weights start at 0
    positive = module.curriculum._positive(torch.zeros(1, 256))
    assert positive[0, :3].tolist() == pytest.approx([0.5, 1.0, 1.5])  # "sigmoid activation plus 0.5"


def test_masks_weights_and_label_flip(built):
    masking = built("--model", "tiny")["module"].masking
    n, generator = 400, torch.Generator().manual_seed(0)
    codes = torch.randint(1, 5, (n, 128, 3), dtype=torch.uint8, generator=generator)
    tracks = torch.zeros(n, 2, 128)
    tracks[:, 0, 64:] = 0.0999  # below 0.1 everywhere
    batch = {"codes": codes, "reverse": torch.zeros(n, dtype=torch.bool), "conservation": tracks}
    masked = mask_windows(batch, 0.15, generator, masking)
    assert masked.positions.shape == (n, 19)
    shown, own = masked.codes[..., 0].gather(1, masked.positions), codes[..., 0].gather(1, masked.positions)
    share = (shown == MASK).float().mean().item()
    other = ((shown != MASK) & (shown != own)).float().mean().item()
    assert share == pytest.approx(0.8, abs=0.02)  # BERT's 80/10/10, GPN-MSA's default
    assert other == pytest.approx(0.075, abs=0.015)  # three quarters of 0.1
    assert (masked.labels == own).float().mean().item() == pytest.approx(0.625, abs=0.025)  # flip 0.5, a quarter right
    tracks[:, 0] = 0.1001
    assert torch.equal(mask_windows(batch, 0.15, generator, masking).labels.gt(0), masked.labels.gt(0))
    conserved = mask_windows(batch, 1.0, generator, masking)
    assert torch.equal(conserved.labels, codes[..., 0].long())  # nothing flips from 0.1 on
    one = torch.ones(1, 3, 2, dtype=torch.uint8)
    one[0, 1, 0] |= SOFT_MASK
    values = torch.tensor([[[0.5, 0.5, 0.5], [3.0, 3.0, -2.0]]])
    # 0.1 for lower case · max(phyloP, 1) · (0.1 + phastCons)
    assert position_weights(one, values, masking)[0][0].tolist() == pytest.approx([1.8, 0.18, 0.6])


def test_windows_and_their_filter():
    made = Prepare(Path("store"))
    assert (made.window, made.step) == (128, 64)  # C.7: "a 128-base pair (bp) window"; GPN-MSA's step
    assert (made.top, made.rest, made.quantile) == (0.05, 0.001, 0.75)  # GPN-MSA: 5 %, 0.1 %, 75th percentile


def test_reproduce_trains_the_same_recipe(windows, call, monkeypatch, tmp_path):
    import polars as pl

    import r2mae_dna.paper as paper

    seen = []

    def stop(options):
        seen.append(options)
        raise UserError("stopped")

    monkeypatch.setattr(paper, "pretrain", stop)
    pl.DataFrame({"chrom": ["chr10"], "pos": [1], "ref": ["A"], "alt": ["C"], "label": [True]}).write_parquet(
        "c.parquet"
    )
    words = ["--data", windows, "--msa", windows.parent / "s", "--clinvar", "c.parquet", "--device", "cpu"]
    code, _, err = call("reproduce", "table3", *words, "--out", tmp_path / "run")
    assert (code, "stopped" in err) == (1, True), err
    options = seen[0]
    assert (options.model, options.steps, options.batch_size, options.lr) == ("base", 30_000, 2048, 1e-4)
    assert (options.warmup, options.weight_decay, options.dropout) == (pytest.approx(1 / 30), 0.01, 0.1)
    assert (options.validate_every, options.patience, options.keep) == (5000, 1, "best")
    assert (options.n_hidden, options.n_layers, options.n_heads, options.falls_from) == (None,) * 4
    table = Reproduce("table3")
    assert len(table.schemes) == 10
    assert table.seeds == (0, 1, 2)


def test_partial_auroc_is_up_to_a_false_positive_rate_of_one_in_a_thousand(tmp_path):
    import polars as pl

    from r2mae_dna.evaluate import evaluate_table

    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.1
    damage = rng.normal(size=20_000) + 2 * labels
    pl.DataFrame({"label": labels, "score": -damage}).write_parquet(tmp_path / "t.parquet")
    records = evaluate_table(Evaluate(tmp_path / "t.parquet", preset="omim", bootstrap=0))[0]
    found = {record.metric: record.value for record in records}
    assert found["partial_auroc"] == pytest.approx(roc_auc_score(labels, damage, max_fpr=0.001))  # C.7


def test_what_table_3_prints():
    from r2mae_dna.paper import PUBLISHED, TABLE3

    printed = """
    NT 0.601 0.652 0.500 0.001 0.010 0.001 0.000
    phastCons-100v 0.883 0.848 0.514 0.006 0.081 0.005 0.005
    phyloP-241m 0.912 0.913 0.590 0.028 0.175 0.015 0.028
    phyloP-100v 0.927 0.937 0.574 0.038 0.251 0.029 0.039
    CADD 0.966 0.967 0.595 0.048 0.279 0.010 0.090
    GPN-MSA_(MLM) 0.970 0.974 0.644 0.127 0.331 0.044 0.102
    –_MR_5% 0.967 0.970 0.647 0.134 0.330 0.048 0.171
    –_MR_30% 0.970 0.974 0.645 0.131 0.335 0.047 0.081
    MDLM 0.970 0.974 0.647 0.131 0.341 0.048 0.110
    Dynamic_MR 0.970 0.973 0.645 0.132 0.332 0.054 0.082
    CL-MAE 0.968 0.972 0.644 0.117 0.328 0.056 0.128
    R2MAE_(Ours) 0.969 0.973 0.649 0.148 0.339 0.050 0.136
    +_Dynamic_MR 0.970 0.974 0.649 0.138 0.324 0.045 0.106
    +_CL 0.967 0.971 0.643 0.139 0.330 0.058 0.192
    +_CL_() 0.965 0.969 0.649 0.140 0.325 0.051 0.208
    """
    names = ["NT", "phastCons-100v", "phyloP-241m", "phyloP-100v", "CADD", "fixed", "low", "high", "mdlm", "dynamic",
             "cl", "r2mae", "r2mae+dynamic", "r2mae+cl", "r2mae+cl-k0"]  # fmt: skip
    rows = [tuple(map(float, line.split()[1:])) for line in printed.strip().splitlines()]
    assert dict(zip(names, rows, strict=True)) == PUBLISHED | TABLE3
