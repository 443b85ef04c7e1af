"""One rank of the two-process test, run under torchrun."""

import os
import sys
from pathlib import Path

import torch

from r2mae_dna.options import Pretrain

PER = {
    "step": {"mask_ratio": "r2mae+cl", "freeze_steps": 1},
    "sample": {"mask_ratio": "r2mae", "ratio_per": "sample", "mask_shape": "spans", "loss_weight": "inverse_ratio"},
}


def settings(windows, out, devices, strategy, per):
    return Pretrain(
        Path(windows), **PER[per], n_hidden=32, n_layers=2, n_heads=2, steps=4,
        batch_size=32, micro_batch_size=16, lr=1e-2, warmup=0.25, devices=devices, strategy=strategy, max_windows=16,
        dropout=0.0, log_every=1, device="cpu",
        out=Path(out), progress=False,
    )  # fmt: skip


def traced(windows, out, devices, strategy="auto", per="step"):
    """Pretrain and return what every micro-batch saw: step, ratio, letters before and after masking."""
    import r2mae_dna.pretrain as code

    seen, mask_windows = [], code.mask_windows

    def mask(batch, ratio, generator, masking):
        masked = mask_windows(batch, ratio, generator, masking)
        if current.training:
            first = next(iter(batch.values()))
            ratios = ratio.tolist() if isinstance(ratio, torch.Tensor) else ratio
            seen.append((current.global_step, ratios, first.tolist(), masked.codes.tolist()))
        return masked

    original = code.AlignmentPretraining.masked_loss

    def masked_loss(module, batch, draw):
        nonlocal current
        current = module
        return original(module, batch, draw)

    current = None
    code.mask_windows, code.AlignmentPretraining.masked_loss = mask, masked_loss
    try:
        code.pretrain(settings(windows, out, devices, strategy, per))
    finally:
        code.mask_windows, code.AlignmentPretraining.masked_loss = mask_windows, original
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    windows, out, strategy, per = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    seen = traced(windows, out / "two", devices=2, strategy=strategy, per=per)
    torch.save(seen, out / f"rank{os.environ['RANK']}.pt")
