"""Vision: the MAE training step against transformers' ViTMAEForPreTraining at equal size, R2MAE's cost, the data path.

- Step: mask, forward, backward, AdamW on one batch at ratio 0.75. Theirs is ViTMAEForPreTraining (SDPA) with the same
  weights; the first loss on the same mask is compared before anything is timed. Ours also with bfloat16, compiled with
  `--compile`, and with a ratio per image.
- R2MAE: the mean over steps with U(0.6, 0.9) against fixed 0.75, the same number of steps.
- Data: prepared images fetched, copied to the device, cropped and flipped as a batch, against torchvision's
  RandomResizedCrop on the same images in this process; both return float images.

Run: `nox -s "bench(vision)" -- vision_mae`. On a GPU: `nox -s "bench(vision)" -- vision_mae --device cuda --model
vit_base_patch16_224 --decoder 512 8 16 --batch 256 --compile`.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import best_of_turns, claim, has_bfloat16, report
from torchvision.transforms import v2
from transformers import ViTMAEForPreTraining

from r2mae_core import Uniform, decay_groups, device_name, peak_flops, resolve_device
from r2mae_vision import (
    MAEShape,
    MaskedAutoencoder,
    export_transformers,
    split_patches,
    train_flops,
)
from r2mae_vision.data.augment import random_resized_crop
from r2mae_vision.data.store import ImageStore
from r2mae_vision.mae.masking import split_mask
from r2mae_vision.mae.module import never_decays

RATIO = 0.75


def autocast(device, bf16):
    return torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext()


def build(options):
    dim, depth, heads = options.decoder
    shape = MAEShape(options.model, decoder_dim=dim, decoder_depth=depth, decoder_heads=heads)
    model = MaskedAutoencoder(shape).to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        theirs = ViTMAEForPreTraining.from_pretrained(export_transformers(model, Path(folder))).to(options.device)
    theirs.config.mask_ratio = RATIO
    return model, theirs.train()


def step_benchmark(options):
    model, theirs = build(options)
    n, device = options.batch, options.device
    images = torch.randn(n, 3, 224, 224, device=device)
    noise = torch.rand(n, model.n_patches, device=device)
    with torch.no_grad():
        out = theirs(images, noise=noise)
        ours = model(images, split_mask(out.mask.bool()))[0]
    print(f"\nfirst loss: ours {ours.item():.6f}, transformers {out.loss.item():.6f}")
    generator = torch.Generator(device).manual_seed(0)
    compiled = torch.compile(model) if options.compile else model

    def trainer(parameters):
        return torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.95), fused=True)

    def step(network, loss, bf16):
        optimizer = trainer(decay_groups(network.named_parameters(), 0.05, never_decays))

        def run():
            with autocast(device, bf16):
                value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        return run

    def our_loss():
        return compiled(images, split_patches(n, model.n_patches, RATIO, generator))[0]

    def their_loss():
        return theirs(images).loss

    contestants = {
        "ours": step(model, our_loss, False),
        "transformers": step(theirs, their_loss, False),
    }
    bf16 = has_bfloat16(device)
    if bf16:
        contestants["ours, bf16"] = step(model, our_loss, True)
        contestants["transformers, bf16"] = step(theirs, their_loss, True)
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    seconds = best_of_turns(contestants, options.rounds, synchronize, options.clock)
    title = (
        f"Training step, {options.model}, decoder {options.decoder}, batch {n}, ratio {RATIO}, {device_name(device)}"
    )
    report(title, seconds, "ours", targets={"transformers": 1})
    if bf16:
        claim("Ours in bf16 against transformers in float32", seconds["transformers"] / seconds["ours, bf16"], 1.5)
        print(f"ours, bf16, against transformers, bf16: {seconds['transformers, bf16'] / seconds['ours, bf16']:.2f}×")
    peak, operations = peak_flops(device, None), train_flops(model, RATIO)
    for name in [name for name in ("ours", "ours, bf16") if name in seconds]:
        rate = n / seconds[name]
        mfu = f", MFU {rate * operations / peak:.1%}" if peak else ""
        print(f"{name}: {rate:,.1f} images/s, {rate * operations / 1e12:.3f} TFLOP/s{mfu}")
    return model


def scheme_benchmark(model, options, n_steps=12):
    """R2MAE's mean step against the fixed ratio's: the mean number of visible tokens is the same."""
    n, device = options.batch, options.device
    images = torch.randn(n, 3, 224, 224, device=device)
    generator = torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(decay_groups(model.named_parameters(), 0.05, never_decays), lr=1e-5, fused=True)
    network = torch.compile(model) if options.compile else model
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    # A whole run draws every ratio equally often; twelve steps with evenly spaced ratios represent it.
    even = [0.6 + 0.3 * (i + 0.5) / n_steps for i in range(n_steps)]
    assert abs(Uniform(0.6, 0.9).mean(0) - sum(even) / n_steps) < 1e-9

    def steps(ratios):
        def run():
            for ratio in ratios:
                with autocast(device, device == "cuda"):
                    loss = network(images, split_patches(n, model.n_patches, ratio, generator))[0]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return run

    contestants = {"fixed 0.75": steps([RATIO] * n_steps), "R2MAE U(0.6, 0.9)": steps(even)}
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    seconds = best_of_turns(contestants, max(options.rounds // 3, 2), synchronize, options.clock)
    if device == "cuda":
        print(f"\npeak memory of training alone, batch {n}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    ratio = seconds["R2MAE U(0.6, 0.9)"] / seconds["fixed 0.75"]
    claim("R2MAE's mean step against that of fixed 0.75", ratio, 1.05, at_most=True)


def data_benchmark(options, n=256):
    rng = np.random.default_rng(0)
    for stored, side in ((32, 32), (256, 224)):
        images = rng.integers(0, 256, (1024, stored, stored, 3), dtype=np.uint8)
        store = ImageStore("random", images, np.zeros(1024, np.int64), ("a",))
        generator = torch.Generator(options.device).manual_seed(0)
        crop = v2.RandomResizedCrop(side, (0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        one_by_one = v2.Compose([v2.ToImage(), crop, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)])
        n_images = n if stored == 32 else 32

        def ours(store=store, side=side, generator=generator, n_images=n_images):
            batch = store.fetch(rng.integers(0, 1024, n_images))[0]
            return random_resized_crop(batch.to(options.device, non_blocking=True), side, generator)

        def torchvision(images=images, transform=one_by_one, n_images=n_images):
            batch = torch.stack([transform(images[i]) for i in rng.integers(0, 1024, n_images)])
            return batch.to(options.device, non_blocking=True)

        def fetch(store=store, n_images=n_images):
            return store.fetch(rng.integers(0, 1024, n_images))

        synchronize = torch.cuda.synchronize if options.device == "cuda" else None
        contestants = {"ours": ours, "torchvision, image by image": torchvision, "ours, without crop": fetch}
        seconds = best_of_turns(contestants, options.rounds, synchronize, options.clock)
        report(f"Data path, {n_images} images of {stored} cut to {side}", seconds, "ours")
        rate = n_images / seconds["ours"]
        print(f"ours: {rate:,.0f} images/s; read alone: {n_images / seconds['ours, without crop']:,.0f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--decoder", type=int, nargs=3, default=[256, 4, 8], metavar=("DIM", "DEPTH", "HEADS"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--busy", action="store_true", help="count CPU time, for a machine that other processes use too"
    )
    arguments = parser.parse_args()
    arguments.clock = time.process_time if arguments.busy else time.perf_counter
    arguments.device = resolve_device(arguments.device)
    data_benchmark(arguments)
    scheme_benchmark(step_benchmark(arguments), arguments)
