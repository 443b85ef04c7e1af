"""Masks: `exact_mask` and `nested_masks` against the double argsort of the reference MAE code.

Run: `nox -s "bench(core)"`, or on a GPU `nox -s "bench(core)" -- --device cuda`.
"""

import argparse

import torch
from timing import best_of_turns, report

from r2mae_core import device_name, exact_mask, nested_masks, resolve_device


def double_argsort(shape, ratio, generator, device):
    """The usual recipe: sort noise, sort the order, compare the ranks with the count."""
    noise = torch.rand(shape, generator=generator, device=device)
    return noise.argsort(dim=1).argsort(dim=1) < max(1, round(ratio * shape[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    device = resolve_device(parser.parse_args().device)
    generator = torch.Generator(device).manual_seed(0)
    wait = torch.cuda.synchronize if device == "cuda" else None
    print(f"{device_name(device)}, torch {torch.__version__}")
    shapes = {"MNIST batch": (128, 784), "ViT-B/16 batch": (512, 196), "RoBERTa batch": (256, 128)}
    for name, shape in shapes.items():
        times = best_of_turns(
            {
                "exact_mask": lambda s=shape: exact_mask(s, 0.5, generator=generator),
                "double argsort": lambda s=shape: double_argsort(s, 0.5, generator, device),
            },
            rounds=50,
            synchronize=wait,
        )
        report(f"{name} {shape}, one ratio", times, "exact_mask")
    for name, shape in {**shapes, "2,000 genes": (128, 2000), "long rows": (16, 8192)}.items():
        # One each, with the same mean; they lie on the CPU, where a training has them.
        each = torch.linspace(0.2, 0.8, shape[0], dtype=torch.float64)
        times = best_of_turns(
            {
                "a ratio for each row": lambda s=shape, r=each: exact_mask(s, r, generator=generator),
                "one ratio": lambda s=shape: exact_mask(s, 0.5, generator=generator),
            },
            rounds=50,
            synchronize=wait,
        )
        report(f"{name} {shape}, a ratio for each row (at most 1.3 times)", times, "a ratio for each row")
    ratios = [i / 13 for i in range(1, 13)]
    times = best_of_turns(
        {
            "nested_masks": lambda: nested_masks((128, 784), ratios, generator=generator),
            "exact_mask per ratio": lambda: [exact_mask((128, 784), r, generator=generator) for r in ratios],
            "double argsort per ratio": lambda: [double_argsort((128, 784), r, generator, device) for r in ratios],
        },
        rounds=30,
        synchronize=wait,
    )
    report("twelve ratios at once, (128, 784)", times, "nested_masks")


if __name__ == "__main__":
    main()
