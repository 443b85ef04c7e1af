"""Text: a ratio for each row against one for the step, at the same mean ratio, in one run.

A step is masking, forward, backward and AdamW on one micro-batch of an optimizer step of several. Both hide the same
number of tokens on average; a row of its own ratio sorts the scores instead of selecting among them.

Run: `python benchmarks/text_per_sample.py`. On a GPU: `--device cuda --size base --rows 256 --batch 2048`.
"""

import argparse
import contextlib
import itertools
import time

import numpy as np
import torch
from timing import best_of_turns, claim, report

from r2mae_core import Fixed, MaskDraw, Uniform, device_name, resolve_device
from r2mae_text import MaskedLanguageModule, build_model, gpt2_tokenizer, mask_tokens
from r2mae_text.masking import MaskingRule

LOW, HIGH = 0.15, 0.4  # R2MAE's
MEAN = (LOW + HIGH) / 2
LIMIT = 1.15


def contestants(size, n_rows, batch_size, device):
    """Return name → (a whole step, its masking alone) on the same rows."""
    tokenizer = gpt2_tokenizer()
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.integers(4, 50_000, (n_rows, 128)).astype(np.int32))
    rows[:, 0] = tokenizer.bos_token_id
    rows = rows.to(device)
    kinds = {
        "one ratio": (Fixed(MEAN), {}, {}),
        "a ratio for each row": (Uniform(LOW, HIGH), {"ratio_per": "sample"}, {}),
        "a ratio for each row, divided by it": (
            Uniform(LOW, HIGH),
            {"ratio_per": "sample", "loss_weight": "inverse_ratio"},
            {},
        ),
        "one ratio, in spans": (Fixed(MEAN), {}, {"mask_shape": "spans"}),
    }
    found = {}
    for name, (sampler, options, shape) in kinds.items():
        model = build_model(size, tokenizer).to(device)
        rule = MaskingRule.of(tokenizer, **shape)
        module = MaskedLanguageModule(model, sampler, rule, batch_size=batch_size, lr=1e-5, **options).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        generator, turn = torch.Generator(device), itertools.count()

        def draw(module=module, sampler=sampler, generator=generator, turn=turn):
            step = next(turn)
            ratio = sampler.sample(step)
            if module.ratio_per == "sample":  # and those of the whole step, as in training
                ratio = torch.from_numpy(sampler.samples(step, n=n_rows))
                module.ratio_step = lambda: (step, None)
            drawn = MaskDraw(ratio, generator.manual_seed(step), loss_weight=module.loss_weight)
            module._share = module._share_of_step(rows, drawn)
            return drawn

        def step(module=module, optimizer=optimizer, draw=draw):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext():
                loss = module.masked_loss(rows, draw())
            loss.backward()
            optimizer.step()

        def masking(module=module, rule=rule, draw=draw):
            drawn = draw()
            mask_tokens(rows, drawn.ratio, rule, generator=drawn.generator, rows=(0, batch_size))

        found[name] = (step, masking)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="medium")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_float32_matmul_precision("high")
    print(f"{device_name(device)}, torch {torch.__version__}")
    both = contestants(options.size, options.rows, options.batch, device)
    wait = torch.cuda.synchronize if device == "cuda" else None
    where = f"{options.size}, {options.rows} of {options.batch} rows of 128, mean ratio {MEAN:g}"
    alone = device == "cpu" and torch.get_num_threads() == 1  # then what other processes use is not counted
    clock = time.process_time if alone else time.perf_counter
    steps = best_of_turns({name: step for name, (step, _) in both.items()}, options.rounds, wait, clock)
    report(f"Pretraining step, {where}", steps, "one ratio")
    masks = best_of_turns({name: masking for name, (_, masking) in both.items()}, 5 * options.rounds, wait, clock)
    report(f"Its masking alone, {where}", masks, "one ratio")
    for name in list(both)[1:]:
        claim(f"Step with {name}, against one ratio", steps[name] / steps["one ratio"], LIMIT, at_most=True)


if __name__ == "__main__":
    main()
