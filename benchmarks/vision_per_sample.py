"""Vision: what a ratio for each image costs (`--ratio_per sample`) against one for each step, at the same mean ratio.

A step is mask, forward, backward and AdamW on one batch. Every contestant takes the same number of steps and hides the
same evenly spaced ratios of the scheme's range: one for each step, or one for each image in a random order. "plain
padding" gives each image a sequence of its own, as long as the longest, instead of packing several into one.

Run: `nox -s "bench(vision)" -- vision_per_sample`. On a GPU: `nox -s "bench(vision)" -- vision_per_sample --device cuda
--model vit_base_patch16_224 --decoder 512 8 16 --batch 256 --compile`.
"""

import argparse
import contextlib
import time

import numpy as np
import torch
from timing import best_of_turns, claim, report

from r2mae_core import Uniform, decay_groups, device_name, resolve_device
from r2mae_vision import MAEShape, MaskedAutoencoder
from r2mae_vision.mae import masking
from r2mae_vision.mae.module import never_decays

RANGES = ((0.6, 0.9), (0.0, 1.0))


def even_ratios(low, high, n):
    """Return n evenly spaced quantiles of the range; at the ends of U(0, 1) one patch is hidden or visible."""
    ratios = np.array([Uniform(low, high).quantile((i + 0.5) / n, 0) for i in range(n)])
    assert abs(ratios.mean() - Uniform(low, high).mean(0)) < 1e-9
    return ratios


def one_sequence_each(lengths):
    """Return what `fill_sequences` does, without packing."""
    longest = max(lengths)
    return [i * longest for i in range(len(lengths))], len(lengths), longest


def benchmark(model, options, low, high):
    n, device, n_steps = options.batch, options.device, options.steps
    images = torch.randn(n, 3, 224, 224, device=device)
    generator = torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(decay_groups(model.named_parameters(), 0.05, never_decays), lr=1e-5, fused=True)
    network = torch.compile(model) if options.compile else model
    packed_errors = torch.compile(model.packed_errors) if options.compile else model.packed_errors
    n_prefix, fill = model.encoder.num_prefix_tokens, masking.fill_sequences
    of_steps = even_ratios(low, high, n_steps)
    of_images = np.random.default_rng(0).permutation(even_ratios(low, high, n * n_steps)).reshape(n_steps, n)

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def autocast():
        return torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()

    def per_step():
        for ratio in of_steps:
            with autocast():
                loss = network(images, masking.split_patches(n, model.n_patches, ratio, generator))[0]
            step(loss)

    def per_sample(fill_sequences):
        def run():
            masking.fill_sequences = fill_sequences
            try:
                for ratios in torch.from_numpy(of_images):
                    order = masking.patch_order(n, model.grid, generator)
                    counts = masking.hidden_counts(ratios, model.n_patches)
                    with autocast():
                        errors = packed_errors(images, masking.pack_patches(order, counts, n_prefix))
                    step(errors.sum() / int(counts.sum()))
            finally:
                masking.fill_sequences = fill

        return run

    contestants = {
        "a ratio per image": per_sample(fill),
        "a ratio per step": per_step,
        "a ratio per image, plain padding": per_sample(one_sequence_each),
    }
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    seconds = best_of_turns(contestants, options.rounds, synchronize, options.clock)
    title = (
        f"{n_steps} steps, {options.model}, decoder {options.decoder}, batch {n}, U({low:g}, {high:g}), "
        f"{device_name(device)}"
    )
    report(title, seconds, "a ratio per image")
    ratio = seconds["a ratio per image"] / seconds["a ratio per step"]
    claim(f"A ratio per image against one per step, U({low:g}, {high:g})", ratio, 1.15, at_most=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--decoder", type=int, nargs=3, default=[256, 4, 8], metavar=("DIM", "DEPTH", "HEADS"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--busy", action="store_true", help="count CPU time, for a machine that other processes use too"
    )
    arguments = parser.parse_args()
    arguments.clock = time.process_time if arguments.busy else time.perf_counter
    arguments.device = resolve_device(arguments.device)
    if arguments.busy:
        torch.set_num_threads(1)
    dim, depth, heads = arguments.decoder
    shape = MAEShape(arguments.model, decoder_dim=dim, decoder_depth=depth, decoder_heads=heads)
    for bounds in RANGES:
        benchmark(MaskedAutoencoder(shape).to(arguments.device), arguments, *bounds)
