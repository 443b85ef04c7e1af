import numpy as np
import pytest
import torch
from transformers import RobertaForMaskedLM, TrainingArguments

from r2mae_core import Fixed, RatioSampler, UserError, scheme
from r2mae_text import R2MAECollator, R2MAETrainer


@pytest.fixture
def examples(tokenizer):
    rng = np.random.default_rng(0)
    return [
        {"input_ids": [0, *rng.integers(5, 400, int(rng.integers(6, 24))).tolist(), 2], "extra": i} for i in range(24)
    ]


def arguments(folder, **changes):
    settings = {
        "max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_steps": 5, "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 1, "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**settings, **changes})


PER_ROW = {"ratio_per": "sample", "mask_shape": "spans", "mean_span": 2.0}


def run(tiny, tokenizer, examples, folder, resume=False, ratio="r2mae", masking=None, **changes):
    """Train and return (what every micro-batch saw, weights, the Trainer)."""
    model = RobertaForMaskedLM(tiny.config)
    model.load_state_dict(tiny.state_dict())
    collator, seen, positions = R2MAECollator(tokenizer, ratio, seed=3, **masking or {}), [], []
    original = collator.mask

    def mask(batch, *args, **kwargs):
        masked = original(batch, *args, **kwargs)
        seen.append((batch["input_ids"].tolist(), masked["input_ids"].tolist()))
        positions.append(args)
        return masked

    collator.mask = mask
    trainer = R2MAETrainer(
        model=model, args=arguments(folder, **changes), train_dataset=examples, data_collator=collator
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-5") if resume else None)
    accumulate = trainer.args.gradient_accumulation_steps
    assert positions == [divmod(positions[0][0] * accumulate + i, accumulate) for i in range(len(positions))]
    return seen, model.state_dict(), trainer


def test_workers_change_nothing_and_epochs_have_other_masks(tiny, tokenizer, examples, tmp_path):
    alone, weights, _ = run(tiny, tokenizer, examples, tmp_path / "a", max_steps=12)
    workers, other, _ = run(tiny, tokenizer, examples, tmp_path / "b", max_steps=12, dataloader_num_workers=2)
    assert alone == workers
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    rows = {}
    for batch, masked in alone:  # 12 steps of 4 of 24 rows: two epochs
        for row, hidden in zip(batch, masked, strict=True):
            rows.setdefault(tuple(t for t in row if t != 1), []).append(
                [t for t, r in zip(hidden, row, strict=True) if r != 1]
            )
    assert len(rows) == 24
    assert all(len(views) == 2 and views[0] != views[1] for views in rows.values())


@pytest.mark.parametrize("masking", [{}, PER_ROW])
def test_resume_is_bit_exact(tiny, tokenizer, examples, tmp_path, masking):
    changes = {"masking": masking, "gradient_accumulation_steps": 2}
    whole, weights, _ = run(tiny, tokenizer, examples, tmp_path, **changes)
    rest, resumed, _ = run(tiny, tokenizer, examples, tmp_path, resume=True, **changes)
    assert rest == whole[10:]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_accumulation_does_not_change_the_size_of_the_gradient(tiny, tokenizer, examples, tmp_path):
    """The Trainer's own masked-LM training is wrong here by the factor of the accumulation (transformers 47688)."""
    rows = [{"input_ids": example["input_ids"][:8]} for example in examples]
    norms = {}
    for accumulate in (1, 4):
        *_, trainer = run(
            tiny, tokenizer, rows, tmp_path / str(accumulate), ratio=0.3, max_steps=1, max_grad_norm=1e9,
            per_device_train_batch_size=16 // accumulate, gradient_accumulation_steps=accumulate,
        )  # fmt: skip
        norms[accumulate] = trainer.state.log_history[0]["grad_norm"]
    assert norms[4] == pytest.approx(norms[1], rel=0.6)  # other masks, same size


def test_the_loss_is_the_models_own_and_evaluation_repeats_itself(tiny, tokenizer, examples, tmp_path):
    collator = R2MAECollator(tokenizer, "r2mae")
    trainer = R2MAETrainer(
        model=tiny, args=arguments(tmp_path), train_dataset=examples, eval_dataset=examples, data_collator=collator
    )
    batch = collator(examples[:5])
    tiny.train()
    loss = trainer.compute_loss(tiny, batch)
    assert loss.item() == pytest.approx(tiny(**collator.mask(batch, 0)).loss.item(), rel=1e-5)
    first, second = (trainer.evaluate()["eval_loss"] for _ in range(2))
    assert first == second == pytest.approx(np.log(400), abs=0.5)


def test_evaluation_does_not_depend_on_how_the_training_hides(tiny, tokenizer, examples, tmp_path):
    losses = set()
    for masking in ({}, PER_ROW, {"count": "bernoulli"}):
        collator = R2MAECollator(tokenizer, "r2mae", **masking)
        trainer = R2MAETrainer(
            model=tiny, args=arguments(tmp_path), train_dataset=examples, eval_dataset=examples, data_collator=collator,
            loss_weight="inverse_ratio" if "count" in masking else "none",
        )  # fmt: skip
        losses.add(trainer.evaluate()["eval_loss"])
    assert len(losses) == 1


def test_the_collator_in_a_loop_of_ones_own(tokenizer, examples):
    collator = R2MAECollator(tokenizer, "dynamic", total_steps=100, seed=1)
    loader = torch.utils.data.DataLoader(examples, batch_size=6, collate_fn=collator, num_workers=2)
    ratios = []
    for step, batch in enumerate(loader):
        masked = collator.mask(batch, step)
        hidden = masked["labels"] != -100
        ordinary = batch["input_ids"] > 4
        assert not (hidden & ~ordinary).any()
        expected = (ordinary.sum(1).double() * collator.ratio(step)).round().clamp(min=1)
        assert hidden.sum(1).tolist() == expected.tolist()
        again = collator.mask(batch, step)
        assert torch.equal(masked["input_ids"], again["input_ids"])
        assert not torch.equal(masked["input_ids"], collator.mask(batch, step, micro=1)["input_ids"])
        assert set(masked) == {"input_ids", "attention_mask", "labels"}
        ratios.append(collator.ratio(step))
    assert ratios == [scheme("dynamic", "text").sample(step, 100) for step in range(4)]


def test_another_collator_is_refused(tiny, tokenizer, examples, tmp_path):
    with pytest.raises(TypeError, match="needs an R2MAECollator as data_collator"):
        R2MAETrainer(model=tiny, args=arguments(tmp_path), train_dataset=examples, data_collator=list)


def hidden_of(collator, batch, *args, **kwargs):
    return collator.mask(batch, *args, **kwargs)["labels"] != -100


@pytest.mark.parametrize("shape", [{}, {"mask_shape": "spans", "mean_span": 4.0}])
def test_every_row_of_the_collator_has_a_ratio_by_its_place(tokenizer, examples, shape):
    collator = R2MAECollator(tokenizer, "mdlm", seed=3, ratio_per="sample", **shape)
    batch = collator(examples[:6])
    ordinary = (batch["input_ids"] > 4).sum(1)
    for step, micro in ((0, 0), (5, 0), (5, 2)):
        ratios = scheme("mdlm", "text", seed=3).samples(step, None, n=6, first=6 * micro)
        assert collator.ratios(step, 6, 6 * micro).tolist() == ratios.tolist()
        expected = (ordinary.double() * torch.from_numpy(ratios)).round().clamp(min=1).tolist()
        assert hidden_of(collator, batch, step, micro).sum(1).tolist() == expected
    last = {name: value[:2] for name, value in batch.items()}  # a smaller micro-batch is told where it stands
    ratios = scheme("mdlm", "text", seed=3).samples(5, None, n=2, first=12)
    expected = (ordinary[:2].double() * torch.from_numpy(ratios)).round().clamp(min=1).tolist()
    assert hidden_of(collator, last, 5, 2, first=12).sum(1).tolist() == expected
    with pytest.raises(UserError, match=r"a step has no ratio; its rows have: see R2MAECollator.ratios"):
        collator.ratio(0)


def test_the_shapes_of_the_collator(tokenizer):
    rows = [{"input_ids": [0, *range(5, 105), 2]}] * 50
    runs = {}
    for name, shape in {"plain": {}, "spans": {"mask_shape": "spans", "mean_span": 6.0}}.items():
        collator = R2MAECollator(tokenizer, 0.2, **shape)
        hidden = hidden_of(collator, collator(rows), 0)
        assert hidden.sum(1).tolist() == [20] * 50
        runs[name] = hidden.sum() / (hidden[:, 1:] & ~hidden[:, :-1]).sum()
        plain = hidden_of(collator, collator(rows), 0, plain=True)
        assert torch.equal(plain, hidden_of(R2MAECollator(tokenizer, 0.2), collator(rows), 0))
    assert runs["spans"] > 2.5 > 1.5 > runs["plain"]
    counts = hidden_of(R2MAECollator(tokenizer, 0.2, count="bernoulli"), collator(rows), 0).sum(1).double()
    assert counts.std() > 2
    assert counts.mean() == pytest.approx(20, abs=2.5)


@pytest.mark.parametrize("ratio_per", ["step", "sample"])
def test_the_trainers_loss_is_lladas(tiny, tokenizer, examples, tmp_path, ratio_per):
    collator = R2MAECollator(
        tokenizer, "llada", seed=2, ratio_per=ratio_per, count="bernoulli", mask_share=1.0, random_share=0.0
    )
    trainer = R2MAETrainer(
        model=tiny, args=arguments(tmp_path), train_dataset=examples, data_collator=collator,
        loss_weight="inverse_ratio",
    )  # fmt: skip
    batch = collator(examples[:8])
    loss = trainer.compute_loss(tiny.train(), batch)
    masked = collator.mask(batch, 0)
    hidden, ids = masked["labels"] != -100, batch["input_ids"]
    ratio = scheme("llada", "text", seed=2)
    ratios = ratio.samples(0, 8, n=8) if ratio_per == "sample" else np.full(8, ratio.sample(0, 8))
    p_mask = torch.from_numpy(ratios)[:, None].repeat(1, ids.shape[1])
    logits = tiny(masked["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = torch.nn.functional.cross_entropy(logits[hidden], ids[hidden], reduction="none") / p_mask[hidden]
    expected = (losses.sum() / (ids > 4).sum()).item()
    assert hidden.sum() > 10
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    wrapped = trainer.accelerator.prepare_model(torch.nn.DataParallel(tiny))  # its parts are not seen: by its call
    trainer._micro = (-1, 0)
    assert trainer.compute_loss(wrapped.train(), batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_last_micro_batch_of_an_epoch_has_the_ratios_of_its_place(tiny, tokenizer, examples, tmp_path):
    seen = []
    collator = R2MAECollator(tokenizer, "mdlm", ratio_per="sample")
    original = collator.ratios
    collator.ratios = lambda step, n, first=0: seen.append((step, n, first)) or original(step, n, first)
    changes = {"max_steps": 2, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 7}
    R2MAETrainer(
        model=tiny, args=arguments(tmp_path, **changes), train_dataset=examples, data_collator=collator
    ).train()
    assert seen[:4] == [(0, 7, 0), (0, 7, 7), (0, 7, 14), (0, 3, 21)]


def test_what_makes_no_sense_together_is_refused(tiny, tokenizer, examples, tmp_path):
    class Own(Fixed):
        """A sampler of somebody's own, that gives a ratio for a step alone."""

        quantile = RatioSampler.quantile

    for wrong, message in [
        ({"ratio_per": "micro_batch"}, "ratio_per of a collator must be step or sample"),
        ({"ratio_per": "sample", "mask_ratio": Own(0.2)}, "needs a sampler with a quantile"),
        ({"mask_ratio": "cl"}, "a collator has no learned loss weights"),
    ]:
        with pytest.raises(UserError, match=message):
            R2MAECollator(tokenizer, **wrong)
    with pytest.raises(ValueError, match="mean_span 2 is of mask_shape spans"):
        R2MAECollator(tokenizer, mean_span=2.0)
    given = {"model": tiny, "args": arguments(tmp_path), "train_dataset": examples}
    for weight, message in [("inverse_ratio", 'needs R2MAECollator.count="bernoulli".'), ("ratio", "must be none or")]:
        with pytest.raises(UserError, match=message):
            R2MAETrainer(**given, data_collator=R2MAECollator(tokenizer), loss_weight=weight)


@pytest.mark.parametrize("masking", [{}, PER_ROW, {"mask_shape": "words"}])
def test_logs_have_the_ratio_and_the_loss_by_ratio(tiny, tokenizer, examples, tmp_path, masking):
    _, _, trainer = run(tiny, tokenizer, examples, tmp_path, ratio="mdlm", masking=masking, logging_steps=1)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 8
    for step, line in enumerate(lines):
        bins = {name: value for name, value in line.items() if name.startswith("loss/ratio_")}
        ratios = trainer.data_collator.ratios(step, 4)
        assert line["mask_ratio"] == pytest.approx(float(torch.as_tensor(ratios).mean()), rel=1e-5)
        found = {min(int(float(r) * 10), 9) for r in torch.as_tensor(ratios).reshape(-1)}
        assert set(bins) == {f"loss/ratio_{i / 10:g}_to_{(i + 1) / 10:g}" for i in found}
        if len(bins) == 1:
            assert next(iter(bins.values())) == pytest.approx(line["loss"], abs=1e-3)  # it is logged with 4 digits
        else:
            assert min(bins.values()) <= line["loss"] + 1e-3
            assert max(bins.values()) >= line["loss"] - 1e-3
