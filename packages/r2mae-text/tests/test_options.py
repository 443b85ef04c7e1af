"""Options reach the optimizer, the schedule, the loader and the trainer: every value here differs from its default."""

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

import r2mae_text.finetune as finetune_module
import r2mae_text.paper as paper_module
import r2mae_text.tuning as tuning_module
from r2mae_core import (
    Record,
    RunFolder,
    StepCheckpoints,
    UserError,
    compare,
    derived_seed,
    permutation,
    read_metrics,
    read_records,
)
from r2mae_text import TASKS, build_model, export_run
from r2mae_text.data.glue import Examples
from r2mae_text.evaluate import RANK_BY
from r2mae_text.finetune import finetune
from r2mae_text.options import Finetune, Pretrain, Reproduce
from r2mae_text.paper import reproduce
from r2mae_text.pretrain import TextPretraining, pretrain
from r2mae_text.tuning import Tuned

ARGS = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
REST = [7 / 7, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]


class Watch(pl.Callback):
    """Keeps what a training was built with, and the learning rate of every step."""

    def __init__(self):
        self.rates, self.batches = [], []

    def on_train_start(self, trainer, module):
        self.trainer, self.module = trainer, module
        self.groups = [dict(group, params=list(group["params"])) for group in trainer.optimizers[0].param_groups]
        self.start = {name: value.clone() for name, value in module.model.state_dict().items()}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(TextPretraining, "callbacks", lambda *_: [watch])
    return watch


@pytest.fixture
def config(corpus):
    return Pretrain(
        corpus.path, length=24, mask_ratio=0.3, mask_share=0.5, random_share=0.3, model="tiny", model_args=ARGS,
        dropout=0.2, steps=10, batch_size=16, micro_batch_size=4, lr=3e-3, warmup=0.3, weight_decay=0.2,
        betas=(0.8, 0.95), clip=0.5, seed=7, device="cpu", precision="bf16-mixed", validate_every=5,
        checkpoint_every=3, log_every=2, out=Path("run"), progress=False,
    )  # fmt: skip


def test_pretraining_is_built_as_the_options_say(config, corpus, watch):
    pretrain(config)
    decaying, spared = watch.groups
    assert [group["weight_decay"] for group in watch.groups] == [0.2, 0.0]
    assert [group["betas"] for group in watch.groups] == [(0.8, 0.95)] * 2
    assert {p.ndim for p in decaying["params"]} == {2}
    assert {p.ndim for p in spared["params"]} == {1}
    assert len(decaying["params"]) + len(spared["params"]) == len(list(watch.module.parameters()))
    expected = [3e-3 * factor for factor in (1 / 4, 2 / 4, 3 / 4, *REST)]  # three steps of warm-up, then linear
    assert [rate for rate, _ in watch.rates] == pytest.approx(expected)
    assert [rate for _, rate in watch.rates] == pytest.approx(expected)
    trainer = watch.trainer
    assert (trainer.max_steps, trainer.accumulate_grad_batches) == (10, 4)
    assert (trainer.gradient_clip_val, trainer.precision) == (0.5, "bf16-mixed")
    assert (trainer.log_every_n_steps, trainer.val_check_interval) == (2, 5 * 4)
    assert next(c for c in trainer.callbacks if isinstance(c, StepCheckpoints)).every == 3
    rows, module = corpus.rows("train", 24), watch.module
    order = permutation(len(rows), 7, 0)
    assert [tuple(batch.shape) for batch in watch.batches] == [(4, 24)] * 40
    for i in range(8):
        assert np.array_equal(watch.batches[i].numpy(), rows[order[4 * i : 4 * i + 4]])
    assert (module.seed, module.ratio_per, module.batch_size) == (7, "step", 16)
    assert (module.rule.mask_share, module.rule.random_share, module.rule.count) == (0.5, 0.3, "exact")
    assert (module.model.config.hidden_dropout_prob, module.model.config.attention_probs_dropout_prob) == (0.2, 0.2)
    start = build_model("tiny", corpus.tokenizer, length=24, seed=7, model_args=ARGS).state_dict()
    assert all(torch.equal(value, watch.start[name]) for name, value in start.items())
    held_out = trainer.val_dataloaders
    assert (held_out.batch_size, len(held_out.rows)) == (32, min(len(corpus.rows("validation", 24)), 256))


