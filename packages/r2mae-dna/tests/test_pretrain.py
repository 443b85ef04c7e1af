import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from r2mae_core import Curriculum, Fixed, Grid, MaskDraw, UserError, read_metrics, read_records, scheme
from r2mae_dna.data.codes import SOFT_MASK, TOKEN_BITS
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.masking import MaskingConfig, mask_windows, position_weights
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Pretrain
from r2mae_dna.pretrain import AlignmentPretraining, DnaModality, pretrain, token_losses, with_freeze
from r2mae_dna.weights import load_model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A recipe on vertebrate windows that takes a second or two."""
    from r2mae_dna.data.build import build_alignment
    from r2mae_dna.data.samples import VERTEBRATES, sample_path
    from r2mae_dna.data.windows import prepare
    from r2mae_dna.options import Prepare

    home = tmp_path_factory.mktemp("small")
    build_alignment([sample_path(VERTEBRATES)], home / "s", reference="mm9", species=["rn4", "hg18", "canFam2"])
    prepare(Prepare(home / "s", out=home / "w", window=32, step=32, validation_regions="chr10:3,220,001-3,237,798"))
    return Pretrain(
        home / "w", mask_ratio="r2mae", n_hidden=32, n_layers=2, n_heads=2, steps=12, batch_size=16, lr=3e-3,
        warmup=0.25, checkpoint_every=4, log_every=4, max_windows=32, device="cpu", progress=False,
    )  # fmt: skip


def module(sampler, seed=0, dropout=0.0):
    model = AlignmentModel(ModelConfig(3, 32, 2, 2, 128, dropout), seed)
    return AlignmentPretraining(
        model, sampler, MaskingConfig(), lr=1e-3, warmup=0.1, weight_decay=0.01, seed=seed, validation_ratios=(0.15,)
    )


def weights(run):
    return load_model(run.path).model.state_dict()


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_saves_a_model_that_loads(small):
    run = pretrain(replace(small, steps=60, out=Path("run")))
    metrics = read_metrics(run.metrics_file)
    first, last = metrics["loss"][0][1], metrics["loss"][-1][1]
    assert last < 0.85 * first
    assert load_model(run.path).species == ("mm9", "rn4", "hg18", "canFam2")
    sampler = scheme("r2mae", "dna")
    assert [ratio for _, ratio in metrics["mask_ratio"]] == [sampler.sample(step) for step in range(3, 60, 4)]
    assert len(metrics["val_loss/ratio_0.15"]) == 10
    assert pretrain(replace(small, steps=60, out=Path("run"), progress=True)).path == run.path  # done: not again


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


PER_SAMPLE = {"ratio_per": "sample", "mask_shape": "spans", "loss_weight": "inverse_ratio"}


@pytest.mark.parametrize("changes", [{}, {"mask_ratio": "r2mae+cl"}, PER_SAMPLE], ids=["r2mae", "r2mae+cl", "sample"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(small, monkeypatch, changes):
    config = replace(small, freeze_steps=3, dropout=0.1, **changes)
    whole = pretrain(replace(config, out=Path("whole")))
    original = DnaModality.callbacks
    with monkeypatch.context() as patch:
        patch.setattr(DnaModality, "callbacks", lambda *a: [*original(*a), StopAt(7)])
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(replace(config, out=Path("cut")))
    assert not Path("cut/model").exists()
    resumed = pretrain(replace(config, out=Path("cut"), log_every=6))
    assert equal(weights(whole), weights(resumed))


def test_accumulated_micro_batches_share_the_ratio(small):
    config = replace(small, batch_size=16, micro_batch_size=8, log_every=1, steps=4, keep="last")
    metrics = read_metrics(pretrain(replace(config, out=Path("run"))).metrics_file)
    sampler = scheme("r2mae", "dna")
    assert metrics["mask_ratio"] == [(step, sampler.sample(step)) for step in range(4)]


def test_early_stopping_stops_and_the_best_model_is_kept(small):
    # A huge learning rate: the validation loss soon rises.
    config = replace(small, lr=0.5, warmup=0.2, steps=100, validate_every=2, patience=2, clip=None)
    run = pretrain(replace(config, out=Path("best")))
    losses = read_metrics(run.metrics_file)["val_loss/ratio_0.15"]
    assert len(losses) < 50  # it stopped
    best = min(losses, key=lambda point: point[1])
    assert best != losses[-1]
    last = pretrain(replace(config, out=Path("last"), keep="last"))
    batches = list(DnaModality(config).held_out(16))
    found = {}
    for name, folder in (("best", run.path), ("last", last.path)):
        it = module(Fixed(0.15))
        it.model.load_state_dict(load_model(folder).model.state_dict())
        it.eval()
        with torch.no_grad():
            each = [
                it.masked_loss(b, MaskDraw(0.15, it.generator_for(0, "validation", i))) for i, b in enumerate(batches)
            ]
        found[name] = torch.stack(each).mean().item()
    assert found["best"] == pytest.approx(best[1], abs=1e-5)
    assert found["last"] == pytest.approx(losses[-1][1], abs=1e-5)


def test_the_frozen_phase_is_bit_equal_to_plain_r2mae(small):
    grid = Grid.spaced(0.05, 0.3, 10, seed=0)
    plain = pretrain(replace(small, mask_ratio=grid, keep="last", dropout=0.1, out=Path("plain")))
    frozen = replace(small, mask_ratio=Curriculum(grid, 10, freeze_steps=12), keep="last", dropout=0.1)
    assert equal(weights(plain), weights(pretrain(replace(frozen, out=Path("frozen")))))
    thawed = replace(frozen, mask_ratio=Curriculum(grid, 10, freeze_steps=6), out=Path("thawed"))
    assert not equal(weights(plain), weights(pretrain(thawed)))


def loss_and_head(sampler, draw_ratio, column, multiplier):
    """Return the head's gradient for one batch, with a head that is no longer at its start."""
    it = module(sampler)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in it.curriculum.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    it.is_log_step = lambda: False
    it.train()
    codes = torch.randint(1, 5, (8, 32, 4), dtype=torch.uint8, generator=generator)
    batch = {"codes": codes, "reverse": torch.zeros(8, dtype=torch.bool)}
    loss = it.masked_loss(batch, MaskDraw(draw_ratio, torch.Generator().manual_seed(1), column, multiplier))
    loss.backward()
    return it, batch, loss


