"""One rank of the two-process test, run under torchrun."""

import os
import sys
from pathlib import Path

import torch

from r2mae_vision.options import Pretrain


def settings(out, devices):
    return Pretrain(
        "digits", model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 3}, image_size=8,
        patch_size=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, epochs=1, batch_size=128, micro_batch_size=64,
        lr=1e-2, device="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", out=Path(out),
        progress=False, log_every=1,
    )  # fmt: skip


def traced(out, devices):
    """Pretrain and return what every micro-batch saw: step, ratio, images, hidden patches."""
    import r2mae_vision.pretrain as room

    seen, split_patches = [], room.split_patches

    def masked_loss(module, batch, draw):
        def split(*arguments):
            result = split_patches(*arguments)
            seen.append((module.global_step, draw.ratio, batch[0].sum((1, 2, 3)).tolist(), result.hidden.tolist()))
            return result

        room.split_patches = split
        return original(module, batch, draw)

    original = room.MaskedImageModule.masked_loss
    room.MaskedImageModule.masked_loss = masked_loss
    try:
        room.pretrain_vit(settings(out, devices))
    finally:
        room.MaskedImageModule.masked_loss, room.split_patches = original, split_patches
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(traced(Path(sys.argv[1]) / "two", devices=2), Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
