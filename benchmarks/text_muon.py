"""Text: Muon against AdamW at equal time and at equal steps, on real speeches.

The time of a step of each is measured in turns; AdamW gets `--steps`, and Muon as many as the same time allows. Each is
trained at its rates, with several seeds, by `pretrain`; the loss is that of held-out text at ratio 0.15.

Run: `python benchmarks/text_muon.py` (about four minutes of a core).
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from r2mae_core import Fixed
from r2mae_text.budget import seconds_per_micro_batch
from r2mae_text.data.prepare import prepare
from r2mae_text.options import Prepare, Pretrain
from r2mae_text.pretrain import TextPretraining, pretrain

SMALL = {
    "model": "tiny", "model_args": {"initializer_range": 0.05}, "length": 32, "batch_size": 32, "micro_batch_size": 32,
    "dropout": 0.0, "position_start": "sinusoidal", "device": "cpu", "progress": False,
}  # fmt: skip
OPTIMIZERS = ("adamw", "muon")


def seconds_per_step(config, turns=7):
    """Return optimizer → seconds of a step, the median over turns."""
    found = {name: [] for name in OPTIMIZERS}
    tasks = {name: TextPretraining(config(name, 1e-3, 0, 1, None)) for name in OPTIMIZERS}
    modules = {name: task.build(Fixed(0.275)) for name, task in tasks.items()}
    for _ in range(turns):
        for name, module in modules.items():
            found[name].append(seconds_per_micro_batch(module, tasks[name].rows, 32, "cpu"))
    return {name: statistics.median(values) for name, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3], help="of both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        corpus = prepare(Prepare((Path("sotu"),), vocab_size=1500, workers=0, out=Path(home, "c"), progress=False))

        def config(optimizer, lr, seed, steps, out):
            return Pretrain(corpus.path, optimizer=optimizer, lr=lr, seed=seed, steps=steps, out=out, **SMALL)

        times = seconds_per_step(config)
        steps = {name: round(options.steps * times["adamw"] / seconds) for name, seconds in times.items()}
        print(f"A step of AdamW {1e3 * times['adamw']:.1f} ms, of Muon {1e3 * times['muon']:.1f} ms.")
        print(f"Unigram entropy {corpus.unigram_entropy:.3f} nats.\n")
        print(
            "| optimizer | rate | steps | loss@0.15 at equal time | loss@0.15 at equal steps |\n|---|---|---|---|---|"
        )
        for name in OPTIMIZERS:
            for lr in options.rates:
                cells = []
                for n in dict.fromkeys((steps[name], options.steps)):
                    losses = []
                    for seed in range(options.seeds):
                        run = pretrain(config(name, lr, seed, n, Path(home, f"{name}-{lr}-{seed}-{n}")))
                        losses += [record.value for record in run.results() if record.metric == "loss@0.15"]
                    spread = f" ±{statistics.stdev(losses):.3f}" if losses[1:] else ""
                    cells.append(f"{statistics.mean(losses):.3f}{spread}")
                print(f"| {name} | {lr:g} | {steps[name]:,} | {cells[0]} | {cells[-1]} |", flush=True)
        print(f"\n{options.seeds} seeds, {options.steps} steps of 1,024 tokens for AdamW.")


if __name__ == "__main__":
    main()
