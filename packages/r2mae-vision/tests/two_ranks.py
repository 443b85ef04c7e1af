"""One rank of the two-process tests, run under torchrun."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from r2mae_vision.mae.options import Finetune, Pretrain

TINY = Pretrain(
    "digits", model="vit_tiny_patch16_224", model_args={"depth": 1, "embed_dim": 24, "num_heads": 3}, image_size=8,
    patch_size=2, decoder_dim=16, decoder_depth=2, decoder_heads=2, epochs=1, batch_size=128, micro_batch_size=64,
    lr=1e-2, device="cpu", progress=False, log_every=1,
)  # fmt: skip
TUNED = Finetune(
    "unset", "digits", epochs=1, warmup=0.5, batch_size=64, micro_batch_size=32, base_lr=0.002, max_train=256,
    crop_pct=1.0, ema=0.5, device="cpu", workers=0, progress=False, seeds=(0, 1),
)  # fmt: skip


OPTIONS = {
    "step": {},
    "sample": {"ratio_per": "sample", "mask_shape": "blocks", "loss_weight": "inverse_ratio"},
}


def traced(out, devices, strategy, ratio_per="step"):
    """Pretrain and return what every micro-batch saw: step, ratio or ratios, images, patches as they are hidden."""
    import r2mae_vision.mae.module as room
    from r2mae_vision.mae.pretrain import pretrain

    seen, patch_order = [], room.patch_order

    def masked_loss(module, batch, draw):
        def order(*arguments):
            result = patch_order(*arguments)
            if module.training:
                ratio = draw.ratio.tolist() if ratio_per == "sample" else draw.ratio
                seen.append((module.global_step, ratio, batch[0].sum((1, 2, 3)).tolist(), result.tolist()))
            return result

        room.patch_order = order
        return original(module, batch, draw)

    original = room.MaskedImageModule.masked_loss
    room.MaskedImageModule.masked_loss = masked_loss
    try:
        pretrain(replace(TINY, devices=devices, strategy=strategy, out=out, **OPTIONS[ratio_per]))
    finally:
        room.MaskedImageModule.masked_loss, room.patch_order = original, patch_order
    return seen


def tuned(model, out, **arguments):
    """Fine-tune with two seeds and return each one's weights as this process has them."""
    import r2mae_vision.mae.finetune as room

    weights, fit = [], room.fit

    def kept(module, *args, **kwargs):
        trainer = fit(module, *args, **kwargs)
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
        return trainer

    room.fit = kept
    try:
        room.finetune(replace(TUNED, model=str(model), out=out, **arguments))
    finally:
        room.fit = fit
    return weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, home = sys.argv[1], Path(sys.argv[2])
    if what in OPTIONS:
        found = {strategy: traced(home / strategy, 2, strategy, what) for strategy in ("ddp", "fsdp")}
    else:
        found = tuned(home / "start", home / "two", devices=2, strategy="ddp")
    torch.save(found, home / f"rank{os.environ['RANK']}.pt")
