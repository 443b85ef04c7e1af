"""One training step: our likelihood of the hidden genes against scvi-tools' own negative binomial, same network.

Both start from the same weights, see the same batch and hide the same genes; the losses are compared before timing.
Run: `nox -s "bench(singlecell)"`, on a GPU with `-- --device cuda`.
"""

import argparse
import contextlib

import numpy as np
import scvi
import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial
from timing import best_of_turns, has_bfloat16, report

from r2mae_core import device_name, resolve_device
from r2mae_singlecell.model import MaskedAutoencoder

N_GENES, BATCH, DENSITY, RATIO = 5000, 400, 0.08, 0.3
NETWORKS = {"1024/512": (1024, 512), "128/10": (128, 10)}
TARGETS = {"1024/512": 1.4, "128/10": 2.5}


def scvi_loss(module, tensors, columns):
    """Masked loss as one would write it with scvi-tools' parts: the likelihood of all genes, then the hidden ones.

    The module's first layer is a plain `nn.Linear` again (see `scvi_network`), as scvi-tools makes it.
    """
    x = tensors[REGISTRY_KEYS.X_KEY]
    covariates = (tensors[REGISTRY_KEYS.BATCH_KEY],)
    scale = module.logits(module.encode(x.index_fill(1, columns, 0.0), *covariates), *covariates).float().softmax(-1)
    px = NegativeBinomial(mu=x.sum(1, keepdim=True) * scale, theta=module.log_theta.exp(), scale=scale)
    return -px.log_prob(x)[:, columns].mean()


def scvi_network(module):
    """Return the module with scvi-tools' own encoder: our sparse product is part of the comparison."""
    first, ours = module.encoder.fc_layers[0], module.encoder.fc_layers[0][0]
    first[0] = torch.nn.Linear(ours.in_features, ours.out_features)
    first[0].load_state_dict(ours.state_dict())
    return module


def our_loss(module, tensors, columns):
    return module.hidden_nll(tensors, columns).mean()


def stepper(loss_of, module, tensors, columns, context):
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, weight_decay=1e-4, eps=1e-8, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with context():
            loss = loss_of(module, tensors, columns)
        loss.backward()
        optimizer.step()

    return step


def batch(device):
    """Simulated counts with the density of 5,000 variable genes of an atlas."""
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1.0, 0.5, (BATCH, N_GENES)) * (rng.random((BATCH, N_GENES)) < 2 * DENSITY)
    return {
        REGISTRY_KEYS.X_KEY: torch.from_numpy(counts.astype(np.float32)).to(device),
        REGISTRY_KEYS.BATCH_KEY: torch.from_numpy(rng.integers(0, 20, (BATCH, 1))).to(device),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = resolve_device(args.device)
    print(f"{device_name(device)}, torch {torch.__version__}, scvi-tools {scvi.__version__}")
    tensors = batch(device)
    columns = torch.randperm(N_GENES, generator=torch.Generator().manual_seed(0))[: int(RATIO * N_GENES)]
    columns = columns.sort().values.to(device)
    plain, bf16 = contextlib.nullcontext, lambda: torch.autocast(device, torch.bfloat16)
    contestants = {"ours": (our_loss, plain), "scvi-tools' likelihood": (scvi_loss, plain)}
    if has_bfloat16(device):
        contestants |= {"ours, bf16": (our_loss, bf16), "scvi-tools' likelihood, bf16": (scvi_loss, bf16)}
    for name, (n_hidden, n_latent) in NETWORKS.items():
        modules = {}
        for contestant in contestants:
            torch.manual_seed(1)
            module = MaskedAutoencoder(N_GENES, 20, n_hidden=n_hidden, n_latent=n_latent)
            modules[contestant] = (module if contestant.startswith("ours") else scvi_network(module)).to(device)
        ours, theirs = modules["ours"], modules["scvi-tools' likelihood"]
        # With gradients: the sparse product is only used in training.
        gap = our_loss(ours, tensors, columns).item() / scvi_loss(theirs, tensors, columns).item() - 1
        times = best_of_turns(
            {c: stepper(loss, modules[c], tensors, columns, context) for c, (loss, context) in contestants.items()},
            args.rounds,
            torch.cuda.synchronize if device == "cuda" else None,
        )
        parameters = sum(p.numel() for p in ours.parameters())
        report(
            f"Training step, {name} ({parameters / 1e6:.1f} M parameters), {BATCH} cells, loss differs by {gap:.0e}",
            times,
            "ours",
            targets={"scvi-tools' likelihood": TARGETS[name]},
        )
        print(f"\nours: {BATCH / times['ours']:,.0f} cells/s")


if __name__ == "__main__":
    main()