def test_other_choices_reach_the_module(config, corpus, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda loss: compiled.append(loss) or loss)
    changed = replace(config, ratio_per="micro_batch", count="bernoulli", compile=True, pad_vocab_to=64)
    task = TextPretraining(changed)
    module = task.build(task.sampler())
    assert (module.ratio_per, module.rule.count, len(compiled)) == ("micro_batch", "bernoulli", 1)
    assert module.model.config.vocab_size == 448
    changed = replace(config, ratio_per="sample", loss_weight="inverse_ratio", mask_shape="spans", mean_span=5.0)
    module = TextPretraining(changed).build(TextPretraining(changed).sampler())
    assert (module.ratio_per, module.loss_weight) == ("sample", "inverse_ratio")
    assert (module.rule.mask_shape, module.rule.mean_span) == ("spans", 5.0)


def test_positions_may_start_as_sinusoids(config):
    changed = replace(config, position_start="sinusoidal")
    module = TextPretraining(changed).build(TextPretraining(changed).sampler())
    table = module.model.base_model.embeddings.position_embeddings.weight[2:]
    assert torch.cosine_similarity(table[:100], table[1:101]).mean() > 0.9  # neighbours are alike


@pytest.mark.parametrize(("model", "lr"), [("base", 3e-4), ("medium", 7e-4)])
def test_the_learning_rate_of_each_size_is_the_papers(config, monkeypatch, model, lr):
    monkeypatch.setattr("r2mae_text.pretrain.start_model", lambda *_: torch.nn.Linear(1, 1))
    assert TextPretraining(replace(config, model=model, lr=None)).build(None).lr == lr


@pytest.mark.parametrize("changes", [{"seed": 8}, {"lr": 1e-3}, {"mask_share": 0.6}, {"batch_size": 8}])
def test_resuming_with_another_value_is_refused(config, changes):
    config = replace(config, steps=1)
    pretrain(config)
    (name,) = changes
    with pytest.raises(UserError, match=f"holds a run with another config: {name} is .* there and .* here"):
        pretrain(replace(config, **changes))
    pretrain(replace(config, micro_batch_size=8))  # the division of a step may change


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


@pytest.fixture
def splits():
    labels = np.arange(20) % 2
    texts = [f"the {('union', 'congress')[i % 2]} of {i} states" for i in range(20)]
    return {split: Examples((texts,), labels, {}) for split in ("train", "validation")}


