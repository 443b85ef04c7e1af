"""The numbers of appendices C.2 and C.6 as literals, against what the `paper…` recipes and `reproduce` build.

"HuggingFace's default" is that of transformers' TrainingArguments and RobertaConfig, written here beside each number.
"""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import r2mae_core.train.pretraining as core_pretraining
import r2mae_text.finetune as finetuning
import r2mae_text.paper as paper
import r2mae_text.pretrain as pretraining
import r2mae_text.tuning as tuning
from r2mae_core import UserError
from r2mae_text.data.glue import TASKS
from r2mae_text.masking import mask_tokens
from r2mae_text.metrics import score
from r2mae_text.model import build_model, masked_lm_loss
from r2mae_text.options import Reproduce
from r2mae_text.tokenizer import load_tokenizer, vocabulary_size

STEPS = 38_147  # 10e9 tokens in batches of 2048 · 128
RATES = {"medium": 7e-4, "base": 3e-4}  # C.6: "a learning rate of 7e-4/3e-4 for the RoBERTa-medium/base models"


class _Many:
    """The rows of a corpus over and over, as many as fill two batches of the paper."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return 4096

    def __getitem__(self, which):
        return self.rows[np.asarray(which) % len(self.rows)]


@pytest.fixture
def built(corpus, call, monkeypatch):
    """Call `pretrain` up to the first step; returns what it hands to `fit`. The network is a small one."""
    seen = {}

    def stop(module, loader, run, **settings):
        seen.update(settings, module=module, loader=loader)
        raise UserError("stopped before the first step")

    def small(config, corpus):
        seen["model"] = config.model, config.model_args, config.dropout, config.start
        return build_model("tiny", corpus.tokenizer)

    rows = pretraining.Corpus.rows
    monkeypatch.setattr(pretraining.Corpus, "rows", lambda self, *which: _Many(rows(self, *which)))
    monkeypatch.setattr(core_pretraining, "fit", stop)
    monkeypatch.setattr(pretraining, "start_model", small)

    def build(*words):
        code, _, err = call("pretrain", corpus.path, *words, "--device", "cpu", "--no-progress")
        assert (code, "stopped before" in err) == (1, True), err
        return seen

    return build


@pytest.mark.parametrize(("size", "shape"), [("medium", (512, 8, 8, 2048, 514)), ("base", (768, 12, 12, 3072, 514))])
def test_networks(tokenizer, size, shape):
    with torch.device("meta"):
        model = build_model(size, tokenizer, length=128)
    layers = model.roberta.encoder.layer
    found = (
        layers[0].attention.self.query.in_features, len(layers), layers[0].attention.self.num_attention_heads,
        layers[0].intermediate.dense.out_features, model.roberta.embeddings.position_embeddings.num_embeddings,
    )  # fmt: skip
    assert found == shape  # "hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048 …"
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1
    assert model.config.hidden_act == "gelu"
    assert model.config.initializer_range == 0.02
    assert model.roberta.embeddings.token_type_embeddings.num_embeddings == 1  # the public RoBERTa's, see docs/paper.md
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


def test_vocabulary_and_sizes():
    tokenizer = load_tokenizer("gpt2")  # RoBERTa's own pieces
    assert vocabulary_size(tokenizer) == 50_265  # "vocab_size=50265"
    for size, millions in {"medium": 52, "base": 125}.items():  # table 2: "52M", "125M"
        with torch.device("meta"):
            model = build_model(size, tokenizer, length=128)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize("size", ["medium", "base"])
def test_optimizer_schedule_batches_and_length(built, size):
    found = built("-c", f"paper-{size}")
    module, loader = found["module"], found["loader"]
    assert found["model"] == (size, {}, None, None)
    rows = loader.batch_at(0)[1]
    assert rows.shape[1] == 128  # "a max sequence length of 128"
    assert len(rows) * found["accumulate_grad_batches"] == 2048  # "an effective batch size of 2048"
    assert found["max_steps"] == STEPS  # "for 10B tokens" (section 4.2)
    assert found["gradient_clip_val"] == 1.0  # TrainingArguments.max_grad_norm
    module.total_steps = lambda: STEPS
    parts = module.configure_optimizers()
    optimizer = parts["optimizer"]
    assert type(optimizer) is torch.optim.AdamW
    assert [(g["weight_decay"], g["betas"], g["eps"], g["initial_lr"]) for g in optimizer.param_groups] == [
        (0.01, (0.9, 0.999), 1e-8, RATES[size]), (0.0, (0.9, 0.999), 1e-8, RATES[size])  # "a weight decay of 0.01"
    ]  # fmt: skip
    assert {p.ndim for p in optimizer.param_groups[1]["params"]} == {1}
    rate = parts["lr_scheduler"]["scheduler"].lr_lambdas[0]
    rise = 1144  # "a warmup ratio of 0.03"
    middle = (STEPS + rise) // 2
    at = {step: rate(step) for step in (0, rise // 2, rise, middle, STEPS)}
    # "default linear learning rate decay"
    assert at == pytest.approx({0: 0, rise // 2: 0.5, rise: 1, middle: 0.5, STEPS: 0}, abs=2e-3)
    rule = module.rule
    assert (rule.mask_share, rule.random_share, rule.count, rule.mask_shape) == (0.8, 0.1, "exact", "independent")


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("fixed", (0.15, 0.15), (0.15, 0.15)),  # "MR 0.15 is the MLM default"
        ("high", (0.4, 0.4), (0.4, 0.4)),  # "an MR of 0.4 is recommended"
        ("mdlm", (0.0, 1.0), (0.0, 1.0)),
        ("dynamic", (0.4, 0.4), (0.15, 0.15)),
        ("r2mae", (0.15, 0.4), (0.15, 0.4)),
    ],
)
def test_ranges_of_the_schemes(built, name, first, last):
    sampler = built("-c", "paper-base", "--mask_ratio", name)["module"].mask_ratio
    assert sampler.bounds(0, STEPS) == pytest.approx(first)
    assert sampler.bounds(STEPS - 1, STEPS) == pytest.approx(last, abs=1e-5)
    if name == "dynamic":  # "the number of training steps": straight down
        assert sampler.bounds(STEPS // 2, STEPS) == pytest.approx((0.275, 0.275), abs=1e-4)


def test_masks_of_the_recipe(built):
    rule = built("-c", "paper-medium")["module"].rule
    tokens = torch.randint(10, 390, (400, 128), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = rule.special_ids[0]
    masked = mask_tokens(tokens, 0.15, rule, generator=torch.Generator().manual_seed(1))
    labels = masked.labels()
    assert ((labels != -100).sum(1) == 19).all()  # "A constant fraction of tokens": 0.15 of the 127 that are no <s>
    shown, true = masked.inputs[labels != -100], labels[labels != -100]
    assert (shown == rule.mask_id).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (shown == true).float().mean().item() == pytest.approx(0.1, abs=0.015)


def test_loss_on_a_worked_example(tiny, tokenizer, built):
    """The mean cross-entropy of the hidden tokens."""
    rule = replace(built("-c", "paper-medium")["module"].rule, special_ids=(0,))
    tokens = torch.randint(10, 390, (3, 32), generator=torch.Generator().manual_seed(0))
    masked = mask_tokens(tokens, 0.25, rule, generator=torch.Generator().manual_seed(1))
    logits = tiny(input_ids=masked.inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), masked.labels().flatten(), ignore_index=-100)
    loss = masked_lm_loss(tiny, masked.inputs, masked.positions, masked.targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


class CountedAdamW(torch.optim.AdamW):
    """AdamW that is counted: what it was made with, and the rates of its steps."""

    made: ClassVar = []

    def __init__(self, parameters, **settings):
        super().__init__(parameters, **settings)
        self.rates = []
        self.made.append(self)

    def step(self, *arguments):
        self.rates.append(self.param_groups[0]["lr"])


@pytest.fixture
def glue(tmp_path):
    """100 training and 10 held-out rows of each of the paper's four tasks."""
    for name in ("mnli", "qqp", "sst2", "qnli"):
        task = TASKS[name]
        for split in ("train", *task.splits):
            file = tmp_path / "glue" / name / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {**dict.fromkeys(task.columns, f"the union {i}"), "label": i % len(task.labels)}
                for i in range(100 if split == "train" else 10)
            ]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "glue"


