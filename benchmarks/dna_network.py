"""The network: a training step and the scoring of variants, against the published GPN-MSA code (PyPI gpn).

Run: `nox -s "bench(dna)"`, on a GPU with `-- --device cuda --batch 512 --sizes base`. Equal sizes and weights, float32
unless a row says otherwise, dropout 0.1, fused AdamW for both. Ours includes the masking; gpn receives masked input.
Scoring: three alleles at each site; gpn's protocol runs two forwards per variant, ours two per site.
"""

import argparse
import tempfile
from pathlib import Path

import gpn
import torch
from timing import best_of_turns, claim, has_bfloat16, report
from transformers import AutoModelForMaskedLM
from transformers.utils import logging

from r2mae_core import device_name, resolve_device
from r2mae_dna import AlignmentModel, MaskingConfig, ModelConfig, both_strands, mask_windows, save_model
from r2mae_dna.data.codes import MASK
from r2mae_dna.model import complement
from r2mae_dna.pretrain import token_losses

LENGTH, RATIO = 128, 0.15
SPECIES = {"tiny": 29, "small": 89, "base": 89}
CPU_BATCH = {"tiny": 32, "small": 8, "base": 4}


def networks(size, device):
    """Our network and gpn's, with the same weights."""
    ours = AlignmentModel(ModelConfig.sized(size, SPECIES[size]))
    with tempfile.TemporaryDirectory() as folder:
        save_model(ours, Path(folder), None)
        theirs = AutoModelForMaskedLM.from_pretrained(folder)
    return ours.to(device), theirs.to(device)


def codes_for(size, n, device):
    generator = torch.Generator(device).manual_seed(0)
    shape = (n, LENGTH, SPECIES[size] + 1)
    return torch.randint(1, 5, shape, dtype=torch.uint8, device=device, generator=generator)


def train_contestants(size, batch, device, bf16_too, compile_too):
    codes = codes_for(size, batch, device)
    windows = {"codes": codes, "reverse": torch.zeros(batch, dtype=torch.bool, device=device)}
    generator = torch.Generator(device).manual_seed(1)
    config = MaskingConfig()

    def our_step(model, bf16):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        model.train()

        def step():
            masked = mask_windows(windows, RATIO, generator, config)
            with torch.autocast(codes.device.type, torch.bfloat16, enabled=bf16):
                hidden = model.encode(masked.codes, masked.positions)
                loss = (token_losses(model, hidden, masked) * masked.weights.flatten()).sum() / masked.weights.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    ours, theirs = networks(size, device)
    masked = mask_windows(windows, RATIO, generator, config)
    labels = torch.full((batch, LENGTH), -100, device=device).scatter_(1, masked.positions, masked.labels)
    inputs, others = masked.codes[..., 0].long(), masked.codes[..., 1:]
    weights = torch.ones(batch, LENGTH, device=device)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, fused=True)
    theirs.train()

    def their_step():
        # compute_loss zeroes the weights that it is given, so it gets a copy
        loss = theirs(input_ids=inputs, aux_features=others, labels=labels, loss_weight=weights.clone()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    contestants = {"ours": our_step(ours, False), "gpn, eager": their_step}
    if bf16_too:
        contestants["ours, bf16"] = our_step(networks(size, device)[0], True)
    if compile_too:
        compiled = networks(size, device)[0]
        compiled.compile_trunk()
        contestants["ours, compiled"] = our_step(compiled, False)
    if compile_too and bf16_too:
        both = networks(size, device)[0]
        both.compile_trunk()
        contestants["ours, compiled, bf16"] = our_step(both, True)
    return contestants


def score_contestants(size, n_sites, device):
    ours, theirs = (model.eval() for model in networks(size, device))
    codes = codes_for(size, n_sites, device)
    per_variant = codes.repeat_interleave(3, 0)

    @torch.inference_mode()
    def our_scores():
        return both_strands(ours, codes)

    @torch.inference_mode()
    def their_scores():
        own, other = per_variant.clone(), complement(per_variant).flip(1)
        own[:, LENGTH // 2, 0] = other[:, LENGTH // 2 - 1, 0] = MASK
        first = theirs(input_ids=own[..., 0].long(), aux_features=own[..., 1:]).logits[:, LENGTH // 2, 1:5]
        second = theirs(input_ids=other[..., 0].long(), aux_features=other[..., 1:]).logits[:, LENGTH // 2 - 1, 1:5]
        return (first + second.flip(-1)) / 2

    assert torch.allclose(our_scores(), their_scores()[::3], atol=1e-3)
    return {"ours": our_scores, "gpn, two forwards per variant": their_scores}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], choices=list(SPECIES))
    parser.add_argument("--batch", type=int, help="windows per step; default: few, for a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile on a CPU too; on a GPU this is always done")
    options = parser.parse_args()
    device = resolve_device(options.device)
    gpn.register_auto_classes("gpn")
    logging.disable_progress_bar()
    wait = torch.cuda.synchronize if device == "cuda" else None
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    bf16 = has_bfloat16(device)
    for size in options.sizes:
        batch = options.batch or CPU_BATCH[size]
        config = ModelConfig.sized(size, SPECIES[size])
        steps = train_contestants(size, batch, device, bf16, options.compile or device == "cuda")
        seconds = best_of_turns(steps, options.rounds, wait)
        report(
            f"Training step, {size}, {batch} windows × {SPECIES[size] + 1} species",
            seconds,
            "ours",
            targets={"gpn, eager": 1.3 if size == "tiny" else 1},
        )
        if bf16:
            claim(f"Ours in bf16 against gpn in float32, {size}", seconds["gpn, eager"] / seconds["ours, bf16"], 1.5)
        flops = 3 * config.flops(LENGTH, round(RATIO * LENGTH)) * batch
        rates = ", ".join(
            f"{n}: {batch / s:,.1f} windows/s, {flops / s / 1e9:,.0f} GFLOP/s" for n, s in seconds.items()
        )
        print(f"\n{rates}")
        seconds = best_of_turns(score_contestants(size, batch, device), options.rounds, wait)
        report(
            f"Scoring, {size}, {batch} sites of three alleles",
            seconds,
            "ours",
            targets={"gpn, two forwards per variant": 3},
        )
        print(f"\nours: {batch / seconds['ours']:,.1f} sites/s")


if __name__ == "__main__":
    main()
