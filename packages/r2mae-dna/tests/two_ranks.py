"""One rank of the two-process test, run under torchrun."""

import os
import sys
from pathlib import Path

import torch

from r2mae_dna.options import Pretrain


def settings(windows, out, devices):
    return Pretrain(
        Path(windows), mask_ratio="r2mae", hidden=32, layers=1, heads=2, steps=4, batch_size=16, lr=1e-2, warmup=1,
        accumulate=2 // devices, devices=devices, validation_windows=16, dropout=0.0, log_every=1, device="cpu",
        out=Path(out), progress=False,
    )  # fmt: skip


def traced(windows, out, devices):
    """Pretrain and return what every micro-batch saw: step, ratio, letters before and after masking."""
    import r2mae_dna.pretrain as room

    seen, mask_windows = [], room.mask_windows

    def mask(batch, ratio, generator, masking):
        masked = mask_windows(batch, ratio, generator, masking)
        if room_module.training:
            first = next(iter(batch.values()))
            seen.append((room_module.global_step, ratio, first.tolist(), masked.codes.tolist()))
        return masked

    original = room.AlignmentPretraining.masked_loss

    def masked_loss(module, batch, draw):
        nonlocal room_module
        room_module = module
        return original(module, batch, draw)

    room_module = None
    room.mask_windows, room.AlignmentPretraining.masked_loss = mask, masked_loss
    try:
        room.pretrain(settings(windows, out, devices))
    finally:
        room.mask_windows, room.AlignmentPretraining.masked_loss = mask_windows, original
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    windows, out = sys.argv[1], Path(sys.argv[2])
    torch.save(traced(windows, out / "two", devices=2), out / f"rank{os.environ['RANK']}.pt")