def test_fine_tuning(glue, tiny, tokenizer, call, tmp_path, monkeypatch):
    import r2mae_text.weights as weights

    monkeypatch.setattr(CountedAdamW, "made", [])
    monkeypatch.setattr(torch.optim, "AdamW", CountedAdamW)
    clipped, kept = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: (clipped.append(most), kept(p, most))[1])
    weights.save_model(tiny, tokenizer, tmp_path / "model")
    code, _, err = call(
        "finetune", tmp_path / "model", "-c", "paper-glue", "--task_data", glue, "--device", "cpu", "--no-progress",
        "--out", "run", "--max_length", 30,
    )  # fmt: skip
    assert code == 0, err
    # "MNLI, QQP, SST-2, QNLI … three fine-tuning runs"
    assert {p.stem for p in (tmp_path / "run/parts").iterdir()} == {
        f"{task}-{seed}" for task in ("mnli", "qqp", "sst2", "qnli") for seed in range(3)
    }
    assert len(CountedAdamW.made) == 12
    for adam in CountedAdamW.made:
        assert len(adam.rates) == 5 * 4  # "for 5 epochs": 100 rows in batches of 32, the last one smaller
        # "a learning rate of 2e-5", TrainingArguments' linear schedule without warm-up, and its decay of 0
        assert adam.rates == pytest.approx([2e-5 * (1 - i / 20) for i in range(20)])
        assert {g["weight_decay"] for g in adam.param_groups} == {0.0}
        assert {g["betas"] for g in adam.param_groups} == {(0.9, 0.999)}
    assert set(clipped) == {1.0}


