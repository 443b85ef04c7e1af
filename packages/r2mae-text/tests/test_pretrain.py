import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from r2mae_core import MaskDraw, RunFolder, UserError, n_masked, read_metrics, read_records
from r2mae_text.data.prepare import prepare
from r2mae_text.export import export
from r2mae_text.model import masked_lm_loss
from r2mae_text.module import MaskedLanguageModule
from r2mae_text.options import Export, Prepare, Pretrain
from r2mae_text.pretrain import TextPretraining, pretrain
from r2mae_text.weights import load_pretrained

ARGS = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture
def config(corpus):
    return Pretrain(
        corpus.path, model="tiny", model_args=ARGS, length=32, batch_size=16, steps=8, lr=1e-2, device="cpu",
        out=Path("run"), progress=False, log_every=1, micro_batch_size=8,
    )  # fmt: skip


def weights(path):
    from safetensors.torch import load_file

    return load_file(Path(path) / "model" / "model.safetensors")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


class Trace(pl.Callback):
    """Keeps what every micro-batch saw."""

    def __init__(self):
        self.seen, self.loss = [], MaskedLanguageModule.masked_loss

    def __enter__(self):
        trace = self

        def masked_loss(module, batch, draw):
            if not module.training:
                return trace.loss(module, batch, draw)
            state = draw.generator.get_state()
            masked = module.mask(batch, draw)
            draw.generator.set_state(state)
            loss = trace.loss(module, batch, draw)
            step = module.global_step
            ratio = draw.ratio.tolist() if isinstance(draw.ratio, torch.Tensor) else draw.ratio
            trace.seen.append((step, ratio, batch.tolist(), masked.inputs.tolist(), loss.item()))
            return loss

        MaskedLanguageModule.masked_loss = masked_loss
        return self

    def __exit__(self, *_):
        MaskedLanguageModule.masked_loss = self.loss


def test_a_run_writes_what_it_says(config, corpus):
    run = pretrain(config)
    metrics = read_metrics(run.metrics_file)
    assert {"loss", "mask_ratio", "tokens_per_second", "tflops", "unigram_entropy", "val_loss/ratio_0.15"} <= set(
        metrics
    )
    assert len(metrics["loss"]) == 8
    assert all(0.15 <= ratio <= 0.4 for _, ratio in metrics["mask_ratio"])
    assert metrics["tokens"][-1] == (7, 8 * 16 * 32)
    assert metrics["loss"][0][1] == pytest.approx(np.log(400), abs=0.3)
    records = read_records(run.path)
    assert {r.metric for r in records} == {f"loss@{r:g}" for r in (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)}
    assert {(r.scheme, r.split, r.seed) for r in records} == {("r2mae", "validation", 0)}
    assert all(r.device.startswith("cpu") for r in records)
    again = pretrain(config)  # done: nothing is trained twice
    assert read_metrics(again.metrics_file) == metrics


def test_a_corpus_without_a_validation_split_trains_without_records(config, speeches):
    corpus = prepare(
        Prepare((speeches[0],), vocab_size=300, validation_share=0.0, workers=1, out=Path("c"), progress=False)
    )
    run = pretrain(replace(config, data=corpus.path, steps=2))
    assert (run.results(), load_pretrained(run.path)[0].config.vocab_size) == ([], 300)
    assert not [name for name in read_metrics(run.metrics_file) if name.startswith("val_loss")]


PER_ROW = {"ratio_per": "sample", "mask_shape": "spans", "loss_weight": "inverse_ratio"}


@pytest.mark.parametrize("changes", [{"micro_batch_size": 16}, {"micro_batch_size": 8}, {"optimizer": "muon"}, PER_ROW])
def test_resume_in_mid_epoch_is_bit_exact(config, changes, monkeypatch):
    config = replace(config, **changes, checkpoint_every=3)
    with Trace() as whole:
        pretrain(replace(config, out=Path("whole")))
    with monkeypatch.context() as patch, Trace() as first:
        patch.setattr(TextPretraining, "callbacks", lambda *_: [StopAt(5)])  # between two checkpoints
        with pytest.raises(UserError, match="interrupted at step 5"):
            pretrain(config)
    with Trace() as second:
        pretrain(config)
    assert second.seen[0][0] == 3  # from the checkpoint
    assert [s for s in first.seen if s[0] < 3] + second.seen == whole.seen
    assert same(weights("whole"), weights("run"))


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ratio_per": "sample", "mask_ratio": "mdlm"},
        {"ratio_per": "sample", "mask_ratio": "mdlm", "loss_weight": "inverse_ratio", "count": "bernoulli"},
        PER_ROW,
    ],
)
def test_the_result_does_not_depend_on_the_micro_batch(config, changes):
    config = replace(config, **changes)
    for micro in (16, 4, 2):
        out = Path(f"micro-{micro}")
        with Trace() as trace:
            pretrain(replace(config, micro_batch_size=micro, dropout=0.0, out=out, steps=4))
        per_step = {}
        for step, ratio, rows, masked, _ in trace.seen:
            entry = per_step.setdefault(step, ([], [], []))
            entry[0].extend(ratio if isinstance(ratio, list) else [ratio] * len(rows))
            entry[1].extend(rows)
            entry[2].extend(masked)
        if micro == 16:
            reference = per_step
            sampler = TextPretraining(config).sampler()
            for step, (ratios, _, _) in per_step.items():
                whole = [sampler.sample(step, 4)] * 16
                assert ratios == (sampler.samples(step, 4, n=16).tolist() if changes else whole)
        assert per_step == reference
        for name, value in weights(out).items():
            torch.testing.assert_close(value, weights("micro-16")[name], rtol=1e-4, atol=2e-5)


