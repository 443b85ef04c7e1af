"""A ratio for each cell, gene sets, and the loss divided by the ratio: against the formulas, and through every door."""

import gzip
import logging
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from r2mae_core import Fixed, MaskDraw, Uniform, UserError, quiet_lightning, read_metrics, run_pretraining
from r2mae_singlecell import R2MAE
from r2mae_singlecell.masking import hidden_columns, hidden_in_cells
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.plan import MaskedPlan
from r2mae_singlecell.pretrain import SingleCells, pretrain

SIZE = {"n_hidden": 24, "n_latent": 6, "epochs": 2, "batch_size": 36, "device": "cpu", "progress": False}
PRESENT = torch.tensor([*range(5), *range(9, 40)])  # four genes cannot be hidden


def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def network(adata):
    R2MAE.setup_anndata(adata, batch_key="batch")
    model = R2MAE(adata, n_hidden=8, n_latent=4)
    return model.module, next(model.batches(None, None, 120))


def all_nll(module, tensors, mask):
    """The loss of every gene, by scvi-tools' own distribution, of cells whose hidden genes are zeros."""
    hidden = {**tensors, "X": torch.where(mask, 0.0, tensors["X"])}
    inputs = module._get_inference_input(hidden)
    inputs["log_library"] = tensors["X"].sum(1, keepdim=True).log()
    outputs = module.inference(**inputs)
    px = module.generative(**module._get_generative_input(hidden, outputs))["px"]
    return -px.log_prob(tensors["X"])


@pytest.mark.parametrize("candidates", [None, PRESENT])
@pytest.mark.parametrize("weight", ["none", "inverse_ratio"])
@pytest.mark.parametrize("per_cell", [False, True])
def test_loss_is_the_published_formula(network, per_cell, weight, candidates):
    """The mean over the hidden entries; or, divided by the ratio, the sum over them by all that could be hidden."""
    module, tensors = network
    plan = MaskedPlan(module, mask_ratio=Fixed(0.3), candidates=candidates)
    plan.is_log_step = lambda: False
    module.train()
    ratio = torch.linspace(0.05, 0.9, 120, dtype=torch.float64) if per_cell else 0.3
    loss = plan.masked_loss(tensors, MaskDraw(ratio, generator(), loss_weight=weight))
    if per_cell:
        mask = hidden_in_cells(40, ratio, generator(), candidates)[0]
    else:
        mask = torch.zeros(120, 40, dtype=torch.bool)
        mask[:, hidden_columns(40, ratio, generator(), candidates)] = True
    with torch.no_grad():
        nll = all_nll(module, tensors, mask)
    total, n_maskable = 0.0, 40 if candidates is None else 36
    for cell in range(120):
        t = float(ratio[cell]) if per_cell else ratio
        total += float(nll[cell][mask[cell]].double().sum()) / (t if weight == "inverse_ratio" else 1.0)
    wanted = total / (120 * n_maskable if weight == "inverse_ratio" else int(mask.sum()))
    assert loss.item() == pytest.approx(wanted, rel=2e-5)  # scvi-tools' distribution has an epsilon
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_hidden_entries_alone_count_and_are_not_read(network):
    """Same rows: per cell and by columns agree to rounding; a hidden count does not reach the latent."""
    module, tensors = network
    module.eval()
    columns = torch.arange(0, 40, 3)
    mask = torch.zeros(120, 40, dtype=torch.bool).index_fill_(1, columns, True)
    each, by_column = module.masked_nll(tensors, mask), module.hidden_nll(tensors, columns)
    assert torch.allclose(each[:, columns], by_column, rtol=1e-6)
    assert not each[~mask].any()
    other = {**tensors, "X": tensors["X"].clone(), "size_factor": tensors["X"].sum(1, keepdim=True)}
    other["X"][:, 0] += 5
    module.takes_size_factor = True  # as with a registered one: the library size of the whole cell stays
    assert torch.equal(module.masked_nll(other, mask)[:, 3], module.masked_nll({**tensors}, mask)[:, 3])


def test_validation_hides_single_genes_whatever_the_training_does(network):
    from r2mae_core import Groups

    module, tensors = network
    plain = MaskedPlan(module, mask_ratio=Fixed(0.3))
    grouped = MaskedPlan(module, mask_ratio=Fixed(0.3), groups=Groups([range(20)], 40))
    draw = lambda: MaskDraw(0.3, generator())  # noqa: E731
    assert plain.masked_loss(tensors, draw()) != grouped.masked_loss(tensors, draw())
    plain.eval(), grouped.eval()
    assert plain.masked_loss(tensors, draw()) == grouped.masked_loss(tensors, draw())


