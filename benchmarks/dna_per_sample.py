"""What a mask ratio for each window costs, against one for the whole step: the same network and mean ratio.

Run: `nox -s "bench(dna)"`, on a GPU with `-- --device cuda --batch 512 --sizes base`. Uniform per sample against Fixed
at its mean per step, as `pretrain` computes both, float32; the step includes masks, loss, backward and AdamW.
"""

import argparse
import time
from contextlib import nullcontext

import torch
from timing import best_of_turns, claim, report

from r2mae_core import Fixed, MaskDraw, Uniform, device_name, resolve_device
from r2mae_dna import AlignmentModel, AlignmentPretraining, MaskingConfig, ModelConfig

LENGTH = 128
SIZES = {
    "recipe": ModelConfig(3, 64, 2, 4, 256, 0.0),  # pretrain -c small
    "tiny": ModelConfig.sized("tiny", 29),
    "small": ModelConfig.sized("small", 89),
    "base": ModelConfig.sized("base", 89),
}
CPU_BATCH = {"recipe": 64, "tiny": 32, "small": 16, "base": 4}
RANGES = ((0.05, 0.3), (0.0, 1.0))
"""The paper's R2MAE for DNA, and LLaDA's and MDLM's, whose largest ratio of a batch is twice the mean."""


def step(config, low, high, batch, device, *, bf16=False, **changes):
    """Return a training step without arguments."""
    masking = MaskingConfig(mean_span=changes.pop("mean_span", None))
    sampler = Uniform(low, high) if changes.get("ratio_per") == "sample" else Fixed((low + high) / 2)
    module = AlignmentPretraining(
        AlignmentModel(config), sampler, masking, lr=1e-4, warmup=0.0, weight_decay=0.01, seed=0,
        validation_ratios=(0.15,), **changes,
    ).to(device)  # fmt: skip
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, LENGTH, config.n_species + 1)
    codes = torch.randint(1, 5, shape, dtype=torch.uint8, device=device, generator=generator)
    windows = {"codes": codes, "reverse": torch.zeros(batch, dtype=torch.bool, device=device)}
    steps = iter(range(1_000_000))

    def one():
        t = next(steps)
        per_sample = module.ratio_per == "sample"
        ratio = torch.from_numpy(sampler.samples(t, n=batch)) if per_sample else sampler.sample(t)
        draw = MaskDraw(ratio, module.generator_for(0, "mask", t), loss_weight=module.loss_weight)
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            loss = module.masked_loss(windows, draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return one


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", nargs="+", default=["recipe", "tiny"], choices=list(SIZES))
    parser.add_argument("--batch", type=int, help="windows per step; default: few, for a CPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bf16", action="store_true", help="as a GPU computes by default")
    options = parser.parse_args()
    device = resolve_device(options.device)
    on_gpu = device == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)  # so that the process's own time can be read, whatever else runs on the machine
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in options.sizes:
        batch = options.batch or CPU_BATCH[size]
        for low, high in RANGES:
            shared = (SIZES[size], low, high, batch, device)
            contestants = {
                "one ratio per step": step(*shared, bf16=options.bf16),
                "one per sample": step(*shared, bf16=options.bf16, ratio_per="sample"),
                "one per sample, spans, loss / ratio": step(
                    *shared, bf16=options.bf16, ratio_per="sample", mean_span=3.0, loss_weight="inverse_ratio"
                ),
            }
            wait, clock = (torch.cuda.synchronize, time.perf_counter) if on_gpu else (None, time.process_time)
            seconds = best_of_turns(contestants, options.rounds, wait, clock)
            title = f"Training step, {size}, {batch} windows, ratios from {low:g} to {high:g}"
            report(title, seconds, "one ratio per step")
            plain = seconds["one ratio per step"]
            for name in list(contestants)[1:]:
                claim(f"{size}, {low:g} to {high:g}: {name}, against one per step", seconds[name] / plain, 1.15, True)


if __name__ == "__main__":
    main()