def test_the_multiplier_scales_the_heads_gradient_and_no_others():
    sampler = scheme("r2mae+cl", "dna")
    easy, _, _ = loss_and_head(sampler, 0.3, 4, 1.0)
    hard, _, _ = loss_and_head(sampler, 0.3, 4, -1.0)
    frozen, _, _ = loss_and_head(sampler, 0.3, 4, 0.0)
    assert max(p.grad.abs().max() for p in easy.curriculum.parameters()) > 1e-6
    for a, b, c in zip(*(m.curriculum.parameters() for m in (easy, hard, frozen)), strict=True):
        assert torch.allclose(a.grad, -b.grad)
        assert (c.grad == 0).all()
    for a, b in zip(easy.model.parameters(), hard.model.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # the network sees the weights as constants


def test_every_column_has_mean_one_and_every_token_too():
    it, batch, _ = loss_and_head(scheme("r2mae+cl", "dna"), 0.3, 4, 1.0)
    masked = mask_windows(batch, 0.3, torch.Generator().manual_seed(1), it.masking)
    with torch.no_grad():
        hidden = it.model.encode(masked.codes, masked.positions).flatten(0, 1)
        matrix = it.curriculum.matrix(hidden)
        column = it.curriculum(hidden, 4, 1.0)
    assert matrix.shape == (8 * 10, 10)
    assert (matrix > 0).all()
    assert torch.allclose(matrix.mean(0), torch.ones(10), atol=1e-5)
    assert torch.allclose(matrix.mean(1), torch.ones(80), atol=1e-3)
    assert matrix.std() > 0.01
    assert torch.allclose(column, matrix[:, 4], rtol=1e-5)  # one column alone takes a shorter way


def test_the_loss_is_the_weighted_mean_written_out():
    it, batch, loss = loss_and_head(scheme("r2mae+cl", "dna"), 0.3, 7, 1.0)
    masked = mask_windows(batch, 0.3, torch.Generator().manual_seed(1), it.masking)
    with torch.no_grad():
        hidden = it.model.encode(masked.codes, masked.positions)
        ce, w = token_losses(it.model, hidden, masked), masked.weights.flatten()
        learned = it.curriculum.matrix(hidden.flatten(0, 1))[:, 7]
    assert loss.item() == pytest.approx(((w * learned * ce).sum() / w.sum()).item(), rel=1e-6)


def weighted_batch(n=6, length=32):
    """Windows with lower-case bases and conservation, so that their loss weights differ."""
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(1, 5, (n, length, 4), dtype=torch.uint8, generator=generator)
    codes[..., 0] |= (torch.rand(n, length, generator=generator) < 0.3).to(torch.uint8) * SOFT_MASK
    tracks = torch.rand(n, 2, length, generator=generator)
    return {"codes": codes, "reverse": torch.zeros(n, dtype=torch.bool), "conservation": tracks}


@pytest.mark.parametrize("mean_span", [None, 3.0])
@pytest.mark.parametrize("loss_weight", ["none", "inverse_ratio"])
@pytest.mark.parametrize("ratio", [0.3, torch.tensor([0.02, 0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)])
def test_the_loss_is_the_published_formula_written_out(ratio, loss_weight, mean_span):
    it = module(Fixed(0.15))
    it.train()
    it.masking = MaskingConfig(label_flip=0.0, mean_span=mean_span)
    batch, draw = weighted_batch(), MaskDraw(ratio, torch.Generator().manual_seed(1), loss_weight=loss_weight)
    loss = it.masked_loss(batch, draw)
    masked = mask_windows(batch, ratio, torch.Generator().manual_seed(1), it.masking)
    weights, _ = position_weights(batch["codes"], batch["conservation"], it.masking)
    with torch.no_grad():
        log_p = it.model(masked.codes).double().log_softmax(-1)
    # LLaDA, equation 3, and MDLM's bound with the log-linear schedule: every window apart, at its own t.
    total = hidden_weight = 0.0
    for row in range(6):
        t = ratio if isinstance(ratio, float) else ratio[row].item()
        for position in masked.positions[row, : max(1, round(t * 32))].tolist():
            base = int(batch["codes"][row, position, 0]) & TOKEN_BITS
            w = weights[row, position].item()
            hidden_weight += w
            total -= w * log_p[row, position, base].item() / (t if loss_weight == "inverse_ratio" else 1.0)
    divisor = weights.double().sum().item() if loss_weight == "inverse_ratio" else hidden_weight
    assert loss.item() == pytest.approx(total / divisor, rel=1e-6)


def test_validation_is_the_same_whatever_the_training_hides():
    losses = []
    for mean_span in (None, 4.0):
        it = module(Fixed(0.15)).eval()
        it.masking = MaskingConfig(mean_span=mean_span)
        losses.append(it.masked_loss(weighted_batch(), MaskDraw(0.15, torch.Generator().manual_seed(1))).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("micro", [16, 4])
def test_every_window_has_the_ratio_of_its_place_in_the_step(small, monkeypatch, micro):
    import r2mae_dna.pretrain as code

    seen, original = {}, code.AlignmentPretraining.masked_loss

    def masked_loss(it, batch, draw):
        if it.training:
            seen.setdefault(it.global_step, []).extend(draw.ratio.tolist())
        return original(it, batch, draw)

    monkeypatch.setattr(code.AlignmentPretraining, "masked_loss", masked_loss)
    config = replace(small, micro_batch_size=micro, steps=4, log_every=1, out=Path("run"), **PER_SAMPLE)
    run = pretrain(config)
    sampler = scheme("r2mae", "dna")
    assert seen == {step: sampler.samples(step, 4, n=16).tolist() for step in range(4)}
    assert {r.scheme for r in run.results()} == {"r2mae per sample, loss / ratio, in spans"}
    assert (run.config["ratio_per"], run.config["mask_shape"], run.config["mean_span"]) == ("sample", "spans", 3.0)


def test_plain_cl_always_picks_one_column_of_ten():
    sampler = scheme("cl", "dna")
    assert {sampler.column(step, 100) for step in range(100)} == {0}
    assert {sampler.sample(step, 100) for step in range(100)} == {0.15}
    assert module(sampler).curriculum.n_columns == 10
    grid = scheme("r2mae+cl", "dna")
    for step in range(50):
        assert grid.sample(step, 50) == grid.ratio.values[grid.column(step, 50)]
    assert with_freeze(sampler, 7).freeze_steps == 7
    assert with_freeze(Fixed(0.1), 7) == Fixed(0.1)


def test_learned_weights_move_after_the_freeze_and_are_logged(small):
    config = replace(small, mask_ratio="cl-k0", freeze_steps=4, steps=40, log_every=1)
    metrics = read_metrics(pretrain(replace(config, out=Path("run"))).metrics_file)
    spread = dict(metrics["curriculum/log_spread"])
    assert all(spread[step] == 0 for step in range(5))  # step 4 computes its loss with the untrained head
    assert spread[39] > 1e-3
    assert [m for _, m in metrics["curriculum/multiplier"]][:6] == [0, 0, 0, 0, 1, 1]


def test_the_loss_on_validation_windows_is_left_and_is_the_probes(small):
    from r2mae_dna.options import Probe
    from r2mae_dna.probe import probe

    run = pretrain(replace(small, mask_ratio="fixed", seed=3, steps=4, out=Path("run")))
    records = run.results()
    assert [(r.task, r.metric, r.scheme, r.seed, r.n, r.split) for r in records] == [
        ("w", f"loss@{ratio}", "fixed 0.15", 3, 32, "validation") for ratio in (0.05, 0.15, 0.3)
    ]
    assert all(r.device and r.seconds for r in records)
    probed = probe(Probe(run.path, small.data, max_windows=32, device="cpu", out=Path("probe"))).results()
    found = {r.metric: r.value for r in probed if r.scheme == "fixed 0.15" and r.seed == 3}
    assert [found[r.metric] for r in records] == pytest.approx([r.value for r in records], abs=1e-6)


def test_speed_is_logged(small):
    metrics = read_metrics(pretrain(replace(small, steps=4, peak_tflops=1.0, out=Path("run"))).metrics_file)
    shape = load_model(Path("run")).model.config
    rate, operations = (metrics[name][-1][1] for name in ("windows_per_second", "tflops"))
    hidden = round(0.175 * 32)  # the scheme's mean
    assert operations == pytest.approx(3 * rate * shape.flops(32, hidden) / 1e12)
    assert metrics["mfu"][-1][1] == pytest.approx(operations)


def test_all_schemes_of_the_paper_train(small):
    from r2mae_dna.paper import TABLE3

    for name in TABLE3:
        run = pretrain(replace(small, mask_ratio=name, steps=3, freeze_steps=1, validate_every=3, out=Path(name)))
        loss = read_metrics(run.metrics_file)["val_loss/ratio_0.15"][-1][1]
        assert 0 < loss < 3, name


def test_the_learning_rate_warms_up_and_falls_to_zero():
    it = module(Fixed(0.15))
    it.warmup = 0.09
    it.total_steps = lambda: 110
    built = it.configure_optimizers()
    decays = [(group["weight_decay"], {p.dim() for p in group["params"]}) for group in built["optimizer"].param_groups]
    assert decays == [(0.01, {2}), (0.0, {1})]
    factor = built["lr_scheduler"]["scheduler"].lr_lambdas[0]
    expected = [1 / 11, 5 / 11, 10 / 11, 1.0, 0.5, 0.0]
    assert [factor(s) for s in (0, 4, 9, 10, 60, 110)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": "r3mae"}, "unknown mask scheme 'r3mae' for dna"),
        ({"n_hidden": 20}, "3 species need a width of at least 21, got n_hidden=20"),
        ({"data": Path("nowhere")}, "no windows at nowhere"),
        ({"mask_share": 0.95}, "--mask_share and --random_share are at most 1 together"),
        ({"batch_size": 100_000}, "do not fill a batch of 100,000"),
        ({"micro_batch_size": 5}, "--batch_size 16 is not a multiple of --micro_batch_size 5"),
        ({"warmup": 1000.0}, "--warmup must be at least 0 and at most 1, got 1000"),
        ({"compile": True, "strategy": "fsdp"}, "choose one"),
        ({"devices": 2, "out": None}, "several devices need --out"),
        ({"precision": "float3"}, "float3"),
        ({"mean_span": 4.0}, "--mean_span 4 is of --mask_shape spans, and the shape is independent; leave it out, or"),
        ({"mask_shape": "spans", "mean_span": 0.5}, "--mean_span must be at least 1, got 0.5"),
        ({"mask_shape": "spans", "mean_span": 33.0}, "--mean_span 33 is longer than the windows, which have 32 bases"),
        ({"falls_from": "start"}, "--falls_from start is for a curriculum whose multiplier falls (cl, r2mae+cl)"),
        ({"falls_from": "thaw", "mask_ratio": "cl-k0"}, "--falls_from thaw is for a curriculum whose multiplier falls"),
        ({"mask_ratio": "r2mae+cl", "ratio_per": "sample"}, "--ratio_per sample does not go together with"),
        ({"mask_ratio": "cl", "loss_weight": "inverse_ratio"}, "--loss_weight inverse_ratio does not go together with"),
    ],
)
def test_bad_options_are_refused(small, changes, message):
    with pytest.raises(UserError) as error:
        pretrain(replace(small, **{"out": Path("run"), **changes}))
    assert message in str(error.value)


def test_patience_needs_validation_windows(small, toy, tmp_path):
    from r2mae_dna.data.windows import prepare
    from r2mae_dna.options import Prepare

    prepare(Prepare(toy[0], out=tmp_path / "w", window=32, step=4))
    with pytest.raises(UserError, match="--patience needs validation windows"):
        pretrain(replace(small, data=tmp_path / "w", patience=1, out=Path("run")))
    assert not Path("run").exists()


def test_validation_windows_are_spread_evenly_and_the_same_every_time(small):
    task = DnaModality(replace(small, max_windows=30))
    first, second = ([batch["codes"] for batch in task.held_out(16)] for _ in range(2))
    assert [len(codes) for codes in first] == [16, 14]  # nothing left out
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    held_out = WindowSet(small.data, "validation")
    assert torch.equal(torch.cat(first), held_out.batch(np.linspace(0, len(held_out) - 1, 30).astype(int))["codes"])
    assert len(held_out) > 100


@pytest.mark.parametrize(("strategy", "per"), [("ddp", "step"), ("fsdp", "step"), ("ddp", "sample")])
def test_two_ranks_share_the_ratio_and_differ_in_windows_and_masks(small, tmp_path, strategy, per):
    """Two processes equal one that accumulates: same windows, masks, ratio and, to rounding, weights."""
    script = Path(__file__).with_name("two_ranks.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(script), str(small.data), str(tmp_path), strategy, per]
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 4
    for (step0, ratio0, windows0, masked0), (step1, ratio1, windows1, masked1) in zip(*ranks, strict=True):
        assert step0 == step1
        if per == "step":
            assert ratio0 == ratio1
        else:
            assert ratio0 + ratio1 == scheme("r2mae", "dna").samples(step0, 4, n=32).tolist()
        assert windows0 != windows1
        assert masked0 != masked1
    spec = importlib.util.spec_from_file_location("dna_two_ranks", script)
    two_ranks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(two_ranks)
    alone = two_ranks.traced(small.data, tmp_path / "one", devices=1, per=per)
    assert [entry for pair in zip(*ranks, strict=True) for entry in pair] == alone
    one, two = (load_model(tmp_path / name).model.state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=2e-5)
    losses = [{r.metric: r.value for r in read_records(tmp_path / name)} for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    best = tmp_path / "two" / "checkpoints" / "best.ckpt"
    assert best.is_dir() == (strategy == "fsdp")