def write_sets(name="sets.gmt", last=(), pack=bytes):
    """Two sets of the prepared genes and one of none; symbols and Ensembl names as they come."""
    var = SingleCells(Pretrain(data=Path("p.h5ad"), **SIZE)).adata.var
    names = [*var.index[:10], *var["feature_name"].iloc[10:20]]
    lines = [["A", "", *names[:10]], ["B", "about", *names[10:], *last], ["none", "", "CD3E"]]
    Path(name).write_bytes(pack("".join("\t".join(line) + "\n" for line in lines).encode()))
    return Path(name)


class Watched(SingleCells):
    """Keeps draws, masks and what is compiled."""

    def build(self, sampler):
        module = super().build(sampler)
        self.seen.append(module)
        module.drawn, draw = [], module.draw

        def watched(batch, batch_idx):
            module.drawn.append(draw(batch, batch_idx))
            return module.drawn[-1]

        module.draw = watched
        return module


@pytest.fixture
def watched():
    class Here(Watched):
        seen: ClassVar = []

    def run(**options):
        run = run_pretraining(Here, Pretrain(data=Path("p.h5ad"), **{**SIZE, **options}))
        return run, Here.seen[-1]

    return run


def test_cells_have_the_ratios_of_the_sampler_by_step_and_place(here, watched):
    sampler = Uniform(0.1, 0.9, seed=5)
    ratios = {}
    for micro in (36, 12):
        out = Path(f"m{micro}")
        _, plan = watched(mask_ratio=sampler, ratio_per="sample", micro_batch_size=micro, out=out)
        drawn = [draw.ratio for draw in plan.drawn]
        ratios[micro] = torch.cat(drawn)
        assert {len(part) for part in drawn} == {micro}
    assert torch.equal(ratios[36], ratios[12])  # the division into micro-batches changes no cell's ratio
    for step in range(6):
        own = sampler.samples(step, 6, n=36, first=0)
        assert np.array_equal(ratios[36][36 * step : 36 * (step + 1)].numpy(), own)
        assert len(set(own.tolist())) == 36


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_options_reach_the_module(here, watched, compress):
    sets = write_sets(pack=compress)
    run, plan = watched(
        mask_ratio="scgpt", ratio_per="sample", loss_weight="inverse_ratio", mask_shape="groups", gene_sets=sets,
        out=Path("run2"),
    )  # fmt: skip
    assert (plan.ratio_per, plan.loss_weight) == ("sample", "inverse_ratio")
    groups = [plan.groups.position[plan.groups.unit == unit].tolist() for unit in range(2)]
    assert groups == [list(range(10)), list(range(10, 20))]
    assert plan.groups.n == 30
    assert {draw.loss_weight for draw in plan.drawn} == {"inverse_ratio"}
    assert {r.scheme for r in run.results()} == {"scgpt per sample, loss / ratio, in groups of sets.gmt"}
    assert run.facts["gene_sets_left_out"] == ["none"]
    values = [value for _, value in read_metrics(run.metrics_file)["val_loss/ratio_0.3"]]
    assert np.isfinite(values).all()


def test_the_sets_are_part_of_the_run(here):
    """Their content counts and not their place; others are refused; they are not written over."""
    common = {"data": Path("p.h5ad"), "mask_shape": "groups", "out": Path("grouped"), **SIZE}
    sets = write_sets()
    pretrain(Pretrain(gene_sets=sets, **common))
    pretrain(Pretrain(gene_sets=sets.rename("moved.gmt"), **common))
    other = write_sets("other.gmt", last=SingleCells(Pretrain(data=Path("p.h5ad"))).adata.var_names[:1])
    with pytest.raises(UserError, match="grouped was made from other data: GENE_SETS was"):
        pretrain(Pretrain(gene_sets=other, **common))
    with pytest.raises(UserError, match=r"other\.gmt is an input of this command"):
        pretrain(Pretrain(gene_sets=other, **{**common, "out": other}))


def test_what_does_not_go_together_is_refused_before_anything_is_trained(here, refused):
    sets = write_sets()
    Path("bad.gmt").write_text("A\tx\tCD3E\nB only\n")
    Path("foreign.gmt").write_text("A\tx\tCD3E\n")
    for argv, message in (
        (("--mask_shape", "groups"), r"--mask_shape groups needs --gene_sets FILE\.gmt"),
        (("--gene_sets", sets), "--gene_sets needs --mask_shape groups"),
        (("--mask_shape", "groups", "--gene_sets", "bad.gmt"), r"bad\.gmt, line 2 is not a gene set"),
        (("--mask_shape", "groups", "--gene_sets", "no.gmt"), r"no\.gmt is not there"),
        (
            ("--mask_shape", "groups", "--gene_sets", "foreign.gmt"),
            r"foreign\.gmt: none of 1 set has a gene of the data; it names genes like 'CD3E', the data like",
        ),
        (("--ratio_per", "sample", "--mask_ratio", "cl"), "--ratio_per sample does not go together with the learned"),
        (("--loss_weight", "inverse_ratio", "--mask_ratio", "r2mae+cl"), "--loss_weight inverse_ratio does not go"),
        (("--loss_weight", "inverse_ratio", "--mask_ratio", 0), "cannot divide by the mask ratio 0"),
    ):
        refused(("pretrain", "p.h5ad", "--device", "cpu", "--no-progress", "--out", "new", *argv), message)
        assert not Path("new/model").exists()


