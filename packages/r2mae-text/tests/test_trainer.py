import numpy as np
import pytest
import torch
from transformers import RobertaForMaskedLM, TrainingArguments

from r2mae_core import scheme
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


def run(tiny, tokenizer, examples, folder, resume=False, ratio="r2mae", **changes):
    """Train and return (what every micro-batch saw, weights, the Trainer)."""
    model = RobertaForMaskedLM(tiny.config)
    model.load_state_dict(tiny.state_dict())
    collator, seen, positions = R2MAECollator(tokenizer, ratio, seed=3), [], []
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


def test_resume_is_bit_exact(tiny, tokenizer, examples, tmp_path):
    whole, weights, _ = run(tiny, tokenizer, examples, tmp_path, gradient_accumulation_steps=2)
    rest, resumed, _ = run(tiny, tokenizer, examples, tmp_path, resume=True, gradient_accumulation_steps=2)
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