def test_epochs_have_other_rows_order_and_masks(corpus, config):
    """The trap of a seeded collator: every epoch hides the same tokens of a row."""
    rows = len(corpus.rows("train", 32))
    config = replace(
        config, batch_size=256, micro_batch_size=256, steps=2 * (rows // 256), mask_share=1.0, random_share=0
    )
    with Trace() as trace:
        pretrain(config)
    epoch = rows // 256
    first = {
        tuple(row): masked
        for step, _, batch, inputs, _ in trace.seen[:epoch]
        for row, masked in zip(batch, inputs, strict=True)
    }
    shared = same_masks = 0
    for _, _, batch, inputs, _ in trace.seen[epoch:]:
        for row, masked in zip(batch, inputs, strict=True):
            if tuple(row) in first:
                shared += 1
                same_masks += first[tuple(row)] == masked
    assert shared > 0.5 * rows
    assert same_masks == 0


def test_every_step_hides_other_places(config):
    """At a fixed ratio, so that nothing but the step can tell two masks apart."""
    shares = {"mask_share": 1.0, "random_share": 0.0}
    with Trace() as trace:
        pretrain(replace(config, mask_ratio=0.3, steps=4, **shares))
    hidden = [np.array(masked) == 4 for _, _, _, masked, _ in trace.seen]
    assert len(hidden) == 8
    for i in range(8):
        assert not any((hidden[i] == hidden[j]).all() for j in range(i))


def test_weight_decay_spares_biases_and_norms(config, corpus):
    from r2mae_core import Fixed

    module = TextPretraining(config).build(Fixed(0.15))
    module.total_steps = lambda: 10
    decaying, spared = module.configure_optimizers()["optimizer"].param_groups
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert {p.ndim for p in decaying["params"]} == {2}
    assert {p.ndim for p in spared["params"]} == {1}


@pytest.mark.parametrize("scheme", ["mdlm", "dynamic", 0.0, 1.0, "r2mae+dynamic"])
def test_no_scheme_gives_nan(config, scheme):
    run = pretrain(replace(config, mask_ratio=scheme, steps=4))
    assert all(np.isfinite(loss) for _, loss in read_metrics(run.metrics_file)["loss"])


def test_budgets(config, corpus):
    tokens = pretrain(replace(config, steps=None, tokens=16 * 32 * 3, out=Path("tokens")))
    assert read_metrics(tokens.metrics_file)["loss"][-1][0] == 2  # steps 0, 1, 2
    run = pretrain(replace(config, steps=None, minutes=0.01, out=Path("minutes"), **PER_ROW))
    kept = json.loads((run.path / "budget.json").read_text())
    assert kept["steps"] == max(int(0.6 / kept["seconds_per_step"]), 1)
    for wrong, message in [({"tokens": 5.0}, "give one of --steps"), ({"steps": 0}, "--steps must be at least 1")]:
        with pytest.raises(UserError, match=message):
            pretrain(replace(config, **wrong, out=Path(message)))


def test_going_on_from_a_checkpoint(config, corpus):
    pretrain(config)
    with Trace() as trace:
        more = replace(
            config, start="run", model="medium", model_args={}, out=Path("more"), steps=1, lr=0.0, mask_ratio=0.15
        )
        run = pretrain(more)
    model, _ = load_pretrained("run")
    module = MaskedLanguageModule(model, None, TextPretraining(config).rule, batch_size=16, lr=1.0)
    assert same(weights("run"), weights("more"))
    assert run.path.name == "more"
    assert trace.seen[0][4] < np.log(400)
    assert module.rule.vocab_size == 400


def test_a_checkpoint_with_another_tokenizer_is_refused(config, corpus, tmp_path, speeches):
    pretrain(config)
    other = prepare(Prepare((speeches[0],), vocab_size=380, workers=1, out=Path("other"), progress=False))
    with pytest.raises(UserError, match="trained with another tokenizer than the corpus was prepared with"):
        pretrain(replace(config, data=other.path, start="run", model="medium", model_args={}, out=Path("more")))


def test_padding_the_vocabulary_changes_no_logit(config):
    run = pretrain(replace(config, pad_vocab_to=64, steps=2))
    model, tokenizer = load_pretrained(run.path)
    assert model.config.vocab_size == len(tokenizer) == 400
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    padded = state["model.roberta.embeddings.word_embeddings.weight"]
    assert padded.shape[0] == 448
    assert torch.equal(padded[:400], model.get_input_embeddings().weight)
    assert torch.equal(state["model.lm_head.bias"][:400], model.lm_head.bias)


def test_memory_that_is_full_is_a_message(config, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("r2mae_text.module.masked_lm_loss", full)
    with pytest.raises(UserError, match=r"memory is full \(CUDA out of memory.*lower --micro_batch_size"):
        pretrain(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": "r3mae"}, "unknown mask scheme 'r3mae'"),
        ({"mask_ratio": "cl"}, "text models have no curriculum weights"),
        ({"device": "cuda"}, "sees no CUDA GPU"),
        ({"length": 100_000}, "less than one row of 100000"),
        ({"batch_size": 10**6}, "samples do not fill a batch of 1,000,000"),
        ({"micro_batch_size": 5}, "--batch_size 16 is not a multiple of --micro_batch_size 5"),
        ({"mask_share": 0.9, "random_share": 0.2}, "must not add up to more than 1"),
        ({"mean_span": 3.0}, "--mean_span is of --mask_shape spans; leave it out, or choose spans"),
        ({"mask_shape": "spans", "mean_span": 0.5}, "--mean_span must be at least 1, got 0.5"),
        ({"mask_shape": "spans", "count": "bernoulli"}, "--count bernoulli hides every token by itself, not --mask_sh"),
        (
            {"mask_ratio": 0.0, "loss_weight": "inverse_ratio", "count": "bernoulli"},
            "cannot divide by the mask ratio 0",
        ),
        ({"model": "nosuch"}, "unknown model 'nosuch'; known: tiny, .* a checkpoint is given with --start nosuch"),
        ({"start": "nosuch"}, "--model .for new models., --model_args .for new models. does not apply to --start"),
        ({"start": "nosuch", "model": "medium", "model_args": {}}, "no model 'nosuch' here or on the hub"),
        ({"devices": 2, "out": None}, "several devices need --out"),
        ({"strategy": "fsdp", "compile": True}, "choose one"),
    ],
)
def test_bad_options_are_refused(config, changes, message):
    with pytest.raises(UserError, match=message):
        pretrain(replace(config, **changes))


SCRIPT = Path(__file__).with_name("two_ranks.py")


def two_ranks(corpus, folder, strategy, ratio_per="step"):
    """Run two processes and return what each rank saw."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(SCRIPT), str(corpus.path), str(folder), strategy, ratio_per]
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{strategy}-rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def ddp(corpus, tmp_path_factory):
    """The folder of a run of two processes with a whole model each, and what each of them saw."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, two_ranks(corpus, folder, "ddp")


def one_process(corpus, folder, ratio_per):
    """Do in this process, accumulating, what two ranks do, and return what every micro-batch saw."""
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with Trace() as trace:
        pretrain(module.settings(corpus.path, folder, devices=1, ratio_per=ratio_per))
    return [(step, ratio, rows, masked) for step, ratio, rows, masked, _ in trace.seen]


def test_two_ranks_share_the_ratio_and_differ_in_rows_and_noise(tmp_path, corpus, ddp):
    """Two processes equal one that accumulates: same rows, masks, ratio and, to rounding, weights."""
    folder, ranks = ddp
    assert len(ranks[0]) == len(ranks[1]) == 4
    for (step0, ratio0, rows0, masked0), (step1, ratio1, rows1, masked1) in zip(*ranks, strict=True):
        assert (step0, ratio0) == (step1, ratio1)
        assert rows0 != rows1
        assert masked0 != masked1
    alone = one_process(corpus, tmp_path / "one", "step")
    assert [entry for pair in zip(*ranks, strict=True) for entry in pair] == alone
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(value, weights(folder / "ddp")[name], rtol=1e-4, atol=2e-5)
    for one, two in zip(validations(tmp_path / "one"), validations(folder / "ddp"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_two_ranks_have_the_ratios_of_their_own_rows(tmp_path, corpus):
    ranks = two_ranks(corpus, tmp_path, "ddp", "sample")
    both = [entry for pair in zip(*ranks, strict=True) for entry in pair]
    assert both == one_process(corpus, tmp_path / "one", "sample")
    assert len({ratio for _, ratios, _, _ in both for ratio in ratios}) == 4 * 16
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(value, weights(tmp_path / "ddp")[name], rtol=1e-4, atol=2e-5)


def validations(path):
    return [value for _, value in read_metrics(path / "metrics.csv")["val_loss/ratio_0.15"]]


def test_a_divided_model_is_trained_and_saved_like_a_whole_one(corpus, ddp):
    folder, ranks = ddp
    assert two_ranks(corpus, folder, "fsdp") == ranks
    for name, value in weights(folder / "ddp").items():
        torch.testing.assert_close(value, weights(folder / "fsdp")[name], rtol=1e-4, atol=2e-5)
    assert len(validations(folder / "fsdp")) == 2
    for one, two in zip(validations(folder / "ddp"), validations(folder / "fsdp"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    for one, two in zip(read_records(folder / "ddp"), read_records(folder / "fsdp"), strict=True):
        assert (one.metric, two.value) == (two.metric, pytest.approx(one.value, rel=1e-4))
    model, _ = load_pretrained(folder / "fsdp")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    shutil.rmtree(folder / "fsdp" / "model")  # as a run that has not ended
    plain = export(Export(folder / "fsdp", out=folder / "plain"))
    exported, _ = load_pretrained(plain)
    assert same(exported.state_dict(), model.state_dict())


def test_the_module_alone_in_a_loop_of_ones_own(config, corpus):
    """`masked_loss` needs no trainer: the API of the README."""
    from r2mae_core import Fixed

    module = TextPretraining(config).build(Fixed(0.15)).eval()
    batch = torch.from_numpy(corpus.rows("train", 32)[np.arange(4)])
    draw = MaskDraw(0.15, torch.Generator().manual_seed(0))
    masked = module.mask(batch, MaskDraw(0.15, torch.Generator().manual_seed(0)))
    expected = masked_lm_loss(module.model, masked.inputs, masked.positions, masked.targets)
    assert module.masked_loss(batch, draw).item() == expected.item()
    assert isinstance(RunFolder("x", {}), RunFolder)


@pytest.fixture
def trained_on(config, corpus):
    """options → (module without dropout in training mode, 16 rows)."""

    def build(**changes):
        task = TextPretraining(replace(config, dropout=0.0, mask_share=1.0, random_share=0.0, **changes))
        batch = torch.from_numpy(corpus.rows("train", 32)[np.arange(16)])
        return task.build(task.sampler()).train(), batch

    return build


RATIOS = torch.linspace(0.05, 0.95, 16, dtype=torch.float64)


@pytest.mark.parametrize("changes", [{}, {"count": "bernoulli"}, {"mask_shape": "spans"}])
@pytest.mark.parametrize("ratio", [0.3, RATIOS], ids=["per step", "per sample"])
def test_the_loss_is_lladas(trained_on, changes, ratio):
    """GUIDELINES.md of ML-GSAI/LLaDA; <s> is never hidden here, so a row has L - 1 places."""
    module, batch = trained_on(loss_weight="inverse_ratio", **changes)
    draw = MaskDraw(ratio, torch.Generator().manual_seed(1), loss_weight="inverse_ratio")
    loss = module.masked_loss(batch, draw)
    noisy_batch, input_ids = (
        module.mask(batch, replace(draw, generator=draw.generator.manual_seed(1))).inputs,
        batch.long(),
    )
    masked_indices = noisy_batch != input_ids
    p_mask = torch.as_tensor(ratio).expand(16)[:, None].repeat(1, 32)
    logits = module.model(input_ids=noisy_batch).logits
    token_loss = (
        torch.nn.functional.cross_entropy(logits[masked_indices], input_ids[masked_indices], reduction="none")
        / p_mask[masked_indices]
    )
    assert masked_indices.sum() > 50
    assert loss.item() == pytest.approx((token_loss.sum() / (16 * 31)).item(), rel=1e-6)


@pytest.mark.parametrize("ratio", [0.3, RATIOS], ids=["per step", "per sample"])
def test_without_a_weight_the_loss_is_the_mean_over_hidden_tokens(trained_on, ratio):
    module, batch = trained_on()
    generator = torch.Generator().manual_seed(1)
    loss = module.masked_loss(batch, MaskDraw(ratio, generator))
    masked = module.mask(batch, MaskDraw(ratio, generator.manual_seed(1)))
    assert loss.item() == pytest.approx(module.model(masked.inputs, labels=masked.labels()).loss.item(), rel=1e-5)
    assert len(masked.positions) == sum(n_masked(float(each), 31) for each in torch.as_tensor(ratio).expand(16))


def test_validation_does_not_depend_on_how_the_training_hides(trained_on):
    losses = set()
    for changes in ({}, {**PER_ROW}, {"count": "bernoulli"}):
        module, batch = trained_on(**changes)
        losses.add(module.eval().masked_loss(batch, MaskDraw(0.15, torch.Generator().manual_seed(1))).item())
    assert len(losses) == 1