def test_the_command_says_what_is_hidden_together(here, call):
    argv = ("--mask_shape", "groups", "--gene_sets", write_sets(last=("CD19",)), "--ratio_per", "sample", "--epochs", 1)
    size = ("--n-hidden", 8, "--n-latent", 4, "--device", "cpu", "--no-progress")
    code, out, err = call("pretrain", "p.h5ad", *argv, *size, "--out", "one")
    assert (code, err) == (0, "")
    assert "20 genes hidden together in 2 sets (left out: 1 set without any gene of the data: none; 2 genes of" in out
    assert call("pretrain", "-c", "one/config.yaml", "--out", "two")[0] == 0
    weights = [Path(name, "model/model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


SETS = {"A": [f"gene{i}" for i in range(12)], "B": [f"gene{i}" for i in range(12, 20)], "none": ["CD3E"]}


def test_a_query_hides_no_gene_that_it_lacks(trained, make_adata, caplog):
    query = make_adata(90, 40, seed=1)[:, [i for i in range(40) if i not in (4, 11)]].copy()
    R2MAE.prepare_query_anndata(query, trained)
    with quiet_lightning(), caplog.at_level(logging.INFO, "r2mae_singlecell.r2mae"):
        model = R2MAE.load_query_data(query, trained)
        seen, original = torch.zeros(40, dtype=torch.bool), model.module.masked_nll

        def watched(tensors, mask):
            seen.logical_or_(mask.any(0))
            return original(tensors, mask)

        model.module.masked_nll = watched
        model.train(
            max_epochs=5, batch_size=30, accelerator="cpu", enable_progress_bar=False,
            plan_kwargs={"ratio_per": "sample", "mask_shape": "groups", "gene_sets": SETS},
        )  # fmt: skip
    assert seen.nonzero()[:, 0].tolist() == [i for i in range(40) if i not in (4, 11)]
    assert "18 genes hidden together in 2 sets (left out: 1 set" in caplog.text
    assert "1 of 3 gene sets have no gene of the data" in caplog.text


@pytest.mark.parametrize(
    ("plan_kwargs", "message"),
    [
        ({"mask_shape": "groups"}, r"belong together; give gene_sets=\{name: genes\} too"),
        ({"gene_sets": SETS}, "belong together; give mask_shape='groups' too"),
        ({"mask_shape": "spans"}, "mask_shape must be 'independent' or 'groups', got 'spans'"),
        ({"mask_shape": "groups", "gene_sets": {"A": ["CD3E"]}}, "none of 1 set has a gene of the data"),
        ({"ratio_per": "cell"}, "ratio_per must be one of step, micro_batch, sample, got 'cell'"),
        ({"loss_weight": "inverse"}, "loss_weight must be one of none, inverse_ratio, got 'inverse'"),
    ],
)
def test_in_python_what_does_not_go_together_is_refused(make_adata, train, plan_kwargs, message):
    with pytest.raises(UserError, match=message):
        train(make_adata(), max_epochs=1, plan_kwargs=plan_kwargs)


def test_in_python_a_training_with_other_masks_is_not_resumed(make_adata, train, tmp_path):
    grouped = {"ratio_per": "sample", "mask_shape": "groups", "gene_sets": SETS}
    train(make_adata(), max_epochs=1, resume=tmp_path / "run", plan_kwargs=grouped)
    other = {**SETS, "B": ["gene30"]}
    for plan_kwargs, message in (
        ({**grouped, "gene_sets": other}, "another gene_sets; resume"),
        ({**grouped, "ratio_per": "step"}, r"another ratio_per \(sample there, step here\)"),
        ({**grouped, "loss_weight": "inverse_ratio"}, r"another loss_weight \(none there, inverse_ratio here\)"),
        ({"ratio_per": "sample"}, "another gene_sets; resume"),
        ({"mask_shape": "groups", "gene_sets": SETS}, r"another ratio_per \(sample there, step here\)"),  # not said
    ):
        with pytest.raises(UserError, match=message):
            train(make_adata(), max_epochs=1, resume=tmp_path / "run", plan_kwargs=plan_kwargs)
    train(make_adata(), max_epochs=1, resume=tmp_path / "run", plan_kwargs={**grouped, "loss_weight": "none"})
