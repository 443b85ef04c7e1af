"""What the user asks for reaches the optimizer, the loader and the trainer: values that differ from every default."""

from dataclasses import fields
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch
from scvi import REGISTRY_KEYS

import r2mae_core.train.pretraining as core
from r2mae_core import (
    Curriculum,
    Fixed,
    StepCheckpoints,
    Uniform,
    UserError,
    permutation,
    read_metrics,
    run_pretraining,
    scheme,
)
from r2mae_singlecell import R2MAE, Simulation, prepare_atlas, simulate_atlas
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.evaluate import RANK_BY
from r2mae_singlecell.options import Pretrain, Reproduce
from r2mae_singlecell.paper import Cell, _evaluation, _pretrain_options
from r2mae_singlecell.pretrain import SingleCells, pretrain, scaled_curriculum

N_TRAIN = 108


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    simulate_atlas(Simulation(n_donors=10, n_cells=120, n_genes=40)).write_h5ad(folder / "a.h5ad")
    return prepare_atlas(folder / "a.h5ad", folder / "p.h5ad", n_genes=30, min_genes=0, progress=False).path


def options(data, **other):
    small = {"n_hidden": 24, "n_latent": 6, "epochs": 3, "batch_size": 36, "device": "cpu", "progress": False}
    return Pretrain(data=data, **{**small, **other})


@pytest.fixture
def built(monkeypatch):
    """What the last training was made of: module, loader, trainer, weights and a batch from before it."""
    found, fit = {}, core.fit

    def spy(module, loader, run, **arguments):
        found["start"] = {name: value.clone() for name, value in module.module.state_dict().items()}
        found["batch"] = loader._fetch(next(iter(loader._rest)))
        found.update(module=module, loader=loader, trainer=fit(module, loader, run, **arguments))
        return found["trainer"]

    monkeypatch.setattr(core, "fit", spy)
    return found


def test_options_reach_the_optimizer_the_loader_and_the_trainer(data, built):
    run = pretrain(
        options(
            data,
            mask_ratio="r2mae+cl",
            ratio_per="micro_batch",
            micro_batch_size=12,
            lr=2e-3,
            weight_decay=0.03,
            eps=1e-5,
            clip=0.5,
            seed=7,
            precision="bf16-mixed",
            log_every=2,
            validate_every=4,
            checkpoint_every=5,
        )
    )
    module, trainer = built["module"], built["trainer"]
    (optimizer,) = trainer.optimizers
    assert type(optimizer) is torch.optim.Adam
    assert trainer.lr_scheduler_configs == []
    rest, head = optimizer.param_groups
    assert [group["weight_decay"] for group in (rest, head)] == [0.03, 0.0]
    assert {id(p) for p in head["params"]} == {id(p) for p in module.module.curriculum.parameters()}
    assert len(rest["params"]) + len(head["params"]) == len(list(module.parameters()))
    for group in (rest, head):
        assert (group["lr"], group["eps"], group["betas"]) == (2e-3, 1e-5, (0.9, 0.999))
    assert trainer.accumulate_grad_batches == 3
    assert trainer.gradient_clip_val == 0.5
    assert trainer.precision == "bf16-mixed"
    assert trainer.log_every_n_steps == 2
    assert trainer.global_step == 9  # 108 cells, batches of 36, 3 epochs
    assert (module.seed, module.ratio_per) == (7, "micro_batch")
    assert module.module.to_latent.weight.shape == (6, 24)
    metrics = read_metrics(run.metrics_file)
    assert [step + 1 for step, _ in metrics["val_loss/ratio_0.3"]] == [4, 8]
    assert [step + 1 for step, _ in metrics["cells_per_second"]] == [2, 4, 6, 8]
    assert [step + 1 for step, _ in metrics["loss"]] == [2, 4, 6, 8, 9]  # and the last
    assert [c.every for c in trainer.callbacks if isinstance(c, StepCheckpoints)] == [5]