@pytest.fixture
def tuning(monkeypatch):
    """What every step of a fine-tuning used."""
    seen = {"rates": [], "seeds": [], "norms": [], "groups": [], "sizes": []}
    original, logits = tuning_module.adamw, tuning_module.forward

    def adamw(*args, **options):
        made = original(*args, **options)
        optimizer = made["optimizer"]
        seen["groups"] = optimizer.param_groups

        def watched(*_):
            seen["rates"].append(optimizer.param_groups[0]["lr"])
            gradients = [p.grad.norm() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            seen["norms"].append(float(torch.stack(gradients).norm()))

        optimizer.register_step_pre_hook(watched)
        return made

    def watched_logits(model, data, which, *rest):
        if model.training:
            seen["seeds"].append(torch.initial_seed())
            seen["sizes"].append((len(which), len(data), int(data.lengths().max())))
        return logits(model, data, which, *rest)

    monkeypatch.setattr(tuning_module, "adamw", adamw)
    monkeypatch.setattr(tuning_module, "forward", watched_logits)
    return seen


def test_fine_tuning_follows_its_options(folder, splits, tuning, monkeypatch):
    loss = tuning_module.loss_of
    monkeypatch.setattr(tuning_module, "loss_of", lambda *args: 1e3 * loss(*args))  # gradients that must be clipped
    settings = {"epochs": 2, "lr": 1e-2, "warmup": 0.25, "weight_decay": 0.3, "batch_size": 4, "max_length": 6}
    tuning_module.finetune_task(folder, TASKS["sst2"], splits, 5, max_train=16, **settings)
    expected = [1e-2 * factor for factor in (1 / 3, 2 / 3, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    assert tuning["rates"] == pytest.approx(expected)
    assert tuning["seeds"] == [derived_seed(5, "dropout", step) for step in range(8)]
    assert tuning["norms"] == pytest.approx([1.0] * 8, rel=1e-3)
    assert tuning["sizes"] == [(4, 16, 6)] * 8
    decaying, spared = tuning["groups"]
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in spared["params"]} == {1}


def test_the_options_of_finetune_reach_every_task_and_seed(folder, monkeypatch):
    calls = []

    def record(model, task, splits, seed, **settings):
        log = settings.pop("log")  # that of the seed
        log({"loss": 0.25}, seed)
        calls.append((seed, settings))
        return Tuned({"validation": {"accuracy": 0.5}})

    monkeypatch.setattr(finetune_module, "tune", record)
    settings = {"epochs": 2, "lr": 1e-3, "warmup": 0.2, "weight_decay": 0.3, "batch_size": 8, "max_length": 16}
    settings |= {"max_train": 40, "evaluate": "end", "class_weights": "balanced", "micro_batch_size": 4, "clip": 0.7}
    finetune(
        Finetune(str(folder), ("movies",), seeds=(3, 4), precision="bf16-mixed", device="cpu", progress=False,
                 out=Path("tuned"), keep="none", **settings)
    )  # fmt: skip
    assert calls == [
        (seed, {**settings, "keep": "last", "patience": None, "device": "cpu", "bf16": True, "progress": False})
        for seed in (3, 4)
    ]
    logged = {seed: read_metrics(Path("tuned") / "logs" / f"movies-{seed}" / "metrics.csv") for seed in (3, 4)}
    assert logged == {seed: {"loss": [(seed, 0.25)]} for seed in (3, 4)}


@pytest.fixture
def stages(monkeypatch):
    """Reproduce's pretrainings and fine-tunings, recorded instead of done."""
    calls = {"pretrain": [], "finetune": []}

    def stage(verb, metric):
        def done(options):
            calls[verb].append(options)
            run = RunFolder(options.out, {})
            seeds = options.seeds if verb == "finetune" else (options.seed,)
            run.write_results([Record("sst2", metric, 0.5 + seed / 10, "fixed 0.2", seed, 9) for seed in seeds])
            return run

        return done

    monkeypatch.setattr(paper_module, "pretrain", stage("pretrain", "loss@0.15"))
    monkeypatch.setattr(paper_module, "finetune", stage("finetune", "accuracy"))
    return calls


def test_the_options_of_reproduce_reach_both_stages(stages, corpus, tmp_path):
    (tmp_path / "glue" / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):  # are only looked for
        (tmp_path / "glue" / "sst2" / f"{split}.tsv").write_text("")
    shared = {"device": "cpu", "precision": "32-true", "progress": False}
    first = {"length": 64, "tokens": 1e6, "batch_size": 64, "micro_batch_size": 8, "lr": 1e-3, "compile": True}
    config = Reproduce(
        "fig2c", corpus.path, "glue", ("sst2",), ratios=(0.2,), models=("tiny",), epochs=2, finetune_lr=1e-4,
        seeds=(1,), out=tmp_path / "run", **first, **shared,
    )  # fmt: skip
    reproduce(config)
    home = tmp_path / "run" / "tiny-fixed-0.2-0"
    (trained,), (tuned,) = stages["pretrain"], stages["finetune"]
    assert (trained.data, trained.model, trained.out) == (corpus.path, "tiny", home / "pretrain")
    assert trained.mask_ratio.ratio == 0.2
    assert {name: getattr(trained, name) for name in (*first, *shared)} == {**first, **shared}
    assert (tuned.model, tuned.out) == (str(home / "pretrain"), home / "finetune")
    assert (tuned.tasks, tuned.task_data, tuned.epochs, tuned.lr, tuned.seeds) == (("sst2",), "glue", 2, 1e-4, (1,))
    assert {name: getattr(tuned, name) for name in shared} == shared
    reproduce(replace(config, seeds=(1, 2)))  # a finished model is fine-tuned with further seeds
    assert {r.seed for r in read_records(tmp_path / "run") if r.metric == "accuracy"} == {1, 2}


@pytest.mark.parametrize("metric", ["accuracy", "mcc", "spearman"])
def test_the_greater_score_has_the_better_rank(metric):
    records = [Record("cola", metric, value, name, 0, 9) for name, value in (("low", 0.2), ("high", 0.8))]
    records += [Record("text", "loss@0.15", value, name, 0, 9) for name, value in (("low", 1.0), ("high", 2.0))]
    ranks = {row.split("|")[1].strip(): float(row.split("|")[-2]) for row in rows_of(compare(records, RANK_BY))}
    assert ranks == {"low": 2.0, "high": 1.0}


def rows_of(table):
    return table.markdown().strip().splitlines()[2:]
