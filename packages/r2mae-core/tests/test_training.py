import resource
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

import tiny
from r2mae_core import (
    AtomicCheckpoints,
    BatchOrder,
    Curriculum,
    Fixed,
    Grid,
    LinearDecay,
    MaskDraw,
    Phases,
    ResumableLoader,
    RunFolder,
    Uniform,
    UserError,
    derived_seed,
    exact_mask,
    fit,
    n_masked,
    out_of_memory,
    peak_flops,
    precision,
    read_metrics,
    resolve_device,
)
from r2mae_core.train.devices import _say_once
from tiny import TinyMAE, samples, train, two_ranks

torch.set_num_threads(1)


class StopAt(pl.Callback):
    """Breaks the run off in the middle of a step, as a power cut would."""

    def __init__(self, step, error=RuntimeError):
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise self.error("power cut")


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("workers", "accumulate", "stop"),
    [(None, 1, 7), (None, 3, 12), (0, 1, 12), (0, 3, 7), (2, 1, 7), (2, 3, 12)],
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, workers, accumulate, stop):
    # 12 batches an epoch: checkpoints fall within an epoch and on an epoch's end; the power cut comes between two.
    arguments = {"workers": workers, "accumulate_grad_batches": accumulate, "checkpoint_every": 4}
    whole, _ = train(tmp_path / "whole", **arguments)
    first = TinyMAE(Uniform(0.2, 0.8, seed=1), seed=3)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "cut", module=first, callbacks=[StopAt(stop)], **arguments)
    resumed, trainer = train(tmp_path / "cut", **arguments)
    assert trainer.global_step == 20
    assert min(step for step, _ in resumed.trace) == stop // 4 * 4  # it did resume, from the last checkpoint
    assert {**first.trace, **resumed.trace} == whole.trace  # ratios, masks, data order, losses
    assert same_weights(whole, resumed)


def test_epoch_end_checkpoints_resume_too(tmp_path):
    whole, _ = train(tmp_path / "whole", max_steps=-1, max_epochs=3)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "cut", max_steps=-1, max_epochs=3, callbacks=[StopAt(30)])
    resumed, _ = train(tmp_path / "cut", max_steps=-1, max_epochs=3)
    assert min(step for step, _ in resumed.trace) == 24
    assert same_weights(whole, resumed)


def test_a_finished_run_is_not_trained_again(tmp_path):
    done, _ = train(tmp_path / "run", max_steps=-1, max_epochs=2)
    again, trainer = train(tmp_path / "run", max_steps=-1, max_epochs=2)
    assert again.trace == {}
    assert trainer.global_step == 24
    assert same_weights(done, again)


def test_checkpoints_hold_tensors_numbers_and_strings_only(tmp_path):
    train(tmp_path / "run", max_steps=4, checkpoint_every=2)
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4


def test_a_full_disk_spares_the_last_checkpoint(tmp_path):
    """RLIMIT_FSIZE stands for the disk: the second checkpoint has more to say than the first, and is too large."""
    file, io = tmp_path / "last.ckpt", AtomicCheckpoints()
    io.save_checkpoint({"step": 1}, file)
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot write .*last\.ckpt: the disk or the quota is full, or the file too"
        ):
            io.save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_the_trainer_writes_whole_checkpoints(tmp_path):
    _, trainer = train(tmp_path / "run", max_steps=4, checkpoint_every=2)
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpoints)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    train(tmp_path / "run", max_steps=4, checkpoint_every=2)
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(file), "surprise": Path("x")}, file)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged, or holds more than tensors.*remove it"):
        train(tmp_path / "run", max_steps=6, checkpoint_every=2)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "cut"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    train(tmp_path / "run", max_steps=4, checkpoint_every=2)
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:500] if content is None else content)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged, or .*remove it to start again"):
        train(tmp_path / "run", max_steps=6, checkpoint_every=2)


def test_micro_batches_of_a_step_share_the_ratio_and_differ_in_masks(tmp_path):
    module, _ = train(tmp_path / "run", accumulate_grad_batches=3, max_steps=4)
    sampler = Uniform(0.2, 0.8, seed=1)
    for step in range(4):
        draws = [value for (s, _), value in module.trace.items() if s == step]
        assert [ratio for ratio, *_ in draws] == [sampler.sample(step)] * 3
        assert len({str(mask) for _, mask, *_ in draws}) == 3


def test_ratio_per_micro_batch_is_an_option(tmp_path):
    module = TinyMAE(Uniform(0.2, 0.8, seed=1), ratio_per="micro_batch")
    train(tmp_path / "run", module=module, accumulate_grad_batches=3, max_steps=4)
    ratios = [ratio for ratio, *_ in module.trace.values()]
    assert ratios == [Uniform(0.2, 0.8, seed=1).sample(i) for i in range(12)]


