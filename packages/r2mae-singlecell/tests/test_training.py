import subprocess
import sys
from pathlib import Path

import anndata
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from r2mae_core import Curriculum, Fixed, Uniform, UserError, load_tensors, read_metrics, read_records
from r2mae_singlecell import R2MAE, Simulation, prepare_atlas, simulate_atlas
from r2mae_singlecell.data.splitter import CountSplitter
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.plan import MaskedPlan
from r2mae_singlecell.pretrain import pretrain


class StopAfter(pl.Callback):
    """Break off as a killed process would: no exit code of the training is run."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


def test_resumed_equals_uninterrupted(make_adata, train, same_weights, tmp_path, capfd):
    arguments = {"max_epochs": 5, "init": {"dropout_rate": 0.2, "mask_ratio": "mdlm"}, "check_val_every_n_epoch": 2}
    whole = train(make_adata(), **arguments, resume=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train(make_adata(), **arguments, resume=tmp_path / "run", callbacks=[StopAfter(3)])
    resumed = train(make_adata(), **arguments, resume=tmp_path / "run")
    assert same_weights(whole, resumed)
    series = [read_metrics(tmp_path / name / "metrics.csv")["train_loss"] for name in ("whole", "run")]
    assert series[0] == series[1]


def test_damaged_checkpoint_is_named(make_adata, train, tmp_path):
    train(make_adata(), max_epochs=1, resume=tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(UserError, match=r"last.ckpt is damaged.*remove it to start again"):
        train(make_adata(), max_epochs=2, resume=tmp_path / "run")


def test_foreign_pickle_is_not_loaded(make_adata, train, tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": Path("x")}, last)
    with pytest.raises(UserError, match="holds more than tensors, numbers and strings"):
        train(make_adata(), max_epochs=2, resume=tmp_path / "run")


def test_same_seed_same_weights_other_seed_others(make_adata, train, same_weights):
    one, again, other = (train(make_adata(), max_epochs=2, seed=seed) for seed in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one, other)


def test_frozen_curriculum_is_plain_r2mae_bit_for_bit(make_adata, train):
    """Before the head is trained, CL is plain training with the same ratios."""
    grid = Curriculum(Fixed(0.3), k0=True, freeze_steps=10_000)
    plain = train(make_adata(), max_epochs=4, init={"mask_ratio": Fixed(0.3)}).module.state_dict()
    frozen = train(make_adata(), max_epochs=4, init={"mask_ratio": grid}).module.state_dict()
    assert all(torch.equal(frozen[key], value) for key, value in plain.items())
    last = frozen["curriculum.head.4.weight"]
    assert last.eq(0).all()  # and the head has not moved at all


def test_curriculum_learns_an_easy_or_a_hard_mask(make_adata, train):
    spread = {}
    for name, k0 in (("easy", True), ("hard", False)):
        sampler = Curriculum(Fixed(0.5), k0=k0, freeze_steps=0, ramp=(0, 1))
        model = train(make_adata(), max_epochs=40, init={"mask_ratio": sampler}, plan_kwargs={"lr": 3e-3})
        tensors = next(model.batches(None, None, 120))
        columns = torch.arange(0, 40, 2)
        with torch.no_grad():
            nll = model.module.hidden_nll(tensors, columns)
            weights = model.module.curriculum(tensors["X"].log1p(), 0)
        assert weights.mean(1).allclose(torch.ones(120), rtol=1e-5)
        spread[name] = float(np.corrcoef(weights[:, columns].flatten(), nll.flatten())[0, 1])
    assert spread["easy"] < -0.2
    assert spread["hard"] > 0.2


def test_curriculum_keeps_the_mean_out_of_the_denominator(adata):
    R2MAE.setup_anndata(adata, batch_key="batch")
    model = R2MAE(adata, n_hidden=8, n_latent=4, mask_ratio="cl-k0")
    torch.nn.init.normal_(model.module.curriculum.head[-1].weight, std=2.0)
    plan = MaskedPlan(model.module, mask_ratio=model.mask_ratio)
    plan.is_log_step = lambda: False
    tensors = next(model.batches(None, None, 120))
    from r2mae_core import MaskDraw

    model.module.train()
    loss = plan.masked_loss(tensors, MaskDraw(0.25, torch.Generator().manual_seed(0), 3, 1.0))
    columns = (torch.rand(40, generator=torch.Generator().manual_seed(0))).topk(10).indices.sort().values
    nll = model.module.hidden_nll(tensors, columns)
    weights = model.module.curriculum.matrix(tensors["X"].log1p())[..., 3][:, columns]
    assert loss.item() == pytest.approx((weights * nll).sum().item() / nll.numel(), rel=1e-4)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_ratios_at_the_ends(make_adata, train, ratio):
    model = train(make_adata(), init={"mask_ratio": Fixed(ratio)})
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()


def test_one_cell_too_many_for_the_last_batch(make_adata, train):
    model = train(make_adata(65), batch_size=32, train_size=1.0)  # 32 + 32 + 1
    assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()
    assert len(train(make_adata(20), batch_size=400).history["train_loss"]) == 3  # fewer cells than a batch


def test_too_few_cells(make_adata, train):
    with pytest.raises(UserError, match="1 training cells are too few"):
        train(
            make_adata(10),
            datasplitter_kwargs={"external_indexing": [np.array([0]), np.arange(1, 10), np.array([], dtype=int)]},
        )


def test_lowered_loss_of_numbers_only(make_adata, train):
    with pytest.raises(
        UserError, match=r"the loss is NaN or infinite from step 1 \(mask ratio .*\) on; lower the learning rate"
    ):
        train(make_adata(), plan_kwargs={"lr": float("inf")})


def test_validation_masks_are_the_same_for_every_seed_and_scheme(make_adata, train):
    seen = []
    for seed, scheme in ((0, "r2mae"), (5, "mdlm")):
        model = train(make_adata(), seed=seed, max_epochs=0, init={"mask_ratio": scheme})
        plan = MaskedPlan(model.module, mask_ratio=model.mask_ratio, seed=seed)
        seen.append([plan.generator_for(0, "validation", i).initial_seed() for i in range(3)])
    assert seen[0] == seen[1]


def test_early_stopping_watches_the_validation_loss(make_adata, train):
    model = train(
        make_adata(), max_epochs=400, early_stopping=True, early_stopping_patience=3, plan_kwargs={"lr": 0.02}
    )
    assert len(model.history["validation_loss"]) < 400


def test_donors_can_be_held_out(make_adata, train):
    a, b = np.arange(0, 60), np.arange(60, 120)
    model = train(make_adata(), datasplitter_kwargs={"external_indexing": [a, b, np.array([], dtype=int)]})
    assert np.array_equal(model.train_indices, a)
    assert np.array_equal(model.validation_indices, b)


def test_an_epoch_sees_every_training_cell_once_in_a_new_order(adata):
    R2MAE.setup_anndata(adata, batch_key="batch")
    manager = R2MAE(adata, n_hidden=8, n_latent=4).adata_manager
    splitter = CountSplitter(manager, batch_size=27, seed=1, train_size=0.9)  # 108 = 4 × 27
    epochs = [[batch[REGISTRY_KEYS.X_KEY].dense(40) for batch in splitter.train_dataloader()] for _ in range(2)]
    expected = sorted(map(tuple, adata.X[splitter.train_idx].toarray().tolist()))
    for epoch in epochs:
        assert sorted(map(tuple, torch.cat(epoch).tolist())) == expected
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    validation = torch.cat([batch[REGISTRY_KEYS.X_KEY].dense(40) for batch in splitter.val_dataloader()])
    assert np.array_equal(validation.numpy(), adata.X[splitter.val_idx].toarray())


def test_bfloat16(make_adata, train):
    model = train(make_adata(), max_epochs=30, precision="bf16-mixed")
    history = model.history["train_loss"].to_numpy(float).ravel()
    assert history[-5:].mean() < history[:5].mean()
    assert model.module.to_genes.weight.dtype == torch.float32


def test_recalibrated_batch_norm_holds_the_training_cells_moments(make_adata, train):
    model = train(make_adata(), max_epochs=20, init={"mask_ratio": Fixed(0.8)}, train_size=1.0)
    before = model.get_latent_representation()
    model.recalibrate_batch_norm(batch_size=120)
    norm = model.module.encoder.fc_layers[0][1]
    x = np.concatenate([np.log1p(model.adata.X.toarray()), np.eye(2)[(model.adata.obs["batch"] == "y").astype(int)]], 1)
    linear = model.module.encoder.fc_layers[0][0]
    h = x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    assert np.allclose(norm.running_mean, h.mean(0), atol=1e-4)
    assert norm.momentum == pytest.approx(0.01)
    assert not np.allclose(before, model.get_latent_representation())


def test_two_processes_share_the_ratio_and_hide_other_genes(tmp_path):
    simulate_atlas(Simulation(n_donors=10, n_cells=100, n_genes=40)).write_h5ad(tmp_path / "a.h5ad")
    prepare_atlas(tmp_path / "a.h5ad", tmp_path / "p.h5ad", n_genes=30, progress=False)
    script = Path(__file__).with_name("two_ranks.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(script), str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert len(ranks[0]["trace"]) == 6
    for (ratio0, columns0, cells0), (ratio1, columns1, cells1) in zip(*(r["trace"] for r in ranks), strict=True):
        assert ratio0 == ratio1
        assert columns0 != columns1
        assert cells0 != cells1
    assert [step[0] for step in ranks[0]["trace"]] == [Uniform(0.2, 0.8).sample(step) for step in range(6)]
    for name, value in ranks[0]["weights"].items():
        if "running" not in name:  # each rank's batch norm sees its own cells
            assert torch.equal(value, ranks[1]["weights"][name])
    series = read_metrics(tmp_path / "run" / "metrics.csv")["loss"]
    assert len(series) == 8  # 90 training cells fill 4 steps of 20, twice
    assert [r.metric for r in read_records(tmp_path / "run")] == [f"loss@{r:g}" for r in (0.1, 0.2, 0.3, 0.5, 0.7)]
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert R2MAE.from_export(tmp_path / "run" / "model", adata).get_latent_representation().shape == (adata.n_obs, 4)
    ratios = [torch.load(tmp_path / f"ratios{rank}.pt") for rank in range(2)]
    assert len(ratios[0]) == 8
    for step, parts in enumerate(zip(*ratios, strict=True)):
        wanted = Uniform(0.0, 1.0).samples(step, 8, n=20)
        assert np.array_equal(torch.cat(parts).numpy(), wanted)
    weights = load_tensors(tmp_path / "cells" / "model" / "model.safetensors")
    options = {"epochs": 2, "batch_size": 20, "n_hidden": 16, "n_latent": 4, "device": "cpu", "progress": False}
    alone = pretrain(
        Pretrain(
            data=tmp_path / "p.h5ad", mask_ratio="mdlm", ratio_per="sample", micro_batch_size=10,
            out=tmp_path / "alone", **options,
        )
    )  # fmt: skip
    for name, value in load_tensors(alone.path / "model" / "model.safetensors").items():
        if "running" not in name and "num_batches" not in name:  # one process's batch norm sees both micro-batches
            # A bias before a batch norm has no gradient but rounding, which Adam enlarges.
            assert torch.allclose(weights[name], value, atol=1e-4), (name, (weights[name] - value).abs().max())
