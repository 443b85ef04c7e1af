"""A training step with a mask for each cell, and with sets of genes, against one mask for the mini-batch.

Run: `nox -s "bench(singlecell)" -- singlecell_per_sample`, or on a GPU with `--device cuda`. The mean ratio is the
same. One mask for all cells lets the loss compute the hidden genes alone; a mask for each cell cannot.
"""

import argparse

import numpy as np
import torch
from timing import best_of_turns, report

from r2mae_core import Fixed, Groups, MaskDraw, Uniform, device_name, resolve_device
from r2mae_singlecell.model import MaskedAutoencoder
from r2mae_singlecell.plan import MaskedPlan

SIZES = {"5,000 genes, 1024/512": (5000, 1024, 512), "800 genes, 128/64": (800, 128, 64)}
N_CELLS, N_SETS, SET_SIZE, NONZERO = 400, 200, 60, 0.085


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = resolve_device(options.device)
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    print(f"{device_name(device)}, torch {torch.__version__}, {N_CELLS} cells a step")
    for title, (n_genes, n_hidden, n_latent) in SIZES.items():
        torch.manual_seed(0)
        counts = torch.poisson(torch.full((N_CELLS, n_genes), NONZERO))
        batch = {"X": counts.to(device), "batch": torch.zeros(N_CELLS, 1, dtype=torch.long, device=device)}
        rng = np.random.default_rng(0)
        sets = Groups([rng.choice(n_genes, SET_SIZE, replace=False).tolist() for _ in range(N_SETS)], n_genes)

        def step(per_sample, groups, batch=batch, size=(n_genes, n_hidden, n_latent)):
            network = MaskedAutoencoder(size[0], 3, n_hidden=size[1], n_latent=size[2]).to(device)
            plan = MaskedPlan(network, mask_ratio=Fixed(0.3), groups=groups)
            plan.is_log_step = lambda: False
            optimizer, sampler = plan.configure_optimizers(), Uniform(0.1, 0.5)
            generator, count = torch.Generator(device), iter(range(10**9))

            def once():
                i = next(count)
                ratio = torch.from_numpy(sampler.samples(i, n=N_CELLS)) if per_sample else 0.3
                optimizer.zero_grad()
                plan.masked_loss(batch, MaskDraw(ratio, generator.manual_seed(i))).backward()
                optimizer.step()

            return once

        contestants = {
            "one mask": step(False, None),
            "a mask for each cell": step(True, None),
            "one mask, sets": step(False, sets),
            "a mask for each cell, sets": step(True, sets),
        }
        times = best_of_turns(contestants, rounds=options.rounds, synchronize=synchronize)
        report(title, times, "one mask")


if __name__ == "__main__":
    main()