def test_the_sampler_knows_the_length_of_the_training(tmp_path):
    module = TinyMAE(LinearDecay(0.9, 0.3))
    train(tmp_path / "run", module=module, max_steps=-1, max_epochs=2, accumulate_grad_batches=2)
    ratios = [module.trace[key][0] for key in sorted(module.trace)]
    assert ratios[0] == 0.9
    assert ratios[-1] == 0.3
    assert len(set(ratios)) == 12


def test_curriculum_reaches_the_loss(tmp_path):
    seen = []

    class Sees(TinyMAE):
        def masked_loss(self, batch, draw):
            seen.append((draw.ratio, draw.column, draw.multiplier))
            return super().masked_loss(batch, draw)

    sampler = Curriculum(Grid.spaced(0.1, 0.5), freeze_steps=3)
    train(tmp_path / "run", module=Sees(sampler), max_steps=8)
    assert seen == [(sampler.sample(s, 8), sampler.column(s, 8), sampler.multiplier(s, 8)) for s in range(8)]
    assert {multiplier for _, _, multiplier in seen[:3]} == {0.0}


def test_metrics_have_the_ratio_and_the_loss_per_bin(tmp_path):
    module, _ = train(tmp_path / "run", log_every=5, samples_per_step=8)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    sampler = Uniform(0.2, 0.8, seed=1)
    assert metrics["mask_ratio"] == [(s, sampler.sample(s)) for s in (4, 9, 14, 19)]
    assert all(value > 0 for _, value in metrics["samples_per_second"])
    assert [step for step, _ in metrics["samples_per_second"]] == [step for step, _ in metrics["loss"]]
    losses = {step: value[3] for (step, _), value in module.trace.items()}
    assert metrics["loss"][1][1] == pytest.approx(sum(losses[s] for s in range(5, 10)) / 5, rel=1e-5)
    bins = {}
    for step in range(5):
        bins.setdefault(int(sampler.sample(step) * 10), []).append(losses[step])
    for i, values in bins.items():
        name = f"loss/ratio_{i / 10:g}_to_{(i + 1) / 10:g}"
        assert metrics[name][0] == (4, pytest.approx(sum(values) / len(values), rel=1e-5))


def test_validation_masks_depend_on_neither_scheme_nor_seed(tmp_path):
    held_out = torch.utils.data.DataLoader(tiny.samples(40), batch_size=20)
    masks = {}
    for i, module in enumerate([TinyMAE(Fixed(0.3), seed=5), TinyMAE(Uniform(0.1, 0.9), seed=6)]):
        seen = masks[i] = []

        def spy(batch, draw, seen=seen):
            seen.append((draw.ratio, exact_mask(batch.shape, draw.ratio, generator=draw.generator).tolist()))
            return batch.sum() * 0

        original = module.masked_loss
        module.masked_loss = lambda b, d, m=module, o=original, s=spy: o(b, d) if m.training else s(b, d)
        train(tmp_path / str(i), module=module, max_steps=-1, max_epochs=2, validation_loader=held_out)
    assert masks[0] == masks[1]
    assert [ratio for ratio, _ in masks[0][:5]] == [0.1, 0.3, 0.5, 0.7, 0.9]
    half = len(masks[0]) // 2
    assert masks[0][:half] == masks[0][half:]  # the same in every epoch


def test_validation_loss_is_logged_per_ratio(tmp_path):
    train(
        tmp_path / "run",
        max_steps=-1,
        max_epochs=2,
        validation_loader=torch.utils.data.DataLoader(tiny.samples(20), batch_size=20),
    )
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert len(metrics["val_loss/ratio_0.5"]) == 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_every_so_many_steps_over_the_ends_of_epochs_and_resumes(tmp_path, accumulate):
    def held_out():
        return torch.utils.data.DataLoader(tiny.samples(20), batch_size=20)

    every = {"validate_every": 5, "accumulate_grad_batches": accumulate, "checkpoint_every": 3}
    whole, _ = train(tmp_path / "run", validation_loader=held_out(), **every)  # 20 steps, 12 micro-batches an epoch
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [step for step, _ in metrics["val_loss/ratio_0.5"]] == [4, 9, 14, 19]
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "cut", validation_loader=held_out(), callbacks=[StopAt(8)], **every)
    resumed, _ = train(tmp_path / "cut", validation_loader=held_out(), **every)
    assert same_weights(whole, resumed)  # validation disturbs neither training nor resuming
    assert read_metrics(tmp_path / "cut" / "metrics.csv")["val_loss/ratio_0.5"] == metrics["val_loss/ratio_0.5"]