def test_batches_are_the_training_cells_in_the_order_of_the_seed(data, built):
    pretrain(options(data, epochs=1, micro_batch_size=12, seed=7))
    adata, (train, _) = read_prepared(data), pretraining_split(120)
    wanted = train[permutation(N_TRAIN, 7, 0)[:12]]
    x = built["batch"][REGISTRY_KEYS.X_KEY].dense(30)
    assert np.array_equal(x.numpy(), adata.to_memory().X[wanted].toarray())


def test_initial_weights_are_those_of_scvi_tools_seed(data, built):
    pretrain(options(data, epochs=1, seed=7))
    scvi.settings.seed = 7
    adata = read_prepared(data)
    R2MAE.setup_anndata(adata, batch_key="batch")
    wanted = R2MAE(adata, n_hidden=24, n_latent=6).module.state_dict()
    assert all(torch.equal(built["start"][name], value) for name, value in wanted.items())


@pytest.mark.parametrize("masking", [{}, {"ratio_per": "sample", "loss_weight": "inverse_ratio"}, "groups"])
def test_pretraining_equals_the_python_interface(data, built, train, masking):
    """The two ways to train give the same weights, bit for bit."""
    adata = read_prepared(data).to_memory()
    given = masking
    if masking == "groups":
        sets = {"A": list(adata.var_names[:8]), "B": list(adata.var_names[8:13])}
        Path("sets.gmt").write_text("".join("\t".join([name, "", *own]) + "\n" for name, own in sets.items()))
        masking = {"ratio_per": "sample", "mask_shape": "groups"}
        masking, given = {**masking, "gene_sets": Path("sets.gmt")}, {**masking, "gene_sets": sets}
    pretrain(options(data, mask_ratio="mdlm", seed=3, **masking))
    cells, held_out = pretraining_split(120)
    model = train(
        adata,
        seed=3,
        batch_size=36,
        init={"n_hidden": 24, "n_latent": 6, "mask_ratio": "mdlm"},
        plan_kwargs=given,
        datasplitter_kwargs={"external_indexing": [cells, held_out, np.array([], dtype=int)]},
    )
    after = built["module"].module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in model.module.state_dict().items())


@pytest.mark.parametrize(("ratio_per", "n_different"), [("step", 1), ("micro_batch", 3)])
def test_ratio_per_step_or_micro_batch(data, ratio_per, n_different):
    drawn = []

    class Watched(SingleCells):
        def build(self, sampler):
            module = super().build(sampler)
            draw = module.draw

            def watched(batch, batch_idx):
                drawn.append(draw(batch, batch_idx))
                return drawn[-1]

            module.draw = watched
            return module

    config = options(data, mask_ratio=Uniform(0.1, 0.9), ratio_per=ratio_per, micro_batch_size=12, epochs=1)
    run_pretraining(Watched, config)
    assert len(drawn) == 9
    assert [len({d.ratio for d in drawn[at : at + 3]}) for at in (0, 3, 6)] == [n_different] * 3


def test_a_batch_is_at_most_all_training_cells(data, built):
    pretrain(options(data, batch_size=10_000, epochs=2))
    assert len(built["batch"][REGISTRY_KEYS.BATCH_KEY]) == N_TRAIN
    assert built["trainer"].global_step == 2


def test_curriculum_marks_are_scaled_to_the_training(data, built):
    cl = scheme("cl", "singlecell")
    scaled = scaled_curriculum(cl, 24_300)
    assert (scaled.freeze_steps, scaled.ramp) == (500, (3000, 12_000))
    assert scaled_curriculum(Fixed(0.5), 24_300) == Fixed(0.5)
    run = pretrain(options(data, mask_ratio="cl", epochs=1))
    assert built["module"].mask_ratio.freeze_steps == 0  # 3 of the paper's 243,000 steps
    assert run.config["mask_ratio"]["init_args"]["freeze_steps"] == cl.freeze_steps  # unscaled, to be replayed
    with pytest.raises(
        UserError, match=r"has 3 steps and the curriculum's weights are frozen for 5,000, so they would"
    ):
        pretrain(options(data, mask_ratio="cl", epochs=1, scale_curriculum=False, out=Path("unscaled")))