def test_glues_metrics():
    rng = np.random.default_rng(0)
    for name, splits in {
        "mnli": ("validation_matched", "validation_mismatched"), "qqp": ("validation",), "sst2": ("validation",),
        "qnli": ("validation",),
    }.items():  # fmt: skip
        task = TASKS[name]
        assert task.splits == splits
        logits, labels = rng.normal(size=(50, len(task.labels))), rng.integers(0, len(task.labels), 50)
        assert score(task, logits, labels)["accuracy"] == (logits.argmax(1) == labels).mean()
    assert paper._COLUMNS == {"mnli-matched": "MNLI", "qqp": "QQP", "sst2": "SST-2", "qnli": "QNLI"}


def test_reproduce_trains_and_tunes_the_same_recipe(corpus, glue, monkeypatch, tmp_path):
    config = Reproduce("table2", corpus.path, str(glue), device="cpu", progress=False, out=tmp_path / "run")
    runs = [paper._pretrain(config, corpus.path, size, sampler) for size, sampler in paper.grid(config)]
    assert [(run.model, run.mask_ratio.bounds(0, STEPS)) for run in runs] == [
        (size, pytest.approx(bounds))
        for size in ("medium", "base")
        for bounds in ((0.15, 0.15), (0.4, 0.4), (0, 1), (0.4, 0.4), (0.15, 0.4))
    ]
    for run in runs:
        task = pretraining.TextPretraining(run)
        monkeypatch.setattr(pretraining, "start_model", lambda *_: build_model("tiny", corpus.tokenizer))
        module = task.build(task.sampler())
        assert module.lr == RATES[run.model]
        found = (run.tokens, run.batch_size, run.length, run.warmup, run.weight_decay, run.betas, run.clip)
        assert found == (10e9, 2048, 128, 0.03, 0.01, (0.9, 0.999), 1.0)
    seen = []

    def pretrained(options):
        return type("R", (), {"path": tmp_path, "results": lambda self: []})()

    def tuned(options):
        seen.append(options)
        return type("R", (), {"results": lambda self: []})()

    monkeypatch.setattr(paper, "pretrain", pretrained)
    monkeypatch.setattr(paper, "finetune", tuned)
    paper._measure(config, runs[0], tmp_path)
    (options,) = seen
    assert (options.tasks, options.epochs, options.lr, options.batch_size) == (
        ("mnli", "qqp", "sst2", "qnli"), 5, 2e-5, 32
    )  # fmt: skip
    assert (options.seeds, options.warmup, options.weight_decay, options.max_length) == ((0, 1, 2), 0.0, 0.0, 128)
    assert finetuning.tune is tuning.tune


def test_grids_of_the_figures():
    for target in ("fig1f", "fig2c"):
        grid = paper.grid(Reproduce(target))
        assert [(size, s.bounds(0)[0]) for size, s in grid] == [
            (size, ratio) for size in ("medium", "base") for ratio in (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        ]


def test_figure_1f_is_shifted_and_scaled_by_the_stated_ratios():
    """C.2: zero at 0 on the line through 0.15 and 0.3; one slope between 0.4 and 0.8."""
    curve = {0.15: 90.0, 0.3: 89.0, 0.4: 88.5, 0.6: 86.0, 0.8: 84.5}
    at_zero = 0.10 - 0.01  # the line through (0.15, 0.10) and (0.3, 0.11)
    expected = {r: ((100 - a) / 100 - at_zero) / (0.155 - 0.115) for r, a in curve.items()}
    assert paper.normalised_errors(curve) == pytest.approx(expected)


def test_table_2():
    names = ("fixed 0.15", "high 0.4", "mdlm", "dynamic", "r2mae")
    medium = [(80.8, 89.8, 89.9, 86.3, 3.25), (80.3, 89.7, 90.1, 86.6, 3.75), (79.4, 89.8, 89.3, 85.4, 4.50),
              (80.8, 90.1, 90.5, 87.1, 1.50), (80.9, 90.1, 90.6, 86.7, 1.25)]  # fmt: skip
    base = [(81.5, 90.7, 91.7, 87.8, 3.00), (81.7, 90.7, 91.2, 88.5, 3.25), (80.3, 90.3, 91.4, 87.7, 4.50),
            (81.8, 90.7, 91.4, 89.1, 2.00), (81.9, 90.8, 91.9, 88.6, 1.25)]  # fmt: skip
    assert {
        "medium": dict(zip(names, medium, strict=True)), "base": dict(zip(names, base, strict=True))
    } == paper.TABLE2  # fmt: skip