def test_n_samples_of_any_batch():
    module, x = TinyMAE(Fixed(0.5)), torch.zeros(7, 12)
    assert [module.n_samples(b) for b in (x, (x, 1), {"images": x, "labels": None}, [{"a": x}])] == [7] * 4


def test_training_learns(tmp_path):
    module, _ = train(tmp_path / "run", max_steps=-1, max_epochs=60)
    data = tiny.samples()
    module.eval()
    with torch.no_grad():
        loss = module.masked_loss(data, MaskDraw(0.3, torch.Generator().manual_seed(0))).item()
    assert loss < 0.5 * data.var().item()  # predicting zero gets 1.0 of the variance


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    ranks = two_ranks(tmp_path, "ddp", 6)
    for step in ranks[0]["trace"]:
        (ratio0, mask0, data0, _), (ratio1, mask1, data1, _) = (rank["trace"][step] for rank in ranks)
        assert ratio0 == ratio1
        assert mask0 != mask1
        assert data0 != data1

    # The reference: plain torch, one process, 16 samples a step.
    module = TinyMAE(Uniform(0.2, 0.8, seed=1), dropout=0.0)
    optimizer, data, order = module.configure_optimizers(), tiny.samples(), BatchOrder(96, 8)
    for step in range(6):
        batch = torch.cat([data[torch.from_numpy(order.batch(step, rank, 2))] for rank in range(2)])
        ratio = Uniform(0.2, 0.8, seed=1).sample(step)
        seeds = [derived_seed(3, "mask", step, shard) for shard in range(2)]
        mask = torch.cat([exact_mask((8, 12), ratio, generator=torch.Generator().manual_seed(s)) for s in seeds])
        shown = module.net(batch.masked_fill(mask, 0.0))
        loss = (((shown + module.blocks[0](shown) - batch) ** 2) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in module.state_dict().items():
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name])
        assert ranks[0]["weights"][name].allclose(value, atol=1e-5)

    # And one process that accumulates two micro-batches goes through the same shards.
    accumulated = TinyMAE(Uniform(0.2, 0.8, seed=1), dropout=0.0, seed=3)
    train(tmp_path / "one", module=accumulated, accumulate_grad_batches=2, max_steps=6)
    assert all(accumulated.state_dict()[k].allclose(v, atol=1e-5) for k, v in module.state_dict().items())


def test_interrupt_says_how_to_go_on(tmp_path):
    with pytest.raises(UserError, match=r"interrupted at step 9.*--out .*run to resume from its last checkpoint"):
        train(tmp_path / "run", checkpoint_every=4, callbacks=[StopAt(9, KeyboardInterrupt)])
    whole, _ = train(tmp_path / "whole")
    resumed, _ = train(tmp_path / "run", checkpoint_every=4)
    assert same_weights(whole, resumed)


class Breaks(TinyMAE):
    """Its loss is not a number from the seventh step on."""

    def masked_loss(self, batch, draw):
        loss = super().masked_loss(batch, draw)
        return loss * float("nan") if self.training and self.global_step >= 7 else loss


@pytest.mark.parametrize(("log_every", "checkpoint_every"), [(1, 5), (50, 5), (4, None)])
def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint(tmp_path, log_every, checkpoint_every):
    sampler = Uniform(0.2, 0.8, seed=1)
    message = (
        rf"the loss is NaN or infinite from step 7 \(mask ratio {sampler.sample(7):.4g}\) on; lower the learning rate"
    )
    with pytest.raises(UserError, match=message):
        train(tmp_path, module=Breaks(sampler, seed=3), log_every=log_every, checkpoint_every=checkpoint_every)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert last.exists() == bool(checkpoint_every)
    if checkpoint_every:
        checkpoint = torch.load(last, weights_only=True)
        assert checkpoint["global_step"] == 5
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_messages_about_the_gpu():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried 3 GiB\nand more")
    message = "the GPU's memory is full (CUDA out of memory. Tried 3 GiB); lower --batch_size"
    assert str(out_of_memory(error, "--batch_size")) == message
    assert peak_flops("cpu", None) is None
    assert peak_flops("cpu", 2.0) == 2e12


@pytest.mark.parametrize(("capability", "lines"), [("AVX2", 1), ("AVX512", 0)])
def test_imitated_bfloat16_is_said_once(capability, lines, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    _say_once.cache_clear()
    assert [precision("auto", "cpu"), *(precision("bf16-mixed", "cpu") for _ in range(2))] == ["32-true"] + 2 * [
        "bf16-mixed"
    ]
    assert capsys.readouterr().out.count("no instructions for bfloat16") == lines


def test_devices():
    assert resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match=r"'cuda' was requested, but torch .* sees no CUDA GPU"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="unknown device 'tpu'; known: auto, cpu, cuda, mps"):
        resolve_device("tpu")


