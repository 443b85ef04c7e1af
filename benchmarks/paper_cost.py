"""How long the paper's runs would take on this machine: one optimizer step of each network, times the run's samples.

A step includes masks, forward, backward and optimizer, on a batch that is already on the device. Loading, validation
and checkpoints are excluded. It is computed in float32 on a CPU and in bfloat16 on a GPU, compiled with `--compile`.
Run: `nox -s evidence -- --only paper`, on a GPU `nox -s evidence -- --device cuda --only paper`.
"""

import argparse

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from r2mae_core import decay_groups, device_name, exact_mask, resolve_device, seconds_of
from r2mae_dna import AlignmentModel, MaskingConfig, ModelConfig, mask_windows
from r2mae_dna.pretrain import token_losses
from r2mae_singlecell.model import MaskedAutoencoder as CellAutoencoder
from r2mae_text import masked_lm_loss
from r2mae_vision import MAEShape, MaskedAutoencoder, UNet, split_patches

# Samples at once: few enough to be quick on a CPU, and to fit a GPU's memory.
BATCH = {"cpu": {"vit": 4, "text": 8, "dna": 4, "cells": 400, "faces": 32}}
BATCH["cuda"] = {"vit": 256, "text": 512, "dna": 512, "cells": 4000, "faces": 256}


def trainer(model, loss_of, device):
    """Return a function that does one optimizer step."""
    optimizer = torch.optim.AdamW(decay_groups(model.named_parameters(), 0.05), lr=1e-4, fused=True)
    model.train()

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def vit(n, device, compiled):
    model = MaskedAutoencoder(MAEShape()).to(device)
    images, generator = torch.rand(n, 3, 224, 224, device=device) * 255, torch.Generator(device)
    forward = torch.compile(model) if compiled else model
    return trainer(
        model, lambda: forward(model.normalise(images), split_patches(n, model.n_patches, 0.75, generator))[0], device
    )


def roberta(n, device, compiled, **shape):
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(vocab_size=50_304, max_position_embeddings=514, **shape)
    model, loss = RobertaForMaskedLM(config).to(device), torch.compile(masked_lm_loss) if compiled else masked_lm_loss
    ids = torch.randint(4, 50_000, (n, 128), device=device)
    places = exact_mask((n, 128), 0.275, device=device).flatten().nonzero()[:, 0]
    return trainer(model, lambda: loss(model, ids, places, ids.flatten()[places]), device)


def gpn(n, device, compiled):
    model = AlignmentModel(ModelConfig.sized("base", 89)).to(device)
    if compiled:
        model.compile_trunk()
    codes = torch.randint(1, 5, (n, 128, 90), dtype=torch.uint8, device=device)
    windows = {"codes": codes, "reverse": torch.zeros(n, dtype=torch.bool, device=device)}
    generator, config = torch.Generator(device), MaskingConfig()

    def loss():
        masked = mask_windows(windows, 0.175, generator, config)
        return token_losses(model, model.encode(masked.codes, masked.positions), masked).mean()

    return trainer(model, loss, device)


def cells(n, device, compiled):
    model = CellAutoencoder(5000, 20, n_hidden=1024, n_latent=512).to(device)
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1.0, 0.5, (n, 5000)) * (rng.random((n, 5000)) < 0.16)
    batch = {
        REGISTRY_KEYS.X_KEY: torch.from_numpy(counts.astype(np.float32)).to(device),
        REGISTRY_KEYS.BATCH_KEY: torch.from_numpy(rng.integers(0, 20, (n, 1))).to(device),
    }
    columns = torch.arange(0, 5000, 4, device=device)
    return trainer(model, lambda: model.hidden_nll(batch, columns).mean(), device)


def faces(n, device, compiled):
    model, images = UNet(32).to(device), torch.rand(n, 3, 64, 64, device=device)
    forward = torch.compile(model) if compiled else model

    def loss():
        hidden = exact_mask((n, 1, 64, 64), 0.5, device=device)
        return ((forward(images.masked_fill(hidden, 0.0)) - images) * hidden).square().mean()

    return trainer(model, loss, device)


MEDIUM = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
# name: (key of BATCH, units per sample, what a unit is, units of the paper's run, how to make a step)
RUNS = {
    "ViT-B, ImageNet, 150 epochs": ("vit", 1, "images", 1_281_167 * 150, vit),
    "RoBERTa-medium, 10 B tokens": ("text", 128, "tokens", 10e9, lambda *a: roberta(*a, **MEDIUM)),
    "RoBERTa-base, 10 B tokens": ("text", 128, "tokens", 10e9, roberta),
    "GPN-MSA, 30,000 steps of 2,048": ("dna", 1, "windows", 30_000 * 2048, gpn),
    "HLCA, 50 epochs": ("cells", 1, "cells", 2_161_082 * 0.9 * 50, cells),
    "SEA-AD, 50 epochs": ("cells", 1, "cells", 1_378_211 * 0.9 * 50, cells),
    "CelebA, 32 channels, 10 epochs": ("faces", 1, "images", 162_770 * 10, faces),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    device = resolve_device(given.device)
    torch.set_float32_matmul_precision("high")
    print(f"{device_name(device)}, torch {torch.__version__}\n")
    print("| run | measured | the whole run |\n|---|---|---|")
    known = {}
    for name, (key, per_sample, unit, total, make) in RUNS.items():
        n = BATCH[device][key]
        if (make, key) not in known:
            known[make, key] = n * per_sample / seconds_of(make(n, device, given.compile), device)
        rate = known[make, key]
        print(f"| {name} | {rate:,.1f} {unit}/s | {total / rate / 3600:,.1f} h |", flush=True)


if __name__ == "__main__":
    main()