def test_compile_compiles_the_loss_in_one_graph(data, built, monkeypatch):
    compiled, compile_ = [], torch.compile

    def spy(function):
        compiled.append(function.__name__)
        return compile_(function, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", spy)
    plain, fast = (pretrain(options(data, compile=on, out=Path(f"compile-{on}"))) for on in (False, True))
    assert compiled == ["hidden_nll", "masked_nll"]
    assert [r.value for r in fast.results()] == pytest.approx([r.value for r in plain.results()], rel=1e-4)


class PowerCut(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 5:
            raise RuntimeError("power cut")


class Interrupted(SingleCells):
    def callbacks(self, run):
        return [PowerCut()]


def test_resumed_equals_uninterrupted_also_within_an_epoch(data):
    common = {"mask_ratio": "r2mae+cl", "micro_batch_size": 12, "checkpoint_every": 4}
    whole = pretrain(options(data, **common, out=Path("whole")))
    with pytest.raises(RuntimeError, match="power cut"):
        run_pretraining(Interrupted, options(data, **common, out=Path("run")))
    resumed = pretrain(options(data, **common, out=Path("run")))
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("other", [{"lr": 2e-3}, {"seed": 1}, {"eps": 1e-3}, {"weight_decay": 0.0}, {"clip": 1.0}])
def test_resuming_with_other_options_is_refused(data, other):
    pretrain(options(data, epochs=1, out=Path("run")))
    (name,) = other
    with pytest.raises(UserError, match=f"holds a run with another config: .*{name} is"):
        pretrain(options(data, epochs=1, out=Path("run"), **other))


def test_weights_that_are_not_finite_are_not_saved(data):
    with pytest.raises(UserError, match=r"is not finite after step|the loss is NaN or infinite from step"):
        pretrain(options(data, lr=1e38, out=Path("run")))
    assert not Path("run/model").exists()


def test_operations_are_counted_for_the_speed(data):
    run = pretrain(options(data, epochs=1, log_every=1, peak_tflops=1.0))
    assert {"tflops", "mfu"} <= set(read_metrics(run.metrics_file))
    task = SingleCells(options(data))
    n, batches = 30, len(task.adata.obs["batch"].unique())
    first, rest = (n + batches) * 24 + 24 * 24 + 24 * 6, (6 + batches) * 24 + 24 * n
    assert task.flops(task.build(Fixed(0.3)), 0.3) == 6 * (first + rest) - 2 * n * 24


def test_reproduce_hands_its_options_to_the_pretraining():
    config = Reproduce(
        "table6", Path("d.h5ad"), n_hidden=3, n_latent=2, epochs=7, batch_size=5, precision="32-true", device="cpu",
        progress=False,
    )  # fmt: skip
    sampler = Curriculum(Fixed(0.2), n_columns=1)
    made = _pretrain_options(config, Cell("cl", 9, sampler), 100, Path("out"))
    shared = {field.name for field in fields(Pretrain)} & {field.name for field in fields(Reproduce)}
    shared.remove("scale_curriculum")  # decided by the length of the training
    assert {name: getattr(made, name) for name in shared - {"out"}} == {n: getattr(config, n) for n in shared - {"out"}}
    assert (made.seed, made.mask_ratio, made.out) == (9, sampler, Path("out"))


def test_results_of_other_settings_are_not_mixed(data, tmp_path):
    from r2mae_core import RunFolder

    run, cell = RunFolder(tmp_path / "run", {}), Cell("fixed", 0, Fixed(0.25))
    for target in ("table6", "table8"):
        _evaluation(Reproduce(target, data, n_splits=5), run, cell).write_results([])
    with pytest.raises(UserError, match="n_splits is 5 there and 4 here"):
        _evaluation(Reproduce("table6", data, n_splits=4), run, cell)
    _evaluation(Reproduce("table8", data, n_splits=4), run, cell)  # which does not divide donors


def test_tables_rank_in_the_right_direction():
    assert RANK_BY["loss@0.5"] == "min"
    assert {RANK_BY[name] for name in ("pearson@0.5", "auroc_donor", "balanced_accuracy", "spearman_cell")} == {"max"}