class OneRatio(TinyMAE):
    takes_ratios = False


def test_a_scheme_that_the_model_would_ignore_is_refused():
    with pytest.raises(UserError, match="--ratio_per sample is not available for this model"):
        OneRatio(Fixed(0.5), ratio_per="sample")
    with pytest.raises(UserError, match="--loss_weight inverse_ratio is not available for this model"):
        TinyMAE(Fixed(0.5), loss_weight="inverse_ratio")
    with pytest.raises(UserError, match="does not go together with the learned loss weights"):
        TinyMAE(Curriculum(Fixed(0.5)), ratio_per="sample")

    with pytest.raises(UserError, match="--ratio_per must be one of step, micro_batch, sample, got 'stpe'"):
        TinyMAE(Fixed(0.5), ratio_per="stpe")

    class FourMethods:
        sample = bounds = mean = describe = None

    with pytest.raises(UserError, match="needs a sampler with a quantile, and FourMethods has none"):
        TinyMAE(FourMethods(), ratio_per="sample")


def test_each_sample_has_the_ratio_of_its_place_in_the_global_batch(tmp_path):
    """However the batch of 24 is divided: its rows hide their own exact counts."""
    sampler = Uniform(0.1, 0.9, seed=1)
    for batch_size, accumulate in ((24, 1), (8, 3), (4, 6)):
        module = TinyMAE(sampler, seed=3, ratio_per="sample")
        folder = tmp_path / f"{batch_size}"
        train(folder, module=module, batch_size=batch_size, accumulate_grad_batches=accumulate, max_steps=3)
        for step in range(3):
            draws = [value for (s, _), value in module.trace.items() if s == step]
            ratios = [ratio for micro, *_ in draws for ratio in micro]
            assert ratios == sampler.samples(step, 3, n=24).tolist()
            hidden = [sum(row) for _, mask, *_ in draws for row in mask]
            assert hidden == [n_masked(ratio, 12) for ratio in ratios]
        if accumulate == 1:
            logged = read_metrics(folder / "metrics.csv")["mask_ratio"]
            assert [value for _, value in logged] == pytest.approx([sampler.samples(i, n=24).mean() for i in range(3)])


def test_a_run_with_ratios_per_sample_resumes_bit_for_bit(tmp_path):
    def module():
        return TinyMAE(Uniform(0.1, 0.9, seed=1), seed=3, ratio_per="sample")

    arguments = {"accumulate_grad_batches": 3, "checkpoint_every": 4}
    whole, _ = train(tmp_path / "whole", module=module(), **arguments)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "cut", module=module(), callbacks=[StopAt(7)], **arguments)
    resumed, _ = train(tmp_path / "cut", module=module(), **arguments)
    assert same_weights(whole, resumed)
    metrics = read_metrics(tmp_path / "whole" / "metrics.csv")
    assert "loss" in metrics
    assert not [name for name in metrics if name.startswith("loss/ratio_")]  # a loss over many ratios is in no bin


class Weighted(TinyMAE):
    takes_loss_weight = True


def test_no_ratio_of_zero_is_divided_by(tmp_path):
    module = Weighted(LinearDecay(0.5, 0.0), loss_weight="inverse_ratio")
    with pytest.raises(UserError, match="cannot divide by the mask ratio 0 of step 3"):
        train(tmp_path / "run", module=module, max_steps=4)
    module = Weighted(Phases((0.5, 0.0), (1, 1)), loss_weight="inverse_ratio", ratio_per="sample")
    with pytest.raises(UserError, match="cannot divide by the mask ratio 0 of step 2"):
        train(tmp_path / "sample", module=module, max_steps=4)


def test_a_loss_that_is_not_finite_because_of_the_data_says_which_sample(tmp_path):
    data = samples()
    data[17, 3] = float("nan")

    def fit_it(rows):
        loader = ResumableLoader(BatchOrder(96, 8), lambda indices: rows[torch.from_numpy(indices)])
        run = RunFolder(tmp_path / str(len(list(tmp_path.iterdir()))), {})
        module = TinyMAE(Uniform(0.2, 0.8, seed=1), seed=3)
        fit(module, loader, run, max_steps=6, accumulate_grad_batches=2, device="cpu", log_every=6, progress=False)

    with pytest.raises(UserError, match=r"its batch holds NaN or infinite values: training sample 17, counted from 0"):
        fit_it(data)
    with pytest.raises(UserError, match=r"NaN or infinite from step 0 .*; no weight had changed by then"):
        fit_it(samples() * 1e30)
